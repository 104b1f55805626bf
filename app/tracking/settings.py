"""The rules of a change: which words a setting takes, checked before anything is written."""

from ..errors import SettingsError
from .modes import Mode

MAX_NAME_LENGTH = 200


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
