"""Group commit for SQLite: transactions that queue for the single writer share one commit, and so one fsync.

Each of them is a savepoint in one transaction of SQLite's. Whoever has written hands the open transaction on to the
next in the queue; the last one, or the first after ``LONGEST`` seconds, commits for all. Nobody's block of ``begin`` is
left before that commit is durable, so what a caller may rely on is what it was: its transaction is there whole and
for good, or, when the block or the commit raised, not at all. A process that dies before it loses all of the group, and
nobody had been told otherwise.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError

from sharewright.store.turns import Turns

LARGEST: Final = 64  # transactions in a group
LONGEST: Final = 0.05  # seconds from a group's first transaction on; other processes wait for the writer, too
_LOOK: Final = 0.5  # seconds after which a waiting transaction looks whether somebody is left to commit it


class _Group:
    """An open transaction of SQLite's, and those that are in it. ``size``: how many have written."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.begun = time.monotonic()
        self.size = 0
        self.committed: Future[None] = Future()

    def run(self, statement: str) -> None:
        """Straight to SQLite: SQLAlchemy's own savepoints take ten times as long."""
        driver: Any = self.connection.connection.driver_connection
        try:
            driver.execute(statement)
        except sqlite3.Error as error:
            raise OperationalError(statement, None, error) from error


class GroupCommit:
    """The write transactions of one process on one SQLite database."""

    def __init__(self, engine: Engine, turns: Turns | None = None) -> None:
        """``engine`` begins a transaction with BEGIN IMMEDIATE. ``turns``: with other processes, a turn is a group."""
        self._engine = engine
        self._turns = turns
        self._turn = threading.Lock()  # held by the one that writes
        self._counting = threading.Lock()
        self._queued = 0
        self._group: _Group | None = None  # the open one; whoever has the turn may touch it

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A write transaction: durable when the block has been left, undone when it or the commit raises."""
        self._take_turn()
        group = self._enter()
        try:
            yield group.connection
        except BaseException:
            self._undo(group)
            self._pass_turn(group)
            raise
        try:
            group.run("RELEASE one")
            group.size += 1
        except BaseException as error:  # SQLite has rolled everything back by itself (a full disk, say)
            self._lose(group, error)
            self._turn.release()
            raise
        self._pass_turn(group)
        self._wait(group)

    # ---- parts -------------------------------------------------------------------------------------------------------

    def _take_turn(self) -> None:
        with self._counting:
            self._queued += 1
        try:
            self._turn.acquire()
        finally:
            with self._counting:
                self._queued -= 1

    def _enter(self) -> _Group:
        """The open group, or a new one, with a savepoint for this transaction. Gives the turn up when it raises."""
        try:
            group = self._group
            if group is None:
                group = self._group = _Group(self._begin())
            group.run("SAVEPOINT one")
        except BaseException:
            self._turn.release()
            raise
        return group

    def _begin(self) -> Connection:
        if self._turns is not None:
            self._turns.take()
        try:
            connection = self._engine.connect()
            try:
                connection.begin()
            except BaseException:
                connection.close()
                raise
        except BaseException:
            self._end_turn()
            raise
        return connection

    def _end_turn(self) -> None:
        if self._turns is not None:
            self._turns.give_up()

    def _undo(self, group: _Group) -> None:
        try:
            group.run("ROLLBACK TO one")
            group.run("RELEASE one")
        except BaseException as error:
            self._lose(group, error)

    def _pass_turn(self, group: _Group) -> None:
        """To the next in the queue, who goes on with the group; or commit it."""
        if self._group is group:
            old = group.size >= LARGEST or time.monotonic() > group.begun + LONGEST
            if old or not self._queued:
                self._commit(group)
        self._turn.release()

    def _commit(self, group: _Group) -> None:
        try:
            if group.size:
                group.connection.commit()
            group.connection.close()  # which rolls back what is not committed
        except BaseException as error:
            self._lose(group, error)
        else:
            self._group = None
            self._end_turn()
            group.committed.set_result(None)

    def _lose(self, group: _Group, error: BaseException) -> None:
        """The group's transaction is gone, for all that are in it; so is the connection, whatever state it is in."""
        self._group = None
        group.committed.set_exception(error)
        try:
            group.connection.invalidate(error)
            group.connection.close()
        finally:
            self._end_turn()

    def _wait(self, group: _Group) -> None:
        """Until the group is committed. Raises what the commit raised."""
        while True:
            try:
                group.committed.result(_LOOK)
                return
            except NotYet:
                if group.committed.done():  # it was the commit that raised this
                    raise
            # Whoever was to go on with it was interrupted before its turn came.
            if self._turn.acquire(timeout=_LOOK):
                self._pass_turn(group)
