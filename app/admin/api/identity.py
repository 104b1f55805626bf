"""Who asks: the key of a request, what its scopes allow, and the spaces that are there for it.

Invariant: no route answers without a good key, read anew at each request, so that a revoked one is out at once.
"""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Security
from fastapi.security import HTTPBearer, SecurityScopes
from starlette.requests import HTTPConnection, Request

from ...config import Settings
from ...store import api_keys
from ...store import events as events_store
from ...store import settings as store
from ...store.pool import Connection, Database, Row
from ..access import Principal, Scope
from .ids import read_long_id, read_short_id
from .problems import Kind, Refusal

_CHALLENGE = {"www-authenticate": "Bearer"}
_VISIT = "mailtrail.visit"
_bearer = HTTPBearer(
    scheme_name="key", auto_error=False, description="An API key, mtk_…; the roles are the scopes that it needs."
)


@dataclass(slots=True)
class Visit:
    """One request of a program, with the connection that all of it uses."""

    connection: Connection
    principal: Principal
    settings: Settings
    database: Database
    root: str

    @property
    def who(self) -> str:
        """The program's name in the audit log."""
        return self.principal.who

    def location(self, *parts: str) -> dict[str, str]:
        """The header that says where a new thing is."""
        return {"location": "/".join((self.root, *parts))}

    def space_id(self, text: str, *, field: str | None = None) -> int:
        """The number of a space's id; NotFound for what is none, and for a space that is not for this key."""
        number = read_short_id(text, "space", field=field)
        self.principal.check_space(number)
        return number

    async def space(self, text: str, *, field: str | None = None) -> Row:
        return await store.get_space(self.connection, self.space_id(text, field=field))

    async def event(self, space: str, text: str) -> Row:
        row = await self.space(space)
        return await events_store.get_event(self.connection, row["id"], read_short_id(text, "event"))

    async def mailing(self, space: str, text: str) -> Row:
        row = await self.space(space)
        return await store.get_mailing(self.connection, row["id"], read_long_id(text, "mailing"))


def bearer_secret(request: HTTPConnection) -> str:
    """What the request gives as its key; refuses one without."""
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise Refusal(Kind.UNAUTHORIZED, "send an API key as authorization: Bearer mtk_…", headers=_CHALLENGE)
    return secret.strip()


@contextlib.asynccontextmanager
async def let_in(request: Request, secret: str) -> AsyncIterator[None]:
    """While it lasts, the request has a connection and is of a known key; refuses a key that is unknown or revoked."""
    database: Database = request.app.state.database
    async with database.connection() as connection:
        row = await api_keys.api_key_of(connection, secret)
        if row is None:
            raise Refusal(Kind.UNAUTHORIZED, "the key is unknown or was revoked; send another", headers=_CHALLENGE)
        request.scope[_VISIT] = Visit(
            connection, Principal.of_key(row), request.app.state.settings, database, request.scope.get("root_path", "")
        )
        yield


async def _visit(request: Request, needed: SecurityScopes, _: Annotated[Any, Security(_bearer)]) -> Visit:
    visit: Visit = request.scope[_VISIT]
    for scope in needed.scopes:
        visit.principal.check(Scope(scope))
    return visit


Reading = Annotated[Visit, Security(_visit, scopes=[Scope.READ.value])]
Writing = Annotated[Visit, Security(_visit, scopes=[Scope.WRITE.value])]
Minting = Annotated[Visit, Security(_visit, scopes=[Scope.MINT.value])]
Prying = Annotated[Visit, Security(_visit, scopes=[Scope.PRIVACY.value])]
