"""The SSH channel into service VMs: one connection per server, kept open, and in it one running ``serve``.

What the connection trusts is in the :class:`GuestAddress`: the pinned ed25519 host key and our own private key. No
agent, no known_hosts, no other algorithm of host key; with a wrong host key nothing is sent, not even the user name.
"""

from __future__ import annotations

import base64
import io
import logging
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec
import paramiko
import structlog

from sharewright.errors import GuestBusy, GuestError, GuestUnreachable, StaleDocument
from sharewright.guest.contract import Freeze, GuestAddress, round_trips
from sharewright.guest.document import Document, Facts, State, encode_request
from sharewright.guest.package import build_program, program_identity, program_sha256
from sharewright.identifiers import new_id
from sharewright.instruments import guest_handshakes

log = structlog.get_logger()

LONGEST_ANSWER = 16 * 1024 * 1024
CONNECT_SECONDS = 2.0  # of one attempt: a SYN that a booting VM missed is sent again only after a second
POLL_SECONDS = (0.2, 0.5)  # between attempts, at first and at last
KEEPALIVE_SECONDS = 30
# A VM that was powered off says nothing. Data that it does not acknowledge for so long ends the connection.
UNACKNOWLEDGED_MILLISECONDS = 8000
IDLE_SECONDS = 600.0  # an open connection costs a thread; one that nobody used for so long is closed
# Of one process. A paramiko thread wakes ten times a second, so thousands of them would need a processor by themselves.
MOST_CONNECTIONS = 256

HANDSHAKE_SECONDS = 30.0  # of one attempt; an emulated processor needs two or three

Answer = TypeVar("Answer")

# paramiko reports every refused attempt with a traceback; what matters is in our exceptions.
SSH_LOG = "sharewright.guest.ssh"
logging.getLogger(SSH_LOG).addHandler(logging.NullHandler())
logging.getLogger(SSH_LOG).propagate = False


class Verdict(msgspec.Struct):
    ok: bool


class Failure(msgspec.Struct):
    """``ok`` false: guest/document.py."""

    error: str
    message: str
    hint: str = ""


class Hello(msgspec.Struct):
    program: str
    boot_id: str
    generation: int
    server_id: str = ""


class StateAnswer(msgspec.Struct):
    state: State


class FactsAnswer(msgspec.Struct):
    facts: Facts


class Done(msgspec.Struct):
    """Success, with nothing to say."""


class Thawed(msgspec.Struct):
    held: bool
    seconds: float


class ConnectionBroken(Exception):
    """The connection ended before the answer was there; the call may or may not have been carried out."""


class Connection:
    """An authenticated connection with ``serve`` running at its other end. One call at a time."""

    def __init__(self, address: GuestAddress, transport: paramiko.Transport, channel: paramiko.Channel) -> None:
        self.address = address
        self.used = time.monotonic()
        self.hello: Hello | None = None  # the last answer to hello
        self._transport = transport
        self._channel = channel
        self._received = bytearray()

    @property
    def alive(self) -> bool:
        return self._transport.is_active() and not self._channel.closed

    def call(self, request: bytes, answer: type[Answer], *, end: float) -> Answer:
        """Send one request and return its answer. ConnectionBroken, or GuestUnreachable when ``end`` (monotonic) has
        passed: the connection is of no use after either. The guest's own refusals leave it usable."""
        self.used = time.monotonic()
        try:
            self._channel.settimeout(_left(end))
            self._channel.sendall(request)
            line = self._read_line(end)
        except TimeoutError:
            raise GuestUnreachable(
                f"The service VM at {self.address.host} did not answer in time.",
                hint="It may be overloaded or hung; see its console.",
            ) from None
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise ConnectionBroken(str(error) or type(error).__name__) from error
        self.used = time.monotonic()
        try:
            if not msgspec.json.decode(line, type=Verdict).ok:
                raise _error(msgspec.json.decode(line, type=Failure))
            return msgspec.json.decode(line, type=answer)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            self.close()
            raise GuestError(
                f"The service VM at {self.address.host} answers what cannot be read: {error}.",
                hint="The key's forced command in the VM has to be the guest program, and nothing may write before it.",
            ) from error

    def _read_line(self, end: float) -> bytes:
        searched = 0
        while True:
            position = self._received.find(b"\n", searched)
            if position >= 0:
                line = bytes(self._received[:position])
                del self._received[: position + 1]
                return line
            searched = len(self._received)
            if searched > LONGEST_ANSWER:
                raise ConnectionBroken(f"the answer is longer than {LONGEST_ANSWER} bytes")
            self._channel.settimeout(_left(end))
            data = self._channel.recv(65536)
            if not data:
                raise ConnectionBroken(self._last_words())
            self._received += data

    def _last_words(self) -> str:
        """What the other end wrote to its standard error before it went away."""
        said = b""
        while self._channel.recv_stderr_ready() and len(said) < 2000:
            said += self._channel.recv_stderr(2000)
        return "the guest program ended" + (f": {said.decode(errors='replace').strip()[-500:]}" if said else "")

    def close(self) -> None:
        self._transport.close()


