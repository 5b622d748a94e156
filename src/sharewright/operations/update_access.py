"""Story: make a share's access rules in force equal to those in the store, in one guest round trip however many.

queued_to_apply → applying → active or error (with the reason); queued_to_deny → denying → gone. Rules that change while
this runs keep their new state and belong to the next operation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from sqlalchemy import Connection, bindparam, select

from sharewright.drivers.contract import RuleOutcome, ShareDriver
from sharewright.errors import CloudError, GuestError, SharewrightError
from sharewright.operations import rule_states
from sharewright.operations.contract import BaseStory, Done, Operation, Outcome
from sharewright.operations.create_share import find_driver
from sharewright.operations.messages import Action, Detail, write_message
from sharewright.operations.rule_states import Changes
from sharewright.operations.share_rows import (
    ShareRow,
    read_share,
    read_shares,
    write_access_rules_status,
    write_replica,
)
from sharewright.progress import Progress
from sharewright.states import AccessRulesStatus, ReplicaState, ShareStatus
from sharewright.store.database import Store
from sharewright.store.kept import change_row
from sharewright.store.tables import resource_locks, share_access_rules, shares

NOT_SERVED = "The share is not served, so there is nothing to allow or deny."


class UpdateAccess(BaseStory):
    kind = "update_access"
    ends_together = True

    def __init__(self, store: Store, drivers: Mapping[str, ShareDriver]) -> None:
        self._store = store
        self._drivers = drivers

    def run(self, operation: Operation, progress: Progress) -> Outcome:
        share_id = operation.resource_id
        with self._store.begin() as tx:
            progress.fence(tx)
            instances = read_shares(tx, share_id)
            changes = begin_changes(tx, share_id)
        if not instances:
            return Done()
        share, *replicas = instances
        if not changes:
            return Done(lambda tx: finish(tx, share_id, changes, ()))
        if share.backend is None or share.server_id is None or not share.wanted:
            return Done(lambda tx: finish(tx, share_id, changes, _unserved(changes)))
        driver = find_driver(self._drivers, share.backend)
        outcomes = list(driver.update_access(share.instance_id, share.server_id, progress))
        lost: list[str] = []
        for replica in replicas:
            try:
                outcomes += self._update_replica(replica, progress)
            except (CloudError, GuestError):
                if changes.denying:  # nobody is shut out before it is so everywhere
                    raise
                lost.append(replica.instance_id)  # the next update_replica of it sees to its rules
        return Done(lambda tx: self._finish(tx, operation, share, changes, outcomes, lost))

    def fail(self, tx: Connection, operation: Operation, error: SharewrightError) -> None:
        share = read_share(tx, operation.resource_id)
        if share is None:
            return
        tx.execute(select(shares.c.id).where(shares.c.id == share.id).with_for_update())
        rule_states.give_up(tx, share_access_rules, share_access_rules.c.share_id, share.id, str(error))
        write_access_rules_status(tx, share.id)
        _tell(tx, operation, share, error)

    def _update_replica(self, replica: ShareRow, progress: Progress) -> Sequence[RuleOutcome]:
        """One that is not there, or not whole, gets its rules with whatever makes it available."""
        if replica.instance_status != ShareStatus.AVAILABLE or replica.backend is None or replica.server_id is None:
            return ()
        driver = find_driver(self._drivers, replica.backend)
        return driver.update_access(replica.instance_id, replica.server_id, progress)

    @staticmethod
    def _finish(
        tx: Connection,
        operation: Operation,
        share: ShareRow,
        changes: Changes,
        outcomes: Sequence[RuleOutcome],
        lost: Sequence[str],
    ) -> None:
        finish(tx, share.id, changes, outcomes)
        for replica_id in lost:
            write_replica(tx, replica_id, replica_state=ReplicaState.ERROR)
        refused = sorted({outcome.error for outcome in outcomes if outcome.error})
        if refused:
            _tell(tx, operation, share, SharewrightError("; ".join(refused)))


_LOCK: Final = select(shares.c.id).where(shares.c.id == bindparam("share")).with_for_update()


def begin_changes(tx: Connection, share_id: str) -> Changes:
    """Move queued rules on, and take up those that an earlier attempt had moved."""
    change_row(tx, shares, share_id, access_rules_status=AccessRulesStatus.SYNCING)
    return rule_states.begin(tx, share_access_rules, share_access_rules.c.share_id, share_id)


def finish(tx: Connection, share_id: str, changes: Changes, outcomes: Sequence[RuleOutcome]) -> None:
    """Write what became of the rules."""
    tx.execute(_LOCK, {"share": share_id})
    rule_states.end(tx, share_access_rules, changes, outcomes)
    gone = list(changes.denying)
    if gone:
        left = select(share_access_rules.c.id).where(share_access_rules.c.id.in_(gone))
        locks = resource_locks.c.resource_id
        tx.execute(resource_locks.delete().where(locks.in_(gone), locks.not_in(left)))
    write_access_rules_status(tx, share_id)


def _unserved(changes: Changes) -> list[RuleOutcome]:
    return [RuleOutcome(rule_id=rule, error=NOT_SERVED) for rule in sorted(changes.applying)]


def _tell(tx: Connection, operation: Operation, share: ShareRow, error: SharewrightError) -> None:
    write_message(
        tx,
        operation,
        project_id=share.project_id,
        resource_id=share.id,
        action=Action.UPDATE_ACCESS_RULES,
        detail=Detail.UNKNOWN_ERROR,
        error=error,
    )
