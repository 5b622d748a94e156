"""Adding work: an operation row in the same transaction as the change that asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, func, select

from sharewright.context import RequestContext
from sharewright.identifiers import new_id, utcnow
from sharewright.states import OperationState
from sharewright.store.database import ring_after_commit
from sharewright.store.tables import operations


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
) -> str:
    """Write a queued operation and return its id.

    ``key`` (default ``"<resource_type>:<resource_id>"``) serialises: operations of one key run one at a time, oldest
    first. ``seconds`` is the deadline from now.
    """
    now = utcnow()
    identifier = new_id()
    sequence = select(func.coalesce(func.max(operations.c.sequence), 0) + 1).scalar_subquery()
    tx.execute(
        operations.insert().values(
            id=identifier,
            kind=kind,
            resource_type=resource_type,
            resource_id=resource_id,
            key=key or f"{resource_type}:{resource_id}",
            sequence=sequence,
            priority=priority,
            state=OperationState.QUEUED,
            waits_for=waits_for,
            not_before=not_before or now,
            deadline=(not_before or now) + timedelta(seconds=seconds),
            attempts=0,
            epoch=0,
            project_id=context.project_id if context else None,
            user_id=context.user_id if context else None,
            request_id=context.request_id if context else None,
            payload=dict(payload or {}),
            facts={},
            created_at=now,
        )
    )
    ring_after_commit(tx)
    return identifier
