"""Which space and event a path names, where their pages are, and how far a list was read.

Invariant: a space that the visitor does not see is not there, whatever the path asks of it.
"""

import re
from collections.abc import Sequence

from starlette.responses import Response

from ...errors import NotFound
from ...store import events
from ...store import settings as store
from ...store.pool import Connection, Row
from .web import View, Visit

PAGE_SIZE = 50
_HEX = re.compile(r"[0-9a-f]{8}")
MAX_SEARCH_LENGTH = 200


def path_of_space(space: int) -> str:
    return f"/spaces/{space:08x}"


def path_of_event(space: int, event: int) -> str:
    return f"{path_of_space(space)}/events/{event:08x}"


def id_in_path(visit: Visit, name: str) -> int:
    """The id that the path has at `name`; NotFound for what is none."""
    text = str(visit.request.path_params[name])
    if _HEX.fullmatch(text) is None:
        raise NotFound("there is no such page")
    return int(text, 16)


async def space_of(visit: Visit, connection: Connection) -> Row:
    """The space of the path; NotFound if there is none, or it is not for the visitor."""
    space = id_in_path(visit, "space")
    visit.who.check_space(space)
    return await store.get_space(connection, space)


async def event_of(visit: Visit, connection: Connection) -> tuple[Row, Row]:
    """The space and the event of the path."""
    space = await space_of(visit, connection)
    return space, await events.get_event(connection, space["id"], id_in_path(visit, "event"))


def searched(visit: Visit) -> str:
    """What a list is searched for."""
    text = visit.request.query_params.get("q", "")
    return "".join(letter for letter in text if letter.isprintable()).strip()[:MAX_SEARCH_LENGTH]


def cursor(visit: Visit) -> int | None:
    """The id that a list goes on behind."""
    text = visit.request.query_params.get("after", "")
    return int(text, 16) if _HEX.fullmatch(text) else None


def cut(rows: Sequence[Row], size: int = PAGE_SIZE) -> tuple[Sequence[Row], str]:
    """A page out of one row more than it has, and the cursor of the next one; empty if this is the last."""
    return rows[:size], f"{rows[size - 1]['id']:08x}" if len(rows) > size else ""


def on_post(view: View, *, up: int = 1) -> View:
    """A view for what only a form reaches; who comes otherwise, as after a sign-in, is sent `up` to its page."""

    async def answer(visit: Visit) -> Response:
        if visit.request.method == "POST":
            return await view(visit)
        return visit.go(visit.request.url.path.rsplit("/", up)[0])

    return answer
