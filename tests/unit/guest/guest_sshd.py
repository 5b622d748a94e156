"""A real sshd on a loopback port whose only key runs the packed program in a scratch root."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from guest_machines import Machine

from ports import free_port
from sharewright.guest.contract import GuestAddress

SSHD = Path("/usr/sbin/sshd")  # package openssh-server


def new_key() -> tuple[str, str]:
    """Private key as OpenSSH PEM, public key as "ssh-ed25519 AAAA…"."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private.decode(), public.decode()


def descendants(pid: int) -> list[int]:
    """Processes below ``pid``, children before grandchildren."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found = []
    waiting = [pid]
    while waiting:
        children = parents.get(waiting.pop(0), [])
        found += children
        waiting += children
    return found


class Sshd:
    """The daemon in front of one machine. ``command`` replaces the guest program."""

    def __init__(self, folder: Path, machine: Machine, *, command: str | None = None) -> None:
        self.folder = folder
        self.port = free_port()
        self.host_private, self.host_public = new_key()
        self.private, self.public = new_key()
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "host").write_text(self.host_private)
        (folder / "host").chmod(0o600)
        (folder / "log").write_text("")
        run = command or f"SHAREWRIGHT_GUEST_ROOT={machine.root} exec {machine.program} serve"
        quoted = run.replace('"', '\\"')
        (folder / "keys").write_text(f'restrict,command="{quoted}" {self.public}\n')
        (folder / "config").write_text(
            f"ListenAddress 127.0.0.1\nPort {self.port}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/keys\n"
            "PidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin forced-commands-only\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nMaxStartups 100\nLogLevel VERBOSE\n"
        )

    def start(self) -> Sshd:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd's own, compiled in
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(SSHD), "-D", "-e", "-f", str(self.folder / "config")], stdin=subprocess.DEVNULL, stderr=log
            )
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError(self.log)

    def sessions(self) -> list[int]:
        assert self.process is not None
        return descendants(self.process.pid)

    def serving(self) -> list[int]:
        """The guest programs that run."""
        found = []
        for pid in self.sessions():
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                if b"serve" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                    found.append(pid)
        return found

    def cut(self) -> None:
        """End all connections without a word."""
        for pid in self.sessions():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def stop(self) -> None:
        if self.process is not None:
            self.cut()
            self.process.kill()
            self.process.wait()
            self.process = None

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    @property
    def logins(self) -> int:
        return self.log.count("Accepted publickey")

    def address(self, server_id: str, *, host_key: str = "", private_key: str = "") -> GuestAddress:
        return GuestAddress(
            server_id=server_id,
            host="127.0.0.1",
            port=self.port,
            host_key=host_key or self.host_public,
            private_key=private_key or self.private,
        )
