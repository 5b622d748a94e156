"""Story: delete a share. Works from every state, with its server, VM or volume missing too.

release in the guest → detach → delete the volume → the rows, the quota, and the server's clock in one transaction. A
failure leaves ``error_deleting`` with a user message; deleting may be asked for again, with ``force`` by an
administrator. The volume of one that was to be taken over and was not is somebody else's: it is given back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sqlalchemy import Connection, bindparam, select

from sharewright.drivers.contract import ShareDriver, ShareManager
from sharewright.errors import SharewrightError
from sharewright.operations.affinities import drop_affinities
from sharewright.operations.contract import BaseStory, Done, Operation, Outcome, RetryLater
from sharewright.operations.create_share import find_driver
from sharewright.operations.messages import Action, Detail, write_message
from sharewright.operations.migration_rows import release_other_types
from sharewright.operations.share_rows import ShareRow, leave_server, read_share, read_shares_to_delete, write_status
from sharewright.progress import Progress
from sharewright.states import ShareStatus
from sharewright.store.database import Store
from sharewright.store.quotas import release, share_amounts
from sharewright.store.tables import resource_locks, share_access_rules, shares

LOOK_SECONDS = 2.0  # at a share server whose shares are moving


class DeleteShare(BaseStory):
    kind = "delete_share"
    ends_together = True

    def __init__(self, store: Store, drivers: Mapping[str, ShareDriver]) -> None:
        self._store = store
        self._drivers = drivers

    def run(self, operation: Operation, progress: Progress) -> Outcome:
        with self._store.read() as tx:
            instances, is_moving = read_shares_to_delete(tx, operation.resource_id)
            if is_moving:
                return RetryLater("The share's server is giving its shares to another one.", seconds=LOOK_SECONDS)
        force = bool(operation.payload.get("force"))
        for instance in instances:
            if instance.backend is None:  # never scheduled: nothing exists anywhere
                continue
            driver = find_driver(self._drivers, instance.backend)
            if instance.taken_over:
                driver.delete_share(instance.instance_id, instance.server_id, progress, force=force)
            elif isinstance(driver, ShareManager):  # any other has never touched it
                driver.unmanage_share(instance.instance_id, instance.server_id, progress, force=True)
        return Done(lambda tx: finish(tx, operation.resource_id, instances))

    def fail(self, tx: Connection, operation: Operation, error: SharewrightError) -> None:
        share = read_share(tx, operation.resource_id)
        if share is None:
            return
        write_status(tx, share.id, ShareStatus.ERROR_DELETING)
        write_message(
            tx,
            operation,
            project_id=share.project_id,
            resource_id=share.id,
            action=Action.DELETE,
            detail=Detail.UNKNOWN_ERROR,
            error=error,
        )


# Locked, as whoever writes metadata of the share locks it: what drop_affinities then finds is all.
_LOCK: Final = (
    select(shares.c.project_id, shares.c.user_id, shares.c.share_type_id, shares.c.size, shares.c.replication_type)
    .where(shares.c.id == bindparam("share"))
    .with_for_update()
)
_DELETE_LOCKS: Final = resource_locks.delete().where(
    (resource_locks.c.resource_id == bindparam("share"))
    | resource_locks.c.resource_id.in_(
        select(share_access_rules.c.id).where(share_access_rules.c.share_id == bindparam("share"))
    )
)
_DELETE: Final = shares.delete().where(shares.c.id == bindparam("share"))


def finish(tx: Connection, share_id: str, instances: list[ShareRow]) -> None:
    """Remove the rows and give back the quota; both or neither, and only once. One that was not taken over was not
    counted."""
    row = tx.execute(_LOCK, {"share": share_id}).one_or_none()
    if row is None:
        return
    drop_affinities(tx, share_id)
    if len(instances) > 1:
        release_other_types(tx, share_id)
    tx.execute(_DELETE_LOCKS, {"share": share_id})
    tx.execute(_DELETE, {"share": share_id})  # its instances, rules, … go with it (cascade)
    if all(instance.taken_over for instance in instances):
        release(
            tx,
            project_id=row.project_id,
            user_id=row.user_id,
            amounts=share_amounts(row.size, replicated=row.replication_type is not None),
            share_type_id=row.share_type_id,
        )
    for server_id in {instance.server_id for instance in instances}:
        leave_server(tx, server_id)
