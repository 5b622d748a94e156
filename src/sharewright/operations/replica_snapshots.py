"""Snapshots of shares with replicas: each replica has an instance of every one, made after that of the main instance.

The snapshot is there as soon as the main instance's is, whatever becomes of the others: a replica without one is not in
sync, ``update_replica`` makes what is missing, and after a promotion a snapshot that the promoted replica does not have
is in error.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import ColumnElement, Connection, exists, select, update

from sharewright.drivers.contract import ShareDriver
from sharewright.drivers.locations import write_snapshot_locations
from sharewright.identifiers import new_id, utcnow
from sharewright.operations.contract import Operation
from sharewright.operations.queue import enqueue
from sharewright.operations.replica_rows import RESOURCE, key_of
from sharewright.operations.share_rows import ShareRow
from sharewright.operations.snapshot_drivers import find_locations, find_snapshot_driver
from sharewright.operations.snapshot_rows import SnapshotRow, find_copying, of_main_instance, read_snapshots
from sharewright.progress import PartOfWork, Progress
from sharewright.states import ShareStatus, SnapshotStatus
from sharewright.store.database import Store
from sharewright.store.tables import share_instances, share_snapshot_instances, share_snapshots

_INSTANCE = share_snapshot_instances.c


def insert_instances(tx: Connection, share_id: str, replica_id: str) -> None:
    """The rows of a new replica for the snapshots that its share has."""
    query = select(share_snapshots.c.id).where(share_snapshots.c.share_id == share_id)
    insert_instance(tx, replica_id, *tx.scalars(query.order_by(share_snapshots.c.created_at)))


def insert_instance(tx: Connection, share_instance_id: str, *snapshot_ids: str) -> None:
    """The rows of snapshots on a share instance, still to be made."""
    for snapshot_id in snapshot_ids:
        tx.execute(
            share_snapshot_instances.insert().values(
                id=new_id(),
                snapshot_id=snapshot_id,
                share_instance_id=share_instance_id,
                status=SnapshotStatus.CREATING,
                taken_over=True,
                created_at=utcnow(),
            )
        )


def ask_replicas(tx: Connection, operation: Operation) -> None:
    """A snapshot is there, so the replicas of its share are asked to have it as well."""
    query = (
        select(share_instances.c.id, share_instances.c.share_id)
        .join(share_snapshots, share_snapshots.c.share_id == share_instances.c.share_id)
        .where(
            share_snapshots.c.id == operation.resource_id,
            share_instances.c.is_main.is_(False),
            share_instances.c.replica_state.is_not(None),
            share_instances.c.status == ShareStatus.AVAILABLE,
        )
    )
    for row in tx.execute(query).all():
        enqueue(
            tx,
            "update_replica",
            resource_type=RESOURCE,
            resource_id=row.id,
            key=key_of(row.share_id),
            context=operation.context,
        )


def follow_snapshots(
    store: Store,
    drivers: Mapping[str, ShareDriver],
    replica: ShareRow,
    server_id: str,
    operation: Operation,
    progress: Progress,
) -> bool:
    """Make what a replica lacks of its share's snapshots. Returns whether it has all of them by now."""
    complete = True
    with store.read() as tx:
        lacking = _lacking(tx, replica.instance_id)
    for each in lacking:
        with store.read() as tx:
            if not _lacking(tx, replica.instance_id, share_snapshots.c.id == each.id):
                continue  # it is being deleted by now
            copying = find_copying(tx, {each.instance_id: server_id}, operation.id)
        if copying is not None:  # some clouds copy one at a time; the next look makes it
            complete = False
            continue
        driver = find_snapshot_driver(drivers, each.backend)
        if not driver.create_snapshot(each.instance_id, server_id, PartOfWork(progress, each.instance_id)):
            complete = False
            continue
        locations = find_locations(drivers, each)  # for the time when the replica is the active one
        with store.begin() as tx:
            progress.fence(tx)
            write_snapshot_locations(tx, each.instance_id, locations)
            tx.execute(
                update(share_snapshot_instances)
                .where(_INSTANCE.id == each.instance_id, _INSTANCE.status != SnapshotStatus.DELETING)
                .values(status=SnapshotStatus.AVAILABLE, updated_at=utcnow())
            )
    return complete


def delete_snapshots(store: Store, drivers: Mapping[str, ShareDriver], replica_id: str, progress: Progress) -> None:
    """Remove the snapshots of a replica from its backend; their rows stay."""
    with store.read() as tx:
        held = read_snapshots(tx, _INSTANCE.share_instance_id == replica_id)
    for each in held:
        if each.backend is not None:
            find_snapshot_driver(drivers, each.backend).delete_snapshot(each.instance_id, progress)


def delete_rows(tx: Connection, replica_id: str) -> None:
    """Those of a replica that is not any more."""
    tx.execute(share_snapshot_instances.delete().where(_INSTANCE.share_instance_id == replica_id))


def mirror(tx: Connection, share_id: str) -> None:
    """After a promotion: a snapshot is what the promoted replica has of it. One in error that is there is available
    again, as it was when that replica was active before."""
    now = utcnow()
    of_share = share_snapshots.c.share_id == share_id
    settled = (SnapshotStatus.AVAILABLE, SnapshotStatus.ERROR, SnapshotStatus.CREATING)
    whole = exists().where(
        _INSTANCE.snapshot_id == share_snapshots.c.id,
        _INSTANCE.status == SnapshotStatus.AVAILABLE,
        of_main_instance(),
    )
    for status, which in ((SnapshotStatus.AVAILABLE, whole), (SnapshotStatus.ERROR, ~whole)):
        tx.execute(
            update(share_snapshots)
            .where(of_share, share_snapshots.c.status.in_(settled), share_snapshots.c.status != status, which)
            .values(status=status, updated_at=now)
        )
    mine = select(share_snapshots.c.id).where(of_share)
    tx.execute(
        update(share_snapshot_instances)
        .where(_INSTANCE.snapshot_id.in_(mine), _INSTANCE.status == SnapshotStatus.CREATING, of_main_instance())
        .values(status=SnapshotStatus.ERROR, updated_at=now)
    )


def _lacking(tx: Connection, replica_id: str, *which: ColumnElement[bool]) -> list[SnapshotRow]:
    mine = _INSTANCE.share_instance_id == replica_id
    for condition in which:
        mine &= condition
    return read_snapshots(
        tx,
        mine
        & (share_snapshots.c.status.in_((SnapshotStatus.AVAILABLE, SnapshotStatus.RESTORING)))
        & _INSTANCE.status.in_((SnapshotStatus.CREATING, SnapshotStatus.ERROR)),
    )
