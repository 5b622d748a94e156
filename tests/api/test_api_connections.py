"""What clients may take of the HTTP server, and what of a request reaches the application; over real sockets."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sharewright.api import connections, server
from sharewright.api.routing import MAXIMUM_BODY
from sharewright.settings import Api, Settings

LARGE = 32 * 2**20  # bytes, which no socket buffers


class Application:
    """Remembers each request, and its body as far as it reads one."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.bodies: list[bytes] = []

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        self.seen.append(environ)
        self.bodies.append(environ["wsgi.input"].read())
        if environ["PATH_INFO"] == "/broken":
            raise RuntimeError("broken")
        answer = b"x" * LARGE if environ["PATH_INFO"] == "/large" else b"ok"
        start_response("200 OK", [("Content-Length", str(len(answer)))])
        return [answer]


@contextmanager
def running(app: Application, **values: Any) -> Iterator[int]:
    """Its port."""
    with serving(app, **values) as started:
        yield started.address[1]


@contextmanager
def serving(app: Application, **values: Any) -> Iterator[server.Server]:
    started = server.Server(app, Settings(api=Api(**values)), port=0)
    started.start()
    try:
        yield started
    finally:
        started.stop()


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        yield client


def everything(client: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    received = b""
    try:
        while part := client.recv(1 << 20):
            received += part
    except ConnectionResetError:
        pass
    return received


def send_until_closed(client: socket.socket, parts: Iterable[bytes]) -> bool:
    """Whether the server closed the connection before all parts were sent."""
    try:
        for part in parts:
            client.sendall(part)
    except (ConnectionResetError, BrokenPipeError):
        return True
    return False


def ask(port: int, request: bytes) -> bytes:
    """``request`` asks for the end of the connection."""
    with connected(port) as client:
        client.sendall(request)
        return everything(client)


GET = b"GET /x HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"


def test_the_environment_of_a_request() -> None:
    app = Application()
    with running(app) as port:
        answer = ask(
            port,
            b"GET /a%2Fb/%E2%82%AC?q=%20 HTTP/1.1\r\nHost: here:81\r\nX-Two: 1\r\nX-Two: 2\r\nX_Auth_Token: forged\r\n"
            b"X-Forwarded-Host: elsewhere\r\nForwarded: host=elsewhere\r\nConnection: close\r\n\r\n",
        )
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nserver: sharewright\r\n" in answer
    assert b"uvicorn" not in answer
    (seen,) = app.seen
    assert (seen["PATH_INFO"], seen["QUERY_STRING"]) == ("/a/b/\xe2\x82\xac", "q=%20")
    assert (seen["HTTP_HOST"], seen["HTTP_X_TWO"], seen["REMOTE_ADDR"]) == ("here:81", "1, 2", "127.0.0.1")
    assert not {"HTTP_X_AUTH_TOKEN", "HTTP_X_FORWARDED_HOST", "HTTP_FORWARDED"} & set(seen)


def test_a_proxy_that_is_trusted() -> None:
    app = Application()
    with running(app, enable_forwarded_headers=True) as port:
        ask(port, GET.replace(b"Host: here", b"Host: here\r\nX-Forwarded-Host: elsewhere\r\nForwarded: host=there"))
    assert app.seen[0]["HTTP_X_FORWARDED_HOST"] == "elsewhere"
    assert app.seen[0]["HTTP_FORWARDED"] == "host=there"


def test_bodies_with_and_without_a_length() -> None:
    app = Application()
    with running(app) as port:
        head = b"POST /x HTTP/1.1\r\nHost: here\r\nConnection: close\r\n"
        ask(port, head + b"Content-Length: 5\r\n\r\nhello")
        ask(port, head + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n")
    assert app.bodies == [b"hello", b"hello"]
    assert [seen["CONTENT_LENGTH"] for seen in app.seen] == ["5", "5"]


def test_a_body_above_the_limit_is_not_kept_and_still_answered() -> None:
    app = Application()
    with running(app) as port:
        length = 2 * MAXIMUM_BODY
        head = b"POST /x HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % length
        assert ask(port, head + b"x" * length).startswith(b"HTTP/1.1 200")
        assert (len(app.bodies[0]), app.seen[0]["CONTENT_LENGTH"]) == (MAXIMUM_BODY + 1, str(length))
        with connected(port) as client:  # one without an end
            client.sendall(b"POST /x HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n")
            answers: list[bytes] = []
            reading = threading.Thread(target=lambda: answers.append(client.recv(1 << 20)))
            reading.start()
            assert send_until_closed(client, itertools.repeat(b"10000\r\n" + b"x" * 0x10000 + b"\r\n"))
            reading.join()
    assert len(app.bodies[1]) == MAXIMUM_BODY + 1


def test_a_client_that_sends_slowly_takes_no_thread() -> None:
    app = Application()
    with running(app, threads=1) as port, connected(port) as slow, connected(port) as silent:
        slow.sendall(b"POST /slow HTTP/1.1\r\nHost: here\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhe")
        silent.sendall(b"GET /silent HTTP/1.1\r\nHo")
        assert ask(port, GET).startswith(b"HTTP/1.1 200")
        assert [seen["PATH_INFO"] for seen in app.seen] == ["/x"]
        slow.sendall(b"llo")
        assert everything(slow).startswith(b"HTTP/1.1 200")
    assert app.bodies == [b"", b"hello"]


@pytest.mark.parametrize("beginning", [b"GET /x HTTP/1.1\r\n", b"GET /x HTTP/1.1\r\nX-Long: "])
def test_a_head_without_an_end_is_cut_off(beginning: bytes) -> None:
    app = Application()
    with running(app) as port, connected(port) as client:
        client.sendall(beginning)
        received: list[bytes] = []
        reading = threading.Thread(target=lambda: received.append(everything(client)))
        reading.start()
        line = b"X-Another: " + b"y" * 1000 + b"\r\n"
        assert send_until_closed(client, itertools.repeat(line if beginning.endswith(b"\n") else b"y" * 1000, 100_000))
        reading.join()
        assert ask(port, GET).startswith(b"HTTP/1.1 200")
    assert [seen["PATH_INFO"] for seen in app.seen] == ["/x"]


def test_what_is_no_http() -> None:
    app = Application()
    with running(app) as port:
        for nonsense in (b"\x16\x03\x01\x02\x00\x01", b"GET /\xff\xfe HTTP/1.1\r\n\r\n", b"GET x y z\r\n\r\n"):
            assert ask(port, nonsense).startswith(b"HTTP/1.1 400"), nonsense
        both = b"POST /x HTTP/1.1\r\nHost: here\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        assert ask(port, both).startswith(b"HTTP/1.1 400"), "two lengths: a proxy may believe the other one"
        assert ask(port, GET).startswith(b"HTTP/1.1 200")
    assert len(app.seen) == 1


def test_requests_that_wait_on_one_connection_are_answered_in_order() -> None:
    app = Application()
    with running(app) as port, connected(port) as client:
        client.sendall(b"".join(b"GET /%d HTTP/1.1\r\nHost: here\r\n\r\n" % n for n in range(5)) + GET)
        assert everything(client).count(b"HTTP/1.1 200 OK") == 6
    assert [seen["PATH_INFO"] for seen in app.seen] == ["/0", "/1", "/2", "/3", "/4", "/x"]


def test_an_application_that_raises() -> None:
    with running(Application()) as port:
        assert ask(port, GET.replace(b"/x", b"/broken")).startswith(b"HTTP/1.1 500")
        assert ask(port, GET).startswith(b"HTTP/1.1 200")


def test_more_connections_than_may_be_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MOST", 2)
    with running(Application()) as port, connected(port) as one:
        with connected(port) as two:
            for client in (one, two):
                client.sendall(b"GET /x HTTP/1.1\r\nHost: here\r\n\r\n")
                assert client.recv(1 << 16).startswith(b"HTTP/1.1 200")
            with connected(port) as third:
                assert everything(third).startswith(b"HTTP/1.1 503")
        while not ask(port, GET).startswith(b"HTTP/1.1 200"):
            pass  # until it has seen that the second has gone


def test_clients_that_let_it_wait_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "PATIENCE", 0.5)
    monkeypatch.setattr(server, "_LOOKS", 1)
    with serving(Application()) as started:
        port = started.address[1]
        with connected(port) as silent, connected(port) as slow, connected(port) as deaf:
            slow.sendall(b"GET /x HTTP/1.1\r\nHo")
            deaf.sendall(GET.replace(b"/x", b"/large"))
            assert everything(silent) == b""
            assert everything(slow) == b""
            while started.connections:
                time.sleep(0.02)
            assert 0 < len(everything(deaf)) < LARGE
