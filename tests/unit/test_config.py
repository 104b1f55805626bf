"""Settings: what cannot work is refused with the variable's name, and never with a password."""

import pytest

from app.config import PREFIX, Settings, described, load, unknown_variables
from app.errors import ConfigError


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [row.variable for row in described(Settings())]:
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("PORT", "70000", "65535"),
        ("WORKERS", "-1", "greater than or equal to 0"),
        ("PUBLIC_URL", "t.example.com", "http or https"),
        ("PUBLIC_URL", "https://t.example.com/?a", "without query"),
        ("TRUSTED_PROXIES", "10.0.0.0/8,nonsense", "trusted_proxies"),
        ("IP_POLICY", "some", "none"),
        ("APP_SCHEMES", "myapp,javascript", "javascript"),
        ("HITS_RETENTION_DAYS", "99999999999", "40000"),
        ("JOURNAL_MAX_BYTES", "20000", "MAILTRAIL_JOURNAL_SEGMENT_BYTES"),
        ("DATABASE_URL", "mysql://u:Geheim@h/d", "postgresql://"),
        ("DATABASE_URL", "postgresql://u:Geheim/77@127.0.0.1/db", "%2F"),
        ("DATABASE_URL", "postgresql://u:Geheim@h:99999/d", "port"),
    ],
)
def test_what_cannot_work_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str) -> None:
    monkeypatch.setenv(PREFIX + name, value)
    with pytest.raises(ConfigError) as refused:
        load()
    text = str(refused.value)
    assert text.startswith(f"{PREFIX}{name}: ")
    assert says in text or says.upper() in text.upper()
    assert "\n" not in text
    assert "Geheim" not in text


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:a%2Fb@h:5432/d",
        "postgres://h1:5432,h2:5433/d",
        "postgresql:///d?host=/tmp/socket",
        "postgresql://u@[::1]:5432/d",
    ],
)
def test_what_the_driver_takes_is_taken(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("MAILTRAIL_DATABASE_URL", url)
    secret = load().database_url
    assert secret is not None
    assert url == secret.get_secret_value()


def test_an_empty_database_is_the_embedded_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILTRAIL_DATABASE_URL", "")
    assert load().database_url is None


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:9000"),
        ("0.0.0.0", "http://127.0.0.1:9000"),
        ("::", "http://[::1]:9000"),
        ("mail.example.com", "http://mail.example.com:9000"),
    ],
)
def test_links_lead_to_where_we_listen_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, host: str, url: str
) -> None:
    monkeypatch.setenv("MAILTRAIL_HOST", host)
    monkeypatch.setenv("MAILTRAIL_PORT", "9000")
    assert url == load().public_url


def test_variables_that_nobody_reads_are_found() -> None:
    found = unknown_variables(
        {"MAILTRAIL_PROT": "1", "MAILTRAIL_PORT": "1", "mailtrail_something_else_entirely": "1", "PATH": ""}
    )
    assert [("MAILTRAIL_PROT", "MAILTRAIL_PORT"), ("mailtrail_something_else_entirely", "")] == found
