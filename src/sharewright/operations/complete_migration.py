"""Story: the second phase of moving a share ("migration_complete").

the driver gives what the share holds to the second instance, and serves it no more → served on its new share server →
that instance is the share's main one, with its new type and network, in one transaction → its access rules, which let
clients write from then on → what is left where it was → ``available``, ``migration_success``.

A failure leaves the share in ``error``, with the task state ``migration_error`` and a user message, as nobody knows
what its clients see. An administrator resets the task state to ``migration_driver_phase1_done`` and completes it again,
or, before the share is in its new place, cancels it; deleting works.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, select

from sharewright.drivers.contract import ExportLocation, ShareDriver
from sharewright.drivers.locations import write_locations
from sharewright.errors import SharewrightError
from sharewright.identifiers import utcnow
from sharewright.operations.contract import BaseStory, Done, Operation, Outcome
from sharewright.operations.create_share import find_driver
from sharewright.operations.extra_specs import is_true
from sharewright.operations.migration_rows import (
    drop_other,
    fail_half_moved,
    find_migration_driver,
    move_snapshot_quota,
    read_migrating,
    read_type,
    restore_snapshots,
    write_task_state,
)
from sharewright.operations.share_rows import ShareRow, is_delete_queued, read_share, write_status
from sharewright.operations.share_servers import NAMED
from sharewright.operations.type_specs import REPLICATION_SPEC, SUPPORT
from sharewright.progress import Progress
from sharewright.states import ReplicaState, ShareStatus, TaskState
from sharewright.store.database import Store
from sharewright.store.tables import share_instances, shares


class CompleteShareMigration(BaseStory):
    kind = "complete_share_migration"

    def __init__(self, store: Store, drivers: Mapping[str, ShareDriver]) -> None:
        self._store = store
        self._drivers = drivers

    def run(self, operation: Operation, progress: Progress) -> Outcome:
        with self._store.read() as tx:
            found = read_migrating(tx, operation.resource_id)
            if found is None or found.task_state != TaskState.COMPLETING:
                return Done()
            if is_delete_queued(tx, found.share.id):
                raise SharewrightError("The share was deleted while it was being migrated.")
        if found.other is None:
            raise SharewrightError("The share has no second instance that it could be moved to.")
        share, former = found.share, found.other
        if not found.is_exchanged:
            self._move(share, former, progress)
            share, former = former, share
        find_driver(self._drivers, str(share.backend)).update_access(share.instance_id, str(share.server_id), progress)
        find_driver(self._drivers, str(former.backend)).delete_share(
            former.instance_id, former.server_id, progress, force=True
        )
        return Done(lambda tx: _finish(tx, operation))

    def fail(self, tx: Connection, operation: Operation, error: SharewrightError) -> None:
        fail_half_moved(tx, operation, error)

    # ---- parts ----

    def _move(self, share: ShareRow, other: ShareRow, progress: Progress) -> None:
        source = find_migration_driver(self._drivers, share.backend)
        destination = find_migration_driver(self._drivers, other.backend)
        if other.server_id is None:
            raise SharewrightError(
                "The second instance of the share has no share server.", hint="Cancel the migration."
            )
        source.complete_migration(share.instance_id, other.instance_id, destination, progress)
        locations = destination.create_share(other.instance_id, other.server_id, progress)
        with self._store.begin() as tx:
            progress.fence(tx)
            exchange(tx, share, other, locations)


def exchange(tx: Connection, share: ShareRow, other: ShareRow, locations: Sequence[ExportLocation]) -> None:
    """Make the second instance the share's main one, with its type; the share's own columns are mirrors of it."""
    found = read_migrating(tx, share.id, lock=True)
    if found is None or found.other is None or found.other.instance_id != other.instance_id:
        raise SharewrightError("The share was deleted, or its migration cancelled, while it was being completed.")
    now, columns = utcnow(), share_instances.c
    mirrored = ("host", "availability_zone", "share_network_id", "share_server_id")
    row = tx.execute(
        select(*(columns[name] for name in mirrored), columns.share_type_id, NAMED.label("named")).where(
            columns.id == other.instance_id
        )
    ).one()
    values = {name: row._mapping[name] for name in mirrored}
    if row.named:  # no user sees that machine
        values["share_server_id"] = None
    former_type = None
    if row.share_type_id is not None:
        former_type, specs = share.share_type_id, read_type(tx, row.share_type_id)
        values |= {"share_type_id": row.share_type_id, "replication_type": specs.get(REPLICATION_SPEC)}
        values |= {name: name in specs and is_true(specs[name]) for name in SUPPORT}
    tx.execute(shares.update().where(shares.c.id == share.id).values(**values, updated_at=now))
    replication = tx.execute(select(shares.c.replication_type).where(shares.c.id == share.id)).scalar_one()
    changes: tuple[tuple[ShareRow, dict[str, object]], ...] = (
        (
            share,
            {"is_main": False, "status": ShareStatus.INACTIVE, "replica_state": None, "share_type_id": former_type},
        ),
        (other, {"is_main": True, "status": found.share.status, "share_type_id": None}),
    )
    for instance, changed in changes:
        tx.execute(share_instances.update().where(columns.id == instance.instance_id).values(**changed, updated_at=now))
    if replication is not None:
        active = share_instances.update().where(columns.id == other.instance_id)
        tx.execute(active.values(replica_state=ReplicaState.ACTIVE))
    if former_type is not None:
        moved = read_share(tx, share.id)
        if moved is not None:
            move_snapshot_quota(tx, moved, former_type)
    write_locations(tx, other.instance_id, locations)


def _finish(tx: Connection, operation: Operation) -> None:
    found = read_migrating(tx, operation.resource_id, lock=True)
    if found is None:
        return
    if found.other is not None:
        drop_other(tx, found.share, found.other)
    restore_snapshots(tx, operation, found.share.id)
    if found.share.status in (ShareStatus.MIGRATING, ShareStatus.ERROR):  # in error: from an earlier try
        write_status(tx, found.share.id, ShareStatus.AVAILABLE, progress="100%")
    write_task_state(tx, found.share.id, TaskState.SUCCESS)
