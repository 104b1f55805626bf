"""A mail made ready for sending: its links and its pixel tracked, as far as the settings allow right now.

One pass over the mail finds its links, the settings decide, links get their numbers, and a second pass puts the minted
URLs in. Invariants: the same link has the same number in every recipient's mail; every mail is counted once, under the
ceiling that its tokens carry, as `off` if it carries none; a mail that was prepared before comes back as it is.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..config import Settings
from ..errors import DestinationRefused
from ..store import keys
from ..store import settings as store
from ..store.pool import Connection
from ..tracking.links import LinkRegister, describe_label, pattern_of
from ..tracking.modes import Mode
from ..tracking.tokens import Kind
from .dispatch import Dispatch, read_terms
from .html_links import Link
from .minting import Minter, click_token, key_ids, opens, pixel_tokens
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

    `untouched` counts the links left as they were: by the rewriter's reasons, or already_tracked, personalised (under
    an aggregate ceiling), prepared_before (left when the mail was prepared first). `counted` is False for a mail that
    was tracked before: it is among the sent messages of whatever it was tracked for.
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

    NotFound for a mailing that is not there, or a space without a minting key.
    """
    async with connection.transaction():
        terms = await read_terms(
            connection, settings, dispatch.space, dispatch.event, dispatch.mailing, dispatch.permission
        )
        ceiling = min(terms.mode, limits.ceiling)
        if ceiling is Mode.OFF:
            prepared = Prepared(source.raw)
        else:
            prepared = await _track(connection, source, dispatch, ceiling, terms.base, limits)
        # Last, because senders of one mailing wait for each other from here to the commit.
        if prepared.counted:
            await store.count_sent(connection, dispatch.mailing, prepared.ceiling)
    return prepared


async def _track(
    connection: Connection, source: Source, dispatch: Dispatch, ceiling: Mode, base: str, limits: Limits
) -> Prepared:
    links, untouched = _find_links(source)
    pixels = set(pixel_tokens(source.html(source.raw)))
    ring = await keys.key_ring(connection, dispatch.space, key_ids(pixels.union(_click_tokens(links))))
    is_ours = [opens(ring, click_token(link.destination), Kind.CLICK) for link in links]
    others = [link for link, ours in zip(links, is_ours, strict=True) if not ours]
    untouched["already_tracked"] = len(links) - len(others)
    if any(opens(ring, token, Kind.OPEN) for token in pixels):
        # Opt-outs were taken out then: a link that was left on purpose looks like one that is new.
        untouched["prepared_before"] = len(others)
        return Prepared(source.raw, untouched=+untouched, counted=False)
    minter = Minter(ring, dispatch.message(ceiling), base)
    if limits.links:
        minted = _mint(minter, await _number(connection, dispatch, others), untouched)
    else:
        minted = [None] * len(others)
        untouched["declined"] = len(others)
    waiting = iter(minted)
    answers = iter([None if ours else next(waiting) for ours in is_ours])
    return _put_in(source, minter, answers, limits.pixel, untouched)


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


async def _number(connection: Connection, dispatch: Dispatch, links: list[Link]) -> list[tuple[Link, str, int]]:
    """The links with their patterns and numbers; the unknown ones are registered in one statement."""
    register = LinkRegister({})
    label_of = {}
    for link in links:
        label_of[register.entry(pattern_of(link.destination, dispatch.recipient))] = link.label
    numbers = await store.link_numbers(connection, dispatch.mailing, register.entries)
    register.known = numbers
    if register.unknown:
        labels = [describe_label(label_of[entry], dispatch.recipient) for entry in register.unknown]
        numbers |= await store.register_links(connection, dispatch.mailing, register.unknown, labels)
    return [(link, entry[0], numbers[entry]) for link, entry in zip(links, register.entries, strict=True)]


def _mint(minter: Minter, numbered: list[tuple[Link, str, int]], untouched: Counter[str]) -> list[TrackedLink | None]:
    """The tracked links; None and a count of the reason for each that cannot be."""
    minted: list[TrackedLink | None] = []
    for link, pattern, number in numbered:
        try:
            url = minter.click_url(link.destination, pattern, number)
            minted.append(TrackedLink(number, pattern, link.label, url))
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
