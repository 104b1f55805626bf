"""Several collectors on one port: each with its own socket and journal, replaced and ended without a failed request."""

import contextlib
import http.client
import re
import signal
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import psutil
import pytest
from click.testing import CliRunner

from app.cli import cli
from app.tracking.modes import Mode, Origin, Permission
from app.tracking.tokens import Key, KeyRing, Message
from tests.integration.service import Service, free_port, until

CLIENTS = 4
REQUEST = b"GET %s HTTP/1.1\r\nHost: t\r\n\r\n"


@pytest.fixture
def workers(service: Service) -> Iterator[Service]:
    """A service whose processes end with the test, and without a fault."""
    service.log.write_bytes(b"")
    yield service
    service.stop()
    assert "Traceback" not in service.log.read_text()


@pytest.fixture(scope="module")
def key(service: Service) -> Key:
    """The key of the one space; its event 1 is person-based."""
    service.run("space", "create", "Shop", "--default", "person_based", "--acknowledge", "consent")
    ((number, space, secret),) = service.query("select id, space_id, secret from vault.token_keys")
    service.query("insert into mailtrail.events (space_id, id, name) values ($1, 1, 'newsletter')", space)
    return Key(number, space, secret)


@pytest.fixture
def mailing(request: pytest.FixtureRequest) -> int:
    """A mailing of the test's own, to count what belongs to it."""
    return zlib.crc32(request.node.name.encode())


@pytest.fixture
def link(key: Key, mailing: int) -> str:
    """The path of a tracked link in the mailing."""
    message = Message(
        space=key.space,
        event=1,
        mailing=mailing,
        origin=Origin.EVENT,
        ceiling=Mode.PERSON_BASED,
        permission=Permission.GRANTED,
        issue_day=datetime.now(UTC).date(),
        recipient="4711",
    )
    return f"/c/{KeyRing({key.key_id: key}).mint_click(message, 'https://shop.example/', 1)}"


def start(service: Service, command: str) -> psutil.Process:
    process = psutil.Process(service.start(command, "--workers", "2").pid)
    service.wait_ready()
    until(lambda: service.log.read_text().count("collector serves") == 2, "both serve", log=service.log)
    return process


def worker(parent: psutil.Process, number: int) -> psutil.Process | None:
    for process in parent.children():
        with contextlib.suppress(psutil.Error):  # it has just ended
            if process.name() == f"worker {number}":
                return process
    return None


def end(parent: psutil.Process, number: int, how: signal.Signals) -> None:
    """Ends a worker; returns when there is another one in its place."""
    old = until(lambda: worker(parent, number), f"worker {number}")
    old.send_signal(how)
    until(lambda: (new := worker(parent, number)) and new.pid != old.pid, f"worker {number} again")


@contextlib.contextmanager
def clients(service: Service, number: int = 1) -> Iterator[list[http.client.HTTPConnection]]:
    """Open connections."""
    made = [http.client.HTTPConnection("127.0.0.1", service.port, timeout=30) for _ in range(number)]
    try:
        for client in made:
            client.connect()
        yield made
    finally:
        for client in made:
            client.close()


def status(client: http.client.HTTPConnection) -> int:
    """Of the answer; 0 when the connection was ended instead."""
    try:
        with client.getresponse() as answer:
            answer.read()
            return answer.status
    except (OSError, http.client.HTTPException):
        return 0


def ask(service: Service, path: str) -> int:
    """One request over a connection of its own; gives the status, 0 when there was no answer."""
    try:
        with clients(service) as (client,):
            client.request("GET", path)
            return status(client)
    except OSError:
        return 0


