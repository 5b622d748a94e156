"""Connections to a SQLite file."""

from __future__ import annotations

import sqlite3
import time
from typing import Any, Final

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine import make_url

from sharewright.store.json_columns import load
from sharewright.store.statements import Counting

BUSY_SECONDS: Final = 30.0  # how long SQLite waits for another process's transaction


def engine(url: str, *, pool_size: int, begin: str) -> Engine:
    """``begin``: the statement that begins a transaction."""
    made = create_engine(
        make_url(url).set(drivername="sqlite+sharewright"), begin=begin,
        pool_size=pool_size, max_overflow=0, pool_timeout=60, json_deserializer=load,
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False, "isolation_level": None},
    )  # fmt: skip
    event.listen(made, "connect", _prepare)
    return made


class Dialect(Counting, SQLiteDialect_pysqlite):
    """SQLAlchemy's for sqlite3, which itself begins a transaction before a write only."""

    supports_statement_cache = True

    def __init__(self, begin: str = "BEGIN", **options: Any) -> None:
        super().__init__(**options)
        self._begin = begin

    def do_begin(self, dbapi_connection: Any) -> None:
        dbapi_connection.execute(self._begin)


registry.register("sqlite.sharewright", __name__, Dialect.__name__)


def _prepare(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    _use_wal(cursor)
    # With WAL, NORMAL keeps the database consistent over power loss; FULL also keeps the last commits.
    # An operation row that was acknowledged to a user must survive, so FULL.
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _use_wal(cursor: Any) -> None:
    """Switch to write-ahead logging. SQLite does not wait for the lock that the switch of a new file needs (its busy
    timeout does not apply there), so processes that start together have to try again."""
    end = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.02)
