"""What the recipients of a mailing do, and what asks before or besides them: each request and its moment.

The mails leave within the first part of the run, and what follows is days of real life, compressed: half of the opens
come within the first twelfth of the time that is left, the rest in a tail that grows thinner until the end. Scanners
are not compressed: they follow every link within seconds. Pure; the same chance gives the same plan. Invariants: every
request lies within the run, and nobody clicks in a mail that was not opened before.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from .requests import Browser, browsers, headers_of

SENDING_PART = 0.1
"""The part of the run in which the mails leave."""

HALF_PART = 1 / 12
"""Half of a mailing's opens come within this part of the time: six hours of three days."""

SCANNER_SECONDS = 3.0
"""A scanner's last request, after the mail's arrival."""

PIXEL = 0
"""The number that stands for a mail's pixel among its links, which count from 1."""

_GATEWAY_PART = 0.08
_HEAD_FIRST_PART = 0.3
_SCANS_PIXEL_PART = 0.5
_READS_PART = 0.6
_READS_AGAIN_PART = 0.3
_CLICKS_PART = 0.35
_CLICKS_TWICE_PART = 0.1
_MOST_CLICKS = 4
_READING_SECONDS = 1.0
_PREVIEWS_PART = 0.03
_BREAKS_PART = 0.03
_WITH_QUERY_PART = 0.1
_PRIVACY_SECONDS = 2.0

_BASE64URL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


class Spelling(Enum):
    """What becomes of an address on its way from the mail into a client."""

    WHOLE = "whole"
    WITH_QUERY = "with a query"  # that a client appended; it is ignored
    CUT = "cut"
    CHANGED = "changed"
    PADDED = "padded"

    @property
    def opens(self) -> bool:
        """Whether it is still the token that was minted."""
        return self in (Spelling.WHOLE, Spelling.WITH_QUERY)


_BROKEN = tuple(spelling for spelling in Spelling if not spelling.opens)


@dataclass(frozen=True)
class Visitor:
    """Who asks, the verdict that its user agent must get, and its headers."""

    agent: str
    headers: tuple[tuple[str, str], ...]

    @cached_property
    def user_agent(self) -> str:
        return dict(self.headers)["User-Agent"]


@dataclass(frozen=True, slots=True)
class Visit:
    """One request: `mail` and `link` count the plan's mails from 0 and the mail's links from 1, or are its `PIXEL`."""

    at_seconds: float
    mail: int
    link: int
    visitor: Visitor
    method: str = "GET"
    spelling: Spelling = Spelling.WHOLE

    @property
    def kind(self) -> str:
        return "open" if self.link == PIXEL else "click"

    @property
    def leaves_hit(self) -> bool:
        """Whether it must be in the database afterwards: every other request must leave nothing."""
        return self.method == "GET" and self.spelling.opens

    @property
    def name(self) -> str:
        """What it counts as in the generator's statistics."""
        if not self.spelling.opens:
            return f"{self.kind}, token {self.spelling.value}"
        return f"{self.kind} by {self.visitor.agent}"

    def path(self, token: str) -> str:
        """The path that is asked for, made of the link's or pixel's token as it was minted."""
        spelt = _spell(token, self.spelling)
        path = f"/o/{spelt}.gif" if self.link == PIXEL else f"/c/{spelt}"
        return f"{path}?fbclid=IwAR0mail" if self.spelling is Spelling.WITH_QUERY else path


def _spell(token: str, spelling: Spelling) -> str:
    if spelling is Spelling.CUT:
        return token[: len(token) * 2 // 3]
    if spelling is Spelling.PADDED:
        return f"{token}="
    if spelling is Spelling.CHANGED:
        at = len(token) // 2
        other = _BASE64URL[(_BASE64URL.index(token[at]) + 1) % len(_BASE64URL)]
        return f"{token[:at]}{other}{token[at + 1 :]}"
    return token


# --- who asks --------------------------------------------------------------------------------------------------------

_GMAIL = "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)"
_YAHOO = "YahooMailProxy; https://help.yahoo.com/kb/yahoo-mail-proxy-SLN28749.html"
_APPLE = "Mozilla/5.0"
_SCANNERS = (
    "BarracudaCentral/1.0 (+https://www.barracudacentral.org)",
    "Mozilla/5.0 (compatible; Mimecast URL Protection)",
    "Mozilla/5.0 (compatible; Proofpoint URL Defense)",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) SafeLinks/1.0",
    "Sophos Email Appliance/4.5",
)


class Crowd:
    """Everybody who may ask: people with their browsers, mail proxies and scanners."""

    def __init__(self, chance: random.Random) -> None:
        self.people = [_person(browser, chance) for browser in browsers(chance)]
        self.gmail, self.yahoo, self.apple = (_proxy(user_agent) for user_agent in (_GMAIL, _YAHOO, _APPLE))
        self.scanners = [_scanner(user_agent) for user_agent in _SCANNERS]

    @property
    def everybody(self) -> list[Visitor]:
        return [*self.people, self.gmail, self.yahoo, self.apple, *self.scanners]


