"""What a tracking request is answered with, and the hit it leaves: decode → resolve → reduce, one pure function.

No I/O, no clock, no randomness: instant, hit id and settings come in as arguments, so that every server in front of it
answers the same request with the same bytes. Invariants: a redirect goes only where a sealed token or an override says;
a HEAD has the headers of its GET and leaves no hit; a bad token on /o/ is still a picture.
"""

from dataclasses import dataclass

from msgspec import Struct

from ..config import Network, Settings
from ..errors import TokenRefused
from ..tracking.agents import MAX_BYTES, verdict
from ..tracking.hits import Hit, IpPolicy, Moment, Outcome, Request, reduce
from ..tracking.modes import Mode
from ..tracking.overrides import corrected
from ..tracking.snapshot import Snapshot
from ..tracking.tokens import Kind, Token
from .client import Client, Header
from .forwarded import client_address

CLICK_PATH = b"/c/"
OPEN_PATH = b"/o/"
OPEN_SUFFIX = b".gif"
_TOKEN_AT, _TOKEN_END = len(CLICK_PATH), -len(OPEN_SUFFIX)
_QUERY = ord("?")  # a number is found in bytes five times as fast as bytes are

_PRINTABLE = bytes(range(0x20, 0x7F))

NO_SETTINGS = "no_settings"
"""The reason of a refusal before the first settings were loaded."""

# An enum's member costs as much to look up by its class as some of the steps below (Python 3.11).
_OPEN, _CLICK = Kind.OPEN, Kind.CLICK
_OFF, _PERSON_BASED = Mode.OFF, Mode.PERSON_BASED
_SERVED, _NO_ADDRESS = Outcome.SERVED, IpPolicy.NONE

