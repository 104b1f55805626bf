"""Spliced bodies decode to the spliced text, whatever they were, and keep the bytes that no edit touches."""

import base64
import binascii
import quopri
import random
import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.sending.transfer import (
    ByteEdit,
    QuotedPrintable,
    decode_base64,
    encode_base64,
    encode_qp,
    has_long_line,
    splice,
)

few_examples = settings(max_examples=300, deadline=None)
qp_pieces = st.sampled_from(
    [
        b"=",
        b"=3D",
        b"=\r\n",
        b"=\n",
        b"= \r\n",
        b"=C3=BC",
        b"=zz",
        b" ",
        b"\t",
        b"\r\n",
        b"\n",
        b"a",
        b"4",
        b"--b",
        b"x" * 70,
    ]
)
messy_qp = st.lists(qp_pieces, max_size=30).map(b"".join)
words = st.binary(min_size=1, max_size=90).map(lambda data: b"<" + data + b">")


def draw_edits(data: st.DataObject, text: bytes) -> list[ByteEdit]:
    """Edits that grow the text somewhere, but tear no CRLF."""
    places = [at for at in range(len(text) + 1) if text[at - 1 : at + 1] != b"\r\n"]
    cuts = sorted(data.draw(st.lists(st.sampled_from(places), max_size=8)))
    return [(start, end, data.draw(words)) for start, end in zip(cuts[::2], cuts[1::2], strict=False)]


@pytest.mark.parametrize(
    ("source", "decoded"),
    [
        (b"", b""),
        (b"a=3Db", b"a=b"),
        (b"a=\r\nb=\nc", b"abc"),
        (b"a= \t\r\nb", b"ab"),
        (b"a  \r\nb\t\nc ", b"a\r\nb\nc"),
        (b"a=20\r\n", b"a \r\n"),
        (b"a=xyz=4", b"a=xyz=4"),
        (b"end=", b"end"),
        (b"f=fc", b"f\xfc"),
    ],
)
def test_decoding_quoted_printable(source: bytes, decoded: bytes) -> None:
    assert decoded == QuotedPrintable(source).decoded


@few_examples
@given(st.binary(max_size=300).map(lambda data: data.replace(b"\r", b"")))
def test_decodes_what_the_stdlib_encodes(data: bytes) -> None:
    assert data == QuotedPrintable(quopri.encodestring(data)).decoded


_ESCAPE = re.compile(rb"=([0-9A-Fa-f]{2})|=[ \t]*(?:\r?\n|\Z)|[ \t]+(?=\r?\n|\Z)")


def in_one_go(source: bytes) -> bytes:
    return _ESCAPE.sub(lambda found: bytes.fromhex(found[1].decode()) if found[1] else b"", source)


odd_qp = st.lists(qp_pieces | st.sampled_from([b"\r", b"=\r", b"y" * 300]), max_size=30).map(b"".join)


# Nothing that is not shown may stand before a byte.
_ONE_BYTE = re.compile(rb"(?:=[ \t]*\r?\n|[ \t])*?(=[0-9A-Fa-f]{2}|.)", re.S)


def regular_qp(line_end: bytes) -> st.SearchStrategy[bytes]:
    """What every encoder writes, though hardly so many soft breaks."""
    pieces = [b"=3D", b"=C3=BC", b"=20", b"=" + line_end, line_end, b"a", b"4", b"x" * 70]
    return st.lists(st.sampled_from(pieces), max_size=40).map(b"".join)


@few_examples
@given(odd_qp | regular_qp(b"\r\n") | regular_qp(b"\n"), st.randoms())
def test_it_decodes_as_a_whole_and_every_byte_is_found(source: bytes, chance: random.Random) -> None:
    body = QuotedPrintable(source)
    assert in_one_go(source) == body.decoded
    ends = [body._source_end(index) for index in range(len(body.decoded) + 1)]
    assert ends[0] == 0
    for (before, end), byte in zip(pairwise(ends), body.decoded, strict=True):
        found = _ONE_BYTE.fullmatch(source[before:end])
        assert found
        assert byte == (int(found[1][1:], 16) if len(found[1]) == 3 else found[1][0])
    asked = list(range(len(ends)))
    chance.shuffle(asked)
    again = QuotedPrintable(source)
    assert [ends[index] for index in asked] == [again._source_end(index) for index in asked]


@pytest.mark.parametrize("line_end", [b"\r\n", b"\n"])
def test_nothing_but_soft_breaks_between_two_bytes(line_end: bytes) -> None:
    source = b"a" + (b"=" + line_end) * 1_000_000 + b"b"
    assert len(source) == QuotedPrintable(source)._source_end(2)


