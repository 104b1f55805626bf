"""`doctor`, `config` and `sql` as a person reads them."""

import json
import os
import subprocess
import sys

import pytest

from app.commands import doctor
from app.config import Settings, described
from tests.integration.receiver import Receiver
from tests.integration.service import CHECKOUT, Service, free_port
from tests.integration.shipping import PERSON, numbered, shipper_of, write_journal

LEVELS = ("good", "warning", "bad")


def findings(done: subprocess.CompletedProcess[bytes]) -> dict[str, set[str]]:
    """The levels found, by what was checked."""
    found: dict[str, set[str]] = {}
    for line in done.stdout.decode().splitlines():
        level, _, rest = line.partition(" ")
        if level in LEVELS:
            found.setdefault(rest.strip().split("  ")[0], set()).add(level)
    return found


def test_a_fresh_installation_is_told_what_is_still_to_do(service: Service) -> None:
    service.run("space", "create", "Shop")
    assert findings(service.run("doctor"))["disk"] == {"warning"}
    (service.directory / "data").mkdir()
    done = service.run("doctor")
    assert findings(done) == {
        "settings": {"good"},
        "disk": {"good"},
        "journals": {"good"},
        "reach": {"warning"},
        "database": {"good"},
        "clock": {"good"},
        "schema": {"good"},
        "backlog": {"good"},
        "keys": {"warning"},
        "day keys": {"good"},
        "quarantine": {"good"},
    }
    assert b"mailtrail keys export" in done.stdout
    service.run("keys", "export")
    assert findings(service.run("doctor"))["keys"] == {"good"}


def test_a_running_collector_is_reached(service: Service) -> None:
    service.serve()
    done = service.run("doctor")
    assert findings(done)["reach"] == {"good", "warning"}
    assert f"{service.base} leads to a collector".encode() in done.stdout
    service.stop()


def test_the_mail_server_behind_the_relay_is_tried(service: Service) -> None:
    def found(upstream: str, **more: str) -> tuple[set[str], str]:
        names = {f"MAILTRAIL_RELAY_UPSTREAM{name}": value for name, value in {"": upstream, **more}.items()}
        service.settings = service.settings | names
        done = service.run("doctor", check=False)
        return findings(done).get("relay", set()), " ".join(done.stdout.decode().split())

    with Receiver() as receiver:
        level, told = found(receiver.address)
        assert level == {"good"}
        assert f"{receiver.address} takes mails" in told
    level, told = found(f"127.0.0.1:{free_port()}")
    assert level == {"bad"}
    assert "start that server, or correct MAILTRAIL_RELAY_UPSTREAM" in told
    level, told = found("127.0.0.1:25", _USER="shop")
    assert level == {"bad"}
    assert "give the password of MAILTRAIL_RELAY_UPSTREAM_USER" in told


def test_troubles_are_found_and_say_what_to_do(service: Service) -> None:
    ((space,),) = service.query("insert into mailtrail.spaces (id, name) values (5, 'Keyless') returning id")
    service.query("select vault.destroy_day_key((now() at time zone 'UTC')::date)")
    service.query(
        "insert into mailtrail.quarantine (stream, reason, line) values ('identified', 'damaged', '\\x00'::bytea)"
    )
    service.query("update mailtrail.spaces set tracking_url = 'http://127.0.0.1:9' where id = $1", space)
    service.settings |= {
        "MAILTRAIL_PROT": "8080",
        "MAILTRAIL_JOURNAL_MAX_BYTES": "4",
        "MAILTRAIL_JOURNAL_SEGMENT_BYTES": "1",
    }
    journal = service.directory / "data" / "journals" / "0" / "reduced-00000001.seg"
    journal.parent.mkdir(parents=True, exist_ok=True)
    journal.write_bytes(b"xxxx")
    done = service.run("doctor", check=False)
    found = findings(done)
    assert done.returncode == 1
    for check, level in (
        ("settings", "warning"),
        ("journals", "warning"),
        ("keys", "bad"),
        ("day keys", "bad"),
        ("quarantine", "warning"),
    ):
        assert level in found[check], check
    for mend in (b"did you mean MAILTRAIL_PORT?", b"mailtrail keys create", b"the URL of space Keyless"):
        assert mend in done.stdout


