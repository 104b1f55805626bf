"""The journal's writing side: a hit is in the file before its answer leaves.

Invariants: a writer makes its own directory and never appends to one it finds; one `write` for all hits of a call and a
stream, and nothing else that waits for the disk; a failed or partial write never leaves half a line in front of a whole
one; the writer never writes more than its `room`; a hit that could not be written is a `Loss` with its reason, never an
exception towards the recipient.
"""

import contextlib
import errno
import os
import secrets
import time
from collections import deque
from collections.abc import Sequence
from enum import Enum
from pathlib import Path

import structlog

from ..errors import DiskUnavailable
from ..logs import place_of
from ..tracking.hits import Hit
from ..tracking.modes import Mode
from .lines import encode_line
from .segments import WRITER_LOCK, Stream, is_file, lock, segment_path

_log = structlog.get_logger()
_Waiting = tuple[int, bytes]
"""A hit's place in the call, and its line."""


class Loss(Enum):
    """Why a hit is not in the journal; the label of the counter."""

    JOURNAL_FULL = "journal_full"
    WRITE_ERROR = "write_error"


class JournalWriter:
    """One collector's journal. Not for use by several threads, save `sync` and `prepare`, which one thread may call.

    `room` is what may still be written, in bytes: whoever watches over all journals renews it. `written` counts what
    was written so far; `last_loss` is the last hit's that could not be, with the monotonic second of `lost_at`.
    """

    def __init__(self, journals: Path, *, segment_bytes: int, max_bytes: int) -> None:
        """Makes a new directory below `journals`; DiskUnavailable if it cannot."""
        self.id = secrets.token_hex(8)
        self.directory = journals / self.id
        try:
            self.directory.mkdir(mode=0o700, parents=True)
            descriptor = lock(self.directory, WRITER_LOCK)
        except OSError as error:
            raise _unwritable(journals, error) from error
        assert descriptor is not None, "a directory made a moment ago has no other writer"
        self._lock = descriptor
        self._segment_bytes = segment_bytes
        self.room = max_bytes
        self.written = 0
        self.last_loss: Loss | None = None
        self.lost_at = float("-inf")
        try:
            self._streams = {stream: _StreamFile(self.directory, stream) for stream in Stream}
            for made in (self.directory, journals, journals.parent):
                _sync_directory(made)
        except OSError as error:
            raise _unwritable(journals, error) from error
        self._by_mode = [self._streams[Stream.of(mode)] for mode in sorted(Mode)]

    def append(self, hit: Hit) -> Loss | None:
        """Writes one hit; None when it is in the file, else why it is not."""
        return self.append_all((hit,))[0]

    def append_all(self, hits: Sequence[Hit]) -> list[Loss | None]:
        """Writes the hits, with one write for each stream; for each None when it is in the file, else why it is not."""
        losses: list[Loss | None] = [None] * len(hits)
        for place, hit in enumerate(hits):
            self._by_mode[hit.mode].waiting.append((place, encode_line(hit)))
        for stream in self._streams.values():
            if stream.waiting:
                waiting, stream.waiting = stream.waiting, []
                self._write(stream, waiting, losses)
        return losses

    def _write(self, stream: "_StreamFile", waiting: Sequence[_Waiting], losses: list[Loss | None]) -> None:
        data = b"".join([line for _, line in waiting])
        fitting = _whole(data, self.room)
        written = 0
        if fitting:
            try:
                if stream.torn or (stream.size and stream.size + fitting > self._segment_bytes):
                    stream.rotate()
                written = stream.write(data if fitting == len(data) else data[:fitting])
            except OSError:
                written = 0
        self.room -= written
        self.written += written
        if written != len(data):
            self._lose(waiting, written, fitting, losses)

    def _lose(self, waiting: Sequence[_Waiting], written: int, fitting: int, losses: list[Loss | None]) -> None:
        """Says of every line behind what was written why it is not there."""
        end = 0
        for place, line in waiting:
            end += len(line)
            if end > written:
                losses[place] = self.last_loss = Loss.WRITE_ERROR if end <= fitting else Loss.JOURNAL_FULL
        self.lost_at = time.monotonic()

    def rotate_old(self, seconds: float) -> None:
        """Closes segments that were begun so long ago and hold hits, so that they can be shipped for good and removed.

        Belongs to the thread that appends. A segment that cannot be made now is made at the next call.
        """
        for stream in self._streams.values():
            if stream.size and time.monotonic() - stream.begun_at >= seconds:
                try:
                    stream.rotate()
                except OSError as error:
                    _log.warning("a journal segment cannot be closed; trying on", error=place_of(error))

    def prepare(self) -> None:
        """Makes files for the next segments, so that no rotation waits for the disk. For the thread that syncs."""
        for stream in self._streams.values():
            stream.prepare()

    def mend(self) -> None:
        """Notices what somebody did: to a segment, so that a new one begins; to the lock, which is taken anew.

        OSError if the disk refuses. For the thread that syncs.
        """
        for stream in self._streams.values():
            stream.look()
        if not is_file(self._lock, self.directory / WRITER_LOCK):
            taken = lock(self.directory, WRITER_LOCK)
            if taken is not None:  # else a shipper has it for a moment, to see whether we live
                held, self._lock = self._lock, taken
                os.close(held)

    def sync(self) -> None:
        """Waits until everything written before the call is on the disk; OSError when the disk refuses.

        It blocks for milliseconds: call it from a thread, only one at a time.
        """
        for stream in self._streams.values():
            stream.sync()

    def close(self) -> None:
        """Syncs, closes the segments and gives up the lock, so that a shipper may adopt the journal."""
        try:
            self.sync()
        finally:
            for stream in self._streams.values():
                stream.close()
            os.close(self._lock)


