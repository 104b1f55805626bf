"""The answer to every kind of request, against the table written out here, and the hit it leaves."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import asdict, replace

from app.collector.answer import PIXEL, Answer, Rules, answer
from app.collector.client import client_of_headers
from app.config import Settings
from app.tracking.hits import Hit, IpPolicy, Moment, Outcome, PseudonymGap
from app.tracking.modes import Event, Mode, Origin, Permission, Space
from app.tracking.pseudonyms import pseudonym
from app.tracking.snapshot import Snapshot
from app.tracking.tokens import Key, KeyRing, KeyState, Kind, Link, Message, _pack_all, pack_link

SPACE, EVENT, BY_PERMISSION, MAILING, LINK = 1, 2, 22, 3, 4
ANONYMOUS_SPACE, DELETED_SPACE = 5, 6
TODAY = date(2026, 11, 24)
AT = datetime(2026, 11, 24, 13, 37, 42, 123456, tzinfo=UTC)
DAY_KEY = bytes(range(32))
NONCE = b"12345678"
DESTINATION = "https://shop.example/p?cid=4711&utm_source=mail"
CHROME = b"Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0 Safari/537.36"
HEADERS = [(b"host", b"t.example"), (b"user-agent", CHROME), (b"x-forwarded-for", b"198.51.100.7")]

KEYS = {space: Key(space, space, bytes([space]) * 64) for space in (SPACE, ANONYMOUS_SPACE, DELETED_SPACE, 9)}
REVOKED = Key(77, SPACE, bytes([77]) * 64, KeyState.REVOKED)
RING = KeyRing({key.key_id: key for key in (REVOKED, *KEYS.values())})
SNAPSHOT = Snapshot(
    version=1,
    spaces={
        SPACE: Space(Mode.PERSON_BASED),
        ANONYMOUS_SPACE: Space(Mode.ANONYMIZED),
        DELETED_SPACE: Space(Mode.PERSON_BASED, deleted=True),
    },
    events={
        (SPACE, EVENT): Event(),
        (SPACE, BY_PERMISSION): Event(by_permission=True),
        (ANONYMOUS_SPACE, EVENT): Event(),
    },
    overrides={
        (SPACE, MAILING, 40): None,
        (SPACE, MAILING, 41): "https://new.example/b",
        (SPACE, MAILING, 42): "https://new.example/b?customer={cid}",
    },
    keys=RING,
    day_keys={TODAY: DAY_KEY},
    anonymization_days=60,
)
RULES = Rules.of(Settings())

PAGE = {
    b"content-type": b"text/plain; charset=utf-8",
    b"cache-control": b"no-store",
    b"x-content-type-options": b"nosniff",
    b"x-robots-tag": b"noindex",
}
PICTURE = {
    b"content-type": b"image/gif",
    b"content-length": b"43",
    b"cache-control": b"no-cache, no-store, must-revalidate",
    b"x-content-type-options": b"nosniff",
    b"x-robots-tag": b"noindex",
}


def message(ceiling: Mode = Mode.PERSON_BASED, **changed: Any) -> Message:
    made = Message(SPACE, EVENT, MAILING, Origin.EVENT, ceiling, Permission.UNKNOWN, TODAY, "erika", NONCE)
    return replace(made, **changed)


def click_path(sent: Message, destination: str = DESTINATION, link: int = LINK, *, registered: bool = True) -> bytes:
    return b"/c/" + RING.mint_click(sent, destination, link, registered=registered).encode()


def open_path(sent: Message) -> bytes:
    return b"/o/" + RING.mint_open(sent).encode() + b".gif"


def ask(path: bytes, method: str = "GET", **changed: Any) -> Answer:
    headers = changed.pop("headers", HEADERS)
    peer = changed.pop("peer", "10.0.0.1")
    known: dict[str, Any] = {"rules": RULES, "snapshot": SNAPSHOT, "confirmed": True, "at": Moment.of(AT), "hit_id": 99}
    return answer(method, path, client_of_headers(headers, peer), **(known | changed))


def kept(hit: Hit | None) -> dict[str, Any]:
    return {name: value for name, value in asdict(hit).items() if value not in (None, ())} if hit else {}


def test_a_good_click_redirects_and_leaves_a_hit() -> None:
    made = ask(click_path(message()))
    assert (made.status, made.body, made.outcome, made.reason) == (302, b"", Outcome.SERVED, None)
    assert dict(made.headers) == {
        b"location": DESTINATION.encode(),
        b"content-length": b"0",
        b"cache-control": b"no-store",
        b"referrer-policy": b"no-referrer",
        b"x-robots-tag": b"noindex",
    }
    assert kept(made.hit) == {
        "hit_id": 99,
        "kind": Kind.CLICK,
        "mode": Mode.PERSON_BASED,
        "at": AT,
        "space": SPACE,
        "event": EVENT,
        "mailing": MAILING,
        "link": LINK,
        "link_registered": True,
        "agent_kind": "human",
        "agent_family": "chrome",
        "outcome": Outcome.SERVED,
        "recipient": "erika",
        "nonce": NONCE,
        "user_agent": CHROME.decode(),
        "url": DESTINATION,
    }


def test_a_good_open_is_the_picture() -> None:
    made = ask(open_path(message()))
    assert (made.status, dict(made.headers), made.body) == (200, PICTURE, PIXEL)
    assert (len(PIXEL), PIXEL[:6]) == (43, b"GIF89a")
    assert made.hit is not None
    assert (made.hit.kind, made.hit.link, made.hit.url, made.hit.recipient) == (Kind.OPEN, 0, None, "erika")


def test_a_ceiling_holds_against_looser_settings() -> None:
    hit = ask(click_path(message(Mode.ANONYMIZED))).hit
    assert kept(hit) == {
        "hit_id": 99,
        "kind": Kind.CLICK,
        "mode": Mode.ANONYMIZED,
        "at": AT.replace(second=0, microsecond=0),
        "space": SPACE,
        "event": EVENT,
        "mailing": MAILING,
        "link": LINK,
        "link_registered": True,
        "agent_kind": "human",
        "agent_family": "chrome",
        "outcome": Outcome.SERVED,
        "pseudonym": pseudonym(DAY_KEY, SPACE, MAILING, NONCE),
    }


@pytest.mark.parametrize(
    ("sent", "mode"),
    [
        (message(), Mode.PERSON_BASED),
        (message(Mode.AGGREGATE), Mode.AGGREGATE),
        (message(event=BY_PERMISSION, permission=Permission.GRANTED), Mode.PERSON_BASED),
        (message(event=BY_PERMISSION, permission=Permission.DENIED), Mode.ANONYMIZED),
        (message(space=ANONYMOUS_SPACE), Mode.ANONYMIZED),
        (message(event=404), Mode.ANONYMIZED),
        (message(space=9), Mode.ANONYMIZED),
        (message(space=9, origin=Origin.RELAY), None),
        (message(origin=Origin.RELAY), None),
        (message(space=DELETED_SPACE), None),
    ],
)
def test_the_mode_decides_what_is_kept_and_never_the_redirect(sent: Message, mode: Mode | None) -> None:
    made = ask(click_path(sent))
    assert (302, DESTINATION.encode()) == (made.status, dict(made.headers)[b"location"])
    assert mode == (made.hit.mode if made.hit else None)
    assert (ask(open_path(sent)).status, ask(open_path(sent)).body) == (200, PIXEL)


def test_a_year_old_click_still_redirects_and_counts_in_totals() -> None:
    made = ask(click_path(message(Mode.ANONYMIZED, issue_day=TODAY - timedelta(days=365))))
    assert made.status == 302
    assert made.hit is not None
    assert (made.hit.pseudonym, made.hit.pseudonym_gap) == (None, PseudonymGap.KEY_DESTROYED)


@pytest.mark.parametrize(
    ("link", "status", "location", "outcome"),
    [
        (40, 410, None, Outcome.GONE),
        (41, 302, b"https://new.example/b", Outcome.CORRECTED),
        (42, 302, b"https://new.example/b?customer=4711", Outcome.CORRECTED),
        (43, 302, DESTINATION.encode(), Outcome.SERVED),
    ],
)
def test_overrides(link: int, status: int, location: bytes | None, outcome: Outcome) -> None:
    made = ask(click_path(message(), link=link))
    assert (status, location) == (made.status, dict(made.headers).get(b"location"))
    assert made.hit is not None
    assert (outcome, outcome, link) == (made.outcome, made.hit.outcome, made.hit.link)
    unregistered = ask(click_path(message(), link=link, registered=False))
    assert dict(unregistered.headers)[b"location"] == DESTINATION.encode()


def test_the_page_of_a_link_that_is_switched_off() -> None:
    made = ask(click_path(message(), link=40))
    assert dict(made.headers) == PAGE | {b"content-length": b"%d" % len(made.body)}
    assert b"switched off" in made.body


GOOD_CLICK, GOOD_OPEN = click_path(message()), open_path(message())
TOKEN, PIXEL_TOKEN = GOOD_CLICK[3:], GOOD_OPEN[3:-4]
BAD = [
    (b"/c/", "malformed"),
    (b"/c/" + TOKEN[:-1] + bytes([TOKEN[-1] ^ 1]), None),
    (b"/c/" + TOKEN + b"=", "malformed"),
    (b"/c/" + TOKEN + b"/", "malformed"),
    (b"/c//" + TOKEN, "malformed"),
    (b"/c/" + TOKEN + b".gif", "malformed"),
    (b"/c/%41" + TOKEN[1:], "malformed"),
    (b"/c/" + b"\xff" * 40, "malformed"),
    (b"/c/" + b"A" * 100_000, "malformed"),
    (b"/c/" + TOKEN[:40] + b"AAAA" + TOKEN[44:], "forged"),
    (b"/c/AZmZ" + b"A" * 40, "unknown_key"),
    (b"/c/AQAATQ" + b"A" * 40, "revoked"),
    (b"/c/" + PIXEL_TOKEN, "wrong_kind"),
    (b"/o/", "malformed"),
    (b"/o/.gif", "malformed"),
    (b"/o/" + PIXEL_TOKEN, "malformed"),
    (b"/o/" + PIXEL_TOKEN + b".png", "malformed"),
    (b"/o/" + PIXEL_TOKEN + b".gif/", "malformed"),
    (b"/o/" + PIXEL_TOKEN + b".gif.gif", "malformed"),
    (b"/o/" + TOKEN + b".gif", "wrong_kind"),
    (b"/x/" + TOKEN, "malformed"),
    (b"", "malformed"),
]


@pytest.mark.parametrize(("path", "reason"), BAD)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_bad_token_leads_nowhere_and_leaves_nothing(path: bytes, reason: str | None, method: str) -> None:
    made = ask(path, method)
    assert (made.outcome, made.hit) == (None, None)
    assert reason in (made.reason, None)
    if path.startswith(b"/o/"):
        assert (made.status, dict(made.headers)) == (200, PICTURE)
        assert made.body == (PIXEL if method == "GET" else b"")
    else:
        assert (made.status, {n: v for n, v in made.headers if n != b"content-length"}) == (404, PAGE)


@pytest.mark.parametrize("query", [b"?", b"?utm_source=x", b"?" + GOOD_OPEN, b"?a?b=/c/"])
def test_a_query_that_a_client_appends_is_ignored(query: bytes) -> None:
    assert ask(GOOD_CLICK) == ask(GOOD_CLICK + query)
    assert ask(GOOD_OPEN) == ask(GOOD_OPEN + query)


@pytest.mark.parametrize("path", [GOOD_CLICK, GOOD_OPEN, click_path(message(), link=40), b"/c/x", b"/o/x"])
@pytest.mark.parametrize("snapshot", [SNAPSHOT, None])
def test_head_has_the_headers_of_get_and_leaves_nothing(path: bytes, snapshot: Snapshot | None) -> None:
    get, head = ask(path, snapshot=snapshot), ask(path, "HEAD", snapshot=snapshot)
    assert (get.status, get.headers, b"", None) == (head.status, head.headers, head.body, head.hit)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get", "", "PROPFIND"])
@pytest.mark.parametrize("path", [GOOD_CLICK, GOOD_OPEN, b"/c/x"])
def test_other_methods(method: str, path: bytes) -> None:
    made = ask(path, method)
    assert (made.status, dict(made.headers)[b"allow"], made.hit) == (405, b"GET, HEAD", None)
    assert made.reason is None


def test_before_the_first_settings() -> None:
    click, opened = ask(GOOD_CLICK, snapshot=None), ask(GOOD_OPEN, snapshot=None)
    assert (click.status, dict(click.headers)[b"retry-after"], click.hit) == (503, b"5", None)
    assert (opened.status, opened.body, opened.hit) == (200, PIXEL, None)
    assert click.reason == opened.reason == "no_settings"


@pytest.mark.parametrize(
    ("ceiling", "confirmed", "mode", "capped"),
    [
        (Mode.PERSON_BASED, True, Mode.PERSON_BASED, False),
        (Mode.PERSON_BASED, False, Mode.ANONYMIZED, True),
        (Mode.ANONYMIZED, False, Mode.ANONYMIZED, False),
        (Mode.AGGREGATE, False, Mode.AGGREGATE, False),
    ],
)
def test_unconfirmed_settings_allow_at_most_anonymized(
    ceiling: Mode, confirmed: bool, mode: Mode, capped: bool
) -> None:
    made = ask(click_path(message(ceiling)), confirmed=confirmed)
    assert made.hit is not None
    assert (mode, capped) == (made.hit.mode, made.capped)


@pytest.mark.parametrize(
    ("policy", "trusted", "expected"),
    [
        ("none", "10.0.0.0/8", None),
        ("full", "10.0.0.0/8", "198.51.100.7"),
        ("truncated", "10.0.0.0/8", "198.51.100.0"),
        ("full", "", "10.0.0.1"),
    ],
)
def test_addresses_are_kept_as_the_policy_says(policy: str, trusted: str, expected: str | None) -> None:
    rules = Rules.of(Settings(ip_policy=IpPolicy(policy), trusted_proxies=trusted))  # type: ignore[arg-type]
    hit = ask(GOOD_CLICK, rules=rules).hit
    assert hit is not None
    assert expected == hit.client_address
    assert ask(click_path(message(Mode.ANONYMIZED)), rules=rules).hit.client_address is None  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ([], None),
        ([b""], None),
        ([b"Foo\x00Bar"], "FooBar"),
        ([b"M\xfcller"], "M\ufffdller"),
        ([b"x" * 600], "x" * 512),
        ([b"", b"second", b"third"], "second"),
        ([b"\x00"], None),
    ],
)
def test_user_agents_as_they_are_kept(sent: list[bytes], expected: str | None) -> None:
    hit = ask(GOOD_CLICK, headers=[(b"user-agent", value) for value in sent]).hit
    assert hit is not None
    assert expected == hit.user_agent


@pytest.mark.parametrize("name", [b"sec-purpose", b"purpose", b"x-purpose", b"x-moz"])
def test_a_prefetch_is_recorded_as_one(name: bytes) -> None:
    hit = ask(GOOD_CLICK, headers=[*HEADERS, (name, b"prefetch")]).hit
    assert hit is not None
    assert (hit.agent_kind, hit.agent_family) == ("prefetch", "chrome")


@pytest.mark.parametrize("policy", ["", "origin"])
def test_the_referrer_policy_is_as_configured(policy: str) -> None:
    made = ask(GOOD_CLICK, rules=Rules.of(Settings(referrer_policy=policy)))
    assert (policy.encode() or None) == dict(made.headers).get(b"referrer-policy")


@pytest.mark.parametrize("destination", ["https://a.example/\r\nset-cookie: a=b", "https://a.example/\x00", ""])
def test_a_sealed_line_break_is_never_sent(destination: str) -> None:
    """Minting refuses it, but who holds a space's key can seal with code of their own."""
    (plain,) = _pack_all(message(), [pack_link(Link(LINK, ""))])
    (sealed,) = RING._sealer_of(SPACE).seal_all([plain + destination.encode()])
    made = ask(b"/c/" + sealed.encode())
    assert (made.status, made.reason, made.hit) == (404, "malformed", None)


