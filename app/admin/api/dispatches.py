"""Dispatches: runs of sending, told by whoever sends, so that nobody changes an event's tracking unaware of one."""

from datetime import datetime

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from ...store import events as store
from ...store import settings as settings_store
from ...store.pool import Row
from .bodies import Body, json_answer
from .identity import Minting, Reading, Visit
from .ids import LongId, ShortId, long_id, read_long_id, read_short_id, short_id
from .pages_of_results import Page
from .requests import ApiRoute

router = APIRouter(route_class=ApiRoute, tags=["dispatches"])


class Dispatch(BaseModel):
    """A run of sending. It `is_running` until it has ended or its last heartbeat is older than five minutes."""

    id: LongId
    event: ShortId
    mailing: LongId | None
    who: str
    started: datetime
    heartbeat: datetime
    ended: datetime | None
    is_running: bool

    @classmethod
    def of(cls, row: Row) -> "Dispatch":
        return cls(
            id=long_id(row["id"]),
            event=short_id(row["event_id"]),
            mailing=None if row["mailing_id"] is None else long_id(row["mailing_id"]),
            who=row["who"],
            started=row["started_at"],
            heartbeat=row["heartbeat_at"],
            ended=row["ended_at"],
            is_running=row["is_running"],
        )


class NewDispatch(Body):
    """A run of sending that begins."""

    mailing: LongId | None = Field(None, description="What is sent, if it is one mailing.")


@router.get("/spaces/{space}/events/{event}/dispatches", response_model=Page[Dispatch])
async def list_dispatches(visit: Reading, space: str, event: str) -> Response:
    """The latest twenty dispatches of an event, the newest first."""
    row = await visit.event(space, event)
    rows = await store.latest_dispatches(visit.connection, row["space_id"], row["id"])
    return json_answer(Page[Dispatch](items=[Dispatch.of(each) for each in rows], next=None))


@router.post("/spaces/{space}/events/{event}/dispatches", status_code=201, response_model=Dispatch)
async def start_dispatch(visit: Minting, space: str, event: str, body: NewDispatch | None = None) -> Response:
    """Tells that sending begins. From now on the event is active and in protected mode."""
    row, number = await visit.space(space), read_short_id(event, "event")
    mailing = await _mailing(visit, row["id"], body.mailing if body else None)
    started = await store.start_dispatch(visit.connection, visit.who, row["id"], number, mailing)
    shown = Dispatch.of(started)
    return json_answer(shown, 201, visit.location("spaces", space, "dispatches", shown.id))


@router.get("/spaces/{space}/dispatches/{dispatch}", response_model=Dispatch)
async def get_dispatch(visit: Reading, space: str, dispatch: str) -> Response:
    """One dispatch."""
    row = await visit.space(space)
    number = read_long_id(dispatch, "dispatch")
    return json_answer(Dispatch.of(await store.get_dispatch(visit.connection, row["id"], number)))


@router.post("/spaces/{space}/dispatches/{dispatch}/heartbeat", response_model=Dispatch)
async def beat_dispatch(visit: Minting, space: str, dispatch: str) -> Response:
    """Tells that sending goes on; send it every minute."""
    row = await visit.space(space)
    number = read_long_id(dispatch, "dispatch")
    return json_answer(Dispatch.of(await store.beat_dispatch(visit.connection, row["id"], number)))


@router.post("/spaces/{space}/dispatches/{dispatch}/end", response_model=Dispatch)
async def end_dispatch(visit: Minting, space: str, dispatch: str) -> Response:
    """Tells that sending is over; again changes nothing."""
    row = await visit.space(space)
    number = read_long_id(dispatch, "dispatch")
    return json_answer(Dispatch.of(await store.end_dispatch(visit.connection, row["id"], number)))


async def _mailing(visit: Visit, space: int, text: str | None) -> int | None:
    if text is None:
        return None
    number = read_long_id(text, "mailing")
    await settings_store.get_mailing(visit.connection, space, number)
    return number
