"""Requests as they are let in: with a key, bounded, their JSON strict.

Invariant: nobody is let wait for a body, nor is it read, while a connection of the database is held.
"""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ClassVar

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from ...errors import SettingsError
from ...sending import strict_json
from ...sending.strict_json import NoJson
from .identity import bearer_secret, let_in, recognise
from .problems import Kind, Refusal

MAX_BODY_BYTES = 512 * 1024
MAX_MAIL_BODY_BYTES = 40 * 2**20
"""Of a body that has a whole mail, in base64 as a rule: 30 MB of mail."""

_Answer = Callable[[Request], Awaitable[Response]]


class Asked(Request):
    """A request whose body is bounded and whose JSON is strict."""

    most_bytes = MAX_BODY_BYTES

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            self._body = await self._read_body()
        return self._body

    async def json(self) -> Any:
        return read_json(await self.body())

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    async def _read_body(self) -> bytes:
        declared = self.headers.get("content-length", "0")
        check_size(int(declared) if declared.isascii() and declared.isdecimal() else 0, self.most_bytes)
        body = bytearray()
        async for chunk in self.stream():
            body += chunk
            check_size(len(body), self.most_bytes)
        return bytes(body)


class ApiRoute(APIRoute):
    """A route that lets only keys in, and reads the body before it takes a connection."""

    max_body_bytes: ClassVar[int] = MAX_BODY_BYTES

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def handle(request: Request) -> Response:
            asked = Asked(request.scope, request.receive)
            asked.most_bytes = self.max_body_bytes
            return await self.let_through(asked, bearer_secret(asked), answer)

        return handle

    async def let_through(self, asked: Asked, secret: str, answer: _Answer) -> Response:
        body = await asked.body()
        async with let_in(asked, secret):
            if body and self.body_field is not None:
                _check_is_json(asked)
            return await answer(asked)


class MailRoute(ApiRoute):
    """One whose body may have a whole mail."""

    max_body_bytes = MAX_MAIL_BODY_BYTES


class StreamedRoute(ApiRoute):
    """One that is answered while its body is read: it has no body and no connection, but whoever asks is known."""

    async def let_through(self, asked: Asked, secret: str, answer: _Answer) -> Response:
        await recognise(asked, secret)
        return await answer(asked)


def check_size(size: int, most: int) -> None:
    """Refuses a body above so many bytes."""
    if size > most:
        raise Refusal(Kind.TOO_LARGE, f"the body has more than {most // 1024} kB; send less")


def read_json(body: bytes) -> Any:
    """The value of a JSON text in UTF-8, with no name twice, no NaN, no NUL and no lone surrogate."""
    try:
        return strict_json.read_json(body)
    except NoJson:
        raise Refusal(Kind.MALFORMED, "the body is no JSON in UTF-8; correct it") from None
    except SettingsError as error:
        raise Refusal(Kind.INVALID, str(error), field=error.field) from None


def _check_is_json(asked: Asked) -> None:
    kind, _, form = asked.media_type.partition("/")
    if kind != "application" or (form != "json" and not form.endswith("+json")):
        raise Refusal(Kind.MEDIA_TYPE, "the body is JSON here; send it with content-type: application/json")
