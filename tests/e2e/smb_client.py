"""Real SMB clients that stand where a tenant's machine stands: smbclient and smbprotocol, relayed through its SSH."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import paramiko
import smbclient

from client_vm import ClientVm

# One TCP connection from the machine, as the command's input and output; it ends when either side does.
RELAY = "exec 3<>/dev/tcp/{address}/445 && {{ {{ cat <&3; kill $$; }} & cat >&3; kill %1; }}"


class Refused(AssertionError):
    """smbclient ended with an error; what it said."""


@dataclass(frozen=True)
class SmbClient:
    """Talks to one server. ``user`` and ``password`` empty: a guest."""

    port: int

    def run(self, share: str, command: str, *options: str, user: str = "", password: str = "") -> str:
        """What smbclient says after a command like ``put FILE``. Raises Refused."""
        done = subprocess.run(
            ["smbclient", "-s", "/dev/null", "-p", str(self.port), f"//127.0.0.1/{share}", "-U", f"{user}%{password}",
             *options, "-c", command],
            capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip
        output = done.stdout + done.stderr
        if done.returncode != 0 or "NT_STATUS_" in output:
            raise Refused(output)
        return output

    @contextlib.contextmanager
    def session(self, *, user: str = "", password: str = "") -> Iterator[Session]:
        """smbprotocol's session."""
        cache: dict[str, Any] = {}
        # Guests cannot sign, nor check with a signature that nobody meddled with the negotiation.
        smbclient.ClientConfig(require_secure_negotiate=bool(user))
        options = {
            "username": user or "guest", "password": password or "none", "require_signing": bool(user),
            "port": self.port, "connection_cache": cache,
        }  # fmt: skip
        made = smbclient.register_session("127.0.0.1", **options)
        try:
            yield Session(made, options)
        finally:
            smbclient.reset_connection_cache(fail_on_error=False, connection_cache=cache)


@dataclass(frozen=True)
class Session:
    made: Any
    options: dict[str, Any]

    @property
    def dialect(self) -> int:
        return int(self.made.connection.dialect)

    @property
    def server_requires_signing(self) -> bool:
        return bool(self.made.connection.server_security_mode & 2)

    @property
    def signed(self) -> bool:
        return bool(self.made.signing_required)

    def tree(self, share: str) -> Any:
        """The connection to a share that this session used. Its ``encrypt_data`` is what the server demands, and what
        the client does; a test may change the latter."""
        return next(tree for tree in self.made.tree_connect_table.values() if tree.share_name.endswith(share))

    def listing(self, share: str) -> list[str]:
        return list(smbclient.listdir(rf"\\127.0.0.1\{share}", **self.options))

    def open(self, share: str, name: str, mode: str = "r") -> Any:
        return smbclient.open_file(
            rf"\\127.0.0.1\{share}\{name}", mode=mode, share_access="rwd", buffering=0, **self.options
        )


@contextlib.contextmanager
def smb_client(machine: ClientVm, address: str) -> Iterator[SmbClient]:
    """Clients whose connections to ``address`` come from ``machine``."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_accept, args=(listener, machine, address), daemon=True).start()
        try:
            yield SmbClient(listener.getsockname()[1])
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, machine: ClientVm, address: str) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            channel = machine.open(RELAY.format(address=address))
            for pump, source, sink in ((_up, connection, channel), (_down, channel, connection)):
                threading.Thread(target=pump, args=(source, sink), daemon=True).start()


def _up(source: socket.socket, sink: paramiko.Channel) -> None:
    with contextlib.suppress(OSError, EOFError):
        while data := source.recv(65536):
            sink.sendall(data)
    sink.close()


def _down(source: paramiko.Channel, sink: socket.socket) -> None:
    with contextlib.suppress(OSError, EOFError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)
    sink.close()
