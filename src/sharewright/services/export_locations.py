"""Export locations: what clients mount."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, select

from sharewright.context import RequestContext
from sharewright.errors import NotFound
from sharewright.services import share_instances as instance_service
from sharewright.services import shares as share_service
from sharewright.services.deployment import Deployment, fetch, fetch_one
from sharewright.store.tables import share_export_locations, share_instances


def of_share(deployment: Deployment, context: RequestContext, share_id: str) -> list[dict[str, Any]]:
    """All of a share's, those for administrators only to them."""
    with deployment.store.read() as tx:
        share_service.find(tx, context, share_id, "share_export_location:index")
        return fetch(tx, _select(context).where(share_instances.c.share_id == share_id))


def show_of_share(deployment: Deployment, context: RequestContext, share_id: str, identifier: str) -> dict[str, Any]:
    with deployment.store.read() as tx:
        share_service.find(tx, context, share_id, "share_export_location:show")
        statement = _select(context).where(
            share_instances.c.share_id == share_id, share_export_locations.c.id == identifier
        )
        return _one(fetch_one(tx, statement), identifier)


def of_instance(deployment: Deployment, context: RequestContext, instance_id: str) -> list[dict[str, Any]]:
    with deployment.store.read() as tx:
        instance_service.find(tx, context, instance_id, "share_instance_export_location:index")
        return fetch(tx, _select(context).where(share_instances.c.id == instance_id))


def show_of_instance(
    deployment: Deployment, context: RequestContext, instance_id: str, identifier: str
) -> dict[str, Any]:
    with deployment.store.read() as tx:
        instance_service.find(tx, context, instance_id, "share_instance_export_location:show")
        statement = _select(context).where(
            share_instances.c.id == instance_id, share_export_locations.c.id == identifier
        )
        return _one(fetch_one(tx, statement), identifier)


def _select(context: RequestContext) -> Select[Any]:
    statement = (
        select(share_export_locations)
        .join(share_instances, share_instances.c.id == share_export_locations.c.share_instance_id)
        .order_by(share_export_locations.c.preferred.desc(), share_export_locations.c.path)
    )
    return statement if context.is_admin else statement.where(share_export_locations.c.is_admin_only.is_(False))


def _one(row: dict[str, Any] | None, identifier: str) -> dict[str, Any]:
    if row is None:
        raise NotFound(f"Export location {identifier[:64]} could not be found.")
    return row
