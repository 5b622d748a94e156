"""The HTTP server: waitress with threads, blocking or in a thread of its own, stopped without failing a request.

Stopping has three phases. *Draining* (``drain_seconds``): everything is answered as before, but each answer closes its
connection, so that no client is left with one that is about to end; and the health check says 503, so that a proxy
sends its requests elsewhere. Then *no new connections*: what has been connected is still taken in, and the socket is
closed; a socket that systemd holds for us stays open there, and whoever connects waits for the next process (which is
why the health check does not change then). Then the requests that run are *finished*, within the grace time.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final

import structlog
from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.server import create_server
from waitress.task import WSGITask

from sharewright.api.routing import MAXIMUM_BODY
from sharewright.errors import ConfigurationError
from sharewright.settings import Settings

log = structlog.get_logger()

HEALTH_CHECK: Final = "/healthcheck"
_TURN: Final = 0.5  # seconds between looks at whether to stop, when nothing happens on the sockets
_LAST_TURN: Final = 0.05  # without anything to do for so long, all requests are finished


class Server:
    """Serves a WSGI application at the configured address, or on ``listening``, a socket that another process keeps
    open. Listens from its creation, answers once it runs.

    ``port`` replaces the configured one; 0 takes any free one. Raises ConfigurationError when the address cannot be
    used.
    """

    def __init__(
        self,
        app: Callable[..., Any],
        settings: Settings,
        *,
        port: int | None = None,
        listening: socket.socket | None = None,
        drain_seconds: float = 0.0,
    ) -> None:
        api = settings.api
        self._app = app
        self._inherited = listening is not None
        self._drain_seconds = drain_seconds
        where: dict[str, Any] = (
            {"host": api.listen, "port": api.port if port is None else port}
            if listening is None
            else {"sockets": [listening]}
        )
        try:
            self._server = create_server(
                self._answer,
                **where,
                threads=api.threads,
                ident="sharewright",
                # Above the API's own limit, so that the usual oversized body gets the API's answer; this one bounds
                # what is buffered at all.
                max_request_body_size=16 * MAXIMUM_BODY,
                max_request_header_size=65_536,
                connection_limit=1000,
                # A list of 1,000 shares is larger than waitress's limit of 1 MiB, and not worth a temporary file.
                outbuf_overflow=16 * 2**20,
                channel_timeout=75,
                clear_untrusted_proxy_headers=not api.enable_forwarded_headers,
            )
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"api: {api.listen} port {api.port} cannot be listened on: {error}.",
                hint="Is another service there? Set api.listen or api.port.",
            ) from error
        self._server.channel_class = _Channel
        self._server.draining = False
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a short queue is no news
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that it listens on."""
        return str(self._server.effective_host), int(self._server.effective_port)

    @property
    def url(self) -> str:
        host, port = self.address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def run(self, *, grace_seconds: float = 10.0) -> None:
        """Answer until ``stop``; then drain, and finish the requests that run within the grace time."""
        while not self._stopping.is_set():
            self._turn(_TURN)
        self._server.draining = True
        end = time.monotonic() + self._drain_seconds
        while (left := end - time.monotonic()) > 0:
            self._turn(min(_TURN, left))
        self._stop_listening()
        end = time.monotonic() + grace_seconds
        while time.monotonic() < end:
            self._turn(_LAST_TURN)
            if not self._busy():
                break
        self._server.task_dispatcher.shutdown(cancel_pending=True, timeout=1)
        wasyncore.close_all(self._server._map, ignore_all=True)

    def start(self) -> None:
        """Run in a thread of its own."""
        self._thread = threading.Thread(target=self.run, name="api", daemon=True)
        self._thread.start()

    def stop(self, *, timeout: float = 15.0) -> None:
        """Stop, and wait for the thread if ``start`` made one, ``timeout`` seconds longer than it drains. May be called
        from any thread or a signal handler."""
        self._stopping.set()
        with suppress(OSError):  # it has ended in this moment
            self._server.pull_trigger()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(self._drain_seconds + timeout)

    # ---- parts -------------------------------------------------------------------------------------------------------

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """The application; in its place, the news that this process is going away."""
        if self._server.draining and not self._inherited and environ.get("PATH_INFO") == HEALTH_CHECK:
            body = b"draining"
            headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
            start_response("503 Service Unavailable", headers)
            return [] if environ.get("REQUEST_METHOD") == "HEAD" else [body]
        answer: Iterable[bytes] = self._app(environ, start_response)
        return answer

    def _turn(self, seconds: float) -> None:
        """Wait so long for something to happen on the sockets, and handle it."""
        wasyncore.loop(timeout=seconds, map=self._server._map, use_poll=True, count=1)

    def _stop_listening(self) -> None:
        listening = getattr(self._server, "socket", None)
        if not isinstance(listening, socket.socket):
            return
        while not self._inherited:  # a connection that the kernel has accepted would be reset, not refused
            before = len(self._server.active_channels)
            self._server.handle_accept()
            if len(self._server.active_channels) == before:
                break
        self._server.accepting = False
        self._server.del_channel()
        listening.close()

    def _busy(self) -> bool:
        """Whether a request runs, is being received, or has an answer not yet sent."""
        return any(
            channel.requests or channel.request is not None or channel.total_outbufs_len
            for channel in list(self._server.active_channels.values())
        )


class _Task(WSGITask):  # type: ignore[misc]
    """One answer. While the server drains, its connection ends with it, as if the client had asked for that."""

    def build_response_header(self) -> bytes:
        if self.channel.server.draining:
            self.request.headers["CONNECTION"] = "close"
        header: bytes = super().build_response_header()
        return header


class _Channel(HTTPChannel):  # type: ignore[misc]
    task_class = _Task
