"""The rules of a change: words, recipients, bases of links, what must be acknowledged, protected mode."""

from datetime import UTC, datetime, timedelta

import pytest

from app.errors import EventProtected, NotAcknowledged, SettingsError
from app.tracking.modes import Mode, Permission
from app.tracking.settings import (
    MAX_RECIPIENT_BYTES,
    Notice,
    ceiling,
    check_acknowledged,
    check_base_url,
    check_correlation_id,
    check_recipient,
    check_unprotected,
    check_url_parameters,
    event_by_permission,
    is_protected,
    notice,
    notices_of_event,
    notices_of_space,
    permission,
)


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("https://t.example.com", "https://t.example.com"),
        ("https://t.example.com/", "https://t.example.com"),
        ("HTTPS://T.Example.com/mail/", "https://t.example.com/mail"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("https://müller.example", "https://xn--mller-kva.example"),
    ],
)
def test_a_base_is_written_as_browsers_write_it(url: str, base: str) -> None:
    assert base == check_base_url(url)
    assert base == check_base_url(base)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "t.example.com",
        "//t.example.com",
        "ftp://t.example.com",
        "javascript:alert(1)",
        "https://",
        "http:/t.example.com",
        "https://t.example.com/?a=1",
        "https://t.example.com/?",
        "https://t.example.com/#a",
        "https://user:secret@t.example.com",
        "https://t example.com",
    ],
)
def test_what_is_no_base_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match=r"https://t\.example\.com"):
        check_base_url(url)


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        ("utm_source=a&utm_medium=b", "utm_source=a&utm_medium=b"),
        (" ?utm_source=Spätes Jahr& ", "utm_source=Sp%C3%A4tes%20Jahr"),
        ("flag&a=", "flag&a="),
    ],
)
def test_parameters_are_written_as_browsers_write_them(text: str, parameters: str) -> None:
    assert parameters == check_url_parameters(text)
    assert parameters == check_url_parameters(parameters)


@pytest.mark.parametrize("text", ["", "?", "=1", "a=1&&b=2", "a=1&a=2", "a=1#b", "a=" + "x" * 1_000])
def test_what_are_no_parameters_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"name=value joined by &"):
        check_url_parameters(text)


def test_a_correlation_id_can_be_sealed() -> None:
    assert "order 17" == check_correlation_id(" order 17\t")
    for bad in ("", "  ", "a\nb", "\0", "\ud800", "ä" * 128):
        with pytest.raises(SettingsError, match="1 to 255 bytes"):
            check_correlation_id(bad)


@pytest.mark.parametrize(
    "recipient", ["4711", "clara@example.org", "Clara Weiß", "x" * MAX_RECIPIENT_BYTES, "a\u00a0b"]
)
def test_a_recipient_stays_as_it_is(recipient: str) -> None:
    assert recipient == check_recipient(recipient)


