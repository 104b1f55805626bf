"""The load generators, wrk and h2load: how they are run, and what they say.

wrk is a closed loop, as fast as the answers come, for rates. h2load is an open loop, at a rate that no slow answer
lowers, for latencies and for load that is to be sustained. Invariant: a run with one failed request is no figure.
"""

import re
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import machine
from .machine import MeasurementFailed

SCRIPT = Path(__file__).with_name("rotate.lua")
WARM_UP_SECONDS = 0.4
CLIENT_RATE = 89
"""Requests a second of each of h2load's clients.

It looks at a client's clock a hundred times a second at most. At any higher rate a client would send several requests
at once, each after the answer before: a closed loop again. Clients begin at whole milliseconds, so at a hundred a
second every tenth of them would send at the same moment for ever; a period of 11.24 ms keeps them apart.
"""

SPREAD = 1
"""Clients of h2load that begin in each millisecond, so that they do not send at the same moment."""

_COUNTED = re.compile(
    r"^counted requests=(\d+) microseconds=(\d+) connect=(\d+) read=(\d+) write=(\d+) status=(\d+) timeout=(\d+)$", re.M
)
_REQUESTS = re.compile(r"^requests: \d+ total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed", re.M)
_FINISHED = re.compile(r"^finished in ([\d.]+)(us|ms|s|m)?,", re.M)
_STATUS = re.compile(r"^status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx$", re.M)
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


@dataclass(frozen=True, slots=True)
class Answered:
    """What a generator counted: answers, over how many seconds, and with how much of a core."""

    answers: int
    seconds: float
    cpu_seconds: float = 0.0

    @property
    def per_second(self) -> float:
        return self.answers / self.seconds


# --- wrk -------------------------------------------------------------------------------------------------------------


def warm_up(port: int, requests: Path, connections: int) -> int:
    """A short load before what is measured, for wrk itself counts in whole seconds; returns how many were answered."""
    command = _wrk(port, requests, connections, 10)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as wrk:
        try:
            time.sleep(WARM_UP_SECONDS)
        finally:
            wrk.send_signal(signal.SIGINT)
        return parse_wrk(wrk.communicate()[0]).answers


def run_wrk(port: int, requests: Path, connections: int, seconds: int) -> Answered:
    """As many requests as are answered within some seconds."""
    before = machine.finished_cpu_seconds()
    done = subprocess.run(_wrk(port, requests, connections, seconds), capture_output=True, text=True, check=False)
    return parse_wrk(done.stdout + done.stderr, machine.finished_cpu_seconds() - before)


def _wrk(port: int, requests: Path, connections: int, seconds: int) -> Sequence[str]:
    load = ("-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(SCRIPT))
    return (machine.tool("wrk"), *load, f"http://127.0.0.1:{port}/", "--", str(requests))


def parse_wrk(output: str, cpu_seconds: float = 0.0) -> Answered:
    """What `rotate.lua` printed in the end; MeasurementFailed if anything went wrong."""
    found = _COUNTED.search(output)
    if found is None:
        raise MeasurementFailed(f"wrk did not come to its end: {output.strip()[-300:]}")
    answers, microseconds, *failed = map(int, found.groups())
    if any(failed) or not answers:
        names = ("connect", "read", "write", "status", "timeout")
        told = ", ".join(f"{name} {number}" for name, number in zip(names, failed, strict=True) if number)
        raise MeasurementFailed(f"wrk counted {answers} answers and failures: {told or 'none'}")
    return Answered(answers, microseconds / 1e6, cpu_seconds)


# --- h2load ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """A load at a fixed rate; `headers` are those of every request."""

    port: int
    uris: Path
    headers: Sequence[tuple[str, str]]
    rate: int
    seconds: float
    client_rate: int = CLIENT_RATE

    @property
    def clients(self) -> int:
        return max(1, round(self.rate / self.client_rate))

    @property
    def exact_rate(self) -> int:
        """What all clients together send; each sends as often as the others."""
        return self.clients * self.client_rate

    @property
    def begun_seconds(self) -> float:
        """How long it takes until the last client has begun; each sends for `seconds`."""
        return self.clients / SPREAD / 1000

    @property
    def requests(self) -> int:
        """The exact number that is sent, and answered before h2load ends."""
        return self.clients * round(self.client_rate * self.seconds)

    def command(self, log: Path | None = None) -> Sequence[str]:
        """The command line; with a log every request's begin and duration are written there."""
        given = [f"{name.lower()}: {value}" for name, value in self.headers if name != "Host"]
        return (
            machine.tool("h2load"),
            *("--h1", "-t1", f"-c{self.clients}", f"-n{self.requests}", f"--rps={self.client_rate}"),
            *(f"-r{SPREAD}", "--rate-period=1ms"),
            *("-i", str(self.uris), f"--base-uri=http://127.0.0.1:{self.port}"),
            *(part for header in given for part in ("-H", header)),
            *(("--log-file", str(log)) if log else ()),
        )


def run_h2load(load: OpenLoop, log: Path) -> Answered:
    """Runs the load to its end, with a fresh log."""
    log.unlink(missing_ok=True)  # h2load would append
    before = machine.finished_cpu_seconds()
    done = subprocess.run(load.command(log), capture_output=True, text=True, check=False)
    return parse_h2load(done.stdout + done.stderr, machine.finished_cpu_seconds() - before)


def parse_h2load(output: str, cpu_seconds: float = 0.0) -> Answered:
    """What h2load says in the end; MeasurementFailed if a request failed."""
    counted, finished, statuses = _REQUESTS.search(output), _FINISHED.search(output), _STATUS.search(output)
    if counted is None or finished is None or statuses is None:
        raise MeasurementFailed(f"h2load did not come to its end: {output.strip()[-300:]}")
    done, succeeded, failed = map(int, counted.groups())
    refused = int(statuses[3]) + int(statuses[4])
    if failed or refused or succeeded != done or not done:
        raise MeasurementFailed(f"h2load: of {done} requests {failed} failed and {refused} were refused")
    return Answered(done, float(finished[1]) * _UNITS[finished[2] or "s"], cpu_seconds)


def parse_log(text: str, skip_seconds: float) -> list[int]:
    """The durations of a log's requests in microseconds, without those that began in the first seconds."""
    rows = [tuple(map(int, line.split("\t")[:3])) for line in text.splitlines()]
    if not rows:
        return []
    begun = min(row[0] for row in rows) + skip_seconds * 1e6
    if refused := sum(status not in (200, 302) for _, status, _ in rows):
        raise MeasurementFailed(f"h2load: {refused} requests were refused")
    return [microseconds for at, _, microseconds in rows if at >= begun]
