"""An event's data, read as its definition says: whom the mail is for, whether they may be tracked, and the values.

    {"Customer": {"Id": "4711", "Email": "erika@example.com", "Tracking": true}, "Items": [{"Price": "1,234.50"}]}

Invariants: a value is of its declared type or the data are refused with its path; a permission is granted only where
`permission_of` says so, and one that is missing or unreadable refuses nothing; no message repeats a value.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import lru_cache

from ..errors import SettingsError
from .date_patterns import PatternRefused, date_pattern, read_iso, zone_of
from .event_types import EventType, Group, Placeholder, Reference, clip, permission_of, suggest
from .modes import Permission
from .settings import check_recipient

_MOST = {"integer": 2**31, "long": 2**63}
_WHOLE = re.compile(r"[+-]?[0-9]{1,40}")
_MAX_DOUBLE_LENGTH = 400

Value = str | int | float | bool | datetime
Values = Mapping[str, Value]
"""By the ids of placeholders."""


class EventDataRefused(SettingsError):
    """The data are not what the event's definition says. `field` is the path: `payload.Items[2].Price`."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path} {problem}", field=path)


@dataclass(frozen=True, slots=True)
class EventData:
    """What an event's data say; what was null or left out is not there.

    `recipient` is what customermapping names, else the e-mail address; `email` is None without customeremail.
    `values` are typed, by group: one mapping, or for a list one for each entry. `texts` are the values of groups as
    they stand in a mail, by reference: `Customer.FirstName`.
    """

    recipient: str
    email: str | None
    permission: Permission
    values: Mapping[str, Values | tuple[Values, ...]]
    texts: Mapping[str, str]


def read_event_data(event_type: EventType, payload: object) -> EventData:
    """Reads data as JSON gives them; EventDataRefused, never anything else, for data that are not the event's."""
    groups = {group.id: group for group in event_type.groups}
    values: dict[str, Values | tuple[Values, ...]] = {}
    texts: dict[str, str] = {}
    data = _object(payload, "payload")
    for name, content in data.items():
        path = f"payload.{clip(str(name))}"
        if (group := groups.get(name)) is None:
            raise _unknown(path, name, groups, "group")
        if content is None:
            continue
        if group.is_list:
            values[name] = _read_list(group, content, path)
        else:
            read = _read_group(group, content, path, event_type.tracking)
            values[name] = {id: value for id, (value, _) in read.items()}
            texts |= {str(Reference(name, id)): text for id, (_, text) in read.items()}
    email = event_type.customer_email
    return EventData(
        recipient=_recipient(event_type, texts),
        email=texts.get(str(email)) if email else None,
        permission=permission_of(event_type, data),
        values=values,
        texts=texts,
    )


def _recipient(event_type: EventType, texts: Mapping[str, str]) -> str:
    reference = event_type.customer_mapping or event_type.customer_email
    if reference is None:
        problem = "has a definition that names neither customermapping nor customeremail, so nobody knows whom its"
        raise EventDataRefused("event", f"{problem} mails are for; name one of the two in the definition")
    path = f"payload.{reference}"
    recipient = texts.get(str(reference))
    if recipient is None:
        raise EventDataRefused(path, "is missing; it says whom the mail is for, so send it")
    try:
        return check_recipient(recipient)
    except SettingsError as error:
        raise EventDataRefused(path, f"cannot be a recipient: {error}") from None


# --- groups and lists ------------------------------------------------------------------------------------------------


def _read_list(group: Group, content: object, path: str) -> tuple[Values, ...]:
    if not isinstance(content, list | tuple):
        raise EventDataRefused(path, f"is {_kind(content)}; the definition says phlist, so send a list of objects")
    entries = (_read_group(group, entry, f"{path}[{place}]", None) for place, entry in enumerate(content))
    return tuple({id: value for id, (value, _) in entry.items()} for entry in entries)


def _read_group(group: Group, content: object, path: str, permission: Reference | None) -> dict[str, tuple[Value, str]]:
    """Each value with its text; a permission that cannot be read is left out."""
    placeholders = {placeholder.id: placeholder for placeholder in group.placeholders}
    read: dict[str, tuple[Value, str]] = {}
    for name, value in _object(content, path).items():
        place = f"{path}.{clip(str(name))}"
        if (placeholder := placeholders.get(name)) is None:
            raise _unknown(place, name, placeholders, "placeholder")
        if value is None:
            continue
        try:
            found = _READERS[placeholder.datatype](placeholder, value)
        except PatternRefused as refused:
            raise EventDataRefused(place, f"cannot be read as its definition says: {refused}") from None
        if found is not None:
            read[name] = found
        elif permission != Reference(group.id, name):
            misfit = f" that is no {placeholder.datatype}" if _may_fit(placeholder, value) else ""
            raise EventDataRefused(place, f"is {_kind(value)}{misfit}; send {_demand(placeholder)}")
    return read


