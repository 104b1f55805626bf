"""Whether the relay could pass a mail on, looked at also while none comes: else nobody would send it one again."""

import asyncio
from collections.abc import Awaitable

import structlog

from ..errors import ConfigError, StoreUnavailable
from ..health import Health
from ..logs import place_of
from ..metrics import Metrics
from ..store.pool import Database
from .upstream import Upstream

LOOK_SECONDS = 30.0
"""Not more often: while no mail comes, each look signs in at the next mail server."""

PROBLEMS = ("upstream_down", "database_down")
"""What can keep the relay from its work, as `/readyz` says it."""

_ANSWER_SECONDS = 5.0
_log = structlog.get_logger()


class RelayWatch:
    """Looks every now and then; `health` says what was seen last, for `/readyz`. What gives no answer is not there."""

    def __init__(
        self, upstream: Upstream, database: Database, metrics: Metrics, look_seconds: float = LOOK_SECONDS
    ) -> None:
        self._upstream = upstream
        self._database = database
        self._metrics = metrics
        self._look_seconds = look_seconds
        self.health = Health(PROBLEMS)

    async def run(self) -> None:
        """Looks until it is cancelled."""
        while True:
            await asyncio.sleep(self._look_seconds)
            try:
                await self.look()
            except ConfigError as error:  # its name has another address now
                _log.error("the relay cannot pass mails on", error=str(error))

    async def look(self) -> None:
        """Looks once; ConfigError if the next mail server is this relay itself."""
        seen = await asyncio.gather(
            _in_time(self._upstream.is_there(self._look_seconds)),
            _in_time(self._has_database()),
            return_exceptions=True,
        )
        self._metrics.relay_upstream_up.set(seen[0] is True)
        self.health = Health([word for word, good in zip(PROBLEMS, seen, strict=True) if good is not True])
        for fault in seen:
            if isinstance(fault, ConfigError):
                raise fault
            if isinstance(fault, Exception):
                _log.error("a look at the relay's neighbours failed", fault=place_of(fault))

    async def _has_database(self) -> bool:
        try:
            async with self._database.connection() as connection:
                await connection.execute("select")
        except StoreUnavailable:
            return False
        return True


async def _in_time(answer: Awaitable[bool]) -> bool:
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            return await answer
    except TimeoutError:
        return False
