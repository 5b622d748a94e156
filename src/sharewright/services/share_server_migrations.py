"""Migration of share servers to another backend or share network: what a request may ask for, with Manila's refusals.

As for shares, in two phases. Whether a backend can at all is in what its pools report (SERVER_DOMAIN), so that a check
asks no driver; what only the driver knows, the operation finds out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, select, update

from sharewright.context import RequestContext
from sharewright.drivers.migration import SERVER_DOMAIN
from sharewright.errors import Conflict, InvalidInput, NotFound, NoValidBackend
from sharewright.identifiers import utcnow
from sharewright.operations.migrate_share_server import CANCEL
from sharewright.operations.migration_places import choose_pool
from sharewright.operations.server_migration_rows import instances_of
from sharewright.operations.share_rows import has_groups
from sharewright.services import share_networks, share_servers
from sharewright.services.deployment import Deployment, Record, fetch, fetch_one
from sharewright.services.policy import authorize
from sharewright.services.records import read_maps
from sharewright.services.share_migrations import BUSY
from sharewright.services.validation import ZONES_SPEC, parse_zones
from sharewright.services.work import submit
from sharewright.states import ServerStatus, ShareStatus, SnapshotStatus, TaskState
from sharewright.store.tables import (
    pools,
    share_instances,
    share_network_subnets,
    share_snapshot_instances,
    share_snapshots,
    share_type_extra_specs,
    shares,
)
from sharewright.store.tables import share_servers as servers

WISHES: Final = ("writable", "nondisruptive", "preserve_snapshots")
# What a driver that moves share servers does (drivers.migration.ServerMigrationDriver).
_ABLE: Final = {"writable": True, "nondisruptive": False, "preserve_snapshots": True}
_BEGINNING: Final = frozenset({TaskState.STARTING, TaskState.IN_PROGRESS, TaskState.DRIVER_STARTING})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """A request that is good, as far as Manila checks it before a driver is asked."""

    server: Record
    host: str
    backend: str
    network_id: str


def check(deployment: Deployment, context: RequestContext, identifier: str, values: Mapping[str, Any]) -> Record:
    """compatible, and what of it is. ``values``: host ("<node>@<backend>"), new_share_network_id, and the wishes."""
    with deployment.store.read() as tx:
        wanted = _check(tx, context, identifier, values, "migration_check")
        able = _is_able(tx, wanted) and not values.get("nondisruptive")
    kept = _ABLE if able else dict.fromkeys(WISHES, False)
    more = dict.fromkeys(("migration_cancel", "migration_get_progress"), able)
    return {"compatible": able, **kept, **more, "share_network_id": wanted.network_id}


def start(deployment: Deployment, context: RequestContext, identifier: str, values: Mapping[str, Any]) -> None:
    """Accept a migration: the states of the server, its shares and their snapshots, and the operation."""
    with deployment.store.begin() as tx:
        wanted = _check(tx, context, identifier, values, "migration_start", lock=True)
        now = utcnow()
        share_servers.write(tx, identifier, status=ServerStatus.MIGRATING, task_state=TaskState.STARTING)
        for row in instances_of(tx, identifier):
            if row.status != ShareStatus.AVAILABLE:
                continue
            columns, status = share_instances.c, ShareStatus.SERVER_MIGRATING
            tx.execute(update(share_instances).where(columns.id == row.id).values(status=status, updated_at=now))
            if row.is_main:
                tx.execute(update(shares).where(shares.c.id == row.share_id).values(status=status, updated_at=now))
        _mark_snapshots(tx, identifier)
        payload = {
            "host": wanted.host,
            "backend": wanted.backend,
            "share_network_id": wanted.network_id,
            "nondisruptive": bool(values.get("nondisruptive")),
        }
        submit(tx, deployment, context, "start_server_migration", "share_server", identifier, payload)
    deployment.wake()


def complete(deployment: Deployment, context: RequestContext, identifier: str) -> str:
    """Accept that a server whose first phase is done gives its shares away. Returns the id of the one that gets them.
    Manila's refusals: 400. One whose completion failed may be completed again when its task state was reset."""
    authorize(context, "share_server:share_server_migration_complete")
    with deployment.store.begin() as tx:
        server = share_servers.find(tx, identifier, lock=True)
        if server["status"] not in (ServerStatus.MIGRATING, ServerStatus.ERROR):
            raise InvalidInput(f"Share server {identifier} is not migrating.")
        if server["task_state"] != TaskState.PHASE1_DONE:
            raise InvalidInput(f"The first phase of the migration of share server {identifier} has not ended.")
        other = _destination(tx, identifier)
        share_servers.write(tx, identifier, task_state=TaskState.COMPLETING)
        submit(tx, deployment, context, "complete_server_migration", "share_server", identifier)
    deployment.wake()
    return str(other["id"])


