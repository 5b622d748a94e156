"""Clients that were denied everything lose their NFSv4 state at once.

The exports alone make the kernel refuse whatever such a client asks from then on, but what it had open stays open and
locked until its lease runs out, and holds the file system as long.
"""

from __future__ import annotations

import ipaddress
import re

from .desired import Share
from .exports import clients_of
from .host import Host

CLIENTS = "/proc/fs/nfsd/clients"
SUPERBLOCK = re.compile(r'superblock: "([0-9a-f]+):([0-9a-f]+):')
ADDRESS = re.compile(r'^address: "(?:\[([0-9a-fA-F:.]+)\]|([0-9.]+)):[0-9]+"$', re.MULTILINE)


def revoke_denied(host: Host, shares: tuple[Share, ...], *, only: set[str] | None = None) -> list[str]:
    """End the lease of every NFSv4 client that none of the shares admits; return their addresses. ``only``: of those
    that hold something on file systems with these major:minor numbers, and nothing elsewhere.

    A client's lease is one for all shares of the server, and kernels before 6.8 have nothing narrower. So one that may
    still use another share is left alone: it sees nothing there, and what it holds here goes with the unmount.
    """
    hosts: set[str] = set()
    networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
    revoked = []
    names = host.listing(CLIENTS)
    for share in shares if names else ():
        for client, _ in clients_of(share)[0]:
            if "/" in client:
                networks.append(ipaddress.ip_network(client))
            else:
                hosts.add(client)
    for name in names:
        found = ADDRESS.search(host.read(f"{CLIENTS}/{name}/info"))
        if found is None:
            continue  # gone meanwhile
        address = ipaddress.ip_address(found[1] or found[2])
        if str(address) in hosts or any(address in network for network in networks):
            continue
        if only is not None and not _holds_only(host.read(f"{CLIENTS}/{name}/states"), only):
            continue
        if host.poke(f"{CLIENTS}/{name}/ctl", "expire\n"):
            revoked.append(str(address))
    return sorted(revoked)


def _holds_only(states: str, numbers: set[str]) -> bool:
    held = {f"{int(major, 16)}:{int(minor, 16)}" for major, minor in SUPERBLOCK.findall(states)}
    return bool(held) and held <= numbers
