"""Which of the existing share servers takes a new share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Connection, Select, bindparam, func, select

from sharewright.store.growth import mounted_sizes, pending_growth
from sharewright.store.lookups import among_parameter, list_type, list_value
from sharewright.store.tables import share_instances, share_servers, share_snapshot_mounts
from sharewright.store.transaction import once


def least_loaded(tx: Connection, candidates: Sequence[str], size: int, *, max_shares: int, max_size: int) -> str | None:
    """The candidate with the fewest shares (then the fewest GiB) that has room for one more of ``size`` GiB. A snapshot
    that clients mount has a volume on the server too, and counts as a share of its size.

    A limit of -1 is no limit (Manila's max_shares_per_share_server and max_share_server_size). A server known to be
    unhealthy takes nothing new. What shares are about to grow by counts as theirs already, and so does each share that
    this transaction has chosen a candidate for.
    """
    loads: dict[str, _Load | None] = once(tx, "loads of share servers", dict)
    if unknown := [each for each in candidates if each not in loads]:
        dialect = tx.dialect.name
        rows = tx.execute(_by_load(dialect), {"candidates": list_value(dialect, unknown)})
        loads |= dict.fromkeys(unknown)
        loads |= {row.id: _Load(row.id, row.number, row.total) for row in rows}
    growth = pending_growth(tx, candidates) if max_size >= 0 else {}
    healthy = [load for each in candidates if (load := loads[each]) is not None]
    for load in sorted(healthy, key=lambda each: (each.number, each.total, each.server_id)):
        has_place = max_shares < 0 or load.number < max_shares
        if has_place and (max_size < 0 or load.total + growth.get(load.server_id, 0) + size <= max_size):
            load.number += 1
            load.total += size
            return load.server_id
    return None


@dataclass(slots=True)
class _Load:
    """Of a healthy share server: how many shares and GiB it has."""

    server_id: str
    number: int
    total: int


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
    )
