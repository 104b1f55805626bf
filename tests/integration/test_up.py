"""`mailtrail up` as operators use it: real processes, the embedded PostgreSQL, real signals."""

import contextlib
import signal
import smtplib
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from app.store import embedded
from tests.integration.receiver import Receiver
from tests.integration.service import WAIT_SECONDS, Service, free_port, until

CLICK_SETTINGS = ("--space", "Shop", "--event", "news", "--mailing", "m", "--recipient", "4711")


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Service]:
    """Mailtrail with a database of its own under its data directory."""
    service = Service(tmp_path, "")
    yield service
    service.stop()
    assert "Traceback" not in service.log.read_text()
    until(lambda: not postmaster_file(service).exists(), "PostgreSQL ends with its last user")


def postmaster_file(service: Service) -> Path:
    return service.directory / "data" / "postgres" / "postmaster.pid"


@pytest.fixture
def up(alone: Service) -> psutil.Process:
    process = alone.start("up")
    alone.wait_ready()
    return psutil.Process(process.pid)


def child(up: psutil.Process, command: str) -> psutil.Process | None:
    """The collector, called `worker`, or the process of a command."""
    for process in up.children():
        try:
            if command == process.name() or command in process.cmdline():
                return process
        except psutil.Error:  # it has just ended
            continue
    return None


def send_and_click(alone: Service) -> None:
    alone.run("space", "create", "Shop", "--default", "person_based", "--acknowledge", "consent")
    alone.run("event", "create", "news", "--space", "Shop")
    link = (
        alone.run("link", "https://shop.example/", *CLICK_SETTINGS, "--permission", "granted").stdout.decode().strip()
    )
    until(lambda: alone.get(link).status == 302, "the new key in effect")


def test_a_click_is_in_sql_and_ctrl_c_ends_everything(alone: Service, up: psutil.Process) -> None:
    send_and_click(alone)
    shown = until(lambda: _recipients(alone), "the hit in SQL")
    assert shown == ["recipient", "4711"]
    postgres = int((alone.directory / "data" / "postgres" / "postmaster.pid").read_text().split()[0])
    family = [up, *up.children(recursive=True)]
    up.send_signal(signal.SIGINT)
    assert alone.processes[0].wait(WAIT_SECONDS) == 0
    assert [process for process in family[1:] if process.is_running()] == []
    until(lambda: not psutil.pid_exists(postgres) or psutil.Process(postgres).status() == "zombie", "PostgreSQL ends")


def _recipients(alone: Service) -> list[str]:
    shown = alone.run("sql", "select recipient from analytics.hits").stdout.decode().split()
    return shown if len(shown) == 2 else []


def test_dead_children_are_started_again_and_the_last_hit_arrives(alone: Service, up: psutil.Process) -> None:
    for command in ("worker", "ship"):
        process = until(lambda command=command: child(up, command), command)
        process.kill()
        until(
            lambda command=command, dead=process: (new := child(up, command)) and new.pid != dead.pid,
            f"{command} again",
        )
    alone.wait_ready()
    send_and_click(alone)
    assert until(lambda: _recipients(alone), "the hit in SQL") == ["recipient", "4711"]


def test_a_killed_parent_leaves_no_orphans_and_loses_nothing(alone: Service, up: psutil.Process) -> None:
    send_and_click(alone)
    assert child(up, "worker")
    assert child(up, "ship")
    assert until(lambda: [c for c in up.children() if c.name() != "worker" and "collect" in c.cmdline()], "a reserve")
    children = [c for c in up.children() if {"collect", "ship"} & set(c.cmdline())]
    up.kill()
    alone.processes[0].wait()
    until(lambda: not any(c.is_running() for c in children), "orphans end")
    alone.start("up")
    alone.wait_ready()
    assert until(lambda: _recipients(alone), "the hit in SQL") == ["recipient", "4711"]


