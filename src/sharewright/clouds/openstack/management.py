"""How the controllers reach service VMs (``openstack.management``); docs/openstack-networks.md has the pictures.

* ``routed``: a router of the operator's has an interface on each service subnet, and the controllers have a route to
  the service network through it.
* ``floating``: besides, each VM has a floating address on the router's external network; no route is needed.
* ``host_port``: no router; every controller has a port on each service subnet (host_port.py).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from typing import Protocol

from openstack.network.v2.port import Port as NeutronPort

from sharewright.clouds.addresses import first_host, last_host
from sharewright.clouds.contract import TAG_DEPLOYMENT, Address, Cidr, Port, Route, Subnet
from sharewright.clouds.openstack.host_port import HostPort
from sharewright.clouds.openstack.neutron import Neutron, fault, overlapping
from sharewright.clouds.openstack.polling import Deadline
from sharewright.clouds.openstack.routers import TWO_NICS, Routers, attached_to
from sharewright.clouds.openstack.security_groups import SecurityGroups
from sharewright.clouds.openstack.tags import to_description
from sharewright.errors import CloudCapacityExceeded, CloudError
from sharewright.identifiers import is_id
from sharewright.settings import OpenStack

CHOICES = 'Or choose another way in: openstack.management = "routed", "floating" or "host_port".'


class Management(Protocol):
    """``routed_to_tenant``: the service subnet's gateway is a tenant's router (layout "router"). ``on_this_host``:
    whether something of it is on this host, so that ``restore`` has something to do."""

    on_this_host: bool

    def check(self, deadline: Deadline) -> None:
        """CloudError, with a hint, when the configuration does not fit the cloud."""
        ...

    def routes(self, cidr: Cidr, *, routed_to_tenant: bool) -> tuple[Route, ...]:
        """What machines on a service subnet need to answer the controllers."""
        ...

    def refuse(self, tenant: Subnet) -> None:
        """CloudError when a tenant's subnet may not be routed to a service subnet."""
        ...

    def connect(
        self, subnet: Subnet, ports: Sequence[NeutronPort], deadline: Deadline, *, routed_to_tenant: bool
    ) -> None:
        """Make the service subnet reachable. ``ports`` are those on it now."""
        ...

    def sources(self, subnet: Subnet) -> tuple[Cidr, ...]: ...

    def ensure_reachable(self, port: Port, deadline: Deadline) -> Address: ...

    def made(self, port: NeutronPort) -> bool:
        """Whether a port on a service subnet is the controllers' own."""
        ...

    def release_port(self, port_id: str, deadline: Deadline) -> None:
        """Take away what ``ensure_reachable`` made for a port that is to be deleted."""
        ...

    def release_subnet(self, ports: Sequence[NeutronPort], deadline: Deadline) -> list[NeutronPort]:
        """Take away what ``connect`` and ``ensure_reachable`` made on a service subnet, but for routers' interfaces;
        the ports that remain."""
        ...

    def restore(self, subnets: Sequence[Subnet], deadline: Deadline) -> None:
        """Make what this host may have lost: after its restart, or for subnets that another host has made."""
        ...


class Routed:
    on_this_host = False

    def __init__(self, settings: OpenStack, neutron: Neutron, routers: Routers) -> None:
        self._router = settings.management_router
        self._sources = tuple(ip_network(cidr, strict=False) for cidr in settings.management_cidrs)
        self._neutron = neutron
        self._routers = routers

    def check(self, deadline: Deadline) -> None:
        if not self._router:
            raise CloudError(
                "openstack.management_router is not set, so nothing leads to the service VMs.",
                hint=f"Name the router that joins the service network to the controllers'. {CHOICES}",
            )
        self._require_sources()
        self._routers.find(self._router, deadline)

    def address(self, cidr: Cidr, *, routed_to_tenant: bool) -> Address:
        """Our router's on a service subnet: the gateway's, or where that is a tenant's router, the last."""
        return last_host(cidr) if routed_to_tenant else first_host(cidr)

    def routes(self, cidr: Cidr, *, routed_to_tenant: bool) -> tuple[Route, ...]:
        through = self.address(cidr, routed_to_tenant=routed_to_tenant)
        found = (Route(destination=to, gateway=through) for to in self._sources if to.version == cidr.version)
        return tuple(sorted(found, key=lambda route: str(route.destination)))

    def refuse(self, tenant: Subnet) -> None:
        found = overlapping(tenant.cidr, self._sources)
        if found is not None:
            raise CloudError(
                f"The tenant's subnet {tenant.cidr} overlaps with the controllers' network {found}: a service VM with"
                " one NIC could not tell which of the two to answer.",
                hint=f"Let the tenant use another subnet, {TWO_NICS}.",
            )

    def connect(
        self, subnet: Subnet, ports: Sequence[NeutronPort], deadline: Deadline, *, routed_to_tenant: bool
    ) -> None:
        if not self._router:
            self.check(deadline)
        router = self._routers.identifier(self._router, deadline)
        address = self.address(subnet.cidr, routed_to_tenant=routed_to_tenant)
        if attached_to(ports, router, address):
            return
        attach = self._routers.attach_port if routed_to_tenant else self._routers.attach
        attach(router, subnet.network_id, subnet.id, address, deadline, what="the management router")

    def sources(self, subnet: Subnet) -> tuple[Cidr, ...]:
        return self._require_sources()

    def _require_sources(self) -> tuple[Cidr, ...]:
        if not self._sources:
            raise CloudError(
                "openstack.management_cidrs is empty, so nobody could log in to the service VMs.",
                hint="List the networks that the controllers' connections come from.",
            )
        return self._sources

    def ensure_reachable(self, port: Port, deadline: Deadline) -> Address:
        return port.address

    def made(self, port: NeutronPort) -> bool:
        return False

    def release_port(self, port_id: str, deadline: Deadline) -> None:
        """Nothing was made."""

    def release_subnet(self, ports: Sequence[NeutronPort], deadline: Deadline) -> list[NeutronPort]:
        return list(ports)

    def restore(self, subnets: Sequence[Subnet], deadline: Deadline) -> None:
        """Nothing is on this host."""


