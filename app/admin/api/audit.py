"""The audit log: who changed what, as JSON in pages, or all of it as CSV."""

from datetime import datetime
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Header, Query
from pydantic import BaseModel, Field
from starlette.responses import Response, StreamingResponse

from ...store import audit as store
from ...store.pool import Row
from ..audit_csv import audit_csv
from .bodies import json_answer
from .identity import Reading
from .ids import ShortId, short_id
from .pages_of_results import Page, Paging, Text, number_cursor, page_of
from .requests import ApiRoute

router = APIRouter(route_class=ApiRoute, tags=["audit"])

_MEDIA_TYPES = ("application/json", "text/csv")


class Entry(BaseModel):
    """One change, with the states before and after."""

    id: int
    at: datetime
    who: str
    action: str
    space: ShortId | None
    space_name: str | None
    object: str
    old: Any
    new: Any

    @classmethod
    def of(cls, row: Row) -> "Entry":
        return cls(
            id=row["id"],
            at=row["at"],
            who=row["who"],
            action=row["action"],
            space=None if row["space_id"] is None else short_id(row["space_id"]),
            space_name=row["space_name"],
            object=row["object"],
            old=None if row["old"] is None else orjson.loads(row["old"]),
            new=None if row["new"] is None else orjson.loads(row["new"]),
        )


class AuditAsked(Paging):
    """Which part of the log is asked for."""

    space: Text | None = Field(None, description="Only this space's.")
    format: Literal["json", "csv"] | None = Field(None, description="csv: all of it; goes before Accept.")


@router.get(
    "/audit",
    response_model=Page[Entry],
    responses={200: {"description": "A page, or all of it", "content": {"text/csv": {"schema": {"type": "string"}}}}},
)
async def list_audit(
    visit: Reading, asked: Annotated[AuditAsked, Query()], accept: Annotated[str, Header()] = "*/*"
) -> Response:
    """What was changed, the newest first."""
    cursor = number_cursor(asked.cursor)
    space = visit.principal.space if asked.space is None else (await visit.space(asked.space))["id"]
    if asked.format == "csv" or (asked.format is None and _prefers_csv(accept)):
        headers = {"content-disposition": 'attachment; filename="audit.csv"', "vary": "accept"}
        return StreamingResponse(audit_csv(visit.database, space), headers=headers, media_type="text/csv")
    rows = await store.page_of_audit(visit.connection, space=space, before=cursor, limit=asked.limit + 1)
    return json_answer(page_of(rows, asked.limit, Entry.of, lambda row: (row["id"],)), headers={"vary": "accept"})


def _prefers_csv(accept: str) -> bool:
    """Whether the header names CSV, and JSON not as much as CSV."""
    weights = dict.fromkeys(_MEDIA_TYPES, 0.0)
    for offer in accept.lower().split(","):
        name, *parameters = (part.strip() for part in offer.split(";"))
        if name in weights:
            weights[name] = _weight(parameters)
    return weights["text/csv"] > weights["application/json"]


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter.removeprefix("q="))
            except ValueError:
                return 0.0
    return 1.0
