"""Lists in pages, and where the next page begins: a cursor is a place, so nothing new or gone shifts what follows.

Invariant: a cursor is taken as from a stranger; what is none is refused before the database sees it.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Generic, TypeVar

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ...sending.strict_json import is_storable
from ...store.pool import Row
from .problems import Kind, Refusal

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MOST_MICROSECONDS = 10**17  # the year 5138
_MOST_ID = 2**63 - 1

Item = TypeVar("Item", bound=BaseModel)


def _check_text(text: str) -> str:
    if not is_storable(text):
        raise ValueError("NUL characters are in no text; remove them")
    return text


Text = Annotated[str, AfterValidator(_check_text)]
"""Of a query string: percent-encoding may bring in what JSON is searched for."""


class Page(BaseModel, Generic[Item]):
    """Part of a list. `next` is the cursor of what follows, null at the end."""

    items: list[Item]
    next: str | None


class Paging(BaseModel):
    """Which part of a list is asked for."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(50, ge=1, le=200, description="Most items in the answer.")
    cursor: Text | None = Field(None, max_length=2_000, description="The `next` of the page before.")


class Filtered(Paging):
    """The part of a list whose names contain a text."""

    contains: Text = Field("", max_length=200, description="Only names that contain it, in any case.")


def page_of(
    rows: Sequence[Row], limit: int, show: Callable[[Row], Item], place: Callable[[Row], Sequence[Any]]
) -> Page[Item]:
    """The page of rows of which one more than `limit` was read; `place` is what the next page begins behind."""
    following = write_cursor(place(rows[limit - 1])) if len(rows) > limit else None
    return Page(items=[show(row) for row in rows[:limit]], next=following)


# --- cursors ---------------------------------------------------------------------------------------------------------


def write_cursor(place: Sequence[Any]) -> str:
    """A place in a list as text for URLs."""
    return urlsafe_b64encode(orjson.dumps(list(place))).decode().rstrip("=")


def name_cursor(cursor: str | None) -> tuple[str, int] | None:
    """A place in a list by name: (name, id)."""
    if cursor is None:
        return None
    name, number = _read_cursor(cursor, str, int)
    if not is_storable(name):
        raise _damaged()
    return name, number


def number_cursor(cursor: str | None) -> int | None:
    """A place in a list by number."""
    return None if cursor is None else int(_read_cursor(cursor, int)[0])


def time_cursor(cursor: str | None) -> tuple[datetime, int] | None:
    """A place in a list by time: (time, id)."""
    if cursor is None:
        return None
    microseconds, number = _read_cursor(cursor, int, int)
    if microseconds > _MOST_MICROSECONDS:
        raise _damaged()
    return _EPOCH + timedelta(microseconds=microseconds), number


def microseconds_of(time: datetime) -> int:
    """A time as cursors hold it: exact, as PostgreSQL compares it."""
    return (time - _EPOCH) // timedelta(microseconds=1)


def _read_cursor(cursor: str, *types: type) -> list[Any]:
    try:
        place = orjson.loads(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except ValueError:
        raise _damaged() from None
    if not isinstance(place, list) or [type(value) for value in place] != list(types):
        raise _damaged()
    if any(isinstance(value, int) and not 0 <= value <= _MOST_ID for value in place):
        raise _damaged()
    return place


def _damaged() -> Refusal:
    return Refusal(Kind.INVALID, "the cursor is damaged; begin without one", field="cursor")
