"""Story: make a share larger while clients use it.

room in the pool and on the share server → the volume, attached as it is → the file system, mounted as it is, in one
guest round trip → the share's size. The quota was taken when the request was accepted; whatever is not used of it is
given back in the transaction that ends the work.

A failure leaves ``extending_error`` with the size it had and a user message; the same may be asked for again, and
deleting works. When only the pool or the share server has no room nothing has happened, and the share is what it was
(as in Manila).
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, func, select

from sharewright.drivers.contract import ShareDriver
from sharewright.errors import NoValidBackend, SharewrightError
from sharewright.identifiers import utcnow
from sharewright.operations.contract import BaseStory, Done, Operation, Outcome
from sharewright.operations.create_share import find_driver
from sharewright.operations.messages import Action, Detail, write_message
from sharewright.operations.scheduler import Scheduler
from sharewright.operations.share_rows import ShareRow, is_delete_queued, read_share, read_shares, write_status
from sharewright.progress import Progress
from sharewright.settings import Settings
from sharewright.states import ShareStatus
from sharewright.store.database import Store
from sharewright.store.quotas import release
from sharewright.store.tables import share_instances, shares


class ExtendShare(BaseStory):
    """Payload: ``size`` (GiB, wanted), ``reserved`` (GiB taken from the quota), ``force`` (whatever the pool says),
    ``status`` (of the share before)."""

    kind = "extend_share"

    def __init__(self, store: Store, drivers: Mapping[str, ShareDriver], settings: Settings) -> None:
        self._store = store
        self._drivers = drivers
        self._scheduler = Scheduler(store, drivers, settings)

    def run(self, operation: Operation, progress: Progress) -> Outcome:
        size = int(operation.payload["size"])
        with self._store.read() as tx:
            instances = read_shares(tx, operation.resource_id)
            share = instances[0] if instances else None
            if share is not None and is_delete_queued(tx, share.id):
                raise SharewrightError("The share was deleted while it was being extended.")
        if share is None:
            return Done()
        if share.size < size:
            self._extend(share, instances, size, operation, progress)
        return Done(lambda tx: finish(tx, operation))

    def fail(self, tx: Connection, operation: Operation, error: SharewrightError) -> None:
        share = lock_share(tx, operation.resource_id)
        if share is None:
            return
        no_room = isinstance(error, NoValidBackend)
        write_status(tx, share.id, operation.payload["status"] if no_room else ShareStatus.EXTENDING_ERROR)
        settle_size(tx, share, share.size, reserved=int(operation.payload["reserved"]))
        write_message(
            tx,
            operation,
            project_id=share.project_id,
            resource_id=share.id,
            action=Action.EXTEND,
            detail=Detail.FILTER_CAPACITY if no_room else Detail.DRIVER_FAILED_EXTEND,
            error=error,
        )

    def _extend(
        self, share: ShareRow, instances: list[ShareRow], size: int, operation: Operation, progress: Progress
    ) -> None:
        if share.backend is None or share.server_id is None or not share.wanted:
            raise SharewrightError(
                "The share is not served by any share server, so it cannot grow.", hint="Delete it, or create it again."
            )
        # Once: when this is told again the volume may have grown, and its growth would be counted twice.
        if not operation.payload.get("force") and not progress.recall("has_room"):
            with progress.step("schedule"):
                self._scheduler.check_growth(share.id, size - share.size, operation.id)
                progress.record(has_room=True)
        for each in reversed(instances):  # replicas before the share that they follow
            if each.backend is not None and each.server_id is not None:
                driver = find_driver(self._drivers, each.backend)
                driver.extend_share(each.instance_id, each.server_id, size, progress)


def finish(tx: Connection, operation: Operation) -> None:
    """Write the end of a successful extension."""
    share = lock_share(tx, operation.resource_id)
    if share is None:
        return
    size = max(share.size, int(operation.payload["size"]))
    settle_size(tx, share, size, reserved=int(operation.payload["reserved"]))
    write_status(tx, share.id, ShareStatus.AVAILABLE)


def lock_share(tx: Connection, share_id: str) -> ShareRow | None:
    """The share, which nobody else changes until the transaction ends."""
    tx.execute(select(shares.c.id).where(shares.c.id == share_id).with_for_update())
    return read_share(tx, share_id)


def settle_size(tx: Connection, share: ShareRow, size: int, *, reserved: int = 0) -> None:
    """Write the size in GiB that a locked share and its instances have by now; give back to the quota what is not used
    of the share's size before and of what was ``reserved`` beside it. Call it once, where the operation ends."""
    now = utcnow()
    tx.execute(shares.update().where(shares.c.id == share.id).values(size=size, updated_at=now))
    tx.execute(share_instances.update().where(share_instances.c.share_id == share.id).values(size=size, updated_at=now))
    left = share.size + reserved - size
    if left > 0:
        replicas = share_instances.c.share_id == share.id, share_instances.c.replica_state.is_not(None)
        count = tx.execute(select(func.count()).select_from(share_instances).where(*replicas)).scalar_one()
        release(
            tx,
            project_id=share.project_id,
            user_id=share.user_id,
            amounts={"gigabytes": left} | ({"replica_gigabytes": left * count} if count else {}),
            share_type_id=share.share_type_id,
        )


def present_size(tx: Connection, share: ShareRow) -> int:
    """The size in GiB that the driver has given to the share's volume, whatever became of the operation since."""
    query = select(share_instances.c.size).where(share_instances.c.id == share.instance_id)
    return int(tx.execute(query).scalar_one())
