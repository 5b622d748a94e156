"""Export locations: what clients mount."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Select, and_, exists, or_, select, update

from sharewright.context import RequestContext
from sharewright.errors import NotFound
from sharewright.identifiers import utcnow
from sharewright.services import share_instances as instance_service
from sharewright.services import share_replicas
from sharewright.services import shares as share_service
from sharewright.services.deployment import Deployment, Record, fetch, fetch_one
from sharewright.services.validation import check_metadata
from sharewright.states import WRITABLE, ReplicaState
from sharewright.store.tables import share_export_locations, share_instances, shares


def of_share(
    deployment: Deployment, context: RequestContext, share_id: str, *, replicas: bool = False
) -> list[dict[str, Any]]:
    """All of a share's, those for administrators only to them. ``replicas``: and those of replicas that clients do not
    write to, as Manila before 2.47."""
    with deployment.store.read() as tx:
        share_service.find(tx, context, share_id, "share_export_location:index")
        return fetch(tx, _of_share(context, share_id, replicas=replicas))


def show_of_share(
    deployment: Deployment, context: RequestContext, share_id: str, identifier: str, *, replicas: bool = False
) -> dict[str, Any]:
    with deployment.store.read() as tx:
        share_service.find(tx, context, share_id, "share_export_location:show")
        statement = _of_share(context, share_id, replicas=replicas)
        return _one(fetch_one(tx, statement.where(share_export_locations.c.id == identifier)), identifier)


def read_metadata(deployment: Deployment, context: RequestContext, share_id: str, identifier: str) -> dict[str, str]:
    with deployment.store.read() as tx:
        return dict(_find(tx, context, share_id, identifier, "share_export_location:get_metadata")["metadata"])


def write_metadata(
    deployment: Deployment, context: RequestContext, share_id: str, identifier: str, values: Any, *, replace: bool
) -> dict[str, str]:
    """Set keys (``replace``: and remove the others). Returns all."""
    checked = check_metadata(values)
    with deployment.store.begin() as tx:
        rule = "share_export_location:update_metadata"
        present = _find(tx, context, share_id, identifier, rule, lock=True)["metadata"]
        merged = checked if replace else {**present, **checked}
        _write_metadata(tx, identifier, merged)
        return merged


def delete_metadata(deployment: Deployment, context: RequestContext, share_id: str, identifier: str, key: str) -> None:
    with deployment.store.begin() as tx:
        rule = "share_export_location:delete_metadata"
        present = dict(_find(tx, context, share_id, identifier, rule, lock=True)["metadata"])
        if present.pop(key, None) is None:
            raise NotFound(f"Metadata item {key[:64]} could not be found.")
        _write_metadata(tx, identifier, present)


def _find(
    tx: Connection, context: RequestContext, share_id: str, identifier: str, rule: str, *, lock: bool = False
) -> dict[str, Any]:
    share_service.find(tx, context, share_id, rule, lock=lock)
    statement = _select(context).where(
        share_instances.c.share_id == share_id, share_export_locations.c.id == identifier
    )
    return _one(fetch_one(tx, statement), identifier)


def _write_metadata(tx: Connection, identifier: str, values: dict[str, str]) -> None:
    tx.execute(
        update(share_export_locations)
        .where(share_export_locations.c.id == identifier)
        .values(metadata=values, updated_at=utcnow())
    )


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


def of_replica(deployment: Deployment, context: RequestContext, replica_id: str) -> list[dict[str, Any]]:
    """A replica's, with what its replica says of it; those for administrators only to them."""
    with deployment.store.read() as tx:
        replica = share_replicas.find(tx, context, replica_id, "share_replica:show")
        return [_with_replica(row, replica) for row in fetch(tx, _of_replica(context, replica_id))]


def show_of_replica(
    deployment: Deployment, context: RequestContext, replica_id: str, identifier: str
) -> dict[str, Any]:
    with deployment.store.read() as tx:
        replica = share_replicas.find(tx, context, replica_id, "share_replica:show")
        statement = _of_replica(context, replica_id).where(share_export_locations.c.id == identifier)
        return _with_replica(_one(fetch_one(tx, statement), identifier), replica)


def _with_replica(row: dict[str, Any], replica: Record) -> dict[str, Any]:
    return {**row, "replica_state": replica["replica_state"], "availability_zone": replica["availability_zone"]}


def _of_replica(context: RequestContext, replica_id: str) -> Select[Any]:
    return _select(context).where(share_instances.c.id == replica_id)


def _of_share(context: RequestContext, share_id: str, *, replicas: bool) -> Select[Any]:
    statement = _select(context).where(share_instances.c.share_id == share_id)
    if replicas:
        return statement
    writable = exists().where(shares.c.id == share_instances.c.share_id, shares.c.replication_type == WRITABLE)
    active = and_(share_instances.c.replica_state == ReplicaState.ACTIVE, writable)
    return statement.where(or_(share_instances.c.is_main.is_(True), active))


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
