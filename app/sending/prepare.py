"""A mail made ready for sending: its links and its pixel tracked, as far as the settings allow right now.

The mail is read once, the settings decide, its links get their numbers, and the minted URLs are put in where the links
stand. Invariants: the same link has the same number in every recipient's mail; every mail is counted once, under the
ceiling that its tokens carry, as `off` if it carries none; a mail that was prepared before comes back as it is for the
same dispatch, and is refused for another.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from msgspec import Struct

from ..config import Settings
from ..errors import DestinationRefused, MailRefused, TrackedForAnother
from ..store import keys
from ..store import settings as store
from ..store.pool import Connection
from ..store.settings import NumberedLink
from ..tracking.links import LinkEntry, describe_label, number_occurrences, patterns_of
from ..tracking.modes import Mode
from ..tracking.tokens import KeyRing, Kind
from .dispatch import Dispatch, Terms, read_terms
from .html_links import Link
from .minting import Minter, click_token, key_ids, opened, pixel_tokens
from .sources import Reading, Source


@dataclass(frozen=True, slots=True)
class Limits:
    """What a sender takes away from a mail's tracking; nothing here adds to what the settings allow."""

    ceiling: Mode = Mode.PERSON_BASED
    links: bool = True
    pixel: bool = True


class TrackedLink(Struct, frozen=True, gc=False):
    """A link with its number in the table `links`; `label` is what this mail's reader sees of it."""

    number: int
    pattern: str
    label: str
    url: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """A mail ready for sending. `message_id` is None and `ceiling` is off if it carries no token of this dispatch.

    `untouched` counts the links left as they were: by the rewriter's reasons, or already_tracked, tracked_for_another
    (recipient, permission, mailing, event or space: its clicks are recorded for that one), personalised (under an
    aggregate ceiling), prepared_before (left when the mail was prepared first). `counted` is False for a mail that was
    tracked before: it is among the sent messages already. `reason` says why it is untracked, empty if it is tracked:
    off (the settings), declined (the limits), dkim, signed, encrypted, malformed, or nothing (no link and no HTML).
    """

    raw: bytes
    message_id: str | None = None
    ceiling: Mode = Mode.OFF
    links: tuple[TrackedLink, ...] = ()
    pixel: bool = False
    untouched: Counter[str] = field(default_factory=Counter)
    counted: bool = True
    reason: str = ""

    @property
    def tracked(self) -> int:
        return len(self.links)


_NO_LIMITS = Limits()
_PROTECTIONS = ("dkim", "signed", "encrypted")
"""Why a mail must not be changed at all."""


class Records(Protocol):
    """What preparing a mail needs to know of its space and mailing, and where its links are registered."""

    async def terms(self, dispatch: Dispatch) -> Terms:
        """What the settings say; NotFound for a mailing that is not there."""

    async def ring(self, space: int, key_ids: Collection[int]) -> KeyRing:
        """The space's keys, and those of these ids."""

    async def number(self, dispatch: Dispatch, links: Sequence[Link], entries: Sequence[LinkEntry]) -> list[int]:
        """The links' numbers in the table `links`, in their order; `entries` tells them apart."""


async def make_ready(
    records: Records, source: Source, dispatch: Dispatch, settings: Settings, limits: Limits = _NO_LIMITS
) -> Prepared:
    """Tracks a mail's links and puts its pixel in; whoever asks counts it.

    NotFound for a mailing that is not there, or a space without a minting key; TrackedForAnother for a mail that has
    the pixel of another mail; MailRefused for one that is signed or encrypted where those are refused.
    """
    terms = await records.terms(dispatch)
    ceiling = min(terms.mode, limits.ceiling)
    found = await _find(records, source, dispatch)
    if found.is_prepared:
        # Opt-outs were taken out then: a link that was left on purpose looks like one that is new.
        found.untouched["prepared_before"] = len(found.others)
        return Prepared(source.raw, untouched=+found.untouched, counted=False)
    if ceiling is Mode.OFF:
        reason = "off" if terms.mode is Mode.OFF else "declined"
        return Prepared(source.raw, untouched=+found.tracked_before, reason=reason)
    if protection := next((word for word in _PROTECTIONS if found.untouched[word]), None):
        return _leave_protected(source, found, protection, settings)
    minter = Minter(found.ring, dispatch.message(ceiling), terms.base, terms.parameters)
    numbered: list[tuple[str, int]] = []
    if limits.links and found.others:
        entries = number_occurrences(patterns_of([link.destination for link in found.others], dispatch.recipient))
        numbers = await records.number(dispatch, found.others, entries)
        numbered = [(pattern, number) for (pattern, _), number in zip(entries, numbers, strict=True)]
    return _track(minter, found, numbered, limits)


async def prepare(
    connection: Connection, source: Source, dispatch: Dispatch, settings: Settings, limits: Limits = _NO_LIMITS
) -> Prepared:
    """`make_ready` and counted among the mailing's sent messages, in one transaction."""
    async with connection.transaction():
        records = _InTransaction(connection, settings)
        prepared = await make_ready(records, source, dispatch, settings, limits)
        # Last, because senders of one mailing wait for each other from here to the commit.
        await store.mark_links(connection, dispatch.mailing, records.numbered, records.mark)
        if prepared.counted:
            await store.count_sent(connection, dispatch.mailing, prepared.ceiling, reason=prepared.reason)
    return prepared


