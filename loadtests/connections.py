"""Idle connections: opens many, asks once on each, and holds them until a line on its standard input.

python -m loadtests.connections PORT NUMBER FILE_OF_REQUESTS
"""

import socket
import sys

from app.errors import MailtrailError

from . import machine
from .requests import SEPARATOR

_ANSWER_BYTES = 65_536
_TIMEOUT_SECONDS = 30.0


class ConnectionEnded(MailtrailError):
    """The server did not answer on a connection or ended it."""


def main(port: int, number: int, requests: list[bytes]) -> None:
    """Says `held` when all connections were answered on, and in the end how many are still open."""
    machine.raise_file_limit()
    connections = [socket.create_connection(("127.0.0.1", port), _TIMEOUT_SECONDS) for _ in range(number)]
    # First all are opened, then all ask: the server ends a connection some seconds after its last request.
    for count, connection in enumerate(connections):
        connection.sendall(requests[count % len(requests)])
    if ended := sum(not connection.recv(_ANSWER_BYTES) for connection in connections):
        raise ConnectionEnded(f"{ended} of {number} connections were ended without an answer")
    print("held", flush=True)
    sys.stdin.buffer.readline()
    print(sum(map(_is_open, connections)), flush=True)


def _is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return True
    except OSError:
        return False


if __name__ == "__main__":
    with open(sys.argv[3], "rb") as file:
        main(int(sys.argv[1]), int(sys.argv[2]), file.read().split(SEPARATOR))