Headers = tuple[Header, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """One of the few forms that answers have: all but where a redirect leads. Made once; compared by identity."""

    status: int
    headers: Headers
    body: bytes
    kind: Kind
    outcome: Outcome | None
    """None: refused."""


class Answer(Struct, frozen=True, gc=False):
    """The form and location to send, the hit to journal before that, and what is counted."""

    form: Form
    location: bytes | None = None
    hit: Hit | None = None
    reason: str | None = None
    """Why a token did not open, a label of `tokens_refused`."""
    capped: bool = False
    """Whether the hit's mode is lower because the settings are unconfirmed."""
    has_body: bool = True
    """False for a HEAD: its headers are those of the GET."""

    @property
    def status(self) -> int:
        return self.form.status

    @property
    def headers(self) -> Headers:
        """All headers in the order in which they are sent."""
        return self.form.headers if self.location is None else ((b"location", self.location), *self.form.headers)

    @property
    def body(self) -> bytes:
        return self.form.body if self.has_body else b""

    @property
    def kind(self) -> Kind:
        return self.form.kind

    @property
    def outcome(self) -> Outcome | None:
        """None: refused."""
        return self.form.outcome


def _page(status: int, kind: Kind, sentence: str, *extra: Header, outcome: Outcome | None = None) -> Form:
    body = sentence.encode() + b"\n"
    headers = (
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
        (b"x-robots-tag", b"noindex"),
        *extra,
    )
    return Form(status, headers, body, kind, outcome)


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
_PIXEL_SERVED = Form(200, _PIXEL_HEADERS, PIXEL, Kind.OPEN, Outcome.SERVED)
_GONE = _page(410, Kind.CLICK, "This link has been switched off by its sender.", outcome=Outcome.GONE)
_BAD_TOKEN = {
    Kind.CLICK: _page(404, Kind.CLICK, "This link is not valid. Please check that it was copied completely."),
    Kind.OPEN: Form(200, _PIXEL_HEADERS, PIXEL, Kind.OPEN, None),
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

    redirect: Form
    redirect_corrected: Form
    ip_policy: IpPolicy
    trusted_proxies: tuple[Network, ...]

    @classmethod
    def of(cls, settings: Settings) -> "Rules":
        policy = settings.referrer_policy.encode()
        headers = (
            (b"content-length", b"0"),
            (b"cache-control", b"no-store"),
            *(((b"referrer-policy", policy),) if policy else ()),
            (b"x-robots-tag", b"noindex"),
        )
        return cls(
            redirect=Form(302, headers, b"", Kind.CLICK, Outcome.SERVED),
            redirect_corrected=Form(302, headers, b"", Kind.CLICK, Outcome.CORRECTED),
            ip_policy=settings.ip_policy,
            trusted_proxies=settings.trusted_proxies,
        )


def answer(
    method: str,
    path: bytes,
    client: Client,
    rules: Rules,
    snapshot: Snapshot | None,
    confirmed: bool,
    at: Moment,
    hit_id: int,
) -> Answer:
    """The answer to one request for a path below /c/ or /o/, with the hit that its mode allows.

    `path` is the raw request target; its query is ignored. `confirmed` says whether the settings are young enough.
    """
    kind = kind_of(path)
    has_body = method == "GET"
    if not has_body and method != "HEAD":
        return Answer(_WRONG_METHOD[kind])
    if snapshot is None:
        return Answer(_NO_SETTINGS[kind], reason=NO_SETTINGS, has_body=has_body)
    try:
        token = snapshot.keys.open(_token_in(path, kind), kind)
        form, location = (_PIXEL_SERVED, None) if kind is _OPEN else _serve_click(token, snapshot, rules)
    except TokenRefused as error:
        return Answer(_BAD_TOKEN[kind], reason=error.reason, has_body=has_body)
    edition, capped = token.edition, False
    mode = snapshot.decided_mode_of(edition)
    if not confirmed:
        most, mode = mode, snapshot.mode_of(edition, confirmed=False)
        capped = mode is not most
    if not has_body or mode is _OFF:
        return Answer(form, location, has_body=has_body)
    agent = verdict(client.user_agent, prefetch=client.announces_prefetch)
    user_agent = address = None
    if mode is _PERSON_BASED:  # of the client no other mode needs to know more
        user_agent = _text(client.user_agent)
        if rules.ip_policy is not _NO_ADDRESS:
            address = client_address(client.peer, client.forwarded_for, rules.trusted_proxies)
    request = Request(hit_id, token, at, agent, user_agent, address, form.outcome or _SERVED)
    hit = reduce(request, mode, snapshot.day_keys, snapshot.destroyed_before, rules.ip_policy)
    return Answer(form, location, hit, None, capped)


def kind_of(path: bytes) -> Kind:
    """What a path asks for; everything that is no open counts as a click."""
    return _OPEN if path.startswith(OPEN_PATH) else _CLICK


def bad_token(kind: Kind) -> Answer:
    """The answer to a token that does not open: the picture or a short page, nothing recorded."""
    return Answer(_BAD_TOKEN[kind])


def _token_in(path: bytes, kind: Kind) -> bytes:
    """The token of `/c/<token>` or `/o/<token>.gif`; what no token is spelled with, the key ring refuses."""
    if _QUERY in path:
        path = path[: path.index(b"?")]
    if kind is _CLICK:
        if path.startswith(CLICK_PATH):
            return path[_TOKEN_AT:]
    elif path.endswith(OPEN_SUFFIX):
        return path[_TOKEN_AT:_TOKEN_END]
    raise TokenRefused("malformed")


def _serve_click(token: Token, snapshot: Snapshot, rules: Rules) -> tuple[Form, bytes | None]:
    """What a good click token is answered with: the way on, or that the link is switched off."""
    target, form = token.destination, rules.redirect
    if snapshot.overrides and token.registered:
        override = snapshot.overrides.get((token.edition.space, token.edition.mailing, token.link), "")
        if override is None:
            return _GONE, None
        if override:
            target, form = corrected(override, target), rules.redirect_corrected
    location = target.encode("ascii")
    # Who holds a space's key can seal anything; a line break would add headers of their own.
    if not location or location.translate(None, _PRINTABLE):
        raise TokenRefused("malformed")
    return form, location


def _text(user_agent: bytes) -> str | None:
    """The user agent as it is kept: PostgreSQL's text takes no NUL."""
    return user_agent[:MAX_BYTES].decode("utf-8", "replace").replace("\0", "") or None
