"""Encoded rows: what they share is encoded once, in a bounded memory, and a row's time can be changed afterwards."""

from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from app.shipper import copying
from app.shipper.copying import CHUNK_ROWS, COLUMNS, RowEncoder, stream, with_clock
from app.shipper.rows import Hex, Row

AT = datetime(2026, 11, 24, 13, 37, tzinfo=UTC)
ROW = Row(1, "open", "anonymized", AT, 7, 8, 9, 0, True, "proxy", "served", "gmail", pseudonym=Hex(16))
PERSON = replace(ROW, mode="person_based", pseudonym=None, recipient="4711", nonce=Hex(8), address="192.0.2.7", url="u")
WITH_IDS = replace(PERSON, correlation_ids=("order-17", None, "ä"))


def fields_of(row: bytes) -> list[bytes | None]:
    """The fields of an encoded row by PostgreSQL's own rule: a length, or -1, before each."""
    fields: list[bytes | None] = []
    number, place = int.from_bytes(row[:2]), 2
    for _ in range(number):
        length = int.from_bytes(row[place : place + 4], signed=True)
        place += 4
        fields.append(None if length < 0 else row[place : place + length])
        place += max(0, length)
    assert place == len(row)
    return fields


@pytest.mark.parametrize("row", [ROW, PERSON, WITH_IDS, replace(ROW, pseudonym=None), replace(ROW, pseudonym=Hex(3))])
def test_an_encoded_row_has_a_field_for_each_column(row: Row) -> None:
    encoded, at, _ = RowEncoder().encode(row)
    fields = dict(zip(COLUMNS, fields_of(encoded), strict=True))
    assert (row.at, row.pseudonym) == (at, fields["pseudonym"])
    assert row.id == int.from_bytes(fields["id"] or b"")
    assert row.recipient == (fields["recipient"] and fields["recipient"].decode())
    assert b"gmail" == fields["agent_family"]
    assert b"\0" == fields["clock_clamped"]
    assert fields["pseudonym_gap"] is None


@pytest.mark.parametrize("row", [ROW, PERSON, WITH_IDS])
def test_another_time_changes_the_time_and_its_flag_alone(row: Row) -> None:
    encode = RowEncoder().encode
    for at in (AT + timedelta(days=1), datetime(1970, 1, 1, tzinfo=UTC)):
        expected = fields_of(encode(replace(row, at=at))[0])
        expected[COLUMNS.index("clock_clamped")] = b"\1"
        encoded, time, shared = with_clock(encode(row), at)
        assert expected == fields_of(encoded)
        assert (at, encode(row)[2]) == (time, shared)


def test_rows_with_the_same_shared_values_have_the_same_object_and_memory_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = RowEncoder()
    assert encoder.encode(ROW)[2] is encoder.encode(replace(ROW, id=2, at=AT + timedelta(minutes=1)))[2]
    assert encoder.encode(ROW)[2] is not encoder.encode(replace(ROW, link=1))[2]
    monkeypatch.setattr(copying, "_MAX_KNOWN", 3)
    for link in range(20):
        encoded, _, shared = encoder.encode(replace(ROW, link=link))
        fields = dict(zip(COLUMNS, fields_of(encoded), strict=True))
        assert link == shared.values[5] == int.from_bytes(fields["link"] or b"")
        assert len(encoder._known) <= 3


@pytest.mark.parametrize("number", [0, 1, CHUNK_ROWS, CHUNK_ROWS + 1])
async def test_a_stream_has_every_row_between_its_signature_and_its_end(number: int) -> None:
    rows = [RowEncoder().encode(replace(ROW, id=place)) for place in range(number)]
    pieces = [piece async for piece in stream(rows)]
    assert b"PGCOPY\n\xff\r\n\0" + bytes(8) == pieces[0]
    assert b"".join(row for row, _, _ in rows) == b"".join(pieces[1:-1])
    assert b"\xff\xff" == pieces[-1]
