"""Story: a share group is made from a group snapshot, that is, its shares are.

Each share has a ``create_share`` of its own; this story waits for them, one after the other, holding no thread. The
group is ``available`` when all of them are, otherwise it is in ``error`` with a user message; what was made stays.
"""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from sharewright.errors import SharewrightError
from sharewright.identifiers import utcnow
from sharewright.operations.contract import BaseStory, Done, Operation, Outcome, WaitFor
from sharewright.operations.messages import Action, Detail, Resource, write_message
from sharewright.progress import Progress
from sharewright.states import OperationState, ShareGroupStatus, ShareStatus
from sharewright.store.database import Store
from sharewright.store.tables import operations, share_groups, shares


class CreateShareGroup(BaseStory):
    """``payload["shares"]``: how many shares it is to have."""

    kind = "create_share_group"

    def __init__(self, store: Store) -> None:
        self._store = store

    def run(self, operation: Operation, progress: Progress) -> Outcome:
        with self._store.read() as tx:
            waited_for = _find_creation(tx, operation.resource_id)
        if waited_for is not None:
            return WaitFor(waited_for)
        return Done(lambda tx: finish(tx, operation))

    def fail(self, tx: Connection, operation: Operation, error: SharewrightError) -> None:
        _end(tx, operation, str(error))


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
        _end(tx, operation, f"{made} of {wanted} shares could be made from the share group snapshot.")


def _end(tx: Connection, operation: Operation, reason: str) -> None:
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
            action=Action.CREATE,
            detail=Detail.DRIVER_FAILED_CREATING_FROM_SNAP,
            error=f"{reason} The messages of the shares say why.",
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
