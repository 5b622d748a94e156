"""The bell between the processes of one ``sharewright serve`` on SQLite, which has nothing like PostgreSQL's NOTIFY: a
pair of sockets that they have inherited. Only a hint, as that one: workers poll, too."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Final

from sharewright.store.database import Bell, ring_for

_LONGEST: Final = 512  # bytes of a message: seconds and a name


class DistantBell:
    """Made before the processes part. Any of them may ring; one listens."""

    def __init__(self) -> None:
        # Messages stay whole, and more of them may wait than a datagram socket would take.
        self._hears, self._rings = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._rings.setblocking(False)

    def ring(self, message: str) -> None:
        """``message``: as for ring_for."""
        with suppress(BlockingIOError):  # so much has been rung that is not heard yet
            self._rings.send(message.encode() or b" ")

    def listen(self, bell: Bell) -> None:
        """From now on, in a thread of its own, pass on what is rung."""
        threading.Thread(target=self._listen, args=(bell,), name="distant-bell", daemon=True).start()

    def _listen(self, bell: Bell) -> None:
        while message := self._hears.recv(_LONGEST):
            ring_for(bell, message.decode().strip())

    def close(self) -> None:
        self._hears.close()
        self._rings.close()
