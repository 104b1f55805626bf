"""Requests as they are let in: bounded, and JSON without what PostgreSQL or the next reader would take otherwise.

Invariant: nobody is let wait for a body, nor is it read, while a connection of the database is held.
"""

import json
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from .identity import bearer_secret, let_in
from .problems import Kind, Refusal

MAX_BODY_BYTES = 512 * 1024


class Asked(Request):
    """A request whose body is bounded and whose JSON is strict."""

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
        check_size(int(declared) if declared.isascii() and declared.isdecimal() else 0, MAX_BODY_BYTES)
        body = bytearray()
        async for chunk in self.stream():
            body += chunk
            check_size(len(body), MAX_BODY_BYTES)
        return bytes(body)


class ApiRoute(APIRoute):
    """A route that lets only keys in, and reads the body before it takes a connection."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def handle(request: Request) -> Response:
            asked = Asked(request.scope, request.receive)
            secret = bearer_secret(asked)
            body = await asked.body()
            async with let_in(asked, secret):
                if body and self.body_field is not None:
                    _check_is_json(asked)
                return await answer(asked)

        return handle


def check_size(size: int, most: int) -> None:
    """Refuses a body above so many bytes."""
    if size > most:
        raise Refusal(Kind.TOO_LARGE, f"the body has more than {most // 1024} kB; send less")


def read_json(body: bytes) -> Any:
    """The value of a JSON text in UTF-8, with no name twice, no NaN, no NUL and no lone surrogate."""
    try:
        content = json.loads(body.decode(), object_pairs_hook=_without_repetition, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise Refusal(Kind.MALFORMED, "the body is no JSON in UTF-8; correct it") from None
    if isinstance(content, dict):
        for name, value in content.items():
            _check_texts(name, None)
            _check_texts(value, name[:100])
    else:
        _check_texts(content, None)
    return content


def is_storable(text: str) -> bool:
    """Whether PostgreSQL keeps the text as it is."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def _check_texts(content: Any, field: str | None) -> None:
    if not all(map(is_storable, _texts(content))):
        problem = "NUL characters and lone surrogates are in no text; remove them"
        raise Refusal(Kind.INVALID, problem, field=field)


def _texts(content: Any) -> Iterator[str]:
    left = [content]
    while left:
        value = left.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            left += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            left += value


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Refusal(Kind.INVALID, f"{twice[:100]!r} is there twice; keep one", field=twice[:100])
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _check_is_json(asked: Asked) -> None:
    kind, _, form = asked.media_type.partition("/")
    if kind != "application" or (form != "json" and not form.endswith("+json")):
        raise Refusal(Kind.MEDIA_TYPE, "the body is JSON here; send it with content-type: application/json")
