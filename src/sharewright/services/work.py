"""Handing work to the operations engine, in the transaction of the request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, select

from sharewright.context import RequestContext
from sharewright.operations.queue import enqueue
from sharewright.services.deployment import Deployment
from sharewright.states import OperationState
from sharewright.store.database import ring_after_commit
from sharewright.store.tables import operations


def submit(
    tx: Connection,
    deployment: Deployment,
    context: RequestContext,
    kind: str,
    resource_type: str,
    resource_id: str,
    payload: Mapping[str, Any] | None = None,
) -> str:
    """Enqueue one operation under the request's id and return its id."""
    return enqueue(
        tx,
        kind,
        resource_type=resource_type,
        resource_id=resource_id,
        context=context,
        payload=payload,
        seconds=deployment.settings.worker.operation_seconds,
    )


def submit_once(
    tx: Connection, deployment: Deployment, context: RequestContext, kind: str, resource_type: str, resource_id: str
) -> None:
    """Enqueue unless an operation of the kind is queued already, which will then do this work too.

    The queued row is locked until the commit, so that no worker begins it before it can see what this request wrote.
    """
    queued = tx.execute(
        select(operations.c.id)
        .where(
            operations.c.kind == kind,
            operations.c.resource_id == resource_id,
            operations.c.state == OperationState.QUEUED,
        )
        .limit(1)
        .with_for_update()
    ).first()
    if queued is None:
        submit(tx, deployment, context, kind, resource_type, resource_id)
    else:
        ring_after_commit(tx)
