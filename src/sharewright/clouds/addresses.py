"""Choosing addresses and MACs, the same way on every cloud that has to choose them itself."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from ipaddress import IPv4Network, ip_address

from sharewright.clouds.contract import Address, Cidr
from sharewright.errors import CloudCapacityExceeded

# Addresses of a subnet that DHCP may give away: libvirt refuses ranges of more than 65535 addresses.
DHCP_SPAN = 4096


def first_host(cidr: Cidr) -> Address:
    """The first usable address: the gateway of a tenant network, the controller's on a service subnet."""
    return ip_address(int(cidr.network_address) + 1)


def last_host(cidr: Cidr) -> Address:
    """The last usable address (IPv4 keeps the one after it for broadcast)."""
    reserved = 1 if isinstance(cidr, IPv4Network) else 0
    return ip_address(int(cidr.network_address) + cidr.num_addresses - 1 - reserved)


def dhcp_range(cidr: Cidr) -> tuple[Address, Address]:
    """The upper half (of an IPv4 subnet; a like-sized part of a larger one), so that ours come from the lower."""
    last = int(last_host(cidr))
    first = max(int(cidr.network_address) + cidr.num_addresses // 2, last - DHCP_SPAN + 1)
    return ip_address(first), ip_address(last)


def choose_address(cidr: Cidr, taken: Collection[Address], *, below: Address | None = None) -> Address:
    """The lowest free address after the first host's (which is the gateway's). ``below``: the first one that DHCP owns.

    CloudCapacityExceeded when none is left.
    """
    used = {int(address) for address in taken}
    candidate = int(first_host(cidr)) + 1
    end = int(below) if below is not None else int(last_host(cidr)) + 1
    while candidate < end:
        if candidate not in used:
            return ip_address(candidate)
        candidate += 1
    raise CloudCapacityExceeded(
        f"No free address is left in {cidr}.", hint="Delete servers on it, or use a larger subnet."
    )


def derived_mac(*parts: str) -> str:
    """A MAC in QEMU's range that the same parts always give."""
    digest = hashlib.sha256("\x1f".join(parts).encode()).hexdigest()
    return "52:54:00:" + ":".join(digest[index : index + 2] for index in (0, 2, 4))
