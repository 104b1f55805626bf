"""Listening sockets, as all servers here open them."""

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
