"""Batches: journal lines on their way to the store, hits told from damage.

Invariants: every line is in its batch exactly once, as a hit or as damage; no batch holds hits of both streams; a
reduced batch is in random order, so that nothing behind it tells which of its hits came first.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from struct import unpack
from typing import Generic, Protocol, TypeVar

from ..errors import MailtrailError
from ..journal.lines import DamagedLine
from ..journal.segments import Stream
from .journals import Position
from .rows import MODES, Row, read_row

Packed = TypeVar("Packed")
"""What a store makes of a row as soon as it is read: what it will send, say."""


@dataclass(frozen=True, slots=True)
class Batch(Generic[Packed]):
    """What one transaction of the store takes: the lines of one stream of a journal between two positions."""

    journal: str
    stream: Stream
    start: Position | None
    """Where the store says that the stream is shipped to; None: it knows nothing of it yet."""
    end: Position
    rows: list[Packed] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)
    """What the rows were read from, each at its row's place."""
    damaged: list[bytes] = field(default_factory=list)

    def take(self, lines: Iterable[bytes], pack: Callable[[Row], Packed]) -> None:
        """Adds lines as they were read, with their rows as the store packs them."""
        modes = MODES[self.stream]
        for line in lines:
            try:
                row = read_row(line)
            except DamagedLine:
                self.damaged.append(line)
                continue
            if row.mode in modes:
                self.rows.append(pack(row))
                self.lines.append(line)
            else:
                self.damaged.append(line)

    def shuffle(self) -> None:
        """Takes the lines' order away, with the system's randomness."""
        order = _random_order(len(self.rows))
        self.rows[:] = [self.rows[place] for place in order]
        self.lines[:] = [self.lines[place] for place in order]
        self.damaged[:] = [self.damaged[place] for place in _random_order(len(self.damaged))]


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a batch's hits: `rows` are in the store, `clamped` of them with another time; or `refused`."""

    rows: int
    clamped: int
    refused: int


class Conflict(MailtrailError):
    """Another shipper moved the watermark: nothing was written, ask for the true one and go on from there."""


class Store(Protocol[Packed]):
    """Where hits go. Whatever it raises, StoreUnavailable means that nothing else can be written either just now."""

    async def watermarks(self, journal: str) -> dict[Stream, Position]:
        """How far the journal's streams are shipped; a stream that is missing was never shipped from."""

    def pack(self, row: Row) -> Packed:
        """What a batch keeps of a row until it is written; a row that is just read is in the processor's cache."""

    async def write(self, batch: Batch[Packed]) -> Written:
        """Writes the batch and moves the watermark from its start to its end, both or neither; raises Conflict."""

    async def forget(self, journal: str) -> None:
        """Forgets the watermarks of a journal that is gone from the disk."""

    async def keep_house(self) -> list[Exception]:
        """Does what is due every few minutes; returns what went wrong with it."""

    def disconnect(self) -> None:
        """Lets go of every connection, at once; whatever is called next connects anew."""


def _random_order(number: int) -> list[int]:
    """The places 0 to `number` - 1, sorted by 64 random bits each."""
    keys = unpack(f"{number}Q", os.urandom(8 * number))
    return sorted(range(number), key=keys.__getitem__)
