"""Overload and abuse, the short version: honest clients get every answer, and nothing is left behind."""

from pathlib import Path

from tests.faults.abuse import ATTACKS, Honest, abused_rig, attack, finish, holding, reset_many, rss_bytes
from tests.faults.gauges import value
from tests.faults.postgres import Postgres
from tests.integration.service import until

DESCRIPTORS = 400
HELD = 1_000
RESETS = 10_000
MOST_GROWTH_BYTES = 20 * 2**20
ATTACK_SECONDS = 1.0
BOUND = "as many connections as descriptors allow"


def test_honest_clients_notice_nothing_of_attacks(postgres: Postgres, tmp_path: Path) -> None:
    rig = abused_rig(tmp_path / "rig", postgres)
    try:
        with Honest(rig, 1) as honest:
            made = attack(rig, ATTACKS, ATTACK_SECONDS)
            assert all(made.values()), made
            verdict = finish(rig, honest)
        assert verdict.holds, verdict
        assert verdict.answered > 100
    finally:
        rig.close()


def test_a_collector_without_descriptors_left_answers_whoever_asks(postgres: Postgres, tmp_path: Path) -> None:
    rig = abused_rig(tmp_path / "rig", postgres, DESCRIPTORS)
    service = rig.workers[0].service
    try:
        with Honest(rig, 2) as honest:
            with holding(rig.ports[0], HELD) as held:
                assert held == HELD
                until(lambda: value(service, "connections_shed_total") >= HELD - DESCRIPTORS, "room is made")
                answered = len(honest.outcome().answered)
                until(lambda: len(honest.outcome().answered) > answered + 50, "honest clients are answered")
            verdict = finish(rig, honest)
        assert verdict.holds, verdict
        log = service.log.read_text()
        assert 1 == log.count(BOUND), "told, and no flood"
        assert "[Errno 24]" not in log
    finally:
        rig.close()


def test_reset_connections_leave_nothing_behind(postgres: Postgres, tmp_path: Path) -> None:
    rig = abused_rig(tmp_path / "rig", postgres)
    try:
        with Honest(rig, 3) as honest:
            reset_many(rig.ports[0], RESETS // 4)
            before = rss_bytes(rig)
            reset_many(rig.ports[0], RESETS)
            assert rss_bytes(rig) - before < MOST_GROWTH_BYTES
            assert 0 == value(rig.workers[0].service, "answer_faults_total")
            verdict = finish(rig, honest)
        assert verdict.holds, verdict
    finally:
        rig.close()
