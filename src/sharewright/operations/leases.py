"""Claiming operations and keeping them: every statement that decides who may work on what.

A claim is (operation id, worker id, epoch). The epoch grows with every claim, and every later write names it, so a
worker that lost its lease without noticing changes nothing. Times are the database's on PostgreSQL, where workers run
on several nodes, and this host's on SQLite.

The deadline of an operation counts only the time in which a worker has it or a back-off runs: what it waits for a
worker, for its turn in its key, or for another operation is added to the deadline when it is claimed.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Select,
    and_,
    bindparam,
    exists,
    func,
    literal,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from sharewright.errors import LeaseLost
from sharewright.identifiers import utcnow
from sharewright.operations.contract import Finished, Operation
from sharewright.states import OperationState
from sharewright.store.database import Store, ring_after_commit
from sharewright.store.statements import statements
from sharewright.store.tables import leases, operation_steps, operations

FIRST_BACK_OFF = 0.5  # seconds
LAST_BACK_OFF = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A claimed operation with what the runner needs besides. ``failure`` is set when its failure is final already;
    ``steps`` is the number of journal rows so far, ``sql_statements`` what claiming cost, ``age`` the seconds since the
    operation was asked for."""

    operation: Operation
    priority: int = 0
    crashes: int = 0
    retries: int = 0
    failure: Mapping[str, Any] | None = None
    last_error: str | None = None
    steps: int = 0
    sql_statements: int = 0
    age: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one attempt cost; added to the row."""

    seconds: float = 0.0
    cloud_calls: int = 0
    guest_round_trips: int = 0
    sql_statements: int = 0

    def amounts(self) -> dict[str, Any]:
        """The parameters of _SUMS."""
        return {
            "more_seconds": self.seconds,
            "more_cloud_calls": self.cloud_calls,
            "more_guest_round_trips": self.guest_round_trips,
            "more_sql_statements": self.sql_statements + 1,  # the statement that writes these sums
        }


def database_now(tx: Connection) -> datetime:
    """The time that leases are measured with, UTC without zone."""
    if tx.dialect.name == "postgresql":
        return tx.execute(select(_postgresql_now())).scalar_one()
    return utcnow()


def _postgresql_now() -> ColumnElement[datetime]:
    return func.timezone("utc", func.now(), type_=operations.c.not_before.type)


def _now(dialect: str) -> ColumnElement[datetime]:
    """That time in a statement that is kept; see :func:`_now_parameter`."""
    if dialect == "postgresql":
        return _postgresql_now()
    return bindparam("now", type_=operations.c.not_before.type)


def _now_parameter(tx: Connection) -> dict[str, datetime]:
    return {} if tx.dialect.name == "postgresql" else {"now": utcnow()}


# ---- claiming --------------------------------------------------------------------------------------------------------


def claim(
    store: Store, worker_id: str, *, lease_seconds: float, kinds: Iterable[str], least_priority: int | None = None
) -> Claim | None:
    """The most urgent operation that may run now, now this worker's; None when there is none."""
    claims = claim_several(store, worker_id, 1, lease_seconds=lease_seconds, kinds=kinds, least_priority=least_priority)
    return claims[0] if claims else None


def claim_several(
    store: Store,
    worker_id: str,
    number: int,
    *,
    lease_seconds: float,
    kinds: Iterable[str],
    least_priority: int | None = None,
    abandoned: bool = True,
) -> list[Claim]:
    """The most urgent operations that may run now, now this worker's, ``number`` at most: one transaction for all. When
    they are fewer, there were no more; what becomes eligible later rings the bell.

    Eligible is a running operation whose lease has run out (unless not ``abandoned``), which goes first: somebody has
    begun to wait for it; then a queued one whose ``not_before`` has passed, whose awaited operation is finished and
    which is the oldest open one of its key. ``least_priority`` leaves out what is less urgent.
    """
    wanted = tuple(sorted(kinds))
    for _ in range(10):
        try:
            return _claim(store, worker_id, number, lease_seconds, wanted, least_priority, abandoned)
        except IntegrityError:
            # Another worker began an operation of the same key at this moment (the unique index on running keys):
            # enqueuing transactions can become visible in another order than their sequence numbers. Look again, for
            # one, so that others do not suffer from it.
            number = 1
            store.bell.ring()  # and then for the rest
    return []


