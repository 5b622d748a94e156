"""The contract's networks on Neutron: tenants' networks as they are, service networks and ports of our own."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from ipaddress import ip_network

from openstack.network.v2.network import Network as NeutronNetwork
from openstack.network.v2.subnet import Subnet as NeutronSubnet

from sharewright.clouds.contract import (
    Address,
    AdminNetwork,
    Cidr,
    Network,
    Port,
    PortSpec,
    ServiceSubnetSpec,
    Subnet,
    Tags,
    cloud_calls,
)
from sharewright.clouds.openstack.connection import PATIENCE, Connection
from sharewright.clouds.openstack.management import management_of
from sharewright.clouds.openstack.neutron import Neutron
from sharewright.clouds.openstack.polling import Deadline
from sharewright.clouds.openstack.ports import Ports
from sharewright.clouds.openstack.routers import Routers
from sharewright.clouds.openstack.security_groups import SecurityGroups
from sharewright.clouds.openstack.service_networks import TAG_KIND, ServiceNetworks, make_subnet, remaining, shown
from sharewright.clouds.openstack.tags import deployment_tag, from_description, is_ours, to_description
from sharewright.clouds.tags import tags_to_store
from sharewright.errors import CloudError, CloudObjectMissing
from sharewright.identifiers import is_id
from sharewright.settings import OpenStack

SMALLEST = 8
TENANT = "tenant"
REPAIR_SECONDS = 60.0


class OpenStackNetworks:
    """Contracts Networks and TenantNetworks. On OpenStack tenants make their networks themselves, in their own
    projects; ``create_network`` is for tests and demonstrations."""

    def __init__(
        self,
        connection: Connection,
        deployment: str,
        settings: OpenStack,
        *,
        keystone_projects: bool = True,
        service_networks: bool = True,
    ) -> None:
        """``keystone_projects``: the ids of our callers' projects are those of Neutron's owners. ``service_networks``:
        some are needed, and so is a way to them."""
        self._needs_management = service_networks
        self._deployment = deployment
        self._keystone_projects = keystone_projects
        self._neutron = Neutron(connection, deployment)
        self._groups = SecurityGroups(self._neutron)
        self._ports = Ports(self._neutron, self._groups)
        self._routers = Routers(self._neutron)
        self._management = management_of(settings, self._neutron, self._routers, self._groups)
        self._services = ServiceNetworks(self._neutron, self._ports, self._routers, self._management)
        self._controllers = tuple(ip_network(cidr) for cidr in settings.management_cidrs)
        self._lock = threading.Lock()
        self._repaired: float | None = None

    def check(self) -> None:
        """CloudError, with a hint, when the configuration does not fit the cloud; then ``repair``."""
        if self._needs_management:
            self._management.check(Deadline(PATIENCE))
        self._repair()

    # ---- tenants' networks ----

    def find_subnet(self, network_id: str, subnet_id: str | None, *, project_id: str | None = None) -> Subnet | None:
        cloud_calls.count += 1
        if not is_id(network_id):
            return None
        deadline = Deadline(PATIENCE)
        found = self._neutron.call(
            "looking for a tenant's subnet", lambda sdk: list(sdk.network.subnets(network_id=network_id)), deadline
        )
        if any(self._services.is_ours(each) for each in found):
            return None
        if found and project_id is not None and not self._may_use(project_id, found[0], deadline):
            return None
        found.sort(key=lambda each: (each.ip_version, str(each.created_at), str(each.id)))
        if subnet_id not in (None, network_id):
            found = [each for each in found if each.id == subnet_id]
        try:
            return self._neutron.subnet(found[0], deadline) if found else None
        except CloudObjectMissing:
            return None

    def find_admin_network(self, network_id: str, subnet_id: str) -> AdminNetwork | None:
        """The operator's routers lead to it, whatever ``openstack.management`` says about service networks."""
        subnet = self.find_subnet(network_id, subnet_id)
        if subnet is None:
            return None
        if not self._controllers:
            raise CloudError(
                "openstack.management_cidrs is empty, so nobody could log in to service VMs over the admin network.",
                hint="List the networks that the controllers' connections come from, as machines there see them.",
            )
        return AdminNetwork(subnet=subnet, management=self._controllers)

    def _may_use(self, project_id: str, subnet: NeutronSubnet, deadline: Deadline) -> bool:
        """Whether the project owns the network, or somebody shares it with the project or with everybody."""
        if not self._keystone_projects or subnet.project_id == project_id:
            return True
        policies = self._neutron.call(
            "looking who shares a network",
            lambda sdk: list(sdk.network.rbac_policies(object_id=subnet.network_id, action="access_as_shared")),
            deadline,
        )
        return any(policy.target_project_id in (project_id, "*") for policy in policies)

    def create_network(self, name: str, cidr: Cidr, *, project_id: str | None = None) -> Network:
        cloud_calls.count += 1
        if cidr.num_addresses < SMALLEST:
            raise CloudError(f"Network {cidr} is too small.", hint="Use at least 8 addresses (/29 or /125).")
        deadline = Deadline(PATIENCE)
        tags = {**tags_to_store({}, self._deployment, name), TAG_KIND: TENANT}
        description = to_description(tags, name)
        owner = {} if project_id is None else {"project_id": project_id}
        with self._neutron.connection.locks.hold(f"network {name}", deadline):
            if any(each.name == name for each in self._tenant_networks(deadline)):
                raise CloudError(f"A network named {name} exists already.", hint="Choose another name.")
            network = self._neutron.connection.create(
                f"making network {name}",
                lambda sdk: sdk.network.create_network(name=name, description=description, **owner),
                again=lambda sdk: self._tagged(list(sdk.network.networks(name=name)), kind=TENANT),
                deadline=deadline,
            )
            self._neutron.remember(network)
            subnet = make_subnet(self._neutron, network, name, cidr, description, deadline, enable_dhcp=True, **owner)
            self._neutron.call(
                f"tagging network {name}",
                lambda sdk: sdk.network.set_tags(network, [deployment_tag(self._deployment)]),
                deadline,
            )
        return self._network(network, [self._neutron.subnet(subnet, deadline)])

    def list_networks(self) -> Sequence[Network]:
        cloud_calls.count += 1
        deadline = Deadline(PATIENCE)
        found = self._tenant_networks(deadline)
        identifiers = [identifier for each in found for identifier in each.subnet_ids or ()]
        subnets = self._neutron.subnets_by_id(identifiers, deadline)
        return [
            self._network(each, [subnets[key] for key in each.subnet_ids or () if key in subnets]) for each in found
        ]

    def delete_network(self, network_id: str) -> None:
        cloud_calls.count += 1
        deadline = Deadline(PATIENCE)
        network = self._find_network(network_id, deadline)
        if network is None or from_description(network.description).get(TAG_KIND) != TENANT:
            return
        ports = remaining(self._routers.on(network_id, deadline))
        if ports:
            raise CloudError(
                f"{network.name} still has port {shown(ports[0])} on it.", hint="Delete the servers on it first."
            )
        self._services.delete_network(network_id, deadline)

    # ---- service subnets ----

    def ensure_service_subnet(self, spec: ServiceSubnetSpec, *, timeout: float) -> Subnet:
        cloud_calls.count += 1
        tags = tags_to_store(spec.tags, self._deployment, spec.name)
        return self._services.ensure(spec, tags, Deadline(timeout))

    def list_service_subnets(self) -> Sequence[tuple[Subnet, Tags]]:
        """A network whose subnet was not made, because its maker died, is listed under the network's id."""
        cloud_calls.count += 1
        return self._services.all(Deadline(PATIENCE))

    def delete_service_subnet(self, subnet_id: str, *, timeout: float) -> None:
        cloud_calls.count += 1
        deadline = Deadline(timeout)
        if is_id(subnet_id) and self._services.delete(subnet_id, deadline):
            self._groups.remove_unused(deadline)

    def management_sources(self, subnet: Subnet) -> tuple[Cidr, ...]:
        return self._management.sources(subnet)

    def ensure_reachable(self, port: Port, *, timeout: float) -> Address:
        return self._management.ensure_reachable(port, Deadline(timeout))

    def repair(self) -> None:
        now = time.monotonic()
        with self._lock:
            if self._repaired is not None and now - self._repaired < REPAIR_SECONDS:
                return
            self._repaired = now
        self._repair()

    def _repair(self) -> None:
        cloud_calls.count += 1
        deadline = Deadline(PATIENCE)
        self._groups.restore(deadline)
        if self._management.on_this_host:
            self._management.restore(self._services.subnets(deadline), deadline)

    # ---- ports ----

    def ensure_port(self, spec: PortSpec, *, timeout: float) -> Port:
        cloud_calls.count += 1
        return self._ports.ensure(spec, tags_to_store(spec.tags, self._deployment, spec.name), Deadline(timeout))

    def list_ports(self) -> Sequence[Port]:
        cloud_calls.count += 1
        return self._ports.all(Deadline(PATIENCE))

    def delete_port(self, port_id: str, *, timeout: float) -> None:
        cloud_calls.count += 1
        deadline = Deadline(timeout)
        found = self._ports.find(port_id, deadline)
        if found is None:
            return
        self._ports.refuse_if_held(found, deadline)
        self._management.release_port(port_id, deadline)
        self._ports.delete(port_id, deadline)

    # ---- for the cloud object ----

    def purge(self, *, timeout: float) -> None:
        """Delete every port, network and filter of this deployment. The instances are gone."""
        for port in self.list_ports():
            self.delete_port(port.id, timeout=timeout)
        for subnet, _ in self.list_service_subnets():
            self.delete_service_subnet(subnet.id, timeout=timeout)
        for network in self.list_networks():
            self.delete_network(network.id)
        self._groups.remove_unused(Deadline(timeout))

    # ---- parts ----

    def _find_network(self, network_id: str, deadline: Deadline) -> NeutronNetwork | None:
        """A network with our deployment's description."""
        if not is_id(network_id):
            return None
        found = self._neutron.look("looking at a network", lambda sdk: sdk.network.get_network(network_id), deadline)
        if found is None or not is_ours(from_description(found.description), self._deployment):
            return None
        return found

    def _tenant_networks(self, deadline: Deadline) -> list[NeutronNetwork]:
        found = self._neutron.call(
            "listing networks",
            lambda sdk: list(sdk.network.networks(tags=deployment_tag(self._deployment))),
            deadline,
        )
        ours = [each for each in found if self._tagged([each], kind=TENANT)]
        return sorted(ours, key=lambda each: str(each.name))

    def _tagged(self, found: Sequence[NeutronNetwork], *, kind: str) -> NeutronNetwork | None:
        for each in found:
            tags = from_description(each.description)
            if is_ours(tags, self._deployment) and tags.get(TAG_KIND) == kind:
                return each
        return None

    def _network(self, found: NeutronNetwork, subnets: Sequence[Subnet]) -> Network:
        return Network(id=str(found.id), name=str(found.name), subnets=tuple(subnets), project_id=str(found.project_id))
