"""Level-triggered repair: what the rows say should be going on, and nobody does, is enqueued again.

Each rule finds its resources and enqueues in one transaction, never a second operation of the same kind for the same
resource, and never sooner than ``reconcile_seconds`` after the last one ended, so that a defect cannot spin.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, exists, func, or_, select

from sharewright.context import RequestContext
from sharewright.identifiers import utcnow
from sharewright.operations.queue import enqueue
from sharewright.settings import Settings
from sharewright.states import AccessState, OperationState, ServerStatus, ShareStatus
from sharewright.store.database import Store
from sharewright.store.tables import operations, share_access_rules, share_instances, share_servers, shares

BACKGROUND = -10  # priority: after everything that a user waits for
AT_ONCE = 50  # resources per rule and round


def reconcile(store: Store, settings: Settings, *, backends: Sequence[str]) -> dict[str, int]:
    """Enqueue what is missing; return how many operations of each kind."""
    round_ = _Round(settings, list(backends))
    enqueued: dict[str, int] = {}
    for rule in (round_.update_access, round_.continue_shares, round_.delete_servers, round_.heal_servers):
        with store.begin() as tx:
            for kind in rule(tx):
                enqueued[kind] = enqueued.get(kind, 0) + 1
    return enqueued


class _Round:
    def __init__(self, settings: Settings, backends: list[str]) -> None:
        self._backends = backends
        self._now = utcnow()
        self._quiet = self._now - timedelta(seconds=settings.worker.reconcile_seconds)
        self._unused = self._now - timedelta(seconds=settings.worker.unused_server_seconds)
        self._seconds = settings.worker.operation_seconds

    def update_access(self, tx: Connection) -> list[str]:
        """Rules in a state of passage, on a share that is served."""
        waiting = exists().where(
            share_access_rules.c.share_id == shares.c.id, share_access_rules.c.state.in_(AccessState.TRANSITIONAL)
        )
        rows = tx.execute(
            select(shares.c.id, shares.c.project_id, shares.c.user_id)
            .where(
                shares.c.status == ShareStatus.AVAILABLE,
                waiting,
                ~_attended(shares.c.id, ("update_access",), self._quiet),
            )
            .limit(AT_ONCE)
            .with_for_update(of=shares)
        ).all()
        for row in rows:
            self._enqueue(tx, "update_access", "share", row.id, context=_owner(row))
        return ["update_access"] * len(rows)

    def continue_shares(self, tx: Connection) -> list[str]:
        """Shares being created or deleted whose operation ended without saying so in the share.

        Only where that operation is the share's last one and failed: an administrator may set any status by hand
        (reset_status), and from that nothing must be created or deleted.
        """
        done = []
        for status, kind in ((ShareStatus.CREATING, "create_share"), (ShareStatus.DELETING, "delete_share")):
            last = operations.alias("last")
            newest = (
                select(func.max(operations.c.sequence)).where(operations.c.resource_id == shares.c.id).scalar_subquery()
            )
            rows = tx.execute(
                select(shares.c.id, shares.c.project_id, shares.c.user_id, last.c.payload)
                .select_from(shares.join(last, and_(last.c.resource_id == shares.c.id, last.c.sequence == newest)))
                .where(
                    shares.c.status == status,
                    last.c.kind == kind,
                    last.c.state == OperationState.FAILED,
                    ~_attended(shares.c.id, (kind,), self._quiet),
                )
                .limit(AT_ONCE)
                .with_for_update(of=shares)
            ).all()
            for row in rows:
                self._enqueue(tx, kind, "share", row.id, context=_owner(row), payload=row.payload)
                done.append(kind)
        return done

    def delete_servers(self, tx: Connection) -> list[str]:
        """Servers that no share has lived on for ``unused_server_seconds``, and deletions that were left."""
        inhabited = exists().where(share_instances.c.share_server_id == share_servers.c.id)
        since = func.coalesce(share_servers.c.unused_since, share_servers.c.updated_at, share_servers.c.created_at)
        rows = tx.execute(
            select(share_servers.c.id)
            .where(
                share_servers.c.backend.in_(self._backends),
                ~inhabited,
                or_(
                    share_servers.c.status == ServerStatus.DELETING,
                    and_(
                        share_servers.c.status.in_((ServerStatus.ACTIVE, ServerStatus.ERROR, ServerStatus.CREATING)),
                        share_servers.c.is_auto_deletable,
                        since < self._unused,
                    ),
                ),
                ~_attended(share_servers.c.id, ("create_share_server", "delete_share_server"), self._quiet),
            )
            .limit(AT_ONCE)
            .with_for_update(of=share_servers)
        ).all()
        for row in rows:
            # The story looks again, under the lock that placing a share takes, whether the server is still unused.
            self._enqueue(tx, "delete_share_server", "share_server", row.id)
        return ["delete_share_server"] * len(rows)

    def heal_servers(self, tx: Connection) -> list[str]:
        """Every server in service is looked at once in ``reconcile_seconds``; the driver observes, then decides."""
        inhabited = exists().where(share_instances.c.share_server_id == share_servers.c.id)
        recent = exists().where(
            operations.c.resource_id == share_servers.c.id,
            operations.c.kind == "heal_server",
            operations.c.created_at > self._quiet,
        )
        busy = ("heal_server", "create_share_server", "delete_share_server")
        rows = tx.execute(
            select(share_servers.c.id)
            .where(
                share_servers.c.backend.in_(self._backends),
                or_(
                    share_servers.c.status == ServerStatus.ACTIVE,
                    and_(share_servers.c.status == ServerStatus.ERROR, inhabited),
                ),
                ~recent,
                ~_attended(share_servers.c.id, busy, None),
            )
            .order_by(share_servers.c.last_seen.asc().nulls_first(), share_servers.c.id)
            .limit(AT_ONCE)
            .with_for_update(of=share_servers)
        ).all()
        for row in rows:
            self._enqueue(tx, "heal_server", "share_server", row.id)
        return ["heal_server"] * len(rows)

    def _enqueue(
        self,
        tx: Connection,
        kind: str,
        resource_type: str,
        resource_id: str,
        *,
        context: RequestContext | None = None,
        payload: Any = None,
    ) -> None:
        enqueue(
            tx,
            kind,
            resource_type=resource_type,
            resource_id=resource_id,
            context=context,
            payload=payload,
            priority=BACKGROUND,
            seconds=self._seconds,
        )


def _attended(resource: ColumnElement[Any], kinds: Sequence[str], quiet: datetime | None) -> ColumnElement[bool]:
    """Whether an operation of these kinds is open for the resource, or ended after ``quiet``."""
    condition: ColumnElement[bool] = operations.c.state.in_(OperationState.OPEN)
    if quiet is not None:
        condition = or_(condition, operations.c.finished_at > quiet)
    return exists().where(operations.c.resource_id == resource, operations.c.kind.in_(kinds), condition)


def _owner(row: Any) -> RequestContext:
    return RequestContext(project_id=row.project_id, user_id=row.user_id)