@contextlib.contextmanager
def asking(service: Service, path: str) -> Iterator[list[int]]:
    """Clients that ask without a pause until the block is left; what they were answered."""
    statuses: list[int] = []
    enough = threading.Event()

    def repeat() -> None:
        while not enough.is_set():
            statuses.append(ask(service, path))

    threads = [threading.Thread(target=repeat) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        enough.set()
        for thread in threads:
            thread.join()


def shipped(service: Service, mailing: int) -> tuple[int, int]:
    """Rows and distinct hits, after an `up` has ended: it has drained the journals."""
    service.stop()
    ((rows, hits),) = service.query(
        "select count(*), count(distinct id) from mailtrail.hits where mailing_id = $1", mailing
    )
    return rows, hits


def test_both_answer_and_every_hit_of_both_is_shipped_once(workers: Service, link: str, mailing: int) -> None:
    start(workers, "up")
    assert {302} == {ask(workers, link) for _ in range(200)}
    assert shipped(workers, mailing) == (200, 200)
    journals = (workers.directory / "data" / "journals").iterdir()
    written = [journal for journal in journals if any(segment.stat().st_size for segment in journal.glob("*.seg"))]
    assert len(written) == 2
    log = workers.log.read_text()
    assert {"1", "2"} == set(re.findall(r"collector serves .*worker=(\d)", log))


def test_a_killed_worker_is_replaced_while_the_other_answers(workers: Service, link: str) -> None:
    up = start(workers, "up")
    with clients(workers, 20) as open_before:
        for client in open_before:
            client.request("GET", "/livez")
        assert {200} == set(map(status, open_before))
        second = until(lambda: worker(up, 2), "worker 2")
        theirs = {each.raddr.port for each in second.net_connections("tcp") if each.raddr}
        assert theirs
        end(up, 1, signal.SIGKILL)
        for client in open_before:
            with contextlib.suppress(OSError):  # its server is dead
                client.request("GET", link)
            assert client.sock is not None
            assert (302 if client.sock.getsockname()[1] in theirs else 0) == status(client)
    until(lambda: re.search(r"a process ended.*worker=1", workers.log.read_text()), "a line in the log")


def test_no_request_fails_while_workers_are_ended_one_after_the_other(
    workers: Service, link: str, mailing: int
) -> None:
    up = start(workers, "up")
    with asking(workers, link) as statuses:
        for number in (1, 2):
            seen = workers.log.read_text().count("collector serves")
            end(up, number, signal.SIGTERM)
            until(lambda seen=seen: workers.log.read_text().count("collector serves") > seen, "the next one serves")
        asked = len(statuses)
        until(lambda: len(statuses) > asked + 100, "more answers")
    assert {302} == set(statuses)
    assert shipped(workers, mailing) == (len(statuses), len(statuses))


def test_who_waits_for_a_worker_that_dies_is_answered_by_the_next_one(workers: Service, link: str) -> None:
    parent = start(workers, "collect")
    both = [until(lambda number=number: worker(parent, number), "a worker") for number in (1, 2)]
    for process in both:
        process.suspend()
    with clients(workers, 10) as waiting:
        for client in waiting:
            client.request("GET", link)
        for process in both:
            process.kill()
        assert {302} == set(map(status, waiting))


def test_a_worker_that_dies_again_and_again_leaves_the_port_to_the_other(workers: Service, link: str) -> None:
    parent = start(workers, "collect")

    def dies() -> bool:
        if process := worker(parent, 1):
            process.kill()
        return listening(parent) == 1

    until(dies, "its socket is closed")
    assert {302} == {ask(workers, link) for _ in range(50)}
    until(lambda: listening(parent) == 2, "it listens again")


def in_reserve(parent: psutil.Process) -> psutil.Process | None:
    """The process that waits for its orders."""
    for process in parent.children():
        with contextlib.suppress(psutil.Error):
            if "--ordered" in process.cmdline() and not process.name().startswith("worker"):
                return process
    return None


def test_a_killed_worker_is_replaced_by_the_process_in_reserve(workers: Service, link: str) -> None:
    parent = start(workers, "collect")
    waiting = until(lambda: in_reserve(parent), "one in reserve")
    end(parent, 1, signal.SIGKILL)
    assert worker(parent, 1) == waiting
    until(lambda: workers.log.read_text().count("collector serves") == 3, "it serves")
    assert {302} == {ask(workers, link) for _ in range(50)}
    assert until(lambda: in_reserve(parent), "the next in reserve") != waiting


def test_a_worker_that_was_asked_to_end_is_replaced_by_a_new_program(workers: Service) -> None:
    """The one in reserve may be of the version before an upgrade."""
    parent = start(workers, "collect")
    waiting = until(lambda: in_reserve(parent), "one in reserve")
    end(parent, 1, signal.SIGTERM)
    assert worker(parent, 1) != waiting
    until(lambda: not waiting.is_running(), "the one in reserve has ended")


def test_a_dead_reserve_is_no_hindrance(workers: Service, link: str) -> None:
    parent = start(workers, "collect")
    until(lambda: in_reserve(parent), "one in reserve").kill()
    end(parent, 2, signal.SIGKILL)
    until(lambda: workers.log.read_text().count("collector serves") == 3, "it serves")
    assert {302} == {ask(workers, link) for _ in range(50)}


def listening(process: psutil.Process) -> int:
    return sum(each.status == psutil.CONN_LISTEN for each in process.net_connections("tcp"))


def test_a_stop_ends_open_connections_and_leaves_nobody_behind(workers: Service, link: str) -> None:
    parent = start(workers, "collect")
    refused = workers.run("collect", "--workers", "2", check=False)
    assert refused.returncode == 2
    assert f"cannot listen on 127.0.0.1:{workers.port}" in refused.stderr.decode()
    with clients(workers, 10) as idle:
        for client in idle:
            client.request("GET", link)
        assert {302} == set(map(status, idle))
        family = parent.children(recursive=True)
        parent.send_signal(signal.SIGINT)
        assert {b""} == {client.sock.recv(1) for client in idle}
        assert workers.processes[0].wait(30) == 0
    assert [process for process in family if process.is_running()] == []
    assert "did not end in time" not in workers.log.read_text()


@pytest.mark.parametrize("command", ["up", "collect"])
def test_a_port_of_another_program_is_refused_even_if_it_would_share_it(workers: Service, command: str) -> None:
    with socket.create_server(("127.0.0.1", workers.port), reuse_port=True):
        done = workers.run(command, "--workers", "2", check=False)
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert f"cannot listen on 127.0.0.1:{workers.port}" in line


def test_a_port_that_the_system_chooses_is_one_for_all(workers: Service, setting: Callable[[str, str], None]) -> None:
    setting("MAILTRAIL_PORT", "0")
    setting("MAILTRAIL_WORKERS", "2")
    workers.start("collect")
    ports = until(lambda: len(found := _ports(workers)) == 2 and set(found), "both serve", log=workers.log)
    assert len(ports) == 1
    workers.port = ports.pop()
    assert ask(workers, "/readyz") == 200


def _ports(workers: Service) -> list[int]:
    return [int(port) for port in re.findall(r"address=127\.0\.0\.1:(\d+)", workers.log.read_text())]


@pytest.fixture
def setting(workers: Service) -> Iterator[Callable[[str, str], None]]:
    before = dict(workers.settings)
    yield workers.settings.__setitem__
    workers.settings.clear()
    workers.settings.update(before)


def test_their_counters_are_one_sum_on_the_private_port(workers: Service, setting: Callable[[str, str], None]) -> None:
    port = free_port()
    setting("MAILTRAIL_PRIVATE_PORT", str(port))
    start(workers, "collect")
    assert {404} == {ask(workers, "/c/nonsense") for _ in range(50)}
    private = Service(workers.directory, workers.database_url, port)
    assert ask(private, "/readyz") == 200
    counted = b'mailtrail_answers_total{kind="click",outcome="refused"} 50.0'
    until(lambda: counted in private.get("/metrics").body, "the counters of both")


@pytest.mark.parametrize("number", ["-1", "2000", "many"])
def test_a_number_that_cannot_work_is_refused(number: str) -> None:
    done = CliRunner().invoke(cli, ["collect", "--workers", number])
    assert done.exit_code == 2
    assert "'--workers'" in done.output
