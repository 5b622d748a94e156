"""Rows that the snapshot stories read and write in the same way. Locks are taken in the order of share_rows.py; a
snapshot's after its share's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, and_, exists, or_, select, tuple_

from sharewright.errors import SharewrightError
from sharewright.identifiers import utcnow
from sharewright.operations.contract import Operation
from sharewright.operations.messages import Action, Detail, Resource, write_message
from sharewright.states import OperationState, SnapshotStatus
from sharewright.store.quotas import count_size_change
from sharewright.store.tables import (
    operations,
    share_instances,
    share_snapshot_access_rules,
    share_snapshot_instances,
    share_snapshots,
    shares,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRow:
    """A snapshot, one of its instances, and where that instance's share lives. ``size`` in GiB; ``share_size`` is what
    the share's volume has been given by now. ``mountable``: whether its share's type lets clients mount it."""

    id: str
    instance_id: str
    share_id: str
    share_instance_id: str
    project_id: str
    user_id: str
    share_type_id: str
    size: int
    share_size: int
    status: str
    instance_status: str
    backend: str | None
    server_id: str | None
    taken_over: bool
    mountable: bool


def of_main_instance() -> ColumnElement[bool]:
    """Whether a snapshot instance is that of its share's main instance, whose status the snapshot's own mirrors. A
    share with replicas has one of each snapshot on each of them."""
    return exists().where(
        share_instances.c.id == share_snapshot_instances.c.share_instance_id, share_instances.c.is_main.is_(True)
    )


def read_snapshot(tx: Connection, snapshot_id: str) -> SnapshotRow | None:
    """A snapshot with the instance on its share's main instance."""
    rows = read_snapshots(tx, share_snapshots.c.id == snapshot_id)
    return rows[0] if rows else None


def read_snapshots(tx: Connection, which: ColumnElement[bool]) -> list[SnapshotRow]:
    """Snapshots, one row for each instance, those on main instances first."""
    query = (
        select(
            share_snapshots.c.id,
            share_snapshot_instances.c.id.label("instance_id"),
            share_snapshots.c.share_id,
            share_snapshot_instances.c.share_instance_id,
            share_snapshots.c.project_id,
            share_snapshots.c.user_id,
            shares.c.share_type_id,
            share_snapshots.c.size,
            share_instances.c.size.label("share_size"),
            share_snapshots.c.status,
            share_snapshot_instances.c.status.label("instance_status"),
            share_instances.c.backend,
            share_instances.c.share_server_id.label("server_id"),
            share_snapshot_instances.c.taken_over,
            shares.c.mount_snapshot_support.label("mountable"),
        )
        .join(share_snapshot_instances, share_snapshot_instances.c.snapshot_id == share_snapshots.c.id)
        .join(share_instances, share_instances.c.id == share_snapshot_instances.c.share_instance_id)
        .join(shares, shares.c.id == share_snapshots.c.share_id)
        .where(which)
        .order_by(share_instances.c.is_main.desc(), share_snapshots.c.created_at, share_snapshot_instances.c.id)
    )
    return [SnapshotRow(**row._mapping) for row in tx.execute(query)]


def write_snapshot_status(
    tx: Connection, snapshot_id: str, status: str, *, everywhere: bool = False, **values: object
) -> None:
    """Set the status of a snapshot and its instance, except of one that is being deleted. ``everywhere``: of those on
    replicas, too, as always when it is being deleted."""
    everywhere = everywhere or status in (SnapshotStatus.DELETING, SnapshotStatus.ERROR_DELETING)
    now = utcnow()
    spared = () if status in (SnapshotStatus.DELETING, SnapshotStatus.ERROR_DELETING) else (SnapshotStatus.DELETING,)
    tx.execute(
        share_snapshots.update()
        .where(share_snapshots.c.id == snapshot_id, share_snapshots.c.status.not_in(spared))
        .values(status=status, updated_at=now, **values)
    )
    tx.execute(
        share_snapshot_instances.update()
        .where(
            share_snapshot_instances.c.snapshot_id == snapshot_id,
            share_snapshot_instances.c.status.not_in(spared),
            *(() if everywhere else (of_main_instance(),)),
        )
        .values(status=status, updated_at=now)
    )


