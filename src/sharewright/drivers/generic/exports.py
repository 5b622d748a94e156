"""What clients of a share mount, in the words of its protocol."""

from __future__ import annotations

from collections.abc import Sequence

from sharewright.drivers.contract import ExportLocation
from sharewright.service_instance.contract import ServiceInstance


def export_path(protocol: str, address: str, share_instance_id: str) -> str:
    """``address:/shares/share-<id>`` for NFS, ``\\\\address\\share-<id>`` for CIFS, as Manila writes them."""
    if protocol == "CIFS":
        return rf"\\{address}\share-{share_instance_id}"
    host = f"[{address}]" if ":" in address else address
    return f"{host}:/shares/share-{share_instance_id}"


def addresses_for(protocol: str, addresses: Sequence[str]) -> Sequence[str]:
    """Those of a server's addresses that clients of the protocol use. SMB shares have IPv4 rules only, so an IPv6
    location would be one that nobody may use."""
    if protocol != "CIFS":
        return addresses
    return [address for address in addresses if ":" not in address]


def export_locations(share_instance_id: str, protocol: str, server: ServiceInstance) -> Sequence[ExportLocation]:
    """Of a share instance, or of the instance of a snapshot that clients mount."""
    return [
        *(
            ExportLocation(path=export_path(protocol, address, share_instance_id), preferred=position == 0)
            for position, address in enumerate(addresses_for(protocol, server.export_addresses))
        ),
        *(
            ExportLocation(path=export_path(protocol, address, share_instance_id), is_admin_only=True)
            for address in addresses_for(protocol, server.admin_addresses)
        ),
    ]
