"""A small HTTP client for load: many connections on one thread, so that measuring takes little of the processors."""

from __future__ import annotations

import json
import selectors
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Answer:
    """``seconds``: from sending the request to the last byte of the answer."""

    status: int
    body: bytes
    seconds: float

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class _Connection:
    socket: socket.socket
    sent: float = 0.0
    received: bytearray = field(default_factory=bytearray)
    length: int = -1  # of head and body; -1: the head is not there yet
    closes: bool = False  # the server says that it closes after this answer


class Client:
    """``connections`` at most are open at once, and kept where the server keeps them. Raises AssertionError for an
    answer that is no success."""

    def __init__(self, address: tuple[str, int], headers: Mapping[str, str], *, connections: int) -> None:
        self._address = address
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._number = connections
        self._idle: list[_Connection] = []

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """One request; the JSON of its answer."""
        answer = self.together([(method, path, body)])[0]
        return answer.json() if answer.body else None

    def together(self, requests: Sequence[tuple[str, str, Any]]) -> list[Answer]:
        """All requests at once, as far as there are connections; the answers in the same order."""
        encoded = [self._encode(*request) for request in requests]
        answers: list[Answer | None] = [None] * len(encoded)
        first = list(range(min(self._number, len(encoded))))
        following = iter(range(len(first), len(encoded)))

        def ended(number: int, answer: Answer) -> int | None:
            answers[number] = answer
            return next(following, None)

        self._run(encoded, first, ended)
        return [answer for answer in answers if answer is not None]

    def loop(self, method: str, path: str, *, concurrency: int, seconds: float) -> list[Answer]:
        """The same request again and again on each of ``concurrency`` connections."""
        answers: list[Answer] = []
        end = time.perf_counter() + seconds

        def ended(number: int, answer: Answer) -> int | None:
            answer.body = b""
            answers.append(answer)
            return number if time.perf_counter() < end else None

        self._run([self._encode(method, path, None)], [0] * concurrency, ended)
        return answers

    def hang_up(self) -> None:
        """Close what is idle: a server ends such connections by itself after a time."""
        for connection in self._idle:
            connection.socket.close()
        self._idle.clear()

    # ---- parts -------------------------------------------------------------------------------------------------------

    def _encode(self, method: str, path: str, body: Any) -> bytes:
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._address[0]}:{self._address[1]}\r\n{self._headers}"
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
        return head.encode() + b"\r\n" + content

    def _run(self, requests: Sequence[bytes], first: Sequence[int], ended: Callable[[int, Answer], int | None]) -> None:
        """Send the ``first`` requests (by number); ``ended`` says which one comes next on a connection, if any."""
        with selectors.EpollSelector() as selector:
            running = 0
            for number in first:
                self._begin(selector, self._idle.pop() if self._idle else self._connect(), number, requests)
                running += 1
            while running:
                for key, _ in selector.select(120):
                    number, connection = key.data
                    answer = _receive(connection)
                    if answer is None:
                        continue
                    assert 200 <= answer.status < 300, (answer.status, answer.body[:500])
                    following = ended(number, answer)
                    if following is None or connection.closes:
                        selector.unregister(connection.socket)
                        if connection.closes:
                            connection.socket.close()
                        else:
                            self._idle.append(connection)
                        if following is None:
                            running -= 1
                        else:
                            self._begin(selector, self._connect(), following, requests)
                    else:
                        if following != number:
                            selector.modify(connection.socket, selectors.EVENT_READ, (following, connection))
                        _send(connection, requests[following])

    def _connect(self) -> _Connection:
        connection = _Connection(socket.create_connection(self._address))
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    @staticmethod
    def _begin(
        selector: selectors.BaseSelector, connection: _Connection, number: int, requests: Sequence[bytes]
    ) -> None:
        selector.register(connection.socket, selectors.EVENT_READ, (number, connection))
        _send(connection, requests[number])


def _send(connection: _Connection, request: bytes) -> None:
    connection.received.clear()
    connection.length = -1
    connection.sent = time.perf_counter()
    connection.socket.sendall(request)


def _receive(connection: _Connection) -> Answer | None:
    """What has come; the answer when that is all of it."""
    received = connection.received
    data = connection.socket.recv(1 << 20)
    assert data, f"The server closed the connection: {bytes(received[:500])!r}"
    received += data
    if connection.length < 0:
        end = received.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = bytes(received[:end]).lower()
        where = head.find(b"content-length:")
        assert where >= 0, head
        connection.length = end + 4 + int(head[where + 15 :].split(b"\r\n", 1)[0])
        connection.closes = b"\r\nconnection: close" in head
    if len(received) < connection.length:
        return None
    end = received.find(b"\r\n\r\n")
    return Answer(int(received[9:12]), bytes(received[end + 4 :]), time.perf_counter() - connection.sent)
