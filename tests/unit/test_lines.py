"""A journal line is the hit that was written, or it is damaged; there is no third."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from app.journal.lines import DamagedLine, decode_line, encode_line
from app.tracking.hits import Hit, PseudonymGap
from app.tracking.modes import Mode
from app.tracking.tokens import Kind

AT = datetime(2026, 11, 24, 13, 37, 42, 123456, tzinfo=UTC)
BARE = Hit(2**64 - 1, Kind.CLICK, Mode.PERSON_BASED, AT, 2**32 - 1, 2, 2**48 - 1, 4, True, "human")
text = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
hits = st.builds(
    replace,
    st.just(BARE),
    kind=st.sampled_from([Kind.OPEN, Kind.CLICK]),
    mode=st.sampled_from([Mode.AGGREGATE, Mode.ANONYMIZED, Mode.PERSON_BASED]),
    at=st.datetimes(min_value=datetime(2000, 1, 1)).map(lambda at: at.replace(tzinfo=UTC)),
    agent_family=text,
    recipient=text,
    nonce=st.none() | st.binary(min_size=8, max_size=8),
    pseudonym=st.none() | st.binary(min_size=16, max_size=16),
    pseudonym_gap=st.none() | st.sampled_from(PseudonymGap),
    client_address=text,
    user_agent=text,
    url=text,
    correlation_ids=st.just(()) | st.tuples(text, text, text),
)


@given(hits)
def test_what_was_written_is_read(hit: Hit) -> None:
    line = encode_line(hit)
    assert line.count(b"\n") == 1
    assert hit == decode_line(line)


@given(hits, st.data())
def test_any_torn_or_flipped_line_is_damaged(hit: Hit, data: st.DataObject) -> None:
    line = encode_line(hit).removesuffix(b"\n")
    torn = line[: data.draw(st.integers(0, len(line) - 1))]
    flipped = bytearray(line)
    bit = data.draw(st.integers(0, len(line) * 8 - 1))
    flipped[bit // 8] ^= 1 << bit % 8
    for damaged in (torn, bytes(flipped)):
        with pytest.raises(DamagedLine):
            decode_line(damaged)


@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"id": 1}', b"null", b"not json", b""])
def test_a_line_with_a_right_checksum_but_no_hit_is_damaged(body: bytes) -> None:
    from binascii import crc32

    with pytest.raises(DamagedLine):
        decode_line(b"%08x %s\n" % (crc32(body), body))
