"""The running server that a load is put on: whether it answers, and whether it can open what was just minted.

Invariant: it is asked with HEAD only, which records nothing.
"""

import http.client
import time
from urllib.parse import urlsplit

from .sender import LoadFailed

KEYS_SECONDS = 10.0
ANSWER_SECONDS = 5.0
_RETRY_SECONDS = 0.1
_IN_A_ROW = 50
"""Redirects, each over a new connection: every collector that shares the port is to have the new key."""


def check_answer(base: str) -> None:
    """LoadFailed if nobody answers there."""
    _ask(base, "/livez")


def wait_for_keys(base: str, token: str) -> None:
    """Until every collector opens this click token; LoadFailed if they do not learn of its key."""
    deadline = time.monotonic() + KEYS_SECONDS
    in_a_row = 0
    while in_a_row < _IN_A_ROW:
        status = _ask(base, f"/c/{token}")
        in_a_row = in_a_row + 1 if status == http.client.FOUND else 0
        if in_a_row == 0:
            if time.monotonic() > deadline:
                raise LoadFailed(
                    f"the server at {base} answers a link that was just minted with {status}: it has another database;"
                    " give MAILTRAIL_DATA_DIRECTORY or MAILTRAIL_DATABASE_URL as the server has it"
                )
            time.sleep(_RETRY_SECONDS)


def _ask(base: str, path: str) -> int:
    """The status."""
    url = urlsplit(base)
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(url.hostname or "", url.port, timeout=ANSWER_SECONDS)
    try:
        connection.request("HEAD", f"{url.path}{path}")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise LoadFailed(
            f"no server answers at {base} ({str(error) or type(error).__name__}); start one with `make run`, with the"
            " same MAILTRAIL_ settings as here"
        ) from None
    finally:
        connection.close()
