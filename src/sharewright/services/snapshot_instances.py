"""Snapshot instances: the parts of a snapshot that exist on backends (for administrators). As in Manila the members of
share group snapshots are among them, without a snapshot_id."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, select, update

from sharewright.context import RequestContext
from sharewright.errors import NotFound
from sharewright.identifiers import utcnow
from sharewright.operations.snapshot_rows import of_main_instance
from sharewright.services.deployment import Deployment, Record, fetch_one
from sharewright.services.lists import Page, fetch_page
from sharewright.services.policy import authorize
from sharewright.services.snapshots import check_status
from sharewright.store.tables import share_instances, share_snapshot_instances, share_snapshots

COLUMNS: Final[Mapping[str, ColumnElement[Any]]] = {
    name: share_snapshot_instances.c[name] for name in ("id", "snapshot_id", "status", "created_at", "updated_at")
}


def show(deployment: Deployment, context: RequestContext, identifier: str) -> Record:
    authorize(context, "share_snapshot_instance:show")
    with deployment.store.read() as tx:
        row = fetch_one(tx, _select().where(share_snapshot_instances.c.id == identifier))
    if row is None:
        raise NotFound(f"Snapshot instance {identifier[:64]} could not be found.")
    return row


def list_instances(
    deployment: Deployment, context: RequestContext, filters: Mapping[str, Any], page: Page, *, detail: bool = False
) -> list[dict[str, Any]]:
    """All instances of all projects, or one snapshot's. One statement."""
    authorize(context, f"share_snapshot_instance:{'detail' if detail else 'index'}")
    statement = _select()
    if "snapshot_id" in filters:
        statement = statement.where(share_snapshot_instances.c.snapshot_id == filters["snapshot_id"])
    with deployment.store.read() as tx:
        return fetch_page(tx, statement, page, columns=COLUMNS, identifier=share_snapshot_instances.c.id)


def reset_status(deployment: Deployment, context: RequestContext, identifier: str, status: str) -> None:
    """Set an instance's status (admin); the snapshot shows that of the one on its share's main instance."""
    authorize(context, "share_snapshot_instance:reset_status")
    check_status(status)
    show(deployment, context, identifier)
    columns = share_snapshot_instances.c
    shown = select(columns.snapshot_id).where(columns.id == identifier, of_main_instance())
    now = utcnow()
    with deployment.store.begin() as tx:
        for table, which in (
            (share_snapshots, share_snapshots.c.id == shown.scalar_subquery()),
            (share_snapshot_instances, columns.id == identifier),
        ):
            tx.execute(update(table).where(which).values(status=status, updated_at=now))


def _select() -> Select[Any]:
    columns = share_snapshot_instances.c
    return (
        select(share_snapshot_instances, share_instances.c.share_id, share_snapshots.c.progress)
        .join(share_instances, share_instances.c.id == columns.share_instance_id)
        .outerjoin(share_snapshots, share_snapshots.c.id == columns.snapshot_id)
    )