def cancel(deployment: Deployment, context: RequestContext, identifier: str) -> None:
    """Accept that a migration is given up. Manila's refusals: 400."""
    authorize(context, "share_server:share_server_migration_cancel")
    with deployment.store.begin() as tx:
        server = share_servers.find(tx, identifier, lock=True)
        if server["status"] != ServerStatus.MIGRATING:
            raise InvalidInput(f"Share server {identifier} is not being migrated, so there is nothing to cancel.")
        if server["task_state"] != TaskState.PHASE1_DONE:
            raise InvalidInput(
                f"The migration of share server {identifier} can be cancelled only when its first phase has ended."
            )
        _destination(tx, identifier)
        share_servers.write(tx, identifier, task_state=TaskState.CANCELLING)
        submit(tx, deployment, context, CANCEL, "share_server", identifier)
    deployment.wake()


def progress(deployment: Deployment, context: RequestContext, identifier: str) -> Record:
    """total_progress (percent), task_state and destination_share_server_id of a migration, also of a server that is
    gone after one. Manila's refusals, all 400: none is under way, there is no such server."""
    authorize(context, "share_server:share_server_migration_get_progress")
    with deployment.store.read() as tx:
        try:
            server = share_servers.find(tx, identifier)
        except NotFound:
            done = _made_for(tx, identifier, ServerStatus.ACTIVE)
            if done is None:
                raise InvalidInput(f"No share server was made for the shares of {identifier[:64]}.") from None
            return _shown(100, done["task_state"], done["id"])
        if server["status"] != ServerStatus.MIGRATING:
            raise InvalidInput(f"Share server {identifier} is not being migrated.")
        percent = 0 if server["task_state"] in _BEGINNING else 100
        other = _made_for(tx, identifier, ServerStatus.MIGRATING_TO)
    return _shown(percent, other["task_state"] if other else "", other["id"] if other else "")


# ---- parts -----------------------------------------------------------------------------------------------------------


def _shown(percent: int, task_state: str | None, destination: str) -> Record:
    return {"total_progress": percent, "task_state": task_state, "destination_share_server_id": destination}


def _made_for(tx: Connection, identifier: str, *statuses: str) -> Record | None:
    columns = servers.c
    query = select(servers).where(columns.source_share_server_id == identifier, columns.status.in_(statuses))
    return fetch_one(tx, query.order_by(columns.created_at.desc()).limit(1))


def _destination(tx: Connection, identifier: str) -> Record:
    other = _made_for(tx, identifier, ServerStatus.MIGRATING_TO, ServerStatus.ERROR)
    if other is None:
        raise InvalidInput(f"A destination share server was not found for share server {identifier}.")
    return other


def _check(
    tx: Connection,
    context: RequestContext,
    identifier: str,
    values: Mapping[str, Any],
    action: str,
    *,
    lock: bool = False,
) -> _Wanted:
    """Manila's checks in its order: 404 for the server, 400 for the share network, 409 for what is not as it must be,
    404 for the host in between."""
    authorize(context, f"share_server:share_server_{action}")
    server = share_servers.find(tx, identifier, lock=lock)
    try:
        network_id = str(values.get("new_share_network_id") or server["share_network_id"])
        share_networks.check_active(share_networks.find(tx, context, network_id))
    except NotFound as error:
        raise InvalidInput(error.message) from None
    found = fetch(
        tx,
        select(
            shares,
            share_instances.c.status.label("instance_status"),
            share_instances.c.replica_state,
            share_instances.c.is_main,
        )
        .join(share_instances, share_instances.c.share_id == shares.c.id)
        .where(share_instances.c.share_server_id == identifier)
        .order_by(shares.c.id),
    )
    if not found:
        raise Conflict(f"Share server {identifier} does not have shares.")
    if any(share["is_soft_deleted"] for share in found):
        raise Conflict(f"Share server {identifier} has a share that is soft deleted.", hint="Restore or delete it.")
    if server["status"] != ServerStatus.ACTIVE:
        raise Conflict(f"Share server {identifier} is in status '{server['status']}'; it must be active.")
    if has_groups(tx, identifier):
        raise Conflict(f"Share server {identifier} cannot be migrated: it is related to a share group.")
    if server["host"] == values["host"] and network_id == server["share_network_id"]:
        raise Conflict("Neither the backend nor the share network would be another one.")
    if _made_for(tx, identifier, ServerStatus.MIGRATING_TO) is not None:
        raise Conflict(f"There is a share server already for the shares of {identifier}.", hint="Delete it first.")
    backend, zone = _find_backend(tx, values["host"])
    _check_zone(tx, found, network_id, zone)
    for share in found:
        _check_share(tx, share)
    return _Wanted(server=server, host=values["host"], backend=backend, network_id=network_id)


