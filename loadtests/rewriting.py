"""Whole mails tracked a second on one core, and how long a tracked link is.

Each mail of 100 kB goes through `make_ready`, as every way of sending a whole mail does: it is read, its links are
described and numbered, their tokens and the pixel's are sealed and put in. Left out is the database alone, which the
mail room asks once a second: what it would answer is in memory.
"""

import asyncio
import gc
import quopri
import random
import time
from base64 import encodebytes
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from app.config import Settings
from app.sending.dispatch import Dispatch, Terms
from app.sending.html_links import Link
from app.sending.minting import Minter
from app.sending.prepare import make_ready
from app.sending.sources import Mail
from app.tracking.links import LinkEntry
from app.tracking.modes import Mode, Origin, Permission, Rule
from app.tracking.tokens import KeyRing, Message

from . import machine
from .display import Display
from .figures import LINK_LENGTH, REWRITTEN, Figure, Results, ratios
from .minting import EVENT, SPACE, key_ring
from .requests import SEED, destinations
from .stage import Options

FIGURES = (REWRITTEN, LINK_LENGTH)
LINKS = 40
PERSONAL_LINKS = 8
TEXT_LINKS = 10
MAIL_BYTES = 100_000
HTML_BYTES = 60_000
DIFFERENT = 100
"""So many mails are made, each for a recipient of its own; they come again and again."""

TURNS = 20
_BASE = "https://links.shop.example"
_MAILING = 7
_PLANNED_PER_SECOND = 250


def planned_seconds(options: Options) -> float:
    """How long it will take."""
    return options.rounds * _mails(options) / _PLANNED_PER_SECOND + 2


def run(_: Path, options: Options, display: Display, results: Results) -> None:
    """Tracks mails on the server's core; then the lengths of links, which need no time."""
    core = machine.two_cores()[0]
    mails = [(mail(recipient), recipient) for recipient in _recipients()]
    rewritten, read = [], []
    with machine.on_cores(core):
        for number in range(1, options.rounds + 1):
            with display.running(f"rewriting, round {number}", planned_seconds(options) / options.rounds):
                rates = asyncio.run(_rates(mails, _mails(options)))
                rewritten.append(rates[0])
                read.append(rates[1])
    size = sum(len(raw) for raw, _ in mails) / len(mails)
    note = f"{size / 1000:.0f} kB, {LINKS} links in quoted-printable HTML, {TEXT_LINKS} in the text, and a pixel"
    results.add(REWRITTEN, rewritten, note)
    results.add(Figure("the same mails read and left as they are, per second and core", "mails/s"), read)
    results.add(Figure("tracked ÷ only read"), ratios(rewritten, read))
    lengths = {name: _median_length(*of) for name, of in _MESSAGES.items()}
    told = ", ".join(f"{length:.0f} {name}" for name, length in lengths.items())
    results.add(LINK_LENGTH, [max(lengths.values())], told)


