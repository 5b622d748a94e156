"""Snapshots of shares: what a request may do to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, exists, func, select, update

from sharewright.context import RequestContext
from sharewright.errors import Conflict, Forbidden, InvalidInput, NotFound, Unprocessable
from sharewright.identifiers import new_id, utcnow
from sharewright.operations.replica_snapshots import insert_instance
from sharewright.operations.snapshot_rows import of_main_instance
from sharewright.services import shares as share_service
from sharewright.services.deployment import Deployment, Record
from sharewright.services.lists import Page, count, fetch_page
from sharewright.services.policy import authorize, can_see
from sharewright.services.records import attach, delete_item, read_maps, write_map
from sharewright.services.share_sources import COPY_SECONDS
from sharewright.services.transitions import SHARE, SNAPSHOT
from sharewright.services.validation import check_metadata
from sharewright.services.visible import by_columns, find_visible, of_projects
from sharewright.services.work import submit
from sharewright.states import ShareStatus, SnapshotStatus
from sharewright.store.quotas import reserve
from sharewright.store.tables import (
    share_instances,
    share_snapshot_instances,
    share_snapshot_metadata,
    share_snapshots,
)

COLUMNS: Final[Mapping[str, ColumnElement[Any]]] = {
    name: share_snapshots.c[name]
    for name in ("id", "name", "status", "size", "share_id", "user_id", "project_id", "progress", "created_at")
}
_EXACT: Final = ("name", "description", "status", "share_id", "size")
_OWNER = share_snapshot_metadata.c.snapshot_id
_PROVIDER_LOCATION: Final = (
    select(share_snapshot_instances.c.provider_location)
    .where(share_snapshot_instances.c.snapshot_id == share_snapshots.c.id, of_main_instance())
    .limit(1)
    .correlate(share_snapshots)
    .scalar_subquery()
)


def find(
    tx: Connection,
    context: RequestContext,
    identifier: str,
    rule: str = "share_snapshot:get_snapshot",
    *,
    lock: bool = False,
) -> dict[str, Any]:
    """A snapshot's row. NotFound when it is not there for this caller. ``lock`` holds it until the transaction ends."""
    return find_visible(
        tx, context, _select(), of=share_snapshots, identifier=identifier, rule=rule, what="Snapshot", lock=lock
    )


def show(deployment: Deployment, context: RequestContext, identifier: str) -> Record:
    """One snapshot, with its metadata."""
    with deployment.store.read() as tx:
        return _complete(tx, [find(tx, context, identifier)])[0]


def list_snapshots(
    deployment: Deployment,
    context: RequestContext,
    filters: Mapping[str, Any],
    page: Page,
    *,
    all_projects: bool = False,
    detail: bool = False,
    with_count: bool = False,
) -> tuple[list[dict[str, Any]], int | None]:
    """The snapshots of one page, and how many there are in all when asked. Two statements at most (three with a
    count)."""
    authorize(context, "share_snapshot:get_all_snapshots")
    owner, rule = share_snapshots.c.project_id, "share_snapshot:list_all_projects"
    statement = _select().where(
        *of_projects(context, owner, filters, rule=rule, all_projects=all_projects), *_conditions(filters)
    )
    with deployment.store.read() as tx:
        records = fetch_page(tx, statement, page, columns=COLUMNS, identifier=share_snapshots.c.id)
        total = count(tx, statement) if with_count else None
        return (_complete(tx, records) if detail else records), total


def create(deployment: Deployment, context: RequestContext, values: Mapping[str, Any]) -> Record:
    """Accept a snapshot of a share: its rows, the quota and the operation in one transaction.

    ``values``: share_id; name, description, metadata. Manila's refusals: 422 for a share whose type has no snapshots,
    400 for a status that does not allow one, 413 for the quotas.
    """
    metadata = check_metadata(values.get("metadata") or {})
    identifier = new_id()
    with deployment.store.begin() as tx:
        share = share_service.find(tx, context, values["share_id"], "share:create_snapshot", lock=True)
        if not share["snapshot_support"]:
            raise Unprocessable(
                f"Snapshots cannot be created for share '{share['id']}' since it does not have that capability.",
                hint="Its share type needs the extra spec snapshot_support = True when the share is created.",
            )
        SHARE["snapshot"].check("Share", share["id"], share["status"])
        _insert(tx, deployment, context, identifier, share, values, SnapshotStatus.CREATING)
        write_map(tx, share_snapshot_metadata, _OWNER, identifier, metadata, replace=False)
        submit(tx, deployment, context, "create_snapshot", "share_snapshot", identifier)
        record = _complete(tx, [find(tx, context, identifier)])[0]
    deployment.wake()
    return record


