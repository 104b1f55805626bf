"""Damage never blocks and is never silent: whatever is wrong with a line, a segment or a row, the rest goes through."""

import os
import shutil
from binascii import crc32
from collections import Counter
from pathlib import Path

import orjson
import pytest
from msgspec.structs import replace

from app.journal.lines import encode_line
from app.journal.segments import Stream, segment_path, segments
from app.shipper.postgres import QUARANTINED_BYTES
from app.shipper.ship import Shipper
from app.store.migrate import migrate
from app.store.pool import Connection
from app.tracking.hits import Hit
from tests.integration.shipping import (
    ANONYMIZED,
    PERSON,
    first,
    ids,
    numbered,
    open_journal,
    quarantined,
    shipper_of,
    totals_agree,
    value,
    write,
    write_journal,
)


@pytest.fixture
async def store(connection: Connection) -> Connection:
    await migrate(connection)
    return connection


def forged(hit: Hit, **fields: object) -> bytes:
    """A line with a right checksum that no collector writes; None takes a field away."""
    there = orjson.loads(encode_line(hit)[9:]) | fields
    return with_checksum(orjson.dumps({name: field for name, field in there.items() if field is not None}))


def with_checksum(body: bytes) -> bytes:
    return b"%08x %s\n" % (crc32(body), body)


async def ship(shipper: Shipper) -> int:
    rows = await shipper.ship_once()
    shipper.close()
    return rows


async def test_a_half_line_of_a_dead_writer_is_cut(store: Connection, database_url: str, tmp_path: Path) -> None:
    journal = write_journal(tmp_path, numbered(PERSON, range(5)))
    with first(journal).open("ab") as file:
        file.write(encode_line(PERSON)[:-1])
    shipper, metrics = shipper_of(tmp_path, database_url)
    assert await shipper.ship_once() == 5
    assert await shipper.ship_once() == 0
    assert value(metrics, "torn_tails") == 1
    assert value(metrics, "oldest_unshipped_seconds") == 0
    assert await quarantined(store) == []
    size = first(journal).stat().st_size
    watermark = "select byte_offset from mailtrail.journals where stream = 'identified'"
    assert size == await store.fetchval(watermark)
    shipper.close()


async def test_a_half_line_of_a_living_writer_is_waited_for(
    store: Connection, database_url: str, tmp_path: Path
) -> None:
    writer = open_journal(tmp_path)
    write(writer, numbered(PERSON, range(5)))
    line = encode_line(replace(PERSON, hit_id=5))
    shipper, metrics = shipper_of(tmp_path, database_url)
    with first(writer.directory).open("ab", buffering=0) as file:
        file.write(line[:100])
        assert await shipper.ship_once() == 5
        file.write(line[100:])
        assert await shipper.ship_once() == 1
    assert value(metrics, "torn_tails") == 0
    shipper.close()
    writer.close()
    assert await ids(store) == Counter(range(6))


async def test_a_half_line_before_a_successor_is_cut(store: Connection, database_url: str, tmp_path: Path) -> None:
    writer = open_journal(tmp_path, segment_bytes=1_000)
    write(writer, numbered(PERSON, range(20)))
    with first(writer.directory).open("ab") as file:
        file.write(b"\0" * 3_000)
    shipper, metrics = shipper_of(tmp_path, database_url)
    assert await ship(shipper) == 20
    assert value(metrics, "torn_tails") == 1
    assert await ids(store) == Counter(range(20))
    writer.close()


@pytest.mark.parametrize("stream", [Stream.IDENTIFIED, Stream.REDUCED])
async def test_damaged_and_foreign_lines_are_quarantined(
    store: Connection, database_url: str, tmp_path: Path, stream: Stream
) -> None:
    hit = PERSON if stream is Stream.IDENTIFIED else ANONYMIZED
    flipped = bytearray(encode_line(hit))
    flipped[40] ^= 1
    damaged = [
        bytes(flipped),
        b"\n",
        b"\xff\0 garbage \r\n",
        b"x" * 200_000 + b"\n",
        encode_line(hit)[:50] + b"\n",
        with_checksum(b"{}"),
        with_checksum(b"[" * 2_000 + b"]" * 2_000),
        encode_line(ANONYMIZED if stream is Stream.IDENTIFIED else PERSON),
        forged(hit, id="7"),
        forged(hit, id=2**63),
        forged(hit, id=True),
        forged(hit, link=2**31),
        forged(hit, space=1.5),
        forged(hit, registered=1),
        forged(hit, at="2026-11-24"),
        forged(hit, at="2026-11-24T10:00:00+01:00"),
        forged(hit, at=7),
        forged(hit, agent=["human"]),
        forged(hit, mailing={}),
        forged(hit, user_agent=7),
        forged(hit, address="nowhere"),
        forged(hit, address=7),
        forged(hit, nonce="xyz"),
        forged(hit, outcome="maybe"),
        forged(hit, kind="visit"),
    ]
    lines = []
    for number, line in enumerate(damaged):
        lines += [encode_line(replace(hit, hit_id=number)), line]
    journal = write_journal(tmp_path, [])
    first(journal, stream).write_bytes(b"".join(lines))
    shipper, metrics = shipper_of(tmp_path, database_url, ship_batch_rows=9)
    assert await ship(shipper) == len(damaged)
    assert await ids(store) == Counter(range(len(damaged)))
    expected = [(stream.value, "damaged", line[:QUARANTINED_BYTES]) for line in damaged]
    assert sorted(expected) == sorted(await quarantined(store))
    assert value(metrics, "lines_quarantined", reason="damaged") == len(damaged)
    assert value(metrics, "lines_quarantined", reason="refused") == 0


