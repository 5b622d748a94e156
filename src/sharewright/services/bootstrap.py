"""What every deployment has from the start. Run at each start of an API or worker process; changes nothing twice."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Table, select
from sqlalchemy.dialects import postgresql, sqlite

from sharewright.identifiers import derived_id, utcnow
from sharewright.settings import Settings
from sharewright.store.database import Store
from sharewright.store.tables import availability_zones, share_type_extra_specs, share_types


def ensure_defaults(store: Store, settings: Settings) -> None:
    """Make the default share type unless any share type exists, and a row for each backend's availability zone. The
    type is for share servers (driver_handles_share_servers), unless no backend makes any. Safe in several processes at
    once."""
    now = utcnow()
    backends = settings.backends.values()
    handles_servers = not backends or any(backend.driver_handles_share_servers for backend in backends)
    with store.begin() as tx:
        for zone in sorted({backend.availability_zone for backend in settings.backends.values()} or {"nova"}):
            _insert(
                tx, availability_zones, {"id": derived_id("availability_zone", zone), "name": zone, "created_at": now}
            )
        # An administrator who deleted or renamed the default type does not get it back.
        if tx.execute(select(share_types.c.id).limit(1)).first() is not None:
            return
        identifier = derived_id("share_type", settings.default_share_type)
        _insert(
            tx,
            share_types,
            {
                "id": identifier,
                "name": settings.default_share_type,
                "description": "NFS shares on share servers of the project's own" if handles_servers else "NFS shares",
                "is_public": True,
                "created_at": now,
            },
        )
        _insert(
            tx,
            share_type_extra_specs,
            {"share_type_id": identifier, "key": "driver_handles_share_servers", "value": str(handles_servers)},
        )


def _insert(tx: Connection, table: Table, row: dict[str, Any]) -> None:
    """Insert unless the row is there."""
    insert = sqlite.insert(table) if tx.dialect.name == "sqlite" else postgresql.insert(table)
    tx.execute(insert.values(**row).on_conflict_do_nothing())
