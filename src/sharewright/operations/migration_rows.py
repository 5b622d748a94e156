"""Rows that the stories of migrations read and write in the same way, and the drivers that can move shares.

While a share is migrated it has a second instance, which is no replica: where it goes, and after the second phase where
it was. That one may have another share type than the share, and then a quota of its own for it. Operations of a
migration have the share's key: they run one at a time with everything else that is done to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, exists, select

from sharewright.drivers.contract import ShareDriver
from sharewright.drivers.migration import MigrationDriver
from sharewright.errors import SharewrightError, Unsupported
from sharewright.identifiers import utcnow
from sharewright.operations.contract import Operation
from sharewright.operations.create_share import find_driver
from sharewright.operations.messages import Action, Detail, write_message
from sharewright.operations.queue import enqueue
from sharewright.operations.share_rows import ShareRow, leave_server, read_shares, write_status
from sharewright.operations.snapshot_rows import write_snapshot_status
from sharewright.operations.type_specs import REPLICATION_SPEC
from sharewright.states import AccessState, ShareStatus, SnapshotStatus, TaskState
from sharewright.store.quotas import count_size_change, release, share_amounts
from sharewright.store.tables import (
    share_instances,
    share_snapshot_access_rules,
    share_snapshots,
    share_type_extra_specs,
    shares,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrating:
    """A share in a migration. ``other`` is its second instance; None: there is none (yet)."""

    share: ShareRow
    other: ShareRow | None
    task_state: str | None

    @property
    def is_exchanged(self) -> bool:
        """Whether the share is where it was to go already, and the second instance is what it was."""
        return self.other is not None and self.other.instance_status == ShareStatus.INACTIVE


def second_instance() -> ColumnElement[bool]:
    """Of the rows of share_instances, those of a migration that are not their share's main one."""
    return share_instances.c.is_main.is_(False) & share_instances.c.replica_state.is_(None)


def read_migrating(tx: Connection, share_id: str, *, lock: bool = False) -> Migrating | None:
    """None when the share is gone. ``lock``: its row, until the transaction ends."""
    query = select(shares.c.task_state).where(shares.c.id == share_id)
    found = tx.execute(query.with_for_update() if lock else query).one_or_none()
    instances = read_shares(tx, share_id)
    if found is None or not instances:
        return None
    mine = select(share_instances.c.id).where(share_instances.c.share_id == share_id, second_instance())
    others = set(tx.scalars(mine))
    other = next((each for each in instances if each.instance_id in others), None)
    return Migrating(share=instances[0], other=other, task_state=found.task_state)


def find_migration_driver(drivers: Mapping[str, ShareDriver], backend: str | None) -> MigrationDriver:
    """The backend's driver. Unsupported when it moves no shares, SharewrightError when there is none."""
    driver = find_driver(drivers, str(backend))
    if not isinstance(driver, MigrationDriver):
        raise Unsupported(
            f"The driver of backend {backend} cannot move shares, and no data service copies them.",
            hint="Make a share in the other place and copy the data with a client of both.",
        )
    return driver


def write_task_state(tx: Connection, share_id: str, state: str) -> None:
    tx.execute(shares.update().where(shares.c.id == share_id).values(task_state=state, updated_at=utcnow()))


def read_type(tx: Connection, share_type_id: str) -> dict[str, str]:
    """A type's extra specs."""
    columns = share_type_extra_specs.c
    rows = tx.execute(select(columns.key, columns.value).where(columns.share_type_id == share_type_id))
    return {row.key: row.value for row in rows}


def release_type(tx: Connection, share: ShareRow, share_type_id: str | None) -> None:
    """Give back what a share had of a second type's quota. None: nothing."""
    if share_type_id is None:
        return
    replicated = REPLICATION_SPEC in read_type(tx, share_type_id)
    release(
        tx,
        project_id=share.project_id,
        user_id=share.user_id,
        amounts=share_amounts(share.size, replicated=replicated),
        share_type_id=share_type_id,
    )


