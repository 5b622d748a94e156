"""Share instances: the parts of a share that exist on backends (for administrators)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, func, select, update

from sharewright.context import RequestContext
from sharewright.errors import InvalidInput, NotFound
from sharewright.identifiers import utcnow
from sharewright.services import share_migrations, share_replicas
from sharewright.services import shares as share_service
from sharewright.services.deployment import Deployment, Record, fetch, fetch_one
from sharewright.services.lists import Page, contains, fetch_page
from sharewright.services.policy import authorize
from sharewright.states import ShareStatus
from sharewright.store.tables import share_export_locations, share_instances, share_servers, shares

COLUMNS: Final[Mapping[str, ColumnElement[Any]]] = {
    name: share_instances.c[name] for name in ("id", "status", "host", "created_at", "updated_at", "share_id")
}

_FIRST_PATH: Final = (
    select(share_export_locations.c.path)
    .where(
        share_export_locations.c.share_instance_id == share_instances.c.id,
        share_export_locations.c.is_admin_only.is_(False),
    )
    .order_by(share_export_locations.c.preferred.desc(), share_export_locations.c.path)
    .limit(1)
    .correlate(share_instances)
    .scalar_subquery()
)


def find(tx: Connection, context: RequestContext, identifier: str, rule: str = "share_instance:show") -> dict[str, Any]:
    """An instance's row with what it has from its share. Raises Forbidden or NotFound."""
    authorize(context, rule)
    row = fetch_one(tx, _select().where(share_instances.c.id == identifier))
    if row is None:
        raise NotFound(f"Share instance {identifier[:64]} could not be found.")
    return row


def show(deployment: Deployment, context: RequestContext, identifier: str) -> Record:
    with deployment.store.read() as tx:
        return find(tx, context, identifier)


def list_instances(
    deployment: Deployment, context: RequestContext, filters: Mapping[str, Any], page: Page
) -> list[dict[str, Any]]:
    """All instances of all projects, or those with an export location. One statement."""
    authorize(context, "share_instance:index")
    statement = _select()
    locations = select(share_export_locations.c.share_instance_id)
    if "export_location_id" in filters:
        statement = statement.where(
            share_instances.c.id.in_(locations.where(share_export_locations.c.id == filters["export_location_id"]))
        )
    if "export_location_path" in filters:
        statement = statement.where(
            share_instances.c.id.in_(locations.where(share_export_locations.c.path == filters["export_location_path"]))
        )
    if "export_location_path~" in filters:
        path = contains(share_export_locations.c.path, filters["export_location_path~"])
        statement = statement.where(share_instances.c.id.in_(locations.where(path)))
    with deployment.store.read() as tx:
        return fetch_page(tx, statement, page, columns=COLUMNS, identifier=share_instances.c.id)


def of_share(deployment: Deployment, context: RequestContext, share_id: str) -> list[dict[str, Any]]:
    authorize(context, "share_instance:show")
    with deployment.store.read() as tx:
        share_service.find(tx, context, share_id)
        statement = _select().where(share_instances.c.share_id == share_id)
        return fetch(tx, statement.order_by(share_instances.c.created_at, share_instances.c.id))


def reset_status(deployment: Deployment, context: RequestContext, identifier: str, status: str) -> None:
    """Set an instance's status (admin); the share shows its main instance's."""
    authorize(context, "share_instance:reset_status")
    if status not in ShareStatus.ALL:
        raise InvalidInput(f"Invalid status '{status[:64]}'. Use one of: {', '.join(ShareStatus.ALL)}.")
    with deployment.store.begin() as tx:
        instance = find(tx, context, identifier)
        now = utcnow()
        tx.execute(
            update(share_instances).where(share_instances.c.id == identifier).values(status=status, updated_at=now)
        )
        if instance["is_main"]:
            tx.execute(update(shares).where(shares.c.id == instance["share_id"]).values(status=status, updated_at=now))


def force_delete(deployment: Deployment, context: RequestContext, identifier: str) -> None:
    """Delete an instance whatever its state: a replica, what a migration has made, or the share's main one, with which
    the share goes."""
    authorize(context, "share_instance:force_delete")
    with deployment.store.read() as tx:
        instance = find(tx, context, identifier)
    if instance["is_main"]:
        share_service.delete(deployment, context, instance["share_id"], force=True)
    elif instance["replica_state"] is None:
        share_migrations.drop(deployment, context, instance["share_id"])
    else:
        share_replicas.delete(deployment, context, identifier, force=True)


def _select() -> Select[Any]:
    """With the server that the API knows the share by: none, where its backend has a machine of an operator's."""
    own = ("share_server_id", "share_type_id")
    columns = [column for column in share_instances.c if column.name not in own]
    return (
        select(
            *columns,
            share_servers.c.id.label("share_server_id"),
            func.coalesce(share_instances.c.share_type_id, shares.c.share_type_id).label("share_type_id"),
            shares.c.replication_type,
            shares.c.access_rules_status,
            shares.c.progress,
            shares.c.project_id,
            _FIRST_PATH.label("export_location"),
        )
        .join(shares, shares.c.id == share_instances.c.share_id)
        .outerjoin(
            share_servers, (share_servers.c.id == share_instances.c.share_server_id) & share_servers.c.named.is_(False)
        )
    )