async def test_what_the_database_refuses_is_found_and_quarantined(
    store: Connection, database_url: str, tmp_path: Path
) -> None:
    refused = [
        encode_line(replace(PERSON, user_agent="a\0b")),
        encode_line(replace(PERSON, recipient="\0")),
        forged(PERSON, pseudonym="00"),  # no_pseudonym_of_a_person
    ]
    lines = [encode_line(hit) for hit in numbered(PERSON, range(400))]
    for place, line in zip((0, 137, 402), refused, strict=True):
        lines.insert(place, line)
    journal = write_journal(tmp_path, [])
    first(journal).write_bytes(b"".join(lines))
    reduced = [
        forged(ANONYMIZED, recipient="erika"),  # only_what_the_mode_allows
        forged(ANONYMIZED, at=PERSON.at.replace(second=7, microsecond=0).isoformat()),  # reduced_times_are_coarse
    ]
    impossible = forged(ANONYMIZED, mode="off")  # nothing is recorded in that mode
    good = [encode_line(hit) for hit in numbered(ANONYMIZED, range(1_000, 1_003))]
    first(journal, Stream.REDUCED).write_bytes(b"".join([*reduced, impossible, *good]))
    shipper, metrics = shipper_of(tmp_path, database_url)
    assert await ship(shipper) == 403
    assert await ids(store) == Counter([*range(400), *range(1_000, 1_003)])
    expected = [("identified", "refused", line) for line in refused] + [
        ("reduced", "refused", line) for line in reduced
    ]
    expected.append(("reduced", "damaged", impossible))
    assert sorted(expected) == sorted(await quarantined(store))
    assert await totals_agree(store)
    assert value(metrics, "lines_quarantined", reason="refused") == 5
    assert value(metrics, "ship_failures") == 0
    at = await store.fetchval("select at from mailtrail.quarantine where stream = 'reduced' limit 1")
    assert at == at.replace(minute=0, second=0, microsecond=0)


async def test_a_batch_in_which_everything_is_refused_does_not_block(
    store: Connection, database_url: str, tmp_path: Path
) -> None:
    write_journal(tmp_path, [replace(PERSON, hit_id=n, url="\0") for n in range(50)] + numbered(PERSON, [99]))
    shipper, _ = shipper_of(tmp_path, database_url, ship_batch_rows=50)
    assert await ship(shipper) == 1
    assert len(await quarantined(store)) == 50


async def test_a_missing_month_is_no_fault_of_the_rows(store: Connection, database_url: str, tmp_path: Path) -> None:
    """PostgreSQL gives it the class of a broken constraint: taken for one, a whole batch would be quarantined."""
    writer = open_journal(tmp_path)
    write(writer, numbered(PERSON, [1]))
    shipper, metrics = shipper_of(tmp_path, database_url)
    assert await shipper.ship_once() == 1
    await store.execute(f"drop table mailtrail.hits_person_based_{PERSON.at:%Y_%m}")
    write(writer, numbered(PERSON, [2]))
    with pytest.raises(Exception, match="no partition"):
        await shipper.ship_once()
    assert value(metrics, "ship_failures", reason="other") == 1
    assert await shipper.ship_once() == 1
    shipper.close()
    writer.close()
    assert await quarantined(store) == []
    assert await ids(store) == Counter([2])


async def test_a_segment_shorter_than_what_was_shipped_is_closed(
    store: Connection, database_url: str, tmp_path: Path
) -> None:
    writer = open_journal(tmp_path, segment_bytes=1_000)
    line = len(encode_line(PERSON))
    write(writer, numbered(PERSON, range(2)))
    shipper, _ = shipper_of(tmp_path, database_url)
    assert await ship(shipper) == 2
    write(writer, numbered(PERSON, range(2, 6)))
    writer.close()
    os.truncate(first(writer.directory), line + 10)
    shipper, metrics = shipper_of(tmp_path, database_url)
    left = [n for s in segments(writer.directory, Stream.IDENTIFIED)[1:] for n in s.path.read_bytes().splitlines()]
    assert await ship(shipper) == len(left) >= 2
    assert value(metrics, "segments_short") == 1
    assert value(metrics, "lines_quarantined") == 0
    assert max((await ids(store)).values()) == 1


