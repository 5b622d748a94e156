"""How many SQL statements a thread has sent."""

from __future__ import annotations

import threading
from typing import Any

from sharewright.instruments import database_statements


class StatementCounter(threading.local):
    """SQL statements sent by this thread, for measurements. What begins and ends transactions does not count."""

    count = 0
    _told = 0

    def tell(self) -> None:
        """Add to the process's metric what has come since the last time."""
        database_statements.inc(self.count - self._told)
        self._told = self.count


statements = StatementCounter()


class Counting:
    """A SQLAlchemy dialect that counts. A statement that is sent with many rows of values is one.

    SQLAlchemy's events would do the same, and make a statement a third dearer: with the first listener it asks for
    others at each of its steps (bench/README.md).
    """

    def do_execute(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        statements.count += 1
        cursor.execute(statement, parameters)

    def do_executemany(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        statements.count += 1
        cursor.executemany(statement, parameters)
