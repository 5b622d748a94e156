"""The store: one object per process, short transactions, SQLite and PostgreSQL alike.

``with store.begin() as tx`` is a write transaction, ``with store.read() as tx`` a consistent read. Transactions are
short: no cloud or guest call ever happens inside one. On SQLite writers queue in the process for the single writer
connection (BEGIN IMMEDIATE, WAL), readers never wait; on PostgreSQL both use one pool.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url

from sharewright.errors import ConfigurationError


class StatementCounter(threading.local):
    """SQL statements sent by this thread, for measurements."""

    count = 0


statements = StatementCounter()


class Store:
    """Access to the database named by a SQLAlchemy URL."""

    def __init__(self, url: str, *, pool_size: int = 10) -> None:
        parsed = make_url(url)
        self.url = url
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        if self.is_sqlite:
            if not parsed.database or parsed.database == ":memory:":
                raise ConfigurationError(
                    "database.url: an in-memory SQLite database cannot be shared between threads.",
                    hint="Name a file: sqlite:////var/lib/sharewright/sharewright.db",
                )
            # A writer pool of one is the queue for SQLite's single writer: no busy-waiting between our threads.
            self._writer = _sqlite_engine(url, pool_size=1, begin="BEGIN IMMEDIATE")
            self._reader = _sqlite_engine(url, pool_size=pool_size, begin="BEGIN")
        elif parsed.get_backend_name() == "postgresql":
            self._writer = create_engine(
                parsed.set(drivername="postgresql+psycopg"), pool_size=pool_size, max_overflow=pool_size,
                pool_pre_ping=True, isolation_level="READ COMMITTED",
            )  # fmt: skip
            self._reader = self._writer
        else:
            raise ConfigurationError(
                f"database.url: {parsed.get_backend_name()} is not supported.", hint="Use sqlite or postgresql."
            )
        for engine in {self._writer, self._reader}:
            event.listen(engine, "before_cursor_execute", _count_statement)

    @property
    def engine(self) -> Engine:
        """The writing engine, for migrations."""
        return self._writer

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A write transaction: committed when the block ends, rolled back when it raises."""
        with self._writer.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A read transaction; writing in it is a programming error."""
        with self._reader.begin() as connection:
            yield connection

    def close(self) -> None:
        self._writer.dispose()
        self._reader.dispose()


def _count_statement(*_: Any) -> None:
    statements.count += 1


def _sqlite_engine(url: str, *, pool_size: int, begin: str) -> Engine:
    engine = create_engine(
        url, pool_size=pool_size, max_overflow=0, pool_timeout=60,
        connect_args={"timeout": 30, "check_same_thread": False, "isolation_level": None},
    )  # fmt: skip

    def connect(connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        # With WAL, NORMAL keeps the database consistent over power loss; FULL also keeps the last commits.
        # An operation row that was acknowledged to a user must survive, so FULL.
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    event.listen(engine, "connect", connect)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    return engine
