"""What a write transaction has besides its connection: values that are found out once in it, and rows that are written
at its end. Both are worth it where many do the same in one transaction (together.py): a question is one for all, and
rows of one kind are one journey to the server."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, CursorResult, Executable, Table

from sharewright.store.kept import insert_of, update_of

Found = TypeVar("Found")
_ONCE: Final = "once"
_LAST: Final = "last"
_ACTS: Final = "acts at the end"


def begin(tx: Connection) -> None:
    """Forget what the last transaction on this connection had."""
    tx.info[_ONCE] = {}
    tx.info[_LAST] = {}
    tx.info[_ACTS] = []


def once(tx: Connection, key: Hashable, find: Callable[[], Found]) -> Found:
    """What ``find`` found when it was asked first in this transaction: for what cannot change meanwhile, because it is
    locked, but by those who know of the value and change it, too."""
    found: dict[Hashable, Any] = tx.info[_ONCE]  # of a transaction that writes
    if key not in found:
        found[key] = find()
    return found[key]  # type: ignore[no-any-return]


def add_row_at_end(tx: Connection, table: Table, **values: Any) -> None:
    """Insert a row (kept.add_row) that nobody reads in this transaction."""
    write_at_end(tx, insert_of(table), values)


def change_row_at_end(tx: Connection, table: Table, identifier: str, **values: Any) -> None:
    """Change a row (kept.change_row) that nobody reads in this transaction any more. Of the same columns, what is said
    later holds."""
    write_at_end(tx, update_of(table), {"row_id": identifier, **values}, row=identifier)


def write_at_end(
    tx: Connection,
    statement: Executable,
    values: dict[str, Any],
    *,
    row: Hashable = None,
    number: int = 1,
    otherwise: Callable[[], Exception] | None = None,
) -> None:
    """Send any statement that is kept, of which no rows are wanted: with the same one's other values, and instead of
    what was to be sent of the same ``row``. ``otherwise``: it has to write this ``number`` of rows, or that is raised.
    """
    last: dict[Hashable, _Rows] = tx.info[_LAST]
    rows = last.setdefault((statement, tuple(sorted(values))), _Rows(statement, number))
    rows.values[len(rows.values) if row is None else row] = values
    if otherwise is not None:
        rows.otherwise = otherwise


def act_at_end(tx: Connection, act: Callable[[], None]) -> None:
    """Do something in the transaction when those rows are written. It may ask, write at once, and raise."""
    tx.info[_ACTS].append(act)


class _Rows:
    """The values that one statement is sent with, each of which writes ``number`` rows. ``otherwise`` is the last
    one's: whose it is, of several, shows when each is sent by itself (together.py)."""

    def __init__(self, statement: Executable, number: int) -> None:
        self.statement = statement
        self.number = number
        self.values: dict[Hashable, dict[str, Any]] = {}
        self.otherwise: Callable[[], Exception] | None = None


def write_now(tx: Connection) -> None:
    """Write the rows that were to be written at the end: something refers to them, or reads them, before."""
    last: dict[Hashable, _Rows] = tx.info[_LAST]
    tx.info[_LAST] = {}
    for rows in last.values():
        several = list(rows.values.values())
        written: CursorResult[Any] = tx.execute(rows.statement, several if len(several) > 1 else several[0])
        if rows.otherwise is not None and written.rowcount != rows.number * len(several):
            raise rows.otherwise()


def end(tx: Connection) -> None:
    """Write those rows, and do the rest."""
    write_now(tx)
    for act in tx.info[_ACTS]:
        act()
