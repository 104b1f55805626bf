"""What the processes that serve HTTP share: uvicorn as we run it, and its end."""

import signal
from typing import Any

import uvicorn

from .processes import call_when_parent_ends


def configure(app: Any, graceful_seconds: int, **more: Any) -> uvicorn.Config:
    """No log of requests, which would have tokens beside addresses, and nothing that tells what serves."""
    return uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=graceful_seconds,
        **more,
    )


def end_when_asked(server: uvicorn.Server, *, with_parent: bool) -> None:
    """By SIGINT, SIGTERM, and if so by the end of the parent; the caller goes on behind `serve`."""

    def stop() -> None:
        server.should_exit = True

    if with_parent:
        call_when_parent_ends(stop)
    # uvicorn repeats the signal when it has ended; what the caller holds must be closed after that.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop())
