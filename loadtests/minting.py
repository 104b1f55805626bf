"""Tokens minted a second on one core: a mailing's messages, made and sealed, each with its pixel and its links.

Nothing is left out: a message gets its random nonce and its recipient, every token is sealed and encoded by itself.
"""

import gc
import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from app.tracking.modes import Mode, Origin, Permission
from app.tracking.tokens import Key, KeyRing, Link, Message

from . import machine
from .display import Display
from .figures import MINTED, Figure, Results
from .installation import LINKS
from .requests import SEED, destinations
from .stage import Options

FIGURES = (MINTED,)
MAILINGS = 10
SINGLE_PART = 0.2
SPACE, EVENT = 0x1234_5678, 0x2345_6789
_PLANNED_PER_SECOND = 350_000


def planned_seconds(options: Options) -> float:
    """How long it will take."""
    return options.rounds * options.tokens * (1 + SINGLE_PART) / _PLANNED_PER_SECOND


def run(_: Path, options: Options, display: Display, results: Results) -> None:
    """Mints on the server's core, whole mailings and link by link in turn."""
    core = machine.two_cores()[0]
    ring = key_ring()
    many, single = [], []
    with machine.on_cores(core):
        for number in range(1, options.rounds + 1):
            with display.running(f"minting, round {number}", planned_seconds(options) / options.rounds):
                many.append(_mint_mailings(ring, options.tokens))
                single.append(_mint_links(ring, round(options.tokens * SINGLE_PART)))
    results.add(MINTED, many, f"mailings with {LINKS} links and a pixel, {_token_bytes(ring)} characters a link")
    results.add(Figure("tokens minted one by one per second and core", "tokens/s"), single)


def key_ring() -> KeyRing:
    """The key of the messages' space."""
    return KeyRing({1: Key(1, SPACE, random.Random(SEED).randbytes(64))})


def _links() -> list[Link]:
    urls = destinations(LINKS, random.Random(SEED))
    return [Link(number, url) for number, url in enumerate(urls, 1)]


def messages(mailing: int, number: int) -> Iterator[Message]:
    """Person-based ones of today, each for a customer of its own."""
    today = datetime.now(UTC).date()
    for customer in range(number):
        yield Message(
            SPACE,
            EVENT,
            mailing,
            Origin.EVENT,
            Mode.PERSON_BASED,
            Permission.GRANTED,
            today,
            str(4_711_000 + customer),
        )


def _mint_mailings(ring: KeyRing, tokens: int) -> float:
    links = _links()
    mails = max(1, tokens // (MAILINGS * (LINKS + 1)))
    gc.collect()
    minted, begun = 0, time.perf_counter()
    for mailing in range(1, MAILINGS + 1):
        for each in ring.mint_many(messages(mailing, mails), links):
            minted += len(each)
    return minted / (time.perf_counter() - begun)


def _mint_links(ring: KeyRing, tokens: int) -> float:
    links = _links()
    gc.collect()
    minted, begun = 0, time.perf_counter()
    for message in messages(1, max(1, tokens // LINKS)):
        for link in links:
            ring.mint_click(message, link.destination, link.number)
        minted += LINKS
    return minted / (time.perf_counter() - begun)


def _token_bytes(ring: KeyRing) -> int:
    (tokens,) = ring.mint_many(messages(1, 1), _links(), pixel=False)
    return sum(map(len, tokens)) // len(tokens)
