"""Explanations: what would be recorded, by which rule, and what is not said."""

from datetime import date

import pytest

from app.errors import NotFound
from app.tracking.explanations import explain
from app.tracking.modes import Event, Mode, Origin, Permission, Rule, Space
from app.tracking.snapshot import Snapshot
from app.tracking.tokens import Key, KeyRing, Kind, Message

SPACE, EVENT, MAILING = 1, 2, 3
KEYS = KeyRing({1: Key(1, SPACE, b"k" * 64)})
TO = "https://shop.example/?cid=4711"
LINK = (SPACE, MAILING, 1)


def snapshot(
    default: Mode = Mode.PERSON_BASED,
    *,
    by_permission: bool = False,
    relay: Mode = Mode.OFF,
    deleted: bool = False,
    overrides: dict[tuple[int, int, int], str | None] | None = None,
) -> Snapshot:
    spaces, events = {SPACE: Space(default, relay, deleted)}, {(SPACE, EVENT): Event(by_permission)}
    return Snapshot(1, spaces, events, overrides or {}, KEYS, {}, 60)


def click(ceiling: Mode = Mode.PERSON_BASED, permission: Permission = Permission.GRANTED, **changes: object) -> str:
    parts = {"origin": Origin.EVENT, "event": EVENT, "nonce": b"8 bytes!", **changes}
    message = Message(
        space=SPACE, mailing=MAILING, ceiling=ceiling, permission=permission, issue_day=date(2026, 11, 24),
        recipient="4711", **parts,  # type: ignore[arg-type]
    )  # fmt: skip
    return f"https://t.shop.example/c/{KEYS.mint_click(message, TO, 1)}"


@pytest.mark.parametrize(
    ("state", "address", "mode", "rule"),
    [
        (snapshot(), click(), Mode.PERSON_BASED, Rule.DEFAULT),
        (snapshot(Mode.ANONYMIZED), click(), Mode.ANONYMIZED, Rule.DEFAULT),
        (snapshot(by_permission=True), click(), Mode.PERSON_BASED, Rule.PERMISSION),
        (snapshot(by_permission=True), click(permission=Permission.DENIED), Mode.ANONYMIZED, Rule.PERMISSION),
        (snapshot(), click(event=9), Mode.ANONYMIZED, Rule.EVENT_UNKNOWN),
        (snapshot(deleted=True), click(), Mode.OFF, Rule.SPACE_DELETED),
        (snapshot(), click(origin=Origin.RELAY), Mode.OFF, Rule.RELAY),
        (snapshot(relay=Mode.PERSON_BASED), click(origin=Origin.RELAY), Mode.PERSON_BASED, Rule.RELAY),
    ],
)
def test_the_rule_that_decided_is_named_and_the_person_only_where_a_hit_would_be(
    state: Snapshot, address: str, mode: Mode, rule: Rule
) -> None:
    said = explain(state, address)
    assert (said.mode, said.rule) == (mode, rule)
    assert said.recipient == ("4711" if mode is Mode.PERSON_BASED else None)
    assert (said.kind, said.link, said.leads_to) == (Kind.CLICK, 1, TO)


def test_a_ceiling_that_is_stricter_than_the_settings_is_told() -> None:
    said = explain(snapshot(), click(Mode.ANONYMIZED))
    assert (said.in_force, said.mode, said.is_capped) == (Mode.PERSON_BASED, Mode.ANONYMIZED, True)
    assert said.recipient is None
    assert not explain(snapshot(), click()).is_capped


def test_it_says_where_the_link_goes_now() -> None:
    corrected = explain(snapshot(overrides={LINK: "https://new.example/{cid}"}), click())
    assert (corrected.is_corrected, corrected.leads_to) == (True, "https://new.example/4711")
    gone = explain(snapshot(overrides={LINK: None}), click())
    assert (gone.is_switched_off, gone.leads_to) == (True, None)


def test_a_pixel_is_explained_too() -> None:
    message = Message(SPACE, EVENT, MAILING, Origin.EVENT, Mode.ANONYMIZED, Permission.UNKNOWN, date(2026, 11, 24))
    said = explain(snapshot(), f" http://x/o/{KEYS.mint_open(message)}.gif?utm=1 ")
    assert (said.kind, said.link, said.leads_to) == (Kind.OPEN, 0, None)


@pytest.mark.parametrize(
    "address", ["", "https://t.shop.example/c/", "https://t.shop.example/c/x", click()[:-1], click() + "A", "/o/x.gif"]
)
def test_what_is_no_link_of_ours_is_not_found(address: str) -> None:
    with pytest.raises(NotFound, match="no link or pixel of yours"):
        explain(snapshot(), address)


def test_anothers_link_is_not_told_from_a_forged_one() -> None:
    said = []
    for address in (click(), click()[:-1]):
        with pytest.raises(NotFound) as refused:
            explain(snapshot(), address, only_space=SPACE + 1)
        said.append(str(refused.value))
    assert said[0] == said[1]
