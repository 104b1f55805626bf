"""JSON as it is let in: what is read is what was written, and what the next reader would take otherwise is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import SettingsError
from app.sending.strict_json import NoJson, is_storable, read_json

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(VALUES, st.booleans())
def test_what_is_written_is_read(value: object, in_ascii: bool) -> None:
    assert value == read_json(json.dumps(value, ensure_ascii=in_ascii).encode())


@given(VALUES, st.sampled_from(["\0", "\ud800", "\udfff"]), TEXTS)
def test_what_cannot_be_kept_is_refused_wherever_it_is(value: object, bad: str, text: str) -> None:
    for content in (text + bad, [value, bad], {"a": {bad: value}}, {"a": [bad + text]}):
        with pytest.raises(SettingsError, match="NUL characters and lone surrogates"):
            read_json(json.dumps(content).encode())


@pytest.mark.parametrize(
    "data", [b'"\0"', b'"\xed\xa0\x80"', b'"\\ud83d"', b'{"\\u0000": 1}', b'{"a": "x\\uDC00"}'], ids=repr
)
def test_raw_and_escaped(data: bytes) -> None:
    with pytest.raises((NoJson, SettingsError)):
        read_json(data)


def test_a_pair_of_surrogates_is_a_character() -> None:
    assert "😀" == read_json(b'"\\ud83d\\ude00"')
    assert is_storable("😀")


@pytest.mark.parametrize("data", [b"", b"{", b"NaN", b"-Infinity", b"\xff", b"\xef\xbb\xbf1", b"[" * 100_000, b"1 2"])
def test_what_is_no_json(data: bytes) -> None:
    with pytest.raises(NoJson):
        read_json(data)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b'{"a": 1, "a": 1}', "a"),
        (b'[{"b": {"c": 1, "d": 2, "c": 3}}]', "c"),
        (b'{"\\ud800": 1, "\\ud800": 1}', None),
    ],
)
def test_a_name_twice(data: bytes, name: str | None) -> None:
    with pytest.raises(SettingsError) as refused:
        read_json(data)
    assert name == refused.value.field
