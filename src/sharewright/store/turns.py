"""Turns of several processes at SQLite's single writer: who waits is woken at once, and has its turn before whoever has
just had one. SQLite's own waiting (its busy handler) sleeps, up to a tenth of a second, and is not fair.

Only for speed: SQLite's lock is what keeps writers apart, from processes too that take no turns.
"""

from __future__ import annotations

import fcntl
import os


class Turns:
    """Made before the processes part; each then calls ``join``. One thread of a process at a time."""

    def __init__(self) -> None:
        # Files without a name: the kernel gives their locks up when a process ends, however it does.
        self._files = [os.memfd_create(f"sharewright-{name}") for name in ("next", "turn")]

    def join(self) -> None:
        """Locks belong to an open file, and processes have inherited the same one; so open it again."""
        for index, inherited in enumerate(self._files):
            self._files[index] = os.open(f"/proc/self/fd/{inherited}", os.O_RDWR | os.O_CLOEXEC)
            os.close(inherited)
        self._next, self._turn = self._files

    def take(self) -> None:
        """Wait for a turn. Whoever waits for the turn holds "next", and nobody can pass by."""
        fcntl.flock(self._next, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._turn, fcntl.LOCK_EX)
        finally:
            fcntl.flock(self._next, fcntl.LOCK_UN)

    def give_up(self) -> None:
        fcntl.flock(self._turn, fcntl.LOCK_UN)
