"""What a client's connection may take of us: uvicorn's protocol of HTTP/1.1 with the limits that it does not have."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST: Final = 1000  # connections that are open at once; others are told to come again
PATIENCE: Final = 75.0  # seconds for the head of a request, and in which a client has to take something of its answer
LONGEST_HEAD: Final = 65_536  # bytes of a request's line and headers that came without its end
_REFUSAL: Final = b"HTTP/1.1 %s\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Connection(HttpToolsProtocol):
    """One connection. ``look`` has to be called every few seconds."""

    _head_since: float | None = None  # loop.time() since which a head is expected; None: none is
    _head_bytes = 0
    _unsent = 0  # bytes, at the last look
    _unsent_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_since = self.loop.time()
        if len(self.connections) > MOST:
            self._refuse(b"503 Service Unavailable")

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._head_since is not None:  # all that came was of a head
            self._head_bytes += len(data)
            if self._head_bytes > LONGEST_HEAD and not self.transport.is_closing():
                self._refuse(b"431 Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        self._head_since = self.loop.time()
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head_since = None
        super().on_headers_complete()

    def look(self, now: float) -> None:
        """End it if the client has let us wait for too long. ``now``: the loop's time."""
        unsent = self.transport.get_write_buffer_size()
        if unsent != self._unsent:
            self._unsent, self._unsent_since = unsent, now
        too_late = now - PATIENCE
        if (unsent and self._unsent_since < too_late) or (self._head_since is not None and self._head_since < too_late):
            self.transport.abort()

    def _refuse(self, status: bytes) -> None:
        self.transport.write(_REFUSAL % status)
        self.transport.close()


def look_at_all(connections: set[Any], now: float) -> None:
    """``connections``: as in uvicorn's state of a server."""
    for connection in list(connections):
        connection.look(now)
