"""The rules of a change: which words a setting takes, checked before anything is written."""

import unicodedata
from urllib.parse import urlsplit

from ..errors import DestinationRefused, SettingsError
from .destinations import normalise
from .modes import Mode, Permission

MAX_NAME_LENGTH = 200
MAX_RECIPIENT_BYTES = 320
"""As much as the longest e-mail address; the token carries it."""

_UNSEALABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})  # controls, lone surrogates, line and paragraph separators


def check_name(name: str, what: str) -> str:
    """The name without surrounding spaces; SettingsError for an empty, long or unprintable one."""
    name = " ".join(name.split())
    if not name or len(name) > MAX_NAME_LENGTH or not name.isprintable():
        raise SettingsError(f"the name of a {what} has 1 to {MAX_NAME_LENGTH} printable characters")
    return name


def default_mode(word: str) -> Mode:
    """A space's default setting."""
    if word not in ("anonymized", "person_based"):
        raise SettingsError(f"a space's default is anonymized or person_based, not {word!r}")
    return Mode.from_label(word)


def relay_mode(word: str) -> Mode:
    """A space's relay setting; by permission is impossible there."""
    if word in ("permission", "by_permission"):
        raise SettingsError(
            "the relay cannot track by permission: a relay mail has no event XML to carry it;"
            " choose off, anonymized or person_based"
        )
    if word not in ("off", "anonymized", "person_based"):
        raise SettingsError(f"a space's relay is off, anonymized or person_based, not {word!r}")
    return Mode.from_label(word)


def event_by_permission(word: str) -> bool:
    """An event's tracking setting: whether it asks for the recipient's permission."""
    if word not in ("permission", "inherit"):
        raise SettingsError(f"an event's tracking is permission or inherit (the space's default), not {word!r}")
    return word == "permission"


def ceiling(word: str) -> Mode:
    """The ceiling of a message that no settings decide about; there is no default."""
    if word not in ("aggregate", "anonymized", "person_based"):
        raise SettingsError(f"a ceiling is aggregate, anonymized or person_based, not {word!r}")
    return Mode.from_label(word)


def permission(word: str) -> Permission:
    """A recipient's tracking permission."""
    try:
        return Permission[word.upper()]
    except KeyError:
        raise SettingsError(f"a permission is granted, denied or unknown, not {word!r}") from None


def check_recipient(recipient: str) -> str:
    """The recipient's id as it is; SettingsError for an empty or long one, or one with control characters."""
    if not recipient.strip():
        raise SettingsError("the recipient is empty; give your own id for the person, e.g. the customer number")
    if any(unicodedata.category(character) in _UNSEALABLE for character in recipient):
        raise SettingsError("the recipient has control characters or line breaks; give an id without them")
    if len(recipient.encode()) > MAX_RECIPIENT_BYTES:
        raise SettingsError(
            f"the recipient has {len(recipient.encode())} bytes, at most {MAX_RECIPIENT_BYTES} can be sealed;"
            " give a shorter id"
        )
    return recipient


def check_base_url(url: str) -> str:
    """The base of tracked links as a browser writes it, without a slash at its end; SettingsError for what is none."""
    try:
        base = normalise(url)
    except DestinationRefused:
        base = ""
    absolute = url.strip().lower().startswith(("http://", "https://"))
    if not absolute or not base or any(mark in base for mark in "?#") or "@" in urlsplit(base).netloc:
        raise SettingsError(
            "tracked links start with an absolute http or https URL without query, fragment or user,"
            " e.g. https://t.example.com"
        )
    return base.rstrip("/")
