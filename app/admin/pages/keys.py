"""API keys, of a space or of all: made, listed, revoked.

Invariant: a key's secret is in the answer to the form that makes it and nowhere else, in no address and no cookie.
"""

from typing import Any

from starlette.datastructures import FormData
from starlette.responses import Response
from starlette.routing import Route

from ...errors import NotFound, SettingsError
from ...store import api_keys
from ...store import settings as store
from ...store.pool import Connection, Row
from ..access import Scope
from .attempts import Attempt, text
from .places import id_in_path, path_of_space, space_of
from .reach import chosen_space
from .web import Visit, Web, endpoint


def routes(web: Web) -> list[Route]:
    both = ["GET", "POST"]
    return [
        Route("/keys", endpoint(web, keys), methods=both),
        Route("/keys/{key}/revoke", endpoint(web, revoke), methods=both),
        Route("/spaces/{space}/keys", endpoint(web, keys), methods=both),
        Route("/spaces/{space}/keys/{key}/revoke", endpoint(web, revoke), methods=both),
    ]


async def keys(visit: Visit) -> Response:
    """The list, and the form that makes one."""
    if _is_elsewhere(visit):
        return visit.go(f"{path_of_space(visit.who.space or 0)}/keys")
    async with visit.web.database.connection() as connection:
        space = await _space(visit, connection)
        if visit.request.method == "POST":
            return await _create(visit, connection, space)
        return await _page(visit, connection, space, Attempt())


def _is_elsewhere(visit: Visit) -> bool:
    """Whether the page is of all spaces, and the visitor manages one only."""
    visit.who.check(Scope.MANAGE)
    return "space" not in visit.request.path_params and visit.who.space is not None


async def _space(visit: Visit, connection: Connection) -> Row | None:
    """The space whose keys the page is about; None: those of all."""
    return await space_of(visit, connection) if "space" in visit.request.path_params else None


async def _create(visit: Visit, connection: Connection, space: Row | None) -> Response:
    form = await visit.form()
    try:
        only = space["id"] if space is not None else await chosen_space(visit, connection, form)
        row, secret = await api_keys.create_api_key(connection, visit.who.who, text(form, "name"), _scopes(form), only)
    except SettingsError as error:
        return await _page(visit, connection, space, Attempt.of("key", form, error, visit.language))
    return await _page(visit, connection, space, Attempt(), made=row, secret=secret)


def _scopes(form: FormData) -> list[str]:
    return [scope for scope in api_keys.SCOPES if f"scope_{scope}" in form]


async def _page(visit: Visit, connection: Connection, space: Row | None, attempt: Attempt, **made: Any) -> Response:
    only = None if space is None else space["id"]
    shown: dict[str, Any] = {"made": None, "secret": "", **made}
    if space is not None:
        shown["space"] = space
    return visit.page(
        "keys.html",
        status=attempt.status,
        attempt=attempt,
        path=_path(space),
        keys=await api_keys.list_api_keys(connection, only),
        scopes=api_keys.SCOPES,
        spaces=[] if space is not None else await store.list_spaces(connection),
        **shown,
    )


def _path(space: Row | None) -> str:
    return "/keys" if space is None else f"{path_of_space(space['id'])}/keys"


async def revoke(visit: Visit) -> Response:
    """Asks whether it is meant, then revokes."""
    if _is_elsewhere(visit):
        raise NotFound("there is no such key")
    async with visit.web.database.connection() as connection:
        space = await _space(visit, connection)
        only = None if space is None else space["id"]
        key = await _key(visit, connection, only)
        if visit.request.method != "POST":
            place: dict[str, Any] = {} if space is None else {"space": space}
            return visit.page("revoke_key.html", key=key, path=_path(space), **place)
        await visit.form()
        await api_keys.revoke_api_key(connection, visit.who.who, key["id"], only)
    return visit.go(f"{_path(space)}?saved=revoked")


async def _key(visit: Visit, connection: Connection, space: int | None) -> Row:
    wanted = id_in_path(visit, "key")
    for row in await api_keys.list_api_keys(connection, space):
        if row["id"] == wanted and row["revoked_at"] is None:
            return row
    raise NotFound("there is no such key")
