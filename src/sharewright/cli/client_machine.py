"""A tenant's machine for trying shares out: a small VM with the kernel NFS client, reached over SSH from this host.

It is the service image, booted without a share server's job: its config drive admits one key, whose forced command is
the caller's own command line. Everything about it is found again by name, so making it twice is making it once.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from sharewright.clouds.contract import (
    TAG_BACKEND,
    TAG_DEPLOYMENT,
    TAG_OWNER,
    Address,
    Cloud,
    Flavor,
    InstanceSpec,
    Port,
    PortSpec,
    Subnet,
)
from sharewright.errors import DeadlineExceeded, GuestError
from sharewright.identifiers import derived_id
from sharewright.service_instance import config_drive
from sharewright.service_instance.keys import new_key_pair, public_of

# The image's SSH server admits keys with a forced command only; this one runs what the caller asks for.
FORCED_COMMAND = r"/bin/bash -c \"${SSH_ORIGINAL_COMMAND:-exec /bin/bash -l}\""


class ClientMachine:
    """``directory`` keeps its keys and an ssh configuration (``ssh -F <directory>/ssh_config client``).

    ``wanted_address``, ``more_ports`` (TCP) and ``more_keys`` (lines of authorized_keys) are for a machine that is to
    serve something."""

    def __init__(
        self,
        cloud: Cloud,
        *,
        name: str,
        directory: Path,
        image: str,
        subnet: Subnet,
        backend: str,
        wanted_address: Address | None = None,
        more_ports: tuple[int, ...] = (),
        more_keys: tuple[str, ...] = (),
    ) -> None:
        self._wanted_address = wanted_address
        self._ports = (22, *more_ports)
        self._more_keys = more_keys
        self._cloud = cloud
        self._name = name
        self._directory = directory
        self._image = image
        self._subnet = subnet
        self._tags = {
            TAG_DEPLOYMENT: cloud.deployment,
            TAG_BACKEND: backend,
            TAG_OWNER: f"client_machine:{derived_id(cloud.deployment, name)}",
        }
        self.address = ""  # on its network
        self.reached_at = ""  # from this host: a floating address, where the cloud has such
        self.instance_id = ""
        self._port_id = ""

    @property
    def ssh_configuration(self) -> Path:
        return self._directory / "ssh_config"

    @property
    def known_hosts(self) -> Path:
        return self._directory / "known_hosts"

    @property
    def private_key(self) -> str:
        """The key that logs in, in OpenSSH's format."""
        return self._private_key("client_key").read_text()

    def ensure(self, *, timeout: float = 120.0) -> None:
        """Make it, or start it when it is stopped. Returns when it runs, not when it has booted."""
        login, host = self._private_key("client_key"), self._private_key("client_host_key")
        port = self.ensure_port(timeout=timeout)
        self.address, self._port_id = str(port.address), port.id
        self.reached_at = str(self._cloud.networks.ensure_reachable(port, timeout=timeout))
        files = config_drive.build(
            server_id=derived_id(self._cloud.deployment, self._name),
            name=self._name,
            links=[config_drive.Link(name="tenant", port=port, gateway=self._subnet.gateway)],
            authorized_keys=[
                f'command="{FORCED_COMMAND}" {public_of(login.read_text())} client',
                *self._more_keys,
            ],
            host_private_key=host.read_text(),
            firewall=None,
        )
        self._write_ssh_configuration(public_of(host.read_text()), login)
        instance = self._cloud.compute.ensure_instance(
            InstanceSpec(
                name=self._name,
                image=self._image,
                flavor=Flavor(vcpus=1, memory_mib=512),
                ports=(port,),
                files=files,
                tags=self._tags,
            ),
            timeout=timeout,
        )
        self.instance_id = instance.id

    def ensure_port(self, *, timeout: float = 120.0) -> Port:
        """Its NIC's, which may be there before it is."""
        return self._cloud.networks.ensure_port(
            PortSpec(
                name=f"{self._name}-port",
                subnet=self._subnet,
                tags=self._tags,
                allowed_tcp=self._ports,
                address=self._wanted_address,
            ),
            timeout=timeout,
        )

    def delete(self, *, timeout: float = 60.0) -> None:
        """Delete what ``ensure`` made; its keys stay."""
        self._cloud.compute.delete_instance(self.instance_id, timeout=timeout)
        self._cloud.networks.delete_port(self._port_id, timeout=timeout)

    def wait_ready(self, *, timeout: float) -> None:
        """Return when it answers over SSH. Raises DeadlineExceeded with the end of its console."""
        end = time.monotonic() + timeout
        reason = ""
        while time.monotonic() < end:
            try:
                self.run("true", timeout=15)
                return
            except GuestError as error:
                reason = error.message
            time.sleep(0.5)
        console = self._cloud.compute.console_log(self.instance_id, length=2000)
        raise DeadlineExceeded(
            f"The client machine {self._name} did not answer within {timeout:.0f} s: {reason}",
            hint=f"The end of its console:\n{console}",
        )

    def run(self, script: str, *lines: str, timeout: float) -> str:
        """Run a bash script there and return its standard output. ``script`` is a constant; data goes in ``lines``,
        one per ``read``. Raises GuestError."""
        command = ["ssh", "-F", str(self.ssh_configuration), "client", script]
        try:
            done = subprocess.run(
                command,
                input="".join(f"{line}\n" for line in lines),
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise GuestError(f"The client machine did not answer within {timeout:.0f} s.") from None
        except FileNotFoundError:
            raise GuestError("There is no ssh program.", hint="apt-get install openssh-client") from None
        if done.returncode != 0:
            said = done.stderr.strip() or done.stdout.strip()
            raise GuestError(f"A command on the client machine failed ({done.returncode}): {said}")
        return done.stdout

    def _private_key(self, name: str) -> Path:
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / name
        if not path.exists():
            path.touch(mode=0o600)
        if not path.read_text():
            path.write_text(new_key_pair().private)
        return path

    def _write_ssh_configuration(self, host_key: str, login: Path) -> None:
        self.known_hosts.write_text(f"{self.reached_at} {host_key}\n")
        self.ssh_configuration.write_text(
            f"""Host client
  HostName {self.reached_at}
  User root
  IdentityFile {login}
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile {self.known_hosts}
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  HostKeyAlgorithms ssh-ed25519
  BatchMode yes
  ConnectTimeout 5
  ServerAliveInterval 15
  LogLevel ERROR
"""
        )
