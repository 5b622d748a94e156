"""Story: make a share's access rules in force equal to those in the store, in one guest round trip however many.

queued_to_apply → applying → active or error (with the reason); queued_to_deny → denying → gone. Rules that change while
this runs keep their new state and belong to the next operation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, select

from sharewright.drivers.contract import RuleOutcome, ShareDriver
from sharewright.errors import SharewrightError
from sharewright.operations import rule_states
from sharewright.operations.contract import BaseStory, Done, Operation, Outcome
from sharewright.operations.create_share import find_driver
from sharewright.operations.messages import Action, Detail, write_message
from sharewright.operations.rule_states import Changes
from sharewright.operations.share_rows import ShareRow, read_share, write_access_rules_status
from sharewright.progress import Progress
from sharewright.states import AccessRulesStatus
from sharewright.store.database import Store
from sharewright.store.tables import resource_locks, share_access_rules, shares

NOT_SERVED = "The share is not served, so there is nothing to allow or deny."


class UpdateAccess(BaseStory):
    kind = "update_access"

    def __init__(self, store: Store, drivers: Mapping[str, ShareDriver]) -> None:
        self._store = store
        self._drivers = drivers

    def run(self, operation: Operation, progress: Progress) -> Outcome:
        share_id = operation.resource_id
        with self._store.begin() as tx:
            progress.fence(tx)
            share = read_share(tx, share_id)
            changes = begin_changes(tx, share_id)
        if share is None:
            return Done()
        if not changes:
            return Done(lambda tx: write_access_rules_status(tx, share_id))
        if share.backend is None or share.server_id is None or not share.wanted:
            return Done(lambda tx: finish(tx, share_id, changes, _unserved(changes)))
        driver = find_driver(self._drivers, share.backend)
        outcomes = driver.update_access(share.instance_id, share.server_id, progress)
        return Done(lambda tx: self._finish(tx, operation, share, changes, outcomes))

    def fail(self, tx: Connection, operation: Operation, error: SharewrightError) -> None:
        share = read_share(tx, operation.resource_id)
        if share is None:
            return
        tx.execute(select(shares.c.id).where(shares.c.id == share.id).with_for_update())
        rule_states.give_up(tx, share_access_rules, share_access_rules.c.share_id, share.id, str(error))
        write_access_rules_status(tx, share.id)
        _tell(tx, operation, share, error)

    @staticmethod
    def _finish(
        tx: Connection, operation: Operation, share: ShareRow, changes: Changes, outcomes: Sequence[RuleOutcome]
    ) -> None:
        finish(tx, share.id, changes, outcomes)
        refused = sorted({outcome.error for outcome in outcomes if outcome.error})
        if refused:
            _tell(tx, operation, share, SharewrightError("; ".join(refused)))


def begin_changes(tx: Connection, share_id: str) -> Changes:
    """Move queued rules on, and take up those that an earlier attempt had moved."""
    tx.execute(shares.update().where(shares.c.id == share_id).values(access_rules_status=AccessRulesStatus.SYNCING))
    return rule_states.begin(tx, share_access_rules, share_access_rules.c.share_id, share_id)


def finish(tx: Connection, share_id: str, changes: Changes, outcomes: Sequence[RuleOutcome]) -> None:
    """Write what became of the rules."""
    tx.execute(select(shares.c.id).where(shares.c.id == share_id).with_for_update())
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
