"""``openstack.management = "host_port"``: each controller has a port on every service subnet, as upstream's has.

For hosts that run Neutron's Linux bridge or Open vSwitch agent, or OVN's controller. The port is bound to this host
(Neutron lets administrators do that), and gets a network device here (host_devices.py), which the agent plugs into the
network. A device owner that begins with "compute:" would let the agent wait for Nova. The port has a filter that lets
nothing in, so that no service VM can open connections to the host.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from typing import cast

from openstack.connection import Connection as Sdk
from openstack.network.v2.port import Port as NeutronPort

from sharewright.clouds.contract import TAG_DEPLOYMENT, Address, Cidr, Port, Route, Subnet
from sharewright.clouds.openstack.host_devices import HostDevices, Kind, device_of
from sharewright.clouds.openstack.neutron import Neutron, address_on
from sharewright.clouds.openstack.polling import Deadline, Pace, Wait
from sharewright.clouds.openstack.security_groups import Filter, SecurityGroups
from sharewright.clouds.openstack.tags import to_description
from sharewright.errors import CloudError

DEVICE_OWNER = "sharewright:host"
AGENTS = ("bridge", "open vswitch", "ovn controller")  # in the types of the agents that plug devices of a host
NOTHING = Filter(admissions=(), outgoing=True)


class HostPort:
    """``host`` is this host's name in Neutron (``openstack network agent list``)."""

    on_this_host = True

    def __init__(self, neutron: Neutron, groups: SecurityGroups, host: str) -> None:
        self._neutron = neutron
        self._groups = groups
        self._host = host or socket.gethostname()
        self._devices = HostDevices(f"sharewright:{neutron.deployment}")
        self._pace = Pace(3.0)
        self._lock = threading.Lock()
        self._plugged: dict[str, str] = {}  # subnet → our device on it

    def check(self, deadline: Deadline) -> None:
        agents = self._neutron.call(
            "looking for this host's network agent",
            lambda sdk: [
                each
                for each in sdk.network.agents(host=self._host)
                if any(name in str(each.agent_type).lower() for name in AGENTS)
            ],
            deadline,
        )
        if not agents:
            raise CloudError(
                f"Neutron has no Linux bridge, Open vSwitch or OVN agent on host {self._host}.",
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
                self._devices.remove(device_of(str(port.id)))
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
        for device in self._devices.ours():
            if device not in wanted:
                self._devices.remove(device)

    # ---- the port ----

    def _plug(self, subnet: Subnet, deadline: Deadline, port: NeutronPort | None = None) -> None:
        with self._lock:
            device = self._plugged.get(subnet.id)
        if device is not None and self._devices.exists(device):
            return
        with self._neutron.connection.locks.hold(f"host port on {subnet.id}", deadline):
            if port is None:
                port = self._ensure_port(subnet, deadline)
            address = address_on(port, subnet.id)
            if address is None:
                raise CloudError(f"This host's port {port.id} has no address on {subnet.cidr}.", hint="Delete it.")
            device = self._devices.make(
                self._kind(port),
                str(port.id),
                str(port.mac_address),
                address,
                subnet.cidr.prefixlen,
                subnet.mtu,
                bridge=str((port.binding_vif_details or {}).get("bridge_name") or ""),
            )
            self._await_plugging(port, deadline)
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

    def _kind(self, port: NeutronPort) -> Kind:
        """Neutron binds a port in the request that makes it."""
        found = str(port.binding_vif_type)
        if found in ("bridge", "ovs"):
            return cast(Kind, found)
        raise CloudError(
            f"Neutron could not bind port {port.id} to host {self._host} (binding:vif_type is {found}).",
            hint="openstack.management_host must be this host's name in: openstack network agent list.",
        )

    def _await_plugging(self, port: NeutronPort, deadline: Deadline) -> None:
        """Until the agent has plugged the device into the network."""
        identifier = str(port.id)
        wait = Wait(f"Neutron's agent on {self._host} to plug port {identifier}", deadline, self._pace)
        current = port
        while current.status != "ACTIVE":
            wait.pause(str(current.status))
            current = self._neutron.call(
                "looking at this host's port", lambda sdk: sdk.network.get_port(identifier), deadline
            )
        wait.done()
