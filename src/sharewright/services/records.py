"""Small helpers for rows with metadata in a table of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Column, Connection, Table, select

from sharewright.services.deployment import fetch


def read_maps(
    tx: Connection, table: Table, owner: Column[Any], identifiers: Sequence[str]
) -> dict[str, dict[str, str]]:
    """owner id → {key: value}, for all owners in one statement."""
    maps: dict[str, dict[str, str]] = {identifier: {} for identifier in identifiers}
    if not identifiers:
        return maps
    statement = select(owner.label("owner"), table.c.key, table.c.value).where(owner.in_(identifiers))
    for row in fetch(tx, statement.order_by(table.c.key)):
        maps[row["owner"]][row["key"]] = row["value"]
    return maps


def write_map(
    tx: Connection, table: Table, owner: Column[Any], identifier: str, values: Mapping[str, str], *, replace: bool
) -> None:
    """Set keys; with ``replace`` all others go."""
    condition = owner == identifier
    gone = condition if replace else condition & table.c.key.in_(list(values))
    if replace or values:
        tx.execute(table.delete().where(gone))
    if values:
        tx.execute(
            table.insert(),
            [{owner.name: identifier, "key": key, "value": value} for key, value in sorted(values.items())],
        )


def attach(records: Iterable[dict[str, Any]], name: str, maps: Mapping[str, Any]) -> None:
    """Put each record's map under ``name``."""
    for record in records:
        record[name] = maps[record["id"]]
