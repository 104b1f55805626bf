"""API keys: made, listed, revoked. Invariant: a key never makes one that may do or see more than itself."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from ...errors import NotAllowed
from ...store import api_keys as store
from ...store.pool import Row
from ..access import Scope
from .bodies import Body, json_answer, left_out, words
from .identity import Reading, Visit, Writing
from .ids import ShortId, read_short_id, short_id
from .pages_of_results import Page
from .requests import ApiRoute

router = APIRouter(route_class=ApiRoute, tags=["keys"])


class ApiKey(BaseModel):
    """What a program signs in with; its secret is not kept."""

    id: ShortId
    name: str
    scopes: list[str]
    space: ShortId | None = Field(description="The only space that it reaches; null: all.")
    created_by: str
    created: datetime
    last_used: datetime | None
    revoked: datetime | None

    @classmethod
    def of(cls, row: Row) -> "ApiKey":
        return cls(**_shown(row))


class NewlyMadeKey(ApiKey):
    """A key with its secret, which is shown only here."""

    secret: str


class NewKey(Body):
    """A key to be made."""

    name: str
    scopes: list[Annotated[str, words(*store.SCOPES)]] = Field(max_length=10)
    space: ShortId | None = left_out(
        "The only space that it reaches, null for all; left out: as the key that makes it."
    )


def _shown(row: Row) -> dict[str, object]:
    return {
        "id": short_id(row["id"]),
        "name": row["name"],
        "scopes": row["scopes"],
        "space": None if row["space_id"] is None else short_id(row["space_id"]),
        "created_by": row["created_by"],
        "created": row["created_at"],
        "last_used": row["last_used_at"],
        "revoked": row["revoked_at"],
    }


@router.get("/api-keys", response_model=Page[ApiKey])
async def list_keys(visit: Reading) -> Response:
    """All keys of the spaces that the key sees, revoked ones too, the newest first."""
    rows = await store.list_api_keys(visit.connection, visit.principal.space)
    return json_answer(Page[ApiKey](items=[ApiKey.of(row) for row in rows], next=None))


@router.post("/api-keys", status_code=201, response_model=NewlyMadeKey)
async def create_key(visit: Writing, body: NewKey) -> Response:
    """Makes a key with scopes that the asking key has, for spaces that it sees."""
    space = await _space(visit, body)
    _check_scopes(visit, body.scopes)
    row, secret = await store.create_api_key(visit.connection, visit.who, body.name, body.scopes, space)
    return json_answer(NewlyMadeKey(secret=secret, **_shown(row)), 201)


@router.delete("/api-keys/{key}", status_code=204)
async def revoke_key(visit: Writing, key: str) -> Response:
    """Revokes a key at once and for good."""
    number = read_short_id(key, "key")
    await store.revoke_api_key(visit.connection, visit.who, number, visit.principal.space)
    return Response(status_code=204)


async def _space(visit: Visit, body: NewKey) -> int | None:
    if "space" not in body.model_fields_set:
        return visit.principal.space
    if body.space is None:
        visit.principal.check_everything()
        return None
    return int((await visit.space(body.space))["id"])


def _check_scopes(visit: Visit, wanted: list[str]) -> None:
    """NotAllowed for more than the asking key may itself; words that are no scopes are for the store to refuse."""
    for word in wanted:
        if word in store.SCOPES and not visit.principal.may(Scope(word)):
            raise NotAllowed(f"a key gives only scopes that it has itself; {visit.who} does not have {word!r}")