class Server:
    """What is kept per server: a lock that admits one call at a time, and the connection."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.connection: Connection | None = None
        self.forgotten = 0  # how often forget() was called

    def drop(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()


class SshChannels:
    """Contract :class:`sharewright.guest.contract.GuestChannels`.

    ``round_trips.count`` counts apply, observe and the greeting of wait_ready; greetings and upgrades that a new
    connection needs count in ``round_trips.handshakes``. ``extension`` is a driver's part of the guest program.
    """

    def __init__(
        self,
        *,
        extension: bytes | None = None,
        idle_seconds: float = IDLE_SECONDS,
        most_connections: int = MOST_CONNECTIONS,
    ) -> None:
        self._extension = extension
        self._servers: dict[str, Server] = {}
        self._lock = threading.Lock()
        self._idle_seconds = idle_seconds
        self._most_connections = most_connections
        self._closed = False

    def wait_ready(self, address: GuestAddress, *, timeout: float) -> str:
        """Connect again and again until sshd is there, and return the boot id. A wrong host key or a refused key of
        ours is final and raised at once."""
        end = time.monotonic() + timeout
        with self._server(address, end) as server:
            hello = self._greet_again(server, end)
            if hello is None:
                server.drop()
                server.connection = self._connect(address, end, patient=True)
                hello = server.connection.hello
            round_trips.count += 1
            return hello.boot_id if hello else ""

    def apply(self, address: GuestAddress, document: Document, *, timeout: float) -> State:
        return self._call(address, encode_request("apply", document=document), timeout)

    def observe(self, address: GuestAddress, document: Document, *, timeout: float) -> State:
        return self._call(address, encode_request("observe", document=document), timeout)

    def flush(self, address: GuestAddress, share_ids: Sequence[str], *, timeout: float) -> None:
        end = time.monotonic() + timeout
        with self._server(address, end) as server:
            self._exchange(server, address, encode_request("flush", share_ids=share_ids), Done, end)

    def inspect(self, address: GuestAddress, *, timeout: float) -> Facts:
        end = time.monotonic() + timeout
        with self._server(address, end) as server:
            return self._exchange(server, address, encode_request("inspect"), FactsAnswer, end).facts

    @contextmanager
    def frozen(
        self, address: GuestAddress, share_ids: Sequence[str], *, seconds: float, timeout: float
    ) -> Iterator[Freeze]:
        token, freeze = new_id(), Freeze()
        request = encode_request("freeze", share_ids=share_ids, token=token, seconds=seconds)
        end = time.monotonic() + timeout
        with self._server(address, end) as server:
            # When its answer is lost, the guest ends by itself what it may have begun.
            self._exchange(server, address, request, Done, end)
            try:
                yield freeze
            finally:
                try:
                    end = time.monotonic() + timeout
                    thawed = self._exchange(server, address, encode_request("thaw", token=token), Thawed, end)
                    freeze.held, freeze.seconds = thawed.held, thawed.seconds
                except GuestError as error:
                    log.warning(
                        "shares are left to thaw by themselves", share_instances=share_ids, reason=error.message
                    )

    def forget(self, server_id: str) -> None:
        with self._lock:
            server = self._servers.pop(server_id, None)
        if server is not None:
            server.forgotten += 1
            connection = server.connection
            if connection is not None:
                connection.close()  # a call in flight ends with it

    def close(self) -> None:
        with self._lock:
            self._closed = True
            names = list(self._servers)
        for name in names:
            self.forget(name)

    # ---- parts ----

    def _call(self, address: GuestAddress, request: bytes, timeout: float) -> State:
        end = time.monotonic() + timeout
        with self._server(address, end) as server:
            return self._exchange(server, address, request, StateAnswer, end).state

    def _exchange(
        self, server: Server, address: GuestAddress, request: bytes, expected: type[Answer], end: float
    ) -> Answer:
        """One request over the open connection, or over a new one. A connection that turns out to be dead, because the
        VM was rebooted for example, is made again once and the request repeated: it changes nothing the second time."""
        forgotten = server.forgotten
        for attempt in (0, 1):
            reused = server.connection is not None and server.connection.alive
            if not reused:
                server.drop()
                server.connection = self._connect(address, end, patient=False)
            connection = server.connection
            assert connection is not None  # noqa: S101 - narrows the type
            try:
                answer = connection.call(request, expected, end=end)
            except ConnectionBroken as error:
                server.drop()
                if attempt or not reused or server.forgotten != forgotten:
                    raise _unreachable(address, str(error)) from error
                log.info("guest connection is made again", server=address.server_id, reason=str(error))
            except GuestUnreachable as error:
                if not isinstance(error, GuestBusy):
                    server.drop()  # the late answer must not meet the next request
                raise
            else:
                round_trips.count += 1
                return answer
            finally:
                if server.forgotten != forgotten:
                    server.drop()
        raise AssertionError  # both attempts return or raise

    @contextmanager
    def _server(self, address: GuestAddress, end: float) -> Iterator[Server]:
        """The server's entry, held for one call. Its connection goes when address or keys have changed since."""
        with self._lock:
            if self._closed:
                raise GuestUnreachable("The guest channels are closed.", hint="The service is stopping.")
            server = self._servers.setdefault(address.server_id, Server())
            open_ = [each for each in self._servers.values() if each is not server and each.connection is not None]
        self._close_idle(open_)
        if not server.lock.acquire(timeout=max(_left(end, 0.0), 0.0)):
            raise GuestBusy(
                f"Another call to the service VM at {address.host} took all the time of this one.", hint="Try again."
            )
        try:
            if server.connection is not None and server.connection.address != address:
                server.drop()
            yield server
        finally:
            server.lock.release()

    def _close_idle(self, servers: list[Server]) -> None:
        """Close what nobody used for long; and beyond the number that may be open, what was used the longest ago."""
        before = time.monotonic() - self._idle_seconds
        used = {server: connection.used for server in servers if (connection := server.connection) is not None}
        idle = [server for server, moment in used.items() if moment < before]
        if (many := len(used) + 1 - self._most_connections) > len(idle):
            idle = sorted(used, key=used.__getitem__)[:many]
        for server in idle:
            if server.lock.acquire(blocking=False):  # one that is in use is not idle
                try:
                    server.drop()
                finally:
                    server.lock.release()

    def _greet_again(self, server: Server, end: float) -> Hello | None:
        """hello over the connection that is there, or None when it does not answer."""
        connection = server.connection
        if connection is None or not connection.alive:
            return None
        try:
            return connection.call(encode_request("hello"), Hello, end=min(end, time.monotonic() + 10.0))
        except (ConnectionBroken, GuestError):
            return None

    def _connect(self, address: GuestAddress, end: float, *, patient: bool) -> Connection:
        """A new connection to a program of our version. ``patient``: try until ``end``; else once."""
        pause, last = POLL_SECONDS
        while True:
            started = time.monotonic()
            try:
                connection = _open(address, end)
                try:
                    _bring_up_to_date(connection, self._extension, end)
                except BaseException:
                    connection.close()
                    raise
                return connection
            except (OSError, EOFError, paramiko.SSHException, ConnectionBroken) as error:
                reason = str(error) or (
                    "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
                )
                if not patient or time.monotonic() + pause >= end:
                    raise _unreachable(address, reason) from error
            time.sleep(max(0.0, pause - (time.monotonic() - started)))
            pause = min(pause * 1.2, last)


