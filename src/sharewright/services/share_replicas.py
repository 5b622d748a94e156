"""Replicas of shares: what a request may do to them. A replica is an instance of a share; one of them is active."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NoReturn

from sqlalchemy import ColumnElement, Connection, Select, select, update

from sharewright.context import RequestContext
from sharewright.errors import Forbidden, InvalidInput, NotFound
from sharewright.identifiers import is_id, new_id, utcnow
from sharewright.operations.promote_replica import exchange
from sharewright.operations.queue import enqueue
from sharewright.operations.replica_rows import RESOURCE, key_of, read_replica
from sharewright.operations.replica_snapshots import insert_instances
from sharewright.services import shares as share_service
from sharewright.services.deployment import Deployment, Record, fetch_one
from sharewright.services.lists import Page, fetch_page
from sharewright.services.policy import authorize, can_see
from sharewright.services.records import attach, delete_item, read_maps, write_map
from sharewright.services.share_migrations import check_idle
from sharewright.services.share_places import choose_network, choose_zone
from sharewright.services.share_sources import copied_columns, read_parent
from sharewright.services.validation import check_metadata
from sharewright.states import WRITABLE, ReplicaState, ShareStatus
from sharewright.store.quotas import replica_amounts, reserve
from sharewright.store.tables import (
    share_instances,
    share_replica_metadata,
    share_servers,
    share_snapshot_access_rules,
    share_snapshots,
    share_type_extra_specs,
    shares,
)

COLUMNS: Final[Mapping[str, ColumnElement[Any]]] = {
    name: share_instances.c[name] for name in ("id", "status", "host", "created_at", "updated_at", "share_id")
}
_STATUSES: Final = ("available", "creating", "deleting", "error", "error_deleting", "replication_change")
_OWNER: Final = share_replica_metadata.c.share_instance_id


def find(
    tx: Connection, context: RequestContext, identifier: str, rule: str = "share_replica:show", *, lock: bool = False
) -> dict[str, Any]:
    """A replica's row with what it has from its share. ``lock`` holds the share until the transaction ends. Raises
    Forbidden or NotFound."""
    authorize(context, rule)
    statement = _select().where(share_instances.c.id == identifier)
    replica = fetch_one(tx, statement.with_for_update(of=shares) if lock else statement) if is_id(identifier) else None
    if replica is None or not can_see(context, replica["project_id"]):
        raise NotFound(f"Share Replica {identifier[:64]} could not be found.")
    authorize(context, rule, replica["project_id"])
    return replica


def show(deployment: Deployment, context: RequestContext, identifier: str) -> Record:
    with deployment.store.read() as tx:
        return _complete(tx, [find(tx, context, identifier)])[0]


def list_replicas(
    deployment: Deployment, context: RequestContext, share_id: str | None, page: Page
) -> list[dict[str, Any]]:
    """The replicas of a share, or of all shares of the project (an administrator: of all), the active ones too."""
    authorize(context, "share_replica:get_all")
    statement = _select()
    with deployment.store.read() as tx:
        if share_id:
            share_service.find(tx, context, share_id)
            statement = statement.where(share_instances.c.share_id == share_id)
        if not context.is_admin:
            statement = statement.where(shares.c.project_id == context.project_id)
        return _complete(tx, fetch_page(tx, statement, page, columns=COLUMNS, identifier=share_instances.c.id))


def create(deployment: Deployment, context: RequestContext, values: Mapping[str, Any]) -> Record:
    """Accept a further replica of a share: its row, the quota and the operation in one transaction.

    ``values``: share_id; availability_zone, share_network_id, scheduler_hints (only_host), metadata. Manila's
    refusals: 403 for a share in the recycle bin, 413 for the quotas, 400 for the rest.
    """
    metadata = check_metadata(values.get("metadata") or {})
    identifier, now = new_id(), utcnow()
    with deployment.store.begin() as tx:
        share = share_service.find(tx, context, values["share_id"], "share_replica:create", lock=True)
        specs = read_maps(tx, share_type_extra_specs, share_type_extra_specs.c.share_type_id, [share["share_type_id"]])[
            share["share_type_id"]
        ]
        _check_share(tx, share)
        hints = _check_hints(context, values.get("scheduler_hints") or {})
        zone = choose_zone(tx, specs, values.get("availability_zone"))
        wanted = values.get("share_network_id") or share["share_network_id"]
        network_id = choose_network(tx, context, specs, wanted, zone)
        reserve(
            tx,
            deployment.settings.quotas,
            project_id=share["project_id"],
            user_id=share["user_id"],
            share_type_id=share["share_type_id"],
            amounts=replica_amounts(share["size"]),
        )
        tx.execute(
            share_instances.insert().values(
                id=identifier,
                share_id=share["id"],
                status=ShareStatus.CREATING,
                is_main=False,
                replica_state=ReplicaState.OUT_OF_SYNC,
                size=share["size"],
                availability_zone=zone,
                share_network_id=network_id,
                created_at=now,
                **copied_columns(read_parent(tx, share["id"])),
            )
        )
        insert_instances(tx, share["id"], identifier)
        write_map(tx, share_replica_metadata, _OWNER, identifier, metadata, replace=False)
        _submit(
            tx,
            deployment,
            context,
            "create_replica",
            share["id"],
            identifier,
            {"scheduler_hints": hints} if hints else {},
        )
        record = _complete(tx, [find(tx, context, identifier)])[0]
    deployment.wake()
    return record


def delete(deployment: Deployment, context: RequestContext, identifier: str, *, force: bool = False) -> None:
    """Accept a deletion. Never of the last active replica, with ``force`` neither (400, as in Manila). Where all
    replicas are active another one takes the main one's place at once: clients write to it already."""
    action = "force_delete" if force else "delete"
    with deployment.store.begin() as tx:
        replica = find(tx, context, identifier, f"share_replica:{action}", lock=True)
        if replica["is_main"]:
            _hand_over(tx, replica)
        _write(tx, identifier, status=ShareStatus.DELETING)
        _submit(tx, deployment, context, "delete_replica", replica["share_id"], identifier, {"force": force})
    deployment.wake()


