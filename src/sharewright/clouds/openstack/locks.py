"""Locks by name, within this process: threads that ensure the same object take turns.

Between processes the operation's lease keeps two workers from ensuring one object at the same time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sharewright.clouds.openstack.polling import Deadline
from sharewright.errors import DeadlineExceeded


class NamedLocks:
    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[str, tuple[threading.Lock, int]] = {}  # name → lock, threads that hold it or wait for it

    @contextmanager
    def hold(self, name: str, deadline: Deadline) -> Iterator[None]:
        """The lock of ``name``. DeadlineExceeded when another thread keeps it for too long."""
        with self._guard:
            lock, users = self._locks.get(name, (threading.Lock(), 0))
            self._locks[name] = (lock, users + 1)
        try:
            if not lock.acquire(timeout=max(deadline.remaining, 0.0)):
                raise DeadlineExceeded(f"Another thread works on {name} and did not end in time.", hint="Try again.")
            try:
                yield
            finally:
                lock.release()
        finally:
            with self._guard:
                lock, users = self._locks[name]
                if users == 1:
                    del self._locks[name]
                else:
                    self._locks[name] = (lock, users - 1)
