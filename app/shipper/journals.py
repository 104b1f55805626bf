"""Journals as their shipper sees them: adopted by their lock, read in whole lines, removed when their time is over.

Invariants: a segment is left only after its last whole line was read; nothing is ever written to a segment; a journal's
files go only when all that is in them is committed, and before the store forgets how far they were shipped.
"""

import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..journal.segments import (
    MOVE_ON,
    SHIPPER_LOCK,
    WRITER_LOCK,
    Segment,
    Stream,
    is_file,
    lock,
    read_lines,
    segments,
)

NEW_SECONDS = 60.0
"""A directory without segments or without its writer's lock is given this time: a writer may be about to make them."""

_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in a stream: a segment's number, and how many of its bytes lie before."""

    segment: int
    offset: int


START = Position(1, 0)


@dataclass(frozen=True, slots=True)
class Reading:
    """What lies behind a position: whole lines, and the position behind them.

    Without lines, an `end` that moved says what was passed: a half line that is never finished (`torn`), a segment that
    is shorter than what was read of it (`short`), segments that are gone (`missing`: how many), or a segment's end.
    `more` says that it is worth reading on at once, `final` that nothing will ever be there.
    """

    lines: list[bytes]
    end: Position
    more: bool = False
    final: bool = False
    torn: bool = False
    short: bool = False
    missing: int = 0


class Journal:
    """One journal, from `adopt` to `release` or `remove_directory`. Its methods may be called from a thread."""

    def __init__(self, directory: Path, shipper_lock: int) -> None:
        self.id = directory.name
        self.directory = directory
        self._lock = shipper_lock
        self._writer_gone = False
        self._had_lock = (directory / WRITER_LOCK).exists()
        self._misses_since = math.inf

    def read(self, stream: Stream, start: Position, max_lines: int, max_bytes: int) -> Reading:
        """What lies behind `start`; about `max_bytes` at most, but a whole line if there is one. Raises OSError."""
        # What closes a segment is asked before its end is read; the other way round, the last line of a segment that
        # gets its successor in between would be left behind.
        gone = self.writer_is_gone()
        there = [segment for segment in segments(self.directory, stream) if segment.number >= start.segment]
        if not there:
            return Reading([], start, final=gone)
        segment, *successors = there
        if segment.number > start.segment:
            return Reading([], Position(segment.number, 0), more=True, missing=segment.number - start.segment)
        closed = gone or bool(successors)
        size = segment.path.stat().st_size
        if size < start.offset:
            # A living writer goes on at the new end; what it writes there is not yet shipped.
            end = Position(segment.number + 1, 0) if closed else Position(segment.number, size)
            return Reading([], end, more=True, short=True)
        lines, behind = read_lines(segment.path, start.offset, max_bytes)
        if len(lines) > max_lines:
            del lines[max_lines:]
            behind = start.offset + sum(map(len, lines))
        if lines:
            return Reading(lines, Position(segment.number, behind), more=closed or behind < size)
        if not closed:
            return Reading([], start)
        torn = size > start.offset
        if successors:
            return Reading([], Position(segment.number + 1, 0), more=True, torn=torn)
        return Reading([], Position(segment.number, size), more=torn, final=not torn, torn=torn)

    @property
    def is_left(self) -> bool:
        """Whether the writer was gone when it was last looked for."""
        return self._writer_gone

    def ask_to_move_on(self) -> None:
        """Asks the writer, if it lives, to go on in another journal. Raises OSError."""
        (self.directory / MOVE_ON).touch(mode=0o600)

    def writer_is_gone(self) -> bool:
        """Whether nothing will ever be appended: its writer's lock is free, and no other writer opens this journal."""
        # `adopt` has waited until its writer, if it lives, holds the lock: it never finds it taken by us.
        if not self._writer_gone and not self._misses_lock():
            descriptor = lock(self.directory, WRITER_LOCK)
            if descriptor is not None:
                os.close(descriptor)
                self._writer_gone = True
        return self._writer_gone

    def _misses_lock(self) -> bool:
        """Whether the writer's lock was removed a moment ago: a writer that lives takes it anew."""
        if not self._had_lock or (self.directory / WRITER_LOCK).exists():
            self._misses_since = math.inf
            return False
        now = time.monotonic()
        self._misses_since = min(self._misses_since, now)
        return now - self._misses_since < NEW_SECONDS

    def unlink_shipped(self, shipped: Mapping[Stream, Position], written_before: float) -> None:
        """Unlinks segments that lie wholly before what is shipped, last written before a Unix time."""
        for stream, position in shipped.items():
            for segment in segments(self.directory, stream):
                if segment.number < position.segment and segment.path.stat().st_mtime < written_before:
                    segment.path.unlink()

    def unlink_old(self, written_before: float) -> float | None:
        """For a journal that is shipped for good: unlinks segments last written before a Unix time.

        Returns when the oldest of the others was last written; None when none is left, and their absence is durable.
        """
        left = []
        for segment in self._segments():
            written_at = segment.path.stat().st_mtime
            if written_at < written_before:
                segment.path.unlink()
            else:
                left.append(written_at)
        if left:
            return min(left)
        descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return None

    def remove_directory(self) -> None:
        """Removes what is left of a journal without segments; OSError if somebody's files are in it. Releases it."""
        try:
            for name in (MOVE_ON, WRITER_LOCK, SHIPPER_LOCK):
                (self.directory / name).unlink(missing_ok=True)
            self.directory.rmdir()
        finally:
            self.release()

    def release(self) -> None:
        """Gives up the lock, if it is not given up yet: another shipper may adopt the journal."""
        descriptor, self._lock = self._lock, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _segments(self) -> Iterator[Segment]:
        for stream in Stream:
            yield from segments(self.directory, stream)


def find_journals(journals: Path) -> list[Path]:
    """The directories of journals, in no order; whatever has another name is no journal and is left alone."""
    try:
        with os.scandir(journals) as entries:
            return [Path(entry) for entry in entries if _ID.fullmatch(entry.name) and entry.is_dir()]
    except FileNotFoundError:  # no collector has started yet
        return []


def adopt(directory: Path) -> Journal | None:
    """Takes the journal's lock; None where another shipper has it, or it is just being made or removed.

    A journal with segments has been locked by its writer before.

    Raises OSError if the journal cannot be opened.
    """
    is_young = time.time() - directory.stat().st_mtime < NEW_SECONDS
    is_locked = (directory / WRITER_LOCK).exists()
    if is_young and not (is_locked and any(segments(directory, stream) for stream in Stream)):
        return None
    descriptor = lock(directory, SHIPPER_LOCK)
    if descriptor is None:
        return None
    # A lock that was unlinked by its holder, between our opening and locking it, locks nothing.
    if not is_file(descriptor, directory / SHIPPER_LOCK):
        os.close(descriptor)
        return None
    return Journal(directory, descriptor)
