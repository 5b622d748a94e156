"""Story: create a replica of a share.

schedule, to another pool of the active replica's domain → place on a share server → volume, while the server boots →
wait for the server → serve it and begin to replicate → the share's snapshots → ``available``, ``in_sync`` or still
``out_of_sync``.

A failure removes what was made; the replica ends in ``error`` with a user message. Nothing happens to the share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sqlalchemy import Connection

from sharewright.drivers.contract import ExportLocation, ReplicationDriver, ShareDriver
from sharewright.drivers.locations import write_locations
from sharewright.errors import NoValidBackend, SharewrightError
from sharewright.operations.contract import BaseStory, Done, Operation, Outcome, WaitFor
from sharewright.operations.create_share import check_server_creation
from sharewright.operations.messages import Action, Detail
from sharewright.operations.replica_rows import (
    fail_replica,
    find_replication_driver,
    lock_replica,
    read_replica,
    state_of,
)
from sharewright.operations.replica_snapshots import delete_snapshots, follow_snapshots
from sharewright.operations.scheduler import Scheduler
from sharewright.operations.share_rows import ShareRow, is_delete_queued, leave_server, write_replica
from sharewright.operations.share_servers import Placement, place, place_on_named
from sharewright.progress import Progress
from sharewright.settings import Settings
from sharewright.states import ReplicaState, ShareStatus
from sharewright.store.database import Store
from sharewright.store.tables import share_instances


class CreateReplica(BaseStory):
    """Payload: ``scheduler_hints``."""

    kind = "create_replica"

    def __init__(self, store: Store, drivers: Mapping[str, ShareDriver], settings: Settings) -> None:
        self._store = store
        self._drivers = drivers
        self._settings = settings
        self._scheduler = Scheduler(store, drivers, settings)

    def run(self, operation: Operation, progress: Progress) -> Outcome:
        check_server_creation(operation)
        found = self._read(operation)
        if found is None:
            return Done()
        replica, active = found
        driver, placement = self._place(replica, operation, progress)
        driver.prepare_share(replica.instance_id, progress)
        if placement.operation_id is not None:
            return WaitFor(placement.operation_id)
        self._read(operation)  # the volume took its time: is the replica still wanted?
        locations = driver.create_replica(replica.instance_id, active.instance_id, placement.server_id, progress)
        server_id = placement.server_id
        in_sync = driver.update_replica(replica.instance_id, active.instance_id, server_id, progress)
        if in_sync:
            placed = replace(replica, backend=driver.backend, server_id=server_id)
            in_sync = follow_snapshots(self._store, self._drivers, placed, server_id, operation, progress)
        return Done(lambda tx: finish(tx, replica.instance_id, locations, in_sync=in_sync))

    def compensate(self, operation: Operation, progress: Progress, error: SharewrightError) -> None:
        with self._store.read() as tx:
            found = read_replica(tx, operation.resource_id)
        if found is not None and found[0].backend is not None:
            replica, active = found
            driver = find_replication_driver(self._drivers, str(replica.backend))
            delete_snapshots(self._store, self._drivers, replica.instance_id, progress)
            driver.delete_replica(replica.instance_id, active.instance_id, replica.server_id, progress, force=True)

    def fail(self, tx: Connection, operation: Operation, error: SharewrightError) -> None:
        found = read_replica(tx, operation.resource_id)
        unscheduled = isinstance(error, NoValidBackend)
        fail_replica(
            tx,
            operation,
            error,
            action=Action.ALLOCATE_HOST if unscheduled else Action.CREATE,
            detail=Detail.FILTER_REPLICATION if unscheduled else Detail.UNKNOWN_ERROR,
            status=ShareStatus.ERROR,
            replica_state=ReplicaState.ERROR,
        )
        # What could not be removed keeps its server, so that deleting the replica finds it.
        tx.execute(
            share_instances.update()
            .where(share_instances.c.id == operation.resource_id, share_instances.c.volume_id.is_(None))
            .values(share_server_id=None)
        )
        if found is not None:
            leave_server(tx, found[0].server_id)

    # ---- parts ----

    def _read(self, operation: Operation) -> tuple[ShareRow, ShareRow] | None:
        """The replica and the active one, if there is still something to do."""
        with self._store.read() as tx:
            found = read_replica(tx, operation.resource_id)
            if found is None or found[0].is_main or found[0].instance_status == ShareStatus.AVAILABLE:
                return None
            if is_delete_queued(tx, operation.resource_id, "delete_replica"):
                raise SharewrightError("The replica was deleted while it was being created.")
        return found

    def _place(
        self, replica: ShareRow, operation: Operation, progress: Progress
    ) -> tuple[ReplicationDriver, Placement]:
        """The backend and the server: chosen, or as an earlier attempt chose them. One transaction writes both."""
        pool = None
        if replica.backend is None:
            with progress.step("schedule"):
                hints = operation.payload.get("scheduler_hints")
                pool = self._scheduler.choose(replica.id, hints, replica_id=replica.instance_id)
        driver = find_replication_driver(self._drivers, pool.backend if pool is not None else str(replica.backend))
        with self._store.begin() as tx:
            progress.fence(tx)
            if pool is not None:
                write_replica(
                    tx,
                    replica.instance_id,
                    backend=pool.backend,
                    host=pool.host,
                    availability_zone=pool.availability_zone,
                )
            placement = (
                place(
                    tx,
                    driver,
                    replica.instance_id,
                    seconds=self._settings.worker.operation_seconds,
                    context=operation.context,
                )
                if self._settings.backends[driver.backend].driver_handles_share_servers
                else place_on_named(tx, driver.backend, replica.instance_id)
            )
        return driver, placement


def finish(tx: Connection, replica_id: str, locations: Sequence[ExportLocation], *, in_sync: bool) -> None:
    """Write the end of a successful creation."""
    found = lock_replica(tx, replica_id)
    if found is None or found[0].instance_status == ShareStatus.DELETING:
        return
    write_locations(tx, replica_id, locations)
    state = state_of(tx, found[0].id, in_sync=in_sync)
    write_replica(tx, replica_id, status=ShareStatus.AVAILABLE, replica_state=state)
