"""The server of the public port: uvicorn's, which itself ends by resetting whoever is just about to ask.

Invariant: a stop fails no request whose connection was there before it and that comes within `LINGER_SECONDS`:
connections that still wait in the kernel's queue are taken too, and every answer ends its connection.
"""

import asyncio
import socket
import time
from collections.abc import Iterator

from ..lasting import LastingServer
from ..sockets import BACKLOG

LINGER_SECONDS = 1.0
"""How long a stop waits for requests on open connections. With none open it does not wait."""

_LOOK_SECONDS = 0.02


class CollectorServer(LastingServer):
    """Serves the sockets that it is given. Relies on `shutdown`, `servers`, `lifespan` and the server's state."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Takes who waits, stops listening, lets everybody ask once more, then ends as uvicorn does."""
        listening = sockets or []
        # At once, one after the other: what comes between the last one taken and the end of the socket is reset,
        # unless a supervisor holds it too.
        waiting = [connection for each in listening for connection in _take_waiting(each)]
        for server in self.servers:
            server.close()
        for each in listening:
            each.close()
        state = self.server_state
        state.default_headers = [*state.default_headers, (b"connection", b"close")]
        loop = asyncio.get_running_loop()
        await asyncio.gather(
            *(loop.connect_accepted_socket(self._speak, connection) for connection in waiting), return_exceptions=True
        )
        await self._linger()
        await super().shutdown()

    async def _linger(self) -> None:
        until = time.monotonic() + LINGER_SECONDS
        while self.server_state.connections and not self.force_exit and time.monotonic() < until:
            await asyncio.sleep(_LOOK_SECONDS)

    def _speak(self) -> asyncio.Protocol:
        """A connection's protocol, made as uvicorn makes it for connections that it accepts itself."""
        return self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )


def _take_waiting(listening: socket.socket) -> Iterator[socket.socket]:
    for _ in range(BACKLOG):  # not for ever: they may come as fast as they are taken
        try:
            yield listening.accept()[0]
        except OSError:  # none is left, or the last one is gone already; descriptors may be at their end
            return
