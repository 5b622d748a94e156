"""``openstack.management = "host_port"``: each controller has a port on every service subnet, as upstream's has.

For hosts that run Neutron's Linux bridge agent. The port is bound to this host (Neutron lets administrators do that),
and a pair of virtual Ethernet devices is made for it: the agent puts the end named ``tap<first 11 of the port's id>``
on the network's bridge, the other end has the port's address. A device owner that begins with "compute:" would let the
agent wait for Nova. The port has a filter that lets nothing in, so that no service VM can open connections to the host.
"""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

import structlog
from openstack.connection import Connection as Sdk
from openstack.network.v2.port import Port as NeutronPort

from sharewright.clouds.contract import TAG_DEPLOYMENT, Address, Cidr, Port, Route, Subnet
from sharewright.clouds.openstack.neutron import Neutron, address_on
from sharewright.clouds.openstack.polling import Deadline, Pace, Wait
from sharewright.clouds.openstack.security_groups import Filter, SecurityGroups
from sharewright.clouds.openstack.tags import to_description
from sharewright.errors import CloudError

log = structlog.get_logger()

DEVICE_OWNER = "sharewright:host"
DEVICES = Path("/sys/class/net")
COMMAND_SECONDS = 30.0
NOTHING = Filter(admissions=(), outgoing=True)


