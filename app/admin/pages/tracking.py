"""Settings → Tracking of a space: its default, its events and what each now does, the relay, the links' address."""

from datetime import UTC, datetime
from typing import Any

from starlette.datastructures import FormData
from starlette.responses import Response
from starlette.routing import Route

from ...errors import NotFound, SettingsError
from ...store import events
from ...store import settings as store
from ...store.pool import Connection, Row
from ...tracking.modes import Event, Mode, Origin, Permission, Space, in_force
from ...tracking.settings import is_protected
from ..access import Scope
from .attempts import Attempt, acknowledged, revision, text
from .places import PAGE_SIZE, cursor, cut, on_post, path_of_space, searched, space_of
from .web import Visit, Web, endpoint

_FORMS = {
    "default": (Scope.WRITE, {"default": "default_mode"}),
    "relay": (Scope.PRIVACY, {"relay": "relay_mode"}),
    "links": (Scope.WRITE, {"url": "tracking_url"}),
    "name": (Scope.WRITE, {"name": "name"}),
}
"""Each form of the page: the scope that it needs, and which of its fields changes what."""


def routes(web: Web) -> list[Route]:
    both = ["GET", "POST"]
    return [
        Route("/spaces/{space}", endpoint(web, go_to_tracking)),
        Route("/spaces/{space}/tracking", endpoint(web, show_tracking)),
        Route("/spaces/{space}/tracking/{form}", endpoint(web, on_post(save)), methods=both),
    ]


async def go_to_tracking(visit: Visit) -> Response:
    async with visit.web.database.connection() as connection:
        space = await space_of(visit, connection)
    return visit.go(f"{path_of_space(space['id'])}/tracking")


async def show_tracking(visit: Visit) -> Response:
    async with visit.web.database.connection() as connection:
        return await _page(visit, connection, Attempt())


async def save(visit: Visit) -> Response:
    """Any of the page's forms."""
    name, form = str(visit.request.path_params["form"]), await visit.form()
    async with visit.web.database.connection() as connection:
        space = await space_of(visit, connection)
        if name not in _FORMS:
            raise NotFound("there is no such page")
        scope, _ = _FORMS[name]
        visit.who.check(scope)
        try:
            await _change(visit, connection, space["id"], name, form)
        except SettingsError as error:
            return await _page(visit, connection, Attempt.of(name, form, error, visit.language))
    return visit.go(f"{path_of_space(space['id'])}/tracking?saved={name}")


async def _change(visit: Visit, connection: Connection, space: int, name: str, form: FormData) -> None:
    _, changes = _FORMS[name]
    await store.change_space(
        connection,
        visit.who.who,
        space,
        **{argument: text(form, field).strip() for argument, field in changes.items()},
        acknowledged=acknowledged(form),
        revision=revision(form),
    )


async def _page(visit: Visit, connection: Connection, attempt: Attempt) -> Response:
    space = await space_of(visit, connection)
    return visit.page(
        "tracking.html",
        status=attempt.status,
        attempt=attempt,
        space=space,
        inheriting=await events.count_inheriting(connection, space["id"]),
        outcomes=outcomes(space),
        relay_modes=(Mode.OFF.label, Mode.ANONYMIZED.label, Mode.PERSON_BASED.label),
        own_url=visit.web.settings.public_url,
        may_write=visit.who.may(Scope.WRITE),
        may_privacy=visit.who.may(Scope.PRIVACY),
        may_delete=visit.who.may(Scope.MANAGE) and visit.who.space is None,
        **await _list(visit, connection, space["id"]),
    )


async def _list(visit: Visit, connection: Connection, space: int) -> dict[str, Any]:
    contains, shows_archived = searched(visit), "archived" in visit.request.query_params
    after = await _behind(connection, space, cursor(visit))
    rows = await events.page_of_events(
        connection, space, after=after, contains=contains, archived=shows_archived, limit=PAGE_SIZE + 1
    )
    page, following = cut(rows)
    return {
        "events": page,
        "following": following,
        "is_first": after is None,
        "contains": contains,
        "shows_archived": shows_archived,
        "protected": {row["id"] for row in page if is_protected_now(row)},
    }


async def _behind(connection: Connection, space: int, event: int | None) -> tuple[str, int] | None:
    try:
        return None if event is None else ((await events.get_event(connection, space, event))["name"], event)
    except NotFound:  # the address is not from one of our pages: from the start
        return None


def is_protected_now(event: Row) -> bool:
    return is_protected(event["active_since"], event["unprotected_until"], datetime.now(UTC))


def outcomes(space: Row) -> dict[bool, tuple[str, str]]:
    """By whether an event asks for permission: what is recorded of who granted it, and of everyone else."""
    known = Space(Mode.from_label(space["default_mode"]))
    return {
        by_permission: (
            in_force(Origin.EVENT, known, Event(by_permission), Permission.GRANTED).label,
            in_force(Origin.EVENT, known, Event(by_permission), Permission.UNKNOWN).label,
        )
        for by_permission in (False, True)
    }
