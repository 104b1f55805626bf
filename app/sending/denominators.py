"""The messages of many mails counted together, as they leave: the denominators of their mailings.

Invariant: a message is written once; what could not be written stays and is written with the next.
"""

import asyncio
import contextlib
from collections import Counter

from ..store import settings as store
from ..store.pool import Connection, Database
from ..tracking.modes import Mode


class Denominators:
    """Counts of one process; `total` are not written yet."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._counts: Counter[tuple[int, Mode, str]] = Counter()
        self._writing = asyncio.Lock()

    @property
    def total(self) -> int:
        return self._counts.total()

    def add(self, mailing: int, ceiling: Mode, reason: str) -> None:
        """One more message under this ceiling, or untracked for this reason."""
        self._counts[mailing, ceiling, reason] += 1

    async def write(self) -> None:
        """Returns when everything that was added before is committed; who waits for another's commit shares the next.

        StoreUnavailable while the database is away.
        """
        async with self._writing:
            if not self._counts:  # whoever was here before has written ours, too
                return
            counts, self._counts = self._counts, Counter()
            try:
                async with self._database.connection() as connection:
                    await _write(connection, counts)
            except BaseException:
                self._counts += counts
                raise


async def _write(connection: Connection, counts: Counter[tuple[int, Mode, str]]) -> None:
    # One statement is a transaction of its own, and spares two ways to the database.
    async with connection.transaction() if len(counts) > 1 else contextlib.nullcontext():
        for mailing, ceiling, reason in sorted(
            counts
        ):  # in one order for all senders, or two would wait for each other
            messages = counts[mailing, ceiling, reason]
            await store.count_sent(connection, mailing, ceiling, messages, reason=reason)
