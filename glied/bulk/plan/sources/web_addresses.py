"""Which IP addresses a URL of a table may lead to: public ones, and private ones only if they are allowed."""

import ipaddress
from collections.abc import Sequence

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_GLOBAL_IPV6 = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NOT_PUBLIC = tuple(
    # What `is_global` lets through on some Python versions: protocol assignments, relays, documentation.
    ipaddress.ip_network(text)
    for text in ("192.0.0.0/24", "192.88.99.0/24", "3fff::/20")
)
_METADATA = tuple(
    # Link-local, and the services that hand out credentials elsewhere: AWS, Google, Alibaba, Azure, Oracle.
    ipaddress.ip_network(text)
    for text in (
        "169.254.0.0/16",
        "fe80::/10",
        "fd00:ec2::254/128",
        "fd20:ce::254/128",
        "100.100.100.200/32",
        "168.63.129.16/32",
        "192.0.0.192/32",
    )
)


def is_allowed(address: str, allow_private: bool) -> bool:
    """Whether a connection may go to a numeric IPv4 or IPv6 address.

    IPv6 addresses that embed IPv4 addresses are checked by those. Without `allow_private` only global unicast
    addresses are allowed; link-local addresses and the metadata services of clouds never are.
    """
    destinations = _destinations(ipaddress.ip_address(address))
    if any(ip in network for ip in destinations for network in _METADATA):
        return False
    return allow_private or all(_is_public(ip) for ip in destinations)


def _destinations(ip: IPAddress) -> Sequence[IPAddress]:
    """Where packets to `ip` may end: there, or at the IPv4 addresses that it embeds."""
    if isinstance(ip, ipaddress.IPv4Address):
        return [ip]
    if ip in _NAT64:
        return [ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)]
    embedded = ip.ipv4_mapped or ip.sixtofour
    return [embedded] if embedded else ip.teredo or [ip]


def _is_public(ip: IPAddress) -> bool:
    if not ip.is_global or ip.is_multicast or ip.is_reserved or any(ip in net for net in _NOT_PUBLIC):
        return False
    return ip.version == 4 or ip in _GLOBAL_IPV6
