"""Story: make a share's access rules in force equal to those in the store, in one guest round trip however many.

queued_to_apply → applying → active or error (with the reason); queued_to_deny → denying → gone. Rules that change while
this runs keep their new state and belong to the next operation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select

from sharewright.drivers.contract import RuleOutcome, ShareDriver
from sharewright.errors import SharewrightError
from sharewright.identifiers import utcnow
from sharewright.operations.contract import BaseStory, Done, Operation, Outcome
from sharewright.operations.create_share import find_driver
from sharewright.operations.messages import Action, Detail, write_message
from sharewright.operations.share_rows import ShareRow, read_share, write_access_rules_status
from sharewright.progress import Progress
from sharewright.states import AccessRulesStatus, AccessState
from sharewright.store.database import Store
from sharewright.store.tables import share_access_rules, shares

NOT_SERVED = "The share is not served, so there is nothing to allow or deny."


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Ids of the rules that this run is responsible for."""

    applying: frozenset[str]
    denying: frozenset[str]

    def __bool__(self) -> bool:
        return bool(self.applying or self.denying)


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
        # Not in force, or not known to be gone: either way the user may delete the rule and ask again.
        tx.execute(
            share_access_rules.update()
            .where(
                share_access_rules.c.share_id == share.id,
                share_access_rules.c.state.in_((AccessState.APPLYING, AccessState.DENYING)),
            )
            .values(state=AccessState.ERROR, error=str(error), updated_at=utcnow())
        )
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
    rules = share_access_rules
    tx.execute(shares.update().where(shares.c.id == share_id).values(access_rules_status=AccessRulesStatus.SYNCING))
    for queued, begun in (
        (AccessState.QUEUED_TO_APPLY, AccessState.APPLYING),
        (AccessState.QUEUED_TO_DENY, AccessState.DENYING),
    ):
        tx.execute(
            rules.update()
            .where(rules.c.share_id == share_id, rules.c.state == queued)
            .values(state=begun, updated_at=utcnow())
        )
    found = tx.execute(
        select(rules.c.id, rules.c.state).where(
            rules.c.share_id == share_id, rules.c.state.in_((AccessState.APPLYING, AccessState.DENYING))
        )
    ).all()
    return Changes(
        applying=frozenset(row.id for row in found if row.state == AccessState.APPLYING),
        denying=frozenset(row.id for row in found if row.state == AccessState.DENYING),
    )


def finish(tx: Connection, share_id: str, changes: Changes, outcomes: Sequence[RuleOutcome]) -> None:
    """Write what became of the rules. Each is touched only if nobody changed its state meanwhile."""
    rules = share_access_rules
    errors = {outcome.rule_id: outcome.error for outcome in outcomes}
    now = utcnow()
    tx.execute(select(shares.c.id).where(shares.c.id == share_id).with_for_update())
    gone = [rule for rule in changes.denying if not errors.get(rule)]
    if gone:
        tx.execute(rules.delete().where(rules.c.id.in_(gone), rules.c.state == AccessState.DENYING))
    in_force = [rule for rule in changes.applying if not errors.get(rule)]
    if in_force:
        tx.execute(
            rules.update()
            .where(rules.c.id.in_(in_force), rules.c.state == AccessState.APPLYING)
            .values(state=AccessState.ACTIVE, error=None, updated_at=now)
        )
    for rule in sorted(changes.applying | changes.denying):
        if errors.get(rule):
            tx.execute(
                rules.update()
                .where(rules.c.id == rule, rules.c.state.in_((AccessState.APPLYING, AccessState.DENYING)))
                .values(state=AccessState.ERROR, error=errors[rule], updated_at=now)
            )
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
