"""The rules of a change: which words a setting takes, what must be acknowledged, and what protected mode refuses.

Invariant: every way to change a setting, by page, API or command line, comes through here before anything is written.
"""

import unicodedata
from collections.abc import Collection
from datetime import datetime, timedelta
from enum import Enum
from urllib.parse import urlsplit

from ..errors import DestinationRefused, EventProtected, NotAcknowledged, SettingsError
from .destinations import normalise
from .modes import Mode, Permission

MAX_NAME_LENGTH = 200
MAX_RECIPIENT_BYTES = 320
"""As much as the longest e-mail address; the token carries it."""

MAX_CORRELATION_ID_BYTES = 255
MAX_URL_PARAMETERS_LENGTH = 1_000

_UNSEALABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})  # controls, lone surrogates, line and paragraph separators


def check_name(name: str, what: str) -> str:
    """The name without surrounding spaces; SettingsError for an empty, long or unprintable one."""
    name = " ".join(name.split())
    if not name or len(name) > MAX_NAME_LENGTH or not name.isprintable():
        raise SettingsError(f"the name of a {what} has 1 to {MAX_NAME_LENGTH} printable characters", field="name")
    return name


def default_mode(word: str) -> Mode:
    """A space's default setting."""
    if word not in ("anonymized", "person_based"):
        raise SettingsError(f"a space's default is anonymized or person_based, not {word!r}", field="default_mode")
    return Mode.from_label(word)


def relay_mode(word: str) -> Mode:
    """A space's relay setting; by permission is impossible there."""
    if word in ("permission", "by_permission"):
        raise SettingsError(
            "the relay cannot track by permission: a relay mail has no event XML to carry it;"
            " choose off, anonymized or person_based",
            field="relay_mode",
        )
    if word not in ("off", "anonymized", "person_based"):
        raise SettingsError(f"a space's relay is off, anonymized or person_based, not {word!r}", field="relay_mode")
    return Mode.from_label(word)


def event_by_permission(word: str) -> bool:
    """An event's tracking setting: whether it asks for the recipient's permission."""
    if word not in ("permission", "inherit"):
        raise SettingsError(
            f"an event's tracking is permission or inherit (the space's default), not {word!r}", field="tracking"
        )
    return word == "permission"


class Notice(Enum):
    """What a change may bring about that whoever makes it must have read; the words of API and command line."""

    CONSENT = "consent"
    NO_PERMISSION_FIELD = "no_permission_field"
    DISPATCH_RUNNING = "dispatch_running"


_NOTICES = {
    Notice.CONSENT: "person-based tracking records what each recipient opens and clicks, linked to the person; that"
    " needs a legal basis, as a rule the consent of each recipient, which you must be able to prove",
    Notice.NO_PERMISSION_FIELD: "the event's definition names no customertracking, so nobody's permission will be"
    " known and everyone will be anonymized",
    Notice.DISPATCH_RUNNING: "a dispatch of this event is running; its mails will be tracked by the new setting",
}


def notices_of_space(old: tuple[Mode, Mode], new: tuple[Mode, Mode]) -> list[Notice]:
    """What to acknowledge before a space's (default, relay) modes change."""
    chooses_person = any(
        then is Mode.PERSON_BASED and now is not Mode.PERSON_BASED for now, then in zip(old, new, strict=True)
    )
    return [Notice.CONSENT] if chooses_person else []


def notices_of_event(
    *,
    was_by_permission: bool,
    by_permission: bool,
    default: Mode,
    had_unknown_permission: bool,
    has_unknown_permission: bool,
    is_running: bool,
) -> list[Notice]:
    """What to acknowledge before an event's tracking or its definition changes; nothing where both stay.

    `has_unknown_permission`: the event has a definition, and that names no field with the permission.
    """
    found = []
    if was_by_permission and not by_permission and default is Mode.PERSON_BASED:
        found.append(Notice.CONSENT)
    if by_permission and has_unknown_permission and not (was_by_permission and had_unknown_permission):
        found.append(Notice.NO_PERMISSION_FIELD)
    if is_running and was_by_permission != by_permission:
        found.append(Notice.DISPATCH_RUNNING)
    return found