def _left(end: float, least: float = 0.001) -> float:
    """Seconds until ``end``; TimeoutError when it has passed and ``least`` is positive."""
    left = end - time.monotonic()
    if left <= 0 < least:
        raise TimeoutError
    return max(left, least)


def _unreachable(address: GuestAddress, reason: str) -> GuestUnreachable:
    return GuestUnreachable(
        f"The service VM at {address.host} port {address.port} cannot be reached: {reason}.",
        hint="See whether it runs and has booted, and whether this host has an address on its service network.",
    )


def _error(failure: Failure) -> GuestError:
    if failure.error == "stale":
        return StaleDocument(failure.message, hint=failure.hint)
    if failure.error == "busy":
        return GuestBusy(failure.message, hint=failure.hint)
    return GuestError(failure.message, hint=failure.hint)


def _open(address: GuestAddress, end: float) -> Connection:
    """TCP, SSH with the pinned key, our key, and ``serve``. GuestUnreachable for what trying again will not mend,
    other exceptions for what it may."""
    algorithm, _, pinned = address.host_key.strip().partition(" ")
    pinned = pinned.split(" ")[0]
    if algorithm != "ssh-ed25519" or not pinned:
        raise GuestUnreachable("The pinned host key is not an ssh-ed25519 key.", hint="This is a bug.")
    link = socket.create_connection((address.host, address.port), timeout=min(CONNECT_SECONDS, _left(end)))
    try:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MILLISECONDS)
        transport = paramiko.Transport(link)
    except BaseException:
        link.close()
        raise
    try:
        transport.daemon = True
        transport.set_log_channel(SSH_LOG)
        seconds = min(HANDSHAKE_SECONDS, _left(end))
        transport.banner_timeout = transport.auth_timeout = transport.channel_timeout = seconds
        transport.get_security_options().key_types = ("ssh-ed25519",)
        transport.start_client(timeout=seconds)
        if not transport.initial_kex_done:  # start_client returns when the time is over
            raise TimeoutError(f"no SSH handshake within {seconds:.0f} s")
        shown = base64.b64encode(transport.get_remote_server_key().asbytes()).decode()
        if shown != pinned:
            raise GuestUnreachable(
                f"The machine at {address.host} port {address.port} is not the service VM that we made: "
                "its SSH host key is another one. Nothing was sent to it.",
                hint="Another machine has taken the address, or the VM was replaced by hand.",
            )
        key = paramiko.Ed25519Key.from_private_key(io.StringIO(address.private_key))
        try:
            transport.auth_publickey(address.user, key)
        except paramiko.AuthenticationException as error:
            raise GuestUnreachable(
                f"The service VM at {address.host} refuses our key.",
                hint="Its config drive carried other keys, or the image's sshd admits no root with a forced command.",
            ) from error
        channel = transport.open_session(timeout=_left(end))
        channel.settimeout(_left(end))
        channel.exec_command("serve")  # the key's forced command runs, whatever is asked for
        transport.set_keepalive(KEEPALIVE_SECONDS)
        return Connection(address, transport, channel)
    except BaseException:
        transport.close()
        raise


