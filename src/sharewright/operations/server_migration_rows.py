"""Rows that the stories of share server migrations read and write in the same way.

A share server that is migrated has a second server, made for its shares, which names it as its source. The instances of
the shares stay; when they move, all their rows say so in one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, select

from sharewright.drivers.contract import ShareDriver
from sharewright.drivers.migration import ServerMigrationDriver
from sharewright.errors import SharewrightError, Unsupported
from sharewright.identifiers import utcnow
from sharewright.operations.contract import Operation
from sharewright.operations.create_share import find_driver
from sharewright.operations.messages import Action, Resource, write_message
from sharewright.operations.migration_rows import restore_snapshots
from sharewright.operations.queue import enqueue
from sharewright.states import OperationState, ServerStatus, ShareStatus, SnapshotStatus, TaskState
from sharewright.store.tables import operations, share_instances, share_servers, shares

RESOURCE = "share_server"


@dataclass(frozen=True, slots=True, kw_only=True)
class MigratingServer:
    """The rows of a share server and of the one that is made for its shares (None: none yet, or none any more)."""

    server: Row[Any]
    other: Row[Any] | None


def read_migrating_server(tx: Connection, server_id: str, *, lock: bool = False) -> MigratingServer | None:
    """None when the server is gone. ``lock``: its row, until the transaction ends."""
    query = select(share_servers).where(share_servers.c.id == server_id)
    server = tx.execute(query.with_for_update() if lock else query).one_or_none()
    if server is None:
        return None
    columns = share_servers.c
    made = select(share_servers).where(
        columns.source_share_server_id == server_id,
        # Those of migrations that are over, whatever became of them, count no more.
        columns.task_state.not_in((TaskState.CANCELLED, TaskState.SUCCESS)),
        columns.status != ServerStatus.DELETING,
    )
    other = tx.execute(made.order_by(columns.created_at.desc(), columns.id).limit(1)).one_or_none()
    return MigratingServer(server=server, other=other)


def find_server_driver(drivers: Mapping[str, ShareDriver], backend: str) -> ServerMigrationDriver:
    """The backend's driver. Unsupported when it moves no share servers, SharewrightError when there is none."""
    driver = find_driver(drivers, backend)
    if not isinstance(driver, ServerMigrationDriver):
        raise Unsupported(f"The driver of backend {backend} cannot move share servers.", hint="Migrate its shares.")
    return driver


def instances_of(tx: Connection, *server_ids: str) -> list[Row[Any]]:
    """The share instances on servers, with their shares' id, type and status."""
    columns = share_instances.c
    return list(
        tx.execute(
            select(columns.id, columns.share_id, columns.share_server_id, columns.is_main, columns.status)
            .add_columns(shares.c.share_type_id)
            .join(shares, shares.c.id == columns.share_id)
            .where(columns.share_server_id.in_(server_ids))
            .order_by(columns.created_at, columns.id)
        )
    )


def is_worked_on(tx: Connection, *server_ids: str) -> str:
    """What is under way with the shares on servers, their snapshots left aside, in words; empty: nothing. The shares'
    rows are locked until the transaction ends, so that nothing is accepted meanwhile."""
    ids = {row.share_id for row in instances_of(tx, *server_ids)}
    tx.execute(select(shares.c.id).where(shares.c.id.in_(ids)).order_by(shares.c.id).with_for_update())
    kind = tx.execute(
        select(operations.c.kind)
        .where(operations.c.key.in_([f"share:{each}" for each in ids]), operations.c.state.in_(OperationState.OPEN))
        .limit(1)
    ).scalar()
    return f"A share on the share server is being worked on ({kind})." if kind is not None else ""


def write_server(tx: Connection, server_id: str, **values: object) -> None:
    tx.execute(share_servers.update().where(share_servers.c.id == server_id).values(**values, updated_at=utcnow()))


def write_statuses(
    tx: Connection, operation: Operation, server_ids: tuple[str, ...], status: str, *, also: tuple[str, ...] = ()
) -> None:
    """Set the status of the shares that are migrating with their server (or have one of ``also``); when they are
    available again, so are their snapshots."""
    now, columns = utcnow(), share_instances.c
    for row in instances_of(tx, *server_ids):
        if row.status in (ShareStatus.SERVER_MIGRATING, *also):
            tx.execute(share_instances.update().where(columns.id == row.id).values(status=status, updated_at=now))
            if row.is_main:
                tx.execute(shares.update().where(shares.c.id == row.share_id).values(status=status, updated_at=now))
        if row.is_main and status == ShareStatus.AVAILABLE:
            restore_snapshots(tx, operation, row.share_id, SnapshotStatus.SERVER_MIGRATING)


def remove_later(tx: Connection, operation: Operation, server_id: str) -> None:
    """Ask for the removal of a server that no share is to live on any more."""
    enqueue(
        tx,
        "delete_share_server",
        resource_type=RESOURCE,
        resource_id=server_id,
        context=operation.context,
        seconds=900.0,
    )


def fail_server(tx: Connection, operation: Operation, server: Row[Any], error: SharewrightError) -> None:
    """Write the message that says why a share server was not migrated."""
    write_message(
        tx,
        operation,
        project_id=server.project_id,
        resource_id=server.id,
        resource_type=Resource.SHARE_SERVER,
        action=Action.UPDATE,
        error=error,
    )
