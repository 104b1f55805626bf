"""Segments: order, locks, and lines read whole or not at all."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.journal.segments import SHIPPER_LOCK, WRITER_LOCK, Stream, lock, read_lines, segment_path, segments
from app.tracking.modes import Mode


def test_only_person_based_hits_are_identified() -> None:
    streams = {mode: Stream.of(mode) for mode in Mode if mode is not Mode.OFF}
    assert streams == {
        Mode.AGGREGATE: Stream.REDUCED,
        Mode.ANONYMIZED: Stream.REDUCED,
        Mode.PERSON_BASED: Stream.IDENTIFIED,
    }


def test_segments_come_in_order_of_number_and_foreign_files_do_not_count(tmp_path: Path) -> None:
    for number in (100_000_000, 2, 1):
        segment_path(tmp_path, Stream.REDUCED, number).touch()
    for foreign in ("reduced-x.seg", "reduced-1.tmp", "identified-00000003.seg"):
        (tmp_path / foreign).touch()
    assert [segment.number for segment in segments(tmp_path, Stream.REDUCED)] == [1, 2, 100_000_000]


def test_a_lock_has_one_holder_at_a_time(tmp_path: Path) -> None:
    held = lock(tmp_path, WRITER_LOCK)
    assert held is not None
    assert lock(tmp_path, WRITER_LOCK) is None
    other = lock(tmp_path, SHIPPER_LOCK)
    assert other is not None
    os.close(held)
    again = lock(tmp_path, WRITER_LOCK)
    assert again is not None
    os.close(again)
    os.close(other)


@pytest.fixture(scope="module")
def segment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("journal") / "reduced-00000001.seg"


@given(st.lists(st.binary(max_size=20).map(lambda b: b.replace(b"\n", b"") + b"\n")), st.binary(), st.integers(1, 40))
def test_any_reading_gives_each_whole_line_once_and_never_the_torn_one(
    segment: Path, lines: list[bytes], torn: bytes, max_bytes: int
) -> None:
    segment.write_bytes(b"".join(lines) + torn.replace(b"\n", b""))
    read: list[bytes] = []
    offset = 0
    while True:
        batch, behind = read_lines(segment, offset, max_bytes)
        if not batch:
            break
        assert behind > offset
        read, offset = read + batch, behind
    assert lines == read
    assert offset == sum(map(len, lines))
