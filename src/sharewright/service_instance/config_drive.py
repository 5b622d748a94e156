"""What a service VM is told at first boot, in OpenStack's config-drive layout.

Keys of the result are paths below ``openstack/latest/``. ``meta_data.json`` and ``network_data.json`` are OpenStack's
formats (every address static, no DHCP); ``user_data`` is ours and is read by the guest program's ``boot`` command. On
OpenStack, Nova writes the first two itself from the same ports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from sharewright.clouds.contract import Address, Port
from sharewright.guest.document import Firewall

USER_DATA_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A NIC: its role, its port, and the gateway of its default route (None: no default route over it)."""

    role: str
    port: Port
    gateway: Address | None = None


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
    return {
        "meta_data.json": _json(_meta_data(server_id, name)),
        "network_data.json": _json(_network_data(links)),
        "user_data": _json(
            {
                "sharewright": USER_DATA_FORMAT,
                "authorized_keys": list(authorized_keys),
                "ssh_host_ed25519_key": host_private_key,
                "firewall": None if firewall is None else msgspec.to_builtins(firewall),
            }
        ),
    }


def _meta_data(server_id: str, name: str) -> dict[str, Any]:
    return {"uuid": server_id, "name": name, "hostname": name[:63]}  # 63: the longest label of DNS


def _network_data(links: Sequence[Link]) -> dict[str, Any]:
    return {
        "links": [
            {
                "id": link.role,
                "type": "phy",
                "vif_id": link.port.id,
                "ethernet_mac_address": link.port.mac,
                "mtu": link.port.subnet.mtu,
            }
            for link in links
        ],
        "networks": [
            {
                "id": f"{link.role}-network",
                "link": link.role,
                "type": f"ipv{link.port.address.version}",
                "network_id": link.port.subnet.network_id,
                "ip_address": str(link.port.address),
                "netmask": str(link.port.subnet.cidr.netmask),
                "routes": [] if link.gateway is None else [_default_route(link.gateway)],
            }
            for link in links
        ],
        "services": [],
    }


def _default_route(gateway: Address) -> dict[str, str]:
    anywhere = "0.0.0.0" if gateway.version == 4 else "::"  # noqa: S104  a route's destination, nothing is bound
    return {"network": anywhere, "netmask": anywhere, "gateway": str(gateway)}


def _json(value: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"
