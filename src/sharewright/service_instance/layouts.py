"""The four network layouts: which ports a service VM gets, who may reach them, where its default route goes.

=============== ================ ==================== ====================================== ================
layout          NICs, in order   SSH is admitted on   clients use                            admins use
=============== ================ ==================== ====================================== ================
"router"        service          service              service, through the tenant's router   -
"tenant"        service, tenant  service              tenant                                 -
"router_admin"  service, admin   service              service, through the tenant's router   admin
"tenant_admin"  tenant, admin    admin                tenant                                 admin
=============== ================ ==================== ====================================== ================

A service NIC is on a service subnet of ours, a tenant NIC on the tenant's own subnet, an admin NIC on a network of the
operator's. The default route is the tenant's gateway, or the router's: it carries only replies to clients behind
routers. Replies to controllers and admins leave by routes of their own NIC's (``Subnet.routes``, ``replies_only``), and
so do those on further tenant NICs, which the layouts with one may have, for more subnets of the same share network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final

from sharewright.clouds.contract import Admission, Cidr, Port, PortSpec, ServiceSubnetSpec, Subnet, Tags
from sharewright.errors import CloudError
from sharewright.guest.document import Firewall
from sharewright.service_instance.config_drive import Link
from sharewright.service_instance.contract import InstancePort, Layout, Role
from sharewright.service_instance.records import is_for

SSH: Final = 22
ROLES: Final[Mapping[Layout, tuple[Role, ...]]] = {
    "router": ("service",),
    "tenant": ("service", "tenant"),
    "router_admin": ("service", "admin"),
    "tenant_admin": ("tenant", "admin"),
}


ROUTED_LAYOUTS: Final = tuple(layout for layout, roles in ROLES.items() if "tenant" not in roles)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """The subnets around one server, and from where the controllers log in. ``service`` and ``admin`` are None where
    the layout has no such NIC; the tenant's subnet is there also where only a router leads to it. ``further`` are more
    subnets of the tenant's."""

    layout: Layout
    tenant: Subnet
    further: tuple[Subnet, ...] = ()
    service: Subnet | None
    admin: Subnet | None
    management: tuple[Cidr, ...]

    def subnet(self, role: Role) -> Subnet:
        found = {"service": self.service, "tenant": self.tenant, "admin": self.admin}[role]
        assert found is not None, role  # noqa: S101  the layout has the role
        return found

    def nics(self) -> tuple[tuple[Role, Subnet, str], ...]:
        """Role, subnet and name of each NIC, in their order. Further ones are the last: they may come later."""
        first = [(role, self.subnet(role), str(role)) for role in ROLES[self.layout]]
        more: list[tuple[Role, Subnet, str]] = [("tenant", each, f"tenant-{each.id}") for each in self.further]
        return (*first, *more)


@dataclass(frozen=True, slots=True, kw_only=True)
class Nic:
    role: Role
    port: Port


def layout_of(*, on_tenant_network: bool, admin_network: bool) -> Layout:
    if admin_network:
        return "tenant_admin" if on_tenant_network else "router_admin"
    return "tenant" if on_tenant_network else "router"


def is_routed(layout: Layout) -> bool:
    """Whether clients come through the tenant's router."""
    return layout in ROUTED_LAYOUTS


def management_role(layout: Layout) -> Role:
    return "service" if "service" in ROLES[layout] else "admin"


def client_role(layout: Layout) -> Role:
    return "service" if is_routed(layout) else "tenant"


def service_subnet_layout(layout: Layout) -> Layout:
    """Servers with and without an admin NIC share service subnets."""
    return "router" if is_routed(layout) else "tenant"


def service_subnet_spec(
    layout: Layout, *, name: str, cidr: Cidr, tags: Tags, tenant: Subnet, client_ports: tuple[int, ...]
) -> ServiceSubnetSpec:
    if not is_routed(layout):
        return ServiceSubnetSpec(name=name, cidr=cidr, tags=tags)
    return ServiceSubnetSpec(name=name, cidr=cidr, tags=tags, routed_to=tenant, tenant_ports=client_ports)


def refuse_tenants(layout: Layout, tenants: Sequence[Subnet]) -> None:
    """CloudError when a server of this layout cannot serve all these subnets of a tenant's at once."""
    if is_routed(layout) and any(tenant.cidr.version == 6 for tenant in tenants):
        raise CloudError(
            "The share network's subnet is IPv6. The share server would be behind the tenant's router, on a service"
            " subnet, and these are IPv4.",
            hint="Use an IPv4 subnet, or servers on the tenant's own network: "
            "connect_share_server_to_tenant_network = true.",
        )
    if len(tenants) > 1 and is_routed(layout):
        raise CloudError(
            "The share server is behind the tenant's router and serves one subnet of a share network.",
            hint="Use one subnet for each availability zone; machines elsewhere reach it through their routers.",
        )
    for position, one in enumerate(tenants):
        for other in tenants[:position]:
            if one.cidr.overlaps(other.cidr):
                raise CloudError(
                    f"The share network's subnets {other.cidr} and {one.cidr} overlap: one address could mean two"
                    " machines.",
                    hint="Use subnets with different addresses.",
                )


