"""The HTTP server: waitress with threads, blocking or in a thread of its own, stopped gracefully."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import structlog
from waitress import wasyncore
from waitress.server import create_server

from sharewright.api.routing import MAXIMUM_BODY
from sharewright.errors import ConfigurationError
from sharewright.settings import Settings

log = structlog.get_logger()

_TURN: Final = 0.5  # seconds between looks at whether to stop, when nothing happens on the sockets


class Server:
    """Serves a WSGI application at the configured address. Listens from its creation, answers once it runs.

    ``port`` replaces the configured one; 0 takes any free one. Raises ConfigurationError when the address cannot be
    used.
    """

    def __init__(self, app: Callable[..., Any], settings: Settings, *, port: int | None = None) -> None:
        api = settings.api
        try:
            self._server = create_server(
                app,
                host=api.listen,
                port=api.port if port is None else port,
                threads=api.threads,
                ident="sharewright",
                # Above the API's own limit, so that the usual oversized body gets the API's answer; this one bounds
                # what is buffered at all.
                max_request_body_size=16 * MAXIMUM_BODY,
                max_request_header_size=65_536,
                connection_limit=1000,
                channel_timeout=75,
                clear_untrusted_proxy_headers=not api.enable_forwarded_headers,
            )
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"api: {api.listen} port {api.port} cannot be listened on: {error}.",
                hint="Is another service there? Set api.listen or api.port.",
            ) from error
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
        """Answer until ``stop``; then finish the requests that run, within the grace time."""
        sockets: dict[int, Any] = self._server._map
        while not self._stopping.is_set():
            wasyncore.loop(timeout=_TURN, map=sockets, use_poll=True, count=1)
        self._server.accepting = False
        listening = getattr(self._server, "socket", None)
        if isinstance(listening, socket.socket):
            self._server.del_channel()
            listening.close()
        end = time.monotonic() + grace_seconds
        while self._busy() and time.monotonic() < end:
            wasyncore.loop(timeout=0.05, map=sockets, use_poll=True, count=1)
        self._server.task_dispatcher.shutdown(cancel_pending=True, timeout=1)
        wasyncore.close_all(sockets, ignore_all=True)

    def start(self) -> None:
        """Run in a thread of its own."""
        self._thread = threading.Thread(target=self.run, name="api", daemon=True)
        self._thread.start()

    def stop(self, *, timeout: float = 15.0) -> None:
        """Stop, and wait for the thread if ``start`` made one. May be called from any thread or a signal handler."""
        self._stopping.set()
        with suppress(OSError):  # it has ended in this moment
            self._server.pull_trigger()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _busy(self) -> bool:
        return any(
            getattr(channel, "requests", None) or getattr(channel, "total_outbufs_len", 0)
            for channel in list(self._server.active_channels.values())
        )
