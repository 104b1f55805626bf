"""What a hit keeps, mode by mode. The allowed fields are written out here, not read from the code."""

from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict

from app.tracking.hits import Agent, Hit, IpPolicy, Moment, PseudonymGap, Request, reduce
from app.tracking.modes import Mode, Origin, Permission
from app.tracking.pseudonyms import pseudonym
from app.tracking.tokens import Key, KeyRing, Kind, Message

DAY = date(2026, 11, 24)
KEYS = {DAY: bytes(range(32))}
LONG_AGO = date(2026, 9, 1)
ALWAYS = {
    "hit_id",
    "kind",
    "mode",
    "at",
    "space",
    "event",
    "mailing",
    "link",
    "link_registered",
    "agent_kind",
    "outcome",
}
ALLOWED = {
    Mode.AGGREGATE: ALWAYS,
    Mode.ANONYMIZED: ALWAYS | {"agent_family", "pseudonym"},
    Mode.PERSON_BASED: ALWAYS
    | {"agent_family", "recipient", "nonce", "client_address", "user_agent", "url"}
    | {"correlation_ids"},
}

RING = KeyRing({7: Key(7, 1, bytes(64))})
IDS = ("planted order", None, "planted invoice")


def request(
    ceiling: Mode = Mode.PERSON_BASED, kind: Kind = Kind.CLICK, at: datetime | None = None, day: date = DAY
) -> Request:
    message = Message(
        1, 2, 3, Origin.EVENT, ceiling, Permission.GRANTED, day, "erika", b"12345678"[: 8 * (ceiling > 1)], IDS
    )
    click = RING.mint_click(message, "https://shop.example/?cid=planted", 4)
    token = RING.open(click if kind is Kind.CLICK else RING.mint_open(message), kind)
    at = at or datetime(2026, 11, 24, 13, 37, 42, 123456, tzinfo=UTC)
    return Request(99, token, Moment.of(at), Agent("human", "Thunderbird"), "Thunderbird/140 planted", "203.0.113.77")


def kept(hit: Hit | None) -> set[str]:
    return {name for name, value in asdict(hit).items() if value not in (None, ())} if hit else set()


@pytest.mark.parametrize("mode", ALLOWED)
def test_a_hit_keeps_exactly_what_its_mode_allows(mode: Mode) -> None:
    assert ALLOWED[mode] == kept(reduce(request(), mode, KEYS, lambda _: LONG_AGO, IpPolicy.FULL))


def test_off_is_no_hit_at_all() -> None:
    assert reduce(request(), Mode.OFF, KEYS, lambda _: LONG_AGO, IpPolicy.FULL) is None


@given(
    st.sampled_from([Mode.AGGREGATE, Mode.ANONYMIZED]),
    st.sampled_from(IpPolicy),
    st.sampled_from([Kind.OPEN, Kind.CLICK]),
    st.datetimes(min_value=datetime(2020, 1, 1), max_value=datetime(2100, 1, 1)).map(lambda d: d.replace(tzinfo=UTC)),
)
def test_nothing_of_the_person_survives(mode: Mode, policy: IpPolicy, kind: Kind, at: datetime) -> None:
    hit = reduce(request(kind=kind, at=at), mode, KEYS, lambda _: LONG_AGO, policy)
    assert hit is not None
    text = repr(hit)
    assert [word for word in ("erika", "planted", "203.0.113", "12345678", "shop.example") if word in text] == []
    assert (hit.at.second, hit.at.microsecond) == (0, 0)
    assert mode is not Mode.AGGREGATE or hit.at.minute == 0


def test_times() -> None:
    times = {m: reduce(request(), m, KEYS, lambda _: LONG_AGO, IpPolicy.NONE).at.isoformat() for m in ALLOWED}  # type: ignore[union-attr]
    assert times == {
        Mode.AGGREGATE: "2026-11-24T13:00:00+00:00",
        Mode.ANONYMIZED: "2026-11-24T13:37:00+00:00",
        Mode.PERSON_BASED: "2026-11-24T13:37:42.123456+00:00",
    }


@pytest.mark.parametrize("ceiling", [Mode.AGGREGATE, Mode.ANONYMIZED])
def test_a_mode_above_the_ceiling_is_a_fault(ceiling: Mode) -> None:
    with pytest.raises(ValueError, match="ceiling"):
        reduce(request(ceiling), Mode.PERSON_BASED, KEYS, lambda _: LONG_AGO, IpPolicy.NONE)


@pytest.mark.parametrize(
    ("policy", "address", "expected"),
    [
        (IpPolicy.NONE, "203.0.113.77", None),
        (IpPolicy.TRUNCATED, "203.0.113.77", "203.0.113.0"),
        (IpPolicy.TRUNCATED, "2001:db8:1:2::3", "2001:db8:1::"),
        (IpPolicy.TRUNCATED, "::ffff:203.0.113.77", "203.0.113.0"),
        (IpPolicy.FULL, "203.0.113.77", "203.0.113.77"),
        (IpPolicy.FULL, "fe80::1%planted", "fe80::1"),
        (IpPolicy.FULL, "planted", None),
    ],
)
def test_addresses(policy: IpPolicy, address: str, expected: str | None) -> None:
    seen = request()
    seen = Request(seen.hit_id, seen.token, seen.at, seen.agent, seen.user_agent, address)
    hit = reduce(seen, Mode.PERSON_BASED, KEYS, lambda _: LONG_AGO, policy)
    assert hit is not None
    assert expected == hit.client_address


@pytest.mark.parametrize(
    ("destroyed_before", "gap"),
    [(date(2026, 11, 25), PseudonymGap.KEY_DESTROYED), (DAY, PseudonymGap.KEY_MISSING)],
)
def test_without_its_key_a_hit_counts_in_totals_only(destroyed_before: date, gap: PseudonymGap) -> None:
    hit = reduce(request(), Mode.ANONYMIZED, {}, lambda _: destroyed_before, IpPolicy.NONE)
    assert hit is not None
    assert (hit.pseudonym, hit.pseudonym_gap) == (None, gap)


def test_a_pseudonym_depends_on_key_space_mailing_and_nonce() -> None:
    key, nonce = bytes(32), bytes(8)
    variants = [
        pseudonym(key, 1, 2, nonce),
        pseudonym(bytes(31) + b"x", 1, 2, nonce),
        pseudonym(key, 2, 2, nonce),
        pseudonym(key, 1, 3, nonce),
        pseudonym(key, 1, 2, bytes(7) + b"x"),
    ]
    assert len(variants) == len(set(variants))
    assert pseudonym(key, 1, 2, nonce) == variants[0]
