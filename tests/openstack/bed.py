"""What the tests and the benchmark need of a real OpenStack: projects, tenants with networks of their own, the way to
the service VMs, and the processes of the test bed's services.

Everything is made under a name of its own and removed at the end; nothing else on the cloud is touched.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any, cast

import pytest
from openstack.connection import Connection
from openstack.identity.v3._proxy import Proxy as Identity

from deployment import wait_for
from keystone_world import as_arguments, connect

OPENRC = Path("/var/tmp/openstack-testbed/etc/openrc")
EXTERNAL = "public"
CONTROLLER = "10.253.0.1"  # this host on the external network
OUTSIDE = "br-pub"  # its device there
ADMIN_TABLE = "251"  # of routes
GENEROUS = {"security_groups": 100, "security_group_rule": 1000, "ports": 200, "networks": 100, "subnets": 100}


def openrc() -> Path:
    """The file that SHAREWRIGHT_OPENRC names, or the test bed's."""
    path = Path(os.environ.get("SHAREWRIGHT_OPENRC", OPENRC))
    if not path.exists():
        pytest.fail(f"There is no {path}; ./check --openstack starts the test bed. Or: -m 'not openstack'.")
    return path


def administrator() -> dict[str, str]:
    """The OS_ variables of the openrc file."""
    return dict(re.findall(r"(OS_\w+)=(\S+)", openrc().read_text()))


@dataclass(frozen=True)
class Account:
    """A user with a project of the same name."""

    name: str
    password: str
    project_id: str

    def variables(self) -> dict[str, str]:
        admin = administrator()
        kept = ("OS_AUTH_URL", "OS_REGION_NAME", "OS_IDENTITY_API_VERSION")
        return {key: admin[key] for key in kept if key in admin} | {
            "OS_USERNAME": self.name, "OS_PASSWORD": self.password, "OS_PROJECT_NAME": self.name,
            "OS_USER_DOMAIN_NAME": "Default", "OS_PROJECT_DOMAIN_NAME": "Default",
        }  # fmt: skip

    def arguments(self) -> dict[str, str]:
        """As openstacksdk wants them."""
        return as_arguments(self.variables())

    def connect(self) -> Connection:
        return connect(self.variables())


@dataclass(frozen=True)
class TenantNetwork:
    network_id: str
    subnet_id: str
    router_id: str


@dataclass(frozen=True)
class FloatingAddress:
    id: str
    address: str