def _object(content: object, path: str) -> Mapping[str, object]:
    if not isinstance(content, Mapping):
        raise EventDataRefused(path, f'is {_kind(content)}; send an object, as in {{"Name": …}}')
    return content


def _unknown(path: str, name: object, known: Iterable[str], what: str) -> EventDataRefused:
    question = suggest(name, known) if isinstance(name, str) else ""
    problem = f"is no {what} of the event's definition; leave it out, or put it into the definition"
    return EventDataRefused(path, f"{problem}; {question}" if question else problem)


def _kind(value: object) -> str:
    kinds = ((bool, "a Boolean"), (str, "a text"), (int | float, "a number"), (list | tuple, "a list"))
    for kind, name in kinds:
        if isinstance(value, kind):
            return name
    return "null" if value is None else "an object"


def _may_fit(placeholder: Placeholder, value: object) -> bool:
    """Whether another value of this kind would be right."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, str) or (is_number and placeholder.datatype in ("integer", "long", "double"))


# --- values ----------------------------------------------------------------------------------------------------------

_Reader = Callable[[Placeholder, object], tuple[Value, str] | None]
"""A value of the placeholder's type, and its text; None for what is none."""


def _read_string(_: Placeholder, value: object) -> tuple[Value, str] | None:
    return (value, value) if isinstance(value, str) else None


def _read_whole(placeholder: Placeholder, value: object) -> tuple[Value, str] | None:
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    most = _MOST[placeholder.datatype]
    return (value, str(value)) if -most <= value < most else None


def _read_double(placeholder: Placeholder, value: object) -> tuple[Value, str] | None:
    if isinstance(value, str):
        number = _parse_double(placeholder, value)
        return None if number is None else (number, value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    if not math.isfinite(number):
        return None
    # Without an exponent, which no reader of a mail expects.
    return number, f"{Decimal(repr(value)):f}" if isinstance(value, float) else str(value)


def _parse_double(placeholder: Placeholder, text: str) -> float | None:
    decimal, grouping = placeholder.decimal_separator, placeholder.grouping_separator
    if len(text) > _MAX_DOUBLE_LENGTH or not _double_form(decimal, grouping).fullmatch(text):
        return None
    plain = text.replace(grouping, "") if grouping else text
    number = float(plain.replace(decimal, "."))
    return number if math.isfinite(number) else None


@lru_cache(64)
def _double_form(decimal: str, grouping: str) -> re.Pattern[str]:
    """Separators stand between three digits each, or `12,34` would be read as 1234 where a comma parts thousands."""
    whole = "[0-9]+"
    if grouping:
        whole += f"|[0-9]{{1,3}}(?:{re.escape(grouping)}[0-9]{{3}})+"
    return re.compile(rf"[+-]?(?:{whole})(?:{re.escape(decimal)}[0-9]+)?(?:[eE][+-]?[0-9]{{1,3}})?")


def _read_boolean(placeholder: Placeholder, value: object) -> tuple[Value, str] | None:
    if isinstance(value, bool):
        return value, placeholder.true_pattern if value else placeholder.false_pattern
    if not isinstance(value, str):
        return None
    for answer, pattern in ((True, placeholder.true_pattern), (False, placeholder.false_pattern)):
        if value.casefold() == pattern.casefold():
            return answer, value
    return None


def _read_datetime(placeholder: Placeholder, value: object) -> tuple[Value, str] | None:
    if not isinstance(value, str):
        return None
    zone = zone_of(placeholder.timezone)
    instant = date_pattern(placeholder.pattern).read(value, zone) if placeholder.pattern else read_iso(value, zone)
    return None if instant is None else (instant, value)


_READERS: dict[str, _Reader] = {
    "string": _read_string,
    "integer": _read_whole,
    "long": _read_whole,
    "double": _read_double,
    "boolean": _read_boolean,
    "datetime": _read_datetime,
}


def _demand(placeholder: Placeholder) -> str:
    if placeholder.datatype == "string":
        return "a text, in quotes"
    if placeholder.datatype in _MOST:
        most = _MOST[placeholder.datatype]
        return f"a whole number from {-most} to {most - 1}, or its digits as a text"
    if placeholder.datatype == "double":
        return f"a number, or a text like 1{placeholder.grouping_separator}234{placeholder.decimal_separator}5"
    if placeholder.datatype == "boolean":
        return f"true or false, or the text {placeholder.true_pattern!r} or {placeholder.false_pattern!r}"
    return f"a text like {placeholder.pattern or '2026-11-27T14:05:00+01:00'}"
