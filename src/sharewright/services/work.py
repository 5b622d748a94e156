"""Handing work to the operations engine, in the transaction of the request."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import Connection, bindparam, select

from sharewright.context import RequestContext
from sharewright.operations.queue import enqueue, put_off
from sharewright.services.deployment import Deployment
from sharewright.states import OperationState
from sharewright.store.tables import operations


def submit(
    tx: Connection,
    deployment: Deployment,
    context: RequestContext,
    kind: str,
    resource_type: str,
    resource_id: str,
    payload: Mapping[str, Any] | None = None,
    *,
    quiet_seconds: float = 0.0,
    more_seconds: float = 0.0,
    at_end: bool = False,
) -> str:
    """Enqueue one operation under the request's id and return its id. ``more_seconds``: beyond the usual deadline;
    ``at_end``: as the transaction ends."""
    return enqueue(
        tx,
        kind,
        resource_type=resource_type,
        resource_id=resource_id,
        context=context,
        payload=payload,
        seconds=deployment.settings.worker.operation_seconds + more_seconds,
        quiet_seconds=quiet_seconds,
        at_end=at_end,
    )


_QUEUED: Final = (
    select(operations.c.id, operations.c.attempts, operations.c.created_at)
    .where(
        operations.c.kind == bindparam("kind"),
        operations.c.resource_id == bindparam("resource"),
        operations.c.state == OperationState.QUEUED,
    )
    .limit(1)
    .with_for_update()
)


def submit_together(
    tx: Connection,
    deployment: Deployment,
    context: RequestContext,
    kind: str,
    resource_type: str,
    resource_id: str,
    *,
    more_seconds: float = 0.0,
) -> None:
    """Enqueue unless an operation of the kind is queued already, which will then do this work too.

    So that a burst of requests is one operation, it begins when none has come for ``worker.gather_quiet_seconds``, at
    the latest ``worker.gather_seconds`` after the first. The queued row is locked until the commit, so that no worker
    begins it before it can see what this request wrote.
    """
    options = deployment.settings.worker
    quiet = min(options.gather_quiet_seconds, options.gather_seconds)
    queued = tx.execute(_QUEUED, {"kind": kind, "resource": resource_id}).first()
    if queued is None:
        submit(
            tx,
            deployment,
            context,
            kind,
            resource_type,
            resource_id,
            quiet_seconds=quiet,
            more_seconds=more_seconds,
        )
    elif not queued.attempts:  # otherwise it waits for its next attempt, which depends on nothing that comes here
        latest = queued.created_at + timedelta(seconds=options.gather_seconds)
        put_off(tx, queued.id, quiet_seconds=quiet, latest=latest)