class HostPort:
    """``host`` is this host's name in Neutron (``openstack network agent list``)."""

    on_this_host = True

    def __init__(self, neutron: Neutron, groups: SecurityGroups, host: str) -> None:
        self._neutron = neutron
        self._groups = groups
        self._host = host or socket.gethostname()
        self._alias = f"sharewright:{neutron.deployment}"
        self._pace = Pace(3.0)
        self._lock = threading.Lock()
        self._plugged: dict[str, str] = {}  # subnet → our device on it

    def check(self, deadline: Deadline) -> None:
        agents = self._neutron.call(
            "looking for this host's network agent",
            lambda sdk: [each for each in sdk.network.agents(host=self._host) if "bridge" in str(each.agent_type)],
            deadline,
        )
        if not agents:
            raise CloudError(
                f"Neutron has no Linux bridge agent on host {self._host}.",
                hint='openstack.management = "host_port" needs one; openstack.management_host is this host\'s name '
                "in: openstack network agent list.",
            )

    def routes(self, cidr: Cidr, *, routed_to_tenant: bool) -> tuple[Route, ...]:
        return ()  # the controllers are on the subnet

    def refuse(self, tenant: Subnet) -> None:
        """A tenant's subnet may be any."""

    def connect(
        self, subnet: Subnet, ports: Sequence[NeutronPort], deadline: Deadline, *, routed_to_tenant: bool
    ) -> None:
        """The port is made when the first machine is to be reached."""

    def sources(self, subnet: Subnet) -> tuple[Cidr, ...]:
        """Controllers' addresses come and go with their hosts; nobody else is on the subnet but our own machines."""
        return (subnet.cidr,)

    def ensure_reachable(self, port: Port, deadline: Deadline) -> Address:
        self._plug(port.subnet, deadline)
        return port.address

    def made(self, port: NeutronPort) -> bool:
        return port.device_owner == DEVICE_OWNER and self._neutron.owns(port)

    def release_port(self, port_id: str, deadline: Deadline) -> None:
        """Nothing was made for a port."""

    def release_subnet(self, ports: Sequence[NeutronPort], deadline: Deadline) -> list[NeutronPort]:
        """Delete all hosts' ports; another host removes its devices when it next looks."""
        for port in ports:
            if self.made(port):
                self._unplug(device_of(str(port.id)))
                self._delete(str(port.id), deadline)
        return [port for port in ports if not self.made(port)]

    def restore(self, subnets: Sequence[Subnet], deadline: Deadline) -> None:
        found = self._neutron.call(
            "listing this host's ports",
            lambda sdk: list(
                sdk.network.ports(device_owner=DEVICE_OWNER, device_id=self._host, project_id=self._neutron.project)
            ),
            deadline,
        )
        ports = {str(port.network_id): port for port in reversed(self._neutron.ours(found))}  # the oldest of each
        known = {each.id: device_of(str(ports[each.network_id].id)) for each in subnets if each.network_id in ports}
        with self._lock:  # what is not there any more is forgotten, so that it is made again, or its device removed
            self._plugged = {key: device for key, device in self._plugged.items() if known.get(key) == device}
        for subnet in subnets:
            self._plug(subnet, deadline, ports.get(subnet.network_id))
        with self._lock:
            wanted = set(self._plugged.values())
        for path in DEVICES.iterdir() if DEVICES.is_dir() else ():
            if path.name.startswith("swm") and path.name not in wanted and self._is_ours(path):
                self._unplug(path.name)

    # ---- the port ----

    def _plug(self, subnet: Subnet, deadline: Deadline, port: NeutronPort | None = None) -> None:
        with self._lock:
            device = self._plugged.get(subnet.id)
        if device is not None and (DEVICES / device).exists():
            return
        with self._neutron.connection.locks.hold(f"host port on {subnet.id}", deadline):
            if port is None:
                port = self._ensure_port(subnet, deadline)
            address = address_on(port, subnet.id)
            if address is None:
                raise CloudError(f"This host's port {port.id} has no address on {subnet.cidr}.", hint="Delete it.")
            device = device_of(str(port.id))
            self._make_device(device, port, address, subnet)
            self._await_binding(port, deadline)
        with self._lock:
            self._plugged[subnet.id] = device

    def _ensure_port(self, subnet: Subnet, deadline: Deadline) -> NeutronPort:
        def find(sdk: Sdk) -> NeutronPort | None:
            found = sdk.network.ports(network_id=subnet.network_id, device_owner=DEVICE_OWNER)
            return next((each for each in self._neutron.ours(found) if each.device_id == self._host), None)

        found = self._neutron.call("looking for this host's port", find, deadline)
        if found is not None:
            return found
        group = self._groups.ensure(NOTHING, deadline)
        name = f"sharewright-host-{self._host}"
        return self._neutron.connection.create(
            f"making a port for host {self._host}",
            lambda sdk: sdk.network.create_port(
                name=name,
                network_id=subnet.network_id,
                description=to_description({TAG_DEPLOYMENT: self._neutron.deployment}, name),
                fixed_ips=[{"subnet_id": subnet.id}],
                security_groups=[group],
                device_owner=DEVICE_OWNER,
                device_id=self._host,
                binding_host_id=self._host,
            ),
            again=find,
            deadline=deadline,
        )

    def _delete(self, port_id: str, deadline: Deadline) -> None:
        self._neutron.look("deleting a host's port", lambda sdk: sdk.network.delete_port(port_id), deadline)

    def _await_binding(self, port: NeutronPort, deadline: Deadline) -> None:
        """Until the agent has put the device on the bridge."""
        identifier = str(port.id)
        wait = Wait(f"Neutron's agent on {self._host} to plug port {identifier}", deadline, self._pace)
        current = port
        while current.status != "ACTIVE":
            if current.binding_vif_type == "binding_failed":
                raise CloudError(
                    f"Neutron could not bind port {identifier} to host {self._host}.",
                    hint="openstack.management_host must be this host's name in: openstack network agent list.",
                )
            wait.pause(str(current.status))
            current = self._neutron.call(
                "looking at this host's port", lambda sdk: sdk.network.get_port(identifier), deadline
            )
        wait.done()

    # ---- the device ----

    def _is_ours(self, path: Path) -> bool:
        try:
            return (path / "ifalias").read_text().strip() == self._alias
        except OSError:
            return False

    def _make_device(self, device: str, port: NeutronPort, address: Address, subnet: Subnet) -> None:
        tap = f"tap{str(port.id)[:11]}"
        if not (DEVICES / device).exists():
            _ip("link", "add", device, "address", str(port.mac_address), "type", "veth", "peer", "name", tap)
        _ip("link", "set", device, "alias", self._alias, "mtu", str(subnet.mtu))
        _ip("link", "set", tap, "mtu", str(subnet.mtu), "up")
        _ip("address", "replace", f"{address}/{subnet.cidr.prefixlen}", "dev", device)
        _ip("link", "set", device, "up")

    def _unplug(self, device: str) -> None:
        if (DEVICES / device).exists():
            _ip("link", "delete", device)
            log.info("host port unplugged", device=device)


def device_of(port_id: str) -> str:
    """The host's end of the pair; the other is the bridge agent's."""
    return f"swm{port_id[:11]}"


def _ip(*arguments: str) -> None:
    try:
        done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CloudError(f"The command ip failed: {error}.", hint="Install iproute2.") from error
    if done.returncode:
        raise CloudError(
            f"ip {' '.join(arguments)} failed: {done.stderr.strip()}.",
            hint='openstack.management = "host_port" makes network devices on this host: run as root, or with '
            "CAP_NET_ADMIN.",
        )
