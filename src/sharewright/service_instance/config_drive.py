"""What a service VM is told at first boot, in OpenStack's config-drive layout.

Keys of the result are paths below ``openstack/latest/``. ``meta_data.json`` and ``network_data.json`` are OpenStack's
formats (every address static, no DHCP); ``user_data`` is ours and is read by the guest program's ``boot`` command. On
OpenStack, Nova writes the first two itself, with no address where the subnet has DHCP and a default route for every
NIC; ours is therefore in ``user_data`` too, and goes first. ``replies_only`` of a network is our addition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from sharewright.clouds.contract import Address, Port, Route
from sharewright.guest.document import Firewall

USER_DATA_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A NIC: a name of its own, its port, the gateway of its default route (None: none over it), further routes.
    ``replies_only``: the routes serve what is sent from its own address, and nothing else is sent by it."""

    name: str
    port: Port
    gateway: Address | None = None
    routes: tuple[Route, ...] = ()
    replies_only: bool = False


def build(
    *,
    server_id: str,
    name: str,
    links: Sequence[Link],
    authorized_keys: Sequence[str],
    host_private_key: str,
    firewall: Firewall | None,
) -> Mapping[str, bytes]:
    """The files of the config drive. They hold the VM's host key: never log them."""
    data = network_data(links)
    return {
        "meta_data.json": _json(_meta_data(server_id, name)),
        "network_data.json": _json(data),
        "user_data": _json(
            {
                "sharewright": USER_DATA_FORMAT,
                "authorized_keys": list(authorized_keys),
                "ssh_host_ed25519_key": host_private_key,
                "firewall": None if firewall is None else msgspec.to_builtins(firewall),
                "network_data": data,
            }
        ),
    }


def _meta_data(server_id: str, name: str) -> dict[str, Any]:
    return {"uuid": server_id, "name": name, "hostname": name[:63]}  # 63: the longest label of DNS


def network_data(links: Sequence[Link]) -> dict[str, Any]:
    """NICs, addresses and routes, in OpenStack's format."""
    return {
        "links": [
            {
                "id": link.name,
                "type": "phy",
                "vif_id": link.port.id,
                "ethernet_mac_address": link.port.mac,
                "mtu": link.port.subnet.mtu,
            }
            for link in links
        ],
        "networks": [
            {
                "id": f"{link.name}-network",
                "link": link.name,
                "type": f"ipv{link.port.address.version}",
                "network_id": link.port.subnet.network_id,
                "ip_address": str(link.port.address),
                "netmask": str(link.port.subnet.cidr.netmask),
                "routes": _routes(link),
                **({"replies_only": True} if link.replies_only else {}),
            }
            for link in links
        ],
        "services": [],
    }


def _routes(link: Link) -> list[dict[str, str]]:
    routes = [
        {
            "network": str(route.destination.network_address),
            "netmask": str(route.destination.netmask),
            "gateway": str(route.gateway),
        }
        for route in link.routes
        if route.destination.prefixlen or link.gateway is None
    ]
    if link.gateway is not None:
        anywhere = "0.0.0.0" if link.gateway.version == 4 else "::"  # noqa: S104  a route's destination, not bound
        routes.append({"network": anywhere, "netmask": anywhere, "gateway": str(link.gateway)})
    return routes


def _json(value: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"