class Floating(Routed):
    def __init__(self, settings: OpenStack, neutron: Neutron, routers: Routers) -> None:
        super().__init__(settings, neutron, routers)
        self._external = settings.external_network
        self._lock = threading.Lock()
        self._external_id: str | None = None

    def check(self, deadline: Deadline) -> None:
        super().check(deadline)
        external = self._external_network(deadline)
        router = self._routers.find(self._router, deadline)
        if (router.external_gateway_info or {}).get("network_id") != external:
            raise CloudError(
                f"Router {self._router} has no gateway on {self._external}, so floating addresses lead nowhere.",
                hint=f"openstack router set --external-gateway {self._external} {self._router}",
            )

    def _external_network(self, deadline: Deadline) -> str:
        with self._lock:
            known = self._external_id
        if known is not None:
            return known
        if not self._external:
            raise CloudError(
                "openstack.external_network is not set.", hint=f"Name where floating addresses come from. {CHOICES}"
            )
        query = {"id": self._external} if is_id(self._external) else {"name": self._external}
        found = self._neutron.call(
            f"looking for network {self._external}", lambda sdk: list(sdk.network.networks(**query)), deadline
        )
        if len(found) != 1:
            raise CloudError(
                f"There {'is no network' if not found else 'are several networks'} {self._external}.",
                hint="openstack.external_network is the name or id of one.",
            )
        with self._lock:
            self._external_id = str(found[0].id)
        return str(found[0].id)

    def ensure_reachable(self, port: Port, deadline: Deadline) -> Address:
        found = self._neutron.call(
            "looking for a floating address", lambda sdk: list(sdk.network.ips(port_id=port.id)), deadline
        )
        mine = self._neutron.ours(found)
        if mine:
            return ip_address(mine[0].floating_ip_address)
        external = self._external_network(deadline)
        description = to_description({**port.tags, TAG_DEPLOYMENT: self._neutron.deployment}, port.name)
        try:
            made = self._neutron.connection.create(
                f"making a floating address for port {port.name}",
                lambda sdk: sdk.network.create_ip(
                    floating_network_id=external, port_id=port.id, description=description
                ),
                again=lambda sdk: next(iter(self._neutron.ours(sdk.network.ips(port_id=port.id))), None),
                deadline=deadline,
            )
        except CloudCapacityExceeded as error:
            raise CloudCapacityExceeded(
                f"No floating address is left on {self._external}: {error.message}",
                hint=f"Raise the quota floating-ips, enlarge the network's pool. {CHOICES}",
            ) from error
        except CloudError as error:
            if fault(error) == "ExternalGatewayForFloatingIPNotFound":
                raise CloudError(
                    f"Router {self._router} has no gateway on {self._external}: {error.message}",
                    hint=f"openstack router set --external-gateway {self._external} {self._router}",
                ) from error
            raise
        return ip_address(made.floating_ip_address)

    def release_port(self, port_id: str, deadline: Deadline) -> None:
        found = self._neutron.call(
            "looking for a floating address", lambda sdk: list(sdk.network.ips(port_id=port_id)), deadline
        )
        for each in self._neutron.ours(found):
            self._delete(str(each.id), deadline)

    def _delete(self, floating_id: str, deadline: Deadline) -> None:
        self._neutron.look("deleting a floating address", lambda sdk: sdk.network.delete_ip(floating_id), deadline)


def management_of(settings: OpenStack, neutron: Neutron, routers: Routers, groups: SecurityGroups) -> Management:
    """The one that the configuration asks for."""
    if settings.management == "routed":
        return Routed(settings, neutron, routers)
    if settings.management == "floating":
        return Floating(settings, neutron, routers)
    return HostPort(neutron, groups, settings.management_host)
