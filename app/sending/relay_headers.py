"""What the header of a mail that goes through the relay says about its tracking, and the sender's own ids of it.

Pure. Invariants: a field can only take tracking away, whatever it says; taking the fields out leaves every other byte
as it was. Fields of forwarded mails inside say nothing. Source: Postmark's, Mailgun's, Mailjet's and Inxmail's
documents on the fields that their relays read.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from functools import cache
from typing import NamedTuple

from ..errors import SettingsError
from ..tracking.settings import check_correlation_id, check_name
from ..tracking.tokens import CorrelationIds
from .mime_parts import header_end
from .transfer import splice

_ID_NAMES = ("x-inx-correlationid1", "x-inx-correlationid2", "x-inx-correlationid3")
_NO = frozenset({"no", "false", "0", "off", "none"})


class _Takes(NamedTuple):
    """What a field takes away when it says no."""

    opens: bool
    links: bool


_SWITCHES = {
    "x-pm-trackopens": _Takes(opens=True, links=False),
    "x-pm-tracklinks": _Takes(opens=False, links=True),
    "x-mailgun-track": _Takes(opens=True, links=True),
    "x-mailgun-track-opens": _Takes(opens=True, links=False),
    "x-mailgun-track-clicks": _Takes(opens=False, links=True),
    "x-mailjet-trackopen": _Takes(opens=True, links=False),
    "x-mailjet-trackclick": _Takes(opens=False, links=True),
}


@dataclass(frozen=True, slots=True)
class RelayFields:
    """What may be tracked as far as the mail itself is asked, and how its sender calls it.

    `left_out` counts what could not be used: correlation_id, group. `spans` are the fields with their line ends.
    """

    opens: bool = True
    html_links: bool = True
    text_links: bool = True
    correlation_ids: CorrelationIds = ()
    group: str | None = None
    left_out: Counter[str] = field(default_factory=Counter)
    spans: tuple[tuple[int, int], ...] = ()

    def taken_out(self, raw: bytes) -> bytes:
        """The mail without the fields."""
        return splice(raw, [(start, end, b"") for start, end in self.spans])


def read_relay_fields(raw: bytes, group_header: str) -> RelayFields:
    """The fields of a mail's own header; `group_header` is the one with the name of its group. Never raises."""
    found = _fields(group_header.lower()).finditer(raw, 0, header_end(raw))
    named = [(each[1].decode().lower(), _value(each[2]), each.span()) for each in found]
    left_out: Counter[str] = Counter()
    ids = _correlation_ids(named, left_out)
    group = next((value for name, value, _ in named if name == group_header.lower()), None)
    refused = [_refused(name, value) for name, value, _ in named]
    return RelayFields(
        opens=not any(each.opens for each in refused),
        html_links=not any(each.html_links for each in refused),
        text_links=not any(each.text_links for each in refused),
        correlation_ids=ids,
        group=None if group is None else _group(group, left_out),
        left_out=left_out,
        spans=tuple(span for _, _, span in named),
    )


@cache
def _fields(group_header: str) -> re.Pattern[bytes]:
    names = "|".join(map(re.escape, (*_SWITCHES, *_ID_NAMES, group_header)))
    return re.compile(rb"^(%b)[ \t]*+:([^\n]*+(?:\n[ \t][^\n]*+)*+)(?:\n|\Z)" % names.encode(), re.I | re.M)


def _value(raw: bytes) -> str:
    """Unfolded, without spaces around it; bytes that are not UTF-8 read as latin-1."""
    unfolded = raw.replace(b"\r", b"").replace(b"\n", b"")
    try:
        return unfolded.decode().strip()
    except UnicodeDecodeError:
        return unfolded.decode("latin-1").strip()


class _Refused(NamedTuple):
    opens: bool
    html_links: bool
    text_links: bool


def _refused(name: str, value: str) -> _Refused:
    """What one field takes away. A word that nobody knows takes nothing."""
    takes, word = _SWITCHES.get(name, _Takes(opens=False, links=False)), value.lower()
    says_no = word in _NO
    return _Refused(
        opens=takes.opens and says_no,
        html_links=takes.links and (says_no or word == "textonly"),
        text_links=takes.links and (says_no or word == "htmlonly"),
    )


def _correlation_ids(named: list[tuple[str, str, tuple[int, int]]], left_out: Counter[str]) -> CorrelationIds:
    """The first of each number; trailing ones that are missing are no ids."""
    found: list[str | None] = []
    for id_name in _ID_NAMES:
        value = next((value for name, value, _ in named if name == id_name), None)
        found.append(None if value is None else _correlation_id(value, left_out))
    while found and found[-1] is None:
        found.pop()
    return tuple(found)


def _correlation_id(value: str, left_out: Counter[str]) -> str | None:
    try:
        return check_correlation_id(_decoded(value))
    except SettingsError:  # the mail is more important than its id
        left_out["correlation_id"] += 1
        return None


def _group(value: str, left_out: Counter[str]) -> str | None:
    try:
        return check_name(_decoded(value), "mailing")
    except SettingsError:
        left_out["group"] += 1
        return None


def _decoded(value: str) -> str:
    """With the encoded words of RFC 2047 read, where they can be."""
    if "=?" not in value:
        return value
    try:
        return str(make_header(decode_header(value)))
    except (HeaderParseError, LookupError, ValueError):
        return value
