"""Mailings: what was sent, and what happened to it."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.responses import Response

from ...errors import NotFound
from ...store import events as events_store
from ...store import reports
from ...store import settings as store
from ...store.pool import Row
from .bodies import Body, json_answer, left_out
from .identity import Reading, Visit, Writing
from .ids import LongId, ShortId, long_id, read_long_id, read_short_id, short_id
from .pages_of_results import Filtered, Page, Text, microseconds_of, page_of, time_cursor
from .requests import ApiRoute

router = APIRouter(route_class=ApiRoute, tags=["mailings"])


class Mailing(BaseModel):
    """One concrete mail content. Without an event it is a group of relay mails."""

    id: LongId
    name: str
    event: ShortId | None
    event_name: str | None
    sent: int = Field(description="Messages made for it, tracked or not.")
    links: int
    url_parameters: str | None = Field(description="What its tracked links get, e.g. utm_source=newsletter.")
    archived: bool
    created: datetime

    @classmethod
    def of(cls, row: Row) -> "Mailing":
        return cls(
            id=long_id(row["id"]),
            name=row["name"],
            event=None if row["event_id"] is None else short_id(row["event_id"]),
            event_name=row["event_name"],
            sent=row["sent"],
            links=row["links"],
            url_parameters=row["url_parameters"],
            archived=row["archived_at"] is not None,
            created=row["created_at"],
        )


class NewMailing(Body):
    """A mailing to be made; sending makes it too, at its first use."""

    name: str
    event: ShortId | None = Field(None, description="Null: a group of relay mails.")
    url_parameters: str = Field("", description="Added to its tracked links where they are not there yet.")


class MailingChange(Body):
    """What to change of a mailing; what is left out stays."""

    name: str = left_out("Its new name.")
    url_parameters: str = left_out("For the links of coming mails; an empty text takes them away.")
    archived: bool = left_out("Whether lists leave it out; its links work and are recorded as before.")


class MailingsAsked(Filtered):
    """Which mailings are asked for."""

    event: Text | None = Field(None, description="Only this event's.")
    archived: bool = Field(False, description="Whether archived ones are listed too.")


class ClicksOfLink(BaseModel):
    """Clicks on one registered link."""

    number: int
    clicks: int
    clicks_person_based: int
    clicks_anonymized: int
    unique_clicks: int
    unique_clicks_person_based: int
    unique_clicks_anonymized: int
    automated_clicks: int


class Report(BaseModel):
    """What happened to a mailing's messages; unique counts messages. Hits of machines are counted apart, as automated.

    It is made from single hits and reaches back as far as MAILTRAIL_HITS_RETENTION_DAYS.
    """

    sent: int
    sent_person_based: int
    sent_anonymized: int
    sent_aggregate: int
    sent_untracked: int
    opens: int
    opens_person_based: int
    opens_anonymized: int
    unique_opens: int
    unique_opens_person_based: int
    unique_opens_anonymized: int
    clicks: int
    clicks_person_based: int
    clicks_anonymized: int
    unique_clicks: int
    unique_clicks_person_based: int
    unique_clicks_anonymized: int
    unique_recipients: int = Field(description="Person-based hits only.")
    automated_opens: int
    automated_clicks: int
    first_hit: datetime | None
    last_hit: datetime | None
    untracked: dict[str, int] = Field(description="The untracked messages by reason, where it was recorded.")
    links: list[ClicksOfLink]


@router.get("/spaces/{space}/mailings", response_model=Page[Mailing])
async def list_mailings(visit: Reading, space: str, asked: Annotated[MailingsAsked, Query()]) -> Response:
    """A space's mailings, or those of one of its events, the newest first."""
    row = await visit.space(space)
    rows = await store.page_of_mailings(
        visit.connection,
        row["id"],
        event=await _event(visit, row["id"], asked.event),
        before=time_cursor(asked.cursor),
        contains=asked.contains,
        archived=asked.archived,
        limit=asked.limit + 1,
    )
    return json_answer(page_of(rows, asked.limit, Mailing.of, _place))


@router.post("/spaces/{space}/mailings", status_code=201, response_model=Mailing)
async def create_mailing(visit: Writing, space: str, body: NewMailing) -> Response:
    """Makes a mailing of an event, or without one a group of relay mails."""
    row = await visit.space(space)
    event = await _event(visit, row["id"], body.event)
    async with visit.connection.transaction():
        made = await store.create_mailing(
            visit.connection, visit.who, row["id"], event, body.name, url_parameters=body.url_parameters
        )
        shown = Mailing.of(await store.show_mailing(visit.connection, row["id"], made["id"]))
    return json_answer(shown, 201, visit.location("spaces", space, "mailings", shown.id))


@router.get("/spaces/{space}/mailings/{mailing}", response_model=Mailing)
async def get_mailing(visit: Reading, space: str, mailing: str) -> Response:
    """One mailing."""
    row = await visit.space(space)
    number = read_long_id(mailing, "mailing")
    return json_answer(Mailing.of(await store.show_mailing(visit.connection, row["id"], number)))


@router.patch("/spaces/{space}/mailings/{mailing}", response_model=Mailing)
async def change_mailing(visit: Writing, space: str, mailing: str, body: MailingChange) -> Response:
    """Renames a mailing, lets lists leave it out, or gives the links of its coming mails parameters."""
    row = await visit.space(space)
    number = read_long_id(mailing, "mailing")
    async with visit.connection.transaction():
        await store.change_mailing(
            visit.connection,
            visit.who,
            row["id"],
            number,
            name=body.name,
            archived=body.archived,
            url_parameters=body.url_parameters,
        )
        shown = Mailing.of(await store.show_mailing(visit.connection, row["id"], number))
    return json_answer(shown)


@router.get("/spaces/{space}/mailings/{mailing}/report", response_model=Report)
async def report_on_mailing(visit: Reading, space: str, mailing: str) -> Response:
    """Opens and clicks of a mailing, total and unique, person-based and anonymized side by side."""
    found = await visit.mailing(space, mailing)
    row = await reports.report_on_mailing(visit.connection, found["id"])
    if row is None:
        raise NotFound("there is no such mailing")
    links = await reports.report_on_links(visit.connection, found["id"])
    clicks = [ClicksOfLink(number=number, **_counts(each)) for number, each in sorted(links.items())]
    sent = await store.list_sent(visit.connection, found["id"])
    untracked = {each["reason"]: each["messages"] for each in sent if each["reason"]}
    totals = {name: row[name] for name in Report.model_fields if name not in ("links", "untracked")}
    return json_answer(Report(**totals, untracked=untracked, links=clicks))


def _place(row: Row) -> tuple[int, int]:
    return microseconds_of(row["created_at"]), row["id"]


def _counts(row: Row) -> dict[str, int]:
    return {name: row[name] for name in ClicksOfLink.model_fields if name != "number"}


async def _event(visit: Visit, space: int, text: str | None) -> int | None:
    if text is None:
        return None
    row = await events_store.get_event(visit.connection, space, read_short_id(text, "event"))
    return int(row["id"])
