"""How much there is on a share server, and by how much its shares are going to grow: what was asked for and has not
come yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Select, and_, func, or_, select

from sharewright.states import OperationState
from sharewright.store.tables import (
    operations,
    share_instances,
    share_snapshot_instances,
    share_snapshot_mounts,
    share_snapshots,
)

_GROWING = ("extend_share", "revert_to_snapshot")  # to the payload's size; the latter may also become smaller


def mounted_sizes() -> Select[Any]:
    """GiB of the snapshots that clients mount, from ``share_snapshot_mounts``: each has a volume on its server."""
    return (
        select(func.coalesce(func.sum(share_snapshots.c.size), 0))
        .select_from(share_snapshot_mounts)
        .join(share_snapshot_instances, share_snapshot_instances.c.id == share_snapshot_mounts.c.id)
        .join(share_snapshots, share_snapshots.c.id == share_snapshot_instances.c.snapshot_id)
    )


def present_sizes(tx: Connection, server_id: str) -> int:
    """GiB of the shares and mounted snapshots on a server, which max_share_server_size limits."""
    mine = share_instances.c.share_server_id == server_id
    total = tx.execute(select(func.coalesce(func.sum(share_instances.c.size), 0)).where(mine)).scalar_one()
    mounted = tx.execute(mounted_sizes().where(share_snapshot_mounts.c.share_server_id == server_id)).scalar_one()
    return int(total) + int(mounted)


def pending_growth(tx: Connection, server_ids: Sequence[str], *, before: str = "") -> dict[str, int]:
    """Share server → GiB by which its shares grow when their open extensions and reverts succeed. ``before``: only what
    was asked for before that operation, so that of several at once the same ones win, whoever looks first."""
    columns, instances = operations.c, share_instances.c
    query = (
        select(instances.share_server_id, instances.size, columns.payload)
        .join(share_instances, instances.share_id == columns.resource_id)
        .where(
            columns.kind.in_(_GROWING),
            columns.state.in_(OperationState.OPEN),
            instances.share_server_id.in_(list(server_ids)),
        )
    )
    if before:
        mine = select(columns.sequence).where(columns.id == before).scalar_subquery()
        query = query.where(or_(columns.sequence < mine, and_(columns.sequence == mine, columns.id < before)))
    growth: dict[str, int] = {}
    for row in tx.execute(query):
        more = max(0, int(row.payload["size"]) - int(row.size))
        growth[row.share_server_id] = growth.get(row.share_server_id, 0) + more
    return growth
