"""Group commit for guests: callers that arrive while a round is under way share the next one.

A document holds the whole desired state of a server, so one document that is built after several changes carries them
all. Ten rules for one server cost two or three round trips, not ten.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from sharewright.errors import DeadlineExceeded, StaleDocument
from sharewright.gathering import Gathering
from sharewright.guest.document import Document, State

log = structlog.get_logger()

STALE_TRIES = 5
# A document says everything of a server: one round for ten changes costs the guest, and us, as much as one for one.
GATHER_SECONDS = 0.01


class Apply(Protocol):
    """ServiceInstances.apply."""

    def __call__(self, server_id: str, document: Document, *, timeout: float | None = None) -> State: ...


@dataclass(slots=True, eq=False)
class _Round:
    """``successor`` takes over the callers when this round's document could not be built."""

    outcome: Future[State] = field(default_factory=Future)
    successor: _Round | None = None


@dataclass(slots=True)
class _Server:
    running: _Round | None = None
    next: _Round | None = None  # open: who arrives now joins it
    callers: int = 0


class Convergence:
    """One per process and backend. Between processes the document's generation decides who is newer."""

    def __init__(self, apply: Apply) -> None:
        self._apply = apply
        self._changed = threading.Condition()
        self._servers: dict[str, _Server] = {}
        self._gathering = Gathering(GATHER_SECONDS)

    def converge(self, server_id: str, build: Callable[[], Document], timeout: float) -> State:
        """Apply a document that was built after this call began, and return what the guest answered.

        ``build`` reads the store and takes a new generation; any caller's ``build`` for a server must be as good as any
        other's, because one of them builds for all. ``timeout`` (seconds) bounds one call to the guest; waiting for the
        round under way is bounded by three times that (DeadlineExceeded). An error of the guest's reaches everybody in
        the round; an error of ``build`` only the caller whose it was.
        """
        patience = time.monotonic() + 3 * timeout
        with self._changed:
            server = self._servers.setdefault(server_id, _Server())
            server.callers += 1
            server.next = mine = server.next or _Round()
        try:
            with self._changed:
                while server.running is not None or server.next is not mine:
                    while mine.successor is not None:
                        mine = mine.successor
                    if mine.outcome.done():
                        return mine.outcome.result()
                    if server.running is None and server.next is mine:
                        break
                    left = patience - time.monotonic()
                    if left <= 0:
                        raise DeadlineExceeded(
                            f"Server {server_id} is still busy with earlier changes.",
                            hint="The change is stored and will be applied with a later one.",
                        )
                    self._changed.wait(left)
                server.running = mine
            return self._lead(server_id, server, mine, build, timeout)
        finally:
            with self._changed:
                server.callers -= 1
                if not server.callers:
                    del self._servers[server_id]

    def _lead(
        self, server_id: str, server: _Server, mine: _Round, build: Callable[[], Document], timeout: float
    ) -> State:
        built = False
        try:
            self._gather(server_id, server)
            document = build()
            built = True
            state = self._apply_newest(server_id, document, build, timeout)
        except BaseException as error:
            with self._changed:
                server.running = None
                self._gathering.end(server_id)
                if built:
                    mine.outcome.set_exception(error)
                else:
                    if server.next is mine:
                        server.next = None
                    server.next = mine.successor = server.next or _Round()
                self._changed.notify_all()
            raise
        with self._changed:
            server.running = None
            self._gathering.end(server_id)
            mine.outcome.set_result(state)
            self._changed.notify_all()
        return state

    def _gather(self, server_id: str, server: _Server) -> None:
        """Let others join the round that begins, for a moment where there was one just now; then close it: who comes
        once its document is being built must not believe to be part of it."""
        self._gathering.wait(server_id)
        with self._changed:
            server.next = None

    def _apply_newest(self, server_id: str, document: Document, build: Callable[[], Document], timeout: float) -> State:
        for attempt in range(1, STALE_TRIES):
            try:
                return self._apply(server_id, document, timeout=timeout)
            except StaleDocument:
                # Another process was quicker with a newer document, which may lack what our callers stored since.
                log.info("stale document, building again", share_server=server_id, generation=document.generation)
                time.sleep(random.uniform(0, 0.05 * attempt))  # noqa: S311  spreads colliding processes, no secret
                document = build()
        return self._apply(server_id, document, timeout=timeout)
