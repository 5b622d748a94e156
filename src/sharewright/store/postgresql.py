"""Connections to PostgreSQL, with psycopg."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

import psycopg
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry

from sharewright.store.json_columns import load
from sharewright.store.statements import Counting

# Statements that a connection keeps parsed and planned, from a statement's second use on: planning one takes longer
# than running it. As many as our stories and requests have, several times over.
PREPARED: Final = 500
IDLE_SECONDS: Final = 1.0  # after which a connection is not believed to stand any more


def engine(url: str, *, pool_size: int, **options: Any) -> Engine:
    """``options``: of SQLAlchemy's create_engine."""
    made = create_engine(
        make_url(url).set(drivername="postgresql+sharewright"), pool_size=pool_size, max_overflow=0,
        pool_use_lifo=True,  # few connections that know the statements before many that have to learn them
        connect_args={"prepare_threshold": 1, "cursor_factory": Cursor}, json_deserializer=load,
        **options,
    )  # fmt: skip
    event.listen(made, "connect", _keep_statements)
    _ping_idle_connections(made)
    return made


class Dialect(Counting, PGDialect_psycopg):
    """SQLAlchemy's for psycopg."""

    supports_statement_cache = True


registry.register("postgresql.sharewright", __name__, Dialect.__name__)


class Cursor(psycopg.Cursor[Any]):
    """A cursor that describes its columns when somebody looks: SQLAlchemy asks for the description after each
    statement, and looks into it only at the statement's first use. For a table of 40 columns it is a third of the
    time that a statement takes."""

    @property
    def description(self) -> Any:
        result = self.pgresult
        if result is None or not result.nfields:
            return super().description
        return _Description(self)

    def describe(self) -> list[psycopg.Column]:
        return super().description or []


class _Description(Sequence[psycopg.Column]):
    """Of the columns of the result that the cursor has now."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor

    def __len__(self) -> int:
        return len(self._cursor.describe())

    def __getitem__(self, index: Any) -> Any:
        return self._cursor.describe()[index]

    def __iter__(self) -> Iterator[psycopg.Column]:
        return iter(self._cursor.describe())


def _keep_statements(connection: Any, _: Any) -> None:
    connection.prepared_max = PREPARED


def _ping_idle_connections(engine: Engine) -> None:
    """Ask a connection whether it still stands, before its first use after ``IDLE_SECONDS``. Asking each time
    (pool_pre_ping) would be one journey to the server more for every transaction, and most have few."""

    def returned(_connection: Any, record: ConnectionPoolEntry) -> None:
        record.info["returned"] = time.monotonic()

    def taken(connection: Any, record: ConnectionPoolEntry, _proxy: Any) -> None:
        if time.monotonic() < record.info.get("returned", 0.0) + IDLE_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise DisconnectionError from error  # the pool opens another

    event.listen(engine, "checkin", returned)
    event.listen(engine, "checkout", taken)
