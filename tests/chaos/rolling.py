"""Real ``sharewright api`` and ``worker`` processes, a proxy in front of them, and clients that forgive no failure.

The proxy is as simple as one can be: it asks each API for its health and gives each new connection to a healthy one,
in turn. It tries nothing twice, so whatever a restart breaks reaches a client.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

START_SECONDS = 60.0
HEALTH_SECONDS = 0.1  # between two looks of the proxy


class Service:
    """One process of ours, started and stopped as systemd would: Type=notify, and a socket when there is one."""

    def __init__(self, directory: Path, name: str, config: Path, part: str, listening: socket.socket | None) -> None:
        self._log = directory / f"{name}.log"
        self._notify = directory / f"{name}.notify"
        self._config = config
        self._part = part
        self._listening = listening
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        """Start it, without waiting for it to be ready."""
        self._notify.unlink(missing_ok=True)
        self._channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._channel.bind(str(self._notify))
        command = [sys.executable, "-m", "sharewright.cli.main", "--config", str(self._config), self._part]
        passed: list[int] = []
        if self._listening is not None:
            passed = [self._listening.fileno()]
            prefix = f'export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@" 3<&{passed[0]}'
            command = ["bash", "-c", prefix, "bash", *command]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=passed,
                env={**os.environ, "NOTIFY_SOCKET": str(self._notify)},
            )  # fmt: skip

    def wait_ready(self) -> None:
        self._channel.settimeout(0.2)
        end = time.monotonic() + START_SECONDS
        while True:
            assert self._process is not None
            assert self._process.poll() is None, self.log
            assert time.monotonic() < end, self.log
            with suppress(TimeoutError):
                if self._channel.recv(64) == b"READY=1":
                    return

    def stop(self) -> None:
        """SIGTERM, and a good end."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(60) == 0, self.log
        self._channel.close()

    def restart(self) -> None:
        """As ``systemctl restart``: returns when the new process is ready."""
        self.stop()
        self.begin()
        self.wait_ready()

    def end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)

    @property
    def log(self) -> str:
        return self._log.read_text()


class Proxy:
    """Listens on a port of its own and passes bytes to and fro."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = list(ports)
        self._healthy: list[int] = []
        self._turn = 0
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listening.getsockname()[1]
        self._threads = [threading.Thread(target=self._watch, daemon=True)]
        self._threads.append(threading.Thread(target=self._accept, daemon=True))
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._end.set()
        self._listening.close()

    def wait_healthy(self, number: int) -> None:
        """Until so many APIs are: an operator looks before restarting the next."""
        while len(self._healthy) < number:
            assert not self._end.wait(HEALTH_SECONDS / 2)

    def _watch(self) -> None:
        while not self._end.wait(HEALTH_SECONDS):
            healthy = [port for port in self._ports if is_healthy(port)]
            with self._lock:
                self._healthy = healthy

    def _choose(self) -> int:
        while True:
            with self._lock:
                if self._healthy:
                    self._turn += 1
                    return self._healthy[self._turn % len(self._healthy)]
            time.sleep(HEALTH_SECONDS)

    def _accept(self) -> None:
        while not self._end.is_set():
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._pass, args=(client,), daemon=True).start()

    def _pass(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection(("127.0.0.1", self._choose())) as server:
            back = threading.Thread(target=copy, args=(server, client), daemon=True)
            back.start()
            copy(client, server)
            back.join()


def copy(source: socket.socket, target: socket.socket) -> None:
    """Pass on what comes, and its end."""
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def is_healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/healthcheck", headers={"Connection": "close"})
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


class Client:
    """A user with one connection that is kept open; ``failures`` is what went wrong, ``shares`` what was accepted."""

    def __init__(self, port: int, share_network_id: str, *, creates_every: int) -> None:
        self.failures: list[str] = []
        self.shares: list[str] = []
        self.requests = 0
        self._network = share_network_id
        self._every = creates_every
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._end.set()
        self._thread.join(60)

    def _run(self) -> None:
        while not self._end.wait(0.02):
            self.requests += 1
            try:
                if self.requests % self._every == 1:
                    wanted = {"share_proto": "NFS", "size": 1, "share_network_id": self._network}
                    self.shares.append(ask(self._connection, "POST", "/shares", {"share": wanted})["share"]["id"])
                elif self.requests % 2:
                    ask(self._connection, "GET", f"/shares/{self.shares[-1]}")
                else:
                    ask(self._connection, "GET", "/shares/detail?limit=10")
            except (OSError, http.client.HTTPException, AssertionError) as failure:
                self.failures.append(f"request {self.requests}: {failure!r}")
                self._connection.close()


Answer = dict[str, dict[str, str]]


def ask(connection: http.client.HTTPConnection, method: str, path: str, body: object = None) -> Answer:
    """One request; AssertionError for anything but success."""
    headers = {"X-OpenStack-Manila-API-Version": "2.51", "Content-Type": "application/json"}
    connection.request(method, f"/v2{path}", json.dumps(body) if body is not None else None, headers)
    answer = connection.getresponse()
    text = answer.read()
    assert answer.status < 300, f"{method} {path}: {answer.status} {text[:200]!r}"
    answered: Answer = json.loads(text)
    return answered


@contextmanager
def clients(port: int, share_network_id: str, number: int, *, creates_every: int) -> Iterator[list[Client]]:
    """Clients that are at it all the time."""
    running = [Client(port, share_network_id, creates_every=creates_every) for _ in range(number)]
    try:
        yield running
    finally:
        for client in running:
            client.stop()