class Bed:
    """The administrator's view, and what is made with it. Use as a context manager: at its end all of it is removed,
    newest first."""

    def __init__(self, pool: str) -> None:
        """``pool``: where the service subnets are going to be, one CIDR."""
        self.pool = pool
        self.mark = f"swst-{uuid.uuid4().hex[:6]}"
        self.sdk = connect(administrator())
        self._identity = cast(Identity, self.sdk.identity)
        self._undo = ExitStack()
        self._undo.callback(self.sdk.close)

    def __enter__(self) -> Bed:
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    # ---- accounts ----

    def account(self, name: str, *roles: str) -> Account:
        """A project and a user of it, with these roles there."""
        full = f"{self.mark}-{name}"
        password = uuid.uuid4().hex
        project = self._identity.create_project(name=full, domain_id="default")
        self._undo.callback(self._identity.delete_project, project)
        user = self._identity.create_user(name=full, password=password, domain_id="default")
        self._undo.callback(self._identity.delete_user, user)
        for role in roles:
            self._identity.assign_project_role_to_user(
                project, user, self._identity.find_role(role, ignore_missing=False)
            )
        self._undo.callback(self._remove_default_group, project.id)
        return Account(full, password, project.id)

    def be_generous(self, account: Account) -> None:
        """Quotas for many share servers."""
        self.sdk.network.update_quota(account.project_id, **GENEROUS)
        self.sdk.compute.put(
            f"/os-quota-sets/{account.project_id}", json={"quota_set": {"instances": 30, "cores": 60}}, raise_exc=True
        )
        cast(Any, self.sdk.block_storage).put(
            f"/os-quota-sets/{account.project_id}",
            json={"quota_set": {"volumes": 200, "gigabytes": 2000}},
            raise_exc=True,
        )

    def second_volume_type(self) -> str:
        """Another volume type of what the bed has; its name."""
        volumes = cast(Any, self.sdk.block_storage)
        specs = next(iter(volumes.types())).extra_specs
        made = volumes.create_type(name=f"{self.mark}-second", extra_specs=specs)
        self._undo.callback(volumes.delete_type, made)
        return str(made.name)

    def flavor(self, like: str, **changes: int) -> str:
        """Another flavor; its name."""
        model = self.sdk.compute.find_flavor(like, ignore_missing=False)
        values = {"ram": model.ram, "vcpus": model.vcpus, "disk": model.disk} | changes
        made = self.sdk.compute.create_flavor(name=f"{self.mark}-flavor", **values)
        self._undo.callback(self.sdk.compute.delete_flavor, made)
        return str(made.name)

    def _remove_default_group(self, project_id: str) -> None:
        for group in self.sdk.network.security_groups(project_id=project_id):
            self.sdk.network.delete_security_group(group)

    # ---- networks ----

    def management_router(self) -> str:
        """The router between the service subnets and this host, which gets a route through it. Returns its name."""
        router, address = self._router("management")
        self._route([self.pool, "via", address])
        return str(router.name)

    def admin_network(self, cidr: str) -> TenantNetwork:
        """A network of the operator's, which no tenant sees; this host reaches it through its router. The route is for
        the host's own packets: it is the gateway of the tenants' routers, too, and would lead them there."""
        name = f"{self.mark}-admin"
        network = self.sdk.network.create_network(name=name)
        self._undo.callback(self.sdk.network.delete_network, network)
        subnet = self.sdk.network.create_subnet(name=name, network_id=network.id, ip_version=4, cidr=cidr)
        router, address = self._router("admin")
        self.sdk.network.add_interface_to_router(router, subnet_id=subnet.id)
        self._undo.callback(self.sdk.network.remove_interface_from_router, router, subnet_id=subnet.id)
        self._ip("rule", ["iif", "lo", "to", cidr, "lookup", ADMIN_TABLE, "pref", "1000"])
        self._route([cidr, "via", address, "dev", OUTSIDE, "table", ADMIN_TABLE])
        return TenantNetwork(network.id, subnet.id, router.id)

    def _router(self, name: str) -> tuple[Any, str]:
        """One to the outside that rewrites no address, and its address there."""
        outside = self.sdk.network.find_network(EXTERNAL, ignore_missing=False)
        router = self.sdk.network.create_router(
            name=f"{self.mark}-{name}", external_gateway_info={"network_id": outside.id, "enable_snat": False}
        )
        self._undo.callback(self.sdk.network.delete_router, router)
        return router, str(router.external_gateway_info["external_fixed_ips"][0]["ip_address"])

    def _route(self, route: list[str]) -> None:
        self._ip("route", route)

    def _ip(self, kind: str, what: list[str]) -> None:
        """Add a route or a rule to this host, until the end."""
        subprocess.run(["ip", kind, "add", *what], check=True)
        self._undo.callback(subprocess.run, ["ip", kind, "delete", *what], check=True)

    def tenant_network(self, account: Account, cidr: str) -> TenantNetwork:
        """A network with a router to the outside, made by the tenant himself."""
        sdk = account.connect()
        self._undo.callback(sdk.close)
        network = sdk.network.create_network(name=account.name)
        self._undo.callback(sdk.network.delete_network, network)
        subnet = sdk.network.create_subnet(name=account.name, network_id=network.id, ip_version=4, cidr=cidr)
        outside = sdk.network.find_network(EXTERNAL, ignore_missing=False)
        router = sdk.network.create_router(name=account.name, external_gateway_info={"network_id": outside.id})
        self._undo.callback(sdk.network.delete_router, router)
        sdk.network.add_interface_to_router(router, subnet_id=subnet.id)
        self._undo.callback(sdk.network.remove_interface_from_router, router, subnet_id=subnet.id)
        return TenantNetwork(network.id, subnet.id, router.id)

    def floating_address(self, account: Account) -> FloatingAddress:
        """One of the account's project, for a port that is going to be."""
        outside = self.sdk.network.find_network(EXTERNAL, ignore_missing=False)
        made = self.sdk.network.create_ip(floating_network_id=outside.id, project_id=account.project_id)
        self._undo.callback(self.sdk.network.delete_ip, made)
        return FloatingAddress(str(made.id), str(made.floating_ip_address))

    def bind(self, floating: FloatingAddress, port_id: str) -> None:
        """With the port's description, by which whoever made the port knows what is his."""
        description = self.sdk.network.get_port(port_id).description
        self.sdk.network.update_ip(floating.id, port_id=port_id, description=description)

    def further_network(self, account: Account, cidr: str) -> tuple[str, str]:
        """A network without a router, made by the tenant himself; its id and its subnet's."""
        with account.connect() as sdk:
            network = sdk.network.create_network(name=f"{account.name}-further")
            self._undo.callback(self.sdk.network.delete_network, network)
            version = ip_network(cidr).version
            subnet = sdk.network.create_subnet(name=network.name, network_id=network.id, ip_version=version, cidr=cidr)
        return str(network.id), str(subnet.id)


class Services:
    """The processes of the test bed, by the names of their pid files."""

    def __init__(self) -> None:
        self._state = openrc().parents[1]

    def _pid_file(self, name: str) -> Path:
        return self._state / "run" / f"{name}.pid"

    @contextmanager
    def stopped(self, name: str) -> Iterator[None]:
        """End the service's process and everything of its session; at the end start it again, as it was."""
        pid = int(self._pid_file(name).read_text())
        process = Path(f"/proc/{pid}")
        command = process.joinpath("cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        pairs = (pair.partition(b"=") for pair in process.joinpath("environ").read_bytes().split(b"\0") if pair)
        environment = {key: value for key, _, value in pairs}
        try:
            self._end(pid)
            yield
        finally:
            with (self._state / "log" / f"{name}.out").open("ab") as log:
                # A session of its own: by its id the test bed's `down` ends it.
                started = subprocess.Popen(
                    command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
                    start_new_session=True,
                )  # fmt: skip
            self._pid_file(name).write_text(f"{started.pid}\n")

    @staticmethod
    def _end(pid: int) -> None:
        os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + 5
        while _session(pid) and time.monotonic() < end:
            time.sleep(0.1)
        for each in _session(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        wait_for(f"the end of session {pid}", lambda: not _session(pid), seconds=10, interval=0.1)


def _session(leader: int) -> list[int]:
    """The living processes of a session."""
    found = subprocess.run(
        ["ps", "-o", "pid=,stat=", "-s", str(leader)], capture_output=True, text=True, check=False
    ).stdout.splitlines()
    return [int(line.split()[0]) for line in found if "Z" not in line.split()[1]]