def _bring_up_to_date(connection: Connection, extension: bytes | None, end: float) -> None:
    """Greet the guest; when it runs another program than ours, replace it and greet again."""
    hello = connection.call(encode_request("hello"), Hello, end=end)
    round_trips.handshakes += 1
    guest_handshakes.inc()
    if hello.server_id not in ("", connection.address.server_id):  # its program is another's to replace
        raise GuestError(
            f"The machine at {connection.address.host} is server {hello.server_id}, not "
            f"{connection.address.server_id}: another backend or deployment has its shares there.",
            hint="Name another machine. If that server is no more: rm /var/lib/sharewright/generation.json there.",
        )
    if hello.program != program_identity(extension):
        log.info("guest program is replaced", server=connection.address.server_id, found=hello.program[:12])
        program = base64.b64encode(build_program(extension)).decode()
        upgrade = encode_request("upgrade", program=program, sha256=program_sha256(extension))
        connection.call(upgrade, dict[str, Any], end=end)
        hello = connection.call(encode_request("hello"), Hello, end=end)
        round_trips.handshakes += 2
        guest_handshakes.inc(2)
        if hello.program != program_identity(extension):
            raise GuestError(
                f"The guest program is still {hello.program[:12]} after its replacement.", hint="This is a bug."
            )
    connection.hello = hello