def refuse_admin_network(tenant: Subnet, admin: Subnet) -> None:
    """CloudError when the tenant's subnet is on the admin network, or has addresses that are there, too."""
    if tenant.network_id == admin.network_id:
        raise CloudError(
            "The share network's subnet is on the admin network, which is no tenant's.",
            hint="Create a share network on a network of the tenant's own.",
        )
    if tenant.cidr.overlaps(admin.cidr):
        raise CloudError(
            f"The tenant's subnet {tenant.cidr} overlaps with the admin network {admin.cidr}: one address could mean"
            " two machines.",
            hint="Let the tenant use another subnet, or give the admin network one that no tenant has.",
        )


def port_specs(
    around: Surroundings,
    *,
    server_id: str,
    client_ports: tuple[int, ...],
    tags: Tags,
    known: Sequence[InstancePort] = (),
) -> tuple[tuple[Role, PortSpec], ...]:
    """The ports to ensure, in NIC order. ``known`` are the ports that the server has had: one that vanished comes back
    with the same address, because clients mount from it."""
    if not around.management:
        raise CloudError(
            "The cloud names nobody who may log in to service VMs.", hint="An empty list admits everybody."
        )
    specs: list[tuple[Role, PortSpec]] = []
    for role, subnet, name in around.nics():
        had = next((port for port in known if is_for(port, role, subnet.id)), None)
        first, *others = _admissions(around, role, client_ports)
        spec = PortSpec(
            name=f"{server_id}-{name}", subnet=subnet, tags=tags, outgoing=role == "tenant",
            allowed_tcp=first.ports, allowed_from=first.sources, also_allowed=tuple(others), **_as_before(had),
        )  # fmt: skip
        specs.append((role, spec))
    return tuple(specs)


def _admissions(around: Surroundings, role: Role, client_ports: tuple[int, ...]) -> list[Admission]:
    """Who may open connections to which ports of a NIC."""
    found: list[Admission] = []
    if role == management_role(around.layout):
        found.append(Admission(ports=(SSH,), sources=around.management))
    if role == client_role(around.layout):
        found.append(Admission(ports=client_ports, sources=_clients(around)))
    if role == "admin":
        found.append(Admission(ports=client_ports))
    return found


def _clients(around: Surroundings) -> tuple[Cidr, ...]:
    """From where clients come. Any (): on a tenant's network it is the tenant who decides who is there."""
    return (around.tenant.cidr,) if is_routed(around.layout) else ()


def _as_before(port: InstancePort | None) -> dict[str, Any]:
    return {} if port is None else {"address": ip_address(port.address), "mac": port.mac}


def firewall(around: Surroundings, nics: Sequence[Nic], *, client_ports: tuple[int, ...]) -> Firewall:
    """The guest's own firewall: the same admissions as the ports', a second time, by the guest's kernel."""
    return Firewall(
        management_macs=_macs(nics, management_role(around.layout)),
        management_from=tuple(str(source) for source in around.management),
        client_macs=_macs(nics, client_role(around.layout)),
        client_from=tuple(str(source) for source in _clients(around)),
        admin_macs=_macs(nics, "admin"),
        client_ports=client_ports,
    )


def with_role(nics: Sequence[Nic], role: Role) -> tuple[Port, ...]:
    return tuple(nic.port for nic in nics if nic.role == role)


def _macs(nics: Sequence[Nic], role: Role) -> tuple[str, ...]:
    return tuple(port.mac for port in with_role(nics, role))


def links(layout: Layout, nics: Sequence[Nic]) -> tuple[Link, ...]:
    """NICs with their routes. CloudError when there is no router to reply through where clients come through one."""
    clients = client_role(layout)
    found: list[Link] = []
    names: set[str] = set()
    for nic in nics:
        subnet = nic.port.subnet
        name = nic.role if nic.role not in names else f"{nic.role}-{len(names)}"
        replies_only = nic.role == "admin" or name != nic.role
        names.add(name)
        if replies_only:
            found.append(
                Link(name=name, port=nic.port, gateway=subnet.gateway, routes=subnet.routes, replies_only=True)
            )
            continue
        if nic.role == clients and is_routed(layout) and subnet.gateway is None:
            raise CloudError(
                f"The service subnet {subnet.cidr} has no gateway, so replies cannot reach the tenant.",
                hint="The cloud must route between the service subnet and the tenant's subnet, or use two NICs: "
                "connect_share_server_to_tenant_network = true.",
            )
        gateway = subnet.gateway if nic.role == clients else None
        found.append(Link(name=name, port=nic.port, gateway=gateway, routes=subnet.routes))
    return tuple(found)
