"""JSON as it is let in: nothing in it that the next reader would take otherwise, or that PostgreSQL cannot keep.

Invariant: a value that is read has no name twice in an object, no NaN or infinity, no NUL and no lone surrogate.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from ..errors import MailtrailError, SettingsError

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPE = b"\\u"
"""Only so a JSON text can name what UTF-8 does not have, or a control character."""

_MAX_SHOWN = 100


class NoJson(MailtrailError):
    """The bytes are no JSON in UTF-8."""


def read_json(data: bytes) -> Any:
    """The value of a JSON text; NoJson for what is none, SettingsError with its name for a value that cannot be."""
    try:
        content = json.loads(data.decode(), object_pairs_hook=_without_repetition, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise NoJson("this is no JSON in UTF-8; correct it") from None
    if _ESCAPE in data:
        _check(content)
    return content


def is_storable(text: str) -> bool:
    """Whether PostgreSQL keeps the text as it is."""
    return "\0" not in text and (text.isascii() or _LONE_SURROGATE.search(text) is None)


def _check(content: Any) -> None:
    if not isinstance(content, dict):
        _check_texts(content, None)
        return
    for name, value in content.items():
        _check_texts(name, None)
        _check_texts(value, name[:_MAX_SHOWN])


def _check_texts(content: Any, field: str | None) -> None:
    if not all(map(is_storable, _texts(content))):
        raise SettingsError("NUL characters and lone surrogates are in no text; remove them", field=field)


def _texts(content: Any) -> Iterator[str]:
    left = [content]
    while left:
        value = left.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            left += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            left += value


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)[:_MAX_SHOWN]
        raise SettingsError(f"{twice!r} is there twice; keep one", field=twice if is_storable(twice) else None)
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(name)