def test_a_killed_database_comes_back_while_links_work_on(alone: Service, up: psutil.Process) -> None:
    send_and_click(alone)
    link = (
        alone.run("link", "https://shop.example/2", *CLICK_SETTINGS, "--permission", "granted").stdout.decode().strip()
    )
    postmaster = alone.directory / "data" / "postgres" / "postmaster.pid"
    dead = int(postmaster.read_text().split()[0])
    up.suspend()  # so that a command starts it before `up` does
    psutil.Process(dead).kill()
    for _ in range(20):
        assert alone.get(link).status == 302
    until(lambda: alone.run("sql", "select 1", check=False).returncode == 0, "PostgreSQL, by a command")
    up.resume()
    until(lambda: postmaster.exists() and int(postmaster.read_text().split()[0]) != dead, "PostgreSQL again")
    until(lambda: _count(alone) == 21, "all hits in SQL")


def _count(alone: Service) -> int:
    done = alone.run("sql", "select count(*) from analytics.hits", check=False)
    return int(done.stdout.split()[1]) if done.returncode == 0 else -1


def test_a_port_that_is_taken_is_one_clear_line(alone: Service) -> None:
    with socket.create_server(("127.0.0.1", alone.port)):
        done = alone.run("up", check=False)
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert f"cannot listen on 127.0.0.1:{alone.port}" in line
    assert not (alone.directory / "data" / "postgres").exists()
    alone.log.touch()


def test_wrong_settings_are_one_clear_line(alone: Service) -> None:
    alone.log.touch()
    for variable, value in (
        ("MAILTRAIL_PORT", "eighty"),
        ("MAILTRAIL_TRUSTED_PROXIES", "10.0.0.0/99"),
        ("MAILTRAIL_PUBLIC_URL", "track.example.com"),
        ("MAILTRAIL_DURABILITY", "maybe"),
        ("MAILTRAIL_JOURNAL_MAX_BYTES", "0"),
    ):
        alone.settings[variable] = value
        for command in ("up", "collect", "doctor") if variable == "MAILTRAIL_PORT" else ("config",):
            done = alone.run(command, check=False)
            (line,) = done.stderr.decode().splitlines()
            assert done.returncode == 2
            assert line.startswith(f"mailtrail: {variable}: ")
        del alone.settings[variable]


def test_a_path_too_long_for_the_socket_is_told(tmp_path: Path) -> None:
    with pytest.raises(embedded.StoreUnavailable, match=r"\d+ bytes too long"):
        embedded.start(tmp_path / ("deep" * 30))


def test_a_collector_starts_with_the_database_down(alone: Service, up: psutil.Process) -> None:
    send_and_click(alone)
    link = (
        alone.run("link", "https://shop.example/", *CLICK_SETTINGS, "--permission", "granted").stdout.decode().strip()
    )
    assert (alone.directory / "data" / "snapshot").exists()
    up.send_signal(signal.SIGTERM)
    alone.processes[0].wait(WAIT_SECONDS)
    alone.settings["MAILTRAIL_DATABASE_URL"] = "postgresql:///nowhere?host=/nonexistent"
    alone.start("collect")
    alone.wait_ready()
    assert alone.get(link).status == 302


def test_the_relay_runs_where_it_is_set_up(alone: Service) -> None:
    with Receiver() as receiver:
        port = free_port()
        alone.settings = {
            "MAILTRAIL_RELAY_UPSTREAM": receiver.address,
            "MAILTRAIL_RELAY_PORT": str(port),
            "MAILTRAIL_RELAY_SPACE": "Shop",
        }
        up = alone.start("up")
        alone.wait_ready()
        alone.run("space", "create", "Shop")
        until(lambda: child(psutil.Process(up.pid), "relay"), "the relay starts")
        until(lambda: _listens(port), "the relay listens")
        with smtplib.SMTP("127.0.0.1", port, timeout=30) as client:
            assert client.sendmail("a@shop.example", ["b@example.com"], b"Subject: x\r\n\r\ny\r\n") == {}
        alone.stop()
    assert [mail.content for mail in receiver.mails] == [b"Subject: x\r\n\r\ny\r\n"]


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
        return True
    return False
