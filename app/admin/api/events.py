"""Events: how they track, their definitions, and protected mode."""

from datetime import UTC, datetime
from functools import cache
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from ...errors import NotFound
from ...store import events as store
from ...store.pool import Row
from ...tracking import modes
from ...tracking.event_types import MAX_XML_BYTES
from ...tracking.settings import event_by_permission, is_protected
from .bodies import Acknowledging, json_answer, left_out, words
from .identity import Reading, Visit, Writing
from .ids import ShortId, read_short_id, short_id
from .pages_of_results import Filtered, Page, name_cursor, page_of
from .problems import Kind, Refusal
from .requests import ApiRoute, check_size
from .revisions import IfMatch, IfNoneMatch, etag_of, expected_revision, unless_known

router = APIRouter(route_class=ApiRoute, tags=["events"])

Tracking = Annotated[str, words("permission", "inherit")]
Recorded = Annotated[str, words(*(mode.label for mode in modes.Mode))]
_XML = {"application/xml": {"schema": {"type": "string"}}}


class ByPermission(BaseModel):
    """The mode for recipients who granted their permission, and for all others."""

    granted: Recorded
    otherwise: Recorded


class Effective(BaseModel):
    """What an event does now, and whether that comes from its permission tracking or from the space's default."""

    mode: ByPermission
    because: Annotated[str, words("permission", "default")]


class Event(BaseModel):
    """A kind of mail. It is `protected` from its first message or dispatch on, but until `unprotected_until`."""

    id: ShortId
    name: str
    tracking: Tracking
    effective: Effective
    protected: bool
    unprotected_until: datetime | None
    active_since: datetime | None
    type: str | None = Field(description="The id in its definition; null: it has none.")
    permission_field: str | None = Field(description="The placeholder with the permission, e.g. Customer.Tracking.")
    archived: bool
    is_running: bool = Field(description="Whether a dispatch of it is running.")
    revision: int
    created: datetime

    @classmethod
    def of(cls, space: Row, row: Row) -> "Event":
        return cls(
            id=short_id(row["id"]),
            name=row["name"],
            tracking="permission" if row["by_permission"] else "inherit",
            effective=_effective(space["default_mode"], space["relay_mode"], row["by_permission"]),
            protected=is_protected(row["active_since"], row["unprotected_until"], datetime.now(UTC)),
            unprotected_until=row["unprotected_until"],
            active_since=row["active_since"],
            type=row["type_id"],
            permission_field=row["permission_field"],
            archived=row["archived_at"] is not None,
            is_running=row["is_running"],
            revision=row["revision"],
            created=row["created_at"],
        )


@cache
def _effective(default_mode: str, relay_mode: str, by_permission: bool) -> Effective:
    tenant = modes.Space(modes.Mode.from_label(default_mode), modes.Mode.from_label(relay_mode))
    (granted, rule), (otherwise, _) = (
        modes.decide(modes.Origin.EVENT, tenant, modes.Event(by_permission), permission)
        for permission in (modes.Permission.GRANTED, modes.Permission.UNKNOWN)
    )
    return Effective(mode=ByPermission(granted=granted.label, otherwise=otherwise.label), because=rule.value)


class NewEvent(Acknowledging):
    """An event to be made."""

    name: str
    tracking: Tracking = "inherit"


class EventChange(Acknowledging):
    """What to change of an event; what is left out stays."""

    name: str = left_out("Its new name.")
    tracking: Tracking = left_out("By permission, or as the space's default says.")
    archived: bool = left_out("Whether lists leave it out; its links work and are recorded as before.")


class EventsAsked(Filtered):
    """Which events are asked for."""

    archived: bool = Field(False, description="Whether archived ones are listed too.")


@router.get("/spaces/{space}/events", response_model=Page[Event])
async def list_events(visit: Reading, space: str, asked: Annotated[EventsAsked, Query()]) -> Response:
    """A space's events, by name."""
    row = await visit.space(space)
    rows = await store.page_of_events(
        visit.connection,
        row["id"],
        after=name_cursor(asked.cursor),
        contains=asked.contains,
        archived=asked.archived,
        limit=asked.limit + 1,
    )
    page = page_of(rows, asked.limit, lambda each: Event.of(row, each), lambda each: (each["name"], each["id"]))
    return json_answer(page)


@router.post("/spaces/{space}/events", status_code=201, response_model=Event)
async def create_event(visit: Writing, space: str, body: NewEvent) -> Response:
    """Makes an event; its definition is put afterwards."""
    by_permission = event_by_permission(body.tracking)
    row = await visit.space(space)
    async with visit.connection.transaction():
        made = await store.create_event(
            visit.connection,
            visit.who,
            row["id"],
            body.name,
            by_permission=by_permission,
            acknowledged=body.acknowledged,
        )
        shown = await _shown(visit, row, made["id"])
    headers = visit.location("spaces", space, "events", shown.id) | {"etag": etag_of(shown, shown.revision)}
    return json_answer(shown, 201, headers)


