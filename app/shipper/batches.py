"""Batches: journal lines on their way to the store, hits told from damage.

Invariants: every line is in its batch exactly once, as a hit or as damage; no batch holds hits of both streams; a
reduced batch is in random order, so that nothing behind it tells which of its hits came first.
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC
from random import SystemRandom
from typing import Protocol

from ..errors import MailtrailError
from ..journal.lines import DamagedLine, decode_line
from ..journal.segments import Stream
from ..tracking.hits import Hit
from ..tracking.modes import Mode
from .journals import Position

Line = tuple[Hit, bytes]
"""A hit with the line it was read from."""

_INT64 = 2**63
_INT32 = 2**31
_random = SystemRandom()


@dataclass(frozen=True, slots=True)
class Batch:
    """What one transaction of the store takes: the lines of one stream of a journal between two positions."""

    journal: str
    stream: Stream
    start: Position | None
    """Where the store says that the stream is shipped to; None: it knows nothing of it yet."""
    end: Position
    hits: list[Line] = field(default_factory=list)
    damaged: list[bytes] = field(default_factory=list)

    def take(self, lines: Iterable[bytes]) -> None:
        """Adds lines as they were read."""
        for line in lines:
            try:
                hit = decode_line(line)
            except DamagedLine:
                self.damaged.append(line)
                continue
            if Stream.of(hit.mode) is self.stream and _is_sound(hit):
                self.hits.append((hit, line))
            else:
                self.damaged.append(line)

    def shuffle(self) -> None:
        """Takes the lines' order away, with the system's randomness."""
        _random.shuffle(self.hits)
        _random.shuffle(self.damaged)


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a batch's hits: `rows` are in the store, `clamped` of them with another time; or `refused`."""

    rows: int
    clamped: int
    refused: int


class Conflict(MailtrailError):
    """Another shipper moved the watermark: nothing was written, ask for the true one and go on from there."""


class Store(Protocol):
    """Where hits go. Whatever it raises, StoreUnavailable means that nothing else can be written either just now."""

    async def watermarks(self, journal: str) -> dict[Stream, Position]:
        """How far the journal's streams are shipped; a stream that is missing was never shipped from."""

    async def write(self, batch: Batch) -> Written:
        """Writes the batch and moves the watermark from its start to its end, both or neither; raises Conflict."""

    async def forget(self, journal: str) -> None:
        """Forgets the watermarks of a journal that is gone from the disk."""

    async def keep_house(self) -> list[Exception]:
        """Does what is due every few minutes; returns what went wrong with it."""

    def disconnect(self) -> None:
        """Lets go of every connection, at once; whatever is called next connects anew."""


def _is_sound(hit: Hit) -> bool:
    """Whether every value has the type and range that the store has room for: a right checksum does not say so."""
    return (
        hit.mode is not Mode.OFF
        and type(hit.hit_id) is int
        and -_INT64 <= hit.hit_id < _INT64
        and type(hit.space) is int
        and -_INT64 <= hit.space < _INT64
        and type(hit.event) is int
        and -_INT64 <= hit.event < _INT64
        and type(hit.mailing) is int
        and -_INT64 <= hit.mailing < _INT64
        and type(hit.link) is int
        and -_INT32 <= hit.link < _INT32
        and type(hit.link_registered) is bool
        and type(hit.agent_kind) is str
        and hit.at.tzinfo is UTC
        and (hit.agent_family is None or type(hit.agent_family) is str)
        and (hit.recipient is None or type(hit.recipient) is str)
        and (hit.user_agent is None or type(hit.user_agent) is str)
        and (hit.url is None or type(hit.url) is str)
        and (hit.client_address is None or _is_address(hit.client_address))
    )


def _is_address(value: object) -> bool:
    if type(value) is not str:
        return False
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True
