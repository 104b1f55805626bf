"""The resolution table, cell by cell, written out by hand: the function is not asked what it should answer."""

import pytest

from app.tracking.modes import Event, Mode, Origin, Permission, Space, effective, in_force

OFF, ANON, PERSON = Mode.OFF, Mode.ANONYMIZED, Mode.PERSON_BASED
GRANTED, DENIED, UNKNOWN = Permission.GRANTED, Permission.DENIED, Permission.UNKNOWN

# default, event tracks by permission (None: event not known), permission, expected
EVENT_TABLE = [
    (ANON, False, GRANTED, ANON),
    (ANON, False, DENIED, ANON),
    (ANON, False, UNKNOWN, ANON),
    (ANON, True, GRANTED, PERSON),
    (ANON, True, DENIED, ANON),
    (ANON, True, UNKNOWN, ANON),
    (ANON, None, GRANTED, ANON),
    (ANON, None, DENIED, ANON),
    (ANON, None, UNKNOWN, ANON),
    (PERSON, False, GRANTED, PERSON),
    (PERSON, False, DENIED, PERSON),
    (PERSON, False, UNKNOWN, PERSON),
    (PERSON, True, GRANTED, PERSON),
    (PERSON, True, DENIED, ANON),
    (PERSON, True, UNKNOWN, ANON),
    (PERSON, None, GRANTED, ANON),
    (PERSON, None, DENIED, ANON),
    (PERSON, None, UNKNOWN, ANON),
]


@pytest.mark.parametrize(("default", "by_permission", "permission", "expected"), EVENT_TABLE)
def test_mail_of_an_event(default: Mode, by_permission: bool | None, permission: Permission, expected: Mode) -> None:
    event = None if by_permission is None else Event(by_permission)
    assert expected is in_force(Origin.EVENT, Space(default), event, permission)


@pytest.mark.parametrize("permission", Permission)
@pytest.mark.parametrize("event", [None, Event(False), Event(True)])
@pytest.mark.parametrize("default", [ANON, PERSON])
@pytest.mark.parametrize("relay_mode", [OFF, ANON, PERSON])
def test_relay_mail_asks_neither_permission_nor_event(
    relay_mode: Mode, default: Mode, event: Event | None, permission: Permission
) -> None:
    assert relay_mode is in_force(Origin.RELAY, Space(default, relay_mode), event, permission)


def test_the_relay_of_a_new_space_is_off_and_its_default_anonymized() -> None:
    assert Space(ANON, OFF, deleted=False) == Space()


@pytest.mark.parametrize("permission", Permission)
@pytest.mark.parametrize("event", [None, Event(False), Event(True)])
def test_an_unknown_space_is_never_guessed_upwards(event: Event | None, permission: Permission) -> None:
    assert OFF is in_force(Origin.RELAY, None, event, permission)
    assert ANON is in_force(Origin.EVENT, None, event, permission)


@pytest.mark.parametrize("permission", Permission)
@pytest.mark.parametrize("event", [None, Event(False), Event(True)])
@pytest.mark.parametrize("origin", Origin)
def test_a_deleted_space_records_nothing(origin: Origin, event: Event | None, permission: Permission) -> None:
    assert OFF is in_force(origin, Space(PERSON, PERSON, deleted=True), event, permission)


@pytest.mark.parametrize("ceiling", Mode)
@pytest.mark.parametrize("now", Mode)
def test_effective_is_the_meet(now: Mode, ceiling: Mode) -> None:
    mode = effective(now, ceiling)
    assert mode <= now
    assert mode <= ceiling
    assert mode in (now, ceiling)


def test_permission_is_no_relay_mode_and_off_is_no_default() -> None:
    with pytest.raises(ValueError, match="default mode"):
        Space(OFF)
    with pytest.raises(ValueError, match="relay mode"):
        Space(ANON, Mode.AGGREGATE)
