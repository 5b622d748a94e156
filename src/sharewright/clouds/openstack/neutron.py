"""What the modules about networks share: our project, Neutron's objects as the contract's, Neutron's own error names.

What is ours is told by project and description: a description is written in the request that makes the object, so that
nothing of ours is ever without it, as it would be with Neutron's tags, which older releases take in a second request.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any, TypeVar

from openstack.connection import Connection as Sdk
from openstack.network.v2.network import Network as NeutronNetwork
from openstack.network.v2.port import Port as NeutronPort
from openstack.network.v2.subnet import Subnet as NeutronSubnet

from sharewright.clouds.contract import Address, Cidr, Route, Subnet
from sharewright.clouds.openstack.connection import Connection
from sharewright.clouds.openstack.polling import Deadline
from sharewright.clouds.openstack.tags import from_description, is_ours
from sharewright.errors import CloudError, CloudObjectMissing

T = TypeVar("T")

# Device owners of a router's own ports on a subnet: plain, distributed, highly available.
ROUTER_PORTS = (
    "network:router_interface",
    "network:router_interface_distributed",
    "network:ha_router_replicated_interface",
)
# Ports that Neutron makes and takes away by itself.
AUTOMATIC_PORTS = ("network:dhcp", "network:distributed", "network:router_centralized_snat", "network:metadata")
IDS_IN_ONE_QUERY = 50  # 2 kB of URL
# What we read of long lists.
SUBNET_FIELDS = (
    *("id", "name", "description", "project_id", "network_id", "created_at"),
    *("cidr", "gateway_ip", "host_routes"),
)
PORT_FIELDS = (
    *("id", "name", "description", "project_id", "network_id", "created_at"),
    *("device_owner", "mac_address", "fixed_ips"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFacts:
    """What does not change about a network (a changed MTU reaches servers made after the next start of ours)."""

    mtu: int
    network_type: str | None
    segmentation_id: int | None
    port_security: bool


class Neutron:
    """The connection, with what is asked for again and again remembered. Thread safe."""

    def __init__(self, connection: Connection, deployment: str) -> None:
        self.connection = connection
        self.deployment = deployment
        self._lock = threading.Lock()
        self._project: str | None = None
        self._facts: dict[str, NetworkFacts] = {}

    @property
    def project(self) -> str:
        """Our project: what it does not own is not ours, whatever its description says."""
        with self._lock:
            known = self._project
        if known is None:
            known = self.connection.project_id
            with self._lock:
                self._project = known
        return known

    def call(self, doing: str, action: Callable[[Sdk], T], deadline: Deadline) -> T:
        return self.connection.call(doing, action, deadline=deadline)

    def look(self, doing: str, action: Callable[[Sdk], T], deadline: Deadline) -> T | None:
        """As ``call``; None when Neutron knows no such thing."""
        try:
            return self.connection.call(doing, action, deadline=deadline)
        except CloudObjectMissing:
            return None

    def owns(self, found: Any) -> bool:
        """Whether an object of Neutron's is of this deployment."""
        return found.project_id == self.project and is_ours(from_description(found.description), self.deployment)

    def ours(self, found: Iterable[T]) -> list[T]:
        """Those of this deployment, oldest first: of two that were made at the same moment all of us take the same."""
        return sorted(
            (each for each in found if self.owns(each)), key=lambda each: (str(_created(each)), str(_id(each)))
        )

    # ---- networks and subnets ----

    def remember(self, network: NeutronNetwork) -> NetworkFacts:
        facts = NetworkFacts(
            mtu=int(network.mtu or 1500),
            network_type=network.provider_network_type,  # shown to administrators only
            segmentation_id=network.provider_segmentation_id,
            port_security=network.is_port_security_enabled is not False,
        )
        with self._lock:
            self._facts[str(network.id)] = facts
        return facts

    def facts(self, network_id: str, deadline: Deadline) -> NetworkFacts:
        """CloudObjectMissing when there is no such network."""
        with self._lock:
            known = self._facts.get(network_id)
        if known is not None:
            return known
        network = self.call("looking at a network", lambda sdk: sdk.network.get_network(network_id), deadline)
        return self.remember(network)

    def forget(self, network_id: str) -> None:
        with self._lock:
            self._facts.pop(network_id, None)

    def subnet(self, found: NeutronSubnet, deadline: Deadline) -> Subnet:
        facts = self.facts(str(found.network_id), deadline)
        return Subnet(
            id=str(found.id),
            network_id=str(found.network_id),
            cidr=ip_network(found.cidr),
            gateway=ip_address(found.gateway_ip) if found.gateway_ip else None,
            network_type=facts.network_type,
            segmentation_id=facts.segmentation_id,
            mtu=facts.mtu,
            routes=routes_of(found.host_routes),
        )

    def subnets_by_id(self, identifiers: Iterable[str], deadline: Deadline) -> dict[str, Subnet]:
        """The subnets, ours and tenants', that are there, in a request for each fifty."""
        wanted = sorted(set(identifiers))
        found: dict[str, Subnet] = {}
        for start in range(0, len(wanted), IDS_IN_ONE_QUERY):
            subnets = self._subnets(wanted[start : start + IDS_IN_ONE_QUERY], deadline)
            self._learn({str(each.network_id) for each in subnets}, deadline)
            found |= {str(each.id): self.subnet(each, deadline) for each in subnets}
        return found

    def _learn(self, networks: set[str], deadline: Deadline) -> None:
        """The facts of networks that we do not know yet, in one request."""
        with self._lock:
            unknown = sorted(networks - self._facts.keys())
        if unknown:
            for each in self.call("looking at networks", lambda sdk: list(sdk.network.networks(id=unknown)), deadline):
                self.remember(each)

    def _subnets(self, identifiers: list[str], deadline: Deadline) -> list[NeutronSubnet]:
        return self.call("listing subnets", lambda sdk: list(sdk.network.subnets(id=identifiers)), deadline)


def _created(found: Any) -> Any:
    return found.created_at or ""


def _id(found: Any) -> Any:
    return found.id


def routes_of(host_routes: Iterable[Mapping[str, str]] | None) -> tuple[Route, ...]:
    routes = (
        Route(destination=ip_network(each["destination"], strict=False), gateway=ip_address(each["nexthop"]))
        for each in host_routes or ()
    )
    return tuple(sorted(routes, key=lambda route: (str(route.destination), str(route.gateway))))


def host_routes(routes: Iterable[Route]) -> list[dict[str, str]]:
    return [{"destination": str(route.destination), "nexthop": str(route.gateway)} for route in routes]


def address_on(port: NeutronPort, subnet_id: str) -> Address | None:
    """The port's first address on a subnet."""
    for each in port.fixed_ips or ():
        if each.get("subnet_id") == subnet_id:
            return ip_address(each["ip_address"])
    return None


def has_address(port: NeutronPort, address: Address) -> bool:
    return any(ip_address(each["ip_address"]) == address for each in port.fixed_ips or ())


def is_router_port(port: NeutronPort) -> bool:
    return port.device_owner in ROUTER_PORTS


def overlapping(cidr: Cidr, others: Iterable[Cidr]) -> Cidr | None:
    return next((other for other in others if other.version == cidr.version and other.overlaps(cidr)), None)


def fault(error: CloudError) -> str:
    """Neutron's own name of the error ("IpAddressInUse"), or nothing where there is none."""
    response = getattr(error.__cause__, "response", None)
    try:
        body = response.json() if response is not None else {}
    except ValueError:
        return ""
    inner = body.get("NeutronError") if isinstance(body, dict) else None
    return str(inner.get("type", "")) if isinstance(inner, dict) else ""