def is_queued(columns: ReadOnlyColumnCollection[str, Any]) -> ColumnElement[bool]:
    """Written with a literal, as the indexes of open operations are: with a parameter no plan could use them."""
    return _is(columns, OperationState.QUEUED)


def is_running(columns: ReadOnlyColumnCollection[str, Any]) -> ColumnElement[bool]:
    return _is(columns, OperationState.RUNNING)


def _is(columns: ReadOnlyColumnCollection[str, Any], state: str) -> ColumnElement[bool]:
    column: ColumnElement[str] = columns.state
    return column == literal_column(f"'{state}'")


def is_open(columns: ReadOnlyColumnCollection[str, Any]) -> ColumnElement[bool]:
    return or_(is_queued(columns), is_running(columns))


def _abandoned(now: ColumnElement[datetime]) -> ColumnElement[bool]:
    return and_(is_running(operations.c), operations.c.lease_expires < now)


def _ready(now: ColumnElement[datetime]) -> ColumnElement[bool]:
    this, other, awaited = operations.c, operations.alias("other"), operations.alias("awaited")
    before = exists().where(
        other.c.key == this.key,
        other.c.id != this.id,
        is_open(other.c),
        or_(
            is_running(other.c),
            other.c.sequence < this.sequence,
            and_(other.c.sequence == this.sequence, other.c.id < this.id),
        ),
    )
    waits = exists().where(awaited.c.id == this.waits_for, is_open(awaited.c))
    return and_(is_queued(this), this.not_before <= now, ~waits, ~before)


@lru_cache(maxsize=32)
def _claim_queries(dialect: str, kinds: tuple[str, ...], least_priority: int | None) -> tuple[Select[Any], ...]:
    """Who is first among the abandoned and among the ready. Two statements, because each can then follow its index and
    stop at the first row; kept, because building them takes longer than running them."""
    now = _now(dialect)
    queries = []
    for eligible in (_abandoned(now), _ready(now)):
        query = select(operations, now.label("now")).where(eligible, operations.c.kind.in_(kinds))
        if least_priority is not None:
            query = query.where(operations.c.priority >= least_priority)
        queries.append(
            query.order_by(operations.c.priority.desc(), operations.c.sequence, operations.c.id)
            .limit(bindparam("number", type_=Integer))
            .with_for_update(of=operations, skip_locked=True)
        )
    return tuple(queries)


def _claim(
    store: Store,
    worker_id: str,
    number: int,
    lease_seconds: float,
    kinds: tuple[str, ...],
    least_priority: int | None,
    abandoned: bool,
) -> list[Claim]:
    before = statements.count
    with store.begin() as tx:
        rows: list[Any] = []
        for query in _claim_queries(tx.dialect.name, kinds, least_priority)[0 if abandoned else 1 :]:
            if len(rows) < number:
                rows += tx.execute(query, {"number": number - len(rows), **_now_parameter(tx)}).all()
        asking = statements.count - before  # the first of them counts it; what claims all at once nobody does
        claims, changes = [], []
        for row in rows:
            before = statements.count
            claim, change = _take(tx, worker_id, lease_seconds, row)
            claims.append(replace(claim, sql_statements=statements.count - before + asking))
            changes.append(change)
            asking = 0
        if changes:
            tx.execute(_TAKE, changes)
        return claims


_TAKE: Final = update(operations).where(operations.c.id == bindparam("taken"))


