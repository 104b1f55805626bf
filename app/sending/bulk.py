"""A whole send: one template for many recipients, as far as the settings allow at that moment.

Invariants: a mail's ceiling comes from settings that were read at most a second before it was made; every mail that is
handed over is counted once, under the ceiling that its tokens carry; a link's text is kept only once five different
recipients have had it. Memory does not grow with the number of recipients.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ..config import Settings
from ..store import events, keys
from ..store import settings as store
from ..store.pool import Connection, Database
from ..tracking.fingerprints import SHOWN_RECIPIENTS, Fingerprints
from ..tracking.modes import Mode, Permission
from ..tracking.settings import permission
from ..tracking.tokens import KeyRing
from .denominators import Denominators
from .dispatch import Dispatch, Terms, read_terms
from .minting import Minter, key_ids
from .template import Personalised, Template

TERMS_SECONDS = 1.0
"""How long what the settings said is believed."""

BATCH = 500
"""So many mails are counted with one statement, fewer if they take longer than `BATCH_SECONDS`."""

BATCH_SECONDS = 1.0

_NOBODY = b""


async def register(
    connection: Connection, mailing: int, template: Template, recipients: Iterable[str] = ()
) -> Template:
    """The template with its links' numbers in the table `links`; the recipients are counted for those still hidden.

    New links are hidden, and nobody's. Once five different recipients have had them, in one call or several, their
    texts are kept; later calls for others write nothing.
    """
    fingerprints = await store.link_fingerprints(connection, mailing)
    described = template.describe(fingerprints)
    numbered = await store.number_links(connection, mailing, described, _NOBODY)
    for mark in dict.fromkeys(fingerprints.mark(recipient) for recipient in recipients):
        due = await store.number_links(connection, mailing, described, mark)
        await store.mark_links(connection, mailing, due, mark)
    return template.numbered([link.number for link in numbered])


class _Standing(NamedTuple):
    """What holds for one permission, and when it was asked."""

    terms: Terms
    ring: KeyRing
    asked_at: float


@dataclass(slots=True)
class Sending:
    """Personalises a template for a mailing's recipients; made by `open_sending`, which counts the last mails too."""

    database: Database
    settings: Settings
    space: int
    event: int
    mailing: int
    template: Template
    ceiling: Mode
    """What the sender takes away; never adds to what the settings allow."""

    _fingerprints: Fingerprints
    _denominators: Denominators
    clock: Callable[[], float] = time.monotonic
    _standing: dict[Permission, _Standing] = field(default_factory=dict)
    _counted_at: float = field(default_factory=time.monotonic)
    _marked: dict[bytes, str] = field(default_factory=dict)
    """The first recipients by their marks, as many as it takes until links are shown."""
    _registered: int = 0
    """How many of them are counted for the links."""
    _showing: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def mail(self, recipient: str, permitted: Permission, values: Mapping[str, str]) -> Personalised:
        """One recipient's mail, counted with its batch. What raises is not counted.

        SettingsError for a recipient that cannot be sealed or values that are not the template's.
        """
        if self._denominators.total >= BATCH or self.clock() - self._counted_at >= BATCH_SECONDS:
            await self.count()
        dispatch = Dispatch(self.space, self.event, self.mailing, recipient, permitted)
        terms, ring, _ = await self._ask(permitted)
        if (mode := min(terms.mode, self.ceiling)) is Mode.OFF:
            made = Personalised(self.template.fill(values))
            reason = "off" if terms.mode is Mode.OFF else "declined"
        else:
            made = self.template.personalise(Minter(ring, dispatch.message(mode), terms.base), values)
            reason = "nothing" if made.ceiling is Mode.OFF else ""
            self._note(recipient)
        self._denominators.add(self.mailing, made.ceiling, reason)
        return made

    async def terms(self, permitted: Permission) -> Terms:
        """What the settings say for this permission now."""
        return (await self._ask(permitted)).terms

    async def mails(self, addressed: Iterable[tuple[str, str, Mapping[str, str]]]) -> AsyncIterator[Personalised]:
        """Each recipient's mail, made when it is asked for.

        An error ends it; over the same iterator, a second call goes on behind the recipient who raised it.
        """
        for recipient, word, values in addressed:
            yield await self.mail(recipient, permission(word), values)

    async def count(self) -> None:
        """Adds the mails since the last time to the mailing's sent messages. What could not be written waits on."""
        self._counted_at = self.clock()
        await self._show_links()
        await self._denominators.write()

    async def _show_links(self) -> None:
        """Each in transactions of its own: other senders of the mailing wait for it."""
        async with self._showing:
            new = list(self._marked.values())[self._registered :]
            if not new:
                return
            async with self.database.connection() as connection:
                for recipient in new:
                    await register(connection, self.mailing, self.template, [recipient])
                    self._registered += 1

    def _note(self, recipient: str) -> None:
        if len(self._marked) < SHOWN_RECIPIENTS:
            self._marked.setdefault(self._fingerprints.mark(recipient), recipient)

    async def _ask(self, permitted: Permission) -> _Standing:
        standing = self._standing.get(permitted)
        now = self.clock()
        if standing is None or now - standing.asked_at >= TERMS_SECONDS:
            async with self.database.connection() as connection:
                terms = await read_terms(connection, self.settings, self.space, self.event, self.mailing, permitted)
                ring = await _ring(connection, self.space, self.template)
            standing = self._standing[permitted] = _Standing(terms, ring, now)
        return standing


@contextlib.asynccontextmanager
async def open_sending(
    database: Database,
    settings: Settings,
    who: str,
    space: str,
    event: str,
    mailing: str,
    template: Template,
    *,
    ceiling: Mode = Mode.PERSON_BASED,
) -> AsyncIterator[Sending]:
    """A send by names or hex ids; the mailing is made at its first use. Its links are registered before any mail.

    NotFound for a space or event that is not there, MailRefused for a template that was tracked before.
    """
    async with database.connection() as connection:
        space_id = (await store.find_space(connection, space))["id"]
        event_id = (await events.find_event(connection, space_id, event))["id"]
    opened = open_sending_of(database, settings, who, space_id, event_id, mailing, template, ceiling=ceiling)
    async with opened as sending:
        yield sending


@contextlib.asynccontextmanager
async def open_sending_of(
    database: Database,
    settings: Settings,
    who: str,
    space: int,
    event: int,
    mailing: str,
    template: Template,
    *,
    ceiling: Mode = Mode.PERSON_BASED,
) -> AsyncIterator[Sending]:
    """As `open_sending`, by the numbers of a space and an event that are there."""
    async with database.connection() as connection:
        template.refuse_tracked(await _ring(connection, space, template))
        row, _ = await store.ensure_mailing(connection, who, space, event, mailing)
        template = template.with_parameters(row["url_parameters"] or "")
        numbered = await register(connection, row["id"], template)
        fingerprints = await store.link_fingerprints(connection, row["id"])
    counts = Denominators(database)
    sending = Sending(database, settings, space, event, row["id"], numbered, ceiling, fingerprints, counts)
    try:
        yield sending
    finally:
        await sending.count()


async def _ring(connection: Connection, space: int, template: Template) -> KeyRing:
    return await keys.key_ring(connection, space, key_ids(token for token, _ in template.tokens))