def _insert(
    tx: Connection,
    deployment: Deployment,
    context: RequestContext,
    identifier: str,
    share: Record,
    values: Mapping[str, Any],
    status: str,
) -> None:
    """The rows of a new snapshot, and its quota. One to be managed is not ours before that is done."""
    now = utcnow()
    reserve(
        tx,
        deployment.settings.quotas,
        project_id=context.project_id,
        user_id=context.user_id,
        share_type_id=share["share_type_id"],
        amounts={"snapshots": 1, "snapshot_gigabytes": share["size"]},
    )
    tx.execute(
        share_snapshots.insert().values(
            id=identifier,
            share_id=share["id"],
            project_id=context.project_id,
            user_id=context.user_id,
            name=values.get("name"),
            description=values.get("description"),
            size=share["size"],
            protocol=share["protocol"],
            status=status,
            progress="0%",
            created_at=now,
        )
    )
    columns = share_instances.c
    instances = select(columns.id, columns.is_main).where(columns.share_id == share["id"])
    for instance in tx.execute(instances).all():
        if not instance.is_main:
            insert_instance(tx, instance.id, identifier)
            continue
        tx.execute(
            share_snapshot_instances.insert().values(
                id=new_id(),
                snapshot_id=identifier,
                share_instance_id=instance.id,
                status=status,
                taken_over=status != SnapshotStatus.MANAGE_STARTING,
                created_at=now,
            )
        )


def manage(deployment: Deployment, context: RequestContext, values: Mapping[str, Any], *, servers: bool) -> Record:
    """Accept that a snapshot in the cloud (``provider_location``) becomes one of a share. ``servers``: also of a share
    on a share server, which Manila allows from 2.49 on (403 before); 409 when it is managed already."""
    authorize(context, "share_snapshot:manage_snapshot")
    identifier, reference = new_id(), values["provider_location"]
    with deployment.store.begin() as tx:
        share = share_service.find(tx, context, values["share_id"], lock=True)
        _check_servers(share, "manage_snapshot", servers=servers)
        if not share["snapshot_support"]:
            raise Unprocessable(f"Share '{share['id']}' cannot have snapshots since it does not have that capability.")
        share_service.refuse_with_replicas(share, "manage a snapshot of it")
        SHARE["snapshot"].check("Share", share["id"], share["status"])
        columns = share_snapshot_instances.c
        if tx.execute(select(columns.id).where(columns.provider_location == reference)).first() is not None:
            raise Conflict(f"A share snapshot with provider location {reference[:64]} is managed already.")
        _insert(tx, deployment, context, identifier, share, values, SnapshotStatus.MANAGE_STARTING)
        payload = {"reference": reference}
        submit(tx, deployment, context, "manage_snapshot", "share_snapshot", identifier, payload)
        record = _complete(tx, [find(tx, context, identifier)])[0]
    deployment.wake()
    return record


def unmanage(deployment: Deployment, context: RequestContext, identifier: str, *, servers: bool) -> None:
    """Accept that a snapshot is forgotten and left in the cloud as it is."""
    with deployment.store.begin() as tx:
        snapshot = find(tx, context, identifier, "share_snapshot:unmanage_snapshot", lock=True)
        share = share_service.find(tx, context, snapshot["share_id"])
        _check_servers(share, "unmanage_snapshot", servers=servers)
        share_service.refuse_with_replicas(share, "unmanage a snapshot of it")
        SNAPSHOT["unmanage"].check("Snapshot", identifier, snapshot["status"])
        # When it fails, one that was not taken over still says so.
        failed = SnapshotStatus.MANAGE_ERROR if snapshot["status"] == SnapshotStatus.MANAGE_ERROR else None
        write_status(tx, identifier, SnapshotStatus.UNMANAGE_STARTING)
        payload = {"status": failed} if failed else None
        submit(tx, deployment, context, "unmanage_snapshot", "share_snapshot", identifier, payload)
    deployment.wake()


