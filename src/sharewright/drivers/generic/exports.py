"""What clients of a share mount, in the words of its protocol."""

from __future__ import annotations


def export_path(protocol: str, address: str, share_instance_id: str) -> str:
    """``address:/shares/share-<id>`` for NFS, ``\\\\address\\share-<id>`` for CIFS, as Manila writes them."""
    if protocol == "CIFS":
        return rf"\\{address}\share-{share_instance_id}"
    host = f"[{address}]" if ":" in address else address
    return f"{host}:/shares/share-{share_instance_id}"


def address_of(path: str) -> str:
    """The address in an export location."""
    return path.split("\\")[2] if path.startswith("\\\\") else path.rpartition(":")[0].strip("[]")


def moved(path: str, address: str) -> str:
    """The same export location at another address."""
    if path.startswith("\\\\"):
        return "\\".join(["", "", address, *path.split("\\")[3:]])
    host = f"[{address}]" if ":" in address else address
    return f"{host}:{path.rpartition(':')[2]}"
