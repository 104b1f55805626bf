"""An event's page: how it tracks, its protected mode and running dispatches, its definition, name and archive."""

import re
from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.responses import Response
from starlette.routing import Route

from ...errors import NotFound, SettingsError
from ...store import events
from ...store.pool import Connection, Row
from ...tracking.event_types import MAX_XML_BYTES
from ..access import Scope
from .attempts import Attempt, acknowledged, revision, text
from .places import event_of, on_post, path_of_event, path_of_space, space_of
from .tracking import is_protected_now, outcomes
from .web import Visit, Web, endpoint

_ENCODING = re.compile(r"""(<\?xml[^>]*?\sencoding\s*=\s*["'])([A-Za-z0-9._-]+)""")
_FORMS = ("tracking", "definition", "name", "archive", "protection")


def routes(web: Web) -> list[Route]:
    both = ["GET", "POST"]
    return [
        Route("/spaces/{space}/events", endpoint(web, go_to_list)),
        Route("/spaces/{space}/events/new", endpoint(web, create_event), methods=both),
        Route("/spaces/{space}/events/{event}", endpoint(web, show_event)),
        Route("/spaces/{space}/events/{event}/{form}", endpoint(web, on_post(save)), methods=both),
    ]


async def go_to_list(visit: Visit) -> Response:
    async with visit.web.database.connection() as connection:
        space = await space_of(visit, connection)
    return visit.go(f"{path_of_space(space['id'])}/tracking#events")


async def show_event(visit: Visit) -> Response:
    async with visit.web.database.connection() as connection:
        return await _page(visit, connection, Attempt())


async def save(visit: Visit) -> Response:
    """Any of the page's forms."""
    name, form = str(visit.request.path_params["form"]), await visit.form()
    async with visit.web.database.connection() as connection:
        space, event = await event_of(visit, connection)
        if name not in _FORMS:
            raise NotFound("there is no such page")
        visit.who.check(Scope.WRITE)
        try:
            done = await _change(visit, connection, event, name, form)
        except SettingsError as error:
            return await _page(visit, connection, await _attempt(visit, name, form, error))
    if text(form, "back") == "list":
        return visit.go(f"{path_of_space(space['id'])}/tracking?saved=event#events")
    return visit.go(f"{path_of_event(space['id'], event['id'])}?saved={done}")


async def _change(visit: Visit, connection: Connection, event: Row, name: str, form: FormData) -> str:
    """Saves a form; the word for what was done."""
    who, place = visit.who.who, (event["space_id"], event["id"])
    if name == "protection":
        return await _change_protection(connection, who, place, form)
    wanted: dict[str, Any] = {"revision": revision(form), "acknowledged": acknowledged(form)}
    if name == "tracking":
        wanted["by_permission"] = "by_permission" in form
    elif name == "definition":
        wanted["definition"] = await _definition(form)
    elif name == "archive":
        wanted["archived"] = text(form, "archived") == "yes"
    else:
        wanted["name"] = text(form, "name")
    await events.change_event(connection, who, *place, **wanted)
    return "restored" if name == "archive" and not wanted["archived"] else name


async def _change_protection(connection: Connection, who: str, place: tuple[int, int], form: FormData) -> str:
    if text(form, "do") == "leave":
        await events.leave_protected_mode(connection, who, *place, acknowledged=acknowledged(form))
        return "left"
    await events.enter_protected_mode(connection, who, *place)
    return "protected"


async def _page(visit: Visit, connection: Connection, attempt: Attempt) -> Response:
    space, event = await event_of(visit, connection)
    return visit.page(
        "event.html",
        status=attempt.status,
        attempt=attempt,
        space=space,
        event=event,
        is_protected=is_protected_now(event),
        is_left=event["active_since"] is not None and not is_protected_now(event),
        dispatches=await events.latest_dispatches(connection, space["id"], event["id"]),
        running=await events.running_dispatches(connection, space["id"], event["id"]),
        outcomes=outcomes(space),
        definition=readable(event["definition"]),
        may_write=visit.who.may(Scope.WRITE),
    )


async def create_event(visit: Visit) -> Response:
    form = await visit.form() if visit.request.method == "POST" else None
    async with visit.web.database.connection() as connection:
        space = await space_of(visit, connection)
        visit.who.check(Scope.WRITE)
        if form is None:
            return visit.page("new_event.html", space=space, attempt=Attempt())
        try:
            row = await _create(visit, connection, space["id"], form)
        except SettingsError as error:
            attempt = await _attempt(visit, "event", form, error)
            return visit.page("new_event.html", status=attempt.status, space=space, attempt=attempt)
    return visit.go(f"{path_of_event(space['id'], row['id'])}?saved=created")


async def _create(visit: Visit, connection: Connection, space: int, form: FormData) -> Row:
    return await events.create_event(
        connection,
        visit.who.who,
        space,
        text(form, "name"),
        by_permission="by_permission" in form,
        definition=await _definition(form, is_optional=True),
        acknowledged=acknowledged(form),
    )


# --- definitions -----------------------------------------------------------------------------------------------------


async def _definition(form: FormData, *, is_optional: bool = False) -> bytes | None:
    """What was uploaded, else what was pasted; SettingsError if there is neither, unless that may be."""
    uploaded = await _uploaded(form)
    if uploaded:
        return uploaded
    pasted = text(form, "definition")
    if pasted.strip():
        return as_utf8(pasted)
    if is_optional:
        return None
    raise SettingsError("choose an XML file or paste the XML", field="definition")


async def _uploaded(form: FormData) -> bytes:
    file = form.get("file")
    if not isinstance(file, UploadFile):
        return b""
    await file.seek(0)
    return await file.read(MAX_XML_BYTES + 1)


def as_utf8(pasted: str) -> bytes:
    """Text from a form as a file: in UTF-8, whatever its declaration said of the file that it came from."""
    lines = pasted.removeprefix("\ufeff").replace("\r\n", "\n")
    return _ENCODING.sub(r"\1UTF-8", lines, count=1).encode()


def readable(definition: bytes | None) -> str:
    """A definition's text, to be shown."""
    if definition is None:
        return ""
    if definition.startswith((b"\xff\xfe", b"\xfe\xff")):
        return definition.decode("utf-16", "replace")
    declared = _ENCODING.match(definition[:200].decode("latin-1"))
    encoding = declared[2] if declared else "utf-8"
    return definition.decode("utf-8-sig" if encoding.lower() == "utf-8" else encoding, "replace")


async def _attempt(visit: Visit, name: str, form: FormData, error: SettingsError) -> Attempt:
    """The form as it was sent; an uploaded file's text is in the box for pasting, because a file cannot be refilled."""
    attempt = Attempt.of(name, form, error, visit.language)
    uploaded = await _uploaded(form)
    if not uploaded or len(uploaded) > MAX_XML_BYTES:
        return attempt
    try:
        shown = readable(uploaded)
    except LookupError:  # an encoding that nobody knows
        return attempt
    return Attempt(name, {**attempt.values, "definition": shown}, attempt.acknowledged, error, visit.language)
