"""Malformed requests against real collectors, fast lane and plain lane, a million and more.

    python -m tests.faults.fuzz [--requests 1000000] [--seed 1] [--replay FILE]

A round has a new installation, a seed and up to 50,000 exchanges; honest clients ask all the while. Rules: no 5xx; an
answer or the connection's end within seconds; never more answers than requests; no fault in the log or in the metrics;
the process lives and its memory stays; every honest answer is right, and there is no hit that no good token asked for,
none twice. Each exchange that breaks a rule is kept in a file of its own and can be played again.
"""

import asyncio
import base64
import json
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import psutil
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from app.tracking.tokens import Key, KeyRing
from loadtests.machine import end_in_order

from .asks import COLUMNS, Ask, asks, identity
from .clients import Clients, Outcome
from .malformed import Counted, Trial, trials
from .postgres import Postgres, patiently
from .rig import Rig
from .verdict import Verdict, judge

ROUND = 50_000
"""Exchanges of a round, over both lanes."""

CONNECTIONS = 48
"""At a time, of each lane."""

HANG_SECONDS = 20.0
WARM = 5_000
"""Exchanges before the first look at the memory."""

MOST_GROWTH_BYTES = 60 * 2**20
"""Of a collector in a round."""

LANES = ("fast", "plain")
STATUSES = frozenset({200, 302, 400, 404, 405, 431})

_ANSWER = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n((?:[^\r\n]+\r\n)*)\r\n")
_LENGTH = re.compile(rb"(?:^|\n)content-length: (\d+)\r")
_console = Console(stderr=True)


@dataclass(slots=True)
class Fuzzed:
    """What a round has come to."""

    exchanges: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    silent: int = 0
    """Exchanges that ended without an answer."""
    failures: list[str] = field(default_factory=list)
    tried: set[tuple[Any, ...]] = field(default_factory=set)
    """Good requests that were sent in some form: each may be recorded once."""
    slowest_seconds: float = 0.0
    growth_bytes: list[int] = field(default_factory=list)
    """Of each lane's collector."""
    honest: int = 0
    recorded: int = 0

    def add(self, other: "Fuzzed") -> None:
        self.exchanges += other.exchanges
        self.statuses += other.statuses
        self.kinds += other.kinds
        self.silent += other.silent
        self.failures += other.failures
        self.slowest_seconds = max(self.slowest_seconds, other.slowest_seconds)
        self.growth_bytes = [max(pair) for pair in zip(self.growth_bytes or [0, 0], other.growth_bytes, strict=True)]
        self.honest += other.honest
        self.recorded += other.recorded


class Exchange(asyncio.Protocol):
    """One connection: sends a trial, says that nothing more comes, and reads until the end."""

    def __init__(self, ended: "asyncio.Future[None]") -> None:
        self.received = bytearray()
        self._ended = ended

    def data_received(self, data: bytes) -> None:
        self.received += data

    def connection_lost(self, _: Exception | None) -> None:
        if not self._ended.done():
            self._ended.set_result(None)


