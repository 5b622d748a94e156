"""Rows of the journal's steps, written in one statement however many they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Executable,
    Float,
    bindparam,
    cast,
    func,
    select,
    true,
    union_all,
)
from sqlalchemy.dialects import postgresql, sqlite

from sharewright.operations import leases
from sharewright.operations.contract import Operation
from sharewright.store.tables import operation_steps, operations
from sharewright.store.transaction import write_at_end


@dataclass(slots=True, kw_only=True, eq=False)
class Step:
    """A row of the journal; ``finished_at`` and ``seconds`` when the step has come to its end."""

    position: int
    name: str
    started_at: datetime
    finished_at: datetime | None = None
    seconds: float | None = None


_STEP: Final = tuple(operation_steps.c[name] for name in ("position", "name", "started_at", "finished_at", "seconds"))


@cache
def _write_steps(dialect: str, number: int, *, is_ours: bool) -> Executable:
    """The statement for so many steps. ``is_ours``: the claim is known to be the last in this transaction."""
    rows = [
        select(*(_step_value(column, row).label(column.name) for column in _STEP)).subquery(f"step_{row}")
        for row in range(number)
    ]
    several = union_all(*(select(*row.c) for row in rows)).subquery("steps") if number > 1 else rows[0]
    claims = select(operations.c.id, operations.c.epoch)
    claims = claims.where(operations.c.id == bindparam("claim_id") if is_ours else leases.IS_OURS)
    # By itself on PostgreSQL: when that has waited for a row's lock, it looks at the row again, and at what was joined
    # to it in another way than the first time.
    locked = dialect == "postgresql"
    claim = claims.with_for_update(read=True).cte("claim") if locked else claims.subquery("claim")
    found = select(claim.c.id, claim.c.epoch, *several.c).select_from(claim.join(several, true()))
    found = found.where(claim.c.id == bindparam("claim_id"))  # SQLite needs a WHERE between JOIN and ON CONFLICT
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    statement = insert(operation_steps).from_select(["operation_id", "epoch", *(each.name for each in _STEP)], found)
    # A step that took long may have been shown before (Journal.show), without its end.
    ends = {each.name: func.coalesce(statement.excluded[each.name], each) for each in _STEP[-2:]}
    return statement.on_conflict_do_update(
        index_elements=[operation_steps.c.operation_id, operation_steps.c.position], set_=ends
    ).execution_options(preserve_rowcount=True)


def _step_value(column: ColumnElement[Any], row: int) -> ColumnElement[Any]:
    value: ColumnElement[Any] = bindparam(f"{column.key}_{row}", type_=column.type)
    return cast(value, column.type) if isinstance(column.type, Float) else value  # PostgreSQL asks: of what type?


def write_steps(
    tx: Connection, operation: Operation, steps: Sequence[Step], *, is_ours: bool = False, at_end: bool = False
) -> None:
    """Journal steps and be fenced (leases.fenced), in one statement. ``is_ours``: the transaction is that already;
    ``at_end``: as the transaction ends, in which nothing else is read or decided."""
    values: dict[str, Any] = {"claim_id": operation.id} if is_ours else leases.claim_of(operation)
    for row, step in enumerate(steps):
        values |= {f"{column.key}_{row}": getattr(step, column.key) for column in _STEP}
    statement = _write_steps(tx.dialect.name, len(steps), is_ours=is_ours)
    if at_end:
        lost = partial(leases.lease_lost, operation)
        write_at_end(tx, statement, values, number=len(steps), otherwise=lost)
    elif tx.execute(statement, values).rowcount != len(steps):
        raise leases.lease_lost(operation)
