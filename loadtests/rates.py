"""Requests a second of each server, one core for it and one for the generator, in alternating rounds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from . import generators
from .figures import (
    DISK_TO_PROCESS,
    FAST_TO_INSERTING,
    FAST_TO_NGINX,
    FAST_TO_UVICORN,
    NEW_CONNECTION,
    PLAIN_TO_UVICORN,
    Figure,
    Results,
    ratios,
)
from .peers import BareConstant, Collector, Constant, DiskCollector, Inserting, Naive, Nginx, Peer, PlainLane, running
from .stage import CONNECTIONS, Load, Options, Stage

FIGURES = (FAST_TO_NGINX, FAST_TO_UVICORN, PLAIN_TO_UVICORN, FAST_TO_INSERTING, NEW_CONNECTION, DISK_TO_PROCESS)
MANY_CONNECTIONS = 256
FAST_CLICKS = "fast lane, clicks of both modes"
FAST_TO_BARE = Figure("fast lane ÷ uvicorn constant with everything switched off")
FAST_TO_NAIVE = Figure("fast lane ÷ Starlette + INSERT of an unread click")
_FULLY_BUSY = 0.95
_AROUND_SECONDS = 0.4
_START_SECONDS = 12.0


@dataclass(frozen=True, slots=True)
class Variant:
    """One server with one kind of request."""

    name: str
    peer: Peer
    requests: Path
    seconds: int
    connections: int = CONNECTIONS

    @property
    def planned_seconds(self) -> float:
        return self.seconds + generators.WARM_UP_SECONDS + _AROUND_SECONDS


def planned_seconds(options: Options) -> float:
    """How long it will take."""
    around = generators.WARM_UP_SECONDS + _AROUND_SECONDS
    return _START_SECONDS + options.rounds * (11 * (options.seconds + around) + 7 * (options.side_seconds + around))


def run(stage: Stage, results: Results) -> None:
    """Measures every variant once a round, then compares them round by round."""
    stage.display.shows("rates: starting the servers")
    nginx, constant, bare, naive = stage.peer(Nginx), stage.peer(Constant), stage.peer(BareConstant), stage.peer(Naive)
    inserting, fast, plain, disk = (stage.peer(peer) for peer in (Inserting, Collector, PlainLane, DiskCollector))
    peers = (nginx, constant, bare, naive, inserting, fast, plain, disk)
    with running(*peers):
        stage.display.passed(_START_SECONDS)
        variants = _variants(stage, *peers)
        loads: dict[str, list[Load]] = {variant.name: [] for variant in variants}
        for number in range(1, stage.options.rounds + 1):
            for variant in variants:
                with stage.display.running(f"rates, round {number}: {variant.name}", variant.planned_seconds):
                    loads[variant.name].append(
                        stage.load(variant.peer, variant.requests, variant.connections, variant.seconds)
                    )
            for peer in peers:
                peer.check()
    _compare(loads, results)
    for name, measured in loads.items():
        results.add(Figure(name, "requests/s"), _per_second(measured), _busy(measured))


def fast_rate(stage: Stage, peer: Peer) -> float:
    """The fast lane's rate of clicks by itself, for those who need it without the rest."""
    requests = stage.requests("clicks", stage.clicks)
    return stage.load(peer, requests, CONNECTIONS, stage.options.seconds).answered.per_second


def _variants(
    stage: Stage,
    nginx: Peer,
    constant: Peer,
    bare: Peer,
    naive: Peer,
    inserting: Peer,
    fast: Peer,
    plain: Peer,
    disk: Peer,
) -> Sequence[Variant]:
    person_based, anonymized = stage.installation.person_based, stage.installation.anonymized
    clicks = stage.requests("clicks", stage.clicks)
    closing = stage.requests("closing", stage.clicks, close=True)
    seconds, side = stage.options.seconds, stage.options.side_seconds
    kinds = {
        "person-based clicks": person_based.clicks,
        "anonymized clicks": anonymized.clicks,
        "person-based opens": person_based.opens,
        "anonymized opens": anonymized.opens,
    }
    return (
        Variant("nginx 302 + access log", nginx, clicks, seconds),
        Variant(FAST_CLICKS, fast, clicks, seconds),
        Variant("uvicorn raw ASGI constant 302", constant, clicks, seconds),
        Variant("uvicorn constant, everything switched off", bare, clicks, seconds),
        Variant("plain lane, clicks of both modes", plain, clicks, seconds),
        Variant("Starlette + INSERT of an unread click", naive, clicks, seconds),
        Variant("Starlette + INSERT per click", inserting, clicks, seconds),
        Variant("nginx, new connections", nginx, closing, seconds),
        Variant("fast lane, new connections", fast, closing, seconds),
        Variant("fast lane, 256 connections, durability process", fast, clicks, seconds, MANY_CONNECTIONS),
        Variant("fast lane, 256 connections, durability disk", disk, clicks, seconds, MANY_CONNECTIONS),
        *(Variant(f"fast lane, {kind}", fast, stage.requests(kind, paths), side) for kind, paths in kinds.items()),
        Variant("uvicorn constant, new connections", constant, closing, side),
        Variant("plain lane, new connections", plain, closing, side),
        Variant("Starlette + INSERT, new connections", inserting, closing, side),
    )


def _compare(loads: dict[str, list[Load]], results: Results) -> None:
    nginx, fast, constant, bare, plain, naive, inserting, nginx_new, fast_new, process, disk, *_ = loads.values()
    for figure, of, to in (
        (FAST_TO_NGINX, fast, nginx),
        (FAST_TO_UVICORN, fast, constant),
        (FAST_TO_BARE, fast, bare),
        (PLAIN_TO_UVICORN, plain, constant),
        (FAST_TO_NAIVE, fast, naive),
        (FAST_TO_INSERTING, fast, inserting),
        (NEW_CONNECTION, fast_new, nginx_new),
        (DISK_TO_PROCESS, disk, process),
    ):
        results.add(figure, ratios(_per_second(of), _per_second(to)), _limit(to))


def _limit(to: Sequence[Load]) -> str:
    """A word on a ratio that flatters us, because the generator was too slow for the other server."""
    server = median(load.server_busy for load in to)
    generator = median(load.generator_busy for load in to)
    is_limited = generator > _FULLY_BUSY > server
    return f"the generator was at its limit when the other server was {server:.0%} busy" if is_limited else ""


def _per_second(loads: Sequence[Load]) -> list[float]:
    return [load.answered.per_second for load in loads]


def _busy(loads: Sequence[Load]) -> str:
    server = median(load.server_busy for load in loads)
    generator = median(load.generator_busy for load in loads)
    return f"server {server:.0%} busy, generator {generator:.0%}"
