"""One journal's files as its writer has them: the directory, the writer's lock, the open segment of each stream.

Invariants: a writer makes its own directory and never appends to one it finds; a failed or partial write never leaves
half a line in front of a whole one; what a sync works on is closed by the thread that syncs alone.
"""

import contextlib
import errno
import os
import secrets
import shutil
import time
from collections import deque
from pathlib import Path

from ..tracking.modes import Mode
from .segments import MOVE_ON, WRITER_LOCK, Stream, is_file, lock, segment_path


class JournalFiles:
    """A new journal, locked. What is done to its `streams` belongs to one thread, the methods to another."""

    def __init__(self, journals: Path) -> None:
        """Makes the directory below `journals` and its first segments, all of it durable; OSError if it cannot."""
        self.directory = journals / secrets.token_hex(8)
        self.directory.mkdir(mode=0o700, parents=True)
        with contextlib.ExitStack() as undo:
            undo.callback(shutil.rmtree, self.directory, ignore_errors=True)
            descriptor = lock(self.directory, WRITER_LOCK)
            assert descriptor is not None, "a directory made a moment ago has no other writer"
            self._lock = descriptor
            undo.callback(os.close, descriptor)
            self.streams: list[StreamFile] = []
            for stream in Stream:
                self.streams.append(StreamFile(self.directory, stream))
                undo.callback(self.streams[-1].close)
            for directory in (self.directory, journals, journals.parent):
                _sync_directory(directory)
            undo.pop_all()
        by_stream = dict(zip(Stream, self.streams, strict=True))
        self.by_mode = [by_stream[Stream.of(mode)] for mode in sorted(Mode)]

    def prepare(self) -> None:
        """Makes files for the next segments, so that no rotation waits for the disk."""
        for stream in self.streams:
            stream.prepare()

    def mend(self) -> None:
        """Notices what somebody did: to a segment, so that a new one begins; to the lock, which is taken anew.

        OSError if the disk refuses.
        """
        for stream in self.streams:
            stream.look()
        if not is_file(self._lock, self.directory / WRITER_LOCK):
            taken = lock(self.directory, WRITER_LOCK)
            if taken is not None:  # else a shipper has it for a moment, to see whether we live
                held, self._lock = self._lock, taken
                os.close(held)

    def sync(self) -> None:
        """Waits until everything written before the call is on the disk; OSError when the disk refuses."""
        for stream in self.streams:
            stream.sync()

    def close(self) -> None:
        """Closes the segments and gives up the lock, so that a shipper sees that nothing more will come."""
        for stream in self.streams:
            stream.close()
        with contextlib.suppress(OSError):  # whoever ships the journal removes it with the rest
            (self.directory / MOVE_ON).unlink(missing_ok=True)
        os.close(self._lock)


WaitingLine = tuple[int, bytes]
"""A hit's place in the call, and its line."""


class StreamFile:
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
        self.waiting: list[WaitingLine] = []
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
        number, size = self._number, self.size  # first: the file is never shorter than what was written to it by then
        found = os.fstat(self._descriptor)
        if number == self._number and (found.st_nlink == 0 or found.st_size < size):
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
            written = whole_lines(lines, written)
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


def whole_lines(lines: bytes, size: int) -> int:
    """How many of the first `size` bytes are whole lines."""
    return len(lines) if size >= len(lines) else lines.rfind(b"\n", 0, max(size, 0)) + 1


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
