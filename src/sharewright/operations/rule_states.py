"""The states of access rules while a story makes them true: those of shares, and those of snapshots.

queued_to_apply → applying → active or error (with the reason); queued_to_deny → denying → gone. A rule whose state
somebody changes meanwhile keeps the new one, and belongs to the next operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Column, Connection, Table, Update, bindparam, case
from sqlalchemy.sql.dml import ReturningUpdate

from sharewright.drivers.contract import RuleOutcome
from sharewright.identifiers import utcnow
from sharewright.states import AccessState
from sharewright.store.lookups import among_parameter, list_type, list_value

IN_PASSAGE = (AccessState.APPLYING, AccessState.DENYING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Ids of the rules that this run is responsible for."""

    applying: frozenset[str]
    denying: frozenset[str]

    def __bool__(self) -> bool:
        return bool(self.applying or self.denying)


@cache
def _begin(rules: Table, owner: Column[Any]) -> ReturningUpdate[Any]:
    """The statement of :func:`begin`."""
    state = rules.c.state
    begun = case(
        (state == AccessState.QUEUED_TO_APPLY, AccessState.APPLYING),
        (state == AccessState.QUEUED_TO_DENY, AccessState.DENYING),
        else_=state,
    )
    queued = (AccessState.QUEUED_TO_APPLY, AccessState.QUEUED_TO_DENY)
    return (
        rules.update()
        .where(owner == bindparam("owner"), state.in_((*queued, *IN_PASSAGE)))
        .values(state=begun)
        .returning(rules.c.id, state)
    )


@cache
def _put_in_force(dialect: str, rules: Table) -> Update:
    wanted = among_parameter(dialect, rules.c.id, bindparam("in_force", type_=list_type(dialect)))
    return rules.update().where(wanted, rules.c.state == AccessState.APPLYING)


def begin(tx: Connection, rules: Table, owner: Column[Any], owner_id: str) -> Changes:
    """Move queued rules on, and take up those that an earlier attempt had moved."""
    found = tx.execute(_begin(rules, owner), {"owner": owner_id, "updated_at": utcnow()}).all()
    return Changes(
        applying=frozenset(row.id for row in found if row.state == AccessState.APPLYING),
        denying=frozenset(row.id for row in found if row.state == AccessState.DENYING),
    )


def end(tx: Connection, rules: Table, changes: Changes, outcomes: Sequence[RuleOutcome]) -> None:
    """Write what became of them."""
    errors = {outcome.rule_id: outcome.error for outcome in outcomes if outcome.error}
    now = utcnow()
    gone = [rule for rule in changes.denying if not errors.get(rule)]
    if gone:
        tx.execute(rules.delete().where(rules.c.id.in_(gone), rules.c.state == AccessState.DENYING))
    in_force = [rule for rule in changes.applying if not errors.get(rule)]
    if in_force:
        values = {"state": AccessState.ACTIVE, "error": None, "updated_at": now}
        dialect = tx.dialect.name
        tx.execute(_put_in_force(dialect, rules), {"in_force": list_value(dialect, in_force), **values})
    for rule in sorted(changes.applying | changes.denying):
        if errors.get(rule):
            tx.execute(
                rules.update()
                .where(rules.c.id == rule, rules.c.state.in_(IN_PASSAGE))
                .values(state=AccessState.ERROR, error=errors[rule], updated_at=now)
            )


def give_up(tx: Connection, rules: Table, owner: Column[Any], owner_id: str, error: str) -> None:
    """Not in force, or not known to be gone: either way the user may delete the rule and ask again."""
    tx.execute(
        rules.update()
        .where(owner == owner_id, rules.c.state.in_(IN_PASSAGE))
        .values(state=AccessState.ERROR, error=error, updated_at=utcnow())
    )