def _hand_over(tx: Connection, main: Record) -> None:
    """Make another active replica its share's main instance. InvalidInput where there is none."""
    columns = share_instances.c
    query = (
        select(columns.id)
        .join(shares, shares.c.id == columns.share_id)
        .where(
            columns.share_id == main["share_id"],
            columns.is_main.is_(False),
            columns.status == ShareStatus.AVAILABLE,
            columns.replica_state == ReplicaState.ACTIVE,
            shares.c.replication_type == WRITABLE,
            shares.c.status.in_((ShareStatus.AVAILABLE, ShareStatus.ERROR)),  # nothing is under way
        )
        .order_by(columns.created_at, columns.id)
    )
    heir = tx.execute(query.limit(1)).scalar()
    found = read_replica(tx, heir) if heir is not None else None
    if found is None:
        raise InvalidInput(
            "Cannot delete last active replica.", hint="Promote another replica first, or delete the share."
        )
    exchange(tx, *found)


def promote(deployment: Deployment, context: RequestContext, identifier: str) -> tuple[Record, bool]:
    """Accept that a replica becomes the active one. Returns it, and False when it is active already. Manila's refusals:
    400 for one that is not available, 403 for one that is not in sync, except for administrators."""
    with deployment.store.begin() as tx:
        replica = find(tx, context, identifier, "share_replica:promote", lock=True)
        if replica["is_main"] or replica["replica_state"] == ReplicaState.ACTIVE:
            return _complete(tx, [replica])[0], False
        if replica["status"] != ShareStatus.AVAILABLE:
            raise InvalidInput(f"Replica {identifier} must be available to be promoted; it is '{replica['status']}'.")
        if replica["replica_state"] != ReplicaState.IN_SYNC and not context.is_admin:
            raise Forbidden(
                f"Promoting a replica whose state is '{replica['replica_state']}' requires administrator privileges.",
                hint="What was written last may not be in it. Wait until it is in_sync.",
            )
        _write(tx, identifier, status=ShareStatus.REPLICATION_CHANGE)
        former = select(share_instances.c.id).where(
            share_instances.c.share_id == replica["share_id"], share_instances.c.is_main.is_(True)
        )
        payload = {"former_id": tx.execute(former).scalar_one()}
        _submit(tx, deployment, context, "promote_replica", replica["share_id"], identifier, payload)
        record = _complete(tx, [find(tx, context, identifier)])[0]
    deployment.wake()
    return record, True


def resync(deployment: Deployment, context: RequestContext, identifier: str) -> None:
    """Accept that a replica is looked at now. Nothing happens to the active one."""
    with deployment.store.begin() as tx:
        replica = find(tx, context, identifier, "share_replica:resync", lock=True)
        if not replica["host"]:
            raise InvalidInput("Share replica does not have a valid host.")
        if not replica["is_main"]:
            _submit(tx, deployment, context, "update_replica", replica["share_id"], identifier)
    deployment.wake()


def reset_status(deployment: Deployment, context: RequestContext, identifier: str, status: str) -> None:
    """Set a replica's status (admin), which is the share's where it is the active one. Nothing else happens."""
    if status not in _STATUSES:
        _refuse("status", status, _STATUSES)
    with deployment.store.begin() as tx:
        replica = find(tx, context, identifier, "share_replica:reset_status", lock=True)
        if replica["is_main"]:
            share_service.write_status(tx, replica["share_id"], status)
        else:
            _write(tx, identifier, status=status)


