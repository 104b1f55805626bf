"""The journal's writer on real files: what `append` accepted is there, whole, in its stream, within the bound."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec.structs import replace

from app.errors import DiskUnavailable
from app.journal import files
from app.journal.lines import decode_line, encode_line
from app.journal.segments import MOVE_ON, WRITER_LOCK, Stream, lock, segment_path, segments
from app.journal.writer import JournalWriter, Loss
from app.tracking.hits import Hit
from app.tracking.modes import Mode
from app.tracking.tokens import Kind

PERSON = Hit(1, Kind.CLICK, Mode.PERSON_BASED, datetime(2026, 11, 24, tzinfo=UTC), 1, 2, 3, 4, True, "human")
ANONYMIZED = replace(PERSON, mode=Mode.ANONYMIZED)


def read(directory: Path, stream: Stream) -> list[int]:
    lines = [line for s in segments(directory, stream) for line in s.path.read_bytes().splitlines()]
    return [decode_line(line).hit_id for line in lines]


def on_a_small_disk(journals: Path, file_bytes: int, writes: str) -> str:
    """What an expression prints that uses `writer` where no file can have more bytes."""
    code = textwrap.dedent(f"""
        import resource, signal, sys
        from pathlib import Path
        sys.path.insert(0, {str(Path.cwd())!r})
        from tests.unit.test_writer import ANONYMIZED, PERSON, JournalWriter
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        writer = JournalWriter(Path({str(journals)!r}), segment_bytes=10**6, max_bytes=10**6)
        resource.setrlimit(resource.RLIMIT_FSIZE, ({file_bytes},) * 2)
        print({writes})
    """)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_each_hit_lies_in_its_stream_in_order_across_rotations(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, segment_bytes=1_000, max_bytes=1_000_000)
    for number in range(100):
        assert writer.append(replace(PERSON if number % 2 else ANONYMIZED, hit_id=number)) is None
    writer.close()
    assert list(range(1, 100, 2)) == read(writer.directory, Stream.IDENTIFIED)
    assert list(range(0, 100, 2)) == read(writer.directory, Stream.REDUCED)
    sizes = [s.path.stat().st_size for stream in Stream for s in segments(writer.directory, stream)]
    assert len(sizes) > 10
    assert max(sizes) <= 1_000


def test_a_full_journal_refuses_and_stays_whole(tmp_path: Path) -> None:
    line = len(encode_line(PERSON))
    writer = JournalWriter(tmp_path, segment_bytes=10_000, max_bytes=3 * line)
    assert [writer.append(PERSON) for _ in range(4)] == [None, None, None, Loss.JOURNAL_FULL]
    writer.close()
    assert read(writer.directory, Stream.IDENTIFIED) == [1, 1, 1]


def test_two_writers_never_share_a_directory_and_a_closed_one_is_free(tmp_path: Path) -> None:
    one, two = (JournalWriter(tmp_path, segment_bytes=1_000, max_bytes=1_000) for _ in range(2))
    assert one.directory != two.directory
    assert lock(one.directory, WRITER_LOCK) is None
    for writer in (one, two):
        writer.close()
    descriptor = lock(one.directory, WRITER_LOCK)
    assert descriptor is not None


def test_a_file_that_takes_half_a_line_keeps_no_half_line_and_is_left_for_another(tmp_path: Path) -> None:
    line = len(encode_line(PERSON))
    writes = "[loss and loss.value for loss in (writer.append(PERSON) for _ in range(6))]"
    printed = on_a_small_disk(tmp_path, 2 * line + line // 2, writes)
    assert printed == "[None, None, 'write_error', None, None, 'write_error']"
    (directory,) = tmp_path.iterdir()
    assert read(directory, Stream.IDENTIFIED) == [1] * 4
    assert len(segments(directory, Stream.IDENTIFIED)) == 2


def test_a_segment_that_somebody_removed_or_cut_is_left_for_another(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, segment_bytes=10**6, max_bytes=10**6)
    for number, damage in enumerate((lambda path: os.truncate(path, 5), Path.unlink), 1):
        assert writer.append(PERSON) is None
        writer.mend()
        assert writer.append(PERSON) is None
        damage(segment_path(writer.directory, Stream.IDENTIFIED, number))
        writer.mend()
    assert writer.append(ANONYMIZED) is None
    assert writer.append(replace(PERSON, hit_id=7)) is None
    writer.close()
    assert [1, 3] == [segment.number for segment in segments(writer.directory, Stream.IDENTIFIED)]
    assert [1] == [segment.number for segment in segments(writer.directory, Stream.REDUCED)]
    kept = segment_path(writer.directory, Stream.IDENTIFIED, 3).read_bytes().splitlines()
    assert [7] == [decode_line(line).hit_id for line in kept]


def test_a_lock_that_somebody_removed_is_taken_anew(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, segment_bytes=10**6, max_bytes=10**6)
    (writer.directory / WRITER_LOCK).unlink()
    writer.mend()
    assert lock(writer.directory, WRITER_LOCK) is None
    writer.close()
    descriptor = lock(writer.directory, WRITER_LOCK)
    assert descriptor is not None
    os.close(descriptor)


def test_journals_that_cannot_be_made_are_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "journals").write_text("a file")
    with pytest.raises(DiskUnavailable, match=r"journals cannot be written .*; make room or give the right"):
        JournalWriter(tmp_path / "journals", segment_bytes=10**6, max_bytes=10**6)


def test_a_killed_writer_leaves_every_accepted_hit(tmp_path: Path) -> None:
    code = textwrap.dedent(f"""
        import os, signal, sys
        from msgspec.structs import replace
        from pathlib import Path
        sys.path.insert(0, {str(Path.cwd())!r})
        from tests.unit.test_writer import PERSON, JournalWriter
        writer = JournalWriter(Path({str(tmp_path)!r}), segment_bytes=2_000, max_bytes=10**6)
        for number in range(500):
            assert writer.append(replace(PERSON, hit_id=number)) is None
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    (directory,) = tmp_path.iterdir()
    assert list(range(500)) == read(directory, Stream.IDENTIFIED)


