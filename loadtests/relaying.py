"""Mails of 30 kB that the relay passes on a second: the relay alone on its core, everything else on the other one.

Real SMTP on both sides: clients that send one mail after the other, each to another recipient, on connections that
stay; a server behind the relay that takes whatever comes; and PostgreSQL, which counts. Tracking is person-based: every
mail is read, gets 20 links and the pixel, and waits for its count to be committed. Beside it the same mails with
tracking off, which shows what carrying them costs.
"""

import asyncio
import base64
import os
import random
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from app.store import settings as store
from app.store.pool import connected
from app.tracking.settings import Notice

from . import machine
from .display import Display
from .figures import RELAYED, Figure, Results
from .installation import Installation, installed
from .machine import MeasurementFailed
from .peers import Peer, running
from .requests import SEED, destinations
from .stage import Options

FIGURES = (RELAYED,)
LINKS = 20
CLIENTS = 16
MODES = ("person_based", "off")
_AROUND_SECONDS = 8.0
_WARM_UP_SECONDS = 1.0
_WHO = "bench"
_TEXT = "What we think you would like to see now, chosen from all that has come in since your last visit with us."
_PARAGRAPH_START = "<p style=3D'margin:0 0 16px;font:16px/24px Arial,sans-serif'>=\r\n"
_HTML_BYTES, _PICTURE_BYTES = 19_500, 6_000
_LINE = 70


def planned_seconds(options: Options) -> float:
    """How long it will take."""
    return _AROUND_SECONDS + 2 * options.rounds * (options.seconds + _WARM_UP_SECONDS)


class RelayPeer(Peer):
    """`mailtrail relay` for one space, which clients on this machine need not sign in to."""

    name = "relay"

    def __init__(self, installation: Installation, directory: Path, core: int, space: str, upstream: int) -> None:
        super().__init__(installation, directory, (core,))
        self._space = space
        self._upstream = upstream

    def command(self) -> Sequence[str]:
        return (sys.executable, "-m", "app", "relay")

    def environment(self) -> Mapping[str, str]:
        return {
            "MAILTRAIL_DATA_DIRECTORY": str(self.directory / "data"),
            "MAILTRAIL_DATABASE_URL": self.installation.url,
            "MAILTRAIL_RELAY_PORT": str(self.port),
            "MAILTRAIL_RELAY_PRIVATE_PORT": "0",
            "MAILTRAIL_RELAY_UPSTREAM": f"127.0.0.1:{self._upstream}",
            "MAILTRAIL_RELAY_SPACE": self._space,
            "MAILTRAIL_PUBLIC_URL": "https://links.shop.example",
        }

    def is_ready(self) -> bool:
        """A greeting shows that it listens."""
        try:
            return asyncio.run(_greeting(self.port)).startswith(b"220")
        except OSError:
            return False


def run(directory: Path, options: Options, display: Display, results: Results) -> None:
    """Sends through a relay for each setting, in turn."""
    relay_core, other_core = machine.two_cores()
    with machine.on_cores(other_core), installed(directory / "pg", other_core) as installation:
        asyncio.run(_make_spaces(installation.url))
        sink_port = machine.free_port()
        relays = {
            mode: RelayPeer(installation, directory / mode, relay_core, _space(mode), sink_port) for mode in MODES
        }
        with running(*relays.values()):
            rounds = asyncio.run(_measure(relays, sink_port, options, display))
            _check_counted(installation, sum(relay.answered for relay in relays.values()))
    note = f"{len(mail()) / 1000:.0f} kB, {LINKS} links and a pixel, person-based, {CLIENTS} connections"
    results.add(RELAYED, [each.per_second for each in rounds["person_based"]], note)
    untouched = Figure("mails of 30 kB relayed per second, untouched, one core", "mails/s")
    results.add(untouched, [each.per_second for each in rounds["off"]], "tracking is off")
    for mode, name in (("person_based", "tracked"), ("off", "untouched")):
        results.add(Figure(f"relay: CPU of a mail {name}", "µs"), [each.cpu_us for each in rounds[mode]])


class Round(NamedTuple):
    """What a relay did in a few seconds."""

    per_second: float
    cpu_us: float
    """Of a mail."""


async def _measure(
    relays: Mapping[str, RelayPeer], sink_port: int, options: Options, display: Display
) -> dict[str, list[Round]]:
    """The relays in turn; the server behind them stays, for they keep their sessions with it."""
    rounds: dict[str, list[Round]] = {mode: [] for mode in relays}
    server = await asyncio.get_running_loop().create_server(_Sink, "127.0.0.1", sink_port)
    async with server:
        for number in range(1, options.rounds + 1):
            with display.running(f"relaying, round {number}", planned_seconds(options) / options.rounds):
                for mode, relay in relays.items():
                    rounds[mode].append(await _round(relay, options.seconds))
    return rounds


def _space(mode: str) -> str:
    return f"relay {mode}"


async def _make_spaces(url: str) -> None:
    async with connected(url) as connection:
        for mode in MODES:
            await store.create_space(connection, _WHO, _space(mode), relay=mode, acknowledged=[Notice.CONSENT])


def _check_counted(installation: Installation, sent: int) -> None:
    """MeasurementFailed if a mail that was accepted is not among the sent messages."""
    (row,) = installation.query(
        "select coalesce(sum(messages), 0)::bigint as messages from mailtrail.sent"
        " join mailtrail.mailings on id = mailing_id where event_id is null"
    )
    if row["messages"] != sent:
        raise MeasurementFailed(f"{sent:,} mails were accepted and {row['messages']:,} are counted")


