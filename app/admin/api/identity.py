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
from ...errors import NotFound, SettingsError
from ...store import api_keys
from ...store import events as events_store
from ...store import settings as store
from ...store.pool import Connection, Database, Row
from ..access import Principal, Scope
from .ids import read_long_id, read_short_id
from .problems import Kind, Refusal

_CHALLENGE = {"www-authenticate": "Bearer"}
_VISIT = "mailtrail.visit"
_CALLER = "mailtrail.caller"
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

    async def named_space(self, text: str | None) -> Row:
        """The space that a body names; a key of one space may leave it out."""
        if text is not None:
            try:
                return await self.space(text)
            except NotFound as error:
                raise NotFound(str(error), field="space") from None
        if self.principal.space is None:
            raise SettingsError("the key reaches all spaces; say which one it is for", field="space")
        return await store.get_space(self.connection, self.principal.space)

    async def named_event(self, space: int, text: str) -> Row:
        """The event that a body names, by its name or its id."""
        try:
            return await events_store.find_event(self.connection, space, text)
        except NotFound:  # its words name others, which a key need not be allowed to read
            raise NotFound("there is no such event", field="event") from None

    async def event(self, space: str, text: str) -> Row:
        row = await self.space(space)
        return await events_store.get_event(self.connection, row["id"], read_short_id(text, "event"))

    async def mailing(self, space: str, text: str) -> Row:
        row = await self.space(space)
        return await store.get_mailing(self.connection, row["id"], read_long_id(text, "mailing"))


@dataclass(slots=True)
class Caller:
    """A program whose request is answered while it is read: nothing of the database is held meanwhile."""

    principal: Principal
    settings: Settings
    database: Database
    root: str
    _secret: str

    @contextlib.asynccontextmanager
    async def visit(self) -> AsyncIterator[Visit]:
        """A connection for as long as it lasts; refuses a key that was revoked meanwhile."""
        async with self.database.connection() as connection:
            principal = await _principal(connection, self._secret)
            yield Visit(connection, principal, self.settings, self.database, self.root)


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
        principal = await _principal(connection, secret)
        request.scope[_VISIT] = Visit(connection, principal, request.app.state.settings, database, _root(request))
        yield


async def recognise(request: Request, secret: str) -> None:
    """As `let_in`, but without a connection that lasts."""
    database: Database = request.app.state.database
    async with database.connection() as connection:
        principal = await _principal(connection, secret)
    request.scope[_CALLER] = Caller(principal, request.app.state.settings, database, _root(request), secret)


async def _principal(connection: Connection, secret: str) -> Principal:
    row = await api_keys.api_key_of(connection, secret)
    if row is None:
        raise Refusal(Kind.UNAUTHORIZED, "the key is unknown or was revoked; send another", headers=_CHALLENGE)
    return Principal.of_key(row)


def _root(request: Request) -> str:
    root: str = request.scope.get("root_path", "")
    return root


async def _visit(request: Request, needed: SecurityScopes, _: Annotated[Any, Security(_bearer)]) -> Visit:
    visit: Visit = request.scope[_VISIT]
    _check(visit.principal, needed)
    return visit


async def _caller(request: Request, needed: SecurityScopes, _: Annotated[Any, Security(_bearer)]) -> Caller:
    caller: Caller = request.scope[_CALLER]
    _check(caller.principal, needed)
    return caller


def _check(principal: Principal, needed: SecurityScopes) -> None:
    for scope in needed.scopes:
        principal.check(Scope(scope))


Reading = Annotated[Visit, Security(_visit, scopes=[Scope.READ.value])]
Writing = Annotated[Visit, Security(_visit, scopes=[Scope.WRITE.value])]
Minting = Annotated[Visit, Security(_visit, scopes=[Scope.MINT.value])]
Prying = Annotated[Visit, Security(_visit, scopes=[Scope.PRIVACY.value])]
MintingMany = Annotated[Caller, Security(_caller, scopes=[Scope.MINT.value])]
