"""Story: make a share smaller while clients use it, and give its room back.

What is in it must fit; then the driver moves it to a smaller volume. That takes as long as the copying, so the story is
parked again and again meanwhile. Size and quota change in the transaction that ends the work.

A refusal leaves the share as it was, with a user message (as in Manila). Any other failure, and a refusal after which
the smaller volume could not be taken away, leaves ``shrinking_error``, with the share served at the size it had; it may
be shrunk again, and deleting works.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, select

from sharewright.drivers.contract import ShareDriver
from sharewright.errors import SharewrightError, ShrinkRefused
from sharewright.operations.contract import BaseStory, Done, Operation, Outcome, RetryLater
from sharewright.operations.create_share import find_driver
from sharewright.operations.extend_share import lock_share, present_size, settle_size
from sharewright.operations.messages import Action, Detail, write_message
from sharewright.operations.share_rows import is_delete_queued, read_share, write_status
from sharewright.progress import Progress
from sharewright.states import ShareStatus
from sharewright.store.database import Store
from sharewright.store.tables import share_instance_moves


class ShrinkShare(BaseStory):
    """Payload: ``size`` (GiB, wanted), ``status`` (of the share before)."""

    kind = "shrink_share"

    def __init__(self, store: Store, drivers: Mapping[str, ShareDriver]) -> None:
        self._store = store
        self._drivers = drivers

    def run(self, operation: Operation, progress: Progress) -> Outcome:
        size = int(operation.payload["size"])
        with self._store.read() as tx:
            share = read_share(tx, operation.resource_id)
            if share is not None and is_delete_queued(tx, share.id):
                raise SharewrightError("The share was deleted while it was being shrunk.")
        if share is None:
            return Done()
        if share.size > size:
            if share.backend is None or share.server_id is None or not share.wanted:
                raise SharewrightError(
                    "The share is not served by any share server, so it cannot shrink.",
                    hint="Delete it, or create it again.",
                )
            driver = find_driver(self._drivers, share.backend)
            if not driver.shrink_share(share.instance_id, share.server_id, size, progress):
                return RetryLater("The share is being copied to a smaller volume.")
        return Done(lambda tx: finish(tx, operation))

    def compensate(self, operation: Operation, progress: Progress, error: SharewrightError) -> None:
        with self._store.read() as tx:
            share = read_share(tx, operation.resource_id)
        if share is not None and share.backend is not None:
            find_driver(self._drivers, share.backend).cancel_shrink(share.instance_id, share.server_id, progress)

    def fail(self, tx: Connection, operation: Operation, error: SharewrightError) -> None:
        share = lock_share(tx, operation.resource_id)
        if share is None:
            return
        settle_size(tx, share, present_size(tx, share))  # smaller also where the work failed after the switch
        refused = isinstance(error, ShrinkRefused) and not _is_moving(tx, share.instance_id)
        write_status(tx, share.id, operation.payload["status"] if refused else ShareStatus.SHRINKING_ERROR)
        write_message(
            tx,
            operation,
            project_id=share.project_id,
            resource_id=share.id,
            action=Action.SHRINK,
            detail=Detail.DRIVER_REFUSED_SHRINK if refused else Detail.DRIVER_FAILED_SHRINK,
            error=error,
        )


def _is_moving(tx: Connection, share_instance_id: str) -> bool:
    """Whether a smaller volume is left, which a share that is as it was does not have."""
    mine = share_instance_moves.c.share_instance_id == share_instance_id
    return tx.execute(select(share_instance_moves.c.share_instance_id).where(mine)).first() is not None


def finish(tx: Connection, operation: Operation) -> None:
    """Write the end of a successful shrinking."""
    share = lock_share(tx, operation.resource_id)
    if share is not None:
        settle_size(tx, share, present_size(tx, share))
        write_status(tx, share.id, ShareStatus.AVAILABLE)
