"""Applies X-Forwarded-For and X-Forwarded-Proto as far as they can be trusted. Knows no settings.

Clients can send these headers. An entry counts only if a trusted proxy wrote it: the last entry is the proxy's own, and
each one before was written by the address in the entry after it.
"""

import ipaddress
from collections.abc import Sequence

from tornado.httputil import HTTPServerRequest

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def apply_forwarded_headers(request: HTTPServerRequest, trusted: Sequence[Network]) -> None:
    """Sets the request's address and scheme to the client's, if a trusted proxy reports them."""
    peer = request.remote_ip or ""
    if not trusted or not is_trusted(peer, trusted):
        return
    entries = ",".join(request.headers.get_list("X-Forwarded-For"))
    request.remote_ip = client_address(peer, entries, trusted)
    scheme = ",".join(request.headers.get_list("X-Forwarded-Proto")).rpartition(",")[2].strip().lower()
    if scheme in ("http", "https"):
        request.protocol = scheme


def client_address(peer: str, forwarded_for: str, trusted: Sequence[Network]) -> str:
    """The nearest address that is not a trusted proxy; the furthest address if all are."""
    address = peer
    for entry in reversed(forwarded_for.split(",")):
        if not is_trusted(address, trusted) or _parse(entry) is None:
            break
        address = entry.strip()
    return address


def network_of(address: str) -> str:
    """The network that counts as one address: for IPv6 the /64, which belongs to one customer (RFC 6177)."""
    parsed = _parse(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((parsed, 64), strict=False))
    return str(parsed or address)


def is_trusted(address: str, trusted: Sequence[Network]) -> bool:
    parsed = _parse(address)
    return parsed is not None and any(parsed in network for network in trusted)


def _parse(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text.strip())
    except ValueError:
        return None
    # A socket that listens on :: has an IPv4 client under ::ffff:0:0/96 (RFC 4291, 2.5.5.2).
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address
