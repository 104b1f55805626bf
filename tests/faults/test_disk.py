"""Disks that are full or broken, under real processes: no answer suffers, and what is lost is counted to the hit."""

import resource
import time
from pathlib import Path

import pytest

from tests.faults.asks import asks
from tests.faults.clients import Clients
from tests.faults.disks import Disk, Ext4, Tmpfs, needs_disks
from tests.faults.gauges import readiness, value
from tests.faults.postgres import Postgres
from tests.faults.rig import Rig
from tests.faults.verdict import Verdict
from tests.integration.service import until

SEGMENT_BYTES = 65_536
SMALL = {
    "MAILTRAIL_JOURNAL_SEGMENT_BYTES": str(SEGMENT_BYTES),
    "MAILTRAIL_JOURNAL_KEEP_HOURS": "0",
}
MEGABYTE = 2**20

pytestmark = needs_disks


class Load:
    """A rig with one collector and some clients, and what its metrics say meanwhile."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.service = rig.workers[0].service
        self._clients = Clients(rig.ports, asks(rig.keys, rig.space, rig.day_keys(), 1), pause_seconds=0.005)
        self._clients.start()
        self.wait_for_answers(100)

    def wait_for_answers(self, number: int) -> None:
        """So many more than there are now."""
        outcome = self._clients.outcome
        enough = len(outcome.answered) + number
        until(lambda: len(outcome.answered) >= enough, f"{enough} answers", log=self.service.log)

    def wait_for_problem(self, word: str) -> None:
        until(lambda: _says(self.service, word), f"/readyz says {word}", log=self.service.log)

    def lost(self, reason: str = "") -> int:
        return int(value(self.service, "hits_lost_total", reason))

    def stop(self) -> None:
        self.outcome = self._clients.stop()

    def judge(self, lost: int) -> Verdict:
        """Drains, and holds the rows to the answers: `lost` of them are missing, and nothing else is wrong."""
        verdict = self.rig.finish(self.outcome)
        assert lost == verdict.missing, verdict
        verdict.missing = 0
        assert verdict.holds, verdict
        assert not self.outcome.open
        return verdict


def _says(service: object, word: str) -> bool:
    status, words = readiness(service)  # type: ignore[arg-type]
    return status == 503 and f'"{word}"' in words


def _rig(postgres: Postgres, directory: Path, **settings: str) -> Rig:
    return Rig(directory / "r", postgres, collectors=1, settings=SMALL | settings)


def _leave(rig: Rig) -> None:
    for part in rig.parts:
        part.kill()


@pytest.mark.parametrize("then", ["drop_new", "refuse_503"])
def test_a_full_disk_costs_hits_and_no_redirect_or_503_and_no_hit(
    postgres: Postgres, tmp_path: Path, then: str
) -> None:
    rig = _rig(postgres, tmp_path, MAILTRAIL_JOURNAL_FULL=then)
    with Tmpfs(tmp_path / "r" / "data", max_bytes=8 * MEGABYTE) as disk:
        try:
            rig.start()
            load = Load(rig)
            disk.fill()
            load.wait_for_problem("write_error")
            until(lambda: load.lost() >= 200, "200 hits lost")
            disk.make_room()
            load.wait_for_answers(200)
            until(lambda: readiness(load.service)[0] == 200, "ready again", log=load.service.log)
            load.stop()
            lost, refused = load.lost("write_error"), len(load.outcome.refused)
            assert lost == load.lost() >= 200
            assert refused == (lost if then == "refuse_503" else 0)
            verdict = load.judge(0 if refused else lost)
            assert verdict.recorded >= 300
        finally:
            _leave(rig)
    rig.close()


@pytest.mark.parametrize("then", ["drop_new", "refuse_503"])
def test_full_journals_cost_what_they_say_until_they_are_shipped(postgres: Postgres, tmp_path: Path, then: str) -> None:
    most = 4 * SEGMENT_BYTES
    rig = _rig(postgres, tmp_path, MAILTRAIL_JOURNAL_FULL=then, MAILTRAIL_JOURNAL_MAX_BYTES=str(most))
    try:
        rig.start()
        for part in rig.ships:
            part.kill()
        load = Load(rig)
        load.wait_for_problem("journal_full")
        until(lambda: load.lost() >= 200, "200 hits lost")
        segments = (tmp_path / "r" / "data" / "journals").glob("*/*.seg")
        assert sum(segment.stat().st_size for segment in segments) <= most
        rig.revive()
        before = value(load.service, "hits_total")
        until(lambda: value(load.service, "hits_total") > before + 100, "hits are journaled again")
        load.stop()
        lost, refused = load.lost("journal_full"), len(load.outcome.refused)
        assert lost == load.lost()
        assert refused == (lost if then == "refuse_503" else 0)
        load.judge(0 if refused else lost)
    finally:
        rig.close()


def test_a_file_that_can_grow_no_more_is_left_for_the_next(postgres: Postgres, tmp_path: Path) -> None:
    """A limit on the size of files, met in the middle of a line: it is no reason to lose every hit from then on."""
    limit = 20_000
    rig = _rig(postgres, tmp_path)
    try:
        rig.start()
        process = rig.workers[0].process
        assert process is not None
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))
        load = Load(rig)
        journaled = value(load.service, "hits_total")
        until(lambda: value(load.service, "hits_total") > journaled + 500, "hits are journaled", log=load.service.log)
        load.stop()
        lost = load.lost("write_error")
        # Each file costs what was written in one go at its end, and the hits that came until it was known.
        assert 0 < lost < len(load.outcome.answered) / 2
        assert all(path.stat().st_size <= limit for path in (tmp_path / "r" / "data" / "journals").glob("*/*.seg"))
        load.judge(lost)
    finally:
        rig.close()


def test_a_broken_disk_costs_no_redirect_and_its_losses_can_be_read(postgres: Postgres, tmp_path: Path) -> None:
    rig = _rig(postgres, tmp_path)
    with Ext4(tmp_path / "r" / "data") as disk:
        try:
            rig.start()
            load = Load(rig)
            disk.cut_power()
            cut = time.time()
            load.wait_for_problem("write_error")
            load.wait_for_answers(500)
            load.stop()
            answered = load.outcome.answered
            assert not load.outcome.wrong
            assert not load.outcome.open
            assert rig.workers[0].runs
            surely = sum(each.sent > cut for each in answered)
            assert surely <= load.lost("write_error") <= len(answered)
        finally:
            _leave(rig)
    rig.close()


def test_a_full_disk_of_the_database_costs_nothing(tmp_path: Path) -> None:
    with Tmpfs(tmp_path / "d", max_bytes=256 * MEGABYTE) as disk:
        postgres = Postgres(disk.place)
        rig = _rig(postgres, tmp_path)
        try:
            rig.start()
            load = Load(rig)
            disk.fill()
            failures = value(load.service, "ship_failures_total")
            until(
                lambda: value(load.service, "ship_failures_total") > failures or postgres.pid is None,
                "the database has no room",
                log=load.service.log,
            )
            load.wait_for_answers(200)
            disk.make_room()
            rig.revive()
            load.wait_for_answers(100)
            load.stop()
            assert load.lost() == 0
            load.judge(0)
        finally:
            rig.revive()
            rig.close()
            postgres.leave()


@pytest.mark.parametrize("command", ["collect", "up"])
def test_a_data_directory_that_cannot_be_written_is_told_in_a_line(
    postgres: Postgres, tmp_path: Path, command: str
) -> None:
    rig = _rig(postgres, tmp_path)
    data = tmp_path / "r" / "data"
    data.mkdir(exist_ok=True)
    (data / "journals").write_text("a file")
    try:
        done = rig.service.run(command, check=False)
        assert done.returncode == 1
        assert f"{data / 'journals'} cannot be written (Not a directory)" in done.stderr.decode()
        assert "Traceback" not in done.stderr.decode()
    finally:
        rig.close()


@pytest.mark.parametrize("command", ["collect", "ship"])
def test_a_disk_that_is_full_at_the_start_is_told_in_a_line(postgres: Postgres, tmp_path: Path, command: str) -> None:
    rig = _rig(postgres, tmp_path)
    data: Disk
    with Tmpfs(tmp_path / "r" / "data", max_bytes=MEGABYTE) as data:
        data.fill()
        done = rig.service.run(command, check=False)
        assert done.returncode == 1
        assert "cannot be written (No space left on device); make room" in done.stderr.decode()
        assert "Traceback" not in done.stderr.decode()
    rig.close()
