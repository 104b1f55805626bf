"""Reading journals: each whole line once, none left behind, whatever its writer does in between."""

import os
import time
from datetime import UTC, datetime
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from app.journal.lines import decode_line, encode_line
from app.journal.segments import SHIPPER_LOCK, WRITER_LOCK, Segment, Stream, lock, segment_path, segments
from app.journal.writer import JournalWriter
from app.shipper import journals
from app.shipper.journals import START, Journal, Position, Reading, adopt, find_journals
from app.tracking.hits import Hit
from app.tracking.modes import Mode
from app.tracking.tokens import Kind

PERSON = Hit(1, Kind.CLICK, Mode.PERSON_BASED, datetime(2026, 11, 24, tzinfo=UTC), 1, 2, 3, 4, True, "human")
STREAM = Stream.IDENTIFIED


def writer_of(directory: Path, segment_bytes: int = 10_000) -> JournalWriter:
    return JournalWriter(directory, segment_bytes=segment_bytes, max_bytes=10**6)


def append(writer: JournalWriter, *numbers: int) -> None:
    assert [writer.append(replace(PERSON, hit_id=number)) for number in numbers] == [None] * len(numbers)


def read_all(journal: Journal, start: Position, max_lines: int = 100, max_bytes: int = 10**6) -> list[Reading]:
    """Readings, each from where the last one ended, until one says that it is not worth going on."""
    readings = [journal.read(STREAM, start, max_lines, max_bytes)]
    while readings[-1].more:
        readings.append(journal.read(STREAM, readings[-1].end, max_lines, max_bytes))
    return readings


def hit_ids(*readings: Reading) -> list[int]:
    return [decode_line(line).hit_id for reading in readings for line in reading.lines]


@pytest.fixture(scope="module")
def dead(tmp_path_factory: pytest.TempPathFactory) -> Journal:
    return Journal(tmp_path_factory.mktemp("0123456789abcdef"), -1)


content = st.binary(max_size=20).map(lambda line: line.replace(b"\n", b""))
written_segments = st.lists(st.tuples(st.lists(content), content), min_size=1, max_size=4)


@given(written_segments, st.integers(1, 5), st.integers(1, 50))
def test_any_reading_gives_each_whole_line_once_and_the_offsets_add_up(
    dead: Journal, written: list[tuple[list[bytes], bytes]], max_lines: int, max_bytes: int
) -> None:
    for segment in segments(dead.directory, STREAM):
        segment.path.unlink()
    for number, (lines, torn) in enumerate(written, 1):
        segment_path(dead.directory, STREAM, number).write_bytes(b"".join(line + b"\n" for line in lines) + torn)
    readings = read_all(dead, START, max_lines, max_bytes)
    assert [line + b"\n" for lines, _ in written for line in lines] == [line for r in readings for line in r.lines]
    position = START
    for reading in readings:
        assert len(reading.lines) <= max_lines
        if reading.lines:
            assert Position(position.segment, position.offset + sum(map(len, reading.lines))) == reading.end
        assert reading.end > position or reading.final
        position = reading.end
    last_lines, last_torn = written[-1]
    assert Position(len(written), sum(len(line) + 1 for line in last_lines) + len(last_torn)) == position
    assert readings[-1].final
    assert sum(bool(torn) for _, torn in written) == sum(reading.torn for reading in readings)
    assert not any(reading.short or reading.missing for reading in readings)


def test_a_living_writers_end_is_not_final(tmp_path: Path) -> None:
    writer = writer_of(tmp_path)
    append(writer, 1, 2)
    journal = adopt(writer.directory)
    assert journal is not None
    (reading,) = read_all(journal, START)
    assert (hit_ids(reading), reading.final) == ([1, 2], False)
    assert Reading([], reading.end) == journal.read(STREAM, reading.end, 10, 1_000)
    append(writer, 3)
    writer.close()
    more, end = read_all(journal, reading.end)
    assert (hit_ids(more), end.final) == ([3], True)
    journal.release()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=12))
def test_no_line_is_left_behind_when_a_segment_gets_its_successor_while_it_is_read(
    tmp_path_factory: pytest.TempPathFactory, schedule: list[tuple[int, int]]
) -> None:
    """A writer that works just before and just after the segments are listed; three lines fill a segment."""
    writer = writer_of(tmp_path_factory.mktemp("journals"), segment_bytes=3 * len(encode_line(PERSON)))
    journal = Journal(writer.directory, -1)
    numbers = count(10)
    position, read = START, []

    for before, after in schedule:

        def list_segments(*args: Any, before: int = before, after: int = after) -> list[Segment]:
            append(writer, *islice(numbers, before))
            there = segments(*args)
            append(writer, *islice(numbers, after))
            return there

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(journals, "segments", list_segments)
            reading = journal.read(STREAM, position, 100, 10**6)
        read += hit_ids(reading)
        position = reading.end
    read += hit_ids(*read_all(journal, position))
    writer.close()
    assert list(range(10, next(numbers))) == read


