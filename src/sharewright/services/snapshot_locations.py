"""Export locations of snapshots: what clients mount once a rule lets them in. None where the share's type has no such
snapshots."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, select

from sharewright.context import RequestContext
from sharewright.errors import NotFound
from sharewright.operations.snapshot_rows import of_main_instance
from sharewright.services import snapshot_instances as instance_service
from sharewright.services import snapshots as snapshot_service
from sharewright.services.deployment import Deployment, fetch, fetch_one
from sharewright.services.policy import authorize
from sharewright.store.tables import share_snapshot_export_locations, share_snapshot_instances


def of_snapshot(deployment: Deployment, context: RequestContext, snapshot_id: str) -> list[dict[str, Any]]:
    """All of a snapshot's, those for administrators only to them."""
    with deployment.store.read() as tx:
        snapshot_service.find(tx, context, snapshot_id, "share_snapshot_export_location:index")
        return fetch(
            tx, _select(context).where(share_snapshot_instances.c.snapshot_id == snapshot_id, of_main_instance())
        )


def show_of_snapshot(
    deployment: Deployment, context: RequestContext, snapshot_id: str, identifier: str
) -> dict[str, Any]:
    with deployment.store.read() as tx:
        snapshot_service.find(tx, context, snapshot_id, "share_snapshot_export_location:show")
        query = _select(context).where(
            share_snapshot_instances.c.snapshot_id == snapshot_id,
            share_snapshot_export_locations.c.id == identifier,
            of_main_instance(),
        )
        return _one(fetch_one(tx, query), identifier)


def of_instance(deployment: Deployment, context: RequestContext, instance_id: str) -> list[dict[str, Any]]:
    authorize(context, "share_snapshot_instance_export_location:index")
    instance_service.show(deployment, context, instance_id)
    with deployment.store.read() as tx:
        return fetch(tx, _select(context).where(share_snapshot_instances.c.id == instance_id))


def show_of_instance(
    deployment: Deployment, context: RequestContext, instance_id: str, identifier: str
) -> dict[str, Any]:
    authorize(context, "share_snapshot_instance_export_location:show")
    instance_service.show(deployment, context, instance_id)
    with deployment.store.read() as tx:
        query = _select(context).where(
            share_snapshot_instances.c.id == instance_id, share_snapshot_export_locations.c.id == identifier
        )
        return _one(fetch_one(tx, query), identifier)


def _select(context: RequestContext) -> Select[Any]:
    table = share_snapshot_export_locations
    statement = (
        select(table)
        .join(share_snapshot_instances, share_snapshot_instances.c.id == table.c.share_snapshot_instance_id)
        .order_by(table.c.preferred.desc(), table.c.path)
    )
    return statement if context.is_admin else statement.where(table.c.is_admin_only.is_(False))


def _one(row: dict[str, Any] | None, identifier: str) -> dict[str, Any]:
    if row is None:
        raise NotFound(f"Export location {identifier[:64]} could not be found.")
    return row
