"""A tenant's machine: the service image as an ordinary Linux with the kernel's NFS client, on a tenant network."""

from __future__ import annotations

import io
import shlex
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import paramiko

import probes
from deployment import PATIENCE
from sharewright.cli.client_machine import ClientMachine
from sharewright.clouds.contract import Address, Cloud, Subnet


class CommandFailed(AssertionError):
    """A command on the client ended with another exit code than 0."""

    def __init__(self, command: str, code: int, output: str) -> None:
        super().__init__(f"{command!r} exited with {code}:\n{output}")
        self.code = code
        self.output = output


@dataclass
class ClientVm:
    """quickstart's client machine with one SSH connection that is kept open: a handshake costs 2 s under emulation."""

    cloud: Cloud
    machine: ClientMachine
    beside: Callable[[str], ClientVm] | None = field(default=None, repr=False)
    _ssh: paramiko.SSHClient | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        return self.machine.address

    @classmethod
    def boot(
        cls,
        cloud: Cloud,
        subnet: Subnet,
        name: str,
        image: str,
        directory: Path,
        *,
        address: Address | None = None,
        ports: tuple[int, ...] = (),
        keys: tuple[str, ...] = (),
        place: Callable[[str], None] | None = None,
    ) -> ClientVm:
        """Start it; return before it has booted. ``directory`` keeps its keys; ``beside(name)`` boots another one on
        the same network. Others reach it at ``ports`` (TCP), and it admits ``keys`` (lines of authorized_keys);
        ``place`` is told the id of its port before it is there."""
        machine = ClientMachine(
            cloud, name=name, directory=directory, image=image, subnet=subnet, backend="client",
            wanted_address=address, more_ports=ports, more_keys=keys,
        )  # fmt: skip
        if place is not None:
            place(machine.ensure_port().id)
        machine.ensure(timeout=120 * PATIENCE)

        def beside(other: str) -> ClientVm:
            return cls.boot(cloud, subnet, other, image, directory.with_name(other))

        return cls(cloud, machine, beside)

    def wait(self, seconds: float = 240) -> ClientVm:
        """Connect, as soon as sshd answers."""
        end = time.monotonic() + seconds * PATIENCE
        while True:
            try:
                self._connect()
                return self
            except (OSError, paramiko.SSHException, EOFError):
                if time.monotonic() > end:
                    log = self.cloud.compute.console_log(self.machine.instance_id)
                    raise TimeoutError(
                        f"The client did not boot in {seconds * PATIENCE:g} s. Its console:\n{log}"
                    ) from None
                time.sleep(0.5)

    def run(self, command: str, *, timeout: float = 120, check: bool = True) -> str:
        """The output (both streams) of a shell command."""
        # No quotes of ours reach the forced command's shell unquoted: it evaluates this one word.
        _, stdout, _ = self._connected().exec_command(f"{{ {command}\n}} 2>&1", timeout=timeout * PATIENCE)
        output = stdout.read().decode(errors="replace")
        code = stdout.channel.recv_exit_status()
        if check and code != 0:
            raise CommandFailed(command, code, output)
        return output

    def open(self, command: str) -> paramiko.Channel:
        """A shell command that goes on running, with its input and output."""
        transport = self._connected().get_transport()
        assert transport is not None
        channel = transport.open_session()
        channel.exec_command(command)
        return channel

    def mount(self, export: str, path: str, *, options: str = "vers=4.2,hard", seconds: int = 90) -> None:
        """CommandFailed when it is refused, or when nothing answers for that long."""
        self.run(
            f"mkdir -p {shlex.quote(path)} && "
            f"timeout {seconds * PATIENCE:g} mount -t nfs -o {options} {shlex.quote(export)} {shlex.quote(path)}"
        )

    def unmount(self, path: str) -> None:
        self.run(f"umount {shlex.quote(path)}")

    def can_connect(self, address: str, port: int, *, seconds: float = 3) -> bool:
        """Whether a TCP connection from this machine succeeds; several are better asked for at once, with opens()."""
        return bool(self.opens([(address, port)], seconds=seconds))

    def opens(self, targets: Iterable[tuple[object, int]], *, seconds: float = 3) -> set[probes.Target]:
        """Those of addresses with ports to which a TCP connection from this machine succeeds."""
        arguments = ("python3", "-c", probes.CONNECT_TO, *probes.arguments(targets, seconds))
        return probes.opened(self.run(shlex.join(arguments)))

    def delete(self) -> None:
        if self._ssh is not None:
            self._ssh.close()
        self.machine.delete()

    def _connected(self) -> paramiko.SSHClient:
        if self._ssh is None or self._ssh.get_transport() is None or not self._ssh.get_transport().is_active():
            self._connect()
        assert self._ssh is not None
        return self._ssh

    def _connect(self) -> None:
        client = paramiko.SSHClient()
        client.load_host_keys(str(self.machine.known_hosts))
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        client.connect(
            self.machine.reached_at,
            username="root",
            pkey=paramiko.Ed25519Key.from_private_key(io.StringIO(self.machine.private_key)),
            allow_agent=False,
            look_for_keys=False,
            timeout=5,
            banner_timeout=20,
            auth_timeout=20,
        )
        self._ssh = client
