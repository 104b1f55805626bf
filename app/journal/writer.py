"""The journal's writing side: a hit is in the file before its answer leaves.

Invariants: a writer makes its own directory and never appends to one it finds; one `write` a hit; a failed or partial
write never leaves half a line in front of a whole one; the journal never grows beyond its bound; a hit that could not
be written is a `Loss` with its reason, never an exception towards the recipient.
"""

import os
import secrets
from enum import Enum
from pathlib import Path

from ..tracking.hits import Hit
from .lines import encode_line
from .segments import WRITER_LOCK, Stream, lock, segment_path


class Loss(Enum):
    """Why a hit is not in the journal; the label of the counter."""

    JOURNAL_FULL = "journal_full"
    WRITE_ERROR = "write_error"


class JournalWriter:
    """One collector's journal. Not for use by several threads, save `sync`."""

    def __init__(self, journals: Path, *, segment_bytes: int, max_bytes: int) -> None:
        """Makes a new directory below `journals`; `max_bytes` bounds what this writer has written in all."""
        self.id = secrets.token_hex(8)
        self.directory = journals / self.id
        self.directory.mkdir(mode=0o700, parents=True)
        descriptor = lock(self.directory, WRITER_LOCK)
        assert descriptor is not None, "a directory made a moment ago has no other writer"
        self._lock = descriptor
        self._segment_bytes = segment_bytes
        self._max_bytes = max_bytes
        self._written = 0
        self._streams = {stream: _StreamFile(self.directory, stream) for stream in Stream}

    def append(self, hit: Hit) -> Loss | None:
        """Writes the hit; None when it is in the file, else why it is not."""
        line = encode_line(hit)
        if self._written + len(line) > self._max_bytes:
            return Loss.JOURNAL_FULL
        stream = self._streams[Stream.of(hit.mode)]
        try:
            if stream.torn or (stream.size and stream.size + len(line) > self._segment_bytes):
                stream.rotate()
            stream.write(line)
        except OSError:
            return Loss.WRITE_ERROR
        self._written += len(line)
        return None

    def sync(self) -> None:
        """Waits until everything written so far is on the disk; OSError when the disk refuses."""
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
    """The stream's open segment; `torn` says that half a line could not be cut off, so that a new one must begin."""

    def __init__(self, directory: Path, stream: Stream) -> None:
        self._directory = directory
        self._stream = stream
        self._number = 0
        self._descriptor = -1
        self.size = 0
        self.torn = False
        self._open_next()

    def _open_next(self) -> None:
        path = segment_path(self._directory, self._stream, self._number + 1)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._number, self._descriptor, self.size = self._number + 1, descriptor, 0

    def rotate(self) -> None:
        full = self._descriptor
        self._open_next()
        self.torn = False
        try:
            os.fdatasync(full)
        finally:
            os.close(full)

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

    def close(self) -> None:
        os.close(self._descriptor)
