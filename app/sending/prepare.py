"""A mail made ready for sending: its links and its pixel tracked, as far as the settings allow right now.

One pass over the mail finds its links, the settings decide, links get their numbers, and a second pass puts the minted
URLs in. Invariants: the same link has the same number in every recipient's mail; every mail is counted once, under the
ceiling that its tokens carry, as `off` if it carries none; a mail that was prepared before comes back as it is for the
same dispatch, and is refused for another.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..config import Settings
from ..errors import DestinationRefused, MailRefused
from ..store import keys
from ..store import settings as store
from ..store.pool import Connection
from ..store.settings import NumberedLink
from ..tracking.links import describe_label, number_occurrences, pattern_of
from ..tracking.modes import Mode
from ..tracking.tokens import KeyRing, Kind
from .dispatch import Dispatch, read_terms
from .html_links import Link
from .minting import Minter, click_token, key_ids, opened, pixel_tokens
from .sources import Source


@dataclass(frozen=True, slots=True)
class Limits:
    """What a sender takes away from a mail's tracking; nothing here adds to what the settings allow."""

    ceiling: Mode = Mode.PERSON_BASED
    links: bool = True
    pixel: bool = True


@dataclass(frozen=True, slots=True)
class TrackedLink:
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
    tracked before: it is among the sent messages already.
    """

    raw: bytes
    message_id: str | None = None
    ceiling: Mode = Mode.OFF
    links: tuple[TrackedLink, ...] = ()
    pixel: bool = False
    untouched: Counter[str] = field(default_factory=Counter)
    counted: bool = True

    @property
    def tracked(self) -> int:
        return len(self.links)


_NO_LIMITS = Limits()


async def prepare(
    connection: Connection, source: Source, dispatch: Dispatch, settings: Settings, limits: Limits = _NO_LIMITS
) -> Prepared:
    """Tracks a mail's links, puts its pixel in, and counts it among the mailing's sent messages; one transaction.

    NotFound for a mailing that is not there, or a space without a minting key; MailRefused for a mail that has the
    pixel of another mail.
    """
    async with connection.transaction():
        terms = await read_terms(
            connection, settings, dispatch.space, dispatch.event, dispatch.mailing, dispatch.permission
        )
        ceiling = min(terms.mode, limits.ceiling)
        found = await _find(connection, source, dispatch)
        numbered: list[NumberedLink] = []
        mark = b""
        if found.is_prepared:
            # Opt-outs were taken out then: a link that was left on purpose looks like one that is new.
            found.untouched["prepared_before"] = len(found.others)
            prepared = Prepared(source.raw, untouched=+found.untouched, counted=False)
        elif ceiling is Mode.OFF:
            prepared = Prepared(source.raw, untouched=+found.tracked_before)
        else:
            minter = Minter(found.ring, dispatch.message(ceiling), terms.base)
            if limits.links and found.others:
                numbered, mark = await _number(connection, dispatch, found.others)
            prepared = _track(source, minter, found, numbered, limits)
        # Last, because senders of one mailing wait for each other from here to the commit.
        await store.mark_links(connection, dispatch.mailing, numbered, mark)
        if prepared.counted:
            await store.count_sent(connection, dispatch.mailing, prepared.ceiling)
    return prepared


# --- what the mail has -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Found:
    """A mail's trackable links in document order, by whether they are new, and whether the mail has our pixel already.

    `untouched` has the reasons of the links that cannot be tracked, `tracked_before` those of the ones that are.
    """

    ring: KeyRing
    links: list[Link]
    is_new: list[bool]
    untouched: Counter[str]
    tracked_before: Counter[str]
    is_prepared: bool

    @property
    def others(self) -> list[Link]:
        return [link for link, new in zip(self.links, self.is_new, strict=True) if new]


async def _find(connection: Connection, source: Source, dispatch: Dispatch) -> _Found:
    """Reads the mail, and opens the tokens in it; MailRefused if it was prepared for another dispatch."""
    links, untouched = _find_links(source)
    pixels = set(pixel_tokens(source.html(source.raw)))
    ring = await keys.key_ring(connection, dispatch.space, key_ids(pixels.union(_click_tokens(links))))
    prepared = [message for token in pixels if (message := opened(ring, token, Kind.OPEN))]
    if differences := {name for message in prepared for name in dispatch.differences(message)}:
        raise MailRefused(
            f"the mail has the pixel of a mail that was made for another {' and another '.join(sorted(differences))}:"
            " it would be recorded as that one; rewrite the original anew for each recipient"
        )
    tracked = [opened(ring, click_token(link.destination), Kind.CLICK) for link in links]
    reasons = Counter(
        "tracked_for_another" if dispatch.differences(message) else "already_tracked" for message in tracked if message
    )
    return _Found(ring, links, [message is None for message in tracked], untouched + reasons, reasons, bool(prepared))


def _find_links(source: Source) -> tuple[list[Link], Counter[str]]:
    """The trackable links in document order, and the reasons of the others."""
    links: list[Link] = []

    def leave(link: Link) -> None:
        links.append(link)

    untouched = source.rewrite(leave, None).untouched
    del untouched["declined"]
    return links, untouched


def _click_tokens(links: list[Link]) -> Iterator[str]:
    return (token for link in links if (token := click_token(link.destination)))


# --- what becomes of it ----------------------------------------------------------------------------------------------


async def _number(connection: Connection, dispatch: Dispatch, links: list[Link]) -> tuple[list[NumberedLink], bytes]:
    """The links with their patterns and numbers, and the recipient's mark for those that are hidden."""
    fingerprints = await store.link_fingerprints(connection, dispatch.mailing)
    entries = number_occurrences(pattern_of(link.destination, dispatch.recipient) for link in links)
    described = [
        fingerprints.describe(entry, describe_label(link.label, dispatch.recipient))
        for entry, link in zip(entries, links, strict=True)
    ]
    mark = fingerprints.mark(dispatch.recipient)
    return await store.number_links(connection, dispatch.mailing, described, mark), mark


