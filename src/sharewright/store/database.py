"""The store: one object per process, short transactions, SQLite and PostgreSQL alike.

``with store.begin() as tx`` is a write transaction, ``with store.read() as tx`` a consistent read. Transactions are
short: no cloud or guest call ever happens inside one. On SQLite writers queue in the process for the single writer
connection (BEGIN IMMEDIATE, WAL) and share commits (group_commit.py), readers never wait; on PostgreSQL both have a
pool. What many threads write at once can be one transaction (together.py), and what they read one statement
(shared_reading.py).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.engine import make_url

from sharewright.errors import ConfigurationError
from sharewright.store import sqlite, transaction
from sharewright.store.crier import Crier
from sharewright.store.group_commit import GroupCommit
from sharewright.store.shared_reading import Found, Key, SharedReading
from sharewright.store.statements import statements
from sharewright.store.together import Answer, Together
from sharewright.store.turns import Turns


class Bell:
    """Rung in this process when work may have become runnable: after a commit, or at a time that was set before.
    Workers wait for it instead of polling."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._rings = 0
        self._alarms: dict[str, float] = {}  # name → times.monotonic()

    @property
    def rings(self) -> int:
        """How often it has rung so far; give it to :meth:`wait` after having looked for work in between."""
        with self._condition:
            return self._strike(time.monotonic())

    def ring(self) -> None:
        with self._condition:
            self._rings += 1
            self._condition.notify_all()

    def ring_later(self, name: str, seconds: float) -> None:
        """Ring once, so many seconds from now; instead of the earlier alarm of that name, if it has not rung yet."""
        with self._condition:
            now = time.monotonic()
            self._strike(now)  # here too, or alarms would pile up in a process where nobody waits
            self._alarms[name] = now + seconds
            self._condition.notify_all()

    def wait(self, rings: int, timeout: float) -> bool:
        """Return True as soon as it has rung more than ``rings`` times, False after ``timeout`` seconds."""
        with self._condition:
            now = time.monotonic()
            end = now + timeout
            while self._strike(now) <= rings:
                if now >= end:
                    return False
                self._condition.wait(min([end, *self._alarms.values()]) - now)
                now = time.monotonic()
            return True

    def _strike(self, now: float) -> int:
        """Turn the alarms whose time has come into rings; return how many there were so far."""
        passed = [name for name, due in self._alarms.items() if due <= now]
        for name in passed:
            del self._alarms[name]
        self._rings += len(passed)
        return self._rings


def ring_after_commit(tx: Connection, *, name: str = "", seconds: float = 0.0) -> None:
    """Wake workers once ``tx`` (from :meth:`Store.begin`) is committed, or ``seconds`` after that (see
    :meth:`Bell.ring_later`); not at all if it is rolled back."""
    wishes: dict[str, float] = tx.info.setdefault("after_commit", {})
    if seconds <= 0:
        name = ""
    wishes.setdefault(name, seconds)


def after_commit(tx: Connection, act: Callable[[], None]) -> None:
    """Do something once ``tx`` (from :meth:`Store.begin`) is committed; not at all if it is rolled back."""
    tx.info["acts"].append(act)


def ring_for(bell: Bell, payload: str) -> None:
    """Do here what :func:`ring_after_commit` asked for in another process."""
    seconds, _, name = payload.partition(" ")
    if name:
        bell.ring_later(name, float(seconds))
    else:
        bell.ring()


