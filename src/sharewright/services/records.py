"""Small helpers for rows with metadata in a table of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Column, Connection, Select, Table, bindparam, select

from sharewright.errors import NotFound
from sharewright.store.lookups import among_parameter, list_type, list_value


def read_maps(
    tx: Connection, table: Table, owner: Column[Any], identifiers: Sequence[str]
) -> dict[str, dict[str, str]]:
    """owner id → {key: value}, for all owners in one statement."""
    maps: dict[str, dict[str, str]] = {identifier: {} for identifier in identifiers}
    if not identifiers:
        return maps
    dialect = tx.dialect.name
    found = tx.execute(_select_maps(dialect, table, owner), {"owners": list_value(dialect, identifiers)})
    for identifier, key, value in found.all():
        maps[identifier][key] = value
    return maps


@lru_cache(maxsize=64)
def _select_maps(dialect: str, table: Table, owner: Column[Any]) -> Select[Any]:
    """Kept, because building it takes as long as running it, and every list of anything with metadata runs it."""
    owners = bindparam("owners", type_=list_type(dialect))
    wanted = among_parameter(dialect, owner, owners)
    return select(owner, table.c.key, table.c.value).where(wanted).order_by(table.c.key)


def write_map(
    tx: Connection, table: Table, owner: Column[Any], identifier: str, values: Mapping[str, str], *, replace: bool
) -> None:
    """Set keys; with ``replace`` all others go."""
    if replace or values:
        condition = owner == identifier
        tx.execute(table.delete().where(condition if replace else condition & table.c.key.in_(list(values))))
    if values:
        tx.execute(
            table.insert(),
            [{owner.name: identifier, "key": key, "value": value} for key, value in sorted(values.items())],
        )


def delete_item(tx: Connection, table: Table, owner: Column[Any], identifier: str, key: str) -> None:
    """Remove one key. Raises NotFound when it is not there."""
    if not tx.execute(table.delete().where(owner == identifier, table.c.key == key)).rowcount:
        raise NotFound(f"Metadata item {key[:64]} could not be found.")


def attach(records: Iterable[dict[str, Any]], name: str, maps: Mapping[str, Any]) -> None:
    """Put each record's map under ``name``."""
    for record in records:
        record[name] = maps[record["id"]]
