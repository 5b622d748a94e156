"""Where Prometheus finds the metrics: ``/metrics`` of this process, ``/deployment`` of the whole deployment.

It has an address of its own, because what it says is about all tenants: it belongs on loopback or a network of the
operators, never on the API's side. It only answers GET, reads nothing but the path, and changes nothing.
"""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from socket import AF_INET, AF_INET6
from types import TracebackType
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import structlog
from prometheus_client import CollectorRegistry, make_wsgi_app

from sharewright.errors import ConfigurationError
from sharewright.instruments import REGISTRY
from sharewright.metrics.deployment import DeploymentCollector
from sharewright.settings import Metrics
from sharewright.store.database import Store

log = structlog.get_logger()

StartResponse = Callable[..., Any]
Application = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]


class MetricsEndpoint:
    """Listens from its creation, answers in the ``with`` block. ``port`` replaces the configured one; 0: any free one.
    Raises ConfigurationError when the address cannot be used."""

    def __init__(self, store: Store, settings: Metrics, *, port: int | None = None) -> None:
        number = settings.port if port is None else port
        deployment = CollectorRegistry()
        deployment.register(DeploymentCollector(store, most_detailed_shares=settings.most_detailed_shares))
        self._applications: dict[str, Application] = {
            "/metrics": make_wsgi_app(REGISTRY),
            "/deployment": _one_at_a_time(make_wsgi_app(deployment)),
        }
        try:
            self._server = _Server(settings.listen, number)
        except OSError as error:
            raise ConfigurationError(
                f"metrics: {settings.listen} port {number} cannot be listened on: {error.strerror or error}.",
                hint="Every process needs a port of its own: see --metrics-port.",
            ) from error
        self._server.set_app(self._answer)
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)

    @property
    def url(self) -> str:
        host, port = self._server.server_address[:2]
        return f"http://[{host!s}]:{port}" if self._server.address_family == AF_INET6 else f"http://{host!s}:{port}"

    def __enter__(self) -> MetricsEndpoint:
        self._thread.start()
        log.info("metrics ready", url=f"{self.url}/metrics")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        application = self._applications.get(environ.get("PATH_INFO", ""))
        if application is None:
            return _say(start_response, "404 Not Found", f"Here are {' and '.join(self._applications)}.\n")
        if environ.get("REQUEST_METHOD") != "GET":
            return _say(start_response, "405 Method Not Allowed", "Only GET.\n")
        try:
            return application(environ, start_response)
        except Exception as error:
            log.warning("metrics cannot be told", path=environ["PATH_INFO"], exc_info=error)
            return _say(start_response, "503 Service Unavailable", "The database did not answer.\n")


def _one_at_a_time(application: Application) -> Application:
    """However many ask: an answer about many shares takes memory while it is made."""
    lock = threading.Lock()

    def answer(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        with lock:
            return application(environ, start_response)

    return answer


def _say(start_response: StartResponse, status: str, text: str) -> Iterable[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [text.encode()]


class _Handler(WSGIRequestHandler):
    timeout = 10  # seconds that a client may keep a thread waiting

    def log_message(self, format: str, *args: Any) -> None:
        """A scrape is no news."""


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    """wsgiref's server with a thread for each request."""

    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        self.address_family = AF_INET6 if ip_address(host).version == 6 else AF_INET
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer's would ask the name service for our own name
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()
