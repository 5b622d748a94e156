"""Story: promote a replica, which clients may write to from then on.

Wait for snapshots that were begun before → the driver makes it writable → it is the share's main instance, and the
former one is a replica, in one transaction → its access rules, which let clients write now → ``available``; bringing
the former one in line is an ``update_replica`` of its own, as that one may be the reason why another was promoted.

A failure leaves the promoted replica in ``error`` with a user message: before that transaction the share is what it
was, after it the share is in ``error`` too, and an administrator's reset and the next change of rules put it right.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, select

from sharewright.drivers.contract import ShareDriver
from sharewright.errors import SharewrightError
from sharewright.identifiers import utcnow
from sharewright.operations.contract import BaseStory, Done, Operation, Outcome, WaitFor
from sharewright.operations.messages import Action
from sharewright.operations.queue import enqueue
from sharewright.operations.replica_rows import (
    RESOURCE,
    fail_replica,
    find_replication_driver,
    key_of,
    lock_replica,
    read_replica,
)
from sharewright.operations.replica_snapshots import mirror
from sharewright.operations.share_rows import ShareRow, write_status
from sharewright.operations.snapshot_rows import find_older
from sharewright.operations.update_replica import UpdateReplica
from sharewright.progress import Progress
from sharewright.states import ReplicaState, ShareStatus
from sharewright.store.database import Store
from sharewright.store.tables import operations, share_instances, share_servers, share_snapshots, shares


class PromoteReplica(BaseStory):
    """Payload: ``former_id``, the active replica when the request came."""

    kind = "promote_replica"

    def __init__(self, store: Store, drivers: Mapping[str, ShareDriver]) -> None:
        self._store = store
        self._drivers = drivers

    def run(self, operation: Operation, progress: Progress) -> Outcome:
        with self._store.read() as tx:
            found = read_replica(tx, operation.resource_id)
            before = None
            if found is not None and not found[0].is_main:
                snapshots = select(share_snapshots.c.id).where(share_snapshots.c.share_id == found[0].id)
                before = find_older(tx, operation, ("create_snapshot",), operations.c.resource_id.in_(snapshots))
        if before is not None:  # their moment is one of the former active replica
            return WaitFor(before)
        if found is None or found[0].instance_status == ShareStatus.DELETING:
            return Done()
        replica, active = found
        if replica.backend is None or replica.server_id is None:
            raise SharewrightError("The replica is not served by any share server, so it cannot be promoted.")
        driver = find_replication_driver(self._drivers, replica.backend)
        if not replica.is_main:
            driver.promote_replica(replica.instance_id, active.instance_id, replica.server_id, progress)
            with self._store.begin() as tx:
                progress.fence(tx)
                exchange(tx, replica, active)
        driver.update_access(replica.instance_id, replica.server_id, progress)
        return Done(lambda tx: finish(tx, operation))

    def fail(self, tx: Connection, operation: Operation, error: SharewrightError) -> None:
        fail_replica(tx, operation, error, action=Action.PROMOTE, status=ShareStatus.ERROR)
        found = lock_replica(tx, operation.resource_id)
        if found is not None and found[0].is_main:
            write_status(tx, found[0].id, ShareStatus.ERROR)


def exchange(tx: Connection, replica: ShareRow, active: ShareRow) -> None:
    """Make the replica its share's main instance; the share's own columns are mirrors of it."""
    found = lock_replica(tx, replica.instance_id)
    if found is None or found[0].instance_status == ShareStatus.DELETING:
        raise SharewrightError("The replica was deleted while it was being promoted.")
    now, columns = utcnow(), share_instances.c
    tx.execute(
        share_instances.update()
        .where(columns.id == active.instance_id)
        .values(is_main=False, replica_state=ReplicaState.OUT_OF_SYNC, updated_at=now)
    )
    tx.execute(
        share_instances.update()
        .where(columns.id == replica.instance_id)
        .values(is_main=True, replica_state=ReplicaState.ACTIVE, updated_at=now)
    )
    mirrored = ("status", "host", "availability_zone", "share_network_id", "share_server_id")
    query = select(*(columns[name] for name in mirrored)).where(columns.id == replica.instance_id)
    row = dict(tx.execute(query).mappings().one())
    servers = share_servers.c
    if tx.execute(select(servers.id).where(servers.id == row["share_server_id"], servers.named.is_(True))).first():
        row["share_server_id"] = None  # an operator's machine is no share's server for users (share_servers.py)
    tx.execute(shares.update().where(shares.c.id == replica.id).values(**row, updated_at=now))
    mirror(tx, replica.id)


def finish(tx: Connection, operation: Operation) -> None:
    """Write the end of a successful promotion."""
    found = lock_replica(tx, operation.resource_id)
    if found is None:
        return
    write_status(tx, found[0].id, ShareStatus.AVAILABLE)
    enqueue(
        tx,
        UpdateReplica.kind,
        resource_type=RESOURCE,
        resource_id=str(operation.payload["former_id"]),
        key=key_of(found[0].id),
        context=operation.context,
    )
