"""Service networks: one network of Neutron's with one subnet, without DHCP, for each service subnet.

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
from sharewright.clouds.contract import Cidr, ServiceSubnetSpec, Subnet, Tags
from sharewright.clouds.openstack.management import Management
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
from sharewright.clouds.openstack.tags import from_description, to_description
from sharewright.errors import CloudCapacityExceeded, CloudError, DeadlineExceeded

log = structlog.get_logger()

TAG_KIND = "sharewright_kind"  # on networks that create_network made; service networks have none
ELECTION_SECONDS = 8.0  # longer than a busy Neutron takes for a subnet
# What a new service subnet with one server takes, by quota: our router's interface and two ports. Filters are mostly
# there already; the request for a new one tells whether there is room.
ROOM = {"networks": 1, "subnets": 1, "ports": 3}
UNKNOWN: Cidr = ip_network("0.0.0.0/32")


class ServiceNetworks:
    def __init__(self, neutron: Neutron, ports: Ports, routers: Routers, management: Management) -> None:
        self._neutron = neutron
        self._ports = ports
        self._routers = routers
        self._management = management

    def is_ours(self, found: Any) -> bool:
        """Whether a network or subnet is a service network of this deployment's, and no tenant's."""
        return self._neutron.owns(found) and TAG_KIND not in from_description(found.description)

    def ensure(self, spec: ServiceSubnetSpec, tags: Tags, deadline: Deadline) -> Subnet:
        with self._neutron.connection.locks.hold(f"service subnet {spec.name}", deadline):
            if spec.routed_to is not None:
                self._management.refuse(spec.routed_to)
            found = self._find(spec.name, deadline)
            if found is None:
                found = self._make(spec, to_description(tags, spec.name), deadline)
            if ip_network(found.cidr) != spec.cidr:
                raise CloudError(
                    f"Service subnet {spec.name} exists with {found.cidr}, not {spec.cidr}.", hint="Delete it first."
                )
            found = self._right_routes(found, spec, deadline)
            subnet = self._neutron.subnet(found, deadline)
            self._connect(subnet, spec, deadline)
        return subnet

    def all(self, deadline: Deadline) -> list[tuple[Subnet, Tags]]:
        """A network whose subnet was not made, because its maker died, is listed under the network's id."""
        networks = self._neutron.call(
            "listing networks", lambda sdk: list(sdk.network.networks(project_id=self._neutron.project)), deadline
        )
        bare: dict[str, NeutronNetwork] = {}
        for network in self._neutron.ours(networks):
            self._neutron.remember(network)
            if self.is_ours(network):
                bare[str(network.id)] = network
        listed: list[tuple[Subnet, Tags]] = []
        for each in self._subnets(deadline):
            bare.pop(str(each.network_id), None)
            listed.append((self._neutron.subnet(each, deadline), from_description(each.description)))
        for key, network in bare.items():
            listed.append((Subnet(id=key, network_id=key, cidr=UNKNOWN), from_description(network.description)))
        return listed

    def subnets(self, deadline: Deadline) -> list[Subnet]:
        return [self._neutron.subnet(each, deadline) for each in self._subnets(deadline)]

    def delete(self, subnet_id: str, deadline: Deadline) -> bool:
        """False when there is no such service subnet, or network under that id."""
        network_id, name = self._whose(subnet_id, deadline)
        if not network_id:
            return False
        with self._neutron.connection.locks.hold(f"service subnet {name}", deadline):
            ports = self._routers.on(network_id, deadline)
            others = self._machines(ports)
            if others:
                raise CloudError(
                    f"{name} still has port {shown(others[0])} on it.", hint="Delete the servers on it first."
                )
            for port in self._management.release_subnet(ports, deadline):
                if is_router_port(port):
                    self._routers.detach(port, subnet_id, deadline)
                elif self._routers.is_unused(port):
                    self._ports.delete(str(port.id), deadline)
            self.delete_network(network_id, deadline)
        return True

    def delete_network(self, network_id: str, deadline: Deadline) -> None:
        """With its subnets. Neutron's own ports (DHCP) go along; it may take them a moment."""
        self._neutron.forget(network_id)
        while True:
            try:
                self._neutron.look("deleting a network", lambda sdk: sdk.network.delete_network(network_id), deadline)
                return
            except CloudError as error:
                if "in use" not in error.message or deadline.remaining <= 0:
                    raise
                ports = self._machines(self._routers.on(network_id, deadline))
                if ports:
                    raise CloudError(
                        f"Network {network_id} still has port {shown(ports[0])} on it.",
                        hint="Delete the servers on it first.",
                    ) from error
                if deadline.remaining < 1:
                    raise DeadlineExceeded(f"Network {network_id} stays in use: {error.message}") from error
                time.sleep(0.5)

    # ---- found ----

    def _subnets(self, deadline: Deadline) -> list[NeutronSubnet]:
        found = self._neutron.call(
            "listing subnets",
            lambda sdk: list(sdk.network.subnets(project_id=self._neutron.project, fields=SUBNET_FIELDS)),
            deadline,
        )
        return [each for each in self._neutron.ours(found) if self.is_ours(each)]

    def _find(self, name: str, deadline: Deadline) -> NeutronSubnet | None:
        found = self._neutron.call(
            f"looking for service subnet {name}",
            lambda sdk: self._neutron.ours(sdk.network.subnets(name=name, project_id=self._neutron.project)),
            deadline,
        )
        return next((each for each in found if self.is_ours(each)), None)

    def _networks_named(self, sdk: Sdk, name: str) -> list[NeutronNetwork]:
        found = self._neutron.ours(sdk.network.networks(name=name, project_id=self._neutron.project))
        return [each for each in found if self.is_ours(each)]

    def _whose(self, subnet_id: str, deadline: Deadline) -> tuple[str, str]:
        """Id and name of a service subnet's network; ("", "") when it is none of ours."""
        subnet = self._neutron.look(
            "looking at a service subnet", lambda sdk: sdk.network.get_subnet(subnet_id), deadline
        )
        if subnet is not None:
            return (str(subnet.network_id), str(subnet.name)) if self.is_ours(subnet) else ("", "")
        network = self._neutron.look(
            "looking at a service network", lambda sdk: sdk.network.get_network(subnet_id), deadline
        )
        return (subnet_id, str(network.name)) if network is not None and self.is_ours(network) else ("", "")

    def _machines(self, ports: Sequence[NeutronPort]) -> list[NeutronPort]:
        """Those that keep a service network from being deleted: neither Neutron's own, nor a router's interface, nor a
        host's, nor a port that was made to become an interface."""
        return [
            port
            for port in remaining(ports)
            if not (is_router_port(port) or self._management.made(port) or self._routers.is_unused(port))
        ]

    # ---- made ----

    def _make(self, spec: ServiceSubnetSpec, description: str, deadline: Deadline) -> NeutronSubnet:
        for each in self._subnets(deadline):
            if overlapping(spec.cidr, [ip_network(each.cidr)]):
                raise CloudError(
                    f"Service subnet {spec.cidr} overlaps with {each.name} ({each.cidr}).", hint="Choose another."
                )
        network, found = self._elect(spec.name, description, deadline)
        self._neutron.remember(network)
        if found is not None:
            return found
        routed = spec.routed_to is not None
        routes = self._management.routes(spec.cidr, routed_to_tenant=routed)
        return make_subnet(
            self._neutron,
            network,
            spec.name,
            spec.cidr,
            description,
            deadline,
            enable_dhcp=False,
            host_routes=host_routes(routes),
        )

    def _elect(self, name: str, description: str, deadline: Deadline) -> tuple[NeutronNetwork, NeutronSubnet | None]:
        """The network of that name on which to make the subnet, or with the subnet that it has.

        Neutron lets several networks have one name, and servers that share a service subnet may be made by different
        workers at the same moment. The network that has a subnet counts; before there is one, the oldest does, and
        whoever made another gives his up. Only its maker makes a network's subnet, unless he does not for too long.
        (The oldest waits too: somebody who looked before it was there may be about to make his subnet. Neutron's times
        are whole seconds, so that a network may turn out older than one that was seen earlier.)
        """
        patience = Deadline(min(ELECTION_SECONDS, max(deadline.remaining, 0.0)))
        mine: NeutronNetwork | None = None
        while True:
            named = self._neutron.call(
                f"looking for service network {name}", lambda sdk: self._networks_named(sdk, name), deadline
            )
            if mine is not None and all(each.id != mine.id for each in named):
                mine = None  # somebody deleted it
            settled = next((each for each in named if each.subnet_ids), None)
            if settled is None and (patience.remaining <= 0 or (mine is not None and _only(named, mine))):
                settled = mine or next(iter(named), None)
            if settled is None and mine is None and not named:
                self._require_room(deadline)
                mine = self._neutron.connection.create(
                    f"making service network {name}",
                    lambda sdk: sdk.network.create_network(name=name, description=description),
                    again=lambda sdk: next(iter(self._networks_named(sdk, name)), None),
                    deadline=deadline,
                )
                continue
            if mine is not None and mine.id != (settled or named[0]).id:
                log.info("another worker makes the same service network", name=name, given_up=mine.id)
                self.delete_network(str(mine.id), deadline)
                mine = None
            if settled is not None:
                return settled, self._find(name, deadline) if settled.subnet_ids else None
            time.sleep(0.3)

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
                    hint="Raise it with: openstack quota set; docs/openstack-networks.md tells how many are needed.",
                )


def make_subnet(
    neutron: Neutron, network: NeutronNetwork, name: str, cidr: Cidr, description: str, deadline: Deadline, **more: Any
) -> NeutronSubnet:
    """A subnet on a network that has none. The gateway's address is the first, whether or not a router is there."""
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
        return neutron.connection.create(
            f"making subnet {name}",
            lambda sdk: sdk.network.create_subnet(**attributes),
            again=again,
            deadline=deadline,
        )
    except CloudError as error:
        found = neutron.call(f"looking for subnet {name}", again, deadline)
        if "overlap" in error.message and found is not None and ip_network(found.cidr) == cidr:
            return found  # another process was quicker on the same network
        raise


def _only(named: Sequence[NeutronNetwork], mine: NeutronNetwork) -> bool:
    return [each.id for each in named] == [mine.id]


def remaining(ports: Sequence[NeutronPort]) -> list[NeutronPort]:
    """Without those that Neutron takes away by itself."""
    return [port for port in ports if port.device_owner not in AUTOMATIC_PORTS]


def shown(port: NeutronPort) -> str:
    return str(port.name or port.id)
