"""Between uvicorn, which speaks HTTP on an event loop, and the application, which is WSGI and blocks: a few threads.

A request takes a thread only when all of it is there, and gives it up when its answer is made; so clients that send or
read slowly, or that send nothing, keep nobody waiting but themselves.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from io import BytesIO
from queue import SimpleQueue
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from sharewright.api.routing import MAXIMUM_BODY

# The application refuses more than MAXIMUM_BODY; so the usual oversized body gets its answer, and is not kept.
_KEPT: Final = MAXIMUM_BODY + 1  # bytes of a body
_TAKEN: Final = 16 * MAXIMUM_BODY  # after so many bytes the answer is given, and the connection ends
_BODY_SECONDS: Final = 75.0  # in which a body has to be there
_FORWARDED: Final = (b"x-forwarded-", b"forwarded")  # of headers, from a proxy

Application = Callable[..., Iterable[bytes]]
_Answer = tuple[int, list[tuple[bytes, bytes]], bytes]
_Scope = dict[str, Any]
_Message = dict[str, Any]


class Gateway:
    """The ASGI application around a WSGI one. ``trust_forwarded``: a proxy stands before us, whose headers count.

    While ``draining`` is set, each answer ends its connection.
    """

    def __init__(self, app: Application, *, threads: int, trust_forwarded: bool) -> None:
        self._app = app
        self._trust_forwarded = trust_forwarded
        self._jobs: SimpleQueue[tuple[dict[str, Any], asyncio.Future[_Answer]] | None] = SimpleQueue()
        # Daemons: the end of the process does not wait for a request that has outlived the grace time.
        self._threads = [threading.Thread(target=self._work, name=f"api-{n}", daemon=True) for n in range(threads)]
        self.draining = False

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let the threads end, each after what it is at."""
        for _ in self._threads:
            self._jobs.put(None)

    async def __call__(self, scope: _Scope, receive: Callable[[], Any], send: Callable[[_Message], Any]) -> None:
        environ = self._environ(scope)
        whole = True
        if "CONTENT_LENGTH" in environ or "HTTP_TRANSFER_ENCODING" in environ:
            try:
                async with asyncio.timeout(_BODY_SECONDS):
                    body, whole = await _read(receive)
            except TimeoutError:
                await _send(send, (408, [(b"content-length", b"0")], b""), close=True)
                return
            if body is None:
                return  # the client has gone
            environ["wsgi.input"] = BytesIO(body)
            # Of a chunked body nobody has said it. One that is not all here keeps the length that was said.
            environ.setdefault("CONTENT_LENGTH", str(len(body)))
        answered: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self._jobs.put((environ, answered))
        await _send(send, await answered, close=self.draining or not whole)

    # ---- parts -------------------------------------------------------------------------------------------------------

    def _environ(self, scope: _Scope) -> dict[str, Any]:
        """PEP 3333's, whose text is bytes decoded as Latin-1."""
        raw_path: bytes = scope["raw_path"]
        environ = {
            "REQUEST_METHOD": scope["method"],
            "SCRIPT_NAME": "",
            "PATH_INFO": (unquote_to_bytes(raw_path) if b"%" in raw_path else raw_path).decode("latin-1"),
            "QUERY_STRING": scope["query_string"].decode("latin-1"),
            "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
            "SERVER_NAME": scope["server"][0],
            "SERVER_PORT": str(scope["server"][1]),
            "REMOTE_ADDR": scope["client"][0] if scope["client"] else "",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": BytesIO(),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
        }
        for name, value in scope["headers"]:
            # With "_" for "-" it would pass for another header, past a proxy that removes that one.
            if b"_" in name or (not self._trust_forwarded and name.startswith(_FORWARDED)):
                continue
            key = name.decode("latin-1").upper().replace("-", "_")
            if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
                key = f"HTTP_{key}"
            text = value.decode("latin-1")
            environ[key] = f"{environ[key]}, {text}" if key in environ else text
        return environ

    def _work(self) -> None:
        """A thread: one request after another."""
        while (job := self._jobs.get()) is not None:
            environ, answered = job
            outcome: _Answer | Exception
            try:
                outcome = self._run(environ)
            except Exception as error:
                outcome = error
            with suppress(RuntimeError):  # the loop has ended: the grace time is over
                answered.get_loop().call_soon_threadsafe(_settle, answered, outcome)

    def _run(self, environ: dict[str, Any]) -> _Answer:
        said: list[Any] = ["", []]

        def start_response(status: str, headers: list[tuple[str, str]], _error: Any = None) -> None:
            said[:] = status, headers

        parts = self._app(environ, start_response)
        try:
            body = b"".join(parts)
        finally:
            if hasattr(parts, "close"):
                parts.close()
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in said[1]]
        return int(said[0][:3]), headers, body


def _settle(answered: asyncio.Future[_Answer], outcome: _Answer | Exception) -> None:
    if answered.done():  # cancelled
        return
    if isinstance(outcome, Exception):
        answered.set_exception(outcome)
    else:
        answered.set_result(outcome)


async def _read(receive: Callable[[], Any]) -> tuple[bytes | None, bool]:
    """A body, as far as it is kept; and whether the client has sent all of it. None: it has gone instead."""
    kept, taken = bytearray(), 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None, False
        part: bytes = message.get("body", b"")
        taken += len(part)
        kept += part[: _KEPT - len(kept)]
        if not message.get("more_body", False):
            return bytes(kept), True
        if taken > _TAKEN:
            return bytes(kept), False


async def _send(send: Callable[[_Message], Any], answer: _Answer, *, close: bool) -> None:
    status, headers, body = answer
    if close:
        headers = [*headers, (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
