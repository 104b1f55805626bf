"""What would be recorded of a tracked link, and which setting says so.

Invariant: asking records no hit, but that somebody asked: the mailing and the number of the link, neither the token nor
whom it is for.
"""

from collections.abc import Awaitable
from typing import Any

from starlette.responses import Response
from starlette.routing import Route

from ...errors import NotFound
from ...store import events
from ...store import settings as store
from ...store.audit import audit
from ...store.pool import Connection, Row
from ...store.snapshot import build, read_rows
from ...tracking.explanations import Explanation, explain
from ..access import Scope
from .attempts import Attempt, text
from .places import path_of_space, space_of
from .web import Visit, Web, endpoint


def routes(web: Web) -> list[Route]:
    both = ["GET", "POST"]
    return [
        Route("/explain", endpoint(web, explain_any), methods=both),
        Route("/spaces/{space}/explain", endpoint(web, explain_of_space), methods=both),
    ]


async def explain_any(visit: Visit) -> Response:
    """A link of any space that the visitor sees."""
    visit.who.check(Scope.PRIVACY)
    async with visit.web.database.connection() as connection:
        return await _answer(visit, connection, visit.who.space, {"path": "/explain"})


async def explain_of_space(visit: Visit) -> Response:
    """A link of the path's space only."""
    async with visit.web.database.connection() as connection:
        space = await space_of(visit, connection)
        visit.who.check(Scope.PRIVACY)
        path = f"{path_of_space(space['id'])}/explain"
        return await _answer(visit, connection, space["id"], {"path": path, "space": space})


async def _answer(visit: Visit, connection: Connection, only_space: int | None, place: dict[str, Any]) -> Response:
    if visit.request.method != "POST":
        return visit.page("explain.html", attempt=Attempt(), found=None, address="", **place)
    form = await visit.form()
    address = text(form, "address")
    try:
        found = await _explain(visit, connection, "".join(address.split()), only_space)
    except NotFound as error:
        attempt = Attempt.of("explain", form, error, visit.language)
        return visit.page("explain.html", status=404, attempt=attempt, found=None, address=address, **place)
    return visit.page(
        "explain.html",
        attempt=Attempt(),
        address=address,
        found=found,
        names=await _names(connection, found),
        ip_policy=visit.web.settings.ip_policy.value,
        **place,
    )


async def _explain(visit: Visit, connection: Connection, address: str, only_space: int | None) -> Explanation:
    snapshot = build(await read_rows(connection), visit.web.settings.anonymization_days)
    found = explain(snapshot, address, only_space)
    asked_for = f"{found.mailing:012x}/{found.link}"
    await audit(connection, visit.who.who, "link explained", found.space, asked_for)
    return found


async def _names(connection: Connection, found: Explanation) -> dict[str, Row | None]:
    """What it belongs to, as far as that is there: its space, its event and its mailing."""
    return {
        "space": await _or_none(store.get_space(connection, found.space)),
        "event": await _or_none(events.get_event(connection, found.space, found.event)),
        "mailing": await _or_none(store.get_mailing(connection, found.space, found.mailing)),
    }


async def _or_none(row: Awaitable[Row]) -> Row | None:
    try:
        return await row
    except NotFound:  # deleted since, or made by a sender without the database
        return None
