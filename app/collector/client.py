"""What a request says of its client, as far as an answer or its hit may depend on it.

Two readers, one for headers that a server has parsed and one for the bytes of a whole head, give the same: the first
user agent that is not empty, whether any header announces a prefetch, and all values of X-Forwarded-For in order.
"""

import re
from collections.abc import Iterable, Sequence

from msgspec import Struct

from ..tracking.agents import PREFETCH_HEADERS, announces_prefetch

Header = tuple[bytes, bytes]

_USER_AGENT = b"user-agent"
_FORWARDED_FOR = b"x-forwarded-for"
_READ = PREFETCH_HEADERS | {_USER_AGENT, _FORWARDED_FOR}


def _field(names: Iterable[bytes]) -> re.Pattern[bytes]:
    """Finds a header of one of these names in any case; the group that it fills is the name's place, counted from 1.

    A user agent's group is empty, where its value begins; any other is the value. Letters in brackets at the front of
    what may follow a line end are what this engine looks for fastest; a group around them or ignoring the case is not.
    """
    fields = [_in_any_case(name) + ":[ \t]*" + ("()" if name == _USER_AGENT else "([^\r]*)") for name in names]
    return re.compile(f"\r\n(?:{'|'.join(fields)})".encode())


def _in_any_case(name: bytes) -> str:
    return re.sub("[a-z]", lambda letter: f"[{letter[0].upper()}{letter[0]}]", name.decode())


_NAMES = (_USER_AGENT, *sorted(PREFETCH_HEADERS), _FORWARDED_FOR)
_FIELD = _field(_NAMES[:-1])
_FIELD_OR_HOPS = _field(_NAMES)
_AGENT_PLACE = 1


class Client(Struct, frozen=True, gc=False):
    """`peer` is the connection's address; the values are as they came."""

    peer: str | None
    user_agent: bytes = b""
    announces_prefetch: bool = False
    forwarded_for: Sequence[bytes] = ()


def client_of_headers(headers: Sequence[Header], peer: str | None) -> Client:
    """From parsed headers, their names in lower case."""
    return _client([header for header in headers if header[0] in _READ], peer)


def client_of_head(head: bytes, begin: int, peer: str | None) -> Client:
    """From a request's head that a parser has found sound, whole, without folded lines; X-Forwarded-For is left out.

    `begin` is where its target ends, so that nobody looks for headers in there.
    """
    return _client_of_head(head, begin, peer, _FIELD)


def client_and_hops_of_head(head: bytes, begin: int, peer: str | None) -> Client:
    """The same with X-Forwarded-For, for where addresses are kept."""
    return _client_of_head(head, begin, peer, _FIELD_OR_HOPS)


def _client_of_head(head: bytes, begin: int, peer: str | None, field: re.Pattern[bytes]) -> Client:
    first = field.search(head, begin)
    if first is None:
        return Client(peer)
    if first.lastindex == _AGENT_PLACE:
        at = first.end()
        end = head.find(b"\r", at)  # this engine would take 30 µs to walk over 8 kB
        if end < 0:
            return Client(peer, head[at:])
        if field.search(head, end) is None:  # as most have it
            return Client(peer, head[at:end])
    return _client([_header(head, found) for found in field.finditer(head, begin)], peer)


def _header(head: bytes, found: re.Match[bytes]) -> Header:
    place = found.lastindex or 0
    if place == _AGENT_PLACE:
        return _USER_AGENT, head[found.end() :].partition(b"\r")[0]
    return _NAMES[place - 1], found[place]


def _client(read: Sequence[Header], peer: str | None) -> Client:
    user_agent, prefetch, forwarded_for = b"", False, []
    for name, value in read:
        if name == _USER_AGENT:
            user_agent = user_agent or value
        elif name == _FORWARDED_FOR:
            forwarded_for.append(value)
        else:
            prefetch = prefetch or announces_prefetch(value)
    return Client(peer, user_agent, prefetch, forwarded_for)
