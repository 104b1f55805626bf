"""The journal's writing side: a hit is in the file before its answer leaves.

Invariants: one `write` for all hits of a call and a stream, and nothing else that waits for the disk; the writer never
writes more than its `room`; a hit that could not be written is a `Loss` with its reason, never an exception towards the
recipient; a journal that is left is synced before its lock is given up.
"""

import time
from collections import deque
from collections.abc import Sequence
from enum import Enum
from pathlib import Path

import structlog

from ..errors import DiskUnavailable
from ..logs import place_of
from ..tracking.hits import Hit
from .files import JournalFiles, StreamFile, WaitingLine, whole_lines
from .lines import encode_line

_log = structlog.get_logger()


class Loss(Enum):
    """Why a hit is not in the journal; the label of the counter."""

    JOURNAL_FULL = "journal_full"
    WRITE_ERROR = "write_error"


class JournalWriter:
    """One collector's journal. Not for use by several threads, save `prepare`, `mend`, `move_on` and `sync`, which one
    other thread may call.

    `room` is what may still be written, in bytes: whoever watches over all journals renews it. `written` counts what
    was written so far; `last_loss` is the last hit's that could not be, with the monotonic second of `lost_at`.
    """

    def __init__(self, journals: Path, *, segment_bytes: int, max_bytes: int) -> None:
        """Makes a new directory below `journals`; DiskUnavailable if it cannot."""
        try:
            self._files = JournalFiles(journals)
        except OSError as error:
            raise DiskUnavailable.at(journals, error) from error
        self._journals = journals
        self._next: JournalFiles | None = None
        self._left: deque[JournalFiles] = deque()
        self._segment_bytes = segment_bytes
        self.room = max_bytes
        self.written = 0
        self.last_loss: Loss | None = None
        self.lost_at = float("-inf")

    @property
    def directory(self) -> Path:
        """The journal in which hits are written now."""
        return self._files.directory

    def append(self, hit: Hit) -> Loss | None:
        """Writes one hit; None when it is in the file, else why it is not."""
        return self.append_all((hit,))[0]

    def append_all(self, hits: Sequence[Hit]) -> list[Loss | None]:
        """Writes the hits, with one write for each stream; for each None when it is in the file, else why it is not."""
        if self._next is not None:
            self._leave(self._next)
        losses: list[Loss | None] = [None] * len(hits)
        by_mode = self._files.by_mode
        for place, hit in enumerate(hits):
            by_mode[hit.mode].waiting.append((place, encode_line(hit)))
        for stream in self._files.streams:
            if stream.waiting:
                waiting, stream.waiting = stream.waiting, []
                self._write(stream, waiting, losses)
        return losses

    def _write(self, stream: StreamFile, waiting: Sequence[WaitingLine], losses: list[Loss | None]) -> None:
        data = b"".join([line for _, line in waiting])
        fitting = whole_lines(data, self.room)
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

    def _lose(self, waiting: Sequence[WaitingLine], written: int, fitting: int, losses: list[Loss | None]) -> None:
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
        for stream in self._files.streams:
            if stream.size and time.monotonic() - stream.begun_at >= seconds:
                try:
                    stream.rotate()
                except OSError as error:
                    _log.warning("a journal segment cannot be closed; trying on", error=place_of(error))

    def prepare(self) -> None:
        """Makes files for the next segments, so that no rotation waits for the disk."""
        self._files.prepare()

    def mend(self) -> None:
        """Notices what somebody did to the journal's files; OSError if the disk refuses."""
        self._files.mend()

    def move_on(self) -> None:
        """Makes another journal, in which the next hit begins; OSError, and the writer stays, if it cannot."""
        if self._next is None:
            self._next = JournalFiles(self._journals)

    def _leave(self, following: JournalFiles) -> None:
        # In this order: a sync in between must see the journal that is left at one of both places.
        self._left.append(self._files)
        self._files, self._next = following, None

    def sync(self) -> None:
        """Waits until everything written before the call is on the disk; OSError when the disk refuses.

        It blocks for milliseconds: call it from a thread, only one at a time.
        """
        self._files.sync()
        while self._left:
            self._left[0].sync()
            self._left.popleft().close()

    def close(self) -> None:
        """Syncs, closes the segments and gives up the lock, so that a shipper may adopt the journal."""
        try:
            self.sync()
        finally:
            for files in (*self._left, self._files, self._next):
                if files is not None:
                    files.close()
