"""How much the shares of a share server are going to grow: what was asked for and has not come yet."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, and_, or_, select

from sharewright.states import OperationState
from sharewright.store.tables import operations, share_instances


def pending_growth(tx: Connection, server_ids: Sequence[str], *, before: str = "") -> dict[str, int]:
    """Share server → GiB by which its shares grow when their open extensions succeed. ``before``: only extensions that
    were asked for before that operation, so that of several at once the same ones win, whoever looks first."""
    columns, instances = operations.c, share_instances.c
    query = (
        select(instances.share_server_id, instances.size, columns.payload)
        .join(share_instances, instances.share_id == columns.resource_id)
        .where(
            columns.kind == "extend_share",
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
