"""A peer: raw ASGI on uvicorn that answers everything with one constant redirect. The least a Python server can do."""

import os

from starlette.types import Receive, Scope, Send

_START = {
    "type": "http.response.start",
    "status": 302,
    "headers": (
        (b"location", os.environ.get("BENCH_LOCATION", "https://www.example/").encode()),
        (b"content-length", b"0"),
        (b"cache-control", b"no-store"),
        (b"referrer-policy", b"no-referrer"),
        (b"x-robots-tag", b"noindex"),
    ),
}
_BODY = {"type": "http.response.body", "body": b""}


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """For `uvicorn loadtests.constant:app`."""
    await send(_START)
    await send(_BODY)
