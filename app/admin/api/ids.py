"""Ids as people and programs see them: hex of a fixed width. Invariant: an id has one spelling only.

What is no id is not told from an id that nothing has.
"""

import re
from typing import Annotated

from pydantic import Field

from ...errors import NotFound

_SHORT, _LONG = re.compile(r"[0-9a-f]{8}"), re.compile(r"[0-9a-f]{12}")
_LINK = re.compile(r"[1-9][0-9]{0,9}")

ShortId = Annotated[str, Field(description="8 hex digits", examples=["1a2b3c4d"])]
"""Of a space, event or API key."""

LongId = Annotated[str, Field(description="12 hex digits", examples=["1a2b3c4d5e6f"])]
"""Of a mailing or dispatch."""


def short_id(number: int) -> str:
    return f"{number:08x}"


def long_id(number: int) -> str:
    return f"{number:012x}"


def read_short_id(text: str, what: str, *, field: str | None = None) -> int:
    """The number of a space's, event's or key's id; NotFound for what is none."""
    return _read(_SHORT, text, what, field)


def read_long_id(text: str, what: str, *, field: str | None = None) -> int:
    """The number of a mailing's or dispatch's id; NotFound for what is none."""
    return _read(_LONG, text, what, field)


def read_link_number(text: str) -> int:
    """A link's number, which is decimal; NotFound for what is none."""
    if not _LINK.fullmatch(text):
        raise NotFound("there is no such link")
    return int(text)


def _read(form: re.Pattern[str], text: str, what: str, field: str | None) -> int:
    if not form.fullmatch(text):
        raise NotFound(f"there is no such {what}", field=field)
    return int(text, 16)
