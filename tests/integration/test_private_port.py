"""The private port: one for all processes of a data directory, and never gone while one of them lives."""

import http.client
import re
import signal
import sys
from collections.abc import Iterator

import pytest

from app.store.migrate import known_migrations
from tests.integration.service import SERVER, Service, free_port, until


@pytest.fixture
def private(service: Service) -> Iterator[int]:
    port = free_port()
    service.settings["MAILTRAIL_PRIVATE_PORT"] = str(port)
    service.settings["MAILTRAIL_METRICS_PUBLIC"] = "false"
    yield port
    service.stop()


def metrics(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()


def refused_clicks(port: int) -> int:
    found = re.search(r'^mailtrail_answers_total\{kind="click",outcome="refused"\} (\d+)', metrics(port), re.M)
    return int(found[1]) if found else 0


def test_it_counts_all_processes_and_passes_on_when_one_dies(service: Service, private: int) -> None:
    first = service.start("collect")
    service.wait_ready()
    until(lambda: metrics(private), "metrics")
    assert service.get("/c/nonsense").status == 404
    assert service.get("/metrics").status == 404
    service.port = free_port()
    service.start("collect")
    service.wait_ready()
    assert service.get("/c/nonsense").status == 404
    until(lambda: refused_clicks(private) == 2, "the counters of both")
    first.send_signal(signal.SIGKILL)
    first.wait()
    until(lambda: refused_clicks(private) == 2, "the other process serves, with the counters of both")
    assert service.get("/livez").status == 200


def test_the_workers_of_a_bare_server_share_it(service: Service, private: int) -> None:
    service.start(*SERVER, str(service.port), "--workers", "2")
    service.wait_ready()
    for _ in range(20):
        assert service.get("/c/nonsense").status == 404
    until(lambda: refused_clicks(private) == 20, "both workers' counters")
    assert len(list((service.directory / "data" / "journals").iterdir())) >= 2


@pytest.mark.parametrize("command", [SERVER[:-1], (sys.executable, "-m", "app", "collect")])
def test_a_schema_that_is_not_ours_is_refused(service: Service, private: int, command: tuple[str, ...]) -> None:
    service.query("update mailtrail.migrations set checksum = 'changed' where number = 1")
    try:
        process = service.start(*command)
        assert process.wait(30) != 0
        log = service.log.read_text()
        assert "migration 0001_schema is not the file that was applied" in log
        assert "Traceback" not in log
    finally:
        checksum = known_migrations()[0].checksum
        service.query("update mailtrail.migrations set checksum = $1 where number = 1", checksum)
