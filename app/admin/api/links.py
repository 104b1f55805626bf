"""Links of mailings: what they are, without personal values, and where they go instead of where they were sent."""

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from ...errors import NotFound
from ...store import settings as store
from ...store.pool import Row
from .bodies import Body, json_answer
from .identity import Reading, Visit, Writing
from .ids import read_link_number
from .pages_of_results import Page
from .requests import ApiRoute

router = APIRouter(route_class=ApiRoute, tags=["links"])


class Override(Body):
    """Where a link goes instead."""

    destination: str | None = Field(
        description="A URL, which may name the original's parameters as {cid}; null: the link is switched off."
    )


class Link(BaseModel):
    """A link, described by pattern; label and pattern are hidden until five recipients have had it."""

    number: int
    label: str | None
    pattern: str | None
    shown: bool
    occurrence: int = Field(description="Which of several links of this pattern in one mail it is.")
    override: Override | None = Field(description="Null: it goes where it went when it was sent.")

    @classmethod
    def of(cls, row: Row) -> "Link":
        override = Override(destination=row["destination"]) if row["overridden"] else None
        return cls(override=override, **{name: row[name] for name in _SAME})


_SAME = ("number", "label", "pattern", "shown", "occurrence")
_PATH = "/spaces/{space}/mailings/{mailing}/links"


@router.get(_PATH, response_model=Page[Link])
async def list_links(visit: Reading, space: str, mailing: str) -> Response:
    """All links of a mailing, by number."""
    row = await visit.mailing(space, mailing)
    rows = await store.list_links(visit.connection, row["id"])
    return json_answer(Page[Link](items=[Link.of(each) for each in rows], next=None))


@router.put(_PATH + "/{number}/override", response_model=Link)
async def override_link(visit: Writing, space: str, mailing: str, number: str, body: Override) -> Response:
    """Sends a link of mails already sent somewhere else, or switches it off."""
    row = await visit.mailing(space, mailing)
    link = await _find(visit, row["id"], number)
    await store.override_link(visit.connection, visit.who, row["space_id"], row["id"], link["number"], body.destination)
    return json_answer(Link.of(await _find(visit, row["id"], number)))


@router.delete(_PATH + "/{number}/override", status_code=204)
async def restore_link(visit: Writing, space: str, mailing: str, number: str) -> Response:
    """Lets a link go where it went when it was sent."""
    row = await visit.mailing(space, mailing)
    link = await _find(visit, row["id"], number)
    await store.restore_link(visit.connection, visit.who, row["space_id"], row["id"], link["number"])
    return Response(status_code=204)


async def _find(visit: Visit, mailing: int, number: str) -> Row:
    wanted = read_link_number(number)
    for row in await store.list_links(visit.connection, mailing):
        if row["number"] == wanted:
            return row
    raise NotFound("there is no such link")