def write_snapshot_size(tx: Connection, snapshot: SnapshotRow, size: int) -> None:
    """Write the size in GiB of what was taken where it is not what was asked for. The quota counts it, beyond its limit
    too: the snapshot is there."""
    count_size_change(
        tx,
        project_id=snapshot.project_id,
        user_id=snapshot.user_id,
        share_type_id=snapshot.share_type_id,
        resource="snapshot_gigabytes",
        change=size - snapshot.size,
    )
    tx.execute(
        share_snapshots.update().where(share_snapshots.c.id == snapshot.id).values(size=size, updated_at=utcnow())
    )


def deny_everybody(tx: Connection, snapshot_id: str) -> None:
    """A snapshot that goes has no access rules any more, whatever comes of its going."""
    rules = share_snapshot_access_rules
    tx.execute(rules.delete().where(rules.c.snapshot_id == snapshot_id))


def find_copying(tx: Connection, servers: Mapping[str, str], operation_id: str) -> str | None:
    """The open operation of another snapshot, of a share or a group, on one of the same share servers that the cloud is
    still copying, if there is one. ``servers``: the share server of each of our own snapshot instances.

    Some clouds copy one at a time, and a share's file system must not stand still while it waits for its turn. Of
    several whose moment is not fixed yet each waits for older ones only, never two for one another.
    """
    columns = share_snapshot_instances.c
    place = tuple_(operations.c.sequence, operations.c.id)
    own = select(operations.c.sequence).where(operations.c.id == operation_id).scalar_subquery()
    return tx.execute(
        select(operations.c.id)
        .join(
            share_snapshot_instances,
            or_(
                columns.snapshot_id == operations.c.resource_id,
                columns.share_group_snapshot_id == operations.c.resource_id,
            ),
        )
        .join(share_instances, share_instances.c.id == columns.share_instance_id)
        .where(
            share_instances.c.share_server_id.in_(set(servers.values())),
            columns.id.not_in(servers),
            columns.status == SnapshotStatus.CREATING,
            columns.provider_location.is_not(None),
            operations.c.state.in_(OperationState.OPEN),
            or_(
                operations.c.kind.in_(("finish_snapshot", "finish_group_snapshot")),
                and_(
                    operations.c.kind.in_(("create_snapshot", "create_group_snapshot")),
                    place < tuple_(own, operation_id),
                ),
            ),
        )
        .order_by(operations.c.sequence)
        .limit(1)
    ).scalar_one_or_none()


def find_older(tx: Connection, operation: Operation, kinds: Sequence[str], which: ColumnElement[bool]) -> str | None:
    """An open operation that was asked for before this one, of other ``kinds``, which it has to wait for. As each waits
    for older ones only, no two wait for one another."""
    place = tuple_(operations.c.sequence, operations.c.id)
    own = select(operations.c.sequence).where(operations.c.id == operation.id).scalar_subquery()
    return tx.execute(
        select(operations.c.id)
        .where(
            which,
            operations.c.kind.in_(kinds),
            operations.c.state.in_(OperationState.OPEN),
            place < tuple_(own, operation.id),
        )
        .order_by(operations.c.sequence)
        .limit(1)
    ).scalar_one_or_none()


def fail_snapshot(
    tx: Connection, operation: Operation, error: SharewrightError, *, status: str, action: Action
) -> None:
    """Write a snapshot's error state and the message that says why."""
    snapshot = read_snapshot(tx, operation.resource_id)
    if snapshot is None:
        return
    write_snapshot_status(tx, snapshot.id, status, everywhere=True)
    write_message(
        tx,
        operation,
        project_id=snapshot.project_id,
        resource_id=snapshot.id,
        resource_type=Resource.SHARE_SNAPSHOT,
        action=action,
        detail=Detail.UNKNOWN_ERROR,
        error=error,
    )
