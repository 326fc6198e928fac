"""Which X-Forwarded headers are believed."""

import ipaddress

import pytest

from handlers.access.forwarded import client_address, is_trusted, network_of

TRUSTED = [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1")]


@pytest.mark.parametrize(
    ("peer", "said", "client"),
    [
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "192.0.2.7", "192.0.2.7"),
        ("10.0.0.1", "203.0.113.9, 192.0.2.7", "192.0.2.7"),  # the first one the client may have made up
        ("10.0.0.1", "192.0.2.7, 10.0.0.2", "192.0.2.7"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("::1", "2001:db8::7", "2001:db8::7"),
        ("::ffff:10.0.0.1", "192.0.2.7", "192.0.2.7"),
        ("192.0.2.1", "10.0.0.1", "192.0.2.1"),
        ("10.0.0.1", "unknown", "10.0.0.1"),
        ("10.0.0.1", "192.0.2.7, <script>", "10.0.0.1"),
        ("10.0.0.1", "192.0.2.7, rubbish, 10.0.0.2", "10.0.0.2"),
    ],
)
def test_the_client_is_the_nearest_address_that_is_not_trusted(peer: str, said: str, client: str):
    assert client_address(peer, said, TRUSTED) == client


@pytest.mark.parametrize("peer", ["", "0.0.0.0", "11.0.0.1", "::2", "10.0.0.1.example.com"])
def test_what_is_not_named_is_not_trusted(peer: str):
    assert not is_trusted(peer, TRUSTED)


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("0.0.0.0", "0.0.0.0"),
        ("", ""),
    ],
)
def test_the_addresses_of_one_network_of_ipv6_are_one_place(address: str, place: str):
    assert network_of(address) == place
