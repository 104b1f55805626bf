"""Listening sockets."""

import socket

BACKLOG = 2_048


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens on an IPv4 or IPv6 address or name; OSError if it cannot."""
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return socket.create_server(address[:2], family=family, backlog=BACKLOG)