class _StreamFile:
    """The stream's open segment; `torn` says that half a line could not be cut off, so that a new one must begin.

    Full segments wait in `_full` for the thread that syncs: only that thread closes them, so that no descriptor is ever
    closed, and its number used again, under a sync.
    """

    def __init__(self, directory: Path, stream: Stream) -> None:
        self._directory = directory
        self._stream = stream
        self._number = 0
        self._descriptor = -1
        self._spare = -1
        self._full: deque[int] = deque()
        self.size = 0
        self.begun_at = time.monotonic()
        self.torn = False
        self.waiting: list[_Waiting] = []
        self._open_next()

    def prepare(self) -> None:
        """Makes the next segment's file without a name, so that a rotation only has to give it one. For a thread."""
        if self._spare < 0:
            flags = os.O_WRONLY | os.O_APPEND | os.O_TMPFILE | os.O_CLOEXEC
            with contextlib.suppress(OSError):  # not every file system can; a rotation makes the file itself then
                self._spare = os.open(self._directory, flags, 0o600)

    def _open_next(self) -> None:
        path = segment_path(self._directory, self._stream, self._number + 1)
        descriptor, self._spare = self._spare, -1
        if descriptor < 0 or not _name(descriptor, path):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        if self._number:
            # Before the new one is in its place: a sync in between must see the full one at either.
            self._full.append(self._descriptor)
        self._number, self._descriptor, self.size = self._number + 1, descriptor, 0
        self.begun_at = time.monotonic()

    def rotate(self) -> None:
        self._open_next()
        self.torn = False

    def look(self) -> None:
        """Leaves the open segment at the next hit if somebody removed or cut it: not all in it would be read."""
        size = self.size  # first: the file is never shorter than what was written to it by then
        found = os.fstat(self._descriptor)
        if found.st_nlink == 0 or found.st_size < size:
            self.torn = True

    def write(self, lines: bytes) -> int:
        """Appends whole lines; returns how many bytes of them are there, which always is a number of whole lines."""
        written = 0
        refused = None
        try:
            while written < len(lines):  # the second try after a part of it says what is wrong
                written += os.write(self._descriptor, lines[written:] if written else lines)
        except OSError as error:
            refused = error.errno
        if written != len(lines):
            # The disk took a part of it: cut off the half line, or the next line would be damaged with it.
            written = _whole(lines, written)
            self.torn = True
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self.size + written)
                # A disk without room has none for another file either; any other trouble may be this file's alone.
                self.torn = self.size + written > 0 and refused not in (errno.ENOSPC, errno.EDQUOT)
        self.size += written
        return written

    def sync(self) -> None:
        os.fdatasync(self._descriptor)
        fulls = len(self._full)  # the next call takes what gets full meanwhile, so that its directory entry is synced
        if fulls:
            _sync_directory(self._directory)  # a rotation made a file: its name must survive too
        for _ in range(fulls):
            os.fdatasync(self._full[0])
            os.close(self._full.popleft())

    def close(self) -> None:
        for descriptor in (*self._full, self._descriptor, self._spare):
            if descriptor >= 0:
                os.close(descriptor)


def _name(descriptor: int, path: Path) -> bool:
    """Gives a file without a name its name; False, and it is closed, where that cannot be."""
    try:
        # Only with a directory's descriptor, which an absolute path does not use, os.link follows the link in /proc.
        os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor, follow_symlinks=True)
    except OSError:
        os.close(descriptor)
        return False
    return True


def _whole(lines: bytes, size: int) -> int:
    """How many of the first `size` bytes are whole lines."""
    return len(lines) if size >= len(lines) else lines.rfind(b"\n", 0, max(size, 0)) + 1


def _unwritable(journals: Path, error: OSError) -> DiskUnavailable:
    return DiskUnavailable(
        f"no journal can be made in {journals} ({error.strerror}); make room or give the right to write,"
        " or choose another MAILTRAIL_DATA_DIRECTORY"
    )


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
