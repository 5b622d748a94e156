"""Migration of shares to another pool: what a request may ask for, with Manila's refusals.

Two phases: a started migration prepares the other place, and an administrator completes or cancels it then. What a
driver cannot do, the operation finds out, as in Manila: the task state is ``migration_error``, a user message says so,
and the share goes on as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Connection, func, select, update

from sharewright.context import RequestContext
from sharewright.errors import Conflict, Forbidden, InvalidInput, NotFound
from sharewright.identifiers import utcnow
from sharewright.operations.migrate_share import CANCEL, PERCENT
from sharewright.operations.migration_rows import second_instance
from sharewright.operations.type_specs import REPLICATION_SPEC, check_size
from sharewright.services import share_networks, share_types
from sharewright.services import shares as share_service
from sharewright.services.deployment import Deployment, Record
from sharewright.services.qos_types import check_qos
from sharewright.services.validation import ZONES_SPEC, parse_boolean_spec, parse_zones
from sharewright.services.work import submit
from sharewright.states import OperationState, ShareStatus, TaskState
from sharewright.store.quotas import reserve, share_amounts
from sharewright.store.tables import operations, pools, share_instances, share_snapshots, shares

# While one of these is true of a share, Manila lets nothing else happen to it.
BUSY: Final = TaskState.FIRST_PHASE | {
    TaskState.PHASE1_DONE, TaskState.COMPLETING, "data_copying_starting", "data_copying_in_progress",
    "data_copying_completing", "data_copying_completed",
}  # fmt: skip
TASK_STATES: Final = BUSY | {
    TaskState.ERROR, TaskState.SUCCESS, TaskState.CANCELLED, TaskState.CANCELLING, "data_copying_cancelled",
    "data_copying_error",
}  # fmt: skip
_KEPT: Final = ("preserve_metadata", "writable", "nondisruptive", "preserve_snapshots")
_BEGINNING: Final = frozenset({TaskState.STARTING, TaskState.IN_PROGRESS, TaskState.DRIVER_STARTING})
_MAY_CANCEL: Final = frozenset({TaskState.DRIVER_IN_PROGRESS, TaskState.PHASE1_DONE})


def start(deployment: Deployment, context: RequestContext, identifier: str, values: Mapping[str, Any]) -> bool:
    """Accept a migration: its states, the quota of another type, and the operation in one transaction. ``values``: host
    (a pool's); force_host_assisted_migration, preserve_metadata, writable, nondisruptive, preserve_snapshots,
    new_share_network_id, new_share_type_id. False: the share is there already."""
    with deployment.store.begin() as tx:
        share = share_service.find(tx, context, identifier, "share:migration_start", lock=True)
        network_id = _network(tx, context, share, values.get("new_share_network_id"))
        share_type = _type(tx, deployment, context, share, values.get("new_share_type_id"))
        forced = bool(values.get("force_host_assisted_migration"))
        if forced and any(values.get(name) for name in _KEPT):
            raise InvalidInput(f"Host-assisted migration cannot keep {', '.join(_KEPT)}.")
        share_service.refuse_with_replicas(share, "migrate it")
        if share["share_group_id"]:
            raise InvalidInput(f"Share {identifier} is a member of a group.")
        if share["status"] != "available":
            raise InvalidInput(f"Share {identifier} must be available, but its status is '{share['status']}'.")
        if share["access_rules_status"] == "error":
            raise InvalidInput(f"Share {identifier} has access rules in error.", hint="Deny those rules first.")
        check_idle(share)
        if forced and _has_snapshots(tx, identifier):
            raise Conflict(f"Share {identifier} must not have snapshots when using host-assisted migration.")
        zone = _zone_of(tx, values["host"])
        if parse_boolean_spec(
            "driver_handles_share_servers", share_type["extra_specs"].get("driver_handles_share_servers", False)
        ):
            if network_id is None:
                raise InvalidInput("New share network must be provided for a type with share servers.")
        else:
            if values.get("new_share_network_id"):
                raise InvalidInput("New share network must not be provided for a type without share servers.")
            network_id = None
        here = (share["share_network_id"], share["share_type_id"], share["host"])
        if (network_id, share_type["id"], values["host"]) == here:
            _write(tx, identifier, TaskState.SUCCESS)
            return False
        zones = share_type["extra_specs"].get(ZONES_SPEC)
        if zones and zone not in parse_zones(zones):
            raise InvalidInput(f"The share type is not supported within availability zone {zone} of that host.")
        _reserve(tx, deployment, share, share_type)
        _write(tx, identifier, TaskState.STARTING)
        share_service.write_status(tx, identifier, ShareStatus.MIGRATING)
        payload = {name: True for name in _KEPT if values.get(name)} | {
            "host": values["host"],
            "share_network_id": network_id,
            "share_type_id": share_type["id"],
            "forced": forced,
        }
        submit(tx, deployment, context, "start_share_migration", "share", identifier, payload)
    deployment.wake()
    return True


def complete(deployment: Deployment, context: RequestContext, identifier: str) -> None:
    """Accept that a share whose first phase is done moves. Manila's refusals: 400 in any other state."""
    with deployment.store.begin() as tx:
        share = share_service.find(tx, context, identifier, "share:migration_complete", lock=True)
        if share["task_state"] != TaskState.PHASE1_DONE:
            raise InvalidInput(_nothing(share) or f"First migration phase of share {identifier} not completed yet.")
        _check_other(tx, identifier)
        _write(tx, identifier, TaskState.COMPLETING)
        submit(tx, deployment, context, "complete_share_migration", "share", identifier)
    deployment.wake()


def cancel(deployment: Deployment, context: RequestContext, identifier: str) -> None:
    """Accept that a migration is given up. Manila's refusals: 400 in any other state."""
    with deployment.store.begin() as tx:
        share = share_service.find(tx, context, identifier, "share:migration_cancel", lock=True)
        if share["task_state"] not in _MAY_CANCEL:
            raise InvalidInput(
                _nothing(share) or f"Migration of share {identifier} cannot be cancelled at this moment."
            )
        _check_other(tx, identifier)
        _write(tx, identifier, TaskState.CANCELLING)
        submit(tx, deployment, context, CANCEL, "share", identifier)
    deployment.wake()


def drop(deployment: Deployment, context: RequestContext, identifier: str) -> None:
    """Accept that what a migration has made of a second instance, or left of it, is taken away."""
    with deployment.store.begin() as tx:
        share = share_service.find(tx, context, identifier, "share_instance:force_delete", lock=True)
        if share["task_state"] == TaskState.COMPLETING:
            raise Conflict(f"The migration of share {identifier} is being completed.", hint="Wait for its end.")
        if share["task_state"] in BUSY:
            _write(tx, identifier, TaskState.CANCELLING)
        submit(tx, deployment, context, CANCEL, "share", identifier)
    deployment.wake()


def progress(deployment: Deployment, context: RequestContext, identifier: str) -> Record:
    """total_progress (percent) and task_state, where a migration is or was."""
    with deployment.store.read() as tx:
        share = share_service.find(tx, context, identifier, "share:migration_get_progress")
        percent = _percent(tx, share)
    if percent is None:
        raise InvalidInput(
            _nothing(share) or f"Migration progress of share {identifier} cannot be obtained at this moment."
        )
    return {"total_progress": percent, "task_state": share["task_state"]}


def reset_task_state(deployment: Deployment, context: RequestContext, identifier: str, state: str | None) -> None:
    """Set the task state (admin). Nothing else happens."""
    with deployment.store.begin() as tx:
        share = share_service.find(tx, context, identifier, "share:reset_task_state", lock=True)
        if share["is_soft_deleted"]:
            raise Forbidden(f"Share {identifier} has been soft deleted.")
        if state is not None and state not in TASK_STATES:
            raise InvalidInput(f"Invalid task_state '{state[:64]}'. Use one of: {', '.join(sorted(TASK_STATES))}.")
        _write(tx, identifier, state)


def check_idle(share: Record) -> None:
    """Conflict for a share that a task is under way with, as far as its task state tells."""
    if share["task_state"] in BUSY:
        raise Conflict(f"Share {share['id']} is busy as part of an active task: {share['task_state']}.")


# ---- parts -----------------------------------------------------------------------------------------------------------


def _percent(tx: Connection, share: Record) -> int | None:
    """As Manila counts it; in the driver's first phase, what the driver said last."""
    state = share["task_state"]
    if state is None or state == "data_copying_in_progress":
        return None
    if state in _BEGINNING or state == "data_copying_starting":
        return 0
    if state != TaskState.DRIVER_IN_PROGRESS:
        return 100
    facts = tx.execute(
        select(operations.c.facts).where(
            operations.c.resource_id == share["id"],
            operations.c.kind == "start_share_migration",
            operations.c.state.in_(OperationState.OPEN),
        )
    ).scalar()
    return int((facts or {}).get(PERCENT, 0))


def _check_other(tx: Connection, identifier: str) -> None:
    """InvalidInput where no second instance is, as after a reset of the task state by hand."""
    query = select(share_instances.c.id).where(share_instances.c.share_id == identifier, second_instance())
    if tx.execute(query.limit(1)).first() is None:
        raise InvalidInput(f"The instances of share {identifier} are not those of a migration, so it cannot go on.")


def _reserve(tx: Connection, deployment: Deployment, share: Record, share_type: Record) -> None:
    """Until a migration to another type is over, the share counts for both."""
    if share_type["id"] == share["share_type_id"]:
        return
    reserve(
        tx,
        deployment.settings.quotas,
        project_id=share["project_id"],
        user_id=share["user_id"],
        share_type_id=share_type["id"],
        amounts=share_amounts(share["size"], replicated=REPLICATION_SPEC in share_type["extra_specs"]),
    )


def _write(tx: Connection, identifier: str, state: str | None) -> None:
    tx.execute(update(shares).where(shares.c.id == identifier).values(task_state=state, updated_at=utcnow()))


def _network(tx: Connection, context: RequestContext, share: Record, wanted: str | None) -> str | None:
    identifier = wanted or share["share_network_id"]
    if identifier is None:
        return None
    try:
        share_networks.check_active(share_networks.find(tx, context, identifier))
    except NotFound as error:
        raise InvalidInput(error.message) from None
    return str(identifier)


def _type(
    tx: Connection, deployment: Deployment, context: RequestContext, share: Record, wanted: str | None
) -> dict[str, Any]:
    try:
        share_type = share_types.choose(tx, deployment, context, wanted or share["share_type_id"])
    except NotFound as error:
        raise InvalidInput(error.message) from None
    if wanted:
        check_size(share_type["extra_specs"], share["size"])
        check_qos(tx, share_type["extra_specs"])
    return share_type


def _zone_of(tx: Connection, host: str) -> str:
    """The availability zone of a pool, or of a backend."""
    found = tx.execute(
        select(pools.c.availability_zone).where(
            (pools.c.host == host) | pools.c.host.startswith(f"{host}#", autoescape=True)
        )
    ).scalar()
    if found is None:
        raise NotFound(f"Service {host[:64]} could not be found.")
    return str(found)


def _has_snapshots(tx: Connection, identifier: str) -> bool:
    query = select(func.count()).select_from(share_snapshots).where(share_snapshots.c.share_id == identifier)
    return bool(tx.execute(query).scalar_one())


def _nothing(share: Record) -> str | None:
    """Why there is no migration to complete or to cancel."""
    identifier, state = share["id"], share["task_state"]
    if state == TaskState.SUCCESS:
        return f"Migration of share {identifier} has already completed."
    if state in (None, TaskState.ERROR):
        return f"There is no migration being performed for share {identifier} at this moment."
    if state == TaskState.CANCELLED:
        return f"Migration of share {identifier} was already cancelled."
    if state in (TaskState.PHASE1_DONE, "data_copying_completed"):
        return f"Migration of share {identifier} has already completed its first phase."
    return None
