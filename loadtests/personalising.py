"""Mails personalised a second on one core: a template with 20 links, each mail with its message, values and tokens.

Nothing is left out but the database, which a send asks once a second: every mail gets its nonce, its recipient and its
values, every link and the pixel are sealed, and the HTML is joined. Beside it, in turn, `mint_many` seals the tokens of
as many messages and joins nothing: what is lost to that is the template's own part.
"""

import gc
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from app.sending.html_links import Link as Found
from app.sending.html_links import rewrite_html
from app.sending.minting import Minter
from app.sending.template import Template
from app.tracking.tokens import KeyRing, Link, Message

from . import machine
from .display import Display
from .figures import PERSONALISED, Figure, Results, ratios
from .minting import key_ring, messages
from .requests import SEED, destinations
from .stage import Options

FIGURES = (PERSONALISED,)
LINKS = 20
PERSONAL_LINKS = 5
FIELDS = ("name", "order")
_BASE = "https://links.shop.example"
_PARAGRAPH = "<p style='margin:0 0 16px;font:16px/24px Arial,sans-serif'>What we think you would like to see now.</p>\n"
_PLANNED_PER_SECOND = 7_000


def planned_seconds(options: Options) -> float:
    """How long it will take."""
    return options.rounds * 2 * _mails(options) / _PLANNED_PER_SECOND


def run(_: Path, options: Options, display: Display, results: Results) -> None:
    """Personalises on the server's core, and mints alone in turn."""
    core = machine.two_cores()[0]
    ring, template, mails = key_ring(), Template.compile(html(), FIELDS), _mails(options)
    personalised, minted = [], []
    with machine.on_cores(core):
        for number in range(1, options.rounds + 1):
            with display.running(f"personalising, round {number}", planned_seconds(options) / options.rounds):
                personalised.append(_rate(_personalise, ring, template, mails))
                minted.append(_rate(_mint, ring, template, mails))
    note = f"{LINKS} links, {PERSONAL_LINKS} of them personalised, and a pixel; {len(html()) / 1000:.0f} kB of HTML"
    results.add(PERSONALISED, personalised, note)
    results.add(Figure("mails' tokens minted alone per second and core, 20 links", "mails/s"), minted)
    results.add(Figure("template ÷ its tokens minted alone"), ratios(personalised, minted))


def html() -> str:
    """A newsletter; the first links lead to the recipient's order, and all texts are the same for everybody."""
    parts = ["<html><body><h1>Hello {{ name }}</h1>\n"]
    for number, url in enumerate(destinations(LINKS, random.Random(SEED))):
        own = "&order={{ order }}" if number < PERSONAL_LINKS else ""
        parts.append(f'{_PARAGRAPH}<a href="{(url + own).replace("&", "&amp;")}">Have a look</a>\n')
    return "".join([*parts, "</body></html>"])


def _mails(options: Options) -> int:
    return max(1, options.tokens // (4 * (LINKS + 1)))


def _rate(
    make: Callable[[KeyRing, Template, Iterator[Message]], int], ring: KeyRing, template: Template, mails: int
) -> float:
    gc.collect()
    begun = time.perf_counter()
    made = make(ring, template, messages(1, mails))
    return made / (time.perf_counter() - begun)


def _personalise(ring: KeyRing, template: Template, mails: Iterator[Message]) -> int:
    made = 0
    for made, message in enumerate(mails, 1):
        template.personalise(Minter(ring, message, _BASE), {"name": f"Erika {made}", "order": f"A-{4_711_000 + made}"})
    return made


def _mint(ring: KeyRing, template: Template, mails: Iterator[Message]) -> int:
    """The same number of tokens of the same size, without the mail around them."""
    found: list[Found] = []
    rewrite_html(template.fill({"name": "Erika 1", "order": "A-4711001"}), found.append, None)
    links = [Link(number, link.destination) for number, link in enumerate(found, 1)]
    return sum(1 for _ in ring.mint_many(mails, links))