def check_acknowledged(needed: Collection[Notice], acknowledged: Collection[Notice]) -> None:
    """NotAcknowledged for the first notice that is needed and was not read."""
    for notice in needed:
        if notice not in acknowledged:
            raise NotAcknowledged(f"{_NOTICES[notice]}; acknowledge it as {notice.value!r}", notice.value)


def notice(word: str) -> Notice:
    """A notice by its word."""
    try:
        return Notice(word)
    except ValueError:
        words = ", ".join(each.value for each in Notice)
        raise SettingsError(f"what is acknowledged is {words}, not {word!r}", field="acknowledge") from None


UNPROTECTED = timedelta(minutes=15)
"""After this time protected mode is back by itself."""

HEARTBEAT = timedelta(minutes=5)
"""A dispatch whose last heartbeat is older counts as ended."""


def is_protected(active_since: datetime | None, unprotected_until: datetime | None, now: datetime) -> bool:
    """Whether an event is in protected mode: it is active, and nobody has left the mode a short while ago."""
    return active_since is not None and (unprotected_until is None or unprotected_until <= now)


def check_unprotected(active_since: datetime | None, unprotected_until: datetime | None, now: datetime) -> None:
    """EventProtected if the event is in protected mode."""
    if is_protected(active_since, unprotected_until, now):
        raise EventProtected(
            "the event is active and in protected mode; leave protected mode first, and save within"
            f" {UNPROTECTED.seconds // 60} minutes"
        )


def ceiling(word: str) -> Mode:
    """The ceiling of a message that no settings decide about; there is no default."""
    if word not in ("aggregate", "anonymized", "person_based"):
        raise SettingsError(f"a ceiling is aggregate, anonymized or person_based, not {word!r}", field="ceiling")
    return Mode.from_label(word)


def permission(word: str) -> Permission:
    """A recipient's tracking permission."""
    try:
        return Permission[word.upper()]
    except KeyError:
        raise SettingsError(f"a permission is granted, denied or unknown, not {word!r}", field="permission") from None


def check_recipient(recipient: str) -> str:
    """The recipient's id as it is; SettingsError for an empty or long one, or one with control characters."""
    if not recipient.strip():
        raise SettingsError(
            "the recipient is empty; give your own id for the person, e.g. the customer number", field="recipient"
        )
    if any(unicodedata.category(character) in _UNSEALABLE for character in recipient):
        raise SettingsError(
            "the recipient has control characters or line breaks; give an id without them", field="recipient"
        )
    if len(recipient.encode()) > MAX_RECIPIENT_BYTES:
        raise SettingsError(
            f"the recipient has {len(recipient.encode())} bytes, at most {MAX_RECIPIENT_BYTES} can be sealed;"
            " give a shorter id",
            field="recipient",
        )
    return recipient


def check_correlation_id(text: str) -> str:
    """A sender's own id of a mail, without spaces around it; SettingsError for one that cannot be sealed."""
    text = text.strip()
    length = len(text.encode(errors="surrogatepass"))
    if not 0 < length <= MAX_CORRELATION_ID_BYTES or any(unicodedata.category(each) in _UNSEALABLE for each in text):
        raise SettingsError(
            f"a correlation id has 1 to {MAX_CORRELATION_ID_BYTES} bytes and no control characters; give another"
        )
    return text


def check_url_parameters(text: str) -> str:
    """Parameters for the links of a mailing, `name=value` joined by `&`, as a browser writes them."""
    query = text.strip().removeprefix("?").strip("&")
    try:
        url = normalise(f"https://a.example/?{query}")
    except DestinationRefused:
        url = ""
    pairs = url.partition("?")[2].split("&")
    names = [pair.partition("=")[0] for pair in pairs]
    if "#" in url or not all(names) or len(set(names)) < len(names) or len(url) > MAX_URL_PARAMETERS_LENGTH:
        raise SettingsError(
            "parameters are name=value joined by &, each name once, at most"
            f" {MAX_URL_PARAMETERS_LENGTH} characters, e.g. utm_source=newsletter&utm_medium=email",
            field="url_parameters",
        )
    return "&".join(pairs)


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
            " e.g. https://t.example.com",
            field="tracking_url",
        )
    return base.rstrip("/")
