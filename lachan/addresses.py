"""Addresses as they are written, compared and counted."""

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address


@lru_cache(maxsize=4096)
def household(address: str) -> str:
    """Give what an address counts as: itself, and for IPv6 its /64, of which every host has 2^64 addresses (RFC 4291 2.5.1).

    An IPv4 address that a socket of both kinds writes as IPv6 (``::ffff:192.0.2.1``) counts as IPv4. What is no address
    counts as it is written.
    """
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return f"{IPv6Address(int(found) >> 64 << 64)}/64"


@lru_cache(maxsize=4096)
def written(name: str) -> str:
    """Write an address the one way in which it is compared (RFC 5952), an IPv4 one out of its IPv6 wrapping; other names as they are."""
    try:
        found = ip_address(name)
    except ValueError:
        return name
    mapped = None if isinstance(found, IPv4Address) else found.ipv4_mapped
    return str(mapped or found)


@lru_cache(maxsize=4096)
def canonical(name: str) -> str:
    """Write an address or a host's name the one way in which two of them are compared.

    Addresses as of `written`, out of brackets; names in lower case and without the root's dot, since DNS knows no case (RFC 4343).
    """
    bare = name.strip().removeprefix("[").removesuffix("]")
    found = written(bare)
    return found if found != bare else bare.lower().removesuffix(".")
