"""Mails personalised a second on one core: a template with 20 links, each mail with its message, values and tokens.

Nothing is left out but the database, which a send asks once a second: every mail gets its nonce, its recipient and its
values, every link and the pixel are sealed, and the HTML is joined. Beside it, in turn, `mint_many` seals the tokens of
as many messages and joins nothing: what is lost to that is the template's own part.
"""

import gc
import random
import time
from collections.abc import Iterator
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
TURNS = 50
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
                rates = _rates(ring, template, mails)
                personalised.append(rates[0])
                minted.append(rates[1])
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


def _rates(ring: KeyRing, template: Template, mails: int) -> tuple[float, float]:
    """Mails a second, personalised and only minted, in short turns: what disturbs one disturbs the other."""
    gc.collect()
    seconds = [0.0, 0.0]
    in_turn, links = max(1, mails // TURNS), _filled_links(template)
    for _ in range(TURNS):
        begun = time.perf_counter()
        _personalise(ring, template, messages(1, in_turn))
        between = time.perf_counter()
        _mint(ring, links, messages(1, in_turn))
        seconds[0] += between - begun
        seconds[1] += time.perf_counter() - between
    return TURNS * in_turn / seconds[0], TURNS * in_turn / seconds[1]


def _personalise(ring: KeyRing, template: Template, mails: Iterator[Message]) -> None:
    for number, message in enumerate(mails, 4_711_000):
        template.personalise(Minter(ring, message, _BASE), {"name": f"Erika {number}", "order": f"A-{number}"})


def _mint(ring: KeyRing, links: list[Link], mails: Iterator[Message]) -> None:
    """As many tokens of the same length, without the mail around them."""
    for _ in ring.mint_many(mails, links):
        pass


def _filled_links(template: Template) -> list[Link]:
    found: list[Found] = []
    rewrite_html(template.fill({"name": "Erika 4711000", "order": "A-4711000"}), found.append, None)
    return [Link(number, link.destination) for number, link in enumerate(found, 1)]
