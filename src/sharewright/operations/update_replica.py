"""Story: see to it that a replica follows its share, and say whether it does ("resync").

Its access rules → the driver looks at the replication → the share's snapshots that it lacks → ``in_sync`` (``active``
where all replicas are) or ``out_of_sync``. A failure leaves the replica
state ``error`` with a user message; the reconciler asks again every ``worker.replica_state_seconds``.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection

from sharewright.drivers.contract import ShareDriver
from sharewright.errors import SharewrightError
from sharewright.operations.contract import BaseStory, Done, Operation, Outcome
from sharewright.operations.messages import Action
from sharewright.operations.replica_rows import fail_replica, find_replication_driver, read_replica, state_of
from sharewright.operations.replica_snapshots import follow_snapshots
from sharewright.operations.share_rows import write_replica
from sharewright.progress import Progress
from sharewright.states import ReplicaState, ShareStatus
from sharewright.store.database import Store


class UpdateReplica(BaseStory):
    kind = "update_replica"

    def __init__(self, store: Store, drivers: Mapping[str, ShareDriver]) -> None:
        self._store = store
        self._drivers = drivers

    def run(self, operation: Operation, progress: Progress) -> Outcome:
        with self._store.read() as tx:
            found = read_replica(tx, operation.resource_id)
        if found is None:
            return Done()
        replica, active = found
        # One that is being made or removed, or is in error, has its own work to be done first.
        if replica.is_main or replica.instance_status != ShareStatus.AVAILABLE:
            return Done()
        if replica.backend is None or replica.server_id is None:
            return Done()
        driver = find_replication_driver(self._drivers, replica.backend)
        driver.update_access(replica.instance_id, replica.server_id, progress)
        in_sync = driver.update_replica(replica.instance_id, active.instance_id, replica.server_id, progress)
        if in_sync:
            in_sync = follow_snapshots(self._store, self._drivers, replica, replica.server_id, operation, progress)

        def write(tx: Connection) -> None:
            write_replica(tx, replica.instance_id, replica_state=state_of(tx, replica.id, in_sync=in_sync))

        return Done(write)

    def fail(self, tx: Connection, operation: Operation, error: SharewrightError) -> None:
        fail_replica(tx, operation, error, action=Action.UPDATE, replica_state=ReplicaState.ERROR)
