"""Story: create a share.

schedule → place on a share server (joining or asking for one) → volume, while the server boots → wait for the server →
attach, format, mount, export in one guest round trip → ``available`` with its export locations.

A failure removes whatever was made for the share; the share ends in ``error`` with a user message that says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from sqlalchemy import Connection

from sharewright.drivers.contract import ExportLocation, ShareDriver
from sharewright.drivers.locations import add_locations
from sharewright.errors import CloudError, DeadlineExceeded, NoValidBackend, SharewrightError
from sharewright.identifiers import utcnow
from sharewright.operations.contract import BaseStory, Done, Operation, Outcome, WaitFor
from sharewright.operations.messages import Action, Detail, write_message
from sharewright.operations.pool_rows import Pool
from sharewright.operations.scheduler import Scheduler
from sharewright.operations.share_groups import fits_group
from sharewright.operations.share_rows import (
    ShareRow,
    leave_server,
    read_share,
    read_shares_to_make,
    write_share_status,
    write_status,
)
from sharewright.operations.share_servers import Placement, place, place_on_named
from sharewright.progress import Progress
from sharewright.settings import Settings
from sharewright.states import ShareStatus
from sharewright.store.database import Store
from sharewright.store.kept import change_row
from sharewright.store.tables import share_instances, shares


class CreateShare(BaseStory):
    kind = "create_share"
    ends_together = True

    def __init__(self, store: Store, drivers: Mapping[str, ShareDriver], settings: Settings) -> None:
        self._store = store
        self._drivers = drivers
        self._settings = settings
        self._scheduler = Scheduler(store, drivers, settings)

    def run(self, operation: Operation, progress: Progress) -> Outcome:
        check_server_creation(operation)
        share = self._read(operation)
        if share is None or share.status == ShareStatus.AVAILABLE:
            return Done()
        driver, placement = self._place(share, operation, progress)
        if placement.operation_id is not None:
            driver.prepare_share(share.instance_id, progress)
            return WaitFor(placement.operation_id)
        locations = driver.create_share(share.instance_id, placement.server_id, progress)
        return Done(lambda tx: self._finish(tx, share, locations, progress))

    def compensate(self, operation: Operation, progress: Progress, error: SharewrightError) -> None:
        with self._store.read() as tx:
            share = read_share(tx, operation.resource_id)
        if share is not None and share.backend is not None:
            find_driver(self._drivers, share.backend).delete_share(
                share.instance_id, share.server_id, progress, force=True
            )

    def fail(self, tx: Connection, operation: Operation, error: SharewrightError) -> None:
        share = read_share(tx, operation.resource_id)
        if share is None:
            return
        write_status(tx, share.id, ShareStatus.ERROR)
        # What could not be removed keeps its server, so that deleting the share finds it.
        tx.execute(
            share_instances.update()
            .where(share_instances.c.id == share.instance_id, share_instances.c.volume_id.is_(None))
            .values(share_server_id=None)
        )
        leave_server(tx, share.server_id)
        unscheduled = isinstance(error, NoValidBackend)
        server_failed = operation.waited_for is not None and not operation.waited_for.succeeded
        write_message(
            tx,
            operation,
            project_id=share.project_id,
            resource_id=share.id,
            action=Action.ALLOCATE_HOST if unscheduled else Action.CREATE,
            detail=Detail.NO_VALID_HOST
            if unscheduled
            else Detail.NO_SHARE_SERVER
            if server_failed
            else Detail.DRIVER_FAILED_CREATING_FROM_SNAP
            if share.snapshot_id is not None or share.member_id is not None
            else Detail.UNKNOWN_ERROR,
            error=error,
        )

    # ---- parts ----

    def _finish(self, tx: Connection, share: ShareRow, locations: Sequence[ExportLocation], progress: Progress) -> None:
        """Write the end of a successful creation. The instance's status goes with what else was learned of it."""
        add_locations(tx, share.instance_id, locations)
        status = ShareStatus.AVAILABLE
        if not write_share_status(tx, share.id, status, progress="100%"):
            status = ShareStatus.DELETING  # both have it
        values = {"status": status, "updated_at": utcnow()}
        progress.later(self._store, share_instances, share.instance_id, values)

    def _read(self, operation: Operation) -> ShareRow | None:
        """The share; an error when somebody wants it deleted by now, which ends this work and undoes it."""
        share, is_delete_queued = self._store.look_up(read_shares_to_make, operation.resource_id) or (None, False)
        if is_delete_queued:
            raise SharewrightError("The share was deleted while it was being created.")
        return share

    def _place(self, share: ShareRow, operation: Operation, progress: Progress) -> tuple[ShareDriver, Placement]:
        """The backend and the server: chosen, or as an earlier attempt chose them. One transaction writes both."""
        while True:
            pool = None
            if share.backend is None:
                with progress.step("schedule", brief=True):
                    pool = self._scheduler.choose(
                        share.id,
                        operation.payload.get("scheduler_hints"),
                        in_any_zone=bool(operation.payload.get("in_any_zone")),
                    )
            driver = find_driver(self._drivers, pool.backend if pool is not None else str(share.backend))
            write = partial(self._write_place, share, operation, progress, driver, pool)
            placement = self._store.together(("place", driver.backend, share.share_network_id), write)
            if placement is not None:
                return driver, placement

    def _write_place(
        self,
        share: ShareRow,
        operation: Operation,
        progress: Progress,
        driver: ShareDriver,
        pool: Pool | None,
        tx: Connection,
    ) -> Placement | None:
        """None when another share of its group has gone to another backend meanwhile."""
        progress.fence(tx, at_end=share.share_group_id is None)
        if pool is not None and not fits_group(tx, share.share_group_id, share.id, pool.backend):
            return None
        if self._settings.backends[driver.backend].driver_handles_share_servers:
            return place(
                tx,
                driver,
                share.instance_id,
                seconds=self._settings.worker.operation_seconds,
                context=operation.context,
                pool=pool,
                new=share,
            )
        if pool is not None:
            write_pool(tx, share, pool)
        return place_on_named(tx, driver.backend, share.instance_id)


def write_pool(tx: Connection, share: ShareRow, pool: Pool) -> None:
    """Keep where the share is going to live."""
    now = utcnow()
    values = {"host": pool.host, "availability_zone": pool.availability_zone, "updated_at": now}
    change_row(tx, shares, share.id, **values)
    change_row(tx, share_instances, share.instance_id, backend=pool.backend, **values)


def check_server_creation(operation: Operation) -> None:
    """Raise the reason when the share server that was waited for could not be made."""
    server = operation.waited_for
    if server is None or server.succeeded or server.state == "missing":
        return
    if server.state == "waiting":
        raise DeadlineExceeded("The share server was not ready in time.", hint="Try again later.")
    raise CloudError(f"The share server could not be made: {server.error or 'no reason is known'}")


def find_driver(drivers: Mapping[str, ShareDriver], backend: str) -> ShareDriver:
    """Raises SharewrightError when the configuration no longer has the backend."""
    driver = drivers.get(backend)
    if driver is None:
        raise SharewrightError(
            f"Backend {backend} is not in this worker's configuration.",
            hint="Add it again under [backends], or run a worker that has it.",
        )
    return driver
