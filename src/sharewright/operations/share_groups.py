"""Where the shares of a group go: all of them to one backend, so that one driver has them all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Connection, select

from sharewright.store.tables import share_groups, share_instances, share_servers, shares

CONSISTENT_SNAPSHOTS: Final = "consistent_snapshot_support"


def consistent_snapshots(capabilities: Mapping[str, Any]) -> str | None:
    """What a pool offers: "host" is the snapshots of shares anywhere on its backend, "pool" of those in this pool, at
    one moment (Manila's words); None: no such thing."""
    offered = (capabilities.get("share_group_stats") or {}).get(CONSISTENT_SNAPSHOTS)
    return None if offered is None else str(offered)


def backend_of_group(tx: Connection, share_group_id: str, *, without: str) -> str | None:
    """The backend that a group's other shares than ``without`` are on, or are being made on, else that of its share
    server; None: none so far."""
    of_shares: str | None = tx.execute(
        select(share_instances.c.backend)
        .join(shares, shares.c.id == share_instances.c.share_id)
        .where(
            shares.c.share_group_id == share_group_id,
            shares.c.id != without,
            share_instances.c.backend.is_not(None),
        )
        .order_by(share_instances.c.created_at)
        .limit(1)
    ).scalar_one_or_none()
    if of_shares is not None:
        return of_shares
    of_server: str | None = tx.execute(
        select(share_servers.c.backend)
        .join(share_groups, share_groups.c.share_server_id == share_servers.c.id)
        .where(share_groups.c.id == share_group_id)
    ).scalar_one_or_none()
    return of_server


def fits_group(tx: Connection, share_group_id: str | None, share_id: str, backend: str) -> bool:
    """Whether a share may go to ``backend``; holds its group, so that of several first shares one chooses for all."""
    if share_group_id is None:
        return True
    tx.execute(select(share_groups.c.id).where(share_groups.c.id == share_group_id).with_for_update())
    return backend_of_group(tx, share_group_id, without=share_id) in (None, backend)
