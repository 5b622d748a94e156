"""Stories: take over a share that exists already ("manage"), and give one away ("unmanage").

``manage_share``: the volume becomes ours → attached to the share server, which says what file system is on it → served
as any share → ``available``, with the volume's size, counted by the quotas from then on. A failure gives the volume
back as it was and ends in ``manage_error`` with a user message.

``unmanage_share``: the share server lets go of it → detached → the volume is nobody's, with all that it holds → the
rows and the quota. A failure leaves ``unmanage_error``; it may be asked for again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sqlalchemy import Connection, select

from sharewright.drivers.contract import ExportLocation, ShareDriver, ShareManager
from sharewright.drivers.locations import write_locations
from sharewright.errors import NoValidBackend, SharewrightError, Unsupported
from sharewright.operations.contract import BaseStory, Done, Operation, Outcome
from sharewright.operations.create_share import find_driver
from sharewright.operations.delete_share import finish as remove_rows
from sharewright.operations.messages import Action, Detail, write_message
from sharewright.operations.scheduler import Scheduler
from sharewright.operations.share_rows import ShareRow, is_delete_queued, read_share, write_status
from sharewright.operations.share_servers import place_on_named
from sharewright.operations.type_specs import check_size
from sharewright.progress import Progress
from sharewright.settings import Settings
from sharewright.states import ShareStatus
from sharewright.store.database import Store
from sharewright.store.quotas import count_size_change, share_amounts
from sharewright.store.tables import share_instances, share_servers, share_type_extra_specs, shares


class ManageShare(BaseStory):
    """Payload: ``export_path`` and ``options`` (the request's driver_options)."""

    kind = "manage_share"

    def __init__(self, store: Store, drivers: Mapping[str, ShareDriver], settings: Settings) -> None:
        self._store = store
        self._drivers = drivers
        self._settings = settings
        self._scheduler = Scheduler(store, drivers, settings)

    def run(self, operation: Operation, progress: Progress) -> Outcome:
        with self._store.read() as tx:
            share = read_share(tx, operation.resource_id)
            if share is None or share.taken_over:
                return Done()
            if is_delete_queued(tx, share.id):
                raise _deleted()
            specs = read_specs(tx, share.share_type_id)
        manager = find_share_manager(self._drivers, str(share.backend))
        with progress.step("schedule"):
            self._scheduler.check_place(share.id)
            if not self._settings.backends[str(share.backend)].driver_handles_share_servers:
                share = self._put_on_named(share, progress)
        options = operation.payload.get("options") or {}
        path = str(operation.payload["export_path"])
        size = manager.manage_share(share.instance_id, share.server_id, path, options, progress)
        check_size(specs, size)
        locations = manager.create_share(share.instance_id, share.server_id or "", progress)
        return Done(lambda tx: finish(tx, share, size, locations))

    def compensate(self, operation: Operation, progress: Progress, error: SharewrightError) -> None:
        with self._store.read() as tx:
            share = read_share(tx, operation.resource_id)
        if share is not None:
            give_back(self._drivers, share, progress)

    def fail(self, tx: Connection, operation: Operation, error: SharewrightError) -> None:
        detail = Detail.NO_VALID_HOST if isinstance(error, NoValidBackend) else Detail.UNKNOWN_ERROR
        _fail(tx, operation, error, status=ShareStatus.MANAGE_ERROR, action=Action.CREATE, detail=detail)

    def _put_on_named(self, share: ShareRow, progress: Progress) -> ShareRow:
        with self._store.begin() as tx:
            progress.fence(tx)
            return replace(share, server_id=place_on_named(tx, str(share.backend), share.instance_id).server_id)


class UnmanageShare(BaseStory):
    """Payload: ``status`` after a failure (default ``unmanage_error``)."""

    kind = "unmanage_share"

    def __init__(self, store: Store, drivers: Mapping[str, ShareDriver]) -> None:
        self._store = store
        self._drivers = drivers

    def run(self, operation: Operation, progress: Progress) -> Outcome:
        with self._store.read() as tx:
            share = read_share(tx, operation.resource_id)
        if share is None:
            return Done()
        if not share.taken_over:
            give_back(self._drivers, share, progress)
        elif share.backend is not None:
            manager = find_share_manager(self._drivers, share.backend)
            manager.unmanage_share(share.instance_id, share.server_id, progress)
        return Done(lambda tx: forget(tx, share))

    def fail(self, tx: Connection, operation: Operation, error: SharewrightError) -> None:
        status = operation.payload.get("status", ShareStatus.UNMANAGE_ERROR)
        _fail(tx, operation, error, status=status, action=Action.DELETE, detail=Detail.UNKNOWN_ERROR)


def find_share_manager(drivers: Mapping[str, ShareDriver], backend: str) -> ShareManager:
    """The backend's driver. Unsupported when it takes over no shares, SharewrightError when there is none."""
    driver = find_driver(drivers, backend)
    if not isinstance(driver, ShareManager):
        raise Unsupported(f"The driver of backend {backend} does not manage shares that somebody else made.")
    return driver


def read_specs(tx: Connection, share_type_id: str) -> dict[str, str]:
    columns = share_type_extra_specs.c
    rows = tx.execute(select(columns.key, columns.value).where(columns.share_type_id == share_type_id))
    return {row.key: row.value for row in rows}


def give_back(drivers: Mapping[str, ShareDriver], share: ShareRow, progress: Progress) -> None:
    """Leave what was not taken over, or only in part, as it was. A driver that manages no shares never touched it."""
    if share.backend is None:
        return
    driver = find_driver(drivers, share.backend)
    if isinstance(driver, ShareManager):
        driver.unmanage_share(share.instance_id, share.server_id, progress, force=True)


def finish(tx: Connection, share: ShareRow, size: int, locations: Sequence[ExportLocation]) -> None:
    """Write that it is ours and available. The quotas count it from here on, beyond their limits too: it is there.
    Raises SharewrightError, which gives it back, when somebody wants it deleted by now: whether the data survive must
    not depend on who came first."""
    found = tx.execute(select(shares.c.id).where(shares.c.id == share.id).with_for_update()).first()
    if found is None:
        return
    if is_delete_queued(tx, share.id):
        raise _deleted()
    query = select(shares.c.replication_type).where(shares.c.id == share.id)
    replicated = tx.execute(query).scalar_one() is not None
    for resource, change in share_amounts(size, replicated=replicated).items():
        count_size_change(
            tx,
            project_id=share.project_id,
            user_id=share.user_id,
            share_type_id=share.share_type_id,
            resource=resource,
            change=change,
        )
    write_locations(tx, share.instance_id, locations)
    tx.execute(share_instances.update().where(share_instances.c.id == share.instance_id).values(taken_over=True))
    write_status(tx, share.id, ShareStatus.AVAILABLE, size=size, progress="100%")


def forget(tx: Connection, share: ShareRow) -> None:
    """Remove the rows. Its server stays until an administrator removes it, as in Manila: it may get the share again."""
    remove_rows(tx, share.id, [share])
    if share.server_id is not None and share.taken_over:
        tx.execute(share_servers.update().where(share_servers.c.id == share.server_id).values(is_auto_deletable=False))


def _deleted() -> SharewrightError:
    return SharewrightError("The share was deleted while it was being taken over, so its volume was given back.")


def _fail(
    tx: Connection, operation: Operation, error: SharewrightError, *, status: str, action: Action, detail: Detail
) -> None:
    share = read_share(tx, operation.resource_id)
    if share is None:
        return
    write_status(tx, share.id, status)
    write_message(
        tx, operation, project_id=share.project_id, resource_id=share.id, action=action, detail=detail, error=error
    )
