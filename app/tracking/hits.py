"""Hits, and the one place that decides which of their fields may be kept.

Invariant: `reduce` is the only way from a request to a hit, and a field that the mode forbids never reaches its result.
Everything behind it (journal, shipper, database) only ever sees a reduced hit.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime
from enum import Enum

from .modes import Mode
from .pseudonyms import pseudonym
from .tokens import Kind, Token


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


@dataclass(frozen=True, slots=True)
class Agent:
    """The verdict on a user agent: its class (human, proxy, prefetch, scanner, bot, unknown) and client family."""

    kind: str
    family: str | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What the collector saw: the opened token, the instant (UTC), the client, and the random 64-bit hit id."""

    hit_id: int
    token: Token
    at: datetime
    agent: Agent
    user_agent: str | None = None
    client_address: str | None = None
    outcome: Outcome = Outcome.SERVED


@dataclass(frozen=True, slots=True)
class Hit:
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


def reduce(
    request: Request, mode: Mode, day_keys: Mapping[date, bytes], destroyed_before: date, ip_policy: IpPolicy
) -> Hit | None:
    """The hit that `mode` allows to be kept; None for off.

    `day_keys` holds the keys by UTC issue day; keys of days before `destroyed_before` are gone on purpose, any other
    missing key is a fault. A mode above the token's ceiling is a programming error (ValueError): resolve first.
    """
    message = request.token.message
    if mode > message.ceiling:
        raise ValueError(f"mode {mode.label} is above the token's ceiling {message.ceiling.label}")
    if mode is Mode.OFF:
        return None
    hit = Hit(
        hit_id=request.hit_id,
        kind=request.token.kind,
        mode=mode,
        at=request.at.replace(minute=0, second=0, microsecond=0),
        space=message.space,
        event=message.event,
        mailing=message.mailing,
        link=request.token.link,
        link_registered=request.token.registered,
        agent_kind=request.agent.kind,
        outcome=request.outcome,
    )
    if mode is Mode.AGGREGATE:
        return hit
    if mode is Mode.ANONYMIZED:
        key = day_keys.get(message.issue_day)
        gap = None
        if key is None:
            destroyed = message.issue_day < destroyed_before
            gap = PseudonymGap.KEY_DESTROYED if destroyed else PseudonymGap.KEY_MISSING
        return replace(
            hit,
            at=request.at.replace(second=0, microsecond=0),
            agent_family=request.agent.family,
            pseudonym=pseudonym(key, message.space, message.mailing, message.nonce) if key else None,
            pseudonym_gap=gap,
        )
    return replace(
        hit,
        at=request.at,
        agent_family=request.agent.family,
        recipient=message.recipient,
        nonce=message.nonce,
        client_address=_kept_address(request.client_address, ip_policy),
        user_agent=request.user_agent,
        url=request.token.destination or None,
    )


def _kept_address(address: str | None, policy: IpPolicy) -> str | None:
    """The address as the policy keeps it: truncated to its /24 or /48 network; None for what is no address."""
    if address is None or policy is IpPolicy.NONE:
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
