"""Conditions and columns for statements that run often."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    JSON,
    BindParameter,
    ColumnElement,
    Connection,
    Row,
    Select,
    Table,
    Text,
    any_,
    bindparam,
    func,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


def among(tx: Connection, column: ColumnElement[Any], values: Sequence[str]) -> ColumnElement[bool]:
    """``column IN values`` for texts, with one parameter however many they are: a thousand of them, each a parameter
    of its own in a statement that is written anew for every number, cost more than the rows that are found."""
    dialect = tx.dialect.name
    return among_parameter(dialect, column, bindparam(None, list_value(dialect, values), list_type(dialect)))


def among_parameter(dialect: str, column: ColumnElement[Any], parameter: BindParameter[Any]) -> ColumnElement[bool]:
    """The same for a statement that is kept: the parameter is of ``list_type``, and given as ``list_value``."""
    if dialect == "postgresql":
        return column == any_(parameter)
    return column.in_(select(func.json_each(parameter).table_valued("value").c.value))


class RowsOf:
    """A query for the rows with one of several values, texts, in a column; kept as a statement for each database."""

    def __init__(self, query: Select[Any], column: ColumnElement[Any]) -> None:
        self._query = query
        self._column = column
        self._statements: dict[str, Select[Any]] = {}

    def read(self, tx: Connection, values: Sequence[str]) -> Sequence[Row[Any]]:
        dialect = tx.dialect.name
        statement = self._statements.get(dialect)
        if statement is None:
            wanted = bindparam("wanted", type_=list_type(dialect))
            statement = self._query.where(among_parameter(dialect, self._column, wanted))
            self._statements[dialect] = statement
        return tx.execute(statement, {"wanted": list_value(dialect, values)}).all()


def list_type(dialect: str) -> Any:
    return ARRAY(Text) if dialect == "postgresql" else Text()


def list_value(dialect: str, values: Sequence[str]) -> Any:
    return list(values) if dialect == "postgresql" else json.dumps(list(values))


def map_of(table: Table, owner: ColumnElement[Any], record: ColumnElement[Any]) -> ColumnElement[Any]:
    """A column with the keys and values that the record has in the table, as a dictionary; None, or an empty one, when
    it has none. One row for each record, and no statement more."""
    return select(_Map(table.c.key, table.c.value)).where(owner == record).correlate(record.table).scalar_subquery()


class _Map(FunctionElement[Any]):
    type = JSON()
    inherit_cache = True


@compiles(_Map, "postgresql")
def _aggregate(element: _Map, compiler: Any, **options: Any) -> str:
    return f"json_object_agg({compiler.process(element.clauses, **options)})"


@compiles(_Map, "sqlite")
def _group(element: _Map, compiler: Any, **options: Any) -> str:
    return f"json_group_object({compiler.process(element.clauses, **options)})"
