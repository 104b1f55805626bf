"""What is asked of the collectors, and what each answered request must have left in the database, field by field.

Every request has a token of its own, so that a row says which request it is of: by its nonce (person-based), by its
pseudonym (anonymized), by a link number that is used once (aggregate).
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from app.tracking.agents import verdict
from app.tracking.modes import Mode, Origin, Permission
from app.tracking.pseudonyms import pseudonym
from app.tracking.tokens import KeyRing, Message

EVENT = 1
MODES = (Mode.PERSON_BASED, Mode.ANONYMIZED, Mode.AGGREGATE)
AGENTS = (
    b"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
    b"Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)",
    b"curl/8.14.1",
    'Mozilla/5.0 (Macintosh) Grüße \\ "quoted"\ttab'.encode(),
    b"",
)
COLUMNS = (
    "kind",
    "mode",
    "space_id",
    "event_id",
    "mailing_id",
    "link",
    "registered",
    "agent",
    "agent_family",
    "recipient",
    "nonce",
    "pseudonym",
    "pseudonym_gap",
    "client_address",
    "user_agent",
    "url",
    "outcome",
    "clock_clamped",
)
"""Of `mailtrail.hits`: all but the time and the hit's random id."""

Row = tuple[Any, ...]
"""The values of `COLUMNS`."""

_MOST_LINKS = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, the row that it must leave, and the words by which its redirect is known to be right."""

    request: bytes
    row: Row
    location: str | None

    @property
    def mode(self) -> str:
        return str(self.row[1])


def asks(keys: KeyRing, space: int, day_keys: Mapping[date, bytes], seed: int) -> Iterator[Ask]:
    """Clicks and opens of all modes without end; the same ones for the same seed, key, day and space."""
    choose = random.Random(seed)
    used = 0
    while True:
        used += 1
        mode = choose.choice(MODES)
        is_click = mode is Mode.AGGREGATE or choose.random() < 0.7
        mailing = 1_000 + mode
        link, registered = (used, False) if mode is Mode.AGGREGATE else (choose.randrange(1, _MOST_LINKS), True)
        message = Message(
            space=space,
            event=EVENT,
            mailing=mailing,
            origin=Origin.EVENT,
            ceiling=mode,
            permission=Permission.UNKNOWN,
            issue_day=datetime.now(UTC).date(),
            recipient=f"customer-{choose.getrandbits(40):x}" if choose.random() < 0.8 else None,
            nonce=b"" if mode is Mode.AGGREGATE else choose.randbytes(8),
        )
        url = f"https://shop.example/p/{choose.getrandbits(32)}?utm_source=news" + "&x=1" * choose.choice((0, 0, 9))
        agent = choose.choice(AGENTS)
        if is_click:
            path = f"/c/{keys.mint_click(message, url, link, registered=registered)}"
        else:
            path = f"/o/{keys.mint_open(message)}.gif"
        yield Ask(
            _request(path, agent),
            _row(message, url if is_click else None, link, registered, agent, day_keys),
            url if is_click else None,
        )


def _request(path: str, agent: bytes) -> bytes:
    user_agent = b"User-Agent: %b\r\n" % agent if agent else b""
    return b"GET %b HTTP/1.1\r\nHost: links.shop.example\r\n%bAccept: */*\r\n\r\n" % (path.encode(), user_agent)


def _row(
    message: Message, url: str | None, link: int, registered: bool, agent: bytes, day_keys: Mapping[date, bytes]
) -> Row:
    mode, found = message.ceiling, verdict(agent)
    is_person, is_click = mode is Mode.PERSON_BASED, url is not None
    name = None
    if mode is Mode.ANONYMIZED:
        name = pseudonym(day_keys[message.issue_day], message.space, message.mailing, message.nonce)
    return (
        "click" if is_click else "open",
        mode.label,
        message.space,
        message.event,
        message.mailing,
        link if is_click else 0,
        registered if is_click else True,
        found.kind,
        found.family if mode is not Mode.AGGREGATE else None,
        message.recipient if is_person else None,
        message.nonce if is_person else None,
        name,
        None,
        None,
        agent.decode() or None if is_person else None,
        url if is_person else None,
        "served",
        False,
    )


def identity(row: Row) -> tuple[Any, ...]:
    """What tells a row's request from all others."""
    nonce, name, link = row[10], row[11], row[5]
    return (row[4], nonce or name or link)
