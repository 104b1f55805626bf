"""Overload and abuse against real collectors while honest clients ask, and what it costs.

    python -m tests.faults.abuse [--resets 1000000] [--connections 20000] [--seconds 60]

Attackers do one thing each, bounded in number and time. Invariant: every honest answer is right and every honest hit is
recorded once, whatever is going on beside it.
"""

import asyncio
import contextlib
import multiprocessing
import random
import re
import resource
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import click
import psutil
import uvloop
from rich.console import Console
from rich.table import Table

from loadtests.generators import parse_wrk
from loadtests.machine import end_in_order

from .asks import Ask, asks
from .clients import Clients, Outcome
from .gauges import value
from .postgres import Postgres
from .rig import Part, Rig
from .verdict import Verdict

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing resets the connection."""

FORGED = b"AQAAAQ" + b"A" * 60
SCANNED = (
    b"/wp-login.php",
    b"/.env",
    b"/.git/config",
    b"/cgi-bin/luci",
    b"/c/../../etc/passwd",
    b"/o/x.gif",
    b"/metrics/",
    b"/",
)
GET = b"GET %b HTTP/1.1\r\nHost: t\r\nUser-Agent: %b\r\n\r\n"
AGENTS = 10_000
"""Different ones in a flood; more than any cache of ours holds."""

Attack = Callable[[int, float], Awaitable[int]]
"""Attacks a port for some seconds, and says how often."""

_SCRIPT = Path(__file__).parents[2] / "loadtests" / "rotate.lua"
_FAULTS = (OSError, asyncio.IncompleteReadError, TimeoutError)
_console = Console(stderr=True)


# --- attackers -------------------------------------------------------------------------------------------------------


async def drip_heads(port: int, seconds: float) -> int:
    """Slow loris: heads that come byte by byte and never end."""
    return await _drip(port, seconds, b"GET /c/x HTTP/1.1\r\nHost: t\r\nX: ")


async def drip_bodies(port: int, seconds: float) -> int:
    """Bodies that never end."""
    return await _drip(port, seconds, b"POST /c/x HTTP/1.1\r\nHost: t\r\nContent-Length: 1000000000\r\n\r\n")


async def never_read(port: int, seconds: float) -> int:
    """Pipelines whose answers nobody reads."""

    async def flood() -> None:
        with await _connect(port, receive_bytes=4_096) as client:
            while True:
                await asyncio.get_running_loop().sock_sendall(client, GET % (b"/c/x", b"x") * 100)

    return await _many(flood, 100, seconds)


async def flood_headers(port: int, seconds: float) -> int:
    """Heads of more and more header lines."""
    return await _again(port, seconds, b"GET /c/x HTTP/1.1\r\n" + b"A: b\r\n" * 200_000)


async def send_large_cookies(port: int, seconds: float) -> int:
    """Cookies of 1 MB."""
    return await _again(port, seconds, b"GET /c/x HTTP/1.1\r\nCookie: " + b"c" * 2**20 + b"\r\n\r\n")


async def forge_tokens(port: int, seconds: float) -> int:
    """Tokens that no key has sealed, each another one."""
    return await _again(port, seconds, lambda: GET % (b"/c/" + FORGED + b"%011d" % random.randrange(10**11), b"x") * 20)


async def scan(port: int, seconds: float) -> int:
    """What scanners look for, on a new connection each."""
    return await _again(port, seconds, lambda: GET % (random.choice(SCANNED), b"scanner/1.0"))


async def reset(port: int, seconds: float) -> int:
    """Connections that are reset: at once, in a head, after a request without its answer."""

    until, made = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            _reset_one(port, made)
            made += 1
    return made


ATTACKS: Sequence[Attack] = (
    drip_heads,
    drip_bodies,
    never_read,
    flood_headers,
    send_large_cookies,
    forge_tokens,
    scan,
    reset,
)


def reset_many(port: int, number: int) -> None:
    """So many connections that are reset, in all ways."""
    for each in range(number):
        with contextlib.suppress(OSError):
            _reset_one(port, each)


def hold(port: int, number: int, source: str, told: "multiprocessing.connection.Connection") -> None:
    """Opens connections that ask nothing; says how many, and holds them until it is told to end."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    held = []
    for _ in range(number):
        with contextlib.suppress(OSError):
            held.append(socket.create_connection(("127.0.0.1", port), 20.0, source_address=(source, 0)))
    told.send(len(held))
    told.recv()


