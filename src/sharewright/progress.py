"""How long work reports its steps, without knowing who runs it.

``operations`` implements :class:`Progress` with the journal; libraries below take it as an argument. Tests and scripts
that run work outside an operation use :class:`NoProgress`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from sharewright.errors import DeadlineExceeded


class Progress(Protocol):
    """The running operation as seen by the code that does the work."""

    def step(self, name: str, *, brief: bool = False) -> AbstractContextManager[None]:
        """Journal a step: its start before the first side effect, its end after the last one. ``brief``: it has no side
        effect, or one that needs nothing that is still to be written and follows so soon on a fenced transaction that
        another would tell no more. Its start is then written with what comes next, or when it takes longer than that.

        Steps are *ensure X*: running one again after a crash must find what the first run made.
        Raises LeaseLost or DeadlineExceeded on entry when the work must stop.
        """
        ...

    def record(self, **facts: Any) -> None:
        """Write facts (JSON values, no secrets) into the journal at once; later reads survive a crash."""
        ...

    def recall(self, key: str) -> Any:
        """A fact recorded earlier by this or a previous attempt of the same operation, or None."""
        ...

    def later(self, store: Any, table: Any, identifier: str, values: Mapping[str, Any]) -> None:
        """Set columns of the row of ``table`` (sqlalchemy.Table) with that ``id`` in the fenced write transaction of
        ``store`` in which this operation writes next, be it the start of a step (that is not brief) or the attempt's
        end. For what a next attempt finds out again when a crash comes first, and nobody reads before: one transaction
        less, and one statement for all that is learned of a row until then.
        """
        ...

    def check(self) -> None:
        """Raise LeaseLost or DeadlineExceeded when the work must stop. Call inside long waits and before writes."""
        ...

    def fence(self, transaction: Any, *, at_end: bool = False) -> None:
        """Raise LeaseLost unless this worker still holds the operation, as seen by the given write transaction
        (sqlalchemy.Connection), which also keeps it so until the transaction ends. First thing in every transaction
        that writes resource rows. ``at_end``: it is looked at as the transaction ends, which then fails (see
        store/transaction.py); for those in which many operations write."""
        ...

    @property
    def remaining(self) -> float:
        """Seconds until the operation's deadline; the upper bound of any wait."""
        ...


class PartOfWork:
    """Progress of one of several things that an operation does in the same way: its facts are its own, under ``name``;
    everything else is the operation's."""

    def __init__(self, whole: Progress, name: str) -> None:
        self._whole = whole
        self._name = name

    def step(self, name: str, *, brief: bool = False) -> AbstractContextManager[None]:
        return self._whole.step(name, brief=brief)

    def record(self, **facts: Any) -> None:
        self._whole.record(**{f"{self._name}.{key}": value for key, value in facts.items()})

    def recall(self, key: str) -> Any:
        return self._whole.recall(f"{self._name}.{key}")

    def later(self, store: Any, table: Any, identifier: str, values: Mapping[str, Any]) -> None:
        self._whole.later(store, table, identifier, values)

    def check(self) -> None:
        self._whole.check()

    def fence(self, transaction: Any, *, at_end: bool = False) -> None:
        self._whole.fence(transaction, at_end=at_end)

    @property
    def remaining(self) -> float:
        return self._whole.remaining


class NoProgress:
    """Progress that keeps its facts in memory and has a plain deadline."""

    def __init__(self, seconds: float = 600.0) -> None:
        self._end = time.monotonic() + seconds
        self._facts: dict[str, Any] = {}

    @contextmanager
    def step(self, name: str, *, brief: bool = False) -> Iterator[None]:
        self.check()
        yield

    def record(self, **facts: Any) -> None:
        self._facts.update(facts)

    def recall(self, key: str) -> Any:
        return self._facts.get(key)

    def later(self, store: Any, table: Any, identifier: str, values: Mapping[str, Any]) -> None:
        with store.begin() as tx:
            tx.execute(table.update().where(table.c.id == identifier), values)

    def check(self) -> None:
        if self.remaining <= 0:
            raise DeadlineExceeded("The work did not finish in time.")

    def fence(self, transaction: Any, *, at_end: bool = False) -> None:
        """Nobody else can hold this work."""

    @property
    def remaining(self) -> float:
        return self._end - time.monotonic()
