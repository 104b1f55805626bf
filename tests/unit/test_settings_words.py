"""The words that settings take, and what a recipient and a base of links may be."""

import pytest

from app.errors import SettingsError
from app.tracking.modes import Mode, Permission
from app.tracking.settings import (
    MAX_RECIPIENT_BYTES,
    ceiling,
    check_base_url,
    check_recipient,
    event_by_permission,
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