def _check_servers(share: Record, what: str, *, servers: bool) -> None:
    if share["share_network_id"] and not servers:
        raise Forbidden(
            f"Operation '{what}' is not supported for shares created on top of share servers.",
            hint="Use microversion 2.49 or later.",
        )


def change(deployment: Deployment, context: RequestContext, identifier: str, values: Mapping[str, Any]) -> Record:
    """Change name or description."""
    with deployment.store.begin() as tx:
        find(tx, context, identifier, "share:snapshot_update", lock=True)
        changed = {key: values[key] for key in ("name", "description") if key in values}
        if changed:
            tx.execute(
                update(share_snapshots).where(share_snapshots.c.id == identifier).values(**changed, updated_at=utcnow())
            )
        return _complete(tx, [find(tx, context, identifier)])[0]


def delete(deployment: Deployment, context: RequestContext, identifier: str, *, force: bool = False) -> None:
    """Accept a deletion; ``force`` (admin) from every state. Shares that were made from it live on. Of one that was not
    taken over only what is ours is deleted: the cloud's snapshot belongs to somebody else."""
    rule = "share_snapshot:force_delete" if force else "share:delete_snapshot"
    with deployment.store.begin() as tx:
        snapshot = find(tx, context, identifier, rule, lock=True)
        SNAPSHOT["force_delete" if force else "delete"].check("Snapshot", identifier, snapshot["status"])
        write_status(tx, identifier, SnapshotStatus.DELETING)
        submit(tx, deployment, context, "delete_snapshot", "share_snapshot", identifier)
    deployment.wake()


def revert(deployment: Deployment, context: RequestContext, share_id: str, snapshot_id: str) -> None:
    """Accept that a share is to be what its latest snapshot holds: statuses, quota and operation in one transaction.

    Manila's refusals: 400 for a share whose type does not allow it or another share's snapshot, 409 for the statuses
    and for a snapshot that is not the latest, 413 for the quota where the share had been larger.
    """
    with deployment.store.begin() as tx:
        share = share_service.find(tx, context, share_id, "share:revert_to_snapshot", lock=True)
        if not share["revert_to_snapshot_support"]:
            raise InvalidInput(
                f"Share {share_id} may not be reverted to a snapshot, because it does not have that capability.",
                hint="Its share type needs the extra spec revert_to_snapshot_support = True when it is created.",
            )
        try:
            snapshot = find(tx, context, snapshot_id, lock=True)
        except NotFound as error:  # the body's mistake, as in Manila
            raise InvalidInput(error.message) from None
        if snapshot["share_id"] != share_id:
            raise InvalidInput(f"Snapshot {snapshot_id} is not associated with share {share_id}.")
        _check_replicas(tx, share)
        SHARE["revert"].check("Share", share_id, share["status"])
        SNAPSHOT["revert"].check("Snapshot", snapshot_id, snapshot["status"])
        latest = tx.execute(
            select(share_snapshots.c.id, share_snapshots.c.project_id)
            .where(share_snapshots.c.share_id == share_id)
            .order_by(share_snapshots.c.created_at.desc(), share_snapshots.c.id.desc())
            .limit(1)
        ).one()
        if latest.id != snapshot_id:
            # Whoever else may take snapshots of the share has them in a project of their own.
            shown = can_see(context, latest.project_id)
            raise Conflict(
                f"Snapshot {snapshot_id} is not the latest of share {share_id}.",
                hint=f"Revert to {latest.id}."
                if shown
                else "The latest one is another project's; ask an administrator.",
            )
        growth = max(0, snapshot["size"] - share["size"])
        replicas = _count_replicas(tx, share)
        if growth:
            reserve(
                tx,
                deployment.settings.quotas,
                project_id=share["project_id"],
                user_id=share["user_id"],
                share_type_id=share["share_type_id"],
                amounts={"gigabytes": growth} | ({"replica_gigabytes": growth * replicas} if replicas else {}),
            )
        share_service.write_status(tx, share_id, ShareStatus.REVERTING)
        write_status(tx, snapshot_id, SnapshotStatus.RESTORING)
        payload = {"snapshot_id": snapshot_id, "size": snapshot["size"], "reserved": growth, "status": share["status"]}
        seconds = COPY_SECONDS * snapshot["size"]
        submit(tx, deployment, context, "revert_to_snapshot", "share", share_id, payload, more_seconds=seconds)
    deployment.wake()


