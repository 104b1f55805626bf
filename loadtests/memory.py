"""Memory of one collector: with many idle connections, and how it grows over millions of requests."""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from . import machine
from .figures import RSS_GROWTH, Figure, Results
from .machine import MeasurementFailed
from .peers import CHECKOUT, Collector, Peer, running
from .stage import CONNECTIONS, Options, Stage

FIGURES = (RSS_GROWTH,)
PER_REQUESTS = 10_000_000
WARM_UP_PART = 0.1
"""Requests before the first look, as a part of those between the two looks."""

SETTLE_SECONDS = 1.0
_CHUNK_SECONDS = 10
_PLANNED_PER_SECOND = 55_000
_MB = 1e6


def planned_seconds(options: Options) -> float:
    """How long it will take, if the server is as fast as it usually is."""
    return 10 + options.requests * (1 + WARM_UP_PART) / _PLANNED_PER_SECOND


def run(stage: Stage, results: Results) -> None:
    """First the idle connections on a fresh collector, then the requests on another."""
    _measure_idle(stage, results)
    _measure_growth(stage, results)


def _measure_idle(stage: Stage, results: Results) -> None:
    number = stage.options.idle_connections
    collector = stage.peer(Collector, "memory-idle")
    with running(collector), stage.display.running(f"memory: {number:,} idle connections", 10):
        fresh = machine.rss_bytes(collector.pid)
        held = _with_connections(collector, number, stage.requests("clicks", stage.clicks))
    results.add(Figure("RSS of a fresh collector", "MB"), [fresh / _MB])
    results.add(Figure(f"RSS per worker with {number:,} idle connections", "MB"), [held / _MB])


def _with_connections(collector: Peer, number: int, requests: Path) -> int:
    command = _client(collector.port, number, requests)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=CHECKOUT) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        ready = client.stdout.readline()
        held = machine.rss_bytes(collector.pid)
        said, _ = client.communicate(b"\n")
    if ready != b"held\n" or said.strip() != str(number).encode():
        raise MeasurementFailed(f"of {number} idle connections {said.decode().strip() or 'none'} were held")
    return held


def _client(port: int, number: int, requests: Path) -> Sequence[str]:
    return sys.executable, "-m", "loadtests.connections", str(port), str(number), str(requests)


def _measure_growth(stage: Stage, results: Results) -> None:
    collector = stage.peer(Collector, "memory-growth")
    with running(collector):
        requests = stage.requests("hits", stage.hits)
        _send(stage, collector, requests, round(stage.options.requests * WARM_UP_PART))
        before = _settled_rss(collector)
        sent = _send(stage, collector, requests, stage.options.requests)
        after = _settled_rss(collector)
    results.add(RSS_GROWTH, [(after - before) / _MB * PER_REQUESTS / sent], f"{sent:,} requests")
    name = f"RSS per worker after {stage.options.requests:,} requests"
    results.add(Figure(name, "MB"), [after / _MB])


def _send(stage: Stage, collector: Peer, requests: Path, number: int) -> int:
    """At least so many requests, in runs of some seconds, each on new connections."""
    begun = collector.answered
    while (sent := collector.answered - begun) < number:
        stage.display.shows(f"memory: {sent:,} of {number:,} requests")
        stage.load(collector, requests, CONNECTIONS, _CHUNK_SECONDS)
        stage.display.passed((collector.answered - begun - sent) / _PLANNED_PER_SECOND)
    collector.check()
    return sent


def _settled_rss(collector: Peer) -> int:
    time.sleep(SETTLE_SECONDS)
    return machine.rss_bytes(collector.pid)
