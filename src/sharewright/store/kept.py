"""Statements that are kept. Building one takes SQLAlchemy three times as long as sending it and reading the answer, and
most of them are sent thousands of times with other values only: these are built once, and the values are parameters.

What is too particular for the functions here is kept in the same way where it is used: a constant, or a function with
``functools.cache``, with ``bindparam`` for what differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from sqlalchemy import Connection, CursorResult, Insert, Table, Update, bindparam
from sqlalchemy.sql.dml import ReturningInsert
from sqlalchemy.sql.schema import ScalarElementColumnDefault


def add_row(tx: Connection, table: Table, **values: Any) -> None:
    """Insert one row. ``values`` are plain values, not SQL expressions; a column that is not named gets its default."""
    tx.execute(insert_of(table), values)


def new_row(tx: Connection, table: Table, **values: Any) -> dict[str, Any]:
    """The same; return all columns of the row."""
    return dict(tx.execute(_insert_and_read(table), values).one()._mapping)


def whole_row(table: Table, values: Mapping[str, Any]) -> dict[str, Any]:
    """What :func:`new_row` would return for these values, without asking: with the defaults of the other columns."""
    return {**_defaults(table), **values}


def change_row(tx: Connection, table: Table, identifier: str, **values: Any) -> int:
    """Set columns of the row with this ``id``, to plain values; return how many rows there were, one or none."""
    result: CursorResult[Any] = tx.execute(update_of(table), {"row_id": identifier, **values})
    return result.rowcount


@cache
def _defaults(table: Table) -> dict[str, Any]:
    defaults: dict[str, Any] = {}
    for column in table.c:
        default = column.default
        if isinstance(default, ScalarElementColumnDefault):
            defaults[column.name] = default.arg
        elif default is not None or column.server_default is not None:
            raise ValueError(f"The default of {column} is the database's.")
        else:
            defaults[column.name] = None
    return defaults


@cache
def insert_of(table: Table) -> Insert:
    """Of one row; the values are parameters."""
    return table.insert()


@cache
def _insert_and_read(table: Table) -> ReturningInsert[Any]:
    return table.insert().returning(*table.c)


@cache
def update_of(table: Table) -> Update:
    """Of the row with the id ``row_id``."""
    return table.update().where(table.c.id == bindparam("row_id"))
