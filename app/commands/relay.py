"""`relay`: the mail relay, SMTP in and SMTP out."""

import asyncio
import contextlib
import gc
import ipaddress
import os
import signal
import socket
import ssl

import click
import structlog

from ..config import Settings
from ..errors import ConfigError, StoreUnavailable
from ..health import private_app, serve_private
from ..metrics import Metrics
from ..sending.relay import Relay
from ..sending.relay_watch import RelayWatch
from ..sending.smtp_relay import RelayService
from ..sending.upstream import Upstream, UpstreamAddress
from ..store import relayed
from ..store.pool import Database
from .processes import (
    call_when_parent_ends,
    check_schema,
    end_with_parent_option,
    listen,
    run_served,
    settings_of_server,
    url_even_if_down,
)

GRACEFUL_SECONDS = 25.0
"""Less than what a supervisor waits for."""

_TASKS_SECONDS = 1.0
_FORGET_SECONDS = 3600.0
_log = structlog.get_logger()


@click.command()
@end_with_parent_option
def relay(end_with_parent: bool) -> None:
    """Run the mail relay: take mails by SMTP, track them as their space says, and pass them on."""
    settings = settings_of_server()
    address, tls = UpstreamAddress.of(settings), certificate_of(settings)
    if settings.relay_private_port and settings.relay_private_port == settings.private_port:
        raise ConfigError(
            "MAILTRAIL_RELAY_PRIVATE_PORT: the collector has this port for its own health; give the relay another one"
        )
    run_served(_relay(settings, address, tls, url_even_if_down(settings), end_with_parent))


async def _relay(
    settings: Settings, address: UpstreamAddress, tls: ssl.SSLContext | None, url: str, end_with_parent: bool
) -> None:
    await check_schema(url)
    listening = listen("RELAY_", settings.relay_host, settings.relay_port)
    check_private(listening, tls)
    own_name, identity = await asyncio.to_thread(socket.getfqdn), os.urandom(8).hex()
    upstream = Upstream(address, own_name, identity, settings.relay_timeout_seconds)
    database = Database(url)
    metrics = Metrics(settings.metrics_directory)
    carrier = Relay(settings, database, upstream, metrics)
    service = RelayService(carrier, own_name, identity, tls)
    server = await asyncio.get_running_loop().create_server(service, sock=listening)
    watch = RelayWatch(upstream, database, metrics)
    tasks = [asyncio.create_task(_forget_old(database))]
    try:
        await watch.look()
        tasks.append(asyncio.create_task(watch.run()))
        if settings.relay_private_port:
            private = private_app(metrics, lambda: watch.health)
            port = serve_private(private, settings.private_host, settings.relay_private_port, is_shared=False)
            tasks.append(asyncio.create_task(port))
        gc.freeze()
        _log.info("relay serves", address="{}:{}".format(*listening.getsockname()[:2]))
        await _until_asked_to_end(end_with_parent)
    finally:
        for task in tasks:
            task.cancel()
        server.close()
        await service.close(GRACEFUL_SECONDS)
        await asyncio.wait(tasks, timeout=_TASKS_SECONDS)  # a database that hangs holds on to its askers
        await upstream.close()
        with contextlib.suppress(StoreUnavailable):  # told when it went away
            await carrier.close()
        await database.close()


async def _until_asked_to_end(with_parent: bool) -> None:
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked.set)
    if with_parent:
        call_when_parent_ends(asked.set)
    await asked.wait()


async def _forget_old(database: Database) -> None:
    while True:
        with contextlib.suppress(StoreUnavailable):  # in an hour, then
            async with database.connection() as connection:
                await relayed.forget_old(connection)
        await asyncio.sleep(_FORGET_SECONDS)


def certificate_of(settings: Settings) -> ssl.SSLContext | None:
    """For STARTTLS with clients; None if there is no certificate. ConfigError if it cannot be used."""
    certificate, key = settings.relay_certificate, settings.relay_certificate_key
    if certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"MAILTRAIL_RELAY_CERTIFICATE, MAILTRAIL_RELAY_CERTIFICATE_KEY: {certificate} cannot be used"
            f" ({error.strerror or error}); give a certificate with its chain, and its key, as PEM"
        ) from None
    return context


def check_private(listening: socket.socket, tls: ssl.SSLContext | None) -> None:
    """ConfigError where keys would cross a network readable."""
    host = listening.getsockname()[0]
    if tls is None and not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
        listening.close()
        raise ConfigError(
            f"MAILTRAIL_RELAY_CERTIFICATE: clients sign in from other machines at {host}, so the relay needs a"
            " certificate for STARTTLS; give one, or listen on 127.0.0.1"
        )
