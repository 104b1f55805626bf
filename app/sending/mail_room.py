"""Whole mails prepared one after the other: what they have in common is asked of the database once a second.

Invariants: a ceiling comes from settings that were read at most a second before; links are registered before a mail is
handed over; memory does not grow with the number of mails. For use by any number of tasks of one event loop.
"""

import time
from collections.abc import Callable, Collection, Sequence

from ..config import Settings
from ..store import keys
from ..store import settings as store
from ..store.pool import Database
from ..tracking.links import LinkEntry
from ..tracking.tokens import KeyRing
from .believed import Believed, remember
from .denominators import Denominators
from .dispatch import Dispatch, Terms, read_terms
from .html_links import Link
from .prepare import Limits, Prepared, make_ready, number_links
from .sources import Source

_NO_LIMITS = Limits()


class MailRoom:
    """Prepares mails as `prepare` does, and counts them in groups; `who` is in the audit log of mailings made."""

    def __init__(
        self, database: Database, settings: Settings, who: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._settings = settings
        self._who = who
        self._believed = Believed(clock)
        self._denominators = Denominators(database)
        self._mailings: dict[tuple[int, int | None, str], int] = {}
        self._shown: dict[tuple[int, LinkEntry], int] = {}
        """Numbers of links that enough recipients have had: nobody is marked for them any more."""

    async def mailing(self, space: int, event: int | None, name: str) -> int:
        """The mailing of this name, made at its first use; without an event a group of the relay."""
        known = self._mailings.get((space, event, name))
        if known is None:
            async with self._database.connection() as connection:
                row, _ = await store.ensure_mailing(connection, self._who, space, event, name)
            known = remember(self._mailings, (space, event, name), int(row["id"]))
        return known

    async def prepare(self, source: Source, dispatch: Dispatch, limits: Limits = _NO_LIMITS) -> Prepared:
        """The mail, not counted yet; raises as `make_ready`, and StoreUnavailable while the database is away."""
        return await make_ready(self, source, dispatch, self._settings, limits)

    async def count(self, mailing: int, prepared: Prepared) -> None:
        """Counts a mail that was handed over, and returns when that is committed; on StoreUnavailable it is kept."""
        if prepared.counted:
            self._denominators.add(mailing, prepared.ceiling, prepared.reason)
            await self._denominators.write()

    async def close(self) -> None:
        """Writes what could not be written so far."""
        await self._denominators.write()

    # --- what `make_ready` asks ---------------------------------------------------------------------------------------

    async def terms(self, dispatch: Dispatch) -> Terms:
        asked_for = dispatch.space, dispatch.event, dispatch.mailing, dispatch.permission

        async def ask() -> Terms:
            async with self._database.connection() as connection:
                return await read_terms(connection, self._settings, *asked_for)

        return await self._believed.ask(("terms", *asked_for), ask)

    async def ring(self, space: int, key_ids: Collection[int]) -> KeyRing:
        async def ask() -> KeyRing:
            async with self._database.connection() as connection:
                return await keys.key_ring(connection, space, key_ids)

        # A mail that has tokens may have those of whatever key.
        return await ask() if key_ids else await self._believed.ask(("ring", space), ask)

    async def number(self, dispatch: Dispatch, links: Sequence[Link], entries: Sequence[LinkEntry]) -> list[int]:
        mailing = dispatch.mailing
        known = [self._shown.get((mailing, entry)) for entry in entries]
        numbers = [number for number in known if number is not None]
        if len(numbers) == len(known):
            return numbers
        async with self._database.connection() as connection:
            numbered, mark = await number_links(connection, dispatch, links, entries)
            await store.mark_links(connection, mailing, numbered, mark)
        for entry, link in zip(entries, numbered, strict=True):
            if link.is_shown:
                remember(self._shown, (mailing, entry), link.number)
        return [link.number for link in numbered]
