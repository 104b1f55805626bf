"""The journal's keeper: answers wait for a real sync, one sync serves many, the room is that of all journals."""

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from app.journal import files
from app.journal import keeper as keeper_module
from app.journal.keeper import JournalKeeper, journal_bytes
from app.journal.writer import JournalWriter, Loss
from tests.unit.test_writer import ANONYMIZED, PERSON


@pytest.fixture
def writer(tmp_path: Path) -> JournalWriter:
    return JournalWriter(tmp_path, segment_bytes=2_000, max_bytes=10**6)


@pytest.fixture
def kept(writer: JournalWriter, tmp_path: Path) -> Iterator[JournalKeeper]:
    keeper = JournalKeeper(writer, tmp_path, max_bytes=10**6)
    keeper.start()
    yield keeper
    keeper.close()


async def test_many_answers_share_one_sync_that_began_after_they_were_written(
    writer: JournalWriter, kept: JournalKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced_sizes: list[int] = []
    real = files.os.fdatasync

    def slow(descriptor: int) -> None:
        synced_sizes.append(os.fstat(descriptor).st_size)
        time.sleep(0.01)
        real(descriptor)

    monkeypatch.setattr(files.os, "fdatasync", slow)
    for round_number in range(5):
        waits = []
        for number in range(20):
            assert writer.append(replace(PERSON, hit_id=number)) is None
            waits.append(asyncio.ensure_future(kept.durable()))
        before = len(synced_sizes)
        assert await asyncio.gather(*waits) == [True] * 20
        # Two streams, perhaps a full segment of each round, and at most one sync that was under way already.
        assert len(synced_sizes) - before < 20, round_number
    assert max(synced_sizes) > 0


async def test_a_full_segment_is_synced_too_before_an_answer_leaves(
    writer: JournalWriter, kept: JournalKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths_synced: set[str] = set()
    real = files.os.fdatasync

    def watching(descriptor: int) -> None:
        paths_synced.add(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        real(descriptor)

    monkeypatch.setattr(files.os, "fdatasync", watching)
    for number in range(30):
        writer.append(replace(PERSON, hit_id=number))
    assert await kept.durable()
    written = {path.name for path in writer.directory.glob("identified-*.seg")}
    assert len(written) >= 3
    assert written <= paths_synced
    open_files = {os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd") if _is_open(number)}
    assert sum(str(writer.directory) in name and name.endswith(".seg") for name in open_files) == 2


def _is_open(number: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{number}")


async def test_a_disk_that_refuses_to_sync_is_told_and_forgiven(
    writer: JournalWriter, kept: JournalKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(5, "planted")

    with monkeypatch.context() as planted:
        planted.setattr(files.os, "fdatasync", refuse)
        writer.append(PERSON)
        assert await kept.durable() is False
        assert kept.problems() == ["journal_not_synced"]
    assert await kept.durable() is True
    assert kept.problems() == []


def test_the_room_is_what_all_journals_together_leave(tmp_path: Path) -> None:
    other = JournalWriter(tmp_path, segment_bytes=10**6, max_bytes=10**6)
    while other.written < 5_000:
        other.append(ANONYMIZED)
    writer = JournalWriter(tmp_path, segment_bytes=10**6, max_bytes=10**9)
    keeper = JournalKeeper(writer, tmp_path, max_bytes=6_000)
    keeper.start()
    assert (keeper.problems(), keeper.warnings()) == ([], ["journal_nearly_full"])
    losses = [writer.append(PERSON) for _ in range(20)]
    assert losses[0] is None
    assert losses[-1] is Loss.JOURNAL_FULL
    assert keeper.problems() == ["journal_full"]
    assert journal_bytes(tmp_path) <= 6_000
    keeper.close()
    other.close()


def test_room_comes_back_when_segments_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_module, "MEASURE_SECONDS", 0.0)
    gone = tmp_path / "old" / "reduced-00000001.seg"
    gone.parent.mkdir()
    gone.write_bytes(b"x" * 10_000)
    writer = JournalWriter(tmp_path, segment_bytes=10**6, max_bytes=10**9)
    keeper = JournalKeeper(writer, tmp_path, max_bytes=10_000)
    keeper.start()
    assert writer.append(PERSON) is Loss.JOURNAL_FULL
    gone.unlink()
    deadline = time.monotonic() + 10
    while writer.append(PERSON) is not None:
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)
    keeper.close()


async def test_closing_answers_who_still_waits(writer: JournalWriter, tmp_path: Path) -> None:
    keeper = JournalKeeper(writer, tmp_path, max_bytes=10**6)
    keeper.start()
    writer.append(PERSON)
    wait = asyncio.ensure_future(keeper.durable())
    await asyncio.sleep(0)
    await asyncio.to_thread(keeper.close)
    assert await wait is True


async def test_a_fault_of_ours_leaves_no_answer_waiting(
    writer: JournalWriter, kept: JournalKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise RuntimeError("planted")

    with monkeypatch.context() as planted:
        planted.setattr(writer, "sync", broken)
        writer.append(PERSON)
        assert await kept.durable() is False
    assert await kept.durable() is True


async def test_a_lock_that_cannot_be_looked_at_leaves_no_answer_waiting(
    writer: JournalWriter, kept: JournalKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a broken disk even opening it fails: that must not end the thread that answers wait for."""
    looked = threading.Event()

    def fails(*_: object) -> bool:
        looked.set()
        raise OSError

    monkeypatch.setattr(keeper_module, "is_held", fails)
    monkeypatch.setattr(keeper_module, "MEASURE_SECONDS", 0.0)
    await asyncio.to_thread(looked.wait)
    assert writer.append(PERSON) is None
    assert await kept.durable()


def test_a_segment_that_cannot_be_looked_at_keeps_no_other_from_being_measured(tmp_path: Path) -> None:
    """Else a writer's room would never be renewed, and one broken file would cost every hit in the end."""
    journal = tmp_path / "0123456789abcdef"
    journal.mkdir()
    loop = journal / "identified-00000001.seg"
    loop.symlink_to(loop)
    (journal / "identified-00000002.seg").write_bytes(b"x" * 100)
    assert journal_bytes(tmp_path) == 100
