"""What a tracking request is answered with, and the hit it leaves: decode → resolve → reduce, one pure function.

No I/O, no clock, no randomness: instant, hit id and settings come in as arguments, so that every server in front of it
answers the same request with the same bytes. Invariants: a redirect goes only where a sealed token or an override says;
a HEAD has the headers of its GET and leaves no hit; a bad token on /o/ is still a picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from ..config import Network, Settings
from ..errors import TokenRefused
from ..tracking.agents import MAX_BYTES, PREFETCH_HEADERS, announces_prefetch, verdict
from ..tracking.hits import Hit, IpPolicy, Outcome, Request, reduce
from ..tracking.modes import Mode
from ..tracking.overrides import corrected
from ..tracking.snapshot import Snapshot
from ..tracking.tokens import Kind, Token
from .forwarded import client_address

CLICK_PATH = b"/c/"
OPEN_PATH = b"/o/"
OPEN_SUFFIX = b".gif"

NO_SETTINGS = "no_settings"
"""The reason of a refusal before the first settings were loaded."""

Header = tuple[bytes, bytes]
Headers = tuple[Header, ...]


class Answer(NamedTuple):
    """Status, headers and body to send, the hit to journal before that, and what is counted."""

    status: int
    headers: Headers
    body: bytes
    kind: Kind
    outcome: Outcome | None
    """None: refused."""
    hit: Hit | None = None
    reason: str | None = None
    """Why a token did not open, a label of `tokens_refused`."""
    capped: bool = False
    """Whether the hit's mode is lower because the settings are unconfirmed."""


def _page(status: int, kind: Kind, sentence: str, *extra: Header, outcome: Outcome | None = None) -> Answer:
    body = sentence.encode() + b"\n"
    return Answer(
        status,
        (
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
            (b"x-content-type-options", b"nosniff"),
            (b"x-robots-tag", b"noindex"),
            *extra,
        ),
        body,
        kind,
        outcome,
    )


PIXEL = (
    b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff!\xf9\x04\x01\x00\x00\x00\x00"
    b",\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;"
)
"""A transparent picture of one pixel, 43 bytes."""

