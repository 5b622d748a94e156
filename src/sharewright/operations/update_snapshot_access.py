"""Story: make a snapshot's access rules in force those in the store, in one guest round trip however many.

The first rule makes what mounting takes (a volume from the snapshot, on the share's own server), the last one's removal
takes that away; in between a change is one document to the guest. States are those of rule_states.py.

A failure leaves the rules that this run was responsible for in ``error`` with a user message; those in force stay so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, select

from sharewright.drivers.contract import RuleOutcome, ShareDriver
from sharewright.errors import SharewrightError
from sharewright.operations import rule_states
from sharewright.operations.contract import BaseStory, Done, Operation, Outcome
from sharewright.operations.messages import Action, Detail, Resource, write_message
from sharewright.operations.rule_states import Changes
from sharewright.operations.share_rows import is_delete_queued
from sharewright.operations.snapshot_drivers import find_mount_driver
from sharewright.operations.snapshot_rows import SnapshotRow, read_snapshot
from sharewright.progress import Progress
from sharewright.states import AccessState
from sharewright.store.database import Store
from sharewright.store.tables import share_snapshot_access_rules, share_snapshots

NOT_SERVED = "The snapshot's share is not served, or the snapshot is going, so there is nothing to allow."
_RULES = share_snapshot_access_rules
_LETTING_IN = (AccessState.QUEUED_TO_APPLY, AccessState.APPLYING, AccessState.ACTIVE)


class UpdateSnapshotAccess(BaseStory):
    kind = "update_snapshot_access"

    def __init__(self, store: Store, drivers: Mapping[str, ShareDriver]) -> None:
        self._store = store
        self._drivers = drivers

    def run(self, operation: Operation, progress: Progress) -> Outcome:
        with self._store.begin() as tx:
            progress.fence(tx)
            snapshot = read_snapshot(tx, operation.resource_id)
            changes = rule_states.begin(tx, _RULES, _RULES.c.snapshot_id, operation.resource_id)
            going = is_delete_queued(tx, operation.resource_id, "delete_snapshot")
        if snapshot is None:
            return Done()
        if snapshot.backend is None or snapshot.server_id is None or going:
            unserved = [RuleOutcome(rule_id=rule, error=NOT_SERVED) for rule in sorted(changes.applying)]
            return Done(lambda tx: finish(tx, operation, snapshot, changes, unserved))
        driver = find_mount_driver(self._drivers, snapshot.backend)
        outcomes = driver.update_snapshot_access(snapshot.instance_id, snapshot.server_id, progress)
        return Done(lambda tx: finish(tx, operation, snapshot, changes, outcomes))

    def compensate(self, operation: Operation, progress: Progress, error: SharewrightError) -> None:
        """What was made for rules that are not in force now is not kept."""
        with self._store.begin() as tx:
            progress.fence(tx)
            snapshot = read_snapshot(tx, operation.resource_id)
            rule_states.give_up(tx, _RULES, _RULES.c.snapshot_id, operation.resource_id, str(error))
            others = tx.execute(
                select(_RULES.c.id)
                .where(_RULES.c.snapshot_id == operation.resource_id, _RULES.c.state.in_(_LETTING_IN))
                .limit(1)
            ).first()
        if snapshot is not None and snapshot.server_id is not None and others is None:
            driver = find_mount_driver(self._drivers, snapshot.backend)
            driver.update_snapshot_access(snapshot.instance_id, snapshot.server_id, progress)

    def fail(self, tx: Connection, operation: Operation, error: SharewrightError) -> None:
        snapshot = read_snapshot(tx, operation.resource_id)
        if snapshot is None:
            return
        lock(tx, snapshot.id)
        rule_states.give_up(tx, _RULES, _RULES.c.snapshot_id, snapshot.id, str(error))
        _tell(tx, operation, snapshot, error)


def finish(
    tx: Connection, operation: Operation, snapshot: SnapshotRow, changes: Changes, outcomes: Sequence[RuleOutcome]
) -> None:
    """Write what became of the rules, and tell what was refused."""
    lock(tx, snapshot.id)
    rule_states.end(tx, _RULES, changes, outcomes)
    refused = sorted({outcome.error for outcome in outcomes if outcome.error})
    if refused:
        _tell(tx, operation, snapshot, SharewrightError("; ".join(refused)))


def lock(tx: Connection, snapshot_id: str) -> None:
    tx.execute(select(share_snapshots.c.id).where(share_snapshots.c.id == snapshot_id).with_for_update())


def _tell(tx: Connection, operation: Operation, snapshot: SnapshotRow, error: SharewrightError) -> None:
    write_message(
        tx,
        operation,
        project_id=snapshot.project_id,
        resource_id=snapshot.id,
        resource_type=Resource.SHARE_SNAPSHOT,
        action=Action.UPDATE_ACCESS_RULES,
        detail=Detail.UNKNOWN_ERROR,
        error=error,
    )
