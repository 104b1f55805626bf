"""The audit log, of a space or of all: who changed what and when, from what to what, and all of it as CSV."""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from ...store import audit as store
from ...store import reports
from ...store.pool import Connection, Row
from ..access import Scope
from ..audit_csv import audit_csv
from .mailings import path_of_mailing
from .places import PAGE_SIZE, path_of_space, space_of
from .web import Visit, Web, endpoint

_NUMBER = re.compile(r"[1-9][0-9]{0,17}")
_LINK = re.compile(r"([0-9a-f]{1,12})/([0-9]{1,9})")


@dataclass(frozen=True, slots=True)
class Change:
    """What became of one thing; the field is empty where the state is not made of fields. None: there was nothing.

    States that pages have no words for are JSON texts.
    """

    field: str
    old: Any
    new: Any


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the log as pages show it; `mailing` and `link` (0 for the pixel) where it is about a link."""

    at: datetime
    who: str
    action: str
    object: str
    space: int | None
    space_name: str | None
    changes: Sequence[Change]
    acknowledged: Sequence[str]
    link: int | None
    mailing: str
    path: str


def routes(web: Web) -> list[Route]:
    return [
        Route("/audit", endpoint(web, show_all)),
        Route("/audit.csv", endpoint(web, export_all)),
        Route("/spaces/{space}/audit", endpoint(web, show_space)),
        Route("/spaces/{space}/audit.csv", endpoint(web, export_space)),
    ]


async def show_all(visit: Visit) -> Response:
    """The log of all spaces; who sees one only is sent to that one's."""
    visit.who.check(Scope.READ)
    if visit.who.space is not None:
        return visit.go(f"{path_of_space(visit.who.space)}/audit")
    async with visit.web.database.connection() as connection:
        return visit.page("audit.html", root="", **await _list(visit, connection, None))


async def show_space(visit: Visit) -> Response:
    visit.who.check(Scope.READ)
    async with visit.web.database.connection() as connection:
        space = await space_of(visit, connection)
        listed = await _list(visit, connection, space["id"])
    return visit.page("audit.html", space=space, root=path_of_space(space["id"]), **listed)


async def export_all(visit: Visit) -> Response:
    visit.who.check(Scope.READ)
    if visit.who.space is not None:
        return visit.go(f"{path_of_space(visit.who.space)}/audit.csv")
    return _csv(visit, None, "audit.csv")


async def export_space(visit: Visit) -> Response:
    visit.who.check(Scope.READ)
    async with visit.web.database.connection() as connection:
        space = await space_of(visit, connection)
    return _csv(visit, space["id"], f"audit-{space['id']:08x}.csv")


def _csv(visit: Visit, space: int | None, file: str) -> Response:
    headers = {"content-disposition": f'attachment; filename="{file}"', "cache-control": "no-store"}
    return StreamingResponse(
        _for_spreadsheets(audit_csv(visit.web.database, space)), headers=headers, media_type="text/csv"
    )


async def _for_spreadsheets(lines: AsyncIterator[str]) -> AsyncIterator[str]:
    yield "\ufeff"  # without it Excel takes UTF-8 for another encoding
    async for line in lines:
        yield line


# --- entries ---------------------------------------------------------------------------------------------------------


async def _list(visit: Visit, connection: Connection, space: int | None) -> dict[str, Any]:
    cursor = visit.request.query_params.get("after", "")
    before = int(cursor) if _NUMBER.fullmatch(cursor) else None
    rows = await store.page_of_audit(connection, space=space, before=before, limit=PAGE_SIZE + 1)
    page = rows[:PAGE_SIZE]
    links = [found for row in page if (found := _link_of(row)) is not None]
    names = await reports.names_of_mailings(connection, {mailing for mailing, _ in links})
    return {
        "entries": [entry_of(row, names) for row in page],
        "following": str(page[-1]["id"]) if len(rows) > PAGE_SIZE else "",
        "is_first": before is None,
    }


def entry_of(row: Row, names: Mapping[int, str]) -> Entry:
    """An entry with the names of mailings, as far as they are known."""
    old, new = (None if row[name] is None else orjson.loads(row[name]) for name in ("old", "new"))
    acknowledged = new.pop("acknowledged", []) if isinstance(new, dict) else []
    mailing, link = _link_of(row) or (None, None)
    is_known = mailing in names and row["space_id"] is not None
    return Entry(
        at=row["at"],
        who=row["who"],
        action=row["action"],
        object=row["object"],
        space=row["space_id"],
        space_name=row["space_name"],
        changes=_changes(row, old, new),
        acknowledged=[str(each) for each in acknowledged] if isinstance(acknowledged, list) else [str(acknowledged)],
        link=link,
        mailing="" if mailing is None else names.get(mailing, f"{mailing:012x}"),
        path=path_of_mailing(row["space_id"], mailing) if is_known and mailing is not None else "",
    )


def _link_of(row: Row) -> tuple[int, int] | None:
    """The mailing and number of a link that the entry is about."""
    found = _LINK.fullmatch(row["object"]) if row["action"].startswith("link ") else None
    return (int(found[1], 16), int(found[2])) if found else None


def _changes(row: Row, old: Any, new: Any) -> list[Change]:
    if old is None and new in (None, row["object"]):
        return []
    if row["action"].startswith("link "):
        return [Change("destination", _stored(old), _stored(new))]
    if not isinstance(old, dict | None) or not isinstance(new, dict | None):
        return [Change("", _stored(old), _stored(new))]
    before, after = old or {}, new or {}
    fields = [*after, *(name for name in before if name not in after)]
    return [
        Change(field, _stored(before.get(field), field), _stored(after.get(field), field))
        for field in fields
        if before.get(field) != after.get(field)
    ]


def _stored(state: Any, field: str = "") -> Any:
    is_words = field == "scopes" and isinstance(state, list) and all(isinstance(each, str) for each in state)
    return state if is_words or state is None or isinstance(state, str | bool) else orjson.dumps(state).decode()