@dataclass(slots=True)
class _InTransaction:
    """Records of a single mail; its recipient is still to be marked for `numbered`."""

    connection: Connection
    settings: Settings
    numbered: list[NumberedLink] = field(default_factory=list)
    mark: bytes = b""

    async def terms(self, dispatch: Dispatch) -> Terms:
        return await read_terms(
            self.connection, self.settings, dispatch.space, dispatch.event, dispatch.mailing, dispatch.permission
        )

    async def ring(self, space: int, key_ids: Collection[int]) -> KeyRing:
        return await keys.key_ring(self.connection, space, key_ids)

    async def number(self, dispatch: Dispatch, links: Sequence[Link], entries: Sequence[LinkEntry]) -> list[int]:
        self.numbered, self.mark = await number_links(self.connection, dispatch, links, entries)
        return [link.number for link in self.numbered]


async def number_links(
    connection: Connection, dispatch: Dispatch, links: Sequence[Link], entries: Sequence[LinkEntry]
) -> tuple[list[NumberedLink], bytes]:
    """The links with their numbers, and the recipient's mark for those that are hidden."""
    fingerprints = await store.link_fingerprints(connection, dispatch.mailing)
    described = [
        fingerprints.describe(entry, describe_label(link.label, dispatch.recipient))
        for entry, link in zip(entries, links, strict=True)
    ]
    mark = fingerprints.mark(dispatch.recipient)
    return await store.number_links(connection, dispatch.mailing, described, mark), mark


# --- what the mail has -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Found:
    """A mail that was read, which of its links are new, and whether it has our pixel already.

    `untouched` has the reasons of the links that cannot be tracked, `tracked_before` those of the ones that are.
    """

    ring: KeyRing
    reading: Reading
    is_new: list[bool]
    untouched: Counter[str]
    tracked_before: Counter[str]
    is_prepared: bool

    @property
    def others(self) -> list[Link]:
        return [link for link, new in zip(self.reading.links, self.is_new, strict=True) if new]


async def _find(records: Records, source: Source, dispatch: Dispatch) -> _Found:
    """Reads the mail, and opens the tokens in it; MailRefused if it was prepared for another dispatch."""
    reading = source.read()
    pixels = set(pixel_tokens(reading.html))
    ring = await records.ring(dispatch.space, key_ids(pixels.union(_click_tokens(reading.links))))
    prepared = [message for token in pixels if (message := opened(ring, token, Kind.OPEN))]
    if differences := {name for message in prepared for name in dispatch.differences(message)}:
        raise TrackedForAnother(
            f"the mail has the pixel of a mail that was made for another {' and another '.join(sorted(differences))}:"
            " it would be recorded as that one; rewrite the original anew for each recipient"
        )
    tracked = [opened(ring, click_token(link.destination), Kind.CLICK) for link in reading.links]
    reasons = Counter(
        "tracked_for_another" if dispatch.differences(message) else "already_tracked" for message in tracked if message
    )
    is_new = [message is None for message in tracked]
    return _Found(ring, reading, is_new, reading.untouched + reasons, reasons, bool(prepared))


def _click_tokens(links: Iterable[Link]) -> Iterator[str]:
    return (token for link in links if (token := click_token(link.destination)))


# --- what becomes of it ----------------------------------------------------------------------------------------------


def _leave_protected(source: Source, found: _Found, protection: str, settings: Settings) -> Prepared:
    if settings.signed_mails == "refuse":
        raise MailRefused(
            f"the mail cannot be tracked ({protection}): any change would break its signature or its encryption; sign"
            " or encrypt it after tracking, or let such mails pass untracked with MAILTRAIL_SIGNED_MAILS=pass"
        )
    return Prepared(source.noted(protection), untouched=+found.untouched, reason=protection)


def _track(minter: Minter, found: _Found, numbered: list[tuple[str, int]], limits: Limits) -> Prepared:
    if limits.links:
        minted = _mint(minter, found.others, numbered, found.untouched)
    else:
        minted = [None] * len(found.others)
        found.untouched["declined"] = len(found.others)
    waiting = iter(minted)
    answers = [next(waiting) if new else None for new in found.is_new]
    return _put_in(minter, found, answers, limits)


def _mint(
    minter: Minter, links: list[Link], numbered: list[tuple[str, int]], untouched: Counter[str]
) -> list[TrackedLink | None]:
    """The tracked links; None and a count of the reason for each that cannot be."""
    wanted = [(link.destination, pattern, number) for link, (pattern, number) in zip(links, numbered, strict=True)]
    urls: list[str] | list[str | None]
    try:
        urls = minter.click_urls(wanted)
    except DestinationRefused:
        urls = [_mint_one(minter, link, untouched) for link in wanted]
    return [
        TrackedLink(number, pattern, link.label, url) if url else None
        for link, (_, pattern, number), url in zip(links, wanted, urls, strict=True)
    ]


def _mint_one(minter: Minter, link: tuple[str, str, int], untouched: Counter[str]) -> str | None:
    try:
        return minter.click_url(*link)
    except DestinationRefused as refused:
        untouched[refused.reason] += 1
        return None


def _put_in(minter: Minter, found: _Found, answers: Sequence[TrackedLink | None], limits: Limits) -> Prepared:
    urls = [link.url if link else None for link in answers]
    done = found.reading.put_in(urls, minter.pixel_url() if limits.pixel else None)
    tracked = tuple(link for place in done.placed if (link := answers[place]))
    if not tracked and not done.pixel:
        counted = not found.untouched["already_tracked"]
        reason = _reason(found.untouched) if counted else ""
        return Prepared(done.raw, untouched=+found.untouched, counted=counted, reason=reason)
    return Prepared(done.raw, minter.message_id, minter.message.ceiling, tracked, done.pixel, +found.untouched)


def _reason(untouched: Counter[str]) -> str:
    """Why a mail that could have been tracked has nothing of it."""
    return next((word for word in ("declined", "malformed") if untouched[word]), "nothing")
