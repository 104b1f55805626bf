"""Listening sockets.

Invariant: workers share a port with one another only; a port that anybody else listens on is refused.
"""

import socket

BACKLOG = 2_048
STALL_SECONDS = 30.0
"""How long an answer waits for a client that takes nothing; then the system ends the connection."""


def bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A socket that listens on an IPv4 or IPv6 address or name; OSError if it cannot.

    Several that are `shared` (SO_REUSEPORT) can listen on one port: the kernel deals connections out among them.
    """
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listening = socket.create_server(address[:2], family=family, backlog=BACKLOG, reuse_port=shared)
    # Its connections inherit it. Closing one does not end it while there is something left to send.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * STALL_SECONDS))
    return listening


class Listener:
    """A listening socket of one worker, held by its supervisor while the worker is replaced.

    Connections wait in a listening socket's queue until somebody accepts them; with its last holder they are reset.
    """

    def __init__(self, host: str, port: int, *, shared: bool) -> None:
        self._address = host, port
        self.shared = shared
        self._socket = bind(host, port, shared=shared)

    def open(self) -> int:
        """Its descriptor; listens again if it was closed. Raises OSError."""
        if self._socket.fileno() < 0:
            self._socket = bind(*self._address, shared=self.shared)
        return self._socket.fileno()

    def close(self) -> None:
        """Leaves new connections to others that share the port; those in the queue are the worker's or lost."""
        self._socket.close()


def listeners(host: str, port: int, number: int) -> list[Listener]:
    """One for each of so many workers, all on one port; 0 has the system choose it. OSError if it is not free."""
    if number == 1:
        return [Listener(host, port, shared=False)]
    # Shared sockets could join those of another program of this user. One that is not shared tells whether there are.
    with bind(host, port) as probe:
        port = probe.getsockname()[1]
    return [Listener(host, port, shared=True) for _ in range(number)]