def _track(source: Source, minter: Minter, found: _Found, numbered: list[NumberedLink], limits: Limits) -> Prepared:
    if limits.links:
        minted = _mint(minter, found.others, numbered, found.untouched)
    else:
        minted = [None] * len(found.others)
        found.untouched["declined"] = len(found.others)
    waiting = iter(minted)
    answers = iter([next(waiting) if new else None for new in found.is_new])
    return _put_in(source, minter, answers, limits.pixel, found.untouched)


def _mint(
    minter: Minter, links: list[Link], numbered: list[NumberedLink], untouched: Counter[str]
) -> list[TrackedLink | None]:
    """The tracked links; None and a count of the reason for each that cannot be."""
    minted: list[TrackedLink | None] = []
    for link, entry in zip(links, numbered, strict=True):
        pattern = entry.link.pattern
        try:
            url = minter.click_url(link.destination, pattern, entry.number)
            minted.append(TrackedLink(entry.number, pattern, link.label, url))
        except DestinationRefused as refused:
            untouched[refused.reason] += 1
            minted.append(None)
    return minted


def _put_in(
    source: Source, minter: Minter, answers: Iterator[TrackedLink | None], with_pixel: bool, untouched: Counter[str]
) -> Prepared:
    tracked: list[TrackedLink] = []

    def track(_: Link) -> str | None:
        link = next(answers)
        if link is None:
            return None
        tracked.append(link)
        return link.url

    pixel_url = minter.pixel_url() if with_pixel else None
    raw = source.rewrite(track, pixel_url).raw
    has_pixel = pixel_url is not None and any(token in pixel_url for token in pixel_tokens(source.html(raw)))
    if not tracked and not has_pixel:
        return Prepared(raw, untouched=+untouched, counted=not untouched["already_tracked"])
    return Prepared(raw, minter.message_id, minter.message.ceiling, tuple(tracked), has_pixel, +untouched)