def _check_replicas(tx: Connection, share: Record) -> None:
    """Conflict when a replica of a share is not available, and so cannot be reverted with it."""
    columns = share_instances.c
    query = select(columns.id, columns.status).where(
        columns.share_id == share["id"], columns.is_main.is_(False), columns.status != ShareStatus.AVAILABLE
    )
    row = tx.execute(query.limit(1)).first()
    if row is not None:
        raise Conflict(
            f"Replica {row.id} is in status '{row.status}', so the share cannot be reverted.",
            hint="Wait until it is available, or delete it.",
        )


def _count_replicas(tx: Connection, share: Record) -> int:
    """How many replicas a share has, with the active one; 0 where it may have none."""
    if share["replication_type"] is None:
        return 0
    query = select(func.count()).select_from(share_instances).where(share_instances.c.share_id == share["id"])
    return int(tx.execute(query).scalar_one())


def reset_status(deployment: Deployment, context: RequestContext, identifier: str, status: str) -> None:
    """Set the status of a snapshot and its instance (admin). Nothing else happens."""
    check_status(status)
    with deployment.store.begin() as tx:
        find(tx, context, identifier, "share_snapshot:reset_status", lock=True)
        write_status(tx, identifier, status)


def check_status(status: str) -> None:
    if status not in SnapshotStatus.ALL:
        raise InvalidInput(f"Invalid status '{status[:64]}'. Use one of: {', '.join(SnapshotStatus.ALL)}.")


def write_status(tx: Connection, identifier: str, status: str) -> None:
    """Write the status of a snapshot and of its instance, or of all where it is being deleted."""
    now = utcnow()
    which = () if status == SnapshotStatus.DELETING else (of_main_instance(),)
    tx.execute(update(share_snapshots).where(share_snapshots.c.id == identifier).values(status=status, updated_at=now))
    tx.execute(
        update(share_snapshot_instances)
        .where(share_snapshot_instances.c.snapshot_id == identifier, *which)
        .values(status=status, updated_at=now)
    )


# ---- metadata --------------------------------------------------------------------------------------------------------


def read_metadata(deployment: Deployment, context: RequestContext, identifier: str) -> dict[str, str]:
    with deployment.store.read() as tx:
        find(tx, context, identifier, "share_snapshot:get_metadata")
        return read_maps(tx, share_snapshot_metadata, _OWNER, [identifier])[identifier]


def write_metadata(
    deployment: Deployment, context: RequestContext, identifier: str, values: Any, *, replace: bool
) -> dict[str, str]:
    """Set keys (``replace``: and remove the others). Returns all."""
    checked = check_metadata(values)
    with deployment.store.begin() as tx:
        find(tx, context, identifier, "share_snapshot:update_metadata", lock=True)
        write_map(tx, share_snapshot_metadata, _OWNER, identifier, checked, replace=replace)
        return read_maps(tx, share_snapshot_metadata, _OWNER, [identifier])[identifier]


def delete_metadata(deployment: Deployment, context: RequestContext, identifier: str, key: str) -> None:
    with deployment.store.begin() as tx:
        find(tx, context, identifier, "share_snapshot:delete_metadata", lock=True)
        delete_item(tx, share_snapshot_metadata, _OWNER, identifier, key)


# ---- parts -----------------------------------------------------------------------------------------------------------


def _select() -> Select[Any]:
    return select(share_snapshots, _PROVIDER_LOCATION.label("provider_location"))


def _complete(tx: Connection, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    identifiers = [record["id"] for record in records]
    attach(records, "metadata", read_maps(tx, share_snapshot_metadata, _OWNER, identifiers))
    return records


def _conditions(filters: Mapping[str, Any]) -> list[ColumnElement[bool]]:
    snapshot, item = share_snapshots.c, share_snapshot_metadata.c
    return [
        *by_columns(share_snapshots, _EXACT, filters),
        *(
            exists().where(item.snapshot_id == snapshot.id, item.key == key, item.value == value)
            for key, value in filters.get("metadata", {}).items()
        ),
    ]
