"""What clients of a share mount, in the words of its protocol."""

from __future__ import annotations


def export_path(protocol: str, address: str, share_instance_id: str) -> str:
    """``address:/shares/share-<id>`` for NFS, ``\\\\address\\share-<id>`` for CIFS, as Manila writes them."""
    if protocol == "CIFS":
        return rf"\\{address}\share-{share_instance_id}"
    host = f"[{address}]" if ":" in address else address
    return f"{host}:/shares/share-{share_instance_id}"
