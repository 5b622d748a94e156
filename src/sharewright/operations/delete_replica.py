"""Story: delete a replica. Works from every state, with its server, VM or volume missing too.

Its snapshots → the replication and what the replica is made of → the rows, the quota and the server's clock in one
transaction. A failure leaves ``error_deleting`` with a user message; deleting may be asked for again, with ``force`` by
an administrator. A share's active replica is never deleted by itself.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection

from sharewright.drivers.contract import ShareDriver
from sharewright.errors import SharewrightError
from sharewright.operations.contract import BaseStory, Done, Operation, Outcome
from sharewright.operations.messages import Action
from sharewright.operations.replica_rows import fail_replica, find_replication_driver, lock_replica, read_replica
from sharewright.operations.replica_snapshots import delete_rows, delete_snapshots
from sharewright.operations.share_rows import leave_server
from sharewright.progress import Progress
from sharewright.states import ReplicaState, ShareStatus
from sharewright.store.database import Store
from sharewright.store.quotas import release, replica_amounts
from sharewright.store.tables import share_instances


class DeleteReplica(BaseStory):
    """Payload: ``force``."""

    kind = "delete_replica"

    def __init__(self, store: Store, drivers: Mapping[str, ShareDriver]) -> None:
        self._store = store
        self._drivers = drivers

    def run(self, operation: Operation, progress: Progress) -> Outcome:
        with self._store.read() as tx:
            found = read_replica(tx, operation.resource_id)
        if found is None:
            return Done()
        replica, active = found
        if replica.is_main:
            raise SharewrightError("The replica is the share's active one by now, so it stays.")
        if replica.backend is not None:  # otherwise never scheduled: nothing exists anywhere
            driver = find_replication_driver(self._drivers, replica.backend)
            delete_snapshots(self._store, self._drivers, replica.instance_id, progress)
            driver.delete_replica(
                replica.instance_id,
                active.instance_id,
                replica.server_id,
                progress,
                force=bool(operation.payload.get("force")),
            )
        return Done(lambda tx: finish(tx, operation.resource_id))

    def fail(self, tx: Connection, operation: Operation, error: SharewrightError) -> None:
        fail_replica(
            tx,
            operation,
            error,
            action=Action.DELETE,
            status=ShareStatus.ERROR_DELETING,
            replica_state=ReplicaState.ERROR,
        )


def finish(tx: Connection, replica_id: str) -> None:
    """Remove the row and give back the quota; both or neither, and only once."""
    found = lock_replica(tx, replica_id)
    if found is None:
        return
    replica, _ = found
    delete_rows(tx, replica_id)
    tx.execute(share_instances.delete().where(share_instances.c.id == replica_id))  # its locations go with it
    release(
        tx,
        project_id=replica.project_id,
        user_id=replica.user_id,
        amounts=replica_amounts(replica.size),
        share_type_id=replica.share_type_id,
    )
    leave_server(tx, replica.server_id)
