"""Where one-core figures are measured: the server's core, the generator's, and a database on the latter.

Invariant: nothing but the server under test has work on the server's core; this process stays on the other one.
"""

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import generators, machine
from .display import Display
from .generators import Answered
from .installation import Installation, alternating, installed
from .peers import Peer
from .requests import SEED, browsers, headers_of, write_requests, write_uris

CONNECTIONS = 64


@dataclass(frozen=True, slots=True)
class Options:
    """How long is measured."""

    rounds: int = 5
    seconds: int = 3
    side_seconds: int = 1
    """For rates of which nothing is asked."""
    latency_seconds: int = 2
    drain_hits: int = 200_000
    step_seconds: int = 15
    sustained_seconds: int = 180
    workers: int = 1
    """Collectors in the end-to-end load."""

    tokens: int = 1_000_000
    requests: int = 10_000_000
    idle_connections: int = 10_000


FULL = Options()
QUICK = Options(
    rounds=2,
    seconds=1,
    latency_seconds=1,
    drain_hits=20_000,
    step_seconds=5,
    sustained_seconds=10,
    tokens=100_000,
    requests=200_000,
    idle_connections=1_000,
)
"""For trying it out; the figures mean little."""


@dataclass(frozen=True, slots=True)
class Load:
    """One measured round: the answers, and how busy server and generator were, as parts of a core."""

    answered: Answered
    server_busy: float

    @property
    def generator_busy(self) -> float:
        return self.answered.cpu_seconds / self.answered.seconds


@dataclass(frozen=True, slots=True)
class Stage:
    """The cores, the database and the prepared requests, by their kinds."""

    directory: Path
    server_core: int
    generator_core: int
    installation: Installation
    options: Options
    display: Display

    @property
    def clicks(self) -> list[str]:
        """The mix that ratios are measured with: person-based and anonymized in turn."""
        return alternating(self.installation.person_based.clicks, self.installation.anonymized.clicks)

    @property
    def hits(self) -> list[str]:
        """Clicks and opens of both modes in turn."""
        anonymized, person_based = self.installation.anonymized, self.installation.person_based
        return alternating(anonymized.opens, person_based.clicks, person_based.opens, anonymized.clicks)

    def requests(self, name: str, paths: list[str], *, close: bool = False) -> Path:
        """A file of whole requests for wrk."""
        return write_requests(self.directory / f"{name}.requests", paths, close=close)

    def uris(self, name: str, paths: list[str]) -> Path:
        """A file of targets for h2load."""
        return write_uris(self.directory / f"{name}.uris", paths)

    def peer(self, kind: type[Peer], name: str = "") -> Peer:
        """A server on the server's core, not started yet."""
        return kind(self.installation, self.directory / (name or kind.__name__.lower()), (self.server_core,))

    def load(self, peer: Peer, requests: Path, connections: int, seconds: int) -> Load:
        """One round after a warm-up; whether all hits were recorded is for `peer.check`."""
        peer.answered += generators.warm_up(peer.port, requests, connections)
        busy = machine.cpu_seconds(peer.pid)
        answered = generators.run_wrk(peer.port, requests, connections, seconds)
        busy = machine.cpu_seconds(peer.pid) - busy
        peer.answered += answered.answers
        peer.tidy()
        return Load(answered, busy / answered.seconds)


@contextlib.contextmanager
def stage(directory: Path, options: Options, display: Display) -> Iterator[Stage]:
    """The stage, with its database running."""
    server_core, generator_core = machine.two_cores()
    with machine.on_cores(generator_core), installed(directory / "pg", generator_core) as installation:
        yield Stage(directory, server_core, generator_core, installation, options, display)


def browser_headers() -> list[tuple[str, str]]:
    """The headers of one Chrome, for h2load, which sends the same ones with every request."""
    chance = random.Random(SEED)
    chrome = next(browser for browser in browsers(chance) if "Windows" in browser.user_agent)
    return headers_of(chrome, chance)