async def test_a_segment_emptied_under_its_living_writer_is_shipped_from_its_new_end(
    store: Connection, database_url: str, tmp_path: Path
) -> None:
    writer = open_journal(tmp_path)
    write(writer, numbered(PERSON, range(5)))
    shipper, metrics = shipper_of(tmp_path, database_url)
    assert await shipper.ship_once() == 5
    os.truncate(first(writer.directory), 0)
    assert await shipper.ship_once() == 0
    write(writer, numbered(PERSON, range(5, 8)))
    assert await shipper.ship_once() == 3
    assert value(metrics, "segments_short") == 1
    shipper.close()
    writer.close()
    assert await ids(store) == Counter(range(8))


async def test_after_a_restore_shipping_goes_on_with_the_first_segment_there_is(
    store: Connection, database_url: str, tmp_path: Path
) -> None:
    journal = write_journal(tmp_path, numbered(PERSON, range(30)), segment_bytes=1_000)
    shipper, _ = shipper_of(tmp_path, database_url)
    assert await ship(shipper) == 30
    there = segments(journal, Stream.IDENTIFIED)
    # The database as it was in the middle of the second segment; of the second and third nothing is left.
    await store.execute("truncate mailtrail.hits, mailtrail.hit_totals")
    await store.execute("update mailtrail.journals set segment = 2, byte_offset = 100 where stream = 'identified'")
    for segment in there[1:3]:
        segment.path.unlink()
    kept = sum(len(segment.path.read_bytes().splitlines()) for segment in there[3:])
    shipper, metrics = shipper_of(tmp_path, database_url)
    assert await ship(shipper) == kept
    assert await ids(store) == Counter(range(30 - kept, 30))  # the first segment is before the watermark: not again
    assert value(metrics, "segments_missing") == 2


async def test_a_journal_that_cannot_be_read_holds_up_no_other(
    store: Connection, database_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = write_journal(tmp_path, numbered(PERSON, range(5)))
    write_journal(tmp_path, numbered(PERSON, range(5, 10)))
    segment = first(bad)
    kept = segment.rename(tmp_path / "kept")
    segment.symlink_to(segment)
    (bad.parent / "0123456789abcdef").write_text("no directory")
    (bad.parent / "lost+found").mkdir()
    shipper, metrics = shipper_of(tmp_path, database_url)
    assert await shipper.ship_once() == 5
    assert await shipper.ship_once() == 0
    assert value(metrics, "ship_failures", reason="unreadable") == 2
    told = capsys.readouterr().out
    assert told.count("cannot be read") == 1
    assert "OSError at" in told
    assert list((bad.parent / "lost+found").iterdir()) == []
    segment.unlink()
    kept.rename(segment)
    assert await shipper.ship_once() == 5
    shipper.close()
    assert await ids(store) == Counter(range(10))


async def test_a_copy_of_a_journal_under_another_name_is_not_shipped_again(
    store: Connection, database_url: str, tmp_path: Path
) -> None:
    journal = write_journal(tmp_path, numbered(PERSON, range(5)))
    shutil.copytree(journal, journal.with_name(f"{journal.name}.bak"))
    shipper, _ = shipper_of(tmp_path, database_url)
    assert await ship(shipper) == 5


async def test_a_stream_never_holds_the_others_hits_though_their_lines_are_whole(
    store: Connection, database_url: str, tmp_path: Path
) -> None:
    """The two files swapped: not one of these hits reaches the table."""
    journal = write_journal(tmp_path, [*numbered(PERSON, range(3)), *numbered(ANONYMIZED, range(3, 6))])
    one, other = (segment_path(journal, stream, 1) for stream in Stream)
    one.rename(tmp_path / "swap")
    other.rename(one)
    (tmp_path / "swap").rename(other)
    shipper, metrics = shipper_of(tmp_path, database_url)
    assert await ship(shipper) == 0
    assert value(metrics, "lines_quarantined", reason="damaged") == 6
    assert await ids(store) == Counter()


def test_the_forgeries_differ_from_what_is_written_only_where_they_say() -> None:
    assert forged(PERSON) == encode_line(PERSON)
    assert forged(ANONYMIZED, at=ANONYMIZED.at.isoformat().replace("+00:00", "Z")) == encode_line(ANONYMIZED)
