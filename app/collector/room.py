"""The room for connections: as many as a process's descriptors allow, with some left for its journal.

Invariants: a new connection always gets in; for it the one goes that has been open longest among those that never asked
anything, else among those that nobody waits on; each is counted, and the log tells of it once in a while.
"""

import resource
import time
from collections.abc import Iterator
from itertools import chain
from typing import Protocol

import structlog

from ..metrics import Metrics

RESERVED = 128
"""Descriptors for everything that is no connection: journal, snapshot, metrics, database, libraries, private port."""

LOG_SECONDS = 60.0

_log = structlog.get_logger()


class Connection(Protocol):
    """As much of a connection as its room needs to know."""

    @property
    def is_busy(self) -> bool:
        """Whether somebody waits for an answer here."""

    def end(self) -> None:
        """Ends the connection at once."""


class Room:
    """One for each process."""

    def __init__(self, most: int, metrics: Metrics) -> None:
        """`most` connections at a time."""
        self._most = most
        self._shed = metrics.connections_shed
        # In the order in which they came.
        self._strangers: dict[Connection, None] = {}
        self._known: dict[Connection, None] = {}
        self._told = float("-inf")

    def enter(self, connection: Connection) -> None:
        """A new one is here."""
        self._strangers[connection] = None
        if len(self._strangers) + len(self._known) > self._most:
            self._make_room(connection)

    def know(self, connection: Connection) -> None:
        """It has asked something."""
        if self._strangers.pop(connection, self) is None:  # else it has left
            self._known[connection] = None

    def leave(self, connection: Connection) -> None:
        """It is gone."""
        self._strangers.pop(connection, None)
        self._known.pop(connection, None)

    def _make_room(self, new: Connection) -> None:
        ended = next(self._idle(new), new)
        self.leave(ended)
        ended.end()
        self._shed.inc()
        if (now := time.monotonic()) - self._told > LOG_SECONDS:
            self._told = now
            _log.warning("as many connections as descriptors allow; the idlest are ended for new ones", most=self._most)

    def _idle(self, new: Connection) -> Iterator[Connection]:
        return (each for each in chain(self._strangers, self._known) if each is not new and not each.is_busy)


def most_connections() -> int:
    """How many this process may have under its limit of descriptors."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(limit // 2, limit - RESERVED)
