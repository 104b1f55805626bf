"""The client's address behind proxies: the last hop of X-Forwarded-For that a trusted proxy saw with its own eyes.

Invariant: an address that nobody trusted has vouched for is never returned; what cannot be read ends the walk at the
last hop that can be believed. Nothing here raises.
"""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Networks = Sequence[IPv4Network | IPv6Network]

_MAX_HOPS = 32
# The longest address with brackets, zone and port is well below this.
_MAX_HOP_BYTES = 100


def client_address(peer: str | None, forwarded_for: Sequence[bytes], trusted: Networks) -> str | None:
    """The client's address, None if the peer has none. `forwarded_for`: the values of all such headers, in order."""
    believed = _parse(peer or "")
    if believed is None:
        return None
    for hop in reversed(b",".join(forwarded_for).rsplit(b",", _MAX_HOPS)[-_MAX_HOPS:]):
        if not _is_in(believed, trusted):
            break
        named = _parse_hop(hop)
        if named is None:
            break
        believed = named
    return str(believed)


def _is_in(address: IPv4Address | IPv6Address, networks: Networks) -> bool:
    return any(address in network for network in networks)


def _parse_hop(hop: bytes) -> IPv4Address | IPv6Address | None:
    """The address of `1.2.3.4`, `1.2.3.4:567`, `::1` or `[::1]:567`; None for anything else."""
    if len(hop) > _MAX_HOP_BYTES:
        return None
    text = hop.decode("latin-1").strip(' \t"')
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        return _parse(host) if bracket and _is_port(port) else None
    host, colon, port = text.partition(":")
    if ":" in port:
        return _parse(text)
    return _parse(host) if _is_port(colon + port) else None


def _is_port(text: str) -> bool:
    return not text or (text[0] == ":" and text[1:].isascii() and text[1:].isdigit())


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    """The address without its zone; one that is mapped into IPv6 is the IPv4 address that it is."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return (address.ipv4_mapped or IPv6Address(int(address))) if isinstance(address, IPv6Address) else address
