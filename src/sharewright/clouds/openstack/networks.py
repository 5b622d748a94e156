"""Service networks and ports on Neutron: one network with one subnet, without DHCP, for each service subnet.

In layout "router" the service subnet's gateway is an interface of the tenant's own router. A Neutron router passes
everything; that only the tenant's clients reach the client ports is the port filter's doing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from ipaddress import ip_network
from typing import Any

import structlog
from openstack.connection import Connection as Sdk
from openstack.network.v2.network import Network as NeutronNetwork
from openstack.network.v2.port import Port as NeutronPort
from openstack.network.v2.subnet import Subnet as NeutronSubnet

from sharewright.clouds.addresses import first_host
from sharewright.clouds.contract import (
    Address,
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
from sharewright.clouds.openstack.neutron import (
    AUTOMATIC_PORTS,
    SUBNET_FIELDS,
    Neutron,
    host_routes,
    is_router_port,
    overlapping,
    routes_of,
)
from sharewright.clouds.openstack.polling import Deadline
from sharewright.clouds.openstack.ports import Ports
from sharewright.clouds.openstack.routers import Routers, router_at
from sharewright.clouds.openstack.security_groups import SecurityGroups
from sharewright.clouds.openstack.tags import deployment_tag, from_description, is_ours, to_description
from sharewright.clouds.tags import tags_to_store
from sharewright.errors import CloudCapacityExceeded, CloudError, CloudObjectMissing, DeadlineExceeded
from sharewright.identifiers import is_id
from sharewright.settings import OpenStack

log = structlog.get_logger()

SMALLEST = 8
TAG_KIND = "sharewright_kind"  # on networks that create_network made; service networks have none
TENANT = "tenant"
ELECTION_SECONDS = 5.0
# What a new service subnet with one server takes, by quota: two interfaces of routers, two ports, two filters.
ROOM = {"networks": 1, "subnets": 1, "ports": 4, "security_groups": 2}
UNKNOWN: Cidr = ip_network("0.0.0.0/32")


class OpenStackNetworks:
    """Contracts Networks and TenantNetworks. On OpenStack tenants make their networks themselves, in their own
    projects; ``create_network`` is for tests and demonstrations."""

    def __init__(self, connection: Connection, deployment: str, settings: OpenStack) -> None:
        self._deployment = deployment
        self._neutron = Neutron(connection, deployment)
        self._groups = SecurityGroups(self._neutron)
        self._ports = Ports(self._neutron, self._groups)
        self._routers = Routers(self._neutron)
        self._management = management_of(settings, self._neutron, self._routers, self._groups)

    def check(self) -> None:
        """CloudError, with a hint, when the configuration does not fit the cloud; then put right what was changed
        behind our back: filters, this host's ports."""
        deadline = Deadline(PATIENCE)
        self._management.check(deadline)
        self._groups.restore(deadline)

    # ---- tenants' networks ----

    def find_subnet(self, network_id: str, subnet_id: str | None) -> Subnet | None:
        cloud_calls.count += 1
        if not is_id(network_id):
            return None
        deadline = Deadline(PATIENCE)
        found = self._neutron.call(
            "looking for a tenant's subnet", lambda sdk: list(sdk.network.subnets(network_id=network_id)), deadline
        )
        if any(self._is_service(each) for each in found):
            return None
        found.sort(key=lambda each: (each.ip_version, str(each.created_at), str(each.id)))
        if subnet_id not in (None, network_id):
            found = [each for each in found if each.id == subnet_id]
        try:
            return self._neutron.subnet(found[0], deadline) if found else None
        except CloudObjectMissing:
            return None

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
            subnet = self._make_subnet(network, name, cidr, description, deadline, enable_dhcp=True, **owner)
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
        ports = self._remaining(self._routers.on(network_id, deadline))
        if ports:
            raise CloudError(
                f"{network.name} still has port {_shown(ports[0])} on it.", hint="Delete the servers on it first."
            )
        self._delete_network(network_id, deadline)

    # ---- service subnets ----

    def ensure_service_subnet(self, spec: ServiceSubnetSpec, *, timeout: float) -> Subnet:
        cloud_calls.count += 1
        tags = tags_to_store(spec.tags, self._deployment, spec.name)
        deadline = Deadline(timeout)
        with self._neutron.connection.locks.hold(f"service subnet {spec.name}", deadline):
            if spec.routed_to is not None:
                self._management.refuse(spec.routed_to)
            found = self._find_service(spec.name, deadline)
            if found is None:
                found = self._make_service(spec, to_description(tags, spec.name), deadline)
            if ip_network(found.cidr) != spec.cidr:
                raise CloudError(
                    f"Service subnet {spec.name} exists with {found.cidr}, not {spec.cidr}.", hint="Delete it first."
                )
            found = self._right_routes(found, spec, deadline)
            subnet = self._neutron.subnet(found, deadline)
            self._connect(subnet, spec, deadline)
        return subnet

    def list_service_subnets(self) -> Sequence[tuple[Subnet, Tags]]:
        """A network whose subnet was not made, because its maker died, is listed under the network's id."""
        cloud_calls.count += 1
        deadline = Deadline(PATIENCE)
        subnets = self._service_subnets(deadline)
        listed = [(self._neutron.subnet(each, deadline), from_description(each.description)) for each in subnets]
        known = {each.network_id for each in subnets}
        networks = self._neutron.call(
            "listing networks", lambda sdk: list(sdk.network.networks(project_id=self._neutron.project)), deadline
        )
        for network in self._neutron.ours(networks):
            if self._is_service(network) and network.id not in known:
                bare = Subnet(id=str(network.id), network_id=str(network.id), cidr=UNKNOWN)
                listed.append((bare, from_description(network.description)))
        return listed

    def delete_service_subnet(self, subnet_id: str, *, timeout: float) -> None:
        cloud_calls.count += 1
        if not is_id(subnet_id):
            return
        deadline = Deadline(timeout)
        subnet = self._neutron.look(
            "looking at a service subnet", lambda sdk: sdk.network.get_subnet(subnet_id), deadline
        )
        if subnet is not None:
            if not (self._neutron.owns(subnet) and self._is_service(subnet)):
                return
            network_id, name = str(subnet.network_id), str(subnet.name)
        else:
            network = self._find_network(subnet_id, deadline)
            if network is None or not (self._neutron.owns(network) and self._is_service(network)):
                return
            network_id, name = subnet_id, str(network.name)
        with self._neutron.connection.locks.hold(f"service subnet {name}", deadline):
            ports = self._routers.on(network_id, deadline)
            others = [port for port in self._remaining(ports) if self._is_machines(port)]
            if others:
                raise CloudError(
                    f"{name} still has port {_shown(others[0])} on it.", hint="Delete the servers on it first."
                )
            for port in self._management.release_subnet(ports, deadline):
                if is_router_port(port):
                    self._routers.detach(port, subnet_id, deadline)
                elif self._routers.is_unused(port):
                    self._ports.delete(str(port.id), deadline)
            self._delete_network(network_id, deadline)
        self._groups.remove_unused(deadline)

    def management_sources(self, subnet: Subnet) -> tuple[Cidr, ...]:
        return self._management.sources(subnet)

    def ensure_reachable(self, port: Port, *, timeout: float) -> Address:
        return self._management.ensure_reachable(port, Deadline(timeout))

    def restore_reach(self) -> None:
        if self._management.due():
            cloud_calls.count += 1
            deadline = Deadline(PATIENCE)
            subnets = [self._neutron.subnet(each, deadline) for each in self._service_subnets(deadline)]
            self._management.restore(subnets, deadline)

    # ---- ports ----

    def ensure_port(self, spec: PortSpec, *, timeout: float) -> Port:
        cloud_calls.count += 1
        return self._ports.ensure(spec, tags_to_store(spec.tags, self._deployment, spec.name), Deadline(timeout))

    def list_ports(self) -> Sequence[Port]:
        cloud_calls.count += 1
        return self._ports.list(Deadline(PATIENCE))

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

    # ---- parts: service subnets ----

    def _is_service(self, found: Any) -> bool:
        """Whether a network or subnet is a service network of any of our deployments' making: no tenant's."""
        tags = from_description(found.description)
        return is_ours(tags, self._deployment) and TAG_KIND not in tags and found.project_id == self._neutron.project

    def _service_subnets(self, deadline: Deadline) -> list[NeutronSubnet]:
        found = self._neutron.call(
            "listing subnets",
            lambda sdk: list(sdk.network.subnets(project_id=self._neutron.project, fields=SUBNET_FIELDS)),
            deadline,
        )
        return [each for each in self._neutron.ours(found) if self._is_service(each)]

    def _find_service(self, name: str, deadline: Deadline) -> NeutronSubnet | None:
        found = self._neutron.call(
            f"looking for service subnet {name}", lambda sdk: list(self._subnets_named(sdk, name)), deadline
        )
        return next(iter(found), None)

    def _subnets_named(self, sdk: Sdk, name: str) -> list[NeutronSubnet]:
        found = self._neutron.ours(sdk.network.subnets(name=name, project_id=self._neutron.project))
        return [each for each in found if self._is_service(each)]

    def _networks_named(self, sdk: Sdk, name: str) -> list[NeutronNetwork]:
        found = self._neutron.ours(sdk.network.networks(name=name, project_id=self._neutron.project))
        return [each for each in found if self._is_service(each)]

    def _make_service(self, spec: ServiceSubnetSpec, description: str, deadline: Deadline) -> NeutronSubnet:
        for each in self._service_subnets(deadline):
            if overlapping(spec.cidr, [ip_network(each.cidr)]):
                raise CloudError(
                    f"Service subnet {spec.cidr} overlaps with {each.name} ({each.cidr}).", hint="Choose another."
                )
        network = next(
            iter(
                self._neutron.call(
                    f"looking for service network {spec.name}",
                    lambda sdk: self._networks_named(sdk, spec.name),
                    deadline,
                )
            ),
            None,
        )
        if network is None:
            self._require_room(deadline)
            made = self._neutron.connection.create(
                f"making service network {spec.name}",
                lambda sdk: sdk.network.create_network(name=spec.name, description=description),
                again=lambda sdk: next(iter(self._networks_named(sdk, spec.name)), None),
                deadline=deadline,
            )
            network = self._elect(made, deadline)
        self._neutron.remember(network)
        existing = self._find_service(spec.name, deadline) if network.subnet_ids else None
        if existing is not None:
            return existing
        routed = spec.routed_to is not None
        gateway = self._management.gateway(spec.cidr, routed_to_tenant=routed)
        routes = self._management.routes(spec.cidr, routed_to_tenant=routed)
        return self._make_subnet(
            network,
            spec.name,
            spec.cidr,
            description,
            deadline,
            enable_dhcp=False,
            gateway_ip=None if gateway is None else str(gateway),
            host_routes=host_routes(routes),
        )

    def _elect(self, mine: NeutronNetwork, deadline: Deadline) -> NeutronNetwork:
        """One of the networks of mine's name, the same in all processes: Neutron lets several have one name, and
        servers that share a service subnet may be made by different workers at the same moment.

        Who finds a network that is older, or already has its subnet, gives his own up. The oldest waits for the others
        to go or, where one of them did not see it in time, to have a subnet: Neutron's times are whole seconds.
        """
        patience = Deadline(min(ELECTION_SECONDS, max(deadline.remaining, 0.0)))
        while True:
            named = self._neutron.call(
                f"looking for service network {mine.name}",
                lambda sdk: self._networks_named(sdk, str(mine.name)),
                deadline,
            )
            others = [each for each in named if each.id != mine.id]
            winner = next((each for each in named if each.subnet_ids), named[0] if named else mine)
            if winner.id != mine.id:
                log.info("another worker made the same service network", name=mine.name, network=winner.id)
                self._delete_network(str(mine.id), deadline)
                return winner
            if not others or patience.remaining <= 0:
                return mine
            time.sleep(0.3)

    def _make_subnet(
        self, network: NeutronNetwork, name: str, cidr: Cidr, description: str, deadline: Deadline, **more: Any
    ) -> NeutronSubnet:
        attributes: dict[str, Any] = {
            "name": name,
            "network_id": str(network.id),
            "ip_version": cidr.version,
            "cidr": str(cidr),
            "description": description,
            "gateway_ip": str(first_host(cidr)),
            **more,
        }

        def again(sdk: Sdk) -> NeutronSubnet | None:
            return next(iter(sdk.network.subnets(network_id=str(network.id))), None)

        try:
            return self._neutron.connection.create(
                f"making subnet {name}",
                lambda sdk: sdk.network.create_subnet(**attributes),
                again=again,
                deadline=deadline,
            )
        except CloudError as error:
            found = self._neutron.call(f"looking for subnet {name}", again, deadline)
            if "overlap" in error.message and found is not None and ip_network(found.cidr) == cidr:
                return found  # another process was quicker on the same network
            raise

    def _right_routes(self, found: NeutronSubnet, spec: ServiceSubnetSpec, deadline: Deadline) -> NeutronSubnet:
        """The controllers' networks may have been configured anew since the subnet was made."""
        wanted = self._management.routes(spec.cidr, routed_to_tenant=spec.routed_to is not None)
        if routes_of(found.host_routes) == wanted:
            return found
        identifier = str(found.id)
        return self._neutron.call(
            f"changing the routes of service subnet {spec.name}",
            lambda sdk: sdk.network.update_subnet(identifier, host_routes=host_routes(wanted)),
            deadline,
        )

    def _connect(self, subnet: Subnet, spec: ServiceSubnetSpec, deadline: Deadline) -> None:
        ports = self._routers.on(subnet.network_id, deadline)
        if spec.routed_to is not None:
            self._connect_tenant(subnet, spec.routed_to, ports, deadline)
        self._management.connect(subnet, ports, deadline, routed_to_tenant=spec.routed_to is not None)

    def _connect_tenant(self, subnet: Subnet, tenant: Subnet, ports: Sequence[NeutronPort], deadline: Deadline) -> None:
        """The service subnet's gateway is the router that is the tenant subnet's gateway."""
        router = self._routers.of_tenant(tenant, deadline)
        gateway = first_host(subnet.cidr)
        present = router_at(ports, gateway)
        if present is not None and present.device_id == router:
            return
        if present is not None:
            log.warning("the tenant's subnet has another router now", service_subnet=subnet.id, router=router)
            self._routers.detach(present, subnet.id, deadline)
        self._routers.attach(router, subnet.network_id, subnet.id, gateway, deadline, what="the tenant's router")

    def _require_room(self, deadline: Deadline) -> None:
        """CloudCapacityExceeded before anything is made, when our project's quota cannot hold it."""
        try:
            quota: Any = self._neutron.call(
                "asking for Neutron's quota",
                lambda sdk: sdk.network.get_quota(self._neutron.project, details=True),
                deadline,
            )
        except CloudError as error:
            log.debug("Neutron does not tell our quota", reason=error.message)
            return
        for name, needed in ROOM.items():
            detail = getattr(quota, name, None) or {}
            limit, used = detail.get("limit", -1), detail.get("used", 0) + detail.get("reserved", 0)
            if limit is not None and 0 <= limit < used + needed:
                raise CloudCapacityExceeded(
                    f"Sharewright's project has a quota of {limit} {name.replace('_', ' ')} and uses {used}; a new"
                    f" service subnet with a server needs {needed} more.",
                    hint="Raise it with: openstack quota set; docs/openstack-cloud.md tells how many are needed.",
                )

    # ---- parts: networks ----

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

    def _delete_network(self, network_id: str, deadline: Deadline) -> None:
        """With its subnets. Neutron's own ports (DHCP) go along; it may take them a moment."""
        self._neutron.forget(network_id)
        while True:
            try:
                self._neutron.look("deleting a network", lambda sdk: sdk.network.delete_network(network_id), deadline)
                return
            except CloudError as error:
                if "in use" not in error.message or deadline.remaining <= 0:
                    raise
                ports = [port for port in self._routers.on(network_id, deadline) if self._is_machines(port)]
                ports = self._remaining(ports)
                if ports:
                    raise CloudError(
                        f"Network {network_id} still has port {_shown(ports[0])} on it.",
                        hint="Delete the servers on it first.",
                    ) from error
                if deadline.remaining < 1:
                    raise DeadlineExceeded(f"Network {network_id} stays in use: {error.message}") from error
                time.sleep(0.5)

    def _remaining(self, ports: Sequence[NeutronPort]) -> list[NeutronPort]:
        return [port for port in ports if port.device_owner not in AUTOMATIC_PORTS]

    def _is_machines(self, port: NeutronPort) -> bool:
        """Neither a router's interface, nor a host's, nor a port that was made to become an interface."""
        return not (is_router_port(port) or self._management.made(port) or self._routers.is_unused(port))


def _shown(port: NeutronPort) -> str:
    return str(port.name or port.id)
