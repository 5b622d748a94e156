"""Telling other processes that there may be work: PostgreSQL's NOTIFY, after the commit and for many at once.

Inside of a transaction it would cost a statement, and those that have one commit one after another: PostgreSQL holds a
lock on all notifications from before such a commit until it is on disk. A process that dies in between tells nobody;
the others find the work when they poll, as they would without any notification.
"""

from __future__ import annotations

import threading
from typing import Final

import structlog
from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

log = structlog.get_logger()

CHANNEL: Final = "sharewright_operations"
_NOTIFY: Final = text("SELECT pg_notify(:channel, payload) FROM unnest(CAST(:payloads AS TEXT[])) AS payload")


class Crier:
    """A thread that tells what it is given, soon. What comes while it does goes together."""

    def __init__(self, engine: Engine) -> None:
        """``engine`` commits each statement."""
        self._engine = engine
        self.backends: set[int] = set()  # PostgreSQL's processes that it told with: the senders that listeners see
        self._changed = threading.Condition()
        self._payloads: dict[str, None] = {}
        self._thread: threading.Thread | None = None
        self._closed = False

    def cry(self, payload: str) -> None:
        with self._changed:
            self._payloads[payload] = None
            if self._thread is None or not self._thread.is_alive():  # of the process that this one was forked from
                self._thread = threading.Thread(target=self._run, name="crier", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """Tell what is left, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            thread, self._thread = self._thread, None
        if thread is not None and thread.is_alive():
            thread.join(5.0)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._payloads:
                    if self._closed:
                        return
                    self._changed.wait()
                payloads, self._payloads = list(self._payloads), {}
            try:
                with self._engine.connect() as connection:
                    self.backends.add(connection.connection.driver_connection.info.backend_pid)  # type: ignore[union-attr]
                    connection.execute(_NOTIFY, {"channel": CHANNEL, "payloads": payloads})
            except SQLAlchemyError as fault:
                log.warning("other processes are not told of new work; they poll", fault=type(fault).__name__)