@few_examples
@given(messy_qp, st.data())
def test_a_spliced_body_decodes_to_the_spliced_text(source: bytes, data: st.DataObject) -> None:
    body = QuotedPrintable(source)
    edits = draw_edits(data, body.decoded)
    assert splice(body.decoded, edits) == QuotedPrintable(body.splice(edits, b"\r\n")).decoded


@given(messy_qp)
def test_without_edits_a_body_stays_byte_for_byte(source: bytes) -> None:
    assert source == QuotedPrintable(source).splice([], b"\r\n")


@few_examples
@given(st.binary(max_size=400).map(lambda data: data.replace(b"\r", b"")), st.data())
def test_lines_stay_short_and_no_new_line_looks_like_a_boundary(text: bytes, data: st.DataObject) -> None:
    body = QuotedPrintable(quopri.encodestring(text.replace(b"-", b"")))
    edits = draw_edits(data, body.decoded)
    lines = body.splice(edits, b"\n").split(b"\n")
    assert max(map(len, lines)) <= 76
    assert not [line for line in lines if line.startswith(b"--")]


def test_untouched_lines_keep_their_odd_encoding() -> None:
    body = QuotedPrintable(b"odd=20line =\r\nURL  \r\n=e4 =41 stays \r\n")
    start = body.decoded.index(b"URL")
    assert (
        body.splice([(start, start + 3, b"https://t.example")], b"\r\n")
        == b"odd=20line https://t.example  \r\n=e4 =41 stays \r\n"
    )


@pytest.mark.parametrize(
    ("source", "edit", "expected"),
    [
        (b"=aURL", (2, 5, b"bX"), b"=3DabX"),  # `=ab` would be an escape
        (b"=3D=URL", (2, 5, b"4AX"), b"=3D=3D4AX"),
        (b"x" * 76, (76, 76, b"<p>"), b"x" * 75 + b"=\nx<p>"),
        (b"URL--b" + b"x" * 60, (0, 3, b"y" * 30), b"y" * 30 + b"--b" + b"x" * 60),  # no new line like a boundary
        (b"URL", (0, 3, b"y" * 74 + b"--b"), b"y" * 74 + b"-=\n=2Db"),
        (b"a \nb", (1, 1, b"<p>"), b"a<p> \nb"),  # the space at the line's end stays dropped
        (b"a=", (1, 1, b"<p>"), b"a<p>="),
    ],
)
def test_traps_of_splicing(source: bytes, edit: ByteEdit, expected: bytes) -> None:
    assert expected == QuotedPrintable(source).splice([edit], b"\n")


@few_examples
@given(
    st.lists(st.sampled_from([b"a", b" ", b"\t", b"=", b"\xff", b"--", b"\r\n", b"\n", b"y" * 74]), max_size=30).map(
        b"".join
    )
)
def test_a_body_encoded_anew_decodes_to_itself(data: bytes) -> None:
    encoded = encode_qp(data, b"\r\n")
    assert data == QuotedPrintable(encoded).decoded
    assert data == binascii.a2b_qp(encoded)
    assert max(len(line.rstrip(b"\r")) for line in encoded.split(b"\n")) <= 76


@given(st.binary(max_size=300), st.sampled_from([b"", b"\r\n", b"\n\n"]), st.sampled_from([b"", b"\r\n", b" \n"]))
def test_base64_round_trip(data: bytes, before: bytes, after: bytes) -> None:
    original = before + base64.encodebytes(b"old" * 40) + after
    encoded = encode_base64(data, original, b"\r\n")
    assert data == decode_base64(encoded) == base64.b64decode(encoded)
    assert encoded.startswith(before)
    assert encoded.endswith(b"\n" + after)
    assert max(map(len, encoded.splitlines()), default=0) <= 76


@pytest.mark.parametrize(
    ("body", "decoded"),
    [
        (b"YWJj\r\nZGU=\r\n", b"abcde"),
        (b"YW*Jj", b"abc"),
        (b"YWI", b"ab"),
        (b"", b""),
        (b"YWJjZ", None),
        (b"YQ==YQ==", None),
    ],
)
def test_decoding_base64(body: bytes, decoded: bytes | None) -> None:
    assert decoded == decode_base64(body)


@pytest.mark.parametrize(
    ("body", "expected"), [(b"a" * 998 + b"\r\n", False), (b"a" * 999, True), (b"x\n" + b"a" * 999 + b"\nx", True)]
)
def test_what_is_too_long_for_smtp(body: bytes, expected: bool) -> None:
    assert expected == has_long_line(body)
