"""The HTTP server: uvicorn and threads, blocking or in a thread of its own, stopped without failing a request.

Stopping has three phases. *Draining* (``drain_seconds``): everything is answered as before, but each answer closes its
connection, so that no client is left with one that is about to end; and the health check says 503, so that a proxy
sends its requests elsewhere. Then *no new connections*: what has been connected is still taken in, and the socket is
closed; a socket that systemd holds for us stays open there, and whoever connects waits for the next process (which is
why the health check does not change then). Then the requests that run are *finished*, within the grace time.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import uvicorn
import uvloop

from sharewright.api.acceptor import Acceptor, Seat
from sharewright.api.connections import PATIENCE, Connection, look_at_all
from sharewright.api.gateway import Gateway
from sharewright.errors import ConfigurationError
from sharewright.settings import Settings

HEALTH_CHECK: Final = "/healthcheck"
_BACKLOG: Final = 1024
_LOOKS: Final = 50  # of uvicorn's ticks of 0.1 s, from one look at slow clients to the next
_LAST_TURN: Final = 0.05  # seconds in which what has been sent on the last connections is read


class Server:
    """Serves a WSGI application at the configured address, or on ``listening``, a socket that another process keeps
    open, if it is not ``last``: one of the last processes that have it. Listens from its creation, answers once it
    runs.

    ``seat``: shares the connections out with other processes (acceptor.py). ``port`` replaces the configured one; 0
    takes any free one. Raises ConfigurationError when the address cannot be used.
    """

    def __init__(
        self,
        app: Callable[..., Iterable[bytes]],
        settings: Settings,
        *,
        port: int | None = None,
        listening: socket.socket | None = None,
        last: bool = False,
        seat: Seat | None = None,
        drain_seconds: float = 0.0,
    ) -> None:
        api = settings.api
        self._app = app
        self._inherited = listening is not None and not last
        self._drain_seconds = drain_seconds
        self._listening = listening or listen(api.listen, api.port if port is None else port)
        self._address = self._listening.getsockname()[:2]
        self._gateway = Gateway(self._answer, threads=api.threads, trust_forwarded=api.enable_forwarded_headers)
        self._uvicorn = _Uvicorn(
            uvicorn.Config(
                self._gateway,
                http=Connection,
                loop="uvloop",
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                server_header=False,
                headers=[("server", "sharewright")],
                proxy_headers=False,  # the application reads them
                timeout_keep_alive=int(PATIENCE),
                backlog=_BACKLOG,
            ),
            self._listening,
            inherited=self._inherited,
            seat=seat,
        )
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # its warnings are of what clients send: no news
        self._stopping = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asked = asyncio.Event()  # to stop, in the loop
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that it listens on."""
        return str(self._address[0]), int(self._address[1])

    @property
    def url(self) -> str:
        host, port = self.address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._uvicorn.server_state.connections)

    def run(self, *, grace_seconds: float = 10.0) -> None:
        """Answer until ``stop``; then drain, and finish the requests that run within the grace time."""
        self._uvicorn.config.timeout_graceful_shutdown = int(grace_seconds)
        self._gateway.start()
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._serve())
        finally:
            self._gateway.stop()
            self._listening.close()

    def start(self) -> None:
        """Run in a thread of its own."""
        self._thread = threading.Thread(target=self.run, name="api", daemon=True)
        self._thread.start()

    def stop(self, *, timeout: float = 15.0) -> None:
        """Stop, and wait for the thread if ``start`` made one, ``timeout`` seconds longer than it drains. May be called
        from any thread or a signal handler."""
        self._stopping.set()
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended in this moment
                self._loop.call_soon_threadsafe(self._asked.set)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(self._drain_seconds + timeout)

    # ---- parts -------------------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        if self._stopping.is_set():  # before there was a loop to tell
            self._asked.set()
        serving = asyncio.create_task(self._uvicorn.serve())
        asked = asyncio.create_task(self._asked.wait())
        await asyncio.wait({serving, asked}, return_when=asyncio.FIRST_COMPLETED)
        if asked.done():
            self._gateway.draining = True
            await asyncio.sleep(self._drain_seconds)
        self._uvicorn.should_exit = True
        await serving

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """The application; in its place, the news that this process is going away."""
        if self._gateway.draining and not self._inherited and environ["PATH_INFO"] == HEALTH_CHECK:
            body = b"draining"
            headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
            start_response("503 Service Unavailable", headers)
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]
        return self._app(environ, start_response)


class _Uvicorn(uvicorn.Server):
    """uvicorn's server, without its signals. ``inherited``: ``listening`` is not ours to close."""

    def __init__(self, config: uvicorn.Config, listening: socket.socket, *, inherited: bool, seat: Seat | None) -> None:
        super().__init__(config)
        self._listening = listening
        self._inherited = inherited
        self._seat = seat
        self._acceptor: Acceptor | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # they are the business of the command

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self._seat is None:
            await super().startup([self._listening.dup()])
            return
        await super().startup([])
        self._acceptor = Acceptor(
            self._listening, self._seat, self._make_connection, lambda: len(self.server_state.connections)
        )

    async def on_tick(self, counter: int) -> bool:
        if self._acceptor is not None:
            self._acceptor.tell()
        if counter % _LOOKS == 0:
            look_at_all(self.server_state.connections, asyncio.get_running_loop().time())
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        if self._acceptor is not None:
            self._acceptor.close()
        await self._take_in_the_last()
        await asyncio.sleep(_LAST_TURN)  # uvicorn would close a connection whose request it has not read yet
        await super().shutdown(sockets)

    async def _take_in_the_last(self) -> None:
        """A connection that the kernel has accepted would be reset, not refused."""
        if self._inherited:
            return
        loop = asyncio.get_running_loop()
        self._listening.setblocking(False)
        while True:
            try:
                accepted, _ = self._listening.accept()
            except OSError:  # there is none
                break
            accepted.setblocking(False)
            await loop.connect_accepted_socket(self._make_connection, accepted)
        self._listening.close()

    def _make_connection(self) -> asyncio.Protocol:
        return Connection(config=self.config, server_state=self.server_state, app_state={})


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises ConfigurationError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError, ValueError) as error:
        raise ConfigurationError(
            f"api: {host} port {port} cannot be listened on: {error}.",
            hint="Is another service there? Set api.listen or api.port.",
        ) from error
