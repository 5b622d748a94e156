"""Several threads' write transactions in one: one journey to the server to begin and one to commit, one wait for the
disk and for each row that all of them lock, and what all of them ask or write alike goes together (transaction.py).

Whoever comes first writes at once. Those who come meanwhile wait; the first of them then writes for all that wait by
then, and a moment later where one transaction follows the other (gathering.py). Nobody's call returns before the
commit, so that what a caller may rely on is what it was. When an action or the commit raises, all of them are undone
and each caller runs his own by itself: an action may run twice, and of the first time nothing is left.

On PostgreSQL, many actions in one transaction lock more rows than one, in no order that others know. So that nobody
else's transaction is ever the one that is ended for a deadlock, such a transaction gives up first: it waits for a lock
for ``LOCK_SECONDS``, PostgreSQL looks for deadlocks after ``deadlock_timeout``, a second by default.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from contextvars import Context, copy_context
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, text

from sharewright.gathering import Gathering
from sharewright.store.statements import statements

Answer = TypeVar("Answer")

LARGEST: Final = 16  # actions in one transaction: others wait for its locks
GATHER_SECONDS: Final = 0.004
LOCK_SECONDS: Final = 0.4
PATIENCE: Final = 2.0  # seconds that an action waits for others to write, before it is run by itself
_GIVE_UP_EARLY: Final = text(f"SET LOCAL lock_timeout = {int(1000 * LOCK_SECONDS)}")


class _Item:
    """One caller's action. ``turn`` is set when it has been done (``is_done``), when its caller is to lead, and when he
    is to run it by himself."""

    def __init__(self, action: Callable[[Connection], Any]) -> None:
        self._action = action
        self._context: Context = copy_context()  # the log says whose it is
        self.turn = threading.Event()
        self.leads = False
        self.is_done = False
        self.answer: Any = None
        self._statements = 0

    def run(self, tx: Connection) -> None:
        """On the leader's thread; what it sends is counted for the caller."""
        before = statements.count
        try:
            self.answer = self._context.run(self._action, tx)
        finally:
            self._statements += statements.count - before
            statements.count = before

    def collect(self) -> Any:
        """On the caller's."""
        statements.count += self._statements
        statements.tell()
        return self.answer


class Together:
    """The transactions of one process on one database. ``begin`` begins one by itself."""

    def __init__(self, begin: Callable[[], AbstractContextManager[Connection]]) -> None:
        self._begin = begin
        self._lock = threading.Lock()
        self._gathering = Gathering(GATHER_SECONDS)
        self._waiting: dict[Hashable, list[_Item]] = {}  # a group is there while somebody leads

    def run(self, group: Hashable, action: Callable[[Connection], Answer]) -> Answer:
        """Run ``action`` in a transaction, with those that others have for the same ``group`` at this moment. Raises
        what it raises."""
        item = _Item(action)
        with self._lock:
            item.leads = group not in self._waiting
            self._waiting.setdefault(group, [])
            if not item.leads:
                self._waiting[group].append(item)
        if not item.leads and not item.turn.wait(PATIENCE) and not self._leave(group, item):
            item.turn.wait()
        if item.leads:
            self._lead(group, item)
        if item.is_done:
            return item.collect()  # type: ignore[no-any-return]
        with self._begin() as tx:
            return action(tx)

    def _leave(self, group: Hashable, item: _Item) -> bool:
        """Whether nobody has begun with it, nor will now."""
        with self._lock:
            waiting = self._waiting.get(group, [])
            if item not in waiting:
                return False
            waiting.remove(item)
            return True

    def _lead(self, group: Hashable, first: _Item) -> None:
        if len(self._waiting[group]) < LARGEST - 1:
            self._gathering.wait(group)
        with self._lock:
            waiting = self._waiting[group]
            items = [first, *waiting[: LARGEST - 1]]
            del waiting[: LARGEST - 1]
        try:
            with self._begin() as tx:
                if len(items) > 1 and tx.dialect.name == "postgresql":
                    tx.execute(_GIVE_UP_EARLY)
                for item in items:
                    item.run(tx)
            for item in items:
                item.is_done = True
        except Exception:
            if len(items) == 1:
                first.collect()
                raise
        finally:
            self._pass_on(group)
            for item in items[1:]:
                item.turn.set()

    def _pass_on(self, group: Hashable) -> None:
        self._gathering.end(group)
        with self._lock:
            waiting = self._waiting[group]
            if waiting:
                waiting[0].leads = True
                waiting.pop(0).turn.set()
            else:
                del self._waiting[group]
