"""Rows that the share stories read and write in the same way.

Every transaction, here and in services/, locks rows in one order, so that none waits for another in a circle: share
groups, share network subnets, shares, share instances, access rules, share servers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, CursorResult, Row, bindparam, case, exists, or_, select

from sharewright.identifiers import utcnow
from sharewright.operations.queue import enqueue
from sharewright.states import AccessRulesStatus, AccessState, OperationState, ServerStatus, ShareStatus, TaskState
from sharewright.store.lookups import RowsOf
from sharewright.store.tables import (
    operations,
    share_access_rules,
    share_groups,
    share_instances,
    share_servers,
    shares,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareRow:
    """A share and one of its instances."""

    id: str
    instance_id: str
    instance_status: str
    is_main: bool
    project_id: str
    user_id: str
    share_type_id: str
    size: int
    status: str
    share_network_id: str | None
    backend: str | None
    server_id: str | None
    server_flavor: str | None
    wanted: bool
    taken_over: bool
    snapshot_id: str | None
    member_id: str | None  # of a share group snapshot
    share_group_id: str | None


_OF_SHARES: Final = (
    select(
        shares.c.id,
        share_instances.c.id.label("instance_id"),
        share_instances.c.status.label("instance_status"),
        share_instances.c.is_main,
        shares.c.project_id,
        shares.c.user_id,
        shares.c.share_type_id,
        shares.c.size,
        shares.c.status,
        shares.c.share_network_id,
        share_instances.c.backend,
        share_instances.c.share_server_id.label("server_id"),
        share_instances.c.server_flavor,
        share_instances.c.wanted,
        share_instances.c.taken_over,
        shares.c.snapshot_id,
        shares.c.source_share_group_snapshot_member_id.label("member_id"),
        shares.c.share_group_id,
    )
    .join(share_instances, share_instances.c.share_id == shares.c.id)
    .order_by(share_instances.c.is_main.desc(), share_instances.c.created_at, share_instances.c.id)
)
_SHARES: Final = _OF_SHARES.where(shares.c.id == bindparam("share_id"))


def read_shares(tx: Connection, share_id: str) -> list[ShareRow]:
    """One row per instance of a share, its main one first; none when the share is gone."""
    return [ShareRow(**row._mapping) for row in tx.execute(_SHARES, {"share_id": share_id})]


def read_share(tx: Connection, share_id: str) -> ShareRow | None:
    """The share with its main instance."""
    rows = read_shares(tx, share_id)
    return rows[0] if rows else None


_SHARES_AND_DELETION: Final = RowsOf(
    _OF_SHARES.add_columns(
        exists()
        .where(
            operations.c.resource_id == shares.c.id,
            operations.c.kind == "delete_share",
            operations.c.state == OperationState.QUEUED,
        )
        .label("asked")
    ),
    shares.c.id,
)


def read_shares_to_make(tx: Connection, share_ids: Sequence[str]) -> dict[str, tuple[ShareRow, bool]]:
    """By id: the share with its main instance, and whether :func:`is_delete_queued`; one statement. For look_up."""
    found: dict[str, tuple[ShareRow, bool]] = {}
    for share, is_asked in _with_answer(_SHARES_AND_DELETION.read(tx, share_ids)):
        found.setdefault(share.id, (share, is_asked))  # the main instance is first
    return found


# Whether a share's server gives its shares to another one just now, or takes them.
_SHARES_AND_MOVING: Final = _SHARES.add_columns(
    exists()
    .where(
        or_(
            share_servers.c.id == share_instances.c.share_server_id,
            share_servers.c.source_share_server_id == share_instances.c.share_server_id,
        ),
        share_servers.c.source_share_server_id.is_not(None),
        share_servers.c.task_state == TaskState.COMPLETING,
    )
    .label("asked")
)


def read_shares_to_delete(tx: Connection, share_id: str) -> tuple[list[ShareRow], bool]:
    """As :func:`read_shares`, and whether one of its servers is giving its shares to another one; one statement."""
    rows = _with_answer(tx.execute(_SHARES_AND_MOVING, {"share_id": share_id}))
    return [share for share, _ in rows], any(is_moving for _, is_moving in rows)


def _with_answer(found: Iterable[Row[Any]]) -> list[tuple[ShareRow, bool]]:
    """Of rows with one more column, ``asked``."""
    rows = [dict(row._mapping) for row in found]
    asked = [bool(row.pop("asked")) for row in rows]
    return [(ShareRow(**row), answer) for row, answer in zip(rows, asked, strict=True)]


_WRITE_SHARE: Final = shares.update().where(shares.c.id == bindparam("share"), shares.c.status != bindparam("spared"))
_WRITE_INSTANCE: Final = share_instances.update().where(
    share_instances.c.share_id == bindparam("share"),
    share_instances.c.is_main.is_(True),
    share_instances.c.status != bindparam("spared"),
)


def write_status(tx: Connection, share_id: str, status: str, **values: object) -> None:
    """Set the status of a share and its main instance, except of one that is being deleted."""
    write_share_status(tx, share_id, status, **values)
    tx.execute(_WRITE_INSTANCE, _changed(share_id, status))


def write_share_status(tx: Connection, share_id: str, status: str, **values: object) -> bool:
    """The same without the instance; False when the share is being deleted, or gone."""
    written: CursorResult[Any] = tx.execute(_WRITE_SHARE, {**_changed(share_id, status), **values})
    return bool(written.rowcount)


def _changed(share_id: str, status: str) -> dict[str, object]:
    spared = "" if status in (ShareStatus.DELETING, ShareStatus.ERROR_DELETING) else ShareStatus.DELETING
    return {"share": share_id, "spared": spared, "status": status, "updated_at": utcnow()}


def write_replica(tx: Connection, replica_id: str, **values: object) -> None:
    """Set columns of a share instance that is not its share's main one; nothing when it is by now."""
    columns = share_instances.c
    tx.execute(
        share_instances.update()
        .where(columns.id == replica_id, columns.is_main.is_(False))
        .values(updated_at=utcnow(), **values)
    )


