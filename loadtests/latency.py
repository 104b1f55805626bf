"""Latencies of the fast lane and nginx at half of the fast lane's highest rate: the same absolute rate for both."""

import math
from pathlib import Path

from . import generators, machine, rates
from .figures import P99_TO_NGINX, Figure, Results, ratios
from .generators import OpenLoop
from .machine import MeasurementFailed
from .peers import Collector, Nginx, Peer, running
from .stage import Options, Stage, browser_headers

FIGURES = (P99_TO_NGINX,)
PERCENTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
WARM_UP_SECONDS = 1.0
KEPT = 0.97
"""The part of the rate that must be reached, the clients' start one after the other aside."""

ROUNDS = 3
"""Short ones for each round of the other figures.

How h2load's clients fall together is decided anew at each start, and a virtual machine's host takes a core away for
milliseconds now and then. Both decide about a round's 99th percentile as much as the server; the median of many short
rounds in turn is the servers'.
"""

DISTURBED = "; beside other processes of the machine, as this one may not run before them (root or CAP_SYS_NICE)"

_START_SECONDS = 6.0
_AROUND_SECONDS = 0.5


def planned_seconds(options: Options) -> float:
    """How long it will take."""
    each = options.latency_seconds + WARM_UP_SECONDS + _AROUND_SECONDS
    return _START_SECONDS + 2 * ROUNDS * options.rounds * each


def run(stage: Stage, results: Results) -> None:
    """Loads both in turn; the percentiles are those of each round, the figures their medians."""
    stage.display.shows("latency: starting the servers")
    fast, nginx = stage.peer(Collector, "latency-fast"), stage.peer(Nginx, "latency-nginx")
    # Servers and generator alike: other processes of this machine would decide about the slowest percent.
    with machine.undisturbed() as is_undisturbed, running(fast, nginx):
        known = results.found.get(rates.FAST_CLICKS)
        highest = (known.value if known else None) or rates.fast_rate(stage, fast)
        stage.display.passed(_START_SECONDS)
        uris = stage.uris("clicks", stage.clicks)
        measured: dict[str, list[dict[str, float]]] = {fast.name: [], nginx.name: []}
        for number in range(1, ROUNDS * stage.options.rounds + 1):
            for peer in (fast, nginx):
                seconds = stage.options.latency_seconds + WARM_UP_SECONDS
                load = OpenLoop(peer.port, uris, browser_headers(), round(highest / 2), seconds)
                with stage.display.running(f"latency, round {number}: {peer.name}", seconds + _AROUND_SECONDS):
                    measured[peer.name].append(_percentiles_of(stage.directory / "latency.log", load, peer))
    ours, theirs = measured.values()
    results.add(
        P99_TO_NGINX,
        ratios([each["p99"] for each in ours], [each["p99"] for each in theirs]),
        f"at {load.exact_rate:,} requests/s" + ("" if is_undisturbed else DISTURBED),
    )
    for name, each_round in measured.items():
        for percentile in PERCENTILES:
            results.add(Figure(f"{name}, {percentile} at half load", "µs"), [each[percentile] for each in each_round])


def _percentiles_of(log: Path, load: OpenLoop, peer: Peer) -> dict[str, float]:
    answered = generators.run_h2load(load, log)
    if answered.seconds - load.begun_seconds > load.seconds / KEPT:
        raise MeasurementFailed(f"{peer.name} was asked at {answered.per_second:,.0f}/s instead of {load.rate:,}/s")
    peer.answered += answered.answers
    peer.check()
    durations = sorted(generators.parse_log(log.read_text(), WARM_UP_SECONDS))
    peer.tidy()
    return {name: percentile(durations, part) for name, part in PERCENTILES.items()}


def percentile(ordered: list[int], part: float) -> float:
    """The smallest value that this part of all does not exceed."""
    return float(ordered[max(0, math.ceil(part * len(ordered)) - 1)])
