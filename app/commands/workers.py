"""How many collector processes share the port, and the supervisor's children for them."""

import os
from collections.abc import Mapping

import click

from ..collector.sockets import listeners
from ..config import Settings
from .processes import telling_of_port
from .supervisor import Child

workers_option = click.option(
    "--workers",
    type=click.IntRange(0, 1024),
    help="Collector processes that share the port; 0: one per core that they may use. [default: MAILTRAIL_WORKERS]",
)


def collectors(settings: Settings, environment: Mapping[str, str]) -> list[Child]:
    """A collector for each worker, to be supervised; the sockets listen already."""
    number = number_of_workers(settings)
    with telling_of_port("", settings.host, settings.port):
        made = listeners(settings.host, settings.port, number)
    if number == 1:
        return [Child("collect", environment, made[0])]
    return [Child("collect", environment, listener, worker) for worker, listener in enumerate(made, 1)]


def number_of_workers(settings: Settings) -> int:
    return settings.workers or len(os.sched_getaffinity(0))
