"""The few calls to Neutron that a client's tests make before they come to share networks: they make a network and a
subnet, and delete the network. Nothing is behind it: the run's back ends take any network (``simulated.any_network``).
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

KINDS: Final = {"networks": "network", "subnets": "subnet"}


@contextmanager
def network_endpoint() -> Iterator[str]:
    """Its address, for the client's option ``network_endpoint_override``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v2.0"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    """Keeps nothing: what is made is answered with an id, and any id can be deleted."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind = KINDS.get(self._path[0])
        if kind is None or len(self._path) != 1 or "X-Auth-Token" not in self.headers:
            self._answer(404)
            return
        self._answer(201, {kind: {**json.loads(text)[kind], "id": str(uuid.uuid4())}})

    def do_DELETE(self) -> None:
        self._answer(204 if self._path[0] in KINDS and len(self._path) == 2 else 404)

    @property
    def _path(self) -> list[str]:
        return self.path.removeprefix("/v2.0").strip("/").split("/")

    def _answer(self, status: int, body: Any = None) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """The service's log says enough."""
