"""`ship`: the shipper, which moves hits from the journals into the database."""

import asyncio
import signal

import click
import structlog

from ..config import Settings
from ..metrics import Metrics
from ..shipper.ship import Shipper
from .processes import (
    call_when_parent_ends,
    check_schema,
    end_with_parent_option,
    run_served,
    settings_of_server,
    url_even_if_down,
)

_log = structlog.get_logger()


@click.command()
@end_with_parent_option
def ship(end_with_parent: bool) -> None:
    """Run the shipper: move hits from the journals into the database."""
    settings = settings_of_server()
    run_served(_ship(settings, url_even_if_down(settings), end_with_parent))


async def _ship(settings: Settings, url: str, end_with_parent: bool) -> None:
    await check_schema(url)
    shipper = Shipper(settings, url, Metrics(settings.metrics_directory))
    shipping = asyncio.create_task(shipper.run())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, shipping.cancel)
    if end_with_parent:
        call_when_parent_ends(shipping.cancel)
    _log.info("shipper runs", journals=str(settings.journals_directory))
    await asyncio.gather(shipping, return_exceptions=True)
    await shipper.drain()
