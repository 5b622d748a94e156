"""Rows that the stories of share group snapshots read and write in the same way.

Its members are snapshot instances without a snapshot. Locks are taken in the order of share_rows.py; a group snapshot's
after its group's.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select

from sharewright.errors import SharewrightError
from sharewright.identifiers import utcnow
from sharewright.operations.contract import Operation
from sharewright.operations.messages import Action, Resource, write_message
from sharewright.states import ShareGroupSnapshotStatus
from sharewright.store.tables import share_group_snapshots, share_instances, share_snapshot_instances


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRow:
    """A member, and where its share lives. ``size`` in GiB; ``share_size`` is what the share has been given by now."""

    id: str
    share_instance_id: str
    size: int
    share_size: int
    backend: str | None
    server_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSnapshotRow:
    id: str
    share_group_id: str
    project_id: str
    user_id: str
    status: str
    members: tuple[MemberRow, ...]

    @property
    def backend(self) -> str | None:
        """Where the shares of its group are. Raises SharewrightError when that is not one place."""
        backends = {member.backend for member in self.members}
        if len(backends) != 1:
            raise SharewrightError(f"The shares of share group {self.share_group_id} are not on one backend.")
        return backends.pop()


def read_group_snapshot(tx: Connection, identifier: str) -> GroupSnapshotRow | None:
    columns = share_group_snapshots.c
    row = tx.execute(
        select(columns.id, columns.share_group_id, columns.project_id, columns.user_id, columns.status).where(
            columns.id == identifier
        )
    ).one_or_none()
    if row is None:
        return None
    members = share_snapshot_instances.c
    found = tx.execute(
        select(
            members.id,
            members.share_instance_id,
            members.size,
            share_instances.c.size.label("share_size"),
            share_instances.c.backend,
            share_instances.c.share_server_id.label("server_id"),
        )
        .join(share_instances, share_instances.c.id == members.share_instance_id)
        .where(members.share_group_snapshot_id == identifier)
        .order_by(members.id)
    )
    return GroupSnapshotRow(**row._mapping, members=tuple(MemberRow(**member._mapping) for member in found))


def write_group_snapshot_status(tx: Connection, identifier: str, status: str) -> None:
    """Set the status of a group snapshot and its members, except of one that is being deleted."""
    now, deleting = utcnow(), ShareGroupSnapshotStatus.DELETING
    spared = () if status in (deleting, ShareGroupSnapshotStatus.ERROR_DELETING) else (deleting,)
    for table, column in (
        (share_group_snapshots, share_group_snapshots.c.id),
        (share_snapshot_instances, share_snapshot_instances.c.share_group_snapshot_id),
    ):
        tx.execute(
            table.update()
            .where(column == identifier, table.c.status.not_in(spared))
            .values(status=status, updated_at=now)
        )


def write_member_sizes(tx: Connection, snapshot: GroupSnapshotRow) -> None:
    """A share may have grown since the request; what is made from its member must have room for what is in it."""
    for member in snapshot.members:
        if member.share_size > member.size:
            tx.execute(
                share_snapshot_instances.update()
                .where(share_snapshot_instances.c.id == member.id)
                .values(size=member.share_size)
            )


def fail_group_snapshot(
    tx: Connection, operation: Operation, error: SharewrightError, *, status: str, action: Action
) -> None:
    """Write a group snapshot's error state and the message that says why."""
    snapshot = read_group_snapshot(tx, operation.resource_id)
    if snapshot is None:
        return
    write_group_snapshot_status(tx, snapshot.id, status)
    write_message(
        tx,
        operation,
        project_id=snapshot.project_id,
        resource_id=snapshot.id,
        resource_type=Resource.SHARE_GROUP_SNAPSHOT,
        action=action,
        error=error,
    )