_LEAVE: Final = share_servers.update().where(
    share_servers.c.id == bindparam("server"),
    share_servers.c.unused_since.is_(None),
    ~exists().where(share_instances.c.share_server_id == bindparam("server")),
    ~exists().where(share_groups.c.share_server_id == bindparam("server")),
)


def has_groups(tx: Connection, server_id: str) -> bool:
    """Whether the shares of a share group are to go to the server."""
    columns = share_groups.c
    return tx.execute(select(columns.id).where(columns.share_server_id == server_id).limit(1)).first() is not None


def leave_server(tx: Connection, server_id: str | None) -> None:
    """Start the clock of a server that no share lives on any more, and that no share group has."""
    if server_id is None:
        return
    tx.execute(_LEAVE, {"server": server_id, "unused_since": utcnow()})


_QUEUED: Final = (
    select(operations.c.id)
    .where(
        operations.c.resource_id == bindparam("resource"),
        operations.c.kind == bindparam("kind"),
        operations.c.state == OperationState.QUEUED,
    )
    .limit(1)
)


def is_delete_queued(tx: Connection, resource_id: str, kind: str = "delete_share") -> bool:
    """Whether somebody asked to delete the share (or, with its ``kind`` of deletion, another thing) while another
    operation on it is running."""
    return tx.execute(_QUEUED, {"resource": resource_id, "kind": kind}).first() is not None


def _has_rules(states: Iterable[str]) -> ColumnElement[bool]:
    return exists().where(
        share_access_rules.c.share_id == bindparam("share"), share_access_rules.c.state.in_(sorted(states))
    )


_WRITE_RULES_STATUS: Final = (
    shares.update()
    .where(shares.c.id == bindparam("share"))
    .values(
        access_rules_status=case(
            (_has_rules(AccessState.TRANSITIONAL), AccessRulesStatus.SYNCING),
            (_has_rules([AccessState.ERROR]), AccessRulesStatus.ERROR),
            else_=AccessRulesStatus.ACTIVE,
        )
    )
)


def write_access_rules_status(tx: Connection, share_id: str) -> None:
    """Recompute the sum of a share's rules' states. The share's row must be locked."""
    tx.execute(_WRITE_RULES_STATUS, {"share": share_id})


def clean_up_server(tx: Connection, server_id: str, *, seconds: float, delay: float = 30.0) -> None:
    """Ask for a failed server's removal, some time from now."""
    tx.execute(
        share_servers.update()
        .where(share_servers.c.id == server_id, share_servers.c.status != ServerStatus.DELETING)
        .values(status=ServerStatus.ERROR, healthy=False, updated_at=utcnow())
    )
    already = tx.execute(
        select(operations.c.id)
        .where(
            operations.c.resource_id == server_id,
            operations.c.kind == "delete_share_server",
            or_(operations.c.state == OperationState.QUEUED, operations.c.state == OperationState.RUNNING),
        )
        .limit(1)
    ).first()
    if already is None:
        enqueue(
            tx,
            "delete_share_server",
            resource_type="share_server",
            resource_id=server_id,
            seconds=seconds,
            not_before=utcnow() + timedelta(seconds=delay),
        )
