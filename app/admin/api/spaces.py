"""Spaces: their default, their relay and their numbers of events."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.responses import Response

from ...store import settings as store
from ...store.pool import Row
from ..access import Scope
from .bodies import Acknowledging, json_answer, left_out, words
from .identity import Reading, Visit, Writing
from .ids import ShortId, short_id
from .pages_of_results import Filtered, Page, name_cursor, page_of
from .requests import ApiRoute
from .revisions import IfMatch, IfNoneMatch, etag_of, expected_revision, unless_known

router = APIRouter(route_class=ApiRoute, tags=["spaces"])

DefaultMode = Annotated[str, words("anonymized", "person_based")]
RelayMode = Annotated[str, words("off", "anonymized", "person_based")]


class Space(BaseModel):
    """A tenant. `inheriting_events` are those of its `events` that follow its default; archived ones do not count."""

    id: ShortId
    name: str
    default_mode: DefaultMode
    relay_mode: RelayMode
    tracking_url: str | None
    revision: int
    created: datetime
    events: int
    inheriting_events: int

    @classmethod
    def of(cls, row: Row) -> "Space":
        return cls(id=short_id(row["id"]), created=row["created_at"], **{name: row[name] for name in _SAME})


_SAME = ("name", "default_mode", "relay_mode", "tracking_url", "revision", "events", "inheriting_events")


class ChangedSpace(Space):
    """A space after a change, with the number of events that track in another way from now on."""

    inheriting_events_changed: int


class NewSpace(Acknowledging):
    """A space to be made."""

    name: str
    default_mode: DefaultMode = "anonymized"
    relay_mode: RelayMode = "off"
    tracking_url: str | None = Field(None, description="The base of its links; null: the installation's.")


class SpaceChange(Acknowledging):
    """What to change of a space; what is left out stays."""

    name: str = left_out("Its new name.")
    default_mode: DefaultMode = left_out("Events that inherit follow at once.")
    relay_mode: RelayMode = left_out("Needs the scope privacy, unless it is that already.")
    tracking_url: str | None = left_out("The base of its links; null: the installation's.")


@router.get("/spaces", response_model=Page[Space])
async def list_spaces(visit: Reading, asked: Annotated[Filtered, Query()]) -> Response:
    """Spaces that the key sees, by name."""
    rows = await store.page_of_spaces(
        visit.connection,
        only=visit.principal.space,
        after=name_cursor(asked.cursor),
        contains=asked.contains,
        limit=asked.limit + 1,
    )
    return json_answer(page_of(rows, asked.limit, Space.of, lambda row: (row["name"], row["id"])))


@router.post("/spaces", status_code=201, response_model=Space)
async def create_space(visit: Writing, body: NewSpace) -> Response:
    """Makes a space with its first minting key; the key must be of all spaces."""
    visit.principal.check_everything()
    if body.relay_mode != "off":
        visit.principal.check(Scope.PRIVACY)
    async with visit.connection.transaction():
        row = await store.create_space(
            visit.connection,
            visit.who,
            body.name,
            default=body.default_mode,
            relay=body.relay_mode,
            url=body.tracking_url,
            acknowledged=body.acknowledged,
        )
        shown = Space.of(await store.show_space(visit.connection, row["id"]))
    headers = visit.location("spaces", shown.id) | {"etag": etag_of(shown, shown.revision)}
    return json_answer(shown, 201, headers)


@router.get("/spaces/{space}", response_model=Space)
async def get_space(visit: Reading, space: str, if_none_match: IfNoneMatch = None) -> Response:
    """One space."""
    shown = await _shown(visit, space)
    return unless_known(shown, shown.revision, if_none_match)


@router.patch("/spaces/{space}", response_model=ChangedSpace)
async def change_space(visit: Writing, space: str, body: SpaceChange, if_match: IfMatch = None) -> Response:
    """Changes a space; person_based has to be acknowledged as consent."""
    number = visit.space_id(space)
    revision = await expected_revision(if_match, lambda: visit.space(space))
    async with visit.connection.transaction():
        before = await store.lock_space(visit.connection, number)
        if body.relay_mode not in (None, before["relay_mode"]):
            visit.principal.check(Scope.PRIVACY)
        row = await store.change_space(
            visit.connection,
            visit.who,
            number,
            name=body.name,
            default=body.default_mode,
            relay=body.relay_mode,
            url=(body.tracking_url or "") if "tracking_url" in body.model_fields_set else None,
            acknowledged=body.acknowledged,
            revision=revision,
        )
        shown = Space.of(await store.show_space(visit.connection, number))
    follow = shown.inheriting_events if before["default_mode"] != row["default_mode"] else 0
    changed = ChangedSpace(**shown.model_dump(), inheriting_events_changed=follow)
    return json_answer(changed, headers={"etag": etag_of(shown, shown.revision)})


@router.delete("/spaces/{space}", status_code=204)
async def delete_space(visit: Writing, space: str, if_match: IfMatch = None) -> Response:
    """Leaves a tombstone: the space's links still redirect and record nothing. The key must be of all spaces."""
    number = visit.space_id(space)
    visit.principal.check_everything()
    revision = await expected_revision(if_match, lambda: visit.space(space))
    await store.delete_space(visit.connection, visit.who, number, revision=revision)
    return Response(status_code=204)


async def _shown(visit: Visit, space: str) -> Space:
    return Space.of(await store.show_space(visit.connection, visit.space_id(space)))
