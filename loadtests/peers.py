"""The servers under test: how each is started on its core, what it counted, and how it ends.

Invariant: every server answers the same requests with the same headers, writes no log that the others do not, and
leaves nothing behind.
"""

import contextlib
import http.client
import os
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from prometheus_client.parser import text_string_to_metric_families

from app.journal.segments import Stream, segments

from . import machine
from .installation import Installation
from .machine import MeasurementFailed

CHECKOUT = Path(__file__).parents[1]
STOP_SECONDS = 30.0
_UVICORN = (sys.executable, "-m", "uvicorn", "--loop", "uvloop", "--http", "httptools", "--no-access-log")
"""As its command starts it, with the faster of its parts; a log of every request costs it half of its rate."""


class Peer(ABC):
    """One server process on given cores."""

    name = ""

    def __init__(self, installation: Installation, directory: Path, cores: Sequence[int]) -> None:
        self.installation = installation
        self.directory = directory
        self.port = machine.free_port()
        self.answered = 0
        """What generators say it answered; `check` compares it with `counted`."""

        self._cores = cores
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True)

    @abstractmethod
    def command(self) -> Sequence[str]:
        """Program and arguments that serve on `port`."""

    def environment(self) -> Mapping[str, str]:
        """What it is told by variables."""
        return {}

    def is_ready(self) -> bool:
        """Whether it serves."""
        return self.get("/c/x") is not None

    @property
    def pid(self) -> int:
        assert self._process is not None, "it was not started"
        return self._process.pid

    def start(self) -> None:
        """Starts it and waits until it answers."""
        with machine.on_cores(*self._cores), self.log.open("wb") as log:
            self._process = self._spawn(log)
        machine.until(self._answers, f"{self.name} answers")

    def _spawn(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MAILTRAIL_")}
        return subprocess.Popen(
            self.command(),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=CHECKOUT,
            env=clean | dict(self.environment()),
        )

    def stop(self) -> None:
        """Ends it in order; whoever does not end in time is killed."""
        if self._process is None:
            return
        with self._process as process:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()

    def counted(self) -> int | None:
        """What it has recorded since its start, None if it records nothing."""
        return None

    def check(self) -> None:
        """MeasurementFailed if it recorded less than it answered."""
        machine.until(self._has_recorded, f"{self.name} recorded the {self.answered:,} hits that it answered")

    def tidy(self) -> None:  # noqa: B027 – most write nothing
        """Removes what it wrote and will not look at again."""

    def _has_recorded(self) -> bool:
        counted = self.counted()
        return counted is None or counted >= self.answered

    @property
    def log(self) -> Path:
        return self.directory / "output.log"

    def get(self, path: str, port: int | None = None) -> tuple[int, str] | None:
        """Status and body of an answer; None while nobody listens."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode("latin-1")
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def _last_line(self) -> str:
        return self.log.read_text().strip().rpartition("\n")[2][-300:]

    def _answers(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise MeasurementFailed(f"{self.name} ended: {self._last_line()}")
        return self.is_ready()


@contextlib.contextmanager
def running(*peers: Peer) -> Iterator[None]:
    """All of them started; all of them ended, whatever happens."""
    with contextlib.ExitStack() as stack:
        for peer in peers:
            stack.callback(peer.stop)
            peer.start()
        yield


_NGINX = """
daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr;
events {{ worker_connections 16384; }}
http {{
    access_log access.log combined buffer=64k flush=1s;
    server_tokens off;
    keepalive_requests 1000000000;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {{
        listen 127.0.0.1:{port} backlog=2048;
        location / {{
            add_header cache-control no-store;
            add_header referrer-policy no-referrer;
            add_header x-robots-tag noindex;
            return 302 "{location}";
        }}
    }}
}}
"""


class Nginx(Peer):
    """`return 302` with a constant destination and a buffered access log."""

    name = "nginx"

    def command(self) -> Sequence[str]:
        file = self.directory / "nginx.conf"
        file.write_text(_NGINX.format(port=self.port, location=self.installation.location))
        return machine.tool("nginx"), "-p", str(self.directory), "-c", str(file), "-e", "stderr"

    def tidy(self) -> None:
        os.truncate(self.directory / "access.log", 0)


class Constant(Peer):
    """uvicorn with a raw ASGI application that answers with a constant."""

    name = "uvicorn constant"

    def command(self) -> Sequence[str]:
        return *_UVICORN, "--lifespan", "off", "--port", str(self.port), "loadtests.constant:app"

    def environment(self) -> Mapping[str, str]:
        return {"BENCH_LOCATION": self.installation.location}


class BareConstant(Constant):
    """The same with everything switched off that uvicorn can do without."""

    name = "uvicorn constant, bare"

    def command(self) -> Sequence[str]:
        return *super().command(), "--ws", "none", "--no-server-header", "--no-proxy-headers"


class Naive(Peer):
    """Starlette with one INSERT of an unread click, committed before the answer."""

    name = "Starlette + INSERT of an unread click"

    def command(self) -> Sequence[str]:
        return *_UVICORN, "--port", str(self.port), "loadtests.naive:app"

    def environment(self) -> Mapping[str, str]:
        return {"BENCH_LOCATION": self.installation.location, "BENCH_DATABASE_URL": self.installation.url}

    def counted(self) -> int:
        return int(self.installation.query("select count(*) from public.clicks")[0][0])

    def check(self) -> None:
        super().check()
        self.installation.query("truncate public.clicks")
        self.answered = 0


class Inserting(Naive):
    """Starlette with all of our work for a hit, and one INSERT of it instead of the journal."""

    name = "Starlette + INSERT per click"

    def command(self) -> Sequence[str]:
        return *_UVICORN, "--port", str(self.port), "loadtests.inserting:app"

    def counted(self) -> int:
        return int(self.installation.query("select count(*) from mailtrail.hits")[0][0])

    def check(self) -> None:
        Peer.check(self)
        self.installation.query("truncate mailtrail.hits")
        self.answered = 0


class Collector(Peer):
    """Our collector, `python -m app collect`, with settings of its own."""

    name = "fast lane"
    variables: Mapping[str, str] = {}

    def __init__(self, installation: Installation, directory: Path, cores: Sequence[int]) -> None:
        super().__init__(installation, directory, cores)
        self.private_port = machine.free_port()

    def command(self) -> Sequence[str]:
        return sys.executable, "-m", "app", "collect", "--end-with-parent"

    def environment(self) -> Mapping[str, str]:
        return {
            "MAILTRAIL_DATA_DIRECTORY": str(self.directory),
            "MAILTRAIL_DATABASE_URL": self.installation.url,
            "MAILTRAIL_PORT": str(self.port),
            "MAILTRAIL_PRIVATE_PORT": str(self.private_port),
            **self.variables,
        }

    def is_ready(self) -> bool:
        answered = self.get("/readyz")
        return answered is not None and answered[0] == 200 and self.get("/metrics", self.private_port) is not None

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels and all processes."""
        answered = self.get("/metrics", self.private_port)
        if answered is None:
            raise MeasurementFailed(f"{self.name} shows no metrics: {self._last_line()}")
        families = text_string_to_metric_families(answered[1])
        return sum(sample.value for family in families for sample in family.samples if sample.name == name)

    def counted(self) -> int:
        if lost := self.metric("mailtrail_hits_lost_total"):
            raise MeasurementFailed(f"{self.name} lost {lost:.0f} hits")
        return int(self.metric("mailtrail_hits_total"))

    def tidy(self) -> None:
        """Removes full segments, as a shipper does; the open ones stay."""
        for journal in (self.directory / "journals").iterdir():
            for stream in Stream:
                for segment in segments(journal, stream)[:-1]:
                    segment.path.unlink()


class PlainLane(Collector):
    """Our collector behind uvicorn's own protocol and ASGI."""

    name = "plain lane"
    variables = {"MAILTRAIL_FAST_LANE": "false"}  # noqa: RUF012


class DiskCollector(Collector):
    """Our collector with answers that wait until their hit is on the disk."""

    name = "fast lane, disk"
    variables = {"MAILTRAIL_DURABILITY": "disk"}  # noqa: RUF012


class Everything(Collector):
    """All of Mailtrail but PostgreSQL, `python -m app up`: collector and shipper."""

    name = "everything"

    def command(self) -> Sequence[str]:
        return sys.executable, "-m", "app", "up"