@pytest.mark.parametrize(
    ("recipient", "reason"),
    [
        ("", "empty"),
        (" \t", "empty"),
        ("a\0b", "control"),
        ("a\nb", "control"),
        ("a\x7fb", "control"),
        ("a\u2028b", "control"),
        ("a\ud800b", "control"),
        ("x" * (MAX_RECIPIENT_BYTES + 1), "321 bytes"),
        ("ß" * 161, "322 bytes"),
    ],
)
def test_a_recipient_that_cannot_be_sealed_is_refused(recipient: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        check_recipient(recipient)


def test_words() -> None:
    assert [permission(word) for word in ("granted", "denied", "unknown")] == [
        Permission.GRANTED,
        Permission.DENIED,
        Permission.UNKNOWN,
    ]
    assert (True, False) == (event_by_permission("permission"), event_by_permission("inherit"))
    assert [ceiling(word) for word in ("aggregate", "anonymized", "person_based")] == [
        Mode.AGGREGATE,
        Mode.ANONYMIZED,
        Mode.PERSON_BASED,
    ]


@pytest.mark.parametrize("rule", [permission, event_by_permission, ceiling])
@pytest.mark.parametrize("word", ["", "yes", "off", "everything"])
def test_other_words_are_refused_with_those_there_are(rule: object, word: str) -> None:
    with pytest.raises(SettingsError, match=r"is \w+[, ].* not '"):
        rule(word)


@pytest.mark.parametrize(
    ("old", "new", "needed"),
    [
        ((Mode.ANONYMIZED, Mode.OFF), (Mode.PERSON_BASED, Mode.OFF), [Notice.CONSENT]),
        ((Mode.ANONYMIZED, Mode.OFF), (Mode.ANONYMIZED, Mode.PERSON_BASED), [Notice.CONSENT]),
        ((Mode.PERSON_BASED, Mode.ANONYMIZED), (Mode.PERSON_BASED, Mode.PERSON_BASED), [Notice.CONSENT]),
        ((Mode.PERSON_BASED, Mode.PERSON_BASED), (Mode.PERSON_BASED, Mode.PERSON_BASED), []),
        ((Mode.PERSON_BASED, Mode.PERSON_BASED), (Mode.ANONYMIZED, Mode.OFF), []),
        ((Mode.ANONYMIZED, Mode.OFF), (Mode.ANONYMIZED, Mode.ANONYMIZED), []),
    ],
)
def test_who_begins_to_be_tracked_in_person_is_to_be_thought_of(
    old: tuple[Mode, Mode], new: tuple[Mode, Mode], needed: list[Notice]
) -> None:
    assert needed == notices_of_space(old, new)


@pytest.mark.parametrize("was", [False, True])
@pytest.mark.parametrize("default", [Mode.ANONYMIZED, Mode.PERSON_BASED])
@pytest.mark.parametrize("blind", [False, True])
@pytest.mark.parametrize("running", [False, True])
def test_an_events_change_asks_for_what_it_brings_about(was: bool, default: Mode, blind: bool, running: bool) -> None:
    def notices(becomes: bool) -> list[Notice]:
        return notices_of_event(
            was_by_permission=was,
            by_permission=becomes,
            default=default,
            had_unknown_permission=blind,
            has_unknown_permission=blind,
            is_running=running,
        )

    assert notices(was) == []
    expected = []
    if was and default is Mode.PERSON_BASED:
        expected.append(Notice.CONSENT)
    if not was and blind:
        expected.append(Notice.NO_PERMISSION_FIELD)
    if running:
        expected.append(Notice.DISPATCH_RUNNING)
    assert expected == notices(not was)


@pytest.mark.parametrize("had", [False, True])
def test_a_definition_that_loses_the_permission_is_to_be_thought_of(had: bool) -> None:
    state = {"was_by_permission": True, "by_permission": True, "had_unknown_permission": had, "is_running": True}
    needed = [] if had else [Notice.NO_PERMISSION_FIELD]
    assert needed == notices_of_event(default=Mode.PERSON_BASED, has_unknown_permission=True, **state)
    assert [] == notices_of_event(default=Mode.PERSON_BASED, has_unknown_permission=False, **state)


def test_each_notice_that_is_needed_must_be_acknowledged() -> None:
    check_acknowledged([], [])
    check_acknowledged([Notice.CONSENT], list(Notice))
    with pytest.raises(NotAcknowledged, match="a dispatch of this event is running") as refused:
        check_acknowledged([Notice.CONSENT, Notice.DISPATCH_RUNNING], [Notice.CONSENT])
    assert refused.value.notice == "dispatch_running"
    assert notice("consent") is Notice.CONSENT
    with pytest.raises(SettingsError, match="consent, no_permission_field, dispatch_running, not 'yes'"):
        notice("yes")


def test_protected_mode_is_left_until_a_time() -> None:
    now = datetime(2026, 11, 26, 12, tzinfo=UTC)
    before, after = now - timedelta(seconds=1), now + timedelta(seconds=1)
    assert [is_protected(None, None, now), is_protected(None, before, now)] == [False, False]
    assert [is_protected(before, until, now) for until in (None, before, now, after)] == [True, True, True, False]
    with pytest.raises(EventProtected, match="within 15 minutes"):
        check_unprotected(before, None, now)
    check_unprotected(before, after, now)
