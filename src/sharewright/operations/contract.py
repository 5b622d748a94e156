"""What a story is: one kind of durable work, told so that any worker can tell it again from the start.

The engine (worker, runner, journal) calls a story like this::

    run → Done      resource rows and the operation's end are written in one transaction (``Done.write``)
        → WaitFor   parked, holding no thread, until another operation is finished; then run again
        → RetryLater   parked until a time, with back-off; then run again
        → raises    CloudUnavailable, GuestUnreachable and StaleDocument count as RetryLater until the deadline;
                    any other error, and DeadlineExceeded, is final: compensate, then fail

Every method may be called again after a crash at any point, in another process, with the facts recorded so far; each
step is *ensure X*. LeaseLost must pass through untouched: never catch it, nor a bare Exception around progress calls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import Connection

from sharewright.context import RequestContext
from sharewright.errors import SharewrightError
from sharewright.progress import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The operation that was waited for, as it ended. ``error`` is None unless it failed; ``state`` is "missing" when
    its row is gone."""

    id: str
    kind: str
    state: str
    error: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def succeeded(self) -> bool:
        return self.state == "succeeded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One claimed operation row. ``epoch`` and ``worker_id`` name this claim, and only this one may write.

    ``facts`` are those recorded before this claim (``progress.recall`` also sees the later ones). ``attempts`` is the
    number of claims including this one. ``waited_for`` is what the last WaitFor of an earlier run waited for.
    ``deadline`` counts only time in which a worker has the operation or a back-off runs, so it moves with each wait for
    a worker or for another operation.
    """

    id: str
    kind: str
    resource_type: str
    resource_id: str
    key: str
    epoch: int
    worker_id: str
    deadline: datetime
    attempts: int = 1
    project_id: str | None = None
    user_id: str | None = None
    request_id: str | None = None
    payload: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    waited_for: Finished | None = None

    @property
    def context(self) -> RequestContext | None:
        """The context to enqueue follow-up work with: same project, user and request id. None for work of our own."""
        if self.project_id is None or self.user_id is None or self.request_id is None:
            return None
        return RequestContext(project_id=self.project_id, user_id=self.user_id, request_id=self.request_id)


# ---- outcomes of run -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Done:
    """The work is done. ``write`` gets the transaction that ends the operation (already fenced) and writes the
    resource's new state there; it may enqueue follow-up operations. No cloud or guest call inside, and nothing that
    must not be done again when the transaction has failed for another reason. If it raises, the transaction is rolled
    back and the error is final: compensate, then fail."""

    write: Callable[[Connection], None] | None = None


@dataclass(frozen=True, slots=True)
class WaitFor:
    """Park until that operation is finished; ``run`` is then called again with ``operation.waited_for``. The time does
    not count against the deadline. Never wait for an operation of the same key: it runs only after this one, so that
    is refused as a final error."""

    operation_id: str


@dataclass(frozen=True, slots=True)
class RetryLater:
    """Park for ``seconds``; None: back-off from 0.5 s doubling to 30 s, with jitter. ``reason`` is kept in the row's
    ``error`` while it waits, and becomes part of the DeadlineExceeded message if the deadline passes."""

    reason: str
    seconds: float | None = None


Outcome = Done | WaitFor | RetryLater


# ---- stories ---------------------------------------------------------------------------------------------------------


class Story(Protocol):
    """One kind of work. Stories hold no state between calls; inherit :class:`BaseStory` for the defaults."""

    @property
    def kind(self) -> str:
        """The value of ``operations.kind``."""
        ...

    @property
    def ends_together(self) -> bool:
        """Whether several operations of this kind and one project may end in one transaction (Store.together): what
        ``Done.write`` locks are rows of its resource, and others that all of them lock in the same order. For kinds of
        which many come at once."""
        ...

    def run(self, operation: Operation, progress: Progress) -> Outcome:
        """Do the work up to its end. ``Done()`` when there is nothing to write at the end."""
        ...

    def compensate(self, operation: Operation, progress: Progress, error: SharewrightError) -> None:
        """Undo, last made first, what a failed ``run`` of any attempt made (facts and rows tell). Idempotent.

        Runs under a fresh deadline (the grace time). Passing faults are tried again until it ends, others three
        times; then ``fail`` is called nevertheless, with ``error`` saying that something may be left over, and the
        sweeper takes the rest away.
        """
        ...

    def fail(self, tx: Connection, operation: Operation, error: SharewrightError) -> None:
        """Write the documented error state and a user message (messages.write_message) in the fenced transaction that
        ends the operation as failed. ``error`` has its class also after a crash in between."""
        ...


class BaseStory:
    """Nothing to undo and nothing to write on failure."""

    ends_together = False

    def compensate(self, operation: Operation, progress: Progress, error: SharewrightError) -> None:
        """Nothing was made that has to go."""

    def fail(self, tx: Connection, operation: Operation, error: SharewrightError) -> None:
        """The operation row itself is the whole record."""
