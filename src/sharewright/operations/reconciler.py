"""Level-triggered repair: what the rows say should be going on, and nobody does, is enqueued again.

Each rule finds its resources and enqueues in one transaction, never a second operation of the same kind for the same
resource, and never sooner than ``reconcile_seconds`` after the last one ended, so that a defect cannot spin.

A round costs what there is to do, not what there is: each rule starts from an index of the few rows it may concern, and
servers in service are looked at in turn, so many in a round as ``looks_per_second`` allows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, and_, exists, false, func, literal_column, or_, select, true

from sharewright.context import RequestContext
from sharewright.identifiers import utcnow
from sharewright.operations import leases
from sharewright.operations.queue import enqueue
from sharewright.operations.replica_rows import RESOURCE, key_of
from sharewright.settings import Settings
from sharewright.states import (
    AccessState,
    BackupStatus,
    OperationState,
    ServerStatus,
    ShareGroupSnapshotStatus,
    ShareGroupStatus,
    ShareStatus,
    SnapshotStatus,
)
from sharewright.store.database import Store
from sharewright.store.tables import (
    operations,
    share_access_rules,
    share_backups,
    share_group_snapshots,
    share_groups,
    share_instances,
    share_servers,
    share_snapshot_access_rules,
    share_snapshot_instances,
    share_snapshot_mounts,
    share_snapshots,
    shares,
)

BACKGROUND = -10  # priority: after everything that a user waits for
AT_ONCE = 50  # resources per rule and round, besides looks


def reconcile(store: Store, settings: Settings, *, backends: Sequence[str]) -> dict[str, int]:
    """Enqueue what is missing; return how many operations of each kind."""
    round_ = _Round(settings, list(backends))
    enqueued: dict[str, int] = {}
    rules = (
        round_.update_access,
        round_.update_snapshot_access,
        round_.continue_shares,
        round_.continue_replicas,
        round_.update_replicas,
        round_.continue_snapshots,
        round_.continue_group_snapshots,
        round_.continue_backups,
        round_.continue_groups,
        round_.delete_servers,
        round_.heal_servers,
    )
    for rule in rules:
        with store.begin() as tx:
            for kind in rule(tx):
                enqueued[kind] = enqueued.get(kind, 0) + 1
    return enqueued


class _Round:
    def __init__(self, settings: Settings, backends: list[str]) -> None:
        self._backends = backends
        self._now = utcnow()
        self._quiet = self._now - timedelta(seconds=settings.worker.reconcile_seconds)
        self._replicas = self._now - timedelta(seconds=settings.worker.replica_state_seconds)
        self._unused = self._now - timedelta(seconds=settings.worker.unused_server_seconds)
        self._seconds = settings.worker.operation_seconds
        self._looks = max(1, round(settings.worker.looks_per_second * settings.worker.reconcile_seconds))

    def update_access(self, tx: Connection) -> list[str]:
        """Rules in a state of passage, on a share that is served."""
        rules = share_access_rules.c
        waiting = (
            # The first condition is the index's; the second would be enough.
            select(rules.share_id)
            .where(rules.state != literal_column(f"'{AccessState.ACTIVE}'"), rules.state.in_(AccessState.TRANSITIONAL))
            .scalar_subquery()
        )
        rows = tx.execute(
            select(shares.c.id, shares.c.project_id, shares.c.user_id)
            .where(
                shares.c.status == ShareStatus.AVAILABLE,
                shares.c.id.in_(waiting),
                ~_attended(shares.c.id, ("update_access",), self._quiet),
            )
            .limit(AT_ONCE)
            .with_for_update(of=shares)
        ).all()
        for row in rows:
            self._enqueue(tx, "update_access", "share", row.id, context=_owner(row))
        return ["update_access"] * len(rows)

    def update_snapshot_access(self, tx: Connection) -> list[str]:
        """The same for snapshots that clients mount; and what mounting took, where no rule lets anybody in."""
        rules, mounts = share_snapshot_access_rules.c, share_snapshot_mounts.c
        waiting = (
            select(rules.snapshot_id)
            .where(rules.state != literal_column(f"'{AccessState.ACTIVE}'"), rules.state.in_(AccessState.TRANSITIONAL))
            .scalar_subquery()
        )
        idle = (
            select(share_snapshot_instances.c.snapshot_id)
            .join(share_snapshot_mounts, mounts.id == share_snapshot_instances.c.id)
            .where(
                ~exists().where(
                    rules.snapshot_id == share_snapshot_instances.c.snapshot_id,
                    rules.state.in_((*AccessState.TRANSITIONAL, AccessState.ACTIVE)),
                )
            )
            .scalar_subquery()
        )
        columns = share_snapshots.c
        rows = tx.execute(
            select(columns.id, columns.project_id, columns.user_id)
            .where(
                columns.status == SnapshotStatus.AVAILABLE,
                or_(columns.id.in_(waiting), columns.id.in_(idle)),
                ~_attended(columns.id, ("update_snapshot_access",), self._quiet),
            )
            .limit(AT_ONCE)
            .with_for_update(of=share_snapshots)
        ).all()
        for row in rows:
            self._enqueue(tx, "update_snapshot_access", "share_snapshot", row.id, context=_owner(row))
        return ["update_snapshot_access"] * len(rows)

    def continue_shares(self, tx: Connection) -> list[str]:
        """Shares being created or deleted whose operation ended without saying so in the share."""
        return self._continue(
            tx, shares, "share", {ShareStatus.CREATING: "create_share", ShareStatus.DELETING: "delete_share"}
        )

    def continue_replicas(self, tx: Connection) -> list[str]:
        """The same for replicas being created, deleted or promoted."""
        kinds = {
            ShareStatus.CREATING: "create_replica",
            ShareStatus.DELETING: "delete_replica",
            ShareStatus.REPLICATION_CHANGE: "promote_replica",
        }
        last, columns, done = operations.alias("last"), share_instances.c, []
        newest = select(func.max(operations.c.sequence)).where(operations.c.resource_id == columns.id).scalar_subquery()
        for status, kind in kinds.items():
            rows = tx.execute(
                select(columns.id, columns.share_id, shares.c.project_id, shares.c.user_id, last.c.payload)
                .select_from(share_instances)
                .join(shares, shares.c.id == columns.share_id)
                .join(last, and_(last.c.resource_id == columns.id, last.c.sequence == newest))
                .where(
                    columns.replica_state.is_not(None),  # as its index needs it
                    columns.status == status,
                    last.c.kind == kind,
                    last.c.state == OperationState.FAILED,
                    ~_attended(columns.id, (kind,), self._quiet),
                )
                .limit(AT_ONCE)
                .with_for_update(of=shares)
            ).all()
            for row in rows:
                self._enqueue_replica(tx, kind, row, payload=row.payload)
                done.append(kind)
        return done

    def update_replicas(self, tx: Connection) -> list[str]:
        """Replicas are asked whether they are in sync from time to time."""
        columns, kind = share_instances.c, "update_replica"
        rows = tx.execute(
            select(columns.id, columns.share_id, shares.c.project_id, shares.c.user_id)
            .join(shares, shares.c.id == columns.share_id)
            .where(
                columns.replica_state.is_not(None),
                columns.is_main.is_(False),
                columns.status == ShareStatus.AVAILABLE,
                columns.backend.in_(self._backends),
                ~_attended(columns.id, (kind, "create_replica", "promote_replica"), self._replicas),
            )
            .limit(AT_ONCE)
            .with_for_update(of=shares)
        ).all()
        for row in rows:
            self._enqueue_replica(tx, kind, row)
        return [kind] * len(rows)

    def _enqueue_replica(self, tx: Connection, kind: str, row: Any, *, payload: Any = None) -> None:
        self._enqueue(tx, kind, RESOURCE, row.id, key=key_of(row.share_id), context=_owner(row), payload=payload)

    def continue_snapshots(self, tx: Connection) -> list[str]:
        """The same for snapshots."""
        kinds = {SnapshotStatus.CREATING: "create_snapshot", SnapshotStatus.DELETING: "delete_snapshot"}
        return self._continue(tx, share_snapshots, "share_snapshot", kinds)

    def continue_group_snapshots(self, tx: Connection) -> list[str]:
        """The same for share group snapshots."""
        kinds = {
            ShareGroupSnapshotStatus.CREATING: "create_group_snapshot",
            ShareGroupSnapshotStatus.DELETING: "delete_group_snapshot",
        }
        return self._continue(tx, share_group_snapshots, "share_group_snapshot", kinds)

    def continue_backups(self, tx: Connection) -> list[str]:
        """The same for backups."""
        kinds = {
            BackupStatus.CREATING: "create_backup",
            BackupStatus.DELETING: "delete_backup",
            BackupStatus.RESTORING: "restore_backup",
        }
        return self._continue(tx, share_backups, "share_backup", kinds)

    def continue_groups(self, tx: Connection) -> list[str]:
        """The same for share groups that are made from group snapshots."""
        return self._continue(tx, share_groups, "share_group", {ShareGroupStatus.CREATING: "create_share_group"})

    def _continue(self, tx: Connection, table: Table, resource_type: str, kinds: Mapping[str, str]) -> list[str]:
        """Resources in a state of passage whose operation ended without saying so; ``kinds``: state → operation.

        Only where that operation is the resource's last one and failed: an administrator may set any status by hand
        (reset_status), and from that nothing must be created or deleted.
        """
        done = []
        for status, kind in kinds.items():
            last = operations.alias("last")
            newest = (
                select(func.max(operations.c.sequence)).where(operations.c.resource_id == table.c.id).scalar_subquery()
            )
            rows = tx.execute(
                select(table.c.id, table.c.project_id, table.c.user_id, last.c.payload)
                .select_from(table.join(last, and_(last.c.resource_id == table.c.id, last.c.sequence == newest)))
                .where(
                    table.c.status == literal_column(f"'{status}'"),  # as its index needs it
                    last.c.kind == kind,
                    last.c.state == OperationState.FAILED,
                    ~_attended(table.c.id, (kind,), self._quiet),
                )
                .limit(AT_ONCE)
                .with_for_update(of=table)
            ).all()
            for row in rows:
                self._enqueue(tx, kind, resource_type, row.id, context=_owner(row), payload=row.payload)
                done.append(kind)
        return done

    def delete_servers(self, tx: Connection) -> list[str]:
        """Servers that no share has lived on for ``unused_server_seconds``, and deletions that were left."""
        found: list[str] = []
        servers, status = share_servers.c, share_servers.c.status
        since = func.coalesce(servers.unused_since, servers.updated_at, servers.created_at)
        for which in (
            and_(status == ServerStatus.ACTIVE, servers.is_auto_deletable, servers.unused_since < self._unused),
            and_(
                status != literal_column(f"'{ServerStatus.ACTIVE}'"),
                or_(
                    status == ServerStatus.DELETING,
                    and_(
                        status.in_((ServerStatus.ERROR, ServerStatus.CREATING)),
                        servers.is_auto_deletable,
                        since < self._unused,
                    ),
                ),
            ),
        ):
            found += tx.scalars(
                select(servers.id)
                .where(
                    which,
                    servers.backend.in_(self._backends),
                    ~exists().where(share_instances.c.share_server_id == servers.id),
                    ~_attended(servers.id, ("create_share_server", "delete_share_server"), self._quiet),
                )
                .limit(AT_ONCE)
                .with_for_update(of=share_servers)
            )
        for server in found:
            # The story looks again, under the lock that placing a share takes, whether the server is still unused.
            self._enqueue(tx, "delete_share_server", "share_server", server)
        return ["delete_share_server"] * len(found)

    def heal_servers(self, tx: Connection) -> list[str]:
        """Servers in service are looked at; the driver observes, then decides.

        No server more often than once in ``reconcile_seconds``, all together no more than ``looks_per_second``: first
        those in trouble, with at most half of that, so that a rack that is gone takes nothing from the others' turn;
        then those whose last look is the longest ago. What the workers have not done yet counts, so that the queue
        holds no more than one round.
        """
        waiting = tx.scalar(
            select(func.count()).where(leases.is_open(operations.c), operations.c.kind == "heal_server")
        )
        room = self._looks - int(waiting or 0)
        suspect = share_servers.c.healthy == false()
        found = self._look(tx, suspect, min(room, max(1, self._looks // 2)))
        found += self._look(tx, true(), room - len(found))
        return ["heal_server"] * len(found)

    def _look(self, tx: Connection, which: ColumnElement[bool], room: int) -> list[str]:
        if room <= 0:
            return []
        inhabited = exists().where(share_instances.c.share_server_id == share_servers.c.id)
        busy = ("heal_server", "create_share_server", "delete_share_server")
        servers = list(
            tx.scalars(
                select(share_servers.c.id)
                .where(
                    which,
                    share_servers.c.looked_at <= self._quiet,
                    share_servers.c.backend.in_(self._backends),
                    or_(
                        share_servers.c.status.in_((ServerStatus.ACTIVE, ServerStatus.MIGRATING)),
                        and_(share_servers.c.status == ServerStatus.ERROR, inhabited),
                    ),
                    ~_attended(share_servers.c.id, busy, None),
                )
                .order_by(share_servers.c.looked_at)
                .limit(room)
                .with_for_update(of=share_servers, skip_locked=True)
            )
        )
        if servers:
            tx.execute(share_servers.update().where(share_servers.c.id.in_(servers)).values(looked_at=self._now))
        for server in servers:
            self._enqueue(tx, "heal_server", "share_server", server)
        return servers

    def _enqueue(
        self,
        tx: Connection,
        kind: str,
        resource_type: str,
        resource_id: str,
        *,
        key: str | None = None,
        context: RequestContext | None = None,
        payload: Any = None,
    ) -> None:
        enqueue(
            tx,
            kind,
            key=key,
            resource_type=resource_type,
            resource_id=resource_id,
            context=context,
            payload=payload,
            priority=BACKGROUND,
            seconds=self._seconds,
        )


def _attended(resource: ColumnElement[Any], kinds: Sequence[str], quiet: datetime | None) -> ColumnElement[bool]:
    """Whether an operation of these kinds is open for the resource, or ended after ``quiet``."""
    condition: ColumnElement[bool] = leases.is_open(operations.c)
    if quiet is not None:
        condition = or_(condition, operations.c.finished_at > quiet)
    return exists().where(operations.c.resource_id == resource, operations.c.kind.in_(kinds), condition)


def _owner(row: Any) -> RequestContext:
    return RequestContext(project_id=row.project_id, user_id=row.user_id)
