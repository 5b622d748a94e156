"""Many shares for lists, written straight into the database: copies of one that is real."""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import Connection, Table, select, text

from sharewright.identifiers import derived_id
from sharewright.store.database import Store
from sharewright.store.tables import share_export_locations, share_instances, share_metadata, shares

PROJECT: Final = "bench"
_AT_ONCE: Final = 1000  # rows: of many more in one transaction, each takes longer to be counted (migration 0028)


def fill(url: str, share_id: str, number: int) -> None:
    """``number`` copies of the share with two metadata each; they are on no server, so nothing looks after them."""
    with closing(Store(url)) as store:
        with store.read() as tx:
            share = _one(tx, shares, shares.c.id, share_id)
            instance = _one(tx, share_instances, share_instances.c.share_id, share_id)
            location = _one(tx, share_export_locations, share_export_locations.c.share_instance_id, instance["id"])
        for first in range(0, number, _AT_ONCE):
            rows: dict[Table, list[dict[str, Any]]] = {
                shares: [], share_instances: [], share_export_locations: [], share_metadata: []
            }  # fmt: skip
            for n in range(first, min(first + _AT_ONCE, number)):
                identifier = derived_id("share", str(n))
                moment = {"created_at": share["created_at"] - timedelta(seconds=n)}
                rows[shares].append(
                    {**share, **moment, "id": identifier, "name": f"listed-{n:06}", "share_server_id": None}
                )
                rows[share_instances].append(
                    {**instance, **moment, "id": identifier, "share_id": identifier, "share_server_id": None,
                     "volume_id": f"none-{n}"}
                )  # fmt: skip
                rows[share_export_locations].append(
                    {**location, **moment, "id": identifier, "share_instance_id": identifier}
                )
                rows[share_metadata] += [
                    {"share_id": identifier, "key": "purpose", "value": "listed"},
                    {"share_id": identifier, "key": "number", "value": str(n)},
                ]
            with store.begin() as tx:
                for table, values in rows.items():
                    tx.execute(table.insert(), values)
        with store.begin() as tx:
            tx.execute(text("ANALYZE"))


def _one(tx: Connection, table: Table, column: Any, value: str) -> dict[str, Any]:
    row = tx.execute(select(table).where(column == value)).mappings().first()
    assert row is not None
    return dict(row)
