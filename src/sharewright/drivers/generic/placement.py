"""Which of the existing share servers takes a new share."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, func, select

from sharewright.store.growth import mounted_sizes, pending_growth
from sharewright.store.tables import share_instances, share_servers, share_snapshot_mounts


def least_loaded(tx: Connection, candidates: Sequence[str], size: int, *, max_shares: int, max_size: int) -> str | None:
    """The candidate with the fewest shares (then the fewest GiB) that has room for one more of ``size`` GiB. A snapshot
    that clients mount has a volume on the server too, and counts as a share of its size.

    A limit of -1 is no limit (Manila's max_shares_per_share_server and max_share_server_size). A server known to be
    unhealthy takes nothing new. What shares are about to grow by counts as theirs already.
    """
    mounted = (
        select(func.count())
        .where(share_snapshot_mounts.c.share_server_id == share_servers.c.id)
        .correlate(share_servers)
        .scalar_subquery()
    )
    count = func.count(share_instances.c.id) + mounted
    snapshots = mounted_sizes().where(share_snapshot_mounts.c.share_server_id == share_servers.c.id)
    total = func.coalesce(func.sum(share_instances.c.size), 0) + snapshots.correlate(share_servers).scalar_subquery()
    query = (
        select(share_servers.c.id, total.label("total"))
        .join(share_instances, share_instances.c.share_server_id == share_servers.c.id, isouter=True)
        .where(share_servers.c.id.in_(candidates), share_servers.c.healthy.is_not(False))
        .group_by(share_servers.c.id)
        .order_by(count, total, share_servers.c.id)
    )
    if max_shares >= 0:
        query = query.having(count < max_shares)
    if max_size < 0:
        return tx.execute(query.limit(1)).scalar()
    growth = pending_growth(tx, candidates)
    fitting = (row.id for row in tx.execute(query) if row.total + growth.get(row.id, 0) + size <= max_size)
    return next(fitting, None)
