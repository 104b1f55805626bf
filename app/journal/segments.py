"""The journal's files: one directory a collector start, two streams of numbered segments, two locks.

    journals/<id>/writer.lock  shipper.lock  identified-00000001.seg  reduced-00000001.seg …

Identified hits (person_based) and reduced ones lie in streams of their own: between two exactly timed lines an
anonymized one would be timed by its neighbours. State is derived from the segments alone; there is no second ledger.
"""

import fcntl
import os
from dataclasses import dataclass
from enum import Enum
from io import BytesIO
from pathlib import Path

from ..tracking.modes import Mode

WRITER_LOCK = "writer.lock"
SHIPPER_LOCK = "shipper.lock"
SEGMENT_GLOB = "*.seg"


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
    """The stream's segments that are there, in order; files of any other name are not ours and are left alone."""
    found = []
    for path in journal.glob(f"{stream.value}-*.seg"):
        number = path.stem.removeprefix(f"{stream.value}-")
        if number.isdecimal():
            found.append(Segment(int(number), path))
    return sorted(found)


def lock(journal: Path, name: str) -> int | None:
    """Takes a lock: a close-on-exec descriptor that holds it until it is closed, None if another process does."""
    descriptor = os.open(journal / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


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
