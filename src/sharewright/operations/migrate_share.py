"""Story: the first phase of moving a share to another pool ("migration_start"), which no client notices.

check the pool → a second instance, its row → place on a share server there → wait for the server → ask the driver
whether it can, and as was asked → its first phase → ``migration_driver_phase1_done``; the share stays ``migrating``
until an administrator completes or cancels it (complete_migration.py, cancel_migration.py).

A failure leaves the share as it was, ``available``, with the task state ``migration_error`` and a user message; nothing
is left of the second instance. So does a driver that moves no shares.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Connection, select

from sharewright.drivers.contract import ShareDriver
from sharewright.drivers.migration import Compatibility, MigrationDriver
from sharewright.errors import NoValidBackend, SharewrightError, Unsupported
from sharewright.identifiers import derived_id, utcnow
from sharewright.operations.contract import BaseStory, Done, Operation, Outcome, RetryLater, WaitFor
from sharewright.operations.create_share import check_server_creation, find_driver
from sharewright.operations.messages import Detail
from sharewright.operations.migration_places import Places
from sharewright.operations.migration_rows import (
    Migrating,
    drop_other,
    end_migrating,
    find_migration_driver,
    read_migrating,
    read_type,
    release_type,
    restore_snapshots,
    snapshots_of,
    tell,
    write_task_state,
)
from sharewright.operations.pool_rows import Pool
from sharewright.operations.share_rows import ShareRow, is_delete_queued, leave_server
from sharewright.operations.share_servers import Placement, place, place_on_named
from sharewright.operations.snapshot_rows import write_snapshot_status
from sharewright.operations.type_specs import TYPE_SPECS, instance_columns
from sharewright.progress import Progress
from sharewright.settings import Settings
from sharewright.states import AccessState, ShareStatus, SnapshotStatus, TaskState
from sharewright.store.database import Store
from sharewright.store.tables import share_instances, share_snapshot_access_rules, share_snapshots

CANCEL: Final = "cancel_share_migration"
LOOK_SECONDS: Final = 2.0  # at a first phase that is under way
PERCENT: Final = "total_progress"  # the fact
# What a request may insist on, and how a refusal says it.
WISHES: Final = {
    "nondisruptive": "without disrupting its clients",
    "preserve_metadata": "while keeping all file metadata",
    "writable": "while it remains writable",
    "preserve_snapshots": "while keeping its snapshots",
}
_COPIED: Final = tuple(spec.column for spec in TYPE_SPECS.values() if spec.column is not None)


class StartShareMigration(BaseStory):
    """Payload: ``host`` (a pool's), ``share_network_id``, ``share_type_id``, what of WISHES is true, and ``forced``, to
    have the data copied by a data service, which there is none of."""

    kind = "start_share_migration"

    def __init__(self, store: Store, drivers: Mapping[str, ShareDriver], settings: Settings) -> None:
        self._store = store
        self._drivers = drivers
        self._settings = settings
        self._places = Places(store, drivers, settings)

    def run(self, operation: Operation, progress: Progress) -> Outcome:
        check_server_creation(operation)
        found = self._begin(operation, progress)
        if found is None:
            return Done()
        share = found.share
        if operation.payload.get("forced"):
            raise Unsupported(
                "Host-assisted migration needs a data service, which there is none of here.",
                hint="Make a share in the other place and copy the data with a client of both.",
            )
        driver = find_migration_driver(self._drivers, share.backend)
        other_id = derived_id("share_migration", operation.id)
        if found.other is None or found.other.instance_id != other_id:
            self._make_other(operation, found, other_id, progress)
        placement = self._place(other_id, operation, progress)
        if placement.operation_id is not None:
            return WaitFor(placement.operation_id)
        destination = self._destination(operation)
        with progress.step("check"):
            _check(driver.check_migration(share.instance_id, other_id, destination), operation, share)
            waiting = self._mark_snapshots(share, operation, progress)
        if waiting:
            return RetryLater(waiting, seconds=LOOK_SECONDS)
        percent = driver.continue_migration(share.instance_id, other_id, destination, progress)
        progress.record(**{PERCENT: percent})
        if percent < 100:
            return RetryLater("The first phase of the migration is under way.", seconds=LOOK_SECONDS)
        return Done(lambda tx: _finish(tx, share.id))

    def compensate(self, operation: Operation, progress: Progress, error: SharewrightError) -> None:
        with self._store.read() as tx:
            found = read_migrating(tx, operation.resource_id)
        if found is None or found.other is None or found.other.backend is None or found.is_exchanged:
            return
        source, destination = find_driver(self._drivers, str(found.share.backend)), self._destination(operation)
        if isinstance(source, MigrationDriver):
            source.cancel_migration(found.share.instance_id, found.other.instance_id, destination, progress)
        destination.delete_share(found.other.instance_id, found.other.server_id, progress, force=True)

    def fail(self, tx: Connection, operation: Operation, error: SharewrightError) -> None:
        found = read_migrating(tx, operation.resource_id, lock=True)
        if found is None:
            return
        share, other = found.share, found.other
        if other is None:  # it had not come to that; what a row of it would have given back is given back here
            release_type(tx, share, other_type(operation, share))
        elif not _is_left(tx, other.instance_id):
            drop_other(tx, share, other)
        restore_snapshots(tx, operation, share.id)
        end_migrating(tx, share, ShareStatus.AVAILABLE)
        write_task_state(tx, share.id, TaskState.ERROR)
        unscheduled = isinstance(error, NoValidBackend)
        tell(tx, operation, share, error, Detail.NO_VALID_HOST if unscheduled else Detail.UNKNOWN_ERROR)

    # ---- parts ----

    def _begin(self, operation: Operation, progress: Progress) -> Migrating | None:
        """The share, if there is still something to do; an error when somebody wants it deleted by now."""
        with self._store.begin() as tx:
            progress.fence(tx)
            found = read_migrating(tx, operation.resource_id, lock=True)
            if found is None or found.task_state not in TaskState.FIRST_PHASE:
                return None
            if is_delete_queued(tx, found.share.id):
                raise SharewrightError("The share was deleted while it was being migrated.")
            if is_delete_queued(tx, found.share.id, CANCEL):  # which sees to the rest
                return None
            if found.task_state == TaskState.STARTING:
                write_task_state(tx, found.share.id, TaskState.IN_PROGRESS)
        if found.share.backend is None or found.share.server_id is None or not found.share.wanted:
            raise SharewrightError("The share is not served by any share server, so it cannot be migrated.")
        return found

    def _destination(self, operation: Operation) -> ShareDriver:
        backend = str(operation.payload["host"]).partition("@")[2].partition("#")[0]
        return find_driver(self._drivers, backend)

    def _make_other(self, operation: Operation, found: Migrating, other_id: str, progress: Progress) -> None:
        """The second instance's row. What an earlier migration has left is taken away before."""
        share, payload = found.share, operation.payload
        with progress.step("schedule"):
            type_id, network_id = str(payload["share_type_id"]), payload.get("share_network_id")
            pool = self._places.check(share.id, payload["host"], share_type_id=type_id, share_network_id=network_id)
        find_migration_driver(self._drivers, pool.backend)
        if found.other is not None:
            remove_left(self._store, self._drivers, found, progress)
        with self._store.begin() as tx:
            progress.fence(tx)
            values = {"id": other_id, "share_network_id": network_id, "share_type_id": other_type(operation, share)}
            insert_other(tx, share, pool, values)

    def _place(self, other_id: str, operation: Operation, progress: Progress) -> Placement:
        destination = self._destination(operation)
        with self._store.begin() as tx:
            progress.fence(tx)
            if not self._settings.backends[destination.backend].driver_handles_share_servers:
                return place_on_named(tx, destination.backend, other_id)
            seconds = self._settings.worker.operation_seconds
            return place(tx, destination, other_id, seconds=seconds, context=operation.context)

    def _mark_snapshots(self, share: ShareRow, operation: Operation, progress: Progress) -> str:
        """Let the snapshots be ``migrating`` with their share. Returns what has to be waited for, if anything."""
        rules = share_snapshot_access_rules.c
        with self._store.begin() as tx:
            progress.fence(tx)
            found = snapshots_of(tx, share.id)
            odd = [row.id for row in found if row.status not in (SnapshotStatus.AVAILABLE, SnapshotStatus.MIGRATING)]
            if odd:
                raise SharewrightError(
                    f"All snapshots of a share must be available when it is migrated; {odd[0]} is not.",
                    hint="Wait for it, or delete it.",
                )
            passing = (
                select(rules.id)
                .join(share_snapshots, share_snapshots.c.id == rules.snapshot_id)
                .where(share_snapshots.c.share_id == share.id, rules.state.in_(AccessState.TRANSITIONAL))
            )
            if tx.execute(passing.limit(1)).first() is not None:
                return "Access rules of a snapshot of the share are being applied."
            for row in found:
                write_snapshot_status(tx, row.id, SnapshotStatus.MIGRATING)
            write_task_state(tx, share.id, TaskState.DRIVER_IN_PROGRESS)
        return ""


def other_type(operation: Operation, share: ShareRow) -> str | None:
    """The type that the share is to have, if it is another one."""
    wanted = operation.payload.get("share_type_id")
    return None if wanted in (None, share.share_type_id) else str(wanted)


def insert_other(tx: Connection, share: ShareRow, pool: Pool, values: Mapping[str, Any]) -> None:
    """Write the row of where a share goes: of what its type asks for, or, for the same type, of what it is made of."""
    columns = share_instances.c
    type_id = values["share_type_id"]
    if type_id is not None:
        made_of: dict[str, Any] = instance_columns(read_type(tx, type_id))
    else:
        query = select(*(columns[name] for name in _COPIED)).where(columns.id == share.instance_id)
        made_of = dict(tx.execute(query).one()._mapping)
    tx.execute(
        share_instances.insert().values(
            share_id=share.id,
            status=ShareStatus.MIGRATING_TO,
            is_main=False,
            host=pool.host,
            backend=pool.backend,
            availability_zone=pool.availability_zone,
            size=share.size,
            created_at=utcnow(),
            **made_of,
            **values,
        )
    )


def remove_left(store: Store, drivers: Mapping[str, ShareDriver], found: Migrating, progress: Progress) -> None:
    """Take away what a migration that ended otherwise has left of a second instance."""
    other = found.other
    if other is None:
        return
    if other.backend is not None:
        find_driver(drivers, other.backend).delete_share(other.instance_id, other.server_id, progress, force=True)
    with store.begin() as tx:
        progress.fence(tx)
        drop_other(tx, found.share, other)


def _check(compatibility: Compatibility, operation: Operation, share: ShareRow) -> None:
    if not compatibility.compatible:
        raise Unsupported(
            f"The driver of backend {share.backend} cannot move the share there: "
            f"{compatibility.reason or 'it does not say why'}.",
            hint="Choose another pool or share type.",
        )
    for wish, how in WISHES.items():
        if operation.payload.get(wish) and not getattr(compatibility, wish):
            raise Unsupported(
                f"The driver of backend {share.backend} cannot move the share {how}.",
                hint=f"Ask for the migration without {wish}.",
            )


def _is_left(tx: Connection, other_id: str) -> bool:
    """Whether there may be something of an instance in the cloud still. One without a volume is without a place."""
    columns = share_instances.c
    row = tx.execute(select(columns.volume_id, columns.share_server_id).where(columns.id == other_id)).one()
    if row.volume_id is not None:
        return True
    tx.execute(share_instances.update().where(columns.id == other_id).values(share_server_id=None))
    leave_server(tx, row.share_server_id)
    return False


def _finish(tx: Connection, share_id: str) -> None:
    found = read_migrating(tx, share_id, lock=True)
    if found is not None and found.task_state in TaskState.FIRST_PHASE:
        write_task_state(tx, share_id, TaskState.PHASE1_DONE)
