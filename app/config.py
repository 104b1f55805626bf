"""All settings: environment variables `MAILTRAIL_*`, each described here once; `mailtrail config` prints them.

Invariant: a value that cannot work is refused at start with one line that names its variable, never later.
"""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from enum import Enum
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from .errors import ConfigError, SettingsError
from .tracking.destinations import NEVER_SCHEMES
from .tracking.hits import IpPolicy
from .tracking.settings import check_base_url

PREFIX = "MAILTRAIL_"
_LEAST_SEGMENTS = 4
"""Segments that must have room: one is written, one is shipped, and what is kept goes first."""

_COMMA_LISTS = ("trusted_proxies", "app_schemes")

Network = IPv4Network | IPv6Network
Bytes = Annotated[int, Field(ge=1)]


_DATABASE_SCHEMES = ("postgresql", "postgres")
_HOST = re.compile(r"(?:\[[^\]]*\]|[^:]*)(?::(\d{1,5}))?")
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\s:\[\]]+):(\d{1,5})")


def local_url(host: str, port: int) -> str:
    """Where a program on this machine reaches what listens on this address."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port`; an IPv6 address stands in brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, as far as its name says."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _own_url(earlier: dict[str, Any]) -> str:
    return local_url(earlier["host"], earlier["port"])


class Settings(BaseSettings):
    """One process's settings; they do not change while it runs."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    data_directory: Path = Field(
        Path("data"), description="Where journals, snapshots, metrics and the embedded PostgreSQL are kept."
    )
    database_url: SecretStr | None = Field(
        None, description="postgresql:// URL of your own server; without it an embedded PostgreSQL is started."
    )
    host: str = Field("127.0.0.1", description="Address that the collector listens on.")
    port: int = Field(8080, ge=0, le=65535, description="Port that the collector listens on.")
    workers: int = Field(
        1, ge=0, le=1024, description="Collector processes that share the port; 0: one per core that they may use."
    )
    public_url: str = Field(
        default_factory=_own_url,
        description="Base of tracked links, as recipients reach the collector; without it host and port.",
    )
    trusted_proxies: Annotated[tuple[Network, ...], NoDecode] = Field(
        (), description="Networks of proxies whose X-Forwarded-For is believed, separated by commas."
    )
    private_host: str = Field("127.0.0.1", description="Address of the private port; never reachable from outside.")
    private_port: int = Field(
        8082, ge=0, le=65535, description="Private port with /metrics, shared by all workers; 0: none."
    )
    admin_host: str = Field("127.0.0.1", description="Address of pages and API; never reachable from outside.")
    admin_port: int = Field(
        8081, ge=0, le=65535, description="Port of pages and API for settings; 0: `up` serves none."
    )
    metrics_public: bool = Field(False, description="Serve /metrics on the public port too.")
    ip_policy: IpPolicy = Field(
        IpPolicy.NONE, description="What person_based hits keep of the client's address: none, truncated or full."
    )
    referrer_policy: str = Field(
        "no-referrer",
        pattern=r"^[a-z-]*$",
        description="The Referrer-Policy of redirects; empty: the header is not sent.",
    )
    app_schemes: Annotated[frozenset[str], NoDecode] = Field(
        frozenset(), description="URL schemes besides http and https that may be tracked, separated by commas."
    )
    signed_mails: Literal["pass", "refuse"] = Field(
        "pass", description="Mails whose signature or encryption tracking would break: pass them untracked, or refuse."
    )
    relay_host: str = Field("127.0.0.1", description="Address that the mail relay listens on.")
    relay_port: int = Field(2525, ge=0, le=65535, description="Port that the mail relay listens on.")
    relay_private_port: int = Field(
        8083, ge=0, le=65535, description="Port of the relay's metrics and health, at the private host; 0 for none."
    )
    relay_upstream: str | None = Field(
        None, description="host:port of the mail server that the relay passes mails on to; `up` relays if it is set."
    )
    relay_upstream_security: Literal["none", "starttls", "tls"] | None = Field(
        None,
        description="How the relay speaks to it: none, starttls or tls; unset: none on this machine, else starttls.",
    )
    relay_upstream_user: str | None = Field(None, description="The name that the relay signs in with there.")
    relay_upstream_password: SecretStr | None = Field(None, description="The password to it.")
    relay_certificate: Path | None = Field(
        None, description="Certificate with its chain (PEM) for STARTTLS with the relay's clients."
    )
    relay_certificate_key: Path | None = Field(
        None, description="The certificate's key (PEM); unset: it is in the same file."
    )
    relay_space: str | None = Field(
        None, description="Space of clients on this machine that do not sign in; unset: all of them must."
    )
    relay_max_bytes: Bytes = Field(25 * 2**20, description="Size of a mail that the relay takes (SIZE).")
    relay_envelopes: Literal["copies", "shared"] = Field(
        "copies",
        description="A mail to several recipients: a copy for each, or one for all, recorded at most as aggregate.",
    )
    relay_group_header: str = Field(
        "X-Mailtrail-Group",
        pattern=r"^[!-9;-~]+$",
        description="Header field with the name of the group (mailing) that a relay mail is counted in.",
    )
    relay_timeout_seconds: float = Field(
        120, gt=0, le=3600, description="How long the relay waits for each answer of the next mail server."
    )
    relay_connections: int = Field(
        100, ge=1, le=10_000, description="Connections of clients that the relay holds at once."
    )
    anonymization_days: int = Field(
        60, ge=1, le=3650, description="Days after which a day's pseudonym key is destroyed."
    )
    hits_retention_days: int = Field(
        730, ge=31, le=40_000, description="Days that single hits are kept; whole months are dropped, totals stay."
    )
    snapshot_max_age_hours: float = Field(
        24, gt=0, description="With settings unconfirmed for longer, hits are recorded at most anonymized."
    )
    durability: Literal["process", "disk"] = Field(
        "process",
        description="What an answer promises: its hit survives kill -9 (process) or loss of power (disk).",
    )
    fast_lane: bool = Field(
        True, description="Answer usual requests from their bytes; false: all go through the plain ASGI application."
    )
    journal_segment_bytes: Bytes = Field(64 * 2**20, description="Size at which a journal's segment is full.")
    journal_max_bytes: Bytes = Field(10 * 2**30, description="Size that all journals together may have.")
    journal_full: Literal["drop_new", "refuse_503"] = Field(
        "drop_new", description="Full journal or disk: redirect and lose the hit, counted, or answer 503."
    )
    journal_keep_hours: float = Field(
        24, ge=0, description="Hours that shipped segments are kept, for restores of the database."
    )
    ship_batch_rows: int = Field(5_000, ge=1, le=100_000, description="Most hits in one transaction of the shipper.")
    ship_interval_seconds: float = Field(0.2, gt=0, le=60, description="How often the shipper looks for new hits.")
    log_format: Literal["console", "json"] = Field("console", description="How the log is written.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="What is logged at least.")

    @field_validator(*_COMMA_LISTS, mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return [part.strip().lower() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("public_url")
    @classmethod
    def _is_base_url(cls, value: str) -> str:
        try:
            return check_base_url(value)
        except SettingsError as error:
            raise ValueError(str(error)) from None

    @field_validator("database_url", mode="before")
    @classmethod
    def _is_database_url(cls, value: Any) -> Any:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if not isinstance(text, str) or not text.strip():
            return None
        parts = urlsplit(text)
        hosts = [_HOST.fullmatch(host) for host in parts.netloc.rpartition("@")[2].split(",")]
        if parts.scheme not in _DATABASE_SCHEMES or any(host is None or int(host[1] or 0) > 65535 for host in hosts):
            raise ValueError(
                "give postgresql://user:password@host:port/database; in the password write / as %2F, @ as %40, : as %3A"
            )
        return value

    @field_validator("relay_upstream", mode="before")
    @classmethod
    def _is_address(cls, value: Any) -> Any:
        if not isinstance(value, str) or not value.strip():
            return None
        found = _ADDRESS.fullmatch(value.strip())
        if found is None or not 0 < int(found[2]) <= 65535:
            raise ValueError("give host:port, e.g. smtp.example.com:587 or [::1]:25")
        return value.strip()

    @field_validator("relay_upstream_user", "relay_certificate", "relay_certificate_key", "relay_space", mode="before")
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        return None if value == "" else value

    @field_validator("app_schemes")
    @classmethod
    def _are_harmless(cls, value: frozenset[str]) -> frozenset[str]:
        if never := sorted(value & NEVER_SCHEMES):
            raise ValueError(
                f"{', '.join(never)} links run or show what they contain and are never tracked; leave them out"
            )
        return value

    @field_validator("journal_max_bytes")
    @classmethod
    def _has_room_for_segments(cls, value: int, info: ValidationInfo) -> int:
        if value < (least := _LEAST_SEGMENTS * info.data.get("journal_segment_bytes", 0)):
            raise ValueError(f"give at least {least}, {_LEAST_SEGMENTS} times MAILTRAIL_JOURNAL_SEGMENT_BYTES")
        return value

    @property
    def journals_directory(self) -> Path:
        return self.data_directory / "journals"

    @property
    def snapshot_file(self) -> Path:
        return self.data_directory / "snapshot"

    @property
    def metrics_directory(self) -> Path:
        return self.data_directory / "metrics"


class Described(NamedTuple):
    """One setting for people; values as they are written in the environment, secrets hidden."""

    variable: str
    value: str
    default: str
    description: str


def described(settings: Settings) -> list[Described]:
    """Every setting in the order of declaration."""
    return [
        Described(
            PREFIX + name.upper(), _written(getattr(settings, name)), _written(_default(name)), field.description or ""
        )
        for name, field in Settings.model_fields.items()
    ]


def _default(name: str) -> Any:
    earlier = {before: Settings.model_fields[before].default for before in ("host", "port")}
    return Settings.model_fields[name].get_default(call_default_factory=True, validated_data=earlier)


def _written(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | frozenset):
        return ",".join(sorted(map(str, value)))
    return str(value.value) if isinstance(value, Enum) else str(value)


def unknown_variables(environment: Mapping[str, str]) -> list[tuple[str, str]]:
    """Variables with our prefix that no setting reads, each with the setting that may have been meant, or nothing."""
    known = [name.upper() for name in Settings.model_fields]
    ours = {name: name.upper().removeprefix(PREFIX) for name in environment if name.upper().startswith(PREFIX)}
    return [
        (name, "".join(PREFIX + meant for meant in get_close_matches(given, known, 1)))
        for name, given in sorted(ours.items())
        if given not in known
    ]


def load() -> Settings:
    """The settings of the environment; ConfigError names the first variable that cannot work and says why."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        variable = PREFIX + str(first["loc"][0]).upper()
        message = first["msg"].removeprefix("Value error, ")
        is_secret = first["loc"][0] in ("database_url", "relay_upstream_password")
        raise ConfigError(f"{variable}: {message}" + ("" if is_secret else f" (it is {first['input']!r})")) from None
