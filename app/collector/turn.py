"""A turn: what came within a few rounds of the event loop, over all connections, is decided, journaled and answered
together.

One write for all hits instead of one each, and answers that leave one after the other: under load this more than halves
what a hit costs, because the same few things are done again and again (docs/performance.md). When little comes, a turn
has one request and ends after one more look at the network. Invariants: an answer leaves after its hit is as durable as
the settings promise, and in the order in which the requests were added; every request that was added is answered.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from ..journal.writer import Loss
from .answer import Answer
from .client import Client
from .collector import Collector

JournalDurable = Callable[[], Awaitable[bool]]
"""Waits until everything appended before the call is on the disk; False when the disk refused."""

Reply = Callable[[Answer], object]
"""Sends an answer."""

MAX_LOOKS = 16
"""How often a turn looks at the network for more. The loop takes one new connection a look: they would come alone."""


class Turn:
    """One for each process; belongs to its event loop."""

    def __init__(self, collector: Collector, journal_durable: JournalDurable | None) -> None:
        """`journal_durable` is given where answers wait for the disk."""
        self.collector = collector
        self._journal_durable = journal_durable
        self._is_due = False
        self._looks = self._seen = 0
        self._arrivals: list[tuple[Callable[[bytes], object], bytes]] = []
        self._asked: list[tuple[str, bytes, Client]] = []
        self._replies: list[Reply] = []
        self._undurable: list[tuple[Answer, Reply]] = []
        self._syncing: asyncio.Task[None] | None = None

    def read_late(self, read: Callable[[bytes], object], data: bytes) -> None:
        """Calls `read` with what has arrived before this turn's requests are decided; it may add some."""
        self._arrivals.append((read, data))
        if not self._is_due:
            self._be_due()

    def add(self, method: str, target: bytes, client: Client, reply: Reply) -> None:
        """A request for a path below /c/ or /o/, to be answered at the end of this turn."""
        self._asked.append((method, target, client))
        self._replies.append(reply)
        if not self._is_due:
            self._be_due()

    def _be_due(self) -> None:
        self._is_due = True
        asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        """Ends the turn, unless the last look at the network brought something: then there may be more."""
        came = len(self._arrivals) + len(self._asked)
        if came > self._seen and self._looks < MAX_LOOKS:
            self._looks, self._seen = self._looks + 1, came
            asyncio.get_running_loop().call_soon(self._look)
            return
        self._looks = self._seen = 0
        self._end()

    def _end(self) -> None:
        arrivals, self._arrivals = self._arrivals, []
        for read, data in arrivals:
            try:
                read(data)
            except Exception as error:  # one connection's fault is none of the others'
                self.collector.tell_fault(error)
        self._is_due = False
        asked, self._asked = self._asked, []
        replies, self._replies = self._replies, []
        answered = zip(self.collector.take_all(asked), replies, strict=True)
        if self._journal_durable is None:
            self._answer(answered)
            return
        self._undurable += answered
        if self._syncing is None and self._undurable:
            self._syncing = asyncio.get_running_loop().create_task(self._sync(self._journal_durable), name="sync")

    async def _sync(self, journal_durable: JournalDurable) -> None:
        """Answers what waits for the disk. Whatever comes during one sync shares the next."""
        while self._undurable:
            waiting, self._undurable = self._undurable, []
            if any(made.hit is not None for made, _ in waiting) and not await self._is_durable(journal_durable):
                lose = self.collector.lose
                waiting = [(made if made.hit is None else lose(made, Loss.WRITE_ERROR), send) for made, send in waiting]
            self._answer(waiting)
        self._syncing = None

    async def _is_durable(self, journal_durable: JournalDurable) -> bool:
        try:
            return await journal_durable()
        except Exception as error:
            self.collector.tell_fault(error)
            return False

    def _answer(self, answered: Iterable[tuple[Answer, Reply]]) -> None:
        count = self.collector.count
        for made, reply in answered:
            count(made)
            try:
                reply(made)
            except Exception as error:
                self.collector.tell_fault(error)
