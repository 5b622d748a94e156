"""Story: make what a share group begins with: a share server, or its shares when it is made from a group snapshot.

As in Manila a new group has a share server where there are such: one of its share network with room, else a new one.
Its shares go there until it is full, and to further servers then. A group from a group snapshot has that group's
server, and each of its shares has a ``create_share`` of its own.

This story waits for the server, or for the shares one after the other, holding no thread. The group is ``available``
when they are there, otherwise it is in ``error`` with a user message; what was made stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, func, select

from sharewright.drivers.contract import ShareDriver
from sharewright.errors import NoValidBackend, SharewrightError
from sharewright.identifiers import utcnow
from sharewright.operations.contract import BaseStory, Done, Operation, Outcome, WaitFor
from sharewright.operations.create_share import check_server_creation, find_driver
from sharewright.operations.group_servers import choose_group_pool, read_group_request
from sharewright.operations.messages import Action, Detail, Resource, write_message
from sharewright.operations.scheduler import Scheduler
from sharewright.operations.share_servers import place_group
from sharewright.progress import Progress
from sharewright.settings import Settings
from sharewright.states import OperationState, ServerStatus, ShareGroupStatus, ShareStatus
from sharewright.store.database import Store
from sharewright.store.tables import operations, share_groups, share_servers, shares


class CreateShareGroup(BaseStory):
    """``payload``: ``server``, or ``shares``: how many shares it is to have."""

    kind = "create_share_group"

    def __init__(self, store: Store, drivers: Mapping[str, ShareDriver], settings: Settings) -> None:
        self._store = store
        self._drivers = drivers
        self._settings = settings
        self._scheduler = Scheduler(store, drivers, settings)

    def run(self, operation: Operation, progress: Progress) -> Outcome:
        if operation.payload.get("server"):
            return self._provide_server(operation, progress)
        with self._store.read() as tx:
            waited_for = _find_creation(tx, operation.resource_id)
        if waited_for is not None:
            return WaitFor(waited_for)
        return Done(lambda tx: finish(tx, operation))

    def fail(self, tx: Connection, operation: Operation, error: SharewrightError) -> None:
        if not operation.payload.get("server"):
            _end(tx, operation, str(error))
            return
        unscheduled = isinstance(error, NoValidBackend)
        _end(
            tx,
            operation,
            str(error),
            action=Action.ALLOCATE_HOST if unscheduled else Action.CREATE,
            detail=Detail.NO_VALID_HOST if unscheduled else Detail.NO_SHARE_SERVER,
        )

    def _provide_server(self, operation: Operation, progress: Progress) -> Outcome:
        """Choose a server for the group, and wait until it is there. One transaction writes the choice."""
        check_server_creation(operation)
        with self._store.read() as tx:
            group = _read(tx, operation.resource_id)
            request = None if group is None else read_group_request(tx, operation.resource_id)
        if group is None or request is None:
            return Done()
        if group.server_status == ServerStatus.ACTIVE:
            return Done(lambda tx: _end(tx, operation, ""))
        with progress.step("schedule", brief=True):
            pool = choose_group_pool(self._store, self._scheduler, self._drivers, request)
        with self._store.begin() as tx:
            progress.fence(tx)
            if _read(tx, operation.resource_id, lock=True) is None:
                return Done()
            placement = place_group(
                tx,
                find_driver(self._drivers, pool.backend),
                operation.resource_id,
                pool,
                flavor=request.flavor,
                seconds=self._settings.worker.operation_seconds,
                context=operation.context,
            )
        if placement.operation_id is not None:
            return WaitFor(placement.operation_id)
        return Done(lambda tx: _end(tx, operation, ""))


def _read(tx: Connection, share_group_id: str, *, lock: bool = False) -> Row[Any] | None:
    """The group, with the status of its server; None unless it is being created still. ``lock`` keeps it there."""
    columns = share_groups.c
    statement = (
        select(share_groups, share_servers.c.status.label("server_status"))
        .outerjoin(share_servers, share_servers.c.id == columns.share_server_id)
        .where(columns.id == share_group_id, columns.status == ShareGroupStatus.CREATING)
    )
    return tx.execute(statement.with_for_update(of=share_groups) if lock else statement).one_or_none()


def finish(tx: Connection, operation: Operation) -> None:
    columns = shares.c
    rows = tx.execute(
        select(columns.status, func.count().label("number"))
        .where(columns.share_group_id == operation.resource_id)
        .group_by(columns.status)
    )
    numbers = {row.status: row.number for row in rows}
    made = numbers.get(ShareStatus.AVAILABLE, 0)
    wanted = operation.payload.get("shares", sum(numbers.values()))
    if made >= wanted:
        _end(tx, operation, "")
    else:
        reason = f"{made} of {wanted} shares could be made from the share group snapshot."
        _end(tx, operation, f"{reason} The messages of the shares say why.")


def _end(
    tx: Connection,
    operation: Operation,
    reason: str,
    *,
    action: Action = Action.CREATE,
    detail: Detail = Detail.DRIVER_FAILED_CREATING_FROM_SNAP,
) -> None:
    """Write how it ended, of a group that is being created still: ``reason`` is empty when it is available."""
    columns = share_groups.c
    row = tx.execute(
        select(columns.project_id).where(
            columns.id == operation.resource_id, columns.status == ShareGroupStatus.CREATING
        )
    ).one_or_none()
    if row is None:
        return
    status = ShareGroupStatus.ERROR if reason else ShareGroupStatus.AVAILABLE
    tx.execute(
        share_groups.update().where(columns.id == operation.resource_id).values(status=status, updated_at=utcnow())
    )
    if reason:
        write_message(
            tx,
            operation,
            project_id=row.project_id,
            resource_id=operation.resource_id,
            resource_type=Resource.SHARE_GROUP,
            action=action,
            detail=detail,
            error=reason,
        )


def _find_creation(tx: Connection, share_group_id: str) -> str | None:
    """An open operation that makes a share of the group."""
    columns = operations.c
    return tx.execute(
        select(columns.id)
        .join(shares, shares.c.id == columns.resource_id)
        .where(
            shares.c.share_group_id == share_group_id,
            columns.kind == "create_share",
            columns.state.in_(OperationState.OPEN),
        )
        .order_by(columns.sequence)
        .limit(1)
    ).scalar_one_or_none()
