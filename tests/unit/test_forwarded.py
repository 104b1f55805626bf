"""The client's address behind proxies: believed only as far as trusted proxies vouch for it."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.collector.forwarded import client_address

TRUSTED = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


@pytest.mark.parametrize(
    ("peer", "headers", "expected"),
    [
        # Nobody vouches for what a stranger's header says.
        ("203.0.113.9", [b"198.51.100.1"], "203.0.113.9"),
        ("203.0.113.9", [], "203.0.113.9"),
        # One trusted proxy, a chain of them, several headers.
        ("10.0.0.1", [b"198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", [b"198.51.100.1, 10.2.3.4"], "198.51.100.1"),
        ("10.0.0.1", [b"198.51.100.1", b"10.2.3.4"], "198.51.100.1"),
        ("fd00::1", [b"198.51.100.1"], "198.51.100.1"),
        # What the client itself put in front is not believed.
        ("10.0.0.1", [b"192.0.2.66, 198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", [b"10.6.6.6, 198.51.100.1, 10.2.3.4"], "198.51.100.1"),
        # All trusted: the farthest.
        ("10.0.0.1", [b"10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        # Spellings.
        ("10.0.0.1", [b" 198.51.100.1:567 "], "198.51.100.1"),
        ("10.0.0.1", [b"[2001:db8::5]:567"], "2001:db8::5"),
        ("10.0.0.1", [b'"[2001:db8::5]"'], "2001:db8::5"),
        ("10.0.0.1", [b"2001:DB8::5"], "2001:db8::5"),
        ("10.0.0.1", [b"::ffff:198.51.100.1"], "198.51.100.1"),
        ("::ffff:10.0.0.1", [b"198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", [b"fe80::1%eth0"], "fe80::1"),
        ("fe80::1%eth0", [b"198.51.100.1"], "fe80::1"),
        # What cannot be read ends the walk.
        ("10.0.0.1", [b""], "10.0.0.1"),
        ("10.0.0.1", [b"unknown"], "10.0.0.1"),
        ("10.0.0.1", [b"198.51.100.1, _hidden, 10.2.3.4"], "10.2.3.4"),
        ("10.0.0.1", [b"198.51.100.1,"], "10.0.0.1"),
        ("10.0.0.1", [b"198.51.100.1:port"], "10.0.0.1"),
        ("10.0.0.1", [b"[::1]5"], "10.0.0.1"),
        ("10.0.0.1", [b"[198.51.100.1"], "10.0.0.1"),
        ("10.0.0.1", [b"\xff\xfe, \x00"], "10.0.0.1"),
        ("10.0.0.1", [b"1" * 10_000], "10.0.0.1"),
        # No address at all: a unix socket, a name.
        (None, [b"198.51.100.1"], None),
        ("", [b"198.51.100.1"], None),
        ("testclient", [b"198.51.100.1"], None),
    ],
)
def test_hops(peer: str | None, headers: list[bytes], expected: str | None) -> None:
    assert expected == client_address(peer, headers, TRUSTED)


def test_a_chain_without_end_is_not_walked_to_its_end() -> None:
    assert client_address("10.0.0.1", [b"198.51.100.1, " + b"10.0.0.2, " * 50_000 + b"10.0.0.3"], TRUSTED) == "10.0.0.2"


@given(st.one_of(st.none(), st.text(max_size=60)), st.lists(st.binary(max_size=200), max_size=5))
def test_whatever_comes_an_address_or_nothing(peer: str | None, headers: list[bytes]) -> None:
    address = client_address(peer, headers, TRUSTED)
    assert address is None or str(ip_address(address)) == address


@given(st.lists(st.ip_addresses().map(str), max_size=6), st.ip_addresses(v=4, network="203.0.113.0/24").map(str))
def test_an_untrusted_peer_is_the_client_whatever_it_claims(claimed: list[str], peer: str) -> None:
    assert peer == client_address(peer, [", ".join(claimed).encode()], TRUSTED)
