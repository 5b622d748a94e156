"""A tenant's machine: the service image as an ordinary Linux with the kernel's NFS client, on a tenant network."""

from __future__ import annotations

import io
import shlex
import time
from dataclasses import dataclass, field

import paramiko

from sharewright.clouds.contract import (
    TAG_DEPLOYMENT,
    TAG_OWNER,
    Cloud,
    Flavor,
    Instance,
    InstanceSpec,
    Port,
    PortSpec,
    Subnet,
)
from sharewright.identifiers import derived_id
from sharewright.service_instance.config_drive import Link, build
from sharewright.service_instance.keys import new_key_pair

FORCED_SHELL = r'command="/bin/bash -c \"$SSH_ORIGINAL_COMMAND\""'


class CommandFailed(AssertionError):
    """A command on the client ended with another exit code than 0."""

    def __init__(self, command: str, code: int, output: str) -> None:
        super().__init__(f"{command!r} exited with {code}:\n{output}")
        self.code = code
        self.output = output


@dataclass
class ClientVm:
    cloud: Cloud
    instance: Instance
    port: Port
    host_key: str
    private_key: str = field(repr=False)
    _ssh: paramiko.SSHClient | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        return str(self.port.address)

    @classmethod
    def boot(cls, cloud: Cloud, subnet: Subnet, name: str, image: str) -> ClientVm:
        """Start it; return before it has booted."""
        tags = {TAG_DEPLOYMENT: cloud.deployment, TAG_OWNER: f"client_machine:{derived_id(cloud.deployment, name)}"}
        keys, host_keys = new_key_pair(), new_key_pair()
        port = cloud.networks.ensure_port(PortSpec(name=name, subnet=subnet, tags=tags, allowed_tcp=(22,)), timeout=60)
        files = build(
            server_id=name,
            name=name,
            links=[Link(role="tenant", port=port, gateway=subnet.gateway)],
            authorized_keys=[f"{FORCED_SHELL} {keys.public}"],
            host_private_key=host_keys.private,
            firewall=None,
        )
        spec = InstanceSpec(name=name, image=image, flavor=Flavor(), ports=(port,), files=files, tags=tags)
        instance = cloud.compute.ensure_instance(spec, timeout=120)
        return cls(cloud=cloud, instance=instance, port=port, host_key=host_keys.public, private_key=keys.private)

    def wait(self, seconds: float = 240) -> ClientVm:
        """Connect, as soon as sshd answers."""
        end = time.monotonic() + seconds
        while True:
            try:
                self._connect()
                return self
            except (OSError, paramiko.SSHException, EOFError):
                if time.monotonic() > end:
                    log = self.cloud.compute.console_log(self.instance.id)
                    raise TimeoutError(f"The client did not boot in {seconds} s. Its console:\n{log}") from None
                time.sleep(0.5)

    def run(self, command: str, *, timeout: float = 120, check: bool = True) -> str:
        """The output (both streams) of a shell command."""
        if self._ssh is None or self._ssh.get_transport() is None or not self._ssh.get_transport().is_active():
            self._connect()
        assert self._ssh is not None
        # No quotes of ours reach the forced command's shell unquoted: it evaluates this one word.
        _, stdout, _ = self._ssh.exec_command(f"{command} 2>&1", timeout=timeout)
        output = stdout.read().decode(errors="replace")
        code = stdout.channel.recv_exit_status()
        if check and code != 0:
            raise CommandFailed(command, code, output)
        return output

    def mount(self, export: str, path: str, *, options: str = "vers=4.2,hard", seconds: int = 90) -> None:
        """CommandFailed when it is refused, or when nothing answers for that long."""
        self.run(
            f"mkdir -p {shlex.quote(path)} && "
            f"timeout {seconds} mount -t nfs -o {options} {shlex.quote(export)} {shlex.quote(path)}"
        )

    def unmount(self, path: str) -> None:
        self.run(f"umount {shlex.quote(path)}")

    def can_connect(self, address: str, port: int, *, seconds: float = 3) -> bool:
        """Whether a TCP connection from this machine succeeds."""
        probe = f"timeout {seconds} bash -c '</dev/tcp/{address}/{port}' && echo open || echo closed"
        return self.run(probe).strip().endswith("open")

    def delete(self) -> None:
        if self._ssh is not None:
            self._ssh.close()
        self.cloud.compute.delete_instance(self.instance.id, timeout=60)
        self.cloud.networks.delete_port(self.port.id, timeout=60)

    def _connect(self) -> None:
        client = paramiko.SSHClient()
        kind, blob = self.host_key.split()[:2]
        client.get_host_keys().add(self.address, kind, paramiko.PKey.from_type_string(kind, _decode(blob)))
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        client.connect(
            self.address,
            username="root",
            pkey=paramiko.Ed25519Key.from_private_key(io.StringIO(self.private_key)),
            allow_agent=False,
            look_for_keys=False,
            timeout=5,
            banner_timeout=20,
            auth_timeout=20,
        )
        self._ssh = client


def _decode(blob: str) -> bytes:
    import base64

    return base64.b64decode(blob)
