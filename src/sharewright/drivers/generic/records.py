"""The generic driver's memory: the columns of ``share_instances`` that only it reads and writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, bindparam, case, select

from sharewright.errors import NotFound
from sharewright.identifiers import utcnow
from sharewright.progress import Progress
from sharewright.store.database import Store
from sharewright.store.kept import change_row
from sharewright.store.lookups import RowsOf
from sharewright.store.tables import share_instances, shares


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRecord:
    """One share instance as the driver knows it. ``size`` in GiB."""

    id: str
    share_id: str
    protocol: str
    size: int
    backend: str | None
    availability_zone: str | None
    server_id: str | None
    volume_type: str | None
    volume_id: str | None
    volume_serial: str | None
    volume_attached: bool
    filesystem_type: str | None
    filesystem_uuid: str | None
    filesystem_ready: bool
    snapshot_id: str | None
    member_id: str | None  # of a share group snapshot
    clone_of: str | None
    old_volume_id: str | None
    old_volume_serial: str | None
    wanted: bool


def _query() -> Select[Any]:
    columns = share_instances.c
    return select(
        columns.id,
        columns.share_id,
        shares.c.protocol,
        columns.size,
        columns.backend,
        columns.availability_zone,
        columns.share_server_id.label("server_id"),
        columns.volume_type,
        columns.volume_id,
        columns.volume_serial,
        columns.volume_attached,
        columns.filesystem_type,
        columns.filesystem_uuid,
        columns.filesystem_ready,
        # A replica is one of what the share holds now, and not made from what the share was made from.
        case((columns.is_main, shares.c.snapshot_id)).label("snapshot_id"),
        case((columns.is_main, shares.c.source_share_group_snapshot_member_id)).label("member_id"),
        columns.clone_of,
        columns.old_volume_id,
        columns.old_volume_serial,
        columns.wanted,
    ).join(shares, shares.c.id == columns.share_id)


_SEVERAL: Final = RowsOf(_query(), share_instances.c.id)
_ON_SERVER: Final = (
    _query()
    .where(share_instances.c.share_server_id == bindparam("server"), share_instances.c.wanted.is_(True))
    .order_by(share_instances.c.id)
)


def _record(row: Row[Any]) -> InstanceRecord:
    return InstanceRecord(**row._mapping)


def find_instance(store: Store, share_instance_id: str) -> InstanceRecord | None:
    return store.look_up(_read, share_instance_id)


def _read(tx: Connection, share_instance_ids: Sequence[str]) -> dict[str, InstanceRecord]:
    return {row.id: _record(row) for row in _SEVERAL.read(tx, share_instance_ids)}


def read_instance(store: Store, share_instance_id: str) -> InstanceRecord:
    """Raises NotFound."""
    record = find_instance(store, share_instance_id)
    if record is None:
        raise NotFound(f"Share instance {share_instance_id} does not exist any more.")
    return record


def instances_on(store: Store, server_id: str) -> Sequence[InstanceRecord]:
    """The wanted instances placed on a server."""
    with store.read() as tx:
        return [_record(row) for row in tx.execute(_ON_SERVER, {"server": server_id})]


def remember(store: Store, progress: Progress, share_instance_id: str, **values: object) -> None:
    """Write what was learned about an instance, at once, if the work is still ours."""
    with store.begin() as tx:
        progress.fence(tx)
        change_row(tx, share_instances, share_instance_id, **values, updated_at=utcnow())


def note(store: Store, progress: Progress, share_instance_id: str, **values: object) -> None:
    """The same with the next thing that the work writes: for what is found out again if a crash comes first."""
    progress.later(store, share_instances, share_instance_id, {**values, "updated_at": utcnow()})
