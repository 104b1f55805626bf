"""A peer: the least that can be called counting clicks. A Starlette route and one INSERT of what came.

It opens no token, decides nothing, reads no user agent and keeps no index but the key: its row says neither who clicked
nor what. It shows what Starlette, the driver and PostgreSQL cost by themselves; `inserting.py` does the work of a hit.
"""

import contextlib
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import asyncpg
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

CONNECTIONS = 10
_TABLE = """
create table if not exists public.clicks (
    id bigint generated always as identity primary key,
    token text not null,
    user_agent text,
    address text,
    at timestamptz not null
)
"""
_INSERT = "insert into public.clicks (token, user_agent, address, at) values ($1, $2, $3, $4)"
_LOCATION = os.environ.get("BENCH_LOCATION", "https://www.example/")
_HEADERS = {
    "location": _LOCATION,
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-robots-tag": "noindex",
}


@contextlib.asynccontextmanager
async def _connected(app: Starlette) -> AsyncIterator[None]:
    async with asyncpg.create_pool(
        os.environ["BENCH_DATABASE_URL"], min_size=CONNECTIONS, max_size=CONNECTIONS
    ) as app.state.pool:
        await app.state.pool.execute(_TABLE)
        yield


async def _click(request: Request) -> Response:
    headers = request.headers
    await request.app.state.pool.execute(
        _INSERT,
        request.path_params["token"],
        headers.get("user-agent"),
        headers.get("x-forwarded-for"),
        datetime.now(UTC),
    )
    return Response(status_code=302, headers=_HEADERS)


app = Starlette(routes=[Route("/c/{token}", _click)], lifespan=_connected)
