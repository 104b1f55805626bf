"""`uvicorn app.main:app` as somebody types it, without any other option."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.integration.service import Service, until

BARE = (sys.executable, "-m", "uvicorn", "app.main:app", "--port")
ADDRESS = "203.0.113.177"


@pytest.fixture
def served(service: Service) -> Iterator[Service]:
    service.settings |= {"MAILTRAIL_IP_POLICY": "full"}
    service.run("space", "create", "Shop", "--default", "person_based", "--acknowledge", "consent")
    service.run("event", "create", "news", "--space", "Shop")
    service.start(*BARE, str(service.port))
    service.wait_ready()
    yield service
    service.stop()


def test_neither_tokens_nor_addresses_are_logged_and_forged_ones_not_believed(served: Service) -> None:
    words = ("--space", "Shop", "--event", "news", "--mailing", "m", "--recipient", "4711", "--permission", "granted")
    link = served.run("link", "https://shop.example/", *words).stdout.decode().strip()
    for headers in ([("X-Forwarded-For", ADDRESS)], []):
        assert served.get(link, headers).status == 302
    served.wait_for_hits(2)
    log = served.log.read_text()
    assert "Uvicorn running" in log
    assert ADDRESS not in log
    assert "/c/" not in log
    addresses = {str(row[0]) for row in served.query("select client_address from mailtrail.hits")}
    assert {"None", "127.0.0.1"} == addresses


def test_its_workers_leave_no_database_behind(tmp_path: Path) -> None:
    alone = Service(tmp_path, "")
    server = alone.start(*BARE, str(alone.port), "--workers", "2")
    alone.wait_ready()
    postmaster = tmp_path / "data" / "postgres" / "postmaster.pid"
    postgres = psutil.Process(int(postmaster.read_text().split()[0]))
    server.send_signal(signal.SIGTERM)
    assert server.wait(30) in (0, -signal.SIGTERM)
    until(lambda: not postgres.is_running() or postgres.status() == psutil.STATUS_ZOMBIE, "PostgreSQL ends")
