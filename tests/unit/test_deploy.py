"""The files of `deploy/`: linted by the programs that read them; proxies that really run keep tokens out of their logs.

What a proxy must do is tried with the file itself; only the addresses, the certificate and the paths are the test's.
"""

import configparser
import contextlib
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.commands import supervisor
from app.config import Settings, described
from app.shipper import ship
from app.tracking.tokens import MAX_TOKEN_BYTES
from tests.integration.service import free_port, until

CHECKOUT = Path(__file__).parents[2]
DEPLOY = CHECKOUT / "deploy"
HOST = "t.example.com"
SECRET = "c2VjcmV0dG9rZW4"  # base64: no log may have it
ANSWER = b"HTTP/1.1 302 Found\r\nlocation: https://shop.example/\r\ncontent-length: 0\r\n%b\r\n"
UPSTREAM = "127.0.0.1:8080"
STOP_SECONDS = 10.0


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `fullchain.pem` and `privkey.pem`, signed by itself."""
    made = tmp_path_factory.mktemp("certificate")
    run(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-days", "2", "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}"),
        *("-keyout", str(made / "privkey.pem"), "-out", str(made / "fullchain.pem")),
    )
    return made


def run(*command: str) -> str:
    """A program to its end; gives all that it printed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def program(name: str) -> str:
    """Its path; these tests need it: `apt-get install nginx-light caddy openssl`."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert found, f"{name} is not installed: apt-get install nginx-light caddy openssl systemd"
    return found


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    """The text with each of the pairs' first words replaced; each must be there."""
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    return text


Front = tuple[Path, int, int]
"""A directory with all that a proxy writes, its port with TLS, and the port where it looks for the collector."""


@contextlib.contextmanager
def nginx(directory: Path, certificate: Path) -> Iterator[Front]:
    tls, plain, upstream = free_port(), free_port(), free_port()
    site = replaced(
        (DEPLOY / "nginx.conf").read_text(),
        (UPSTREAM, f"127.0.0.1:{upstream}"),
        ("listen 443", f"listen 127.0.0.1:{tls}"),
        ("listen [::]:443 ssl http2;", ""),
        ("listen 80;", f"listen 127.0.0.1:{plain};"),
        ("listen [::]:80;", ""),
        (f"/etc/letsencrypt/live/{HOST}", str(certificate)),
    )
    (directory / "site.conf").write_text(site)
    (directory / "main.conf").write_text(
        f"daemon off; master_process off; pid {directory}/pid; error_log {directory}/error.log info;\n"
        f"events {{ worker_connections 256; }}\n"
        f"http {{ access_log {directory}/access.log; client_body_temp_path {directory}/b;\n"
        f" proxy_temp_path {directory}/p;\n"
        f" fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;"
        f" include {directory}/site.conf; }}\n"
    )
    command = (program("nginx"), "-e", f"{directory}/start.log", "-c", f"{directory}/main.conf")
    assert "test is successful" in run(*command, "-t")
    with started(directory, tls, *command):
        yield directory, tls, upstream


@contextlib.contextmanager
def caddy(directory: Path, certificate: Path) -> Iterator[Front]:
    tls, upstream = free_port(), free_port()
    options = f"{{\n\tadmin off\n\tauto_https disable_redirects\n\thttp_port {free_port()}\n\thttps_port {tls}\n"
    text = replaced(
        (DEPLOY / "Caddyfile").read_text(),
        ("{\n\tlog default {", options + "\tlog default {\n\t\tlevel DEBUG"),
        (UPSTREAM, f"127.0.0.1:{upstream}"),
        ("lb_try_duration 5s", "lb_try_duration 300ms"),
        (f"{HOST} {{", f"{HOST} {{\n\ttls {certificate}/fullchain.pem {certificate}/privkey.pem"),
    )
    (directory / "Caddyfile").write_text(text)
    words = ("--adapter", "caddyfile", "--config", str(directory / "Caddyfile"))
    with started(directory, tls, program("caddy"), "run", *words):
        yield directory, tls, upstream