@contextlib.contextmanager
def holding(port: int, number: int, processes: int = 1) -> Iterator[int]:
    """So many silent connections of other processes, each with an address of its own; gives how many were made."""
    context = multiprocessing.get_context("spawn")
    pairs = [context.Pipe() for _ in range(processes)]
    held = [
        context.Process(target=hold, args=(port, number // processes, f"127.0.0.{2 + which}", theirs), daemon=True)
        for which, (_, theirs) in enumerate(pairs)
    ]
    try:
        for process in held:
            process.start()
        yield sum(ours.recv() for ours, _ in pairs)
    finally:
        for process in held:
            process.kill()
            process.join()


def _reset_one(port: int, number: int) -> None:
    with socket.create_connection(("127.0.0.1", port), 10.0) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        if number % 3:
            client.send((b"GET /c/x HTT", GET % (b"/c/x", b"x"))[number % 3 - 1])


async def _drip(port: int, seconds: float, begin: bytes) -> int:
    async def drip() -> None:
        loop = asyncio.get_running_loop()
        with await _connect(port) as client:
            await loop.sock_sendall(client, begin)
            while True:
                await asyncio.sleep(0.5)
                await loop.sock_sendall(client, b"x")

    return await _many(drip, 200, seconds)


async def _again(port: int, seconds: float, payload: bytes | Callable[[], bytes]) -> int:
    """Sends, reads until the end or the first answer, and begins anew."""
    until = time.monotonic() + seconds

    async def attack() -> int:
        loop, made = asyncio.get_running_loop(), 0
        while time.monotonic() < until:
            with contextlib.suppress(*_FAULTS):
                client = await _connect(port)
                try:
                    async with asyncio.timeout(10):
                        await loop.sock_sendall(client, payload if isinstance(payload, bytes) else payload())
                        await loop.sock_recv(client, 65_536)
                finally:
                    client.close()
                made += 1
        return made

    return sum(await asyncio.gather(*(attack() for _ in range(16))))


async def _many(attack: Callable[[], Awaitable[None]], number: int, seconds: float) -> int:
    """So many at a time; whoever is thrown out begins anew."""
    made = 0

    async def one() -> None:
        nonlocal made
        while True:
            made += 1
            with contextlib.suppress(*_FAULTS):
                await attack()
            await asyncio.sleep(0.05)

    tasks = [asyncio.create_task(one()) for _ in range(number)]
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return made


async def _connect(port: int, receive_bytes: int = 0) -> socket.socket:
    client = socket.socket()
    client.setblocking(False)
    if receive_bytes:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    try:
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
    except BaseException:
        client.close()
        raise
    return client


# --- the scene -------------------------------------------------------------------------------------------------------


def abused_rig(directory: Path, postgres: Postgres, descriptors: int | None = None) -> Rig:
    """One collector and a shipper, started; with a limit of the collector's descriptors."""
    rig = Rig(directory, postgres, collectors=1, settings={"MAILTRAIL_LOG_FORMAT": "json"})
    if descriptors is not None:
        limited = f"ulimit -n {descriptors} && exec {sys.executable} -m app collect"
        rig.parts[0] = Part("collector", ("/bin/sh", "-c", limited), rig.parts[0].service)
    rig.start()
    return rig


class Honest:
    """Honest clients: on connections that stay, and on a new one for each request."""

    def __init__(self, rig: Rig, seed: int) -> None:
        self._rig = rig
        days = rig.day_keys()
        self._kept = Clients(rig.ports, _no_aggregate(asks(rig.keys, rig.space, days, seed)), connections=4)
        self._new = asks(rig.keys, rig.space, days, seed + 10**9)
        self._ends = threading.Event()
        self._anew = Outcome()
        self._thread = threading.Thread(target=self._ask_anew, daemon=True)

    def __enter__(self) -> "Honest":
        self._kept.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def outcome(self) -> Outcome:
        """What has become of all requests so far."""
        both, kept = Outcome(), self._kept.outcome
        for name in ("answered", "open", "refused", "wrong"):
            getattr(both, name).extend([*getattr(kept, name), *getattr(self._anew, name)])
        both.slowest_seconds = max(kept.slowest_seconds, self._anew.slowest_seconds)
        return both

    def stop(self) -> Outcome:
        """Lets every request that was sent end first."""
        if not self._ends.is_set():
            self._ends.set()
            self._thread.join()
            self._kept.stop()
        return self.outcome()

    def _ask_anew(self) -> None:
        port = self._rig.ports[0]
        while not self._ends.is_set():
            once = Clients([port], iter([next(self._new)]), connections=1)
            once.outcome = self._anew
            asyncio.run(_ask_once(once, port))


async def _ask_once(clients: Clients, port: int) -> None:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError as error:
        clients.outcome.wrong.append(f"no connection: {error}")
        return
    await clients._ask_once(reader, writer)
    writer.transport.abort()


def _no_aggregate(made: Iterator[Ask]) -> Iterator[Ask]:
    """Aggregate ones are known by a number that all generators share."""
    return (ask for ask in made if ask.mode != "aggregate")


def attack(rig: Rig, attacks: Sequence[Attack], seconds: float) -> dict[str, int]:
    """All of them one after the other; gives how often each was made."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return {each.__name__: runner.run(each(rig.ports[0], seconds)) for each in attacks}  # type: ignore[arg-type]


def rss_bytes(rig: Rig) -> int:
    """Of the collector."""
    process = rig.workers[0].process
    assert process is not None
    return int(psutil.Process(process.pid).memory_info().rss)


def finish(rig: Rig, honest: Honest) -> Verdict:
    """Ends all and judges; requests without an answer count as wrong: nothing broke that could excuse it."""
    outcome = honest.stop()
    verdict = rig.finish(outcome)
    verdict.wrong += len(outcome.open) + len(outcome.refused)
    return verdict


# --- the figures -----------------------------------------------------------------------------------------------------


def _show_attacks(rig: Rig, table: Table, seconds: float) -> None:
    for each in ATTACKS:
        before = rss_bytes(rig)
        ((name, number),) = attack(rig, [each], seconds).items()
        grown = (rss_bytes(rig) - before) / 2**20
        table.add_row(name.replace("_", " "), f"{number:,} in {seconds:.0f} s, RSS {grown:+.1f} MB")


def _show_resets(rig: Rig, table: Table, number: int) -> None:
    reset_many(rig.ports[0], min(50_000, number))
    before, begun = rss_bytes(rig), time.monotonic()
    workers = [
        multiprocessing.get_context("spawn").Process(target=reset_many, args=(rig.ports[0], number // 2))
        for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    grown = (rss_bytes(rig) - before) / 2**20
    table.add_row(f"{number:,} reset connections", f"RSS {grown:+.1f} MB, {time.monotonic() - begun:.0f} s")


def _show_held(rig: Rig, table: Table, number: int) -> None:
    service, before = rig.workers[0].service, rss_bytes(rig)
    with holding(rig.ports[0], number, processes=3) as held:
        shown = f"RSS {before / 2**20:.1f} → {rss_bytes(rig) / 2**20:.1f} MB"
        shed = value(service, "connections_shed_total")
        time.sleep(2.0)
    table.add_row(f"{held:,} connections at once", f"{shown}, {shed:,.0f} ended for new ones")


def _show_agents(rig: Rig, table: Table, directory: Path, rounds: int, seconds: int) -> None:
    """Rates and p99 as wrk sees them on 64 connections, in turns."""
    good = _no_aggregate(asks(rig.keys, rig.space, rig.day_keys(), 77))
    lengths = {"usual user agents": 0, "random user agents": 100, "random 8 kB user agents": 8_000}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in lengths}
    for name, length in lengths.items():
        requests = [_with_agent(next(good).request, length) for _ in range(AGENTS)]
        (directory / name).write_bytes(b"\0".join(requests))
    for _ in range(rounds):
        for name in lengths:
            found[name].append(_wrk(rig.ports[0], directory / name, seconds))
    usual = sorted(rate for rate, _ in found["usual user agents"])[rounds // 2]
    for name, each in found.items():
        rate, p99 = sorted(rate for rate, _ in each)[rounds // 2], max(p99 for _, p99 in each)
        table.add_row(name, f"{rate:,.0f}/s ({rate / usual:.0%} of usual), worst p99 {p99:.1f} ms")


def _with_agent(request: bytes, length: int) -> bytes:
    agent = random.randbytes(length // 2).hex().encode() if length else b"Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0"
    line = request.partition(b"\r\n")[0]
    return line + b"\r\nHost: t\r\nUser-Agent: " + agent + b"\r\n\r\n"


def _wrk(port: int, requests: Path, seconds: int) -> tuple[float, float]:
    command = ("wrk", "-t1", "-c64", f"-d{seconds}s", "--latency", "-s", str(_SCRIPT), f"http://127.0.0.1:{port}/")
    done = subprocess.run([*command, "--", str(requests)], capture_output=True, text=True, check=True)
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)", done.stdout)
    assert p99 is not None, done.stdout
    return parse_wrk(done.stdout).per_second, float(p99[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[p99[2]]


@click.command()
@click.option("--resets", type=click.IntRange(100), default=1_000_000, show_default=True, help="Reset connections.")
@click.option("--connections", type=click.IntRange(3), default=20_000, show_default=True, help="Held at once.")
@click.option("--seconds", type=click.IntRange(1), default=40, show_default=True, help="Of each other attack.")
@click.option("--directory", type=click.Path(path_type=Path), help="Where everything is kept.")
def abuse(resets: int, connections: int, seconds: int, directory: Path | None) -> None:
    """Overload and attack a real collector while honest clients ask; shows what it costs."""
    base = directory or Path(tempfile.mkdtemp(prefix="abuse-"))
    postgres, table = Postgres(base), Table("attack", "what it costs")
    try:
        rig = abused_rig(base / "attacked", postgres)
        try:
            with Honest(rig, 1) as honest, _console.status("attacks") as status:
                _show_attacks(rig, table, seconds)
                status.update(f"{resets:,} resets")
                _show_resets(rig, table, resets)
                status.update(f"{connections:,} connections")
                _show_held(rig, table, connections)
                status.update("judging")
                verdict = finish(rig, honest)
            slowest = honest.stop().slowest_seconds
            words = f"{verdict.answered:,} answered, slowest {slowest:.2f} s"
            table.add_row(
                "honest clients meanwhile", f"{words}: {'all right, recorded once' if verdict.holds else verdict}"
            )
        finally:
            rig.close()
        quiet = abused_rig(base / "flooded", postgres)
        try:
            with _console.status("user agents"):
                _show_agents(quiet, table, base, rounds=3, seconds=5)
        finally:
            quiet.close()
    finally:
        postgres.leave()
    _console.print(table)
    sys.exit(not verdict.holds)


if __name__ == "__main__":
    end_in_order()
    abuse()
