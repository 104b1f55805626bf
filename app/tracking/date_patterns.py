"""Patterns of dates and times as event types declare them, in Java's letters: `dd.MM.yyyy HH:mm`.

Invariants: what a pattern takes is read exactly or not at all, in linear time; a pattern whose meaning depends on a
language or a calendar is refused, and none is guessed.

Source: java.text.SimpleDateFormat, of which Inxmail Commerce's manual shows patterns,
https://help.inxmail.com/en/content/xcom/events/event-daten.htm
"""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo

LETTERS = "y M d H h m s S a X Z"
"""What a pattern may have; text goes in quotes."""

MAX_PATTERN_LENGTH = 100
_PIECE = re.compile(r"'((?:[^']|'')*)'|([A-Za-z])\2*|[^A-Za-z']+")
_NAMES = {"M": "month", "d": "day", "H": "hour", "h": "hour12", "m": "minute", "s": "second"}
_OTHERS = {
    "yy": "(?P<short_year>[0-9]{2})",
    "y": "(?P<year>[0-9]{4})",
    "yyyy": "(?P<year>[0-9]{4})",
    "a": "(?P<half>[AaPp][Mm])",
    "X": "(?P<offset>Z|[+-][0-9]{2})",
    "XX": "(?P<offset>Z|[+-][0-9]{4})",
    "XXX": "(?P<offset>Z|[+-][0-9]{2}:[0-9]{2})",
    "Z": "(?P<offset>[+-][0-9]{4})",
}
_ISO = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"(?:[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?(?:Z|[+-][0-9]{2}(?::?[0-9]{2})?)?)?"
)
_PIVOT = 69  # as POSIX reads years of two digits: 69 to 99 are of the last century


class PatternRefused(ValueError):
    """A pattern that nobody reads the same way everywhere; the text says which part."""


@dataclass(frozen=True, slots=True)
class DatePattern:
    """What `date_pattern` read. Fields that the pattern does not have are those of 1970-01-01 00:00."""

    expression: re.Pattern[str]

    def read(self, text: str, zone: tzinfo) -> datetime | None:
        """The instant, in `zone` where the text has no offset of its own; None for a text that is none."""
        found = self.expression.fullmatch(text)
        return None if found is None else _instant(found.groupdict(), zone)


@lru_cache(256)
def zone_of(name: str) -> tzinfo:
    """A time zone by its IANA name; PatternRefused for one that this machine does not know."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise PatternRefused(f"the time zone {name[:80]!r} is not known; write one such as Europe/Berlin") from None


def read_iso(text: str, zone: tzinfo) -> datetime | None:
    """An ISO 8601 date, or date and time, e.g. `2026-11-27T14:05:00+01:00`; without an offset it is in `zone`."""
    try:
        instant = datetime.fromisoformat(text) if _ISO.fullmatch(text) else None
    except ValueError:
        return None
    return instant.replace(tzinfo=zone) if instant and instant.tzinfo is None else instant


def date_pattern(pattern: str) -> DatePattern:
    """Compiles a pattern; PatternRefused for letters that are not read, or the same field twice."""
    if not pattern.strip() or len(pattern) > MAX_PATTERN_LENGTH:
        raise PatternRefused(f"a pattern has 1 to {MAX_PATTERN_LENGTH} characters, e.g. yyyy-MM-dd HH:mm:ss")
    return _compiled(pattern)


@lru_cache(256)
def _compiled(pattern: str) -> DatePattern:
    pieces, position = [], 0
    while position < len(pattern):
        piece = _PIECE.match(pattern, position)
        if piece is None:
            raise PatternRefused("a quote ' is not closed; close it, and write '' for the character itself")
        pieces.append(_field(piece[0]) if piece[2] else re.escape(_literal(piece)))
        position = piece.end()
    names = re.findall(r"\?P<(\w+)>", "".join(pieces))
    if len(names) > len(set(names)) or {"hour", "hour12"} <= set(names) or {"year", "short_year"} <= set(names):
        raise PatternRefused("a field is there twice; keep one")
    return DatePattern(re.compile("".join(pieces)))


def _literal(piece: re.Match[str]) -> str:
    if piece[1] is None:
        return piece[0]
    return piece[1].replace("''", "'") or "'"


def _field(letters: str) -> str:
    name = _NAMES.get(letters[0])
    if name and len(letters) <= 2:
        return f"(?P<{name}>[0-9]{{{'1,2' if len(letters) == 1 else '2'}}})"
    if letters[0] == "S" and len(letters) <= 6:
        return f"(?P<fraction>[0-9]{{{len(letters)}}})"
    if letters in _OTHERS:
        return _OTHERS[letters]
    raise PatternRefused(
        f"{letters[:20]!r} is not read: the letters are {LETTERS}, numbers only; other text goes in quotes ''"
    )


def _instant(fields: dict[str, str | None], zone: tzinfo) -> datetime | None:
    def number(name: str, default: int) -> int:
        return int(fields.get(name) or default)

    short_year = number("short_year", 70)
    century = 1900 if short_year >= _PIVOT else 2000
    fraction = (fields.get("fraction") or "").ljust(6, "0")
    hour = _hour(fields, number("hour", number("hour12", 0)))
    try:
        return datetime(
            number("year", century + short_year),
            number("month", 1),
            number("day", 1),
            -1 if hour is None else hour,
            number("minute", 0),
            number("second", 0),
            int(fraction),
            tzinfo=_offset(fields.get("offset")) or zone,
        )
    except ValueError:
        return None


def _hour(fields: dict[str, str | None], hour: int) -> int | None:
    """From 0 to 23. Without an `a`, `hh` counts so too: that is how the manual writes the usual format."""
    half = (fields.get("half") or "").lower()
    if not half or fields.get("hour12") is None:
        return hour
    if not 1 <= hour <= 12:
        return None
    return hour % 12 + (12 if half == "pm" else 0)


def _offset(text: str | None) -> tzinfo | None:
    """ValueError for one of a day or more."""
    if text is None:
        return None
    digits = text.replace(":", "")[1:]
    hours, minutes = int(digits[:2] or 0), int(digits[2:] or 0)
    if minutes > 59:
        raise ValueError("an hour has 60 minutes")
    ahead = timedelta(hours=hours, minutes=minutes)
    return timezone(-ahead if text[0] == "-" else ahead)
