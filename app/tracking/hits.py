"""Hits, and the one place that decides which of their fields may be kept.

Invariant: `reduce` is the only way from a request to a hit, and a field that the mode forbids never reaches its result.
Everything behind it (journal, shipper, database) only ever sees a reduced hit.
"""

import ipaddress
from collections.abc import Callable, Mapping
from datetime import date, datetime
from enum import Enum

from msgspec import Struct

from .modes import Mode
from .pseudonyms import pseudonym as pseudonym_of
from .tokens import CorrelationIds, Kind, Token

# Looked up by its class, each would cost as much as some of the steps of `reduce` (Python 3.11).
_OFF, _ANONYMIZED, _PERSON_BASED = Mode.OFF, Mode.ANONYMIZED, Mode.PERSON_BASED


class IpPolicy(Enum):
    """What person_based hits keep of the client's address; every other mode keeps nothing of it."""

    NONE = "none"
    TRUNCATED = "truncated"
    FULL = "full"


class PseudonymGap(Enum):
    """Why an anonymized hit has no pseudonym: it counts in totals only."""

    KEY_DESTROYED = "key_destroyed"
    KEY_MISSING = "key_missing"


class Outcome(Enum):
    """What the answer did: as minted, to a corrected destination, or 410 because the link is switched off."""

    SERVED = "served"
    CORRECTED = "corrected"
    GONE = "gone"


class Agent(Struct, frozen=True, gc=False):
    """The verdict on a user agent: its class (human, proxy, prefetch, scanner, bot, unknown) and client family."""

    kind: str
    family: str | None = None


class Moment(Struct, frozen=True, gc=False):
    """An instant in UTC, as exactly as each mode may know it; made once for all requests of a turn."""

    exact: datetime
    minute: datetime
    hour: datetime

    @classmethod
    def of(cls, at: datetime) -> "Moment":
        return cls(at, at.replace(second=0, microsecond=0), at.replace(minute=0, second=0, microsecond=0))


class Request(Struct, frozen=True, gc=False):
    """What the collector saw: the opened token, the moment, the client, and the random 64-bit hit id."""

    hit_id: int
    token: Token
    at: Moment
    agent: Agent
    user_agent: str | None = None
    client_address: str | None = None
    outcome: Outcome = Outcome.SERVED


class Hit(Struct, frozen=True, gc=False):
    """One recorded open or click, with only what its mode allows; fields that are not allowed are None."""

    hit_id: int
    kind: Kind
    mode: Mode
    at: datetime
    space: int
    event: int
    mailing: int
    link: int
    link_registered: bool
    agent_kind: str
    outcome: Outcome = Outcome.SERVED
    agent_family: str | None = None
    recipient: str | None = None
    nonce: bytes | None = None
    pseudonym: bytes | None = None
    pseudonym_gap: PseudonymGap | None = None
    client_address: str | None = None
    user_agent: str | None = None
    url: str | None = None
    correlation_ids: CorrelationIds = ()


def reduce(
    request: Request,
    mode: Mode,
    day_keys: Mapping[date, bytes],
    destroyed_before: Callable[[date], date],
    ip_policy: IpPolicy,
) -> Hit | None:
    """The hit that `mode` allows to be kept; None for off.

    `day_keys` holds the keys by UTC issue day; keys of days before `destroyed_before(today)` are gone on purpose, any
    other missing key is a fault. A mode above the token's ceiling is a programming error (ValueError): resolve first.
    """
    token, agent = request.token, request.agent
    edition = token.edition
    if mode > edition.ceiling:
        raise ValueError(f"mode {mode.label} is above the token's ceiling {edition.ceiling.label}")
    if mode is _OFF:
        return None
    at, pseudonym, gap, recipient, nonce, address = request.at.hour, None, None, None, None, None
    family = user_agent = url = None
    correlation_ids: CorrelationIds = ()
    if mode is _PERSON_BASED:
        at, family, recipient, nonce = request.at.exact, agent.family, token.recipient, token.nonce
        user_agent, url = request.user_agent, token.destination or None
        correlation_ids = token.correlation_ids
        if request.client_address is not None:
            address = _kept_address(request.client_address, ip_policy)
    elif mode is _ANONYMIZED:
        at, family = request.at.minute, agent.family
        key = day_keys.get(edition.issue_day)
        if key is not None:
            pseudonym = pseudonym_of(key, edition.space, edition.mailing, token.nonce)
        elif edition.issue_day < destroyed_before(request.at.exact.date()):
            gap = PseudonymGap.KEY_DESTROYED
        else:
            gap = PseudonymGap.KEY_MISSING
    return Hit(
        request.hit_id,
        edition.kind,
        mode,
        at,
        edition.space,
        edition.event,
        edition.mailing,
        token.link,
        token.registered,
        agent.kind,
        request.outcome,
        family,
        recipient,
        nonce,
        pseudonym,
        gap,
        address,
        user_agent,
        url,
        correlation_ids,
    )


def _kept_address(address: str, policy: IpPolicy) -> str | None:
    """The address as the policy keeps it: truncated to its /24 or /48 network; None for what is no address."""
    if policy is IpPolicy.NONE:
        return None
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address):
        # ::ffff:203.0.113.9 is an IPv4 client: cut it as one, or its /48 would be all of IPv4.
        parsed = parsed.ipv4_mapped or ipaddress.IPv6Address(int(parsed))
    if policy is IpPolicy.FULL:
        return str(parsed)
    prefix = 24 if parsed.version == 4 else 48
    return str(ipaddress.ip_network((parsed, prefix), strict=False).network_address)
