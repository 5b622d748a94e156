"""The rows of export locations, of share instances and of snapshots that clients may mount."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import Column, Connection, Select, Table, bindparam, select

from sharewright.drivers.contract import ExportLocation
from sharewright.identifiers import derived_id, new_id, utcnow
from sharewright.store.kept import add_row
from sharewright.store.tables import share_export_locations, share_snapshot_export_locations
from sharewright.store.transaction import add_row_at_end


def write_locations(tx: Connection, share_instance_id: str, locations: Sequence[ExportLocation]) -> None:
    """Make the rows those of ``locations``. Where a path takes another's place, the row and its id stay."""
    table = share_export_locations
    _write(tx, table, table.c.share_instance_id, share_instance_id, locations)


def add_locations(tx: Connection, share_instance_id: str, locations: Sequence[ExportLocation]) -> None:
    """Those of a share instance that has none yet."""
    for each in locations:
        values = {"share_instance_id": share_instance_id, **_values(share_instance_id, each), "created_at": utcnow()}
        add_row_at_end(tx, share_export_locations, **values)


def write_snapshot_locations(tx: Connection, snapshot_instance_id: str, locations: Sequence[ExportLocation]) -> None:
    """The same for a snapshot instance."""
    table = share_snapshot_export_locations
    _write(tx, table, table.c.share_snapshot_instance_id, snapshot_instance_id, locations)


def _values(owner_id: str, location: ExportLocation) -> dict[str, Any]:
    return {
        "id": derived_id("export_location", owner_id, location.path),
        "path": location.path,
        "is_admin_only": location.is_admin_only,
        "preferred": location.preferred,
        "metadata": dict(location.metadata),
    }


@cache
def _of(table: Table, owner: Column[str]) -> Select[Any]:
    return select(table).where(owner == bindparam("owner")).order_by(table.c.id)


def _write(
    tx: Connection, table: Table, owner: Column[str], owner_id: str, locations: Sequence[ExportLocation]
) -> None:
    rows = tx.execute(_of(table, owner), {"owner": owner_id}).all()
    ids = {row.id for row in rows}
    now = utcnow()
    for admins in (False, True):
        wanted = {each.path: each for each in locations if each.is_admin_only is admins}
        present = {row.path: row for row in rows if row.is_admin_only is admins}
        stale = [row for path, row in present.items() if path not in wanted]
        new = [each for path, each in wanted.items() if path not in present]
        changed = [(present[path], each) for path, each in wanted.items() if path in present]
        changed = [(row, each) for row, each in changed if row.preferred != each.preferred]
        for row, each in [*changed, *zip(stale, new, strict=False)]:
            values = {"path": each.path, "preferred": each.preferred, "metadata": dict(each.metadata)}
            tx.execute(table.update().where(table.c.id == row.id).values(**values, updated_at=now))
        for row in stale[len(new) :]:
            tx.execute(table.delete().where(table.c.id == row.id))
        for each in new[len(stale) :]:
            values = _values(owner_id, each)
            if values["id"] in ids:  # a row that has had this path has another now
                values["id"] = new_id()
            add_row(tx, table, **{owner.name: owner_id}, **values, created_at=now)