class Fuzzer:
    """The trials of one round on their way to both lanes."""

    def __init__(self, rig: Rig, source: Iterator[Trial], keep: Callable[[str, Trial, bytes, str], None]) -> None:
        """`keep` is told lane, trial, answers and reason of what breaks a rule."""
        self.fuzzed = Fuzzed()
        self._rig = rig
        self._source = source
        self._keep = keep

    async def run(self, exchanges: int, advance: Callable[[int], object] = lambda _: None) -> None:
        self._left, self._advance = exchanges, advance
        await asyncio.gather(*(self._work(lane) for lane in range(len(LANES)) for _ in range(CONNECTIONS)))

    async def _work(self, lane: int) -> None:
        while self._left > 0:
            self._left -= 1
            trial = next(self._source)
            self.fuzzed.tried.update(identity(ask.row) for ask in trial.asks)
            await self.play(lane, trial)
            self.fuzzed.exchanges += 1
            self._advance(1)

    async def play(self, lane: int, trial: Trial) -> bytes:
        """One exchange, judged by itself; gives what was received."""
        loop, begun = asyncio.get_running_loop(), time.monotonic()
        ended = loop.create_future()
        exchange, reason = Exchange(ended), ""
        try:
            async with asyncio.timeout(HANG_SECONDS):
                await self._exchange(lane, trial, exchange, ended)
        except TimeoutError:
            reason = f"neither an answer nor an end within {HANG_SECONDS:.0f} s"
        except OSError as error:
            reason = f"no connection: {error}"
        self.fuzzed.slowest_seconds = max(self.fuzzed.slowest_seconds, time.monotonic() - begun)
        self.fuzzed.kinds[trial.kind] += 1
        received = bytes(exchange.received)
        reason = reason or ("" if trial.leaves else self._judge(trial, received))
        if reason:
            self.fuzzed.failures.append(f"{LANES[lane]} lane, {trial.kind}: {reason}")
            self._keep(LANES[lane], trial, received, reason)
        return received

    async def _exchange(self, lane: int, trial: Trial, exchange: Exchange, ended: "asyncio.Future[None]") -> None:
        port = self._rig.ports[lane]
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(lambda: exchange, "127.0.0.1", port)
        try:
            for number, part in enumerate(trial.parts):
                if number:
                    await asyncio.sleep(0.0005)  # else the parts come as one; no rule depends on it
                if transport.is_closing():
                    break
                transport.write(part)
            if trial.leaves:
                return
            if not transport.is_closing():
                transport.write_eof()
            await ended
        finally:
            transport.abort()

    def _judge(self, trial: Trial, received: bytes) -> str:
        """Why the answers break a rule; nothing if they do not."""
        statuses, rest = read_answers(received, b"HEAD " in trial.sent)
        self.fuzzed.statuses.update(statuses)
        self.fuzzed.silent += not statuses
        if odd := set(statuses) - STATUSES:
            return f"status {sorted(odd)}"
        if rest and not rest.startswith(b"HTTP/1.1 "):
            return f"what is no answer: {rest[:60]!r}"
        if len(statuses) > (most := Counted(trial.sent).requests + statuses.count(431)):
            return f"{len(statuses)} answers to {most} requests"
        if trial.kind == "good" and statuses not in ([200], [302]):
            return f"{statuses} for a good request"
        return ""


def read_answers(received: bytes, has_head: bool) -> tuple[list[int], bytes]:
    """The statuses of whole answers, and what follows them. To a HEAD an answer may come without its body."""
    statuses, at = [], 0
    while (answer := _ANSWER.match(received, at)) is not None:
        length = _LENGTH.search(answer[2])
        end = answer.end() + (int(length[1]) if length else 0)
        if has_head and (answer.end() == len(received) or received.startswith(b"HTTP/1.1 ", answer.end())):
            end = answer.end()
        if end > len(received):
            break  # cut by a reset
        if answer[1] != b"100":
            statuses.append(int(answer[1]))
        at = end
    return statuses, received[at:]


def lanes_rig(directory: Path, postgres: Postgres, seed: int) -> Rig:
    """A collector with the fast lane and one without, with a token key that comes from the seed."""
    rig = Rig(directory, postgres, settings={"MAILTRAIL_LOG_FORMAT": "json"})
    plain = rig.workers[1]
    plain.service = replace(plain.service, settings={**plain.service.settings, "MAILTRAIL_FAST_LANE": "false"})
    choose = random.Random(f"key {seed}")
    number, secret = choose.randrange(1, 2**24), choose.randbytes(64)
    rig.service.query("update vault.token_keys set id = $1, secret = $2", number, secret)
    rig.keys = KeyRing({number: Key(number, rig.space, secret)})
    return rig