# --- the mails, and whoever sends and takes them ---------------------------------------------------------------------


def mail() -> bytes:
    """A newsletter as senders make it: plain text, HTML in quoted-printable with 20 links, and a small picture."""
    html = ["<html><body>"]
    for url in destinations(LINKS, random.Random(SEED)):
        escaped = url.replace("&", "&amp;").replace("=", "=3D")
        html += [f"{_PARAGRAPH_START}{_TEXT[:40]}=", f"{_TEXT[40:]}</p>"]
        html += [
            '<a style=3D"color:#334455;text-decoration:none" href=3D"=',
            *_soft_lines(f'{escaped}">Have a look</a>'),
        ]
    while sum(len(line) + 2 for line in html) < _HTML_BYTES:
        html += [f"{_PARAGRAPH_START}{_TEXT[:40]}=", f"{_TEXT[40:]}</p>"]
    picture = base64.encodebytes(random.Random(SEED).randbytes(_PICTURE_BYTES)).decode().splitlines()
    parts = [
        *("--r", "Content-Type: multipart/alternative; boundary=a", ""),
        *("--a", "Content-Type: text/plain; charset=utf-8", "", *[_TEXT[:70]] * 20),
        *("--a", "Content-Type: text/html; charset=utf-8", "Content-Transfer-Encoding: quoted-printable", ""),
        *(*html, "</body></html>", "--a--"),
        *("--r", "Content-Type: image/png", "Content-Transfer-Encoding: base64", "Content-ID: <logo@shop>", ""),
        *(*picture, "--r--", ""),
    ]
    header = ["From: Shop <news@shop.example>", "Subject: New this week", "MIME-Version: 1.0"]
    return "\r\n".join([*header, "Content-Type: multipart/related; boundary=r", "", *parts]).encode()


def _soft_lines(text: str) -> list[str]:
    """In lines of quoted-printable that are not too long."""
    lines = []
    while len(text) > _LINE:
        cut = next(at for at in range(_LINE, 0, -1) if "=" not in text[at - 2 : at])
        lines.append(f"{text[:cut]}=")
        text = text[cut:]
    return [*lines, text]


async def _greeting(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        return await reader.readline()
    finally:
        writer.close()


async def _round(relay: RelayPeer, seconds: int) -> Round:
    await _send_all(relay, _WARM_UP_SECONDS)
    used = machine.cpu_seconds(relay.pid)
    begun = time.monotonic()
    sent = await _send_all(relay, seconds)
    took = time.monotonic() - begun
    return Round(sent / took, (machine.cpu_seconds(relay.pid) - used) / sent * 1e6)


async def _send_all(relay: RelayPeer, seconds: float) -> int:
    content = mail() + b".\r\n"
    until = time.monotonic() + seconds
    sent = sum(await asyncio.gather(*(_send(relay.port, content, until) for _ in range(CLIENTS))))
    relay.answered += sent
    return sent


async def _send(port: int, content: bytes, until: float) -> int:
    """One client: a mail after the other, each command after the answer to the one before."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    sent = 0
    await _expect(reader, b"220")
    writer.write(b"EHLO client.example\r\n")
    await _expect(reader, b"250")
    while time.monotonic() < until:
        recipient = f"erika.mustermann.{os.urandom(4).hex()}@example.com"
        for command, code in (
            (b"MAIL FROM:<news@shop.example>\r\n", b"250"),
            (f"RCPT TO:<{recipient}>\r\n".encode(), b"250"),
            (b"DATA\r\n", b"354"),
            (content, b"250"),
        ):
            writer.write(command)
            await _expect(reader, code)
        sent += 1
    writer.write(b"QUIT\r\n")
    await _expect(reader, b"221")
    writer.close()
    return sent


async def _expect(reader: asyncio.StreamReader, code: bytes) -> None:
    line = await reader.readline()
    while line[3:4] == b"-":
        line = await reader.readline()
    if not line.startswith(code):
        raise MeasurementFailed(f"the relay answered {line.decode(errors='replace').strip()!r}, not {code.decode()}")


class _Sink(asyncio.Protocol):
    """A mail server that takes everything and looks at nothing, so that it costs little on the other core."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._in_mail = False
        self._buffer = b""
        transport.write(b"220 sink.example\r\n")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while self._in_mail or b"\r\n" in self._buffer:
            end = b"\r\n.\r\n" if self._in_mail else b"\r\n"
            line, found, rest = self._buffer.partition(end)
            if not found:
                return
            self._buffer = rest
            self._answer(line)

    def _answer(self, line: bytes) -> None:
        if self._in_mail:
            self._in_mail = False
            self._transport.write(b"250 2.0.0 taken\r\n")
        elif line == b"DATA":
            self._in_mail = True
            self._transport.write(b"354 go on\r\n")
        elif line.startswith(b"EHLO"):
            self._transport.write(b"250-sink.example\r\n250-8BITMIME\r\n250 PIPELINING\r\n")
        elif line == b"QUIT":
            self._transport.write(b"221 2.0.0 bye\r\n")
            self._transport.close()
        else:
            self._transport.write(b"250 2.0.0 fine\r\n")
