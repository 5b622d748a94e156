"""Migration of shares to another pool: what a request may ask for, with Manila's refusals.

No backend moves shares, so what a request asks for rightly ends as it does in Manila with a driver that cannot: the
task state is ``migration_error``, a user message says so, and the share goes on as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Connection, func, select, update

from sharewright.context import RequestContext
from sharewright.errors import Conflict, Forbidden, InvalidInput, NotFound
from sharewright.identifiers import utcnow
from sharewright.operations.messages import Action, Detail, write_message
from sharewright.operations.type_specs import check_size
from sharewright.services import share_networks, share_types
from sharewright.services import shares as share_service
from sharewright.services.deployment import Deployment, Record
from sharewright.services.validation import ZONES_SPEC, parse_boolean_spec, parse_zones
from sharewright.store.tables import pools, share_snapshots, shares

ERROR: Final = "migration_error"
SUCCESS: Final = "migration_success"
# While one of these is true of a share, Manila lets nothing else happen to it.
BUSY: Final = frozenset(
    {
        "migration_starting", "migration_in_progress", "migration_completing", "migration_driver_starting",
        "migration_driver_in_progress", "migration_driver_phase1_done", "data_copying_starting",
        "data_copying_in_progress", "data_copying_completing", "data_copying_completed",
    }
)  # fmt: skip
TASK_STATES: Final = BUSY | {
    ERROR, SUCCESS, "migration_cancelled", "migration_cancel_in_progress", "data_copying_cancelled",
    "data_copying_error",
}  # fmt: skip
_KEPT: Final = ("preserve_metadata", "writable", "nondisruptive", "preserve_snapshots")
# Progress in percent, where it is known without asking anybody.
_PROGRESS: Final = {SUCCESS: 100, "data_copying_completed": 100, "migration_driver_phase1_done": 100}


def start(deployment: Deployment, context: RequestContext, identifier: str, values: Mapping[str, Any]) -> bool:
    """Begin a migration. ``values``: host; force_host_assisted_migration, preserve_metadata, writable, nondisruptive,
    preserve_snapshots, new_share_network_id, new_share_type_id. False: the share is there already."""
    with deployment.store.begin() as tx:
        share = share_service.find(tx, context, identifier, "share:migration_start", lock=True)
        network_id = _network(tx, context, share, values.get("new_share_network_id"))
        share_type = _type(tx, deployment, context, share, values.get("new_share_type_id"))
        forced = bool(values.get("force_host_assisted_migration"))
        if forced and any(values.get(name) for name in _KEPT):
            raise InvalidInput(f"Host-assisted migration cannot keep {', '.join(_KEPT)}.")
        if share["share_group_id"]:
            raise InvalidInput(f"Share {identifier} is a member of a group.")
        if share["status"] != "available":
            raise InvalidInput(f"Share {identifier} must be available, but its status is '{share['status']}'.")
        if share["access_rules_status"] == "error":
            raise InvalidInput(f"Share {identifier} has access rules in error.", hint="Deny those rules first.")
        check_idle(share)
        share_service.refuse_with_replicas(share, "migrate it")
        if forced and _has_snapshots(tx, identifier):
            raise Conflict(f"Share {identifier} must not have snapshots when using host-assisted migration.")
        zone = _zone_of(tx, values["host"])
        if not parse_boolean_spec(
            "driver_handles_share_servers", share_type["extra_specs"].get("driver_handles_share_servers", False)
        ):
            if values.get("new_share_network_id"):
                raise InvalidInput("New share network must not be provided for a type without share servers.")
            network_id = None
        here = (share["share_network_id"], share["share_type_id"], share["host"])
        if (network_id, share_type["id"], values["host"]) == here:
            _write(tx, identifier, SUCCESS)
            return False
        zones = share_type["extra_specs"].get(ZONES_SPEC)
        if zones and zone not in parse_zones(zones):
            raise InvalidInput(f"The share type is not supported within availability zone {zone} of that host.")
        _write(tx, identifier, ERROR)
        write_message(
            tx,
            None,
            project_id=share["project_id"],
            resource_id=identifier,
            action=Action.ALLOCATE_HOST,
            detail=Detail.NO_VALID_HOST,
            error="No backend can move shares to another pool.",
        )
        return True


def complete(deployment: Deployment, context: RequestContext, identifier: str) -> None:
    """Refused: no migration ever gets as far as that."""
    with deployment.store.read() as tx:
        share = share_service.find(tx, context, identifier, "share:migration_complete")
        raise InvalidInput(_nothing(share) or f"First migration phase of share {identifier} not completed yet.")


def cancel(deployment: Deployment, context: RequestContext, identifier: str) -> None:
    """Refused: there is none to cancel."""
    with deployment.store.read() as tx:
        share = share_service.find(tx, context, identifier, "share:migration_cancel")
        raise InvalidInput(_nothing(share) or f"Migration of share {identifier} cannot be cancelled at this moment.")


def progress(deployment: Deployment, context: RequestContext, identifier: str) -> Record:
    """total_progress (percent) and task_state, where a migration was."""
    with deployment.store.read() as tx:
        share = share_service.find(tx, context, identifier, "share:migration_get_progress")
        if share["task_state"] in (None, ERROR):
            raise InvalidInput(_nothing(share) or "")
        return {"total_progress": _PROGRESS.get(share["task_state"], 0), "task_state": share["task_state"]}


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
    if state == SUCCESS:
        return f"Migration of share {identifier} has already completed."
    if state in (None, ERROR):
        return f"There is no migration being performed for share {identifier} at this moment."
    if state == "migration_cancelled":
        return f"Migration of share {identifier} was already cancelled."
    return None
