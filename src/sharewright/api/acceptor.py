"""Taking in connections where several processes have one socket: a process takes one when no other has fewer.

The kernel wakes them all, and whoever comes first would take all that wait. A client with few connections that it keeps
would then have one process at work, and the others idle.
"""

from __future__ import annotations

import asyncio
import mmap
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

PATIENCE: Final = 0.005  # seconds for the one with fewer connections to take in another, before somebody else does
_ABSENT: Final = 2**32 - 1


class Tally:
    """How many connections each process has, in memory that processes have in common that are forked afterwards."""

    def __init__(self, processes: int) -> None:
        self._cells = memoryview(mmap.mmap(-1, 4 * processes)).cast("I")
        for number in range(processes):
            self._cells[number] = _ABSENT

    def seat(self, number: int) -> Seat:
        """Of the process with that number, from 0."""
        return Seat(self._cells, number)


@dataclass(frozen=True, slots=True)
class Seat:
    """One process's part of a tally."""

    cells: memoryview
    number: int

    def tell(self, connections: int) -> None:
        self.cells[self.number] = connections

    def leave(self) -> None:
        """Nobody waits for this process any more."""
        self.cells[self.number] = _ABSENT

    def is_first(self) -> bool:
        """Whether no process has fewer connections."""
        return min(self.cells) >= self.cells[self.number]


class Acceptor:
    """Takes in connections from ``listening``, from its creation in a running loop until ``close``. ``make``: a
    protocol for one; ``count``: how many protocols have a connection now."""

    def __init__(
        self, listening: socket.socket, seat: Seat, make: Callable[[], asyncio.Protocol], count: Callable[[], int]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listening = listening
        self._seat = seat
        self._make = make
        self._count = count
        self._arriving: set[asyncio.Task[None]] = set()  # accepted, and not counted yet
        self._waiting: asyncio.TimerHandle | None = None
        listening.setblocking(False)
        self.tell()
        self._loop.add_reader(listening, self._ready)

    def tell(self) -> None:
        """Tell the others how many connections there are. Call it now and then: some end."""
        self._seat.tell(self._count() + len(self._arriving))

    def close(self) -> None:
        """Take in no more."""
        if self._waiting is not None:
            self._waiting.cancel()
        self._loop.remove_reader(self._listening)
        self._seat.leave()

    # ---- parts ----

    def _ready(self) -> None:
        self.tell()
        if not self._seat.is_first() or not self._accept():
            self._loop.remove_reader(self._listening)
            self._waiting = self._loop.call_later(PATIENCE, self._look_again)

    def _look_again(self) -> None:
        self._waiting = None
        self._accept()
        self._loop.add_reader(self._listening, self._ready)

    def _accept(self) -> bool:
        """Take one in, unless another process has. Whether that was possible: without a free file descriptor it is not,
        and the connection goes on asking."""
        try:
            accepted, _ = self._listening.accept()
        except BlockingIOError:
            return True
        except OSError:
            return False
        accepted.setblocking(False)
        task = self._loop.create_task(self._take_in(accepted))
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)
        self.tell()
        return True

    async def _take_in(self, accepted: socket.socket) -> None:
        await self._loop.connect_accepted_socket(self._make, accepted)