@contextlib.contextmanager
def started(directory: Path, port: int, *command: str) -> Iterator[None]:
    """A proxy from its first connection to its end; what it says is in its directory."""
    environment = os.environ | {"HOME": str(directory), "XDG_DATA_HOME": str(directory / "data")}
    with (directory / "output.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=directory)
    try:
        until(lambda: process.poll() is not None or _listens(port), "it listens", log=directory / "output.log")
        assert process.poll() is None, (directory / "output.log").read_text()
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(STOP_SECONDS)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def collector(port: int, answer: bytes) -> Iterator[list[bytes]]:
    """A server in the collector's place that gives one answer to each connection; the heads it was asked with."""
    heads: list[bytes] = []
    listening = socket.create_server(("127.0.0.1", port))

    def serve() -> None:
        with contextlib.suppress(OSError):  # it is closed: the end
            while True:
                connection, _ = listening.accept()
                with connection:
                    head = b""
                    while b"\r\n\r\n" not in head and (data := connection.recv(65536)):
                        head += data
                    if head:
                        heads.append(head)
                        connection.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield heads
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(STOP_SECONDS)


def ask(port: int, certificate: Path, head: bytes, seconds: float = 30.0) -> bytes:
    """What comes back over TLS until the connection ends, or nothing more came for so long."""
    trusting = ssl.create_default_context(cafile=str(certificate / "fullchain.pem"))
    with (
        socket.create_connection(("127.0.0.1", port), timeout=seconds) as plain,
        trusting.wrap_socket(plain, server_hostname=HOST) as connection,
    ):
        connection.sendall(head)
        answer = b""
        with contextlib.suppress(TimeoutError, ConnectionResetError, ssl.SSLEOFError):
            while data := connection.recv(65536):
                answer += data
        return answer


def request(path: str, *lines: str) -> bytes:
    head = (f"GET {path} HTTP/1.1", f"Host: {HOST}", "Connection: close", *lines)
    return ("\r\n".join(head) + "\r\n\r\n").encode()


def written(directory: Path) -> str:
    """All that a proxy left in its directory, whatever file it is in, but not its configuration."""
    ours = {"main.conf", "site.conf", "Caddyfile"}
    return "".join(
        path.read_bytes().decode(errors="replace")
        for path in directory.rglob("*")
        if path.is_file() and path.name not in ours
    )


@pytest.mark.parametrize("proxy", [nginx, caddy])
def test_a_proxy_hands_on_links_and_keeps_tokens_out_of_its_logs(
    proxy: Callable[[Path, Path], contextlib.AbstractContextManager[Front]], tmp_path: Path, certificate: Path
) -> None:
    longest = SECRET + "A" * (MAX_TOKEN_BYTES - len(SECRET))
    with proxy(tmp_path, certificate) as (_, tls, upstream):
        with collector(upstream, ANSWER % b"connection: close\r\n") as heads:
            answered = [
                ask(tls, certificate, request(path, "X-Forwarded-For: 203.0.113.7", "User-Agent: someone"))
                for path in (f"/c/{SECRET}", f"/o/{SECRET}.gif", f"/c/{longest}", f"/c/{SECRET}?x=1")
            ]
            assert [answer.split(b" ")[1] for answer in answered] == [b"302"] * 4
            assert all(b"\r\nlocation: https://shop.example/\r\n" in answer.lower() for answer in answered)
            assert len(heads) == 4
            for head in heads:
                assert re.findall(rb"(?i)\r\nx-forwarded-for: ([^\r]+)", head) == [b"127.0.0.1"]
            assert ask(tls, certificate, request("/metrics")).split(b" ")[1] == b"404"
            assert len(heads) == 4
        # The collector is down; then it answers nonsense, and cuts its answer; then clients send nonsense.
        assert ask(tls, certificate, request(f"/c/{SECRET}")).split(b" ")[1] == b"502"
        for answer in (b"nonsense\r\n\r\n", b"HTTP/1.1 302 Found\r\ncontent-length: 9\r\n\r\ncut", b""):
            with collector(upstream, answer):
                ask(tls, certificate, request(f"/c/{SECRET}"), 2)
        for head in (
            f"GET /c/{SECRET} nonsense\r\n\r\n".encode(),
            request(f"/c/{SECRET}{'A' * 40_000}"),
            request(f"/c/{SECRET}", f"Cookie: {'A' * 2_000_000}"),
            f"POST /c/{SECRET} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 99999\r\n\r\nx".encode(),
            f"GET /c/{SECRET}\0 HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode(),
        ):
            with contextlib.suppress(OSError):  # it has hung up while we still sent
                ask(tls, certificate, head, 2)
    assert SECRET not in written(tmp_path)


def test_the_log_of_a_proxy_with_its_defaults_would_have_tokens(tmp_path: Path, certificate: Path) -> None:
    """The test above can fail: the same nginx without our two lines writes the token into its error log."""
    with nginx(tmp_path, certificate):
        pass
    site = tmp_path / "site.conf"
    site.write_text(site.read_text().replace("error_log /dev/null emerg;", ""))
    port = re.search(r"listen 127\.0\.0\.1:(\d+) ssl", site.read_text())
    assert port
    with started(
        tmp_path, int(port[1]), program("nginx"), "-e", f"{tmp_path}/start.log", "-c", f"{tmp_path}/main.conf"
    ):
        ask(int(port[1]), certificate, request(f"/c/{SECRET}"))
    assert SECRET in written(tmp_path)


def test_the_caddyfile_is_valid_as_it_is() -> None:
    said = run(program("caddy"), "validate", "--adapter", "caddyfile", "--config", str(DEPLOY / "Caddyfile"))
    assert "Valid configuration" in said
    assert "not formatted" not in said


def test_the_unit_is_understood_by_systemd(tmp_path: Path) -> None:
    unit = replaced((DEPLOY / "mailtrail.service").read_text(), ("/opt/mailtrail/bin/mailtrail", "/bin/true"))
    (tmp_path / "mailtrail.service").write_text(unit)
    assert run(program("systemd-analyze"), "verify", str(tmp_path / "mailtrail.service")) == ""


def test_the_unit_gives_the_supervisor_the_time_that_it_takes() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DEPLOY / "mailtrail.service")
    assert unit["Service"]["KillMode"] == "mixed"
    assert int(unit["Service"]["TimeoutStopSec"]) > 2 * supervisor.STOP_SECONDS + ship.DRAIN_SECONDS
    assert "stop_grace_period: 90s" in (DEPLOY / "compose.yaml").read_text()


@pytest.mark.parametrize("name", ["mailtrail.service", "Dockerfile", "compose.yaml"])
def test_settings_that_are_named_exist(name: str) -> None:
    named = set(re.findall(r"MAILTRAIL_[A-Z_]*[A-Z]", (DEPLOY / name).read_text()))
    assert named
    assert named <= {row.variable for row in described(Settings())}


def test_the_dockerfile_copies_files_that_exist() -> None:
    for line in re.findall(r"^COPY (?!--from)(.+) \S+$", (DEPLOY / "Dockerfile").read_text(), re.M):
        for name in line.split():
            assert (CHECKOUT / name).exists(), name
