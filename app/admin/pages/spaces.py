"""The list of spaces, making one and deleting one. Who sees one space only is sent to it."""

from starlette.responses import Response
from starlette.routing import Route

from ...errors import NotFound, SettingsError
from ...store import settings as store
from ...store.pool import Connection, Row
from ..access import Scope
from .attempts import Attempt, acknowledged, revision, text
from .places import PAGE_SIZE, cursor, cut, path_of_space, searched, space_of
from .web import Visit, Web, endpoint


def routes(web: Web) -> list[Route]:
    both = ["GET", "POST"]
    return [
        Route("/", endpoint(web, list_spaces)),
        Route("/spaces", endpoint(web, go_to_list)),
        Route("/spaces/new", endpoint(web, create_space), methods=both),
        Route("/spaces/{space}/delete", endpoint(web, delete_space), methods=both),
    ]


async def go_to_list(visit: Visit) -> Response:
    return visit.go("/")


async def list_spaces(visit: Visit) -> Response:
    if visit.who.space is not None:
        return visit.go(f"{path_of_space(visit.who.space)}/tracking")
    contains = searched(visit)
    async with visit.web.database.connection() as connection:
        after = await _behind(connection, cursor(visit))
        rows = await store.page_of_spaces(connection, after=after, contains=contains, limit=PAGE_SIZE + 1)
    page, following = cut(rows)
    return visit.page(
        "spaces.html",
        spaces=page,
        contains=contains,
        following=following,
        is_first=after is None,
        may_manage=visit.who.may(Scope.MANAGE),
    )


async def _behind(connection: Connection, space: int | None) -> tuple[str, int] | None:
    try:
        return None if space is None else ((await store.get_space(connection, space))["name"], space)
    except NotFound:  # deleted since: from the start
        return None


async def create_space(visit: Visit) -> Response:
    visit.who.check(Scope.MANAGE)
    visit.who.check_everything()
    if visit.request.method != "POST":
        return visit.page("new_space.html", attempt=Attempt())
    form = await visit.form()
    try:
        async with visit.web.database.connection() as connection:
            row = await store.create_space(
                connection,
                visit.who.who,
                text(form, "name"),
                default=text(form, "default_mode"),
                url=text(form, "tracking_url").strip() or None,
                acknowledged=acknowledged(form),
            )
    except SettingsError as error:
        attempt = Attempt.of("space", form, error, visit.language)
        return visit.page("new_space.html", status=attempt.status, attempt=attempt)
    return visit.go(f"{path_of_space(row['id'])}/tracking?saved=created")


async def delete_space(visit: Visit) -> Response:
    async with visit.web.database.connection() as connection:
        space = await space_of(visit, connection)
    visit.who.check(Scope.MANAGE)
    visit.who.check_everything()
    if visit.request.method != "POST":
        return visit.page("delete_space.html", space=space, attempt=Attempt())
    form = await visit.form()
    try:
        await _delete(visit, space, text(form, "name"), revision(form))
    except SettingsError as error:
        async with visit.web.database.connection() as connection:
            space = await space_of(visit, connection)
        attempt = Attempt.of("delete", form, error, visit.language)
        return visit.page("delete_space.html", status=attempt.status, space=space, attempt=attempt)
    return visit.go("/?saved=deleted")


async def _delete(visit: Visit, space: Row, typed: str, seen: int) -> None:
    if " ".join(typed.split()) != space["name"]:
        raise SettingsError("this is not the name of the space; type it as it is shown", field="name")
    async with visit.web.database.connection() as connection:
        await store.delete_space(connection, visit.who.who, space["id"], revision=seen)