class Store:
    """Access to the database named by a SQLAlchemy URL."""

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 10,
        turns: Turns | None = None,
        ring_elsewhere: Callable[[str], None] | None = None,
    ) -> None:
        """``turns`` and ``ring_elsewhere`` are for several processes on SQLite: how they write in turn, and how one
        tells another that work may have become runnable (see :func:`ring_for`)."""
        parsed = make_url(url)
        self.url = url
        self.bell = Bell()
        self._open = threading.local()
        self._begin: Callable[[], AbstractContextManager[Connection]]
        self._together = Together(self.begin)
        self._readings: dict[Callable[..., Any], SharedReading[Any, Any]] = {}
        self._crier: Crier | None = None  # the bell between processes
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        self._ring_elsewhere = ring_elsewhere
        if self.is_sqlite:
            if not parsed.database or parsed.database == ":memory:":
                raise ConfigurationError(
                    "database.url: an in-memory SQLite database cannot be shared between threads.",
                    hint="Name a file: sqlite:////var/lib/sharewright/sharewright.db",
                )
            # A writer pool of one is the queue for SQLite's single writer: no busy-waiting between our threads.
            self._writer = sqlite.engine(url, pool_size=1, begin="BEGIN IMMEDIATE")
            self._begin = GroupCommit(self._writer, turns).begin
            self._reader = sqlite.engine(url, pool_size=pool_size, begin="BEGIN")
        elif parsed.get_backend_name() == "postgresql":
            from sharewright.store import postgresql  # psycopg is an extra

            self._writer = postgresql.engine(url, pool_size=pool_size, isolation_level="READ COMMITTED")
            # At READ COMMITTED each statement of a transaction sees what is committed by then, in one or on its own; so
            # a read needs no BEGIN and no ROLLBACK, which are two journeys to the server. Its own pool, because to
            # switch a connection there and back takes as long as a statement.
            self._reader = postgresql.engine(
                url, pool_size=pool_size, isolation_level="AUTOCOMMIT", skip_autocommit_rollback=True
            )
            self._begin = self._writer.begin
            self._crier = Crier(self._reader)
            self._ring_elsewhere = self._crier.cry
        else:
            raise ConfigurationError(
                f"database.url: {parsed.get_backend_name()} is not supported.", hint="Use sqlite or postgresql."
            )

    @property
    def engine(self) -> Engine:
        """The writing engine, for migrations."""
        return self._writer

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A write transaction: committed when the block ends, rolled back when it raises.

        Never inside another one of the same thread: with SQLite's single writer it would wait for itself.
        """
        if getattr(self._open, "writing", False):
            raise RuntimeError("A write transaction was begun inside another one; pass the open one on instead.")
        wishes: dict[str, float] = {}
        acts: list[Callable[[], None]] = []
        self._open.writing = True
        try:
            with self._begin() as connection:
                connection.info["after_commit"] = wishes  # info outlives the transaction: new ones for each
                connection.info["acts"] = acts
                transaction.begin(connection)
                yield connection
                transaction.end(connection)
        finally:
            self._open.writing = False
            statements.tell()
        for act in acts:
            act()
        for name, seconds in wishes.items():
            if seconds > 0:
                self.bell.ring_later(name, seconds)
            else:
                self.bell.ring()
            if self._ring_elsewhere is not None:
                self._ring_elsewhere(f"{seconds} {name}" if seconds > 0 else "")

    def together(self, group: Hashable, action: Callable[[Connection], Answer]) -> Answer:
        """Run ``action`` in a write transaction and return its answer; in one with the actions that other threads have
        for the same ``group`` just now (together.py), unless that is None. It may be run again when the transaction
        fails, so it must do nothing but write rows."""
        if group is None:
            with self.begin() as tx:
                return action(tx)
        return self._together.run(group, action)

    def hear(self, payload: str, sender: int) -> None:
        """Do here what :func:`ring_after_commit` asked for in another process; ``sender``: its PostgreSQL process."""
        if self._crier is None or sender not in self._crier.backends:  # else it has been done
            ring_for(self.bell, payload)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A read transaction; writing in it is a programming error."""
        try:
            with self._reader.begin() as connection:
                yield connection
        finally:
            statements.tell()

    def look_up(self, read: Callable[[Connection, Sequence[Key]], Mapping[Key, Found]], key: Key) -> Found | None:
        """What ``read``, a function of a module, finds for the key, in a reading that begins after this call; in one
        with those that other threads have for the same function just now (shared_reading.py)."""
        reading = self._readings.get(read)
        if reading is None:

            def read_in_transaction(keys: Sequence[Key]) -> Mapping[Key, Found]:
                with self.read() as tx:
                    return read(tx, keys)

            reading = self._readings.setdefault(read, SharedReading(read_in_transaction))
        return reading.get(key)

    def close(self) -> None:
        if self._crier is not None:
            self._crier.close()
        self.hang_up()

    def hang_up(self) -> None:
        """End the connections that are not in use. Others are made when they are needed."""
        self._writer.dispose()
        self._reader.dispose()