def test_an_old_segment_is_closed_though_it_is_not_full(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, segment_bytes=10_000, max_bytes=10_000)
    assert writer.append(PERSON) is None
    writer.rotate_old(3_600)
    assert writer.append(PERSON) is None
    writer.rotate_old(0)
    writer.rotate_old(0)  # an empty one is not closed
    assert writer.append(PERSON) is None
    writer.sync()
    assert [1, 2] == [segment.number for segment in segments(writer.directory, Stream.IDENTIFIED)]
    assert [1] == [segment.number for segment in segments(writer.directory, Stream.REDUCED)]
    assert [1, 1, 1] == read(writer.directory, Stream.IDENTIFIED)
    writer.close()


def test_a_prepared_rotation_opens_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = JournalWriter(tmp_path, segment_bytes=1, max_bytes=10_000)
    assert writer.append(PERSON) is None
    writer.prepare()
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", lambda *_: pytest.fail("the event loop waited for the disk"))
        assert writer.append(replace(PERSON, hit_id=2)) is None
    assert writer.append(replace(PERSON, hit_id=3)) is None  # nothing was prepared for this one
    writer.prepare()
    writer.close()
    assert [1, 2, 3] == [segment.number for segment in segments(writer.directory, Stream.IDENTIFIED)]
    assert [1, 2, 3] == read(writer.directory, Stream.IDENTIFIED)


def test_of_the_hits_of_one_call_those_that_fit_are_written(tmp_path: Path) -> None:
    line = len(encode_line(PERSON))
    writer = JournalWriter(tmp_path, segment_bytes=10_000, max_bytes=2 * line + line // 2)
    assert [None, None, Loss.JOURNAL_FULL] == writer.append_all([PERSON] * 3)
    writer.close()
    assert read(writer.directory, Stream.IDENTIFIED) == [1, 1]


def test_a_disk_that_takes_some_of_the_lines_of_one_call_keeps_the_whole_ones(tmp_path: Path) -> None:
    line = len(encode_line(PERSON))
    writes = "[loss and loss.value for loss in writer.append_all([PERSON, ANONYMIZED, PERSON, PERSON, PERSON])]"
    printed = on_a_small_disk(tmp_path, 2 * line + line // 2, writes)
    assert printed == "[None, None, None, 'write_error', 'write_error']"
    (directory,) = tmp_path.iterdir()
    assert ([1, 1], [1]) == (read(directory, Stream.IDENTIFIED), read(directory, Stream.REDUCED))


def test_a_writer_that_moves_on_writes_the_next_hit_elsewhere_and_gives_up_what_it_left_when_that_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = JournalWriter(tmp_path, segment_bytes=10**6, max_bytes=10**6)
    left = writer.directory
    (left / MOVE_ON).touch()
    assert writer.append(PERSON) is None
    writer.move_on()
    writer.move_on()  # one that is made already is enough
    assert writer.directory == left
    assert writer.append_all((replace(PERSON, hit_id=2), ANONYMIZED)) == [None, None]
    assert {left, writer.directory} == set(tmp_path.iterdir())

    def refuse(_: int) -> None:
        raise OSError(errno.EIO, "planted")

    with monkeypatch.context() as planted:
        planted.setattr(files.os, "fdatasync", refuse)
        with pytest.raises(OSError, match="planted"):
            writer.sync()
    assert lock(left, WRITER_LOCK) is None  # it is not synced yet
    writer.sync()
    descriptor = lock(left, WRITER_LOCK)
    assert descriptor is not None
    os.close(descriptor)
    assert not (left / MOVE_ON).exists()
    assert read(left, Stream.IDENTIFIED) == [1]
    assert read(writer.directory, Stream.IDENTIFIED) == [2]
    assert read(writer.directory, Stream.REDUCED) == [1]
    writer.close()


def test_a_writer_that_cannot_move_on_stays_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = JournalWriter(tmp_path, segment_bytes=10**6, max_bytes=10**6)
    opened = len(os.listdir("/proc/self/fd"))
    real = os.open

    def refuse(path: str | Path, flags: int, *more: int, **others: int) -> int:
        if str(path).endswith("reduced-00000001.seg"):
            raise OSError(errno.ENOSPC, "planted")
        return real(path, flags, *more, **others)

    with monkeypatch.context() as planted:
        planted.setattr(files.os, "open", refuse)
        with pytest.raises(OSError, match="planted"):
            writer.move_on()
    assert len(os.listdir("/proc/self/fd")) == opened
    assert list(tmp_path.iterdir()) == [writer.directory]
    assert writer.append(PERSON) is None
    writer.close()
    assert read(writer.directory, Stream.IDENTIFIED) == [1]


def test_a_closed_writer_gives_up_every_journal_that_it_made(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, segment_bytes=10**6, max_bytes=10**6)
    opened = len(os.listdir("/proc/self/fd"))
    writer.move_on()
    assert writer.append(PERSON) is None
    writer.move_on()
    writer.close()
    assert len(os.listdir("/proc/self/fd")) < opened
    journals = list(tmp_path.iterdir())
    assert len(journals) == 3
    for journal in journals:
        descriptor = lock(journal, WRITER_LOCK)
        assert descriptor is not None
        os.close(descriptor)