def release_other_types(tx: Connection, share_id: str) -> None:
    """The same of all second instances of a share that is about to go."""
    instances = read_shares(tx, share_id)
    columns = share_instances.c
    types = tx.scalars(select(columns.share_type_id).where(columns.share_id == share_id, second_instance())).all()
    for share_type_id in types:
        release_type(tx, instances[0], share_type_id)


def drop_other(tx: Connection, share: ShareRow, other: ShareRow) -> None:
    """Remove the second instance's row, its quota and its place. Nothing may be left of it in the cloud."""
    columns = share_instances.c
    query = select(columns.share_type_id).where(columns.id == other.instance_id, second_instance())
    found = tx.execute(query).one_or_none()
    if found is None:
        return
    release_type(tx, share, found.share_type_id)
    tx.execute(share_instances.delete().where(columns.id == other.instance_id))  # its locations go with it
    leave_server(tx, other.server_id)


def move_snapshot_quota(tx: Connection, share: ShareRow, former_type_id: str) -> None:
    """A share's snapshots count for its present type from now on, whatever the limit."""
    rows = tx.execute(select(share_snapshots.c.size).where(share_snapshots.c.share_id == share.id)).all()
    for resource, amount in (("snapshots", len(rows)), ("snapshot_gigabytes", sum(row.size for row in rows))):
        for share_type_id, change in ((former_type_id, -amount), (share.share_type_id, amount)):
            count_size_change(
                tx,
                project_id=share.project_id,
                user_id=share.user_id,
                share_type_id=share_type_id,
                resource=resource,
                change=change,
            )


def snapshots_of(tx: Connection, share_id: str) -> list[Row[Any]]:
    """id and status of each."""
    query = select(share_snapshots.c.id, share_snapshots.c.status).where(share_snapshots.c.share_id == share_id)
    return list(tx.execute(query.order_by(share_snapshots.c.created_at, share_snapshots.c.id)))


def restore_snapshots(
    tx: Connection, operation: Operation, share_id: str, status: str = SnapshotStatus.MIGRATING
) -> None:
    """Snapshots of a share that is served again are available; those that clients mount are served again, too."""
    for snapshot in snapshots_of(tx, share_id):
        if snapshot.status == status:
            write_snapshot_status(tx, snapshot.id, SnapshotStatus.AVAILABLE)
    rules = share_snapshot_access_rules.c
    ruled = exists().where(rules.snapshot_id == share_snapshots.c.id, rules.state != AccessState.ERROR)
    mounted = tx.scalars(select(share_snapshots.c.id).where(share_snapshots.c.share_id == share_id, ruled)).all()
    for snapshot_id in mounted:
        enqueue(
            tx,
            "update_snapshot_access",
            resource_type="share_snapshot",
            resource_id=snapshot_id,
            context=operation.context,
        )


def tell(tx: Connection, operation: Operation, share: ShareRow, error: SharewrightError, detail: Detail) -> None:
    """Write the message that says why a share was not migrated."""
    write_message(
        tx,
        operation,
        project_id=share.project_id,
        resource_id=share.id,
        action=Action.ALLOCATE_HOST if detail == Detail.NO_VALID_HOST else Action.UPDATE,
        detail=detail,
        error=error,
    )


def end_migrating(tx: Connection, share: ShareRow, status: str) -> None:
    """Set the status of a share whose migration is over, unless somebody has set another one."""
    if share.status == ShareStatus.MIGRATING:
        write_status(tx, share.id, status)


def fail_half_moved(tx: Connection, operation: Operation, error: SharewrightError) -> None:
    """What a failed completion or cancellation leaves: ``error``, as nobody knows what the share's clients see."""
    found = read_migrating(tx, operation.resource_id, lock=True)
    if found is None:
        return
    end_migrating(tx, found.share, ShareStatus.ERROR)
    write_task_state(tx, found.share.id, TaskState.ERROR)
    tell(tx, operation, found.share, error, Detail.UNKNOWN_ERROR)
