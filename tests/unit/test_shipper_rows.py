"""Rows: a line is one, with every value of its line, or it is damaged."""

from binascii import crc32
from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict, replace

from app.journal.lines import DamagedLine, decode_line, encode_line
from app.shipper.rows import Row, read_row
from app.tracking.hits import Hit, Outcome, PseudonymGap
from app.tracking.modes import Mode
from app.tracking.tokens import Kind

AT = datetime(2026, 11, 24, 13, 37, 42, 123456, tzinfo=UTC)
BARE = Hit(1, Kind.CLICK, Mode.PERSON_BASED, AT, 7, 8, 9, 2, True, "human")
ids = st.integers(-(2**63), 2**63 - 1)
TEXTS = ("agent", "family", "recipient", "user_agent", "url")
text = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
hits = st.builds(
    replace,
    st.just(BARE),
    hit_id=ids,
    kind=st.sampled_from([Kind.OPEN, Kind.CLICK]),
    mode=st.sampled_from([Mode.AGGREGATE, Mode.ANONYMIZED, Mode.PERSON_BASED]),
    at=st.datetimes(min_value=datetime(2000, 1, 1)).map(lambda at: at.replace(tzinfo=UTC)),
    space=ids,
    mailing=ids,
    link=st.integers(-(2**31), 2**31 - 1),
    link_registered=st.booleans(),
    outcome=st.sampled_from(Outcome),
    agent_family=text,
    recipient=text,
    nonce=st.none() | st.binary(max_size=9),
    pseudonym=st.none() | st.binary(max_size=17),
    pseudonym_gap=st.none() | st.sampled_from(PseudonymGap),
    client_address=st.none() | st.ip_addresses().map(str),
    user_agent=text,
    url=text,
    correlation_ids=st.just(()) | st.tuples(text, text, text),
)


def line_of(body: bytes) -> bytes:
    return b"%08x %s\n" % (crc32(body), body)


def changed(**fields: object) -> bytes:
    """A whole line with a right checksum and some other values; None takes a field away."""
    there = orjson.loads(encode_line(BARE)[9:]) | fields
    return line_of(orjson.dumps({name: value for name, value in there.items() if value is not None}))


@given(hits)
def test_a_row_says_what_its_line_says(hit: Hit) -> None:
    line = encode_line(hit)
    assert hit == decode_line(line)
    row = asdict(read_row(line))
    assert (hit.kind.name.lower(), hit.mode.label) == (row.pop("kind"), row.pop("mode"))
    assert (hit.outcome.value, hit.pseudonym_gap and hit.pseudonym_gap.value) == (row.pop("outcome"), row.pop("gap"))
    expected = {
        "id": hit.hit_id,
        "at": hit.at,
        "space": hit.space,
        "event": hit.event,
        "mailing": hit.mailing,
        "link": hit.link,
        "registered": hit.link_registered,
        "agent": hit.agent_kind,
        "family": hit.agent_family,
        "recipient": hit.recipient,
        "nonce": hit.nonce,
        "pseudonym": hit.pseudonym,
        "address": hit.client_address,
        "user_agent": hit.user_agent,
        "url": hit.url,
        "correlation_ids": hit.correlation_ids or None,
    }
    assert expected == row


def test_a_field_that_only_a_later_version_knows_is_passed_over() -> None:
    assert read_row(encode_line(BARE)) == read_row(changed(weather={"sky": ["blue"]}))


@pytest.mark.parametrize(
    "fields",
    [{name: None} for name in Row.__struct_fields__[:11]]
    + [{name: value} for name in Row.__struct_fields__ for value in (7.5, [], {})]
    + [{name: "maybe"} for name in Row.__struct_fields__ if name not in TEXTS]
    + [{name: True} for name in ("id", "space", "event", "mailing", "link")]
    + [{name: 2**63} for name in ("id", "space", "event", "mailing")]
    + [{"link": 2**31}, {"link": -(2**31) - 1}, {"registered": 1}, {"mode": "off"}, {"kind": "message"}]
    + [{"at": at} for at in ("2026-11-24", "2026-11-24T10:00:00", "2026-11-24T10:00:00+01:00", 7)]
    + [{"pseudonym": "0"}, {"nonce": "xy"}, {"nonce": "ü"}, {"address": "10.0.0.1/8"}]
    + [{"correlation_ids": ids} for ids in (["a", 7], ["a"] * 4)],
    ids=str,
)
def test_a_value_that_no_store_has_room_for_is_damage(fields: dict[str, object]) -> None:
    with pytest.raises(DamagedLine):
        read_row(changed(**fields))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"[" * 100_000,
        b'{"x":' * 100_000,
        encode_line(BARE)[9:-2] + b',"url":"\\ud800"}',
        encode_line(BARE)[9:-2] + b',"url":"\xff"}',
        encode_line(BARE)[9:-2] + b"}}",
        encode_line(BARE)[9:-2],
    ],
    ids=lambda body: body[-20:],
)
def test_what_is_no_json_of_a_hit_is_damage(body: bytes) -> None:
    with pytest.raises(DamagedLine):
        read_row(line_of(body))


@given(hits, st.data())
def test_any_flipped_line_is_damage(hit: Hit, data: st.DataObject) -> None:
    flipped = bytearray(encode_line(hit))
    bit = data.draw(st.integers(0, (len(flipped) - 1) * 8 - 1))
    flipped[bit // 8] ^= 1 << bit % 8
    with pytest.raises(DamagedLine):
        read_row(bytes(flipped))