def _person(browser: Browser, chance: random.Random) -> Visitor:
    # The host is the server's under load.
    return Visitor("human", tuple(header for header in headers_of(browser, chance) if header[0] != "Host"))


def _proxy(user_agent: str) -> Visitor:
    return Visitor("proxy", (("User-Agent", user_agent), ("Accept", "image/*,*/*;q=0.8")))


def _scanner(user_agent: str) -> Visitor:
    return Visitor("scanner", (("User-Agent", user_agent), ("Accept", "*/*")))


# --- what they do ----------------------------------------------------------------------------------------------------


def plan(mails: int, links: int, seconds: float, chance: random.Random) -> list[Visit]:
    """All requests for so many mails of so many links each, in the order of their moments, within so many seconds."""
    crowd = Crowd(chance)
    visits: list[Visit] = []
    for mail in range(mails):
        arrived = seconds * SENDING_PART * mail / mails
        visits += _Inbox(mail, links, arrived, seconds, crowd, chance).visits()
    return sorted(visits, key=lambda visit: visit.at_seconds)


def delay_seconds(part: float, within_seconds: float) -> float:
    """The delay that this part of the opens (from 0 to 1) has not exceeded: steep at first, none later than `within`.

    A Lomax distribution of shape 1, cut off at the end.
    """
    reached = part / (1 + HALF_PART)
    return within_seconds * min(1.0, HALF_PART * reached / (1 - reached))


@dataclass(frozen=True, slots=True)
class _Inbox:
    """One recipient's, with one mail in it."""

    mail: int
    links: int
    arrived: float
    end: float
    crowd: Crowd
    chance: random.Random

    def visits(self) -> Iterator[Visit]:
        if self._happens(_GATEWAY_PART):
            yield from self._scan()
        person = self.chance.choice(self.crowd.people)
        client: Callable[[Visitor], Iterator[Visit]] = self.chance.choices(
            (self._read_directly, self._read_at_gmail, self._read_at_yahoo, self._read_at_apple), (35, 35, 10, 20)
        )[0]
        yield from client(person)

    def _scan(self) -> Iterator[Visit]:
        """Every link within seconds, whether anybody reads the mail or not; some ask with HEAD first."""
        scanner = self.chance.choice(self.crowd.scanners)
        heads_first = self._happens(_HEAD_FIRST_PART)
        targets = [PIXEL] if self._happens(_SCANS_PIXEL_PART) else []
        moments = sorted(self._within(0, SCANNER_SECONDS) for _ in range(self.links + len(targets)))
        for at, link in zip(moments, [*targets, *range(1, self.links + 1)], strict=True):
            if heads_first:
                yield Visit(at, self.mail, link, scanner, "HEAD")
            yield Visit(at, self.mail, link, scanner)

    def _read_directly(self, person: Visitor) -> Iterator[Visit]:
        yield from self._read(person, person)

    def _read_at_gmail(self, person: Visitor) -> Iterator[Visit]:
        yield from self._read(person, self.crowd.gmail)

    def _read_at_yahoo(self, person: Visitor) -> Iterator[Visit]:
        yield from self._read(person, self.crowd.yahoo)

    def _read_at_apple(self, person: Visitor) -> Iterator[Visit]:
        """The privacy protection loads the pixel soon after the arrival, for mails too that nobody reads."""
        yield Visit(self._within(0, _PRIVACY_SECONDS), self.mail, PIXEL, self.crowd.apple)
        yield from self._read(person, self.crowd.apple)

    def _read(self, person: Visitor, loader: Visitor) -> Iterator[Visit]:
        """Opens, sometimes again, and what is clicked after each; `loader` fetches the pixel."""
        opened = self.arrived
        part = _READS_PART
        while self._happens(part):
            opened += delay_seconds(self.chance.random(), self.end - opened)
            yield Visit(opened, self.mail, PIXEL, loader, spelling=self._spelling(_BREAKS_PART))
            if self._happens(_CLICKS_PART):
                yield from self._click(person, opened)
            part = _READS_AGAIN_PART

    def _click(self, person: Visitor, opened: float) -> Iterator[Visit]:
        at = opened
        for link in self.chance.sample(range(1, self.links + 1), self.chance.randint(1, min(_MOST_CLICKS, self.links))):
            at = min(self.end, at + self.chance.expovariate(1 / _READING_SECONDS))
            if self._happens(_PREVIEWS_PART):
                yield Visit(at, self.mail, link, person, "HEAD")
            yield Visit(at, self.mail, link, person, spelling=self._spelling(_BREAKS_PART))
            if self._happens(_CLICKS_TWICE_PART):
                yield Visit(at, self.mail, link, person, spelling=self._spelling(0))

    def _within(self, earliest: float, latest: float) -> float:
        """A moment so many seconds after the arrival."""
        return min(self.end, self.arrived + self.chance.uniform(earliest, latest))

    def _happens(self, part: float) -> bool:
        return self.chance.random() < part

    def _spelling(self, broken_part: float) -> Spelling:
        if self._happens(broken_part):
            return self.chance.choice(_BROKEN)
        return Spelling.WITH_QUERY if self._happens(_WITH_QUERY_PART) else Spelling.WHOLE