def reset_replica_state(deployment: Deployment, context: RequestContext, identifier: str, state: str) -> None:
    """Set what is said of a replica (admin). Nothing else happens: clients write to the same one as before."""
    if state not in ReplicaState.ALL:
        _refuse("replica_state", state, ReplicaState.ALL)
    with deployment.store.begin() as tx:
        find(tx, context, identifier, "share_replica:reset_replica_state", lock=True)
        _write(tx, identifier, replica_state=state)


# ---- metadata --------------------------------------------------------------------------------------------------------


def read_metadata(deployment: Deployment, context: RequestContext, identifier: str) -> dict[str, str]:
    with deployment.store.read() as tx:
        find(tx, context, identifier, "share:get_share_metadata")
        return read_maps(tx, share_replica_metadata, _OWNER, [identifier])[identifier]


def write_metadata(
    deployment: Deployment, context: RequestContext, identifier: str, values: Any, *, replace: bool
) -> dict[str, str]:
    """Set keys (``replace``: and remove the others). Returns all."""
    checked = check_metadata(values)
    with deployment.store.begin() as tx:
        find(tx, context, identifier, "share:update_share_metadata", lock=True)
        write_map(tx, share_replica_metadata, _OWNER, identifier, checked, replace=replace)
        return read_maps(tx, share_replica_metadata, _OWNER, [identifier])[identifier]


def delete_metadata(deployment: Deployment, context: RequestContext, identifier: str, key: str) -> None:
    with deployment.store.begin() as tx:
        find(tx, context, identifier, "share:delete_share_metadata", lock=True)
        delete_item(tx, share_replica_metadata, _OWNER, identifier, key)


# ---- parts -----------------------------------------------------------------------------------------------------------


def _select() -> Select[Any]:
    columns = [column for column in share_instances.c if column.name != "share_server_id"]
    return (
        # An operator's machine is no share's server for users.
        select(*columns, share_servers.c.id.label("share_server_id"), shares.c.project_id, shares.c.replication_type)
        .join(shares, shares.c.id == share_instances.c.share_id)
        .outerjoin(
            share_servers,
            (share_servers.c.id == share_instances.c.share_server_id) & share_servers.c.named.is_(False),
        )
        .where(shares.c.replication_type.is_not(None), share_instances.c.replica_state.is_not(None))
    )


def _complete(tx: Connection, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    attach(records, "metadata", read_maps(tx, share_replica_metadata, _OWNER, [each["id"] for each in records]))
    return records


def _write(tx: Connection, identifier: str, **values: Any) -> None:
    tx.execute(update(share_instances).where(share_instances.c.id == identifier).values(**values, updated_at=utcnow()))


def _submit(
    tx: Connection,
    deployment: Deployment,
    context: RequestContext,
    kind: str,
    share_id: str,
    replica_id: str,
    payload: Mapping[str, Any] | None = None,
) -> None:
    enqueue(
        tx,
        kind,
        resource_type=RESOURCE,
        resource_id=replica_id,
        key=key_of(share_id),
        context=context,
        payload=payload,
        seconds=deployment.settings.worker.operation_seconds,
    )


def _check_share(tx: Connection, share: Record) -> None:
    if share["is_soft_deleted"]:
        raise Forbidden(f"Replica cannot be created for share '{share['id']}' since it has been soft deleted.")
    if share["replication_type"] is None:
        raise InvalidInput(
            f"Replication not supported for share {share['id']}.",
            hint="Its share type needs the extra spec replication_type when the share is created.",
        )
    if share["share_group_id"]:
        raise InvalidInput("Replication not supported for shares in a group.")
    check_idle(share)
    if share["status"] != ShareStatus.AVAILABLE:
        raise InvalidInput(f"Share {share['id']} does not have any active replica in available state.")
    rules = share_snapshot_access_rules.c
    query = (
        select(rules.snapshot_id)
        .join(share_snapshots, share_snapshots.c.id == rules.snapshot_id)
        .where(share_snapshots.c.share_id == share["id"])
    )
    mounted = tx.execute(query.limit(1)).scalar()
    if mounted is not None:
        raise InvalidInput(
            f"Snapshot {mounted} of share {share['id']} has access rules; snapshots of replicated shares cannot be"
            " mounted.",
            hint="Deny all access to the share's snapshots first.",
        )


def _check_hints(context: RequestContext, hints: Mapping[str, Any]) -> dict[str, Any]:
    """The only hint of a replica is only_host, a pool, for who may create shares on a host."""
    if not hints:
        return {}
    if set(hints) != {"only_host"} or not isinstance(hints["only_host"], str) or "\0" in hints["only_host"]:
        raise InvalidInput("The only scheduler hint of a replica is only_host, the name of a pool.")
    authorize(context, "share:create_on_host")
    return {"only_host": hints["only_host"].strip()}


def _refuse(name: str, value: str, allowed: tuple[str, ...]) -> NoReturn:
    raise InvalidInput(f"Invalid {name} '{value[:64]}'. Use one of: {', '.join(allowed)}.")
