"""The public port's listening sockets, one for each worker.

Invariant: workers share a port with one another only; a port that anybody else listens on is refused.
"""

from ..sockets import bind


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
