"""The journal's writing side: a hit is in the file before its answer leaves.

Invariants: a writer makes its own directory and never appends to one it finds; one `write` a hit, and nothing else that
waits for the disk; a failed or partial write never leaves half a line in front of a whole one; the writer never
writes more than its `room`; a hit that could not be written is a `Loss` with its reason, never an exception towards the
recipient.
"""

import os
import secrets
import time
from collections import deque
from enum import Enum
from pathlib import Path

import structlog

from ..logs import place_of
from ..tracking.hits import Hit
from .lines import encode_line
from .segments import WRITER_LOCK, Stream, lock, segment_path

_log = structlog.get_logger()


class Loss(Enum):
    """Why a hit is not in the journal; the label of the counter."""

    JOURNAL_FULL = "journal_full"
    WRITE_ERROR = "write_error"


class JournalWriter:
    """One collector's journal. Not for use by several threads, save `sync`, which one thread may call.

    `room` is what may still be written, in bytes: whoever watches over all journals renews it. `written` counts what
    was written so far; `last_loss` is the last hit's that could not be, with the monotonic second of `lost_at`.
    """

    def __init__(self, journals: Path, *, segment_bytes: int, max_bytes: int) -> None:
        """Makes a new directory below `journals`."""
        self.id = secrets.token_hex(8)
        self.directory = journals / self.id
        self.directory.mkdir(mode=0o700, parents=True)
        descriptor = lock(self.directory, WRITER_LOCK)
        assert descriptor is not None, "a directory made a moment ago has no other writer"
        self._lock = descriptor
        self._segment_bytes = segment_bytes
        self.room = max_bytes
        self.written = 0
        self.last_loss: Loss | None = None
        self.lost_at = float("-inf")
        self._streams = {stream: _StreamFile(self.directory, stream) for stream in Stream}
        for made in (self.directory, journals, journals.parent):
            _sync_directory(made)

    def append(self, hit: Hit) -> Loss | None:
        """Writes the hit; None when it is in the file, else why it is not."""
        line = encode_line(hit)
        if len(line) > self.room:
            return self._lose(Loss.JOURNAL_FULL)
        stream = self._streams[Stream.of(hit.mode)]
        try:
            if stream.torn or (stream.size and stream.size + len(line) > self._segment_bytes):
                stream.rotate()
            stream.write(line)
        except OSError:
            return self._lose(Loss.WRITE_ERROR)
        self.room -= len(line)
        self.written += len(line)
        return None

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

    def _lose(self, loss: Loss) -> Loss:
        self.last_loss, self.lost_at = loss, time.monotonic()
        return loss


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
        self._full: deque[int] = deque()
        self.size = 0
        self.begun_at = time.monotonic()
        self.torn = False
        self._open_next()

    def _open_next(self) -> None:
        path = segment_path(self._directory, self._stream, self._number + 1)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        if self._number:
            # Before the new one is in its place: a sync in between must see the full one at either.
            self._full.append(self._descriptor)
        self._number, self._descriptor, self.size = self._number + 1, descriptor, 0
        self.begun_at = time.monotonic()

    def rotate(self) -> None:
        self._open_next()
        self.torn = False

    def write(self, line: bytes) -> None:
        written = 0
        try:
            written = os.write(self._descriptor, line)
        finally:
            if written != len(line):
                # The disk took half of it: cut it off, or the next line would be damaged with it.
                self.torn = True
                os.ftruncate(self._descriptor, self.size)
                self.torn = False
        if written != len(line):
            raise OSError("short write")
        self.size += written

    def sync(self) -> None:
        os.fdatasync(self._descriptor)
        fulls = len(self._full)  # the next call takes what gets full meanwhile, so that its directory entry is synced
        if fulls:
            _sync_directory(self._directory)  # a rotation made a file: its name must survive too
        for _ in range(fulls):
            os.fdatasync(self._full[0])
            os.close(self._full.popleft())

    def close(self) -> None:
        for descriptor in (*self._full, self._descriptor):
            os.close(descriptor)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
