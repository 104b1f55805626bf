"""A peer: the same hit without a journal. A Starlette route that does all of our work, and one INSERT for each click.

Token, settings, agent, reduction and answer are the collector's own; only where the hit goes differs: into the hits'
own table, with its partitions, constraints and index, committed before the answer.
"""

import contextlib
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import asyncpg
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app import config
from app.collector.answer import Rules, answer
from app.collector.client import client_of_headers
from app.collector.collector import HitIds
from app.store import snapshot
from app.tracking.hits import Hit, Moment

CONNECTIONS = 10
_INSERT = """
insert into mailtrail.hits (
    at, id, kind, mode, space_id, event_id, mailing_id, link, registered, agent, agent_family, recipient, nonce,
    pseudonym, pseudonym_gap, client_address, user_agent, url, outcome
) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)
"""


@contextlib.asynccontextmanager
async def _connected(app: Starlette) -> AsyncIterator[None]:
    settings, state = config.load(), app.state
    async with asyncpg.create_pool(
        os.environ["BENCH_DATABASE_URL"], min_size=CONNECTIONS, max_size=CONNECTIONS
    ) as state.pool:
        async with state.pool.acquire() as connection:
            state.snapshot = snapshot.build(await snapshot.read_rows(connection), settings.anonymization_days)
            await connection.execute("select mailtrail.make_month(current_date)")
        state.rules, state.next_hit_id = Rules.of(settings), HitIds().next
        yield


async def _click(request: Request) -> Response:
    scope, state = request.scope, request.app.state
    client = client_of_headers(scope["headers"], scope["client"][0])
    at = Moment.of(datetime.now(UTC))
    made = answer("GET", scope["raw_path"], client, state.rules, state.snapshot, True, at, state.next_hit_id())
    if made.hit is not None:
        await state.pool.execute(_INSERT, *_values(made.hit))
    answered = Response(made.body, made.status)
    answered.raw_headers = list(made.headers)
    return answered


def _values(hit: Hit) -> tuple[Any, ...]:
    return (
        hit.at,
        hit.hit_id,
        hit.kind.label,
        hit.mode.label,
        hit.space,
        hit.event,
        hit.mailing,
        hit.link,
        hit.link_registered,
        hit.agent_kind,
        hit.agent_family,
        hit.recipient,
        hit.nonce,
        hit.pseudonym,
        hit.pseudonym_gap and hit.pseudonym_gap.value,
        hit.client_address,
        hit.user_agent,
        hit.url,
        hit.outcome.value,
    )


app = Starlette(routes=[Route("/c/{token}", _click)], lifespan=_connected)
