"""How the server stops: it drains, finishes what runs, and leaves a socket that is not its own open."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sharewright.api.server import Server
from sharewright.settings import Settings

DRAIN_SECONDS = 2.0


class Application:
    """Answers at once, except at /slow: there it waits until ``go`` is set, and says with ``begun`` that it waits."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/slow":
            self.begun.set()
            assert self.go.wait(60)
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]


@contextmanager
def running(
    app: Application, *, drain_seconds: float, listening: socket.socket | None = None
) -> Iterator[tuple[Server, int]]:
    server = Server(app, Settings(), port=0, drain_seconds=drain_seconds, listening=listening)
    server.start()
    try:
        yield server, server.address[1]
    finally:
        app.go.set()
        server.stop()


def ask(connection: http.client.HTTPConnection, path: str) -> tuple[int, bytes, str | None]:
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read(), answer.getheader("Connection")


def connect(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=30)


def stop_in_background(server: Server) -> threading.Thread:
    thread = threading.Thread(target=server.stop)
    thread.start()
    return thread


def wait_for_draining(port: int) -> None:
    while ask(connect(port), "/healthcheck")[0] != 503:
        pass


def test_while_it_drains_everything_is_answered_and_connections_end() -> None:
    with running(Application(), drain_seconds=DRAIN_SECONDS) as (server, port):
        kept = connect(port)
        assert ask(kept, "/x") == (200, b"ok", None)
        assert ask(kept, "/healthcheck") == (200, b"ok", None)
        stopping = stop_in_background(server)
        wait_for_draining(port)
        assert ask(kept, "/x") == (200, b"ok", "close")
        assert ask(connect(port), "/x") == (200, b"ok", "close"), "new connections are served on"
        stopping.join()
        with pytest.raises(ConnectionRefusedError):
            connect(port).connect()


def test_a_running_request_is_finished_after_the_socket_is_closed() -> None:
    app = Application()
    with running(app, drain_seconds=0.0) as (server, port):
        answers: list[tuple[int, bytes, str | None]] = []
        client = threading.Thread(target=lambda: answers.append(ask(connect(port), "/slow")))
        client.start()
        assert app.begun.wait(30)
        stopping = stop_in_background(server)
        while True:  # until it does not listen any more
            try:
                connect(port).connect()
            except (ConnectionRefusedError, ConnectionResetError):  # reset: connected just before it closed
                break
        app.go.set()
        client.join()
        stopping.join()
    assert answers == [(200, b"ok", "close")]


def test_on_a_socket_of_somebody_else_connections_wait_for_the_next_process() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with running(Application(), drain_seconds=DRAIN_SECONDS, listening=listening.dup()) as (server, _):
            kept = connect(port)
            ask(kept, "/x")
            stopping = stop_in_background(server)
            while (answer := ask(kept, "/x"))[2] is None:
                pass
            assert answer == (200, b"ok", "close")
            assert ask(connect(port), "/healthcheck")[0] == 200, "there may be no other process to go to"
            stopping.join()
        waiting = connect(port)
        waiting.request("GET", "/x")
        with running(Application(), drain_seconds=0.0, listening=listening.dup()):
            assert waiting.getresponse().status == 200
