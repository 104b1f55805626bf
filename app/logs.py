"""The log: structlog to stderr. Invariant: no token, recipient, address, user agent or URL is ever logged.

Exceptions are logged by their type and place only: their text may quote what a request said.
"""

import logging
import sys
import traceback
from typing import Literal

import structlog


def configure(log_format: Literal["console", "json"], level: str, *, worker: int | None = None) -> None:
    """Sets the log up for this process; its number among several workers is in every line."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    logging.getLogger("uvicorn.error").addFilter(_is_no_warning)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            *([] if worker is None else [_numbering(worker)]),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def _numbering(worker: int) -> structlog.typing.Processor:
    def number(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event["worker"] = worker
        return event

    return number


def _is_no_warning(record: logging.LogRecord) -> bool:
    """uvicorn's warnings are about single requests, `Invalid HTTP request received.`: anybody could fill the log."""
    return record.levelno != logging.WARNING


def place_of(error: BaseException) -> str:
    """The error's type and where it was raised, e.g. `KeyError at answer.py:41`; never its text."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].lineno}" if frames else ""
    return type(error).__name__ + where