def play_round(
    postgres: Postgres,
    directory: Path,
    seed: int,
    exchanges: int = ROUND,
    advance: Callable[[int], object] = lambda _: None,
    source: Callable[[Iterator[Ask]], Iterator[Trial]] | None = None,
) -> Fuzzed:
    """One round, judged; failing exchanges lie in the directory. `source` makes trials of good requests by itself."""
    rig = lanes_rig(directory, postgres, seed)
    try:
        rig.start()
        good = asks(rig.keys, rig.space, rig.day_keys(), seed)
        fuzzer = Fuzzer(rig, source(good) if source else trials(good, seed), _keeping(directory, seed))
        clients = Clients(rig.ports, _honest(rig, seed), connections=4)
        clients.start()
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(fuzzer.run(min(WARM, exchanges), advance))
                before = _memory(rig)
                runner.run(fuzzer.run(exchanges - min(WARM, exchanges), advance))
        finally:
            outcome = clients.stop()
        fuzzed = fuzzer.fuzzed
        fuzzed.growth_bytes = [after - was for was, after in zip(before, _memory(rig), strict=True)]
        _check(rig, fuzzed, outcome)
        return fuzzed
    finally:
        rig.close()


def _check(rig: Rig, fuzzed: Fuzzed, outcome: Outcome) -> None:
    """The rules that hold for a round as a whole."""
    faults = re.search(rb"^mailtrail_answer_faults_total (.*)$", rig.workers[0].service.get("/metrics").body, re.M)
    if faults is None or float(faults[1]) != 0:
        fuzzed.failures.append(f"answer faults: {faults and faults[1]!r}")
    if any(growth > MOST_GROWTH_BYTES for growth in fuzzed.growth_bytes):
        fuzzed.failures.append(f"memory grew by {fuzzed.growth_bytes}")
    if dead := [part.name for part in rig.parts if not part.runs]:
        fuzzed.failures.append(f"not alive any more: {dead}")
    try:
        rig.drain()
    except AssertionError as error:
        fuzzed.failures.append(str(error)[:3_000])
        return
    if told := re.findall(r'"level": "(?:error|critical)".*', rig.service.log.read_text()):
        fuzzed.failures.append(f"the log tells of errors: {told[:3]}")
    if outcome.open or outcome.refused:
        fuzzed.failures.append(f"honest clients: {len(outcome.open)} without an answer, {len(outcome.refused)} refused")
    verdict = _verdict(rig, fuzzed, outcome)
    fuzzed.honest, fuzzed.recorded = verdict.answered, verdict.recorded
    if not verdict.holds:
        fuzzed.failures.append(f"{verdict}")


def _verdict(rig: Rig, fuzzed: Fuzzed, outcome: Outcome) -> Verdict:
    """Honest hits field by field; of the others, that they were asked for and are there once at most."""
    url = rig.service.database_url
    rows = patiently(url, f"select at, {', '.join(COLUMNS)} from mailtrail.hits")
    ((totals,),) = patiently(url, "select coalesce(sum(hits), 0)::bigint from mailtrail.hit_totals")
    ((quarantined,),) = patiently(url, "select count(*) from mailtrail.quarantine")
    names = [identity(tuple(row[name] for name in COLUMNS)) for row in rows]
    known = Counter(name for name in names if name in fuzzed.tried)
    others = [row for row, name in zip(rows, names, strict=True) if name not in known]
    verdict = judge(outcome, others, totals - known.total(), quarantined)
    verdict.twice += sum(number - 1 for number in known.values())
    verdict.recorded += known.total()
    return verdict


def _honest(rig: Rig, seed: int) -> Iterator[Ask]:
    """Requests that no trial has; no aggregate ones, which are known by a number that all generators share."""
    others = asks(rig.keys, rig.space, rig.day_keys(), seed + 10**9)
    return (ask for ask in others if ask.mode != "aggregate")


def _memory(rig: Rig) -> list[int]:
    return [psutil.Process(part.process.pid).memory_info().rss for part in rig.workers if part.process is not None]


def _keeping(directory: Path, seed: int) -> Callable[[str, Trial, bytes, str], None]:
    def keep(lane: str, trial: Trial, received: bytes, reason: str) -> None:
        parts = [base64.b64encode(part).decode() for part in trial.parts]
        kept = {
            "seed": seed,
            "lane": lane,
            "kind": trial.kind,
            "leaves": trial.leaves,
            "reason": reason,
            "parts": parts,
        }
        number = len(list(directory.glob("failed-*.json")))
        (directory / f"failed-{number}.json").write_text(json.dumps({**kept, "received": received.decode("latin-1")}))

    return keep


