"""People who may sign in: listed, made, changed, and let in by a link that works once.

Invariant: who manages one space sees and changes only its users; a link's secret is in the answer to the form that
makes it and nowhere else, in no address of ours and no cookie.
"""

import re
from typing import Any

from starlette.responses import Response
from starlette.routing import Route

from ...errors import NotFound, SettingsError
from ...store import people
from ...store import settings as store
from ...store.pool import Connection, Row
from ..access import Scope
from .attempts import Attempt, text
from .places import on_post
from .reach import chosen_space
from .web import Visit, Web, endpoint

_NUMBER = re.compile(r"[1-9][0-9]{0,17}")
_FORMS = ("role", "access", "link")


def routes(web: Web) -> list[Route]:
    both = ["GET", "POST"]
    return [
        Route("/users", endpoint(web, users), methods=both),
        Route("/users/{user}/{form}", endpoint(web, on_post(save, up=2)), methods=both),
    ]


async def users(visit: Visit) -> Response:
    """The list, and the form that makes one."""
    visit.who.check(Scope.MANAGE)
    async with visit.web.database.connection() as connection:
        if visit.request.method == "POST":
            return await _create(visit, connection)
        return await _page(visit, connection, Attempt())


async def _create(visit: Visit, connection: Connection) -> Response:
    form = await visit.form()
    who, role = visit.who.who, text(form, "role")
    try:
        async with connection.transaction():
            space = visit.who.space if visit.who.space is not None else await chosen_space(visit, connection, form)
            row = await people.create_user(connection, who, text(form, "name"), role, space=space)
            secret = await people.make_one_time_sign_in(connection, who, row)
    except SettingsError as error:
        return await _page(visit, connection, Attempt.of("user", form, error, visit.language))
    return await _page(visit, connection, Attempt(), invited=row, link=_address(visit, secret), is_new=True)


async def save(visit: Visit) -> Response:
    """Changes a user's role or access, or makes them another link."""
    visit.who.check(Scope.MANAGE)
    name = str(visit.request.path_params["form"])
    async with visit.web.database.connection() as connection:
        user = await _user(visit, connection)
        if name not in _FORMS:
            return visit.go("/users")
        form = await visit.form()
        if name == "link":
            return await _invite(visit, connection, user)
        is_off = text(form, "disabled") == "yes"
        wanted: dict[str, Any] = {"role": text(form, "role")} if name == "role" else {"disabled": is_off}
        try:
            await people.change_user(connection, visit.who.who, user["id"], **wanted)
        except SettingsError as error:
            attempt = Attempt.of(f"{name}-{user['id']}", form, error, visit.language)
            return await _page(visit, connection, attempt)
    return visit.go(f"/users?saved={'role' if name == 'role' else 'disabled' if is_off else 'enabled'}")


async def _invite(visit: Visit, connection: Connection, user: Row) -> Response:
    secret = await people.make_one_time_sign_in(connection, visit.who.who, user)
    return await _page(visit, connection, Attempt(), invited=user, link=_address(visit, secret))


def _address(visit: Visit, secret: str) -> str:
    """The link as the visitor's own browser reaches the pages, whatever proxy is in front."""
    url = visit.request.url
    scheme = visit.request.headers.get("x-forwarded-proto", url.scheme)
    return f"{'https' if scheme == 'https' else 'http'}://{url.netloc}/sign-in/once/{secret}"


async def _user(visit: Visit, connection: Connection) -> Row:
    """The user of the path, if they are for the visitor to manage."""
    wanted = str(visit.request.path_params["user"])
    for row in await people.list_users(connection, visit.who.space):
        if _NUMBER.fullmatch(wanted) and row["id"] == int(wanted):
            return row
    raise NotFound("there is no such user")


async def _page(visit: Visit, connection: Connection, attempt: Attempt, **invitation: Any) -> Response:
    shown: dict[str, Any] = {"invited": None, "link": "", "is_new": False, **invitation}
    return visit.page(
        "users.html",
        status=attempt.status,
        attempt=attempt,
        users=await people.list_users(connection, visit.who.space),
        roles=people.ROLES,
        spaces=[] if visit.who.space is not None else await store.list_spaces(connection),
        hours=int(people.ONE_TIME.total_seconds() // 3600),
        **shown,
    )
