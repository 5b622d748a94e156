"""Adding work: an operation row in the same transaction as the change that asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Interval, bindparam, func, select

from sharewright.context import RequestContext
from sharewright.identifiers import new_id, utcnow
from sharewright.states import OperationState
from sharewright.store.database import ring_after_commit
from sharewright.store.tables import operations
from sharewright.store.transaction import write_at_end

_INSERT: Final = operations.insert().values(
    sequence=select(func.coalesce(func.max(operations.c.sequence), 0) + 1).scalar_subquery()
)
# The clock that claims are decided with (see leases.py) on PostgreSQL; on SQLite it is the host's. Not now(), which is
# when the transaction began: it may have waited for a lock since.
_CLOCK: Final = func.timezone("utc", func.clock_timestamp(), type_=operations.c.not_before.type)
_INSERT_LATER: Final = _INSERT.values(not_before=_CLOCK + bindparam("quiet", type_=Interval))


def enqueue(
    tx: Connection,
    kind: str,
    *,
    resource_type: str,
    resource_id: str,
    key: str | None = None,
    context: RequestContext | None = None,
    payload: Mapping[str, Any] | None = None,
    priority: int = 0,
    seconds: float = 900.0,
    waits_for: str | None = None,
    not_before: datetime | None = None,
    quiet_seconds: float = 0.0,
    at_end: bool = False,
) -> str:
    """Write a queued operation, ``at_end`` of the transaction or at once, and return its id.

    ``key`` (default ``"<resource_type>:<resource_id>"``) serialises: operations of one key run one at a time, oldest
    first. ``seconds`` is the deadline from now. ``quiet_seconds``: not to be begun sooner, as others may join it
    (:func:`put_off`).
    """
    now = utcnow()
    identifier = new_id()
    values = {
        "id": identifier,
        "kind": kind,
        "resource_type": resource_type,
        "resource_id": resource_id,
        "key": key or f"{resource_type}:{resource_id}",
        "priority": priority,
        "state": OperationState.QUEUED,
        "waits_for": waits_for,
        "deadline": (not_before or now) + timedelta(seconds=seconds),
        "attempts": 0,
        "epoch": 0,
        "project_id": context.project_id if context else None,
        "user_id": context.user_id if context else None,
        "request_id": context.request_id if context else None,
        "payload": dict(payload or {}),
        "facts": {},
        "created_at": now,
    }
    if at_end and not quiet_seconds:
        write_at_end(tx, _INSERT, {**values, "not_before": not_before or now})
    elif not quiet_seconds:
        tx.execute(_INSERT, {**values, "not_before": not_before or now})
    elif tx.dialect.name == "postgresql":
        tx.execute(_INSERT_LATER, {**values, "quiet": timedelta(seconds=quiet_seconds)})
    else:
        tx.execute(_INSERT, {**values, "not_before": now + timedelta(seconds=quiet_seconds)})
    ring_after_commit(tx, name=identifier, seconds=quiet_seconds)
    return identifier


def put_off(tx: Connection, operation_id: str, *, quiet_seconds: float, latest: datetime) -> None:
    """Let a queued operation that nobody has begun wait for ``quiet_seconds`` from now, but not beyond ``latest``."""
    quiet = timedelta(seconds=quiet_seconds)
    until: Any = (
        func.least(_CLOCK + quiet, latest) if tx.dialect.name == "postgresql" else min(utcnow() + quiet, latest)
    )
    tx.execute(operations.update().where(operations.c.id == operation_id).values(not_before=until))
    left = (latest - utcnow()).total_seconds()
    ring_after_commit(tx, name=operation_id, seconds=max(0.0, min(quiet_seconds, left)))