def test_a_writer_that_ends_while_its_journal_is_read_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = writer_of(tmp_path)
    append(writer, 1)
    journal = adopt(writer.directory)
    assert journal is not None
    behind = journal.read(STREAM, START, 10, 1_000).end

    def end_before_reading(*args: object) -> tuple[list[bytes], int]:
        monkeypatch.undo()
        read = journals.read_lines(*args)  # type: ignore[arg-type]
        append(writer, 2)
        writer.close()
        return read

    monkeypatch.setattr(journals, "read_lines", end_before_reading)
    assert Reading([], behind) == journal.read(STREAM, behind, 10, 1_000)
    assert hit_ids(*read_all(journal, behind)) == [2]
    journal.release()


def test_segments_before_the_position_are_never_read_again(tmp_path: Path) -> None:
    writer = writer_of(tmp_path, segment_bytes=500)
    append(writer, *range(10))
    writer.close()
    journal = Journal(writer.directory, -1)
    there = segments(writer.directory, STREAM)
    there[2].path.unlink()
    readings = read_all(journal, Position(there[2].number, 77))
    assert sum(reading.missing for reading in readings) == 1
    kept = [line for segment in there[3:] for line in segment.path.read_bytes().splitlines(keepends=True)]
    assert kept == [line for reading in readings for line in reading.lines]
    assert kept


def test_only_directories_with_a_journals_name_are_journals(tmp_path: Path) -> None:
    assert find_journals(tmp_path / "none yet") == []
    writer = writer_of(tmp_path)
    for name in ("lost+found", f"{writer.directory.name}.bak", "0123456789abcde", "0123456789ABCDEF"):
        (tmp_path / name).mkdir()
    (tmp_path / "0123456789abcdef").touch()
    assert find_journals(tmp_path) == [writer.directory]
    writer.close()


def test_a_journal_that_is_being_made_is_not_touched(tmp_path: Path) -> None:
    """A writer makes its directory, then locks it: it must not find the lock taken by who looks whether it lives."""
    assert adopt(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    then = time.time() - 2 * journals.NEW_SECONDS
    os.utime(tmp_path, (then, then))
    journal = adopt(tmp_path)
    assert journal is not None
    assert journal.read(STREAM, START, 10, 1_000).final
    journal.remove_directory()
    assert not tmp_path.exists()


def test_a_writer_whose_lock_was_removed_is_given_time_to_take_it_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken for dead, it would be shipped for good, and its new hits would wait for the segments' end."""
    writer = JournalWriter(tmp_path, segment_bytes=10**6, max_bytes=10**6)
    append(writer, 1)
    journal = adopt(writer.directory)
    assert journal is not None
    (writer.directory / WRITER_LOCK).unlink()
    assert not journal.writer_is_gone()
    assert not (writer.directory / WRITER_LOCK).exists()
    writer.mend()
    assert not journal.writer_is_gone()
    (writer.directory / WRITER_LOCK).unlink()
    assert not journal.writer_is_gone()
    monkeypatch.setattr(journals, "NEW_SECONDS", 0.0)
    assert journal.writer_is_gone()
    journal.release()
    writer.close()


def test_what_has_a_segments_name_and_is_no_file_is_passed_over(tmp_path: Path) -> None:
    segment_path(tmp_path, STREAM, 1).mkdir()
    segment_path(tmp_path, STREAM, 2).symlink_to(tmp_path / "nowhere")
    segment_path(tmp_path, STREAM, 3).write_bytes(encode_line(PERSON))
    readings = read_all(Journal(tmp_path, -1), START)
    assert [1] == hit_ids(*readings)
    assert 2 == sum(reading.missing for reading in readings)
    assert readings[-1].final


def test_a_lock_that_its_holder_has_unlinked_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segment_path(tmp_path, STREAM, 1).touch()
    (tmp_path / WRITER_LOCK).touch()

    def lock_too_late(journal: Path, name: str) -> int | None:
        descriptor = lock(journal, name)
        (journal / name).unlink()
        return descriptor

    monkeypatch.setattr(journals, "lock", lock_too_late)
    assert adopt(tmp_path) is None
    monkeypatch.undo()
    journal = adopt(tmp_path)
    assert journal is not None
    assert adopt(tmp_path) is None
    journal.release()
    journal.release()  # once more does no harm: another file may have its descriptor by now
    assert lock(tmp_path, SHIPPER_LOCK) is not None
    assert lock(tmp_path, WRITER_LOCK) is not None