def _find_backend(tx: Connection, host: str) -> tuple[str, str]:
    """The backend and the zone of a host."""
    row = tx.execute(
        select(pools.c.backend, pools.c.availability_zone).where(pools.c.host.startswith(f"{host}#", autoescape=True))
    ).first()
    if row is None:
        raise NotFound(f"Service {host[:64]} could not be found.")
    return str(row.backend), str(row.availability_zone)


def _check_zone(tx: Connection, found: Sequence[Record], network_id: str, zone: str) -> None:
    types = {share["share_type_id"] for share in found}
    for specs in read_maps(tx, share_type_extra_specs, share_type_extra_specs.c.share_type_id, list(types)).values():
        if specs.get(ZONES_SPEC) and zone not in parse_zones(specs[ZONES_SPEC]):
            raise Conflict(f"The type of a share is not supported within availability zone {zone} of that host.")
    columns = share_network_subnets.c
    zones = set(tx.scalars(select(columns.availability_zone).where(columns.share_network_id == network_id)))
    if not zones & {zone, None}:
        raise Conflict(f"Share network {network_id} does not have a subnet that spans availability zone {zone}.")


def _check_share(tx: Connection, share: Record) -> None:
    """Conflict for a share that cannot go with its server now. One replica of several is what a server may have."""
    identifier = share["id"]
    if share["instance_status"] != ShareStatus.AVAILABLE or (share["is_main"] and share["status"] != "available"):
        raise Conflict(f"Share {identifier} must be available, but its status is '{share['status']}'.")
    columns = share_snapshots.c
    odd = select(columns.id).where(columns.share_id == identifier, columns.status != SnapshotStatus.AVAILABLE)
    if tx.execute(odd.limit(1)).first() is not None:
        raise Conflict(f"All snapshots of share {identifier} must be available.")
    if share["share_group_id"]:
        raise Conflict(f"Share {identifier} is a member of a group.")
    if share["access_rules_status"] == "error":
        raise Conflict(f"Share {identifier} has access rules in error.", hint="Deny those rules first.")
    if share["task_state"] in BUSY:
        raise Conflict(f"Share {identifier} is busy as part of an active task: {share['task_state']}.")


def _is_able(tx: Connection, wanted: _Wanted) -> bool:
    domains = {
        row.backend: row.capabilities.get(SERVER_DOMAIN)
        for row in tx.execute(select(pools.c.backend, pools.c.capabilities)).all()
        if row.capabilities
    }
    here = domains.get(wanted.server["backend"])
    if here is None or domains.get(wanted.backend) != here:
        return False
    try:
        for row in instances_of(tx, wanted.server["id"]):
            choose_pool(
                tx,
                row.share_id,
                wanted.backend,
                share_type_id=row.share_type_id,
                share_network_id=wanted.network_id,
            )
    except NoValidBackend:
        return False
    return True


def _mark_snapshots(tx: Connection, identifier: str) -> None:
    """Snapshots migrate with their share; those on replicas say nothing of it."""
    instances, columns, now = share_instances.c, share_snapshot_instances.c, utcnow()
    here = select(instances.id).where(instances.share_server_id == identifier, instances.is_main.is_(True))
    taken = select(columns.snapshot_id).where(columns.share_instance_id.in_(here), columns.snapshot_id.is_not(None))
    values = {"status": SnapshotStatus.SERVER_MIGRATING, "updated_at": now}
    tx.execute(update(share_snapshots).where(share_snapshots.c.id.in_(taken)).values(**values))
    mine = columns.share_instance_id.in_(here) & columns.snapshot_id.is_not(None)
    tx.execute(update(share_snapshot_instances).where(mine).values(**values))