def _take(tx: Connection, worker_id: str, lease_seconds: float, row: Any) -> tuple[Claim, dict[str, Any]]:
    """The operation of that row as this worker's, and what is to be written for it."""
    now: datetime = row.now
    taken_over = row.state == OperationState.RUNNING
    # A parked row's updated_at is when it was parked, its not_before when the back-off ended.
    idle_since = row.lease_expires if taken_over else max(row.not_before, row.updated_at or row.not_before)
    deadline: datetime = row.deadline + max(now - idle_since, timedelta(0))
    epoch, attempts, crashes = row.epoch + 1, row.attempts + 1, row.crashes + int(taken_over)
    change = {
        "taken": row.id,
        "state": OperationState.RUNNING,
        "worker_id": worker_id,
        "epoch": epoch,
        "attempts": attempts,
        "crashes": crashes,
        "lease_expires": now + timedelta(seconds=lease_seconds),
        "deadline": deadline,
        "updated_at": now,
    }
    operation = Operation(
        id=row.id,
        kind=row.kind,
        resource_type=row.resource_type,
        resource_id=row.resource_id,
        key=row.key,
        epoch=epoch,
        worker_id=worker_id,
        deadline=deadline,
        attempts=attempts,
        project_id=row.project_id,
        user_id=row.user_id,
        request_id=row.request_id,
        payload=row.payload or {},
        facts=row.facts or {},
        waited_for=_finished(tx, row.waits_for) if row.waits_for else None,
    )
    claim = Claim(
        operation=operation,
        priority=row.priority,
        crashes=crashes,
        retries=row.retries,
        failure=row.failure,
        last_error=row.error,
        steps=_steps(tx, row.id) if attempts > 1 else 0,
        age=max(0.0, (now - row.created_at).total_seconds()),
    )
    return claim, change


def _steps(tx: Connection, operation_id: str) -> int:
    position = operation_steps.c.position
    last = tx.scalar(select(func.max(position)).where(operation_steps.c.operation_id == operation_id))
    return 0 if last is None else last + 1


def _finished(tx: Connection, operation_id: str) -> Finished:
    columns = operations.c
    row = tx.execute(
        select(columns.kind, columns.state, columns.error, columns.facts).where(columns.id == operation_id)
    ).first()
    if row is None:
        return Finished(id=operation_id, kind="", state="missing", error="The operation's record is gone.")
    return Finished(id=operation_id, kind=row.kind, state=row.state, error=row.error, facts=row.facts or {})


# ---- keeping ---------------------------------------------------------------------------------------------------------


def renew(store: Store, worker_id: str, held: Mapping[str, int], *, lease_seconds: float) -> frozenset[str]:
    """Extend the leases of ``held`` (operation id → epoch) in one statement; return the ids that are still this
    worker's."""
    if not held:
        return frozenset()
    with store.begin() as tx:
        now = database_now(tx) if store.is_sqlite else _postgresql_now()
        rows = tx.execute(
            update(operations)
            .where(
                operations.c.id.in_(list(held)),
                operations.c.worker_id == worker_id,
                operations.c.state == OperationState.RUNNING,
            )
            .values(lease_expires=now + timedelta(seconds=lease_seconds))
            .returning(operations.c.id, operations.c.epoch)
        ).all()
    return frozenset(row.id for row in rows if held[row.id] == row.epoch)


IS_OURS: Final = and_(
    operations.c.id == bindparam("claim_id"),
    operations.c.epoch == bindparam("claim_epoch"),
    operations.c.worker_id == bindparam("claim_worker_id"),
    is_running(operations.c),
)


def claim_of(operation: Operation) -> dict[str, Any]:
    """The parameters of IS_OURS."""
    return {
        "claim_id": operation.id,
        "claim_epoch": operation.epoch,
        "claim_worker_id": operation.worker_id,
    }


# The row lock makes a worker that wants to take over wait (it skips the row) until the transaction is over.
_FENCE: Final = select(literal(1)).where(IS_OURS).with_for_update(read=True)
_WRITE: Final = update(operations).where(IS_OURS)


def fenced(tx: Connection, operation: Operation) -> None:
    """Raise LeaseLost unless this claim is still the operation's last, and keep it so until ``tx`` ends."""
    if tx.execute(_FENCE, claim_of(operation)).first() is None:
        raise lease_lost(operation)