@router.get("/spaces/{space}/events/{event}", response_model=Event)
async def get_event(visit: Reading, space: str, event: str, if_none_match: IfNoneMatch = None) -> Response:
    """One event."""
    shown = await _shown(visit, await visit.space(space), read_short_id(event, "event"))
    return unless_known(shown, shown.revision, if_none_match)


@router.patch("/spaces/{space}/events/{event}", response_model=Event)
async def change_event(visit: Writing, space: str, event: str, body: EventChange, if_match: IfMatch = None) -> Response:
    """Changes an event. The tracking of an active one only while somebody has left protected mode; a save enters it."""
    row, number = await visit.space(space), read_short_id(event, "event")
    revision = await expected_revision(if_match, lambda: visit.event(space, event))
    by_permission = event_by_permission(body.tracking) if "tracking" in body.model_fields_set else None
    async with visit.connection.transaction():
        await store.change_event(
            visit.connection,
            visit.who,
            row["id"],
            number,
            name=body.name,
            by_permission=by_permission,
            archived=body.archived,
            acknowledged=body.acknowledged,
            revision=revision,
        )
        return await _answer(visit, row, number)


# --- protected mode --------------------------------------------------------------------------------------------------


@router.post("/spaces/{space}/events/{event}/protected-mode-leave", response_model=Event)
async def leave_protected_mode(visit: Writing, space: str, event: str, body: Acknowledging | None = None) -> Response:
    """Lets the tracking of an active event be changed for 15 minutes; a running dispatch has to be acknowledged."""
    row, number = await visit.space(space), read_short_id(event, "event")
    acknowledged = body.acknowledged if body else []
    async with visit.connection.transaction():
        await store.leave_protected_mode(visit.connection, visit.who, row["id"], number, acknowledged=acknowledged)
        return await _answer(visit, row, number)


@router.delete("/spaces/{space}/events/{event}/protected-mode-leave", response_model=Event)
async def enter_protected_mode(visit: Writing, space: str, event: str) -> Response:
    """Takes the leave back before its time is over."""
    row, number = await visit.space(space), read_short_id(event, "event")
    async with visit.connection.transaction():
        await store.enter_protected_mode(visit.connection, visit.who, row["id"], number)
        return await _answer(visit, row, number)


# --- definitions -----------------------------------------------------------------------------------------------------


@router.get(
    "/spaces/{space}/events/{event}/definition",
    response_class=Response,
    responses={200: {"description": "The XML, byte for byte as it was put", "content": _XML}},
)
async def get_definition(visit: Reading, space: str, event: str) -> Response:
    """An event's XML."""
    row, number = await visit.space(space), read_short_id(event, "event")
    async with visit.connection.transaction(isolation="repeatable_read", readonly=True):
        shown = await _shown(visit, row, number)
        definition = (await store.get_event(visit.connection, row["id"], number))["definition"]
    if definition is None:
        raise NotFound("the event has no definition; put one")
    headers = {
        "etag": etag_of(shown, shown.revision),
        "content-disposition": 'attachment; filename="event.xml"',
    }
    return Response(definition, headers=headers, media_type="application/xml")


@router.put(
    "/spaces/{space}/events/{event}/definition",
    response_model=Event,
    openapi_extra={"requestBody": {"required": True, "content": _XML}},
)
async def put_definition(
    visit: Writing, request: Request, space: str, event: str, if_match: IfMatch = None
) -> Response:
    """Gives an event its XML, or another one with the same id; of an active event only outside protected mode."""
    row, number = await visit.space(space), read_short_id(event, "event")
    revision = await expected_revision(if_match, lambda: visit.event(space, event))
    definition = await _xml_of(request)
    async with visit.connection.transaction():
        await store.change_event(
            visit.connection, visit.who, row["id"], number, definition=definition, revision=revision
        )
        return await _answer(visit, row, number)


async def _xml_of(request: Request) -> bytes:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in ("application/xml", "text/xml"):
        raise Refusal(Kind.MEDIA_TYPE, "the definition is XML; send it with content-type: application/xml")
    definition = await request.body()
    check_size(len(definition), MAX_XML_BYTES)
    return definition


async def _shown(visit: Visit, space: Row, event: int) -> Event:
    return Event.of(space, await store.show_event(visit.connection, space["id"], event))


async def _answer(visit: Visit, space: Row, event: int) -> Response:
    shown = await _shown(visit, space, event)
    return json_answer(shown, headers={"etag": etag_of(shown, shown.revision)})
