"""An event's data as the shop has them: whom the mail is for, and whether they may be tracked, the definition says."""

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from ...errors import NotFound
from ...sending.batch import decided
from ...sending.dispatch import Dispatch, read_terms
from ...sending.prepare import prepare
from ...store import events as store
from ...store.pool import Row
from ...tracking.event_data import read_event_data
from ...tracking.event_types import EventType, parse_event_type
from .bodies import Body, json_answer
from .identity import Minting
from .ids import ShortId
from .messages import SPACE, Content, MadeMessage, ensure_mailing, shown
from .requests import MailRoute

router = APIRouter(route_class=MailRoute, tags=["messages"])


class EventMessage(Content):
    """The mail that an event brings about."""

    mailing: str | None = Field(None, description="Your own name of it; left out: the event's name.")


class Occurrence(Body):
    """An event that has happened, with its data as its definition describes them."""

    event: str = Field(description="The id in the event's definition.", examples=["order_confirmation"])
    payload: dict[str, Any] = Field(examples=[{"Customer": {"Id": "4711", "Tracking": True}}])
    message: EventMessage
    space: ShortId | None = SPACE


class Decided(BaseModel):
    """Whom the mail is for, their permission, the mode that the settings say, and the rule that said so."""

    recipient: str
    permission: str
    mode: str
    rule: str


class MadeOfEvent(MadeMessage):
    """A message, with what the data and the settings decided."""

    decided: Decided


@router.post("/events", response_model=MadeOfEvent)
async def take_event(visit: Minting, body: Occurrence) -> Response:
    """Makes the message of an event: recipient and permission are taken from its data as its definition says."""
    source, limits = body.message.source(visit.settings, "message."), body.message.limits()
    space = await visit.named_space(body.space)
    event = await store.event_of_type(visit.connection, space["id"], body.event)
    data = read_event_data(definition_of(event), body.payload)
    async with visit.connection.transaction():
        name = event["name"] if body.message.mailing is None else body.message.mailing
        mailing = await ensure_mailing(visit, space["id"], event["id"], name, "message.mailing")
        dispatch = Dispatch(space["id"], event["id"], mailing, data.recipient, data.permission)
        terms = await read_terms(visit.connection, visit.settings, space["id"], event["id"], mailing, data.permission)
        prepared = await prepare(visit.connection, source, dispatch, visit.settings, limits)
    answer = decided(data, terms.mode.label, terms.rule.value)
    return json_answer(MadeOfEvent(**shown(prepared, body.message), decided=Decided(**answer)))


def definition_of(event: Row) -> EventType:
    """The event's definition, read; NotFound if it has none any more."""
    if event["definition"] is None:
        raise NotFound("the event has no definition; put one", field="event")
    return parse_event_type(event["definition"])