def _mails(options: Options) -> int:
    return max(TURNS, options.tokens // 400)


def _recipients() -> Iterator[str]:
    return (str(4_711_000 + number) for number in range(DIFFERENT))


# --- tracked ---------------------------------------------------------------------------------------------------------


class _InMemory:
    """Records of a space that does not change, and of a mailing whose links everybody has had."""

    def __init__(self, mode: Mode) -> None:
        self._terms = Terms(mode, Rule.DEFAULT, _BASE)
        self._ring = key_ring()
        self._numbers: dict[LinkEntry, int] = {}

    async def terms(self, dispatch: Dispatch) -> Terms:
        return self._terms

    async def ring(self, space: int, key_ids: Collection[int]) -> KeyRing:
        return self._ring

    async def number(self, dispatch: Dispatch, links: Sequence[Link], entries: Sequence[LinkEntry]) -> list[int]:
        return [self._numbers.setdefault(entry, len(self._numbers) + 1) for entry in entries]


async def _rates(mails: Sequence[tuple[bytes, str]], number: int) -> tuple[float, float]:
    """Mails a second that are tracked, and that come back as they were since tracking is off, in short turns."""
    gc.collect()
    settings = Settings()
    tracked, off = _InMemory(Mode.PERSON_BASED), _InMemory(Mode.OFF)
    in_turn, seconds = number // TURNS, [0.0, 0.0]
    for turn in range(TURNS):
        batch = [mails[(turn * in_turn + place) % len(mails)] for place in range(in_turn)]
        begun = time.perf_counter()
        await _make_ready(tracked, batch, settings)
        between = time.perf_counter()
        await _make_ready(off, batch, settings)
        seconds[0] += between - begun
        seconds[1] += time.perf_counter() - between
    return TURNS * in_turn / seconds[0], TURNS * in_turn / seconds[1]


async def _make_ready(records: _InMemory, mails: Sequence[tuple[bytes, str]], settings: Settings) -> None:
    for raw, recipient in mails:
        dispatch = Dispatch(SPACE, EVENT, _MAILING, recipient, Permission.GRANTED)
        await make_ready(records, Mail(raw), dispatch, settings)


# --- a mail ----------------------------------------------------------------------------------------------------------

_PRODUCT = """<table role="presentation" width="100%" cellpadding="0" cellspacing="0" border="0"><tr>
<td width="160" valign="top" style="padding:16px 0 16px 24px"><img src="cid:picture@shop.example" width="136" \
height="136" alt="Produktbild" style="display:block;border:0"></td>
<td valign="top" style="padding:16px 24px;font:16px/24px Arial,Helvetica,sans-serif;color:#333333">
<h2 style="margin:0 0 8px;font-size:18px;line-height:24px">Für kühle Tage, Nr. {number}</h2>
<p style="margin:0 0 12px">{text}</p>
<p style="margin:0 0 12px"><span style="color:#999999;text-decoration:line-through">89,90&nbsp;€</span> \
<b style="color:#b3261e">59,90&nbsp;€</b></p>
<!--[if mso]><table role="presentation"><tr><td bgcolor="#1a5f3c" style="padding:10px 20px"><![endif]-->
<a href="{url}" target="_blank" style="background:#1a5f3c;border-radius:4px;color:#ffffff;display:inline-block;\
padding:10px 20px;text-decoration:none">Jetzt <b>ansehen</b></a>
<!--[if mso]></td></tr></table><![endif]-->
</td></tr></table>
"""
_TEXT = "Gemacht für Regen, Wind und lange Wege – und dafür, dass man sie nach Jahren noch gern anzieht. "
_MAIL = """From: Modehaus Nord <news@modehaus-nord.example>
To: {recipient}@example.com
Subject: =?utf-8?Q?F=C3=BCr_k=C3=BChle_Tage?=
Date: Tue, 24 Nov 2026 09:00:00 +0100
Message-ID: <kw48.{recipient}@modehaus-nord.example>
List-Unsubscribe: <https://www.modehaus-nord.example/abmelden?k={recipient}>
List-Unsubscribe-Post: List-Unsubscribe=One-Click
MIME-Version: 1.0
Content-Type: multipart/related; type="multipart/alternative"; boundary="=_related"

--=_related
Content-Type: multipart/alternative; boundary="=_alternative"

--=_alternative
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: quoted-printable

{text}
--=_alternative
Content-Type: text/html; charset=utf-8
Content-Transfer-Encoding: quoted-printable

{html}
--=_alternative--

--=_related
Content-Type: image/png; name="picture.png"
Content-ID: <picture@shop.example>
Content-Transfer-Encoding: base64

{picture}
--=_related--
"""


def mail(recipient: str) -> bytes:
    """A shop's newsletter to one recipient; the first links are the recipient's own."""
    chance = random.Random(SEED)
    urls = [
        f"{url}&kunde={recipient}" if place < PERSONAL_LINKS else url
        for place, url in enumerate(destinations(LINKS, chance))
    ]
    text = "".join(f"{_TEXT}\n{url}\n\n" for url in urls[:TEXT_LINKS])
    parts = {"recipient": recipient, "text": _quoted_printable(text), "html": _quoted_printable(_html(urls))}
    rest = MAIL_BYTES - len(_MAIL.format(**parts, picture=""))
    picture = encodebytes(chance.randbytes(rest * 57 // 78 - 57)).decode()
    return _MAIL.format(**parts, picture=picture).replace("\n", "\r\n").encode()


def _html(urls: Sequence[str]) -> str:
    bare = len(_PRODUCT) + len(urls[0]) - len(_TEXT)
    text = _TEXT * max(1, (HTML_BYTES // len(urls) - bare) // len(_TEXT))
    products = [
        _PRODUCT.format(number=number, text=text, url=url.replace("&", "&amp;")) for number, url in enumerate(urls, 1)
    ]
    return "".join(
        [
            '<!DOCTYPE html>\n<html lang="de"><head><meta charset="utf-8"><title>Für kühle Tage</title>\n',
            "<style>@media (max-width:600px) { td { display:block; width:100% !important } }</style></head>\n<body>\n",
            *products,
            "</body></html>\n",
        ]
    )


def _quoted_printable(text: str) -> str:
    return quopri.encodestring(text.encode()).decode()


# --- how long a link is ----------------------------------------------------------------------------------------------

DESTINATION_CHARACTERS = 80
_SHORT_BASE = "https://link.shop-sample.com"
"""With a host of 20 characters."""

_MESSAGES = {"anonymized": (Mode.ANONYMIZED, None), "with a recipient of 8 bytes": (Mode.PERSON_BASED, "47110815")}


def _median_length(ceiling: Mode, recipient: str | None) -> float:
    """Characters of a mail's tracked links, in the median."""
    today = datetime.now(UTC).date()
    message = Message(SPACE, EVENT, _MAILING, Origin.EVENT, ceiling, Permission.GRANTED, today, recipient)
    minter = Minter(key_ring(), message, _SHORT_BASE)
    urls = [
        f"{url:x<{DESTINATION_CHARACTERS}.{DESTINATION_CHARACTERS}}" for url in destinations(LINKS, random.Random(SEED))
    ]
    return median(len(minter.click_url(url, url, number)) for number, url in enumerate(urls, 1))
