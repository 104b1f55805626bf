"""One short round of each campaign, with a seed that is printed; and that the verdict sees what it is there to see."""

import os
import random
from pathlib import Path

import pytest

from tests.faults.asks import asks
from tests.faults.campaign import play
from tests.faults.clients import Clients
from tests.faults.faults import CAMPAIGNS
from tests.faults.postgres import Postgres, patiently
from tests.faults.rig import Rig

CYCLES = 8
SEED = int(os.environ.get("FAULTS_SEED") or random.SystemRandom().randrange(10**6, 10**9))


@pytest.mark.parametrize("campaign", sorted(CAMPAIGNS))
def test_every_answered_hit_is_one_row_whatever_breaks(campaign: str, postgres: Postgres, tmp_path: Path) -> None:
    print(f"FAULTS_SEED={SEED}")
    verdict, faults = play(postgres, tmp_path / "round", campaign, SEED, CYCLES)
    assert verdict.holds, f"FAULTS_SEED={SEED} {faults} {verdict}"
    assert verdict.answered > 100


FIRST = "(select min(id) from mailtrail.hits where %s)"
LAST = FIRST.replace("min", "max")
OPENED = FIRST % "nonce is not null and kind = 'open'"
MADE_UP = """
insert into mailtrail.hits
select
    at, 5, kind, mode, space_id, event_id, mailing_id, link, registered, agent, agent_family, recipient,
    '\\x0102030405060708', pseudonym, pseudonym_gap, client_address, user_agent, url, outcome, clock_clamped
from mailtrail.hits where mode = 'person_based' limit 1
"""
HARM = [
    ("missing", f"delete from mailtrail.hits where id = {FIRST % 'true'}"),
    ("twice", "insert into mailtrail.hits select * from mailtrail.hits order by id limit 1"),
    ("altered", f"update mailtrail.hits set link = link + 1 where id = {FIRST % 'nonce is not null and link > 0'}"),
    ("altered", f"update mailtrail.hits set url = 'https://x.example/' where id = {LAST % 'url is not null'}"),
    (
        "altered",
        f"update mailtrail.hits set at = at - interval '1s' where id = {OPENED}",
    ),
    ("altered", f"update mailtrail.hits set outcome = 'gone' where id = {FIRST % 'pseudonym is not null'}"),
    ("spurious", MADE_UP),
    ("quarantined", "insert into mailtrail.quarantine (stream, reason, line) values ('reduced', 'damaged', '')"),
    (
        "uncounted",
        "update mailtrail.hit_totals set hits = hits + 1 where link = (select min(link) from mailtrail.hit_totals)",
    ),
]


def test_the_verdict_sees_every_kind_of_harm(postgres: Postgres, tmp_path: Path) -> None:
    rig = Rig(tmp_path / "round", postgres, collectors=1)
    try:
        rig.start()
        clients = Clients(rig.ports, asks(rig.keys, rig.space, rig.day_keys(), 1))
        clients.start()
        rig.service.wait_for_hits(300)
        outcome = clients.stop()
        assert rig.finish(outcome).holds
        for kind, harm in HARM:
            before = rig.judge(outcome)
            patiently(rig.service.database_url, harm)
            after = rig.judge(outcome)
            assert getattr(after, kind) > getattr(before, kind), harm
            assert not after.holds
    finally:
        rig.close()