TAILS = st.binary(max_size=200) | st.sampled_from([path for path, _ in BAD] + [GOOD_CLICK, GOOD_OPEN])
PATHS = st.builds(bytes.__add__, st.sampled_from([b"", b"/c/", b"/o/"]), TAILS)


@given(
    PATHS,
    st.sampled_from(["GET", "HEAD", "POST", ""]),
    st.lists(st.tuples(st.sampled_from([b"user-agent", b"purpose", b"x-forwarded-for"]), st.binary(max_size=600))),
    st.booleans(),
    st.datetimes(min_value=datetime(1970, 1, 1)).map(lambda at: at.replace(tzinfo=UTC)),
)
@example(GOOD_CLICK, "GET", [], True, AT)
def test_every_request_gets_an_answer_of_the_table(
    path: bytes, method: str, headers: list[tuple[bytes, bytes]], confirmed: bool, at: datetime
) -> None:
    made = ask(path, method, headers=headers, confirmed=confirmed, at=Moment.of(at))
    assert made.status in (200, 302, 404, 405, 410)
    assert method == "HEAD" or dict(made.headers)[b"content-length"] == b"%d" % len(made.body)
    assert made.hit is None or (made.outcome is not None and method == "GET")
    assert all(value.isascii() and not set(value) & set(range(0x20)) for _, value in made.headers)