_PIXEL_HEADERS = (
    (b"content-type", b"image/gif"),
    (b"content-length", b"%d" % len(PIXEL)),
    (b"cache-control", b"no-cache, no-store, must-revalidate"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-robots-tag", b"noindex"),
)
_PIXEL_SERVED = Answer(200, _PIXEL_HEADERS, PIXEL, Kind.OPEN, Outcome.SERVED)
_GONE = _page(410, Kind.CLICK, "This link has been switched off by its sender.", outcome=Outcome.GONE)
_BAD_TOKEN = {
    Kind.CLICK: _page(404, Kind.CLICK, "This link is not valid. Please check that it was copied completely."),
    Kind.OPEN: Answer(200, _PIXEL_HEADERS, PIXEL, Kind.OPEN, None),
}
_ALLOW = (b"allow", b"GET, HEAD")
_WRONG_METHOD = {kind: _page(405, kind, "This address can only be opened.", _ALLOW) for kind in _BAD_TOKEN}
_RETRY = (b"retry-after", b"5")
UNAVAILABLE = {
    kind: _page(503, kind, "This address cannot be opened right now. Please try again in a moment.", _RETRY)
    for kind in _BAD_TOKEN
}
"""The answers when a hit cannot be journaled and must not be lost."""

_NO_SETTINGS = {Kind.CLICK: UNAVAILABLE[Kind.CLICK], Kind.OPEN: _BAD_TOKEN[Kind.OPEN]}


@dataclass(frozen=True, slots=True)
class Rules:
    """What of the settings an answer depends on; bound once."""

    redirect_headers: Headers
    """All headers of a redirect but the location."""
    ip_policy: IpPolicy
    trusted_proxies: tuple[Network, ...]

    @classmethod
    def of(cls, settings: Settings) -> "Rules":
        policy = settings.referrer_policy.encode()
        return cls(
            redirect_headers=(
                (b"content-length", b"0"),
                (b"cache-control", b"no-store"),
                *(((b"referrer-policy", policy),) if policy else ()),
                (b"x-robots-tag", b"noindex"),
            ),
            ip_policy=settings.ip_policy,
            trusted_proxies=settings.trusted_proxies,
        )


def answer(
    method: str,
    path: bytes,
    headers: Sequence[Header],
    peer: str | None,
    *,
    rules: Rules,
    snapshot: Snapshot | None,
    confirmed: bool,
    at: datetime,
    hit_id: int,
) -> Answer:
    """The answer to one request for a path below /c/ or /o/, with the hit that its mode allows.

    `path` is the raw request target; its query is ignored. Header names are in lower case. `peer` is the address of the
    connection, `confirmed` whether the settings are young enough, `at` an aware instant in UTC.
    """
    kind = kind_of(path)
    if method != "GET" and method != "HEAD":
        return _WRONG_METHOD[kind]
    if snapshot is None:
        return _for(method, _NO_SETTINGS[kind]._replace(reason=NO_SETTINGS))
    try:
        token = snapshot.keys.open(_token_in(path, kind), kind)
        made = _serve(token, snapshot, rules)
    except TokenRefused as error:
        return _for(method, bad_token(kind, error.reason))
    mode = snapshot.mode_of(token.message, confirmed=confirmed)
    if method == "HEAD" or mode is Mode.OFF:
        return _for(method, made)
    user_agent, prefetch = _agent_headers(headers)
    identified = mode is Mode.PERSON_BASED
    request = Request(
        hit_id,
        token,
        at,
        verdict(user_agent, prefetch=prefetch),
        _text(user_agent) if identified else None,
        _address(headers, peer, rules) if identified and rules.ip_policy is not IpPolicy.NONE else None,
        made.outcome or Outcome.SERVED,
    )
    hit = reduce(request, mode, snapshot.day_keys, snapshot.destroyed_before(at.date()), rules.ip_policy)
    capped = not confirmed and mode is not snapshot.mode_of(token.message)
    return Answer(made.status, made.headers, made.body, kind, made.outcome, hit, None, capped)


def kind_of(path: bytes) -> Kind:
    """What a path asks for; everything that is no open counts as a click."""
    return Kind.OPEN if path.startswith(OPEN_PATH) else Kind.CLICK


def bad_token(kind: Kind, reason: str | None) -> Answer:
    """The answer to a token that does not open: the picture or a short page, nothing recorded."""
    return _BAD_TOKEN[kind]._replace(reason=reason)


def _for(method: str, made: Answer) -> Answer:
    return made._replace(body=b"") if method == "HEAD" else made


def _token_in(path: bytes, kind: Kind) -> str:
    """The token of `/c/<token>` or `/o/<token>.gif`; what no token is spelled with, the key ring refuses."""
    path = path.partition(b"?")[0]
    if kind is Kind.OPEN:
        if not path.endswith(OPEN_SUFFIX):
            raise TokenRefused("malformed")
        path = path[: -len(OPEN_SUFFIX)]
    elif not path.startswith(CLICK_PATH):
        raise TokenRefused("malformed")
    return path[len(CLICK_PATH) :].decode("latin-1")


def _serve(token: Token, snapshot: Snapshot, rules: Rules) -> Answer:
    """What a good token is answered with: the picture, the way on, or that the link is switched off."""
    if token.kind is Kind.OPEN:
        return _PIXEL_SERVED
    target, outcome = token.destination, Outcome.SERVED
    if token.registered:
        message = token.message
        override = snapshot.overrides.get((message.space, message.mailing, token.link), "")
        if override is None:
            return _GONE
        if override:
            target, outcome = corrected(override, target), Outcome.CORRECTED
    # Who holds a space's key can seal anything; a line break would add headers of their own.
    if not target or not target.isprintable():
        raise TokenRefused("malformed")
    return Answer(302, ((b"location", target.encode("ascii")), *rules.redirect_headers), b"", Kind.CLICK, outcome)


_AGENT_HEADERS = PREFETCH_HEADERS | {b"user-agent"}


def _agent_headers(headers: Sequence[Header]) -> tuple[bytes, bool]:
    """The first user agent that is not empty, and whether any header says that nobody looks yet."""
    user_agent, prefetch = b"", False
    for name, value in headers:
        if name in _AGENT_HEADERS:
            if name in PREFETCH_HEADERS:
                prefetch = prefetch or announces_prefetch(value)
            else:
                user_agent = user_agent or value
    return user_agent, prefetch


def _text(user_agent: bytes) -> str | None:
    """The user agent as it is kept: PostgreSQL's text takes no NUL."""
    return user_agent[:MAX_BYTES].decode("utf-8", "replace").replace("\0", "") or None


def _address(headers: Sequence[Header], peer: str | None, rules: Rules) -> str | None:
    forwarded_for = [value for name, value in headers if name == b"x-forwarded-for"]
    return client_address(peer, forwarded_for, rules.trusted_proxies)