def replay(postgres: Postgres, directory: Path, file: Path) -> Fuzzed:
    """Plays a kept exchange again, on a new installation with the same token key."""
    kept = json.loads(file.read_text())
    trial = Trial(kept["kind"], [base64.b64decode(part) for part in kept["parts"]], leaves=kept["leaves"])
    rig = lanes_rig(directory, postgres, kept["seed"])
    try:
        rig.start()
        fuzzer = Fuzzer(rig, iter(()), _keeping(directory, kept["seed"]))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            _console.print(runner.run(fuzzer.play(LANES.index(kept["lane"]), trial)), markup=False)
        rig.drain()
        return fuzzer.fuzzed
    finally:
        rig.close()


@click.command()
@click.option("--requests", type=click.IntRange(1), default=1_000_000, show_default=True, help="Exchanges in all.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the first round; each next one has the next.")
@click.option("--replay", "file", type=click.Path(exists=True, path_type=Path), help="Play a kept exchange again.")
@click.option("--directory", type=click.Path(path_type=Path), help="Where rounds keep their files.")
def fuzz(requests: int, seed: int, file: Path | None, directory: Path | None) -> None:
    """Send malformed requests to real collectors, and see that nothing breaks."""
    base = directory or Path(tempfile.mkdtemp(prefix="fuzz-"))
    postgres, total, begun = Postgres(base), Fuzzed(), time.monotonic()
    try:
        if file is not None:
            total = replay(postgres, base / "replay", file)
        else:
            with _progress(requests) as progress:
                for number, done in enumerate(range(0, requests, ROUND), seed):
                    progress.update(progress.task_ids[0], description=f"seed {number}")
                    total.add(_play(postgres, base / f"round-{number}", number, min(ROUND, requests - done), progress))
    finally:
        postgres.leave()
    _console.print(as_table(total, time.monotonic() - begun))
    if total.failures:
        _console.print(*total.failures[:20], f"their files are in {base}", sep="\n", markup=False)
        sys.exit(1)


def _play(postgres: Postgres, directory: Path, seed: int, exchanges: int, progress: Progress) -> Fuzzed:
    fuzzed = play_round(postgres, directory, seed, exchanges, lambda n: progress.advance(progress.task_ids[0], n))
    if fuzzed.failures:
        progress.print(f"seed {seed}: {len(fuzzed.failures)} failures, e.g. {fuzzed.failures[0]}", markup=False)
    return fuzzed


def as_table(fuzzed: Fuzzed, seconds: float) -> Table:
    """For a terminal."""
    table = Table("what", "number")
    rows: Sequence[tuple[str, str]] = (
        ("exchanges", f"{fuzzed.exchanges:,} in {seconds:,.0f} s"),
        *((f"of kind {kind}", f"{number:,}") for kind, number in sorted(fuzzed.kinds.items())),
        *((f"answers {status}", f"{number:,}") for status, number in sorted(fuzzed.statuses.items())),
        ("without an answer", f"{fuzzed.silent:,}"),
        ("honest requests, all right", f"{fuzzed.honest:,}"),
        ("hits recorded, each asked for", f"{fuzzed.recorded:,}"),
        ("slowest exchange", f"{fuzzed.slowest_seconds:.2f} s"),
        ("most growth of a collector in a round", f"{max(fuzzed.growth_bytes or [0]) / 2**20:.1f} MB"),
        ("failures", f"{len(fuzzed.failures):,}"),
    )
    for row in rows:
        table.add_row(*row)
    return table


def _progress(requests: int) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn(), TimeElapsedColumn())
    progress = Progress(*columns, TimeRemainingColumn(), console=_console, refresh_per_second=1)
    progress.add_task("", total=requests)
    return progress


if __name__ == "__main__":
    end_in_order()
    fuzz()
