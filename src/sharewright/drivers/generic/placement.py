"""Which of the existing share servers takes a new share."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Select, bindparam, func, select

from sharewright.store.growth import mounted_sizes, pending_growth
from sharewright.store.lookups import among_parameter, list_type, list_value
from sharewright.store.tables import share_instances, share_servers, share_snapshot_mounts


def least_loaded(tx: Connection, candidates: Sequence[str], size: int, *, max_shares: int, max_size: int) -> str | None:
    """The candidate with the fewest shares (then the fewest GiB) that has room for one more of ``size`` GiB. A snapshot
    that clients mount has a volume on the server too, and counts as a share of its size.

    A limit of -1 is no limit (Manila's max_shares_per_share_server and max_share_server_size). A server known to be
    unhealthy takes nothing new. What shares are about to grow by counts as theirs already.
    """
    dialect = tx.dialect.name
    rows = tx.execute(_by_load(dialect), {"candidates": list_value(dialect, candidates)})
    growth = pending_growth(tx, candidates) if max_size >= 0 else {}
    for row in rows:
        has_place = max_shares < 0 or row.number < max_shares
        if has_place and (max_size < 0 or row.total + growth.get(row.id, 0) + size <= max_size):
            return str(row.id)
    return None


@cache
def _by_load(dialect: str) -> Select[Any]:
    mounted = (
        select(func.count())
        .where(share_snapshot_mounts.c.share_server_id == share_servers.c.id)
        .correlate(share_servers)
        .scalar_subquery()
    )
    count = func.count(share_instances.c.id) + mounted
    snapshots = mounted_sizes().where(share_snapshot_mounts.c.share_server_id == share_servers.c.id)
    total = func.coalesce(func.sum(share_instances.c.size), 0) + snapshots.correlate(share_servers).scalar_subquery()
    wanted = among_parameter(dialect, share_servers.c.id, bindparam("candidates", type_=list_type(dialect)))
    return (
        select(share_servers.c.id, count.label("number"), total.label("total"))
        .join(share_instances, share_instances.c.share_server_id == share_servers.c.id, isouter=True)
        .where(wanted, share_servers.c.healthy.is_not(False))
        .group_by(share_servers.c.id)
        .order_by(count, total, share_servers.c.id)
    )
