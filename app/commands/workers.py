"""Collector processes that share the port: how many, and how each is kept running.

Invariant: connections that wait for a worker that died are there for the next one, unless it dies again and others can
answer in its place.
"""

import asyncio
import os
from collections.abc import Mapping

import click

from ..collector.listeners import Listener, listeners
from ..config import Settings
from .processes import telling_of_port
from .reserve import Recruit, Reserve
from .supervisor import Child

workers_option = click.option(
    "--workers",
    type=click.IntRange(0, 1024),
    help="Collector processes that share the port; 0: one per core that they may use. [default: MAILTRAIL_WORKERS]",
)


class Worker(Child):
    """A collector that is to be kept running: with a number if there are several, and a listening socket of its own."""

    def __init__(self, reserve: Reserve, listener: Listener, number: int | None = None) -> None:
        super().__init__("collect")
        self._reserve = reserve
        self._listener = listener
        self._number = number
        self._recruit: Recruit | None = None
        if number is not None:
            self._log = self._log.bind(worker=number)

    async def _start(self, after: int | None) -> asyncio.subprocess.Process:
        self._dismiss()
        # Who was asked to end may have been for a new version's sake, which the one in reserve would not have.
        self._recruit = await self._reserve.enlist(self._number, self._listener.open(), anew=after == 0)
        return self._recruit.process

    def _leave_to_others(self) -> None:
        """One that does not come up must not keep connections that others would answer."""
        if self._listener.shared:
            self._listener.close()

    async def stop(self) -> None:
        self._listener.close()
        await self._reserve.end()
        await super().stop()
        self._dismiss()

    def _dismiss(self) -> None:
        if self._recruit is not None:
            self._recruit.orders.close()


def collectors(settings: Settings, environment: Mapping[str, str]) -> list[Worker]:
    """A collector for each worker, to be supervised; the sockets listen already."""
    number = number_of_workers(settings)
    with telling_of_port("", settings.host, settings.port):
        made = listeners(settings.host, settings.port, number)
    reserve = Reserve("collect", environment)
    if number == 1:
        return [Worker(reserve, made[0])]
    return [Worker(reserve, listener, worker) for worker, listener in enumerate(made, 1)]


def number_of_workers(settings: Settings) -> int:
    return settings.workers or len(os.sched_getaffinity(0))