def write(tx: Connection, operation: Operation, values: Mapping[Any, Any]) -> None:
    """Change the operation's row, or raise LeaseLost when the claim is not the last."""
    if tx.execute(_WRITE.values(dict(values)), claim_of(operation)).rowcount == 0:
        raise lease_lost(operation)


def lease_lost(operation: Operation) -> LeaseLost:
    return LeaseLost(f"Operation {operation.id} ({operation.kind}) is no longer held by {operation.worker_id}.")


# ---- ending an attempt -----------------------------------------------------------------------------------------------


_SUMS: Final = {
    column: func.coalesce(column, 0) + bindparam(f"more_{column.name}", type_=column.type)
    for column in (
        operations.c.seconds,
        operations.c.cloud_calls,
        operations.c.guest_round_trips,
        operations.c.sql_statements,
    )
}
_END: Final = _WRITE.values(_SUMS)
_other: Final = operations.alias("other").c
# With it, in the same statement: whether something waits for this operation's end.
_FINISH: Final = _END.returning(
    exists()
    .where(is_queued(_other), or_(_other.waits_for == bindparam("claim_id"), _other.key == bindparam("claim_key")))
    .label("awaited")
)


def finish(tx: Connection, operation: Operation, usage: Usage, *, error: str | None = None) -> None:
    """End the operation, first thing in the transaction that also writes the resource's final state."""
    now = utcnow()
    values = {
        **claim_of(operation),
        **usage.amounts(),
        "state": OperationState.SUCCEEDED if error is None else OperationState.FAILED,
        "error": error,
        "lease_expires": None,
        "finished_at": now,
        "updated_at": now,
    }
    row = tx.execute(_FINISH, {**values, "claim_key": operation.key}).one_or_none()
    if row is None:
        raise lease_lost(operation)
    # The others are woken only if something waits for this: each that wakes asks the database.
    if row.awaited:
        ring_after_commit(tx)


def park(
    tx: Connection,
    operation: Operation,
    usage: Usage,
    *,
    waits_for: str | None = None,
    seconds: float = 0.0,
    retries: int = 0,
    error: str | None = None,
) -> None:
    """Give the claim up in good order: queued again, until another operation is finished or ``seconds`` have passed."""
    now = database_now(tx)
    values: dict[str, Any] = {
        **claim_of(operation),
        **usage.amounts(),
        "state": OperationState.QUEUED,
        "worker_id": None,
        "lease_expires": None,
        "not_before": now + timedelta(seconds=seconds),
        "retries": retries,
        "error": error,
        "updated_at": now,
    }
    if waits_for is not None:
        values["waits_for"] = waits_for
    if tx.execute(_END, values).rowcount == 0:
        raise lease_lost(operation)
    if seconds <= 0:
        ring_after_commit(tx)


def back_off(retries: int) -> float:
    """Seconds to wait before retry number ``retries`` (from 0): doubling, bounded, and spread so that many operations
    that met the same fault do not return together."""
    return min(LAST_BACK_OFF, FIRST_BACK_OFF * 2.0 ** min(retries, 16)) * random.uniform(0.5, 1.0)  # noqa: S311


# ---- work that one process at a time does ----------------------------------------------------------------------------


def hold(store: Store, name: str, holder: str, *, seconds: float) -> bool:
    """Take or renew the named lease for ``seconds``; False while another holder's has not run out."""
    with store.begin() as tx:
        now = database_now(tx)
        expires = now + timedelta(seconds=seconds)
        taken = tx.execute(
            update(leases)
            .where(leases.c.name == name, or_(leases.c.holder == holder, leases.c.expires < now))
            .values(holder=holder, expires=expires)
        )
        if taken.rowcount:
            return True
        if tx.execute(select(literal(1)).where(leases.c.name == name)).first():
            return False
        try:
            with tx.begin_nested():
                tx.execute(leases.insert().values(name=name, holder=holder, expires=expires))
        except IntegrityError:
            return False
        return True


def release(store: Store, name: str, holder: str) -> None:
    """Give the named lease back at once."""
    with store.begin() as tx:
        tx.execute(leases.delete().where(leases.c.name == name, leases.c.holder == holder))
