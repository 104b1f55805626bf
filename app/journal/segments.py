"""The journal's files: a directory for each writer, two streams of numbered segments, two locks.

    journals/<id>/writer.lock  shipper.lock  identified-00000001.seg  reduced-00000001.seg …

Identified hits (person_based) and reduced ones lie in streams of their own: between two exactly timed lines an
anonymized one would be timed by its neighbours. State is derived from the segments alone; there is no second ledger.
"""

import fcntl
import os
import re
from dataclasses import dataclass
from enum import Enum
from io import BytesIO
from pathlib import Path

from ..tracking.modes import Mode

WRITER_LOCK = "writer.lock"
SHIPPER_LOCK = "shipper.lock"
MOVE_ON = "move-on"
"""A file that asks the writer to go on in another journal, because what waits in this one holds up what comes."""

SEGMENT_GLOB = "*.seg"
_NAME = re.compile(r"([a-z]+)-([0-9]+)\.seg", re.ASCII)


class Stream(Enum):
    """Which hits a segment holds."""

    IDENTIFIED = "identified"
    REDUCED = "reduced"

    @classmethod
    def of(cls, mode: Mode) -> "Stream":
        return cls.IDENTIFIED if mode is Mode.PERSON_BASED else cls.REDUCED


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """One file of a stream; numbers start at 1 and only grow."""

    number: int
    path: Path


def segment_path(journal: Path, stream: Stream, number: int) -> Path:
    return journal / f"{stream.value}-{number:08d}.seg"


def segments(journal: Path, stream: Stream) -> list[Segment]:
    """The stream's segments that are there, in order; what has any other name, or is no file, is left alone."""
    found = []
    with os.scandir(journal) as entries:
        for entry in entries:
            match = _NAME.fullmatch(entry.name)
            # Not everything with the name is waited for: a directory or a dead link will never be a file again.
            if match and match[1] == stream.value and entry.is_file():
                found.append(Segment(int(match[2]), Path(entry.path)))
    return sorted(found)


def bytes_behind(journal: Path, stream: Stream, number: int, offset: int) -> int:
    """How much of a stream lies behind a place in a segment, in bytes."""
    behind = [segment for segment in segments(journal, stream) if segment.number >= number]
    passed = offset if behind and behind[0].number == number else 0
    return max(0, sum(segment.path.stat().st_size for segment in behind) - passed)


def lock(journal: Path, name: str) -> int | None:
    """Takes a lock: a close-on-exec descriptor that holds it until it is closed, None if another process does."""
    descriptor = os.open(journal / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def is_held(journal: Path, name: str) -> bool:
    """Whether a process holds the lock. Tried for a moment, so that whoever wants it just then must come again."""
    try:
        descriptor = os.open(journal / name, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def is_file(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one at the path: a lock that was unlinked locks nothing."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def read_lines(segment: Path, offset: int, max_bytes: int) -> tuple[list[bytes], int]:
    """Whole lines from `offset` on, at least one if there is one, and the offset behind them.

    A last line without its newline is not whole: it is being written, or torn, and is left where it is.
    """
    # Unbuffered, and no read after the end: it could join half a line that its writer takes back with what it writes
    # instead.
    with segment.open("rb", buffering=0) as file:
        file.seek(offset)
        asked = max_bytes
        chunk = part = file.read(asked)
        while len(part) == asked and b"\n" not in part:
            asked = len(chunk)
            part = file.read(asked)
            chunk += part
    whole = chunk[: chunk.rfind(b"\n") + 1]
    # Not splitlines(): damage may have put other line ends into a line, and offsets must add up.
    return BytesIO(whole).readlines(), offset + len(whole)