def test_without_a_database_the_other_checks_still_run(service: Service) -> None:
    service.settings["MAILTRAIL_DATABASE_URL"] = "postgresql://erika:secret@127.0.0.1:9/none"
    done = service.run("doctor", check=False)
    del service.settings["MAILTRAIL_DATABASE_URL"]
    assert done.returncode == 1
    assert findings(done)["database"] == {"bad"}
    assert findings(done)["disk"] == {"good"}
    assert b"secret" not in done.stdout + done.stderr


@pytest.mark.parametrize(("ahead", "level"), [(0.5, "good"), (-90.0, "bad")])
async def test_a_clock_that_is_off_is_told(
    service: Service, monkeypatch: pytest.MonkeyPatch, ahead: float, level: str
) -> None:
    real = doctor.time.time
    monkeypatch.setattr(doctor.time, "time", lambda: real() - ahead)
    found = await doctor._examine(Settings(database_url=service.database_url, data_directory=service.directory))
    assert {finding.level.value for finding in found if finding.about == "clock"} == {level}


def test_config_lists_every_setting_and_hides_the_password(service: Service) -> None:
    service.settings |= {
        "MAILTRAIL_DATABASE_URL": "postgresql://u:secret@h/d",
        "MAILTRAIL_TRUSTED_PROXIES": "10.0.0.0/8",
    }
    shown = service.run("config").stdout.decode()
    rows = {row["variable"]: row for row in json.loads(service.run("config", "--json").stdout)}
    del service.settings["MAILTRAIL_DATABASE_URL"], service.settings["MAILTRAIL_TRUSTED_PROXIES"]
    assert "secret" not in shown + str(rows)
    assert set(rows) == {row.variable for row in described(Settings())}
    assert rows["MAILTRAIL_TRUSTED_PROXIES"]["value"] == "10.0.0.0/8"
    assert all(row["description"].endswith(".") for row in rows.values())
    assert all(variable in shown for variable in rows)


def test_sql_is_what_an_analyst_may(service: Service) -> None:
    shown = service.run("sql", "select 1 as one, 2 as one, '\\x0f'::bytea as bytes, null as nothing").stdout.decode()
    assert shown.split() == ["one", "one", "bytes", "nothing", "1", "2", "0f", "–"]
    assert service.run("sql", "select * from analytics.hits").stdout == b"no rows\n"
    for query in ("select * from vault.token_keys", "select * from mailtrail.hits", "selec 1", "drop schema analytics"):
        done = service.run("sql", query, check=False)
        (line,) = done.stderr.decode().splitlines()
        assert done.returncode == 1
        assert line.startswith("mailtrail: ")
    assert service.run("sql", "--url").stdout.decode().strip() == service.database_url


def test_psql_opens_as_an_analyst(service: Service) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "app", "sql"],
        input=b"select current_user;",
        capture_output=True,
        cwd=CHECKOUT,
        env=service.environment() | {"PATH": os.environ["PATH"]},
        timeout=30,
        check=True,
    )
    assert b"mailtrail_analyst" in done.stdout


async def test_a_backlog_is_told_until_it_is_shipped(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "BACKLOG_BYTES", 10_000)
    data, url = service.directory / "waiting", service.database_url
    write_journal(data, numbered(PERSON, range(100)))

    async def backlog() -> str:
        found = await doctor._examine(Settings(database_url=url, data_directory=data))
        (level,) = (finding.level.value for finding in found if finding.about == "backlog")
        return level

    assert await backlog() == "warning"
    shipper, _ = shipper_of(data, url, journal_keep_hours=1)
    assert await shipper.ship_once() == 100
    shipper.close()
    assert list(data.glob("journals/*/*.seg"))
    assert await backlog() == "good"
