"""The two network layouts: which ports a service VM gets, who may reach them, where its default route goes.

* "tenant": NIC 1 on a service subnet (SSH from the controller only), NIC 2 on the tenant's own subnet (client ports
  only). The default route is the tenant's gateway: it carries only replies to clients behind routers.
* "router": one NIC on a service subnet that the cloud's router connects to the tenant's subnet.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_network

from sharewright.clouds.contract import Address, Admission, Cidr, Port, PortSpec, ServiceSubnetSpec, Subnet, Tags
from sharewright.errors import CloudError
from sharewright.guest.document import Firewall
from sharewright.service_instance.config_drive import Link
from sharewright.service_instance.contract import InstancePort, Layout, Role

SSH = 22


def roles(layout: Layout) -> tuple[Role, ...]:
    """The VM's NICs, in order."""
    return ("service", "tenant") if layout == "tenant" else ("service",)


def service_subnet_spec(
    layout: Layout, *, name: str, cidr: Cidr, tags: Tags, tenant: Subnet, client_ports: tuple[int, ...]
) -> ServiceSubnetSpec:
    if layout == "tenant":
        return ServiceSubnetSpec(name=name, cidr=cidr, tags=tags)
    return ServiceSubnetSpec(name=name, cidr=cidr, tags=tags, routed_to=tenant, tenant_ports=client_ports)


def management_sources(management: Address | None, service: Subnet) -> tuple[Cidr, ...]:
    """Who may use SSH: the controller's address, or where it has none on the subnet, the service subnet itself. Never
    empty, because an empty list means everybody."""
    return (service.cidr,) if management is None else (ip_network(management),)


def port_specs(
    layout: Layout,
    *,
    server_id: str,
    service: Subnet,
    tenant: Subnet,
    management: Address | None,
    client_ports: tuple[int, ...],
    tags: Tags,
) -> tuple[PortSpec, ...]:
    """The ports to ensure, in NIC order."""
    sources = management_sources(management, service)
    clients = () if layout == "tenant" else (Admission(ports=client_ports, sources=(tenant.cidr,)),)
    service_port = PortSpec(
        name=f"{server_id}-service", subnet=service, tags=tags,
        allowed_tcp=(SSH,), allowed_from=sources, also_allowed=clients,
    )  # fmt: skip
    if layout == "router":
        return (service_port,)
    tenant_port = PortSpec(name=f"{server_id}-tenant", subnet=tenant, tags=tags, allowed_tcp=client_ports)
    return (service_port, tenant_port)


def firewall(
    layout: Layout, ports: Sequence[Port], *, tenant: Subnet, management: Address | None, client_ports: tuple[int, ...]
) -> Firewall:
    """The guest's own firewall: the same admissions as the ports', a second time, by the guest's kernel."""
    service = ports[0]
    return Firewall(
        management_macs=(service.mac,),
        management_from=tuple(str(source) for source in management_sources(management, service.subnet)),
        client_macs=(ports[-1].mac,),
        client_from=() if layout == "tenant" else (str(tenant.cidr),),
        client_ports=client_ports,
    )


def links(layout: Layout, ports: Sequence[Port]) -> tuple[Link, ...]:
    """NICs with their default routes. CloudError when layout "router" has no router to reply through."""
    if layout == "router":
        (service,) = ports
        if service.subnet.gateway is None:
            raise CloudError(
                f"The service subnet {service.subnet.cidr} has no gateway, so replies cannot reach the tenant.",
                hint="The cloud must route between the service subnet and the tenant's subnet, or use two NICs: "
                "connect_share_server_to_tenant_network = true.",
            )
        return (Link(role="service", port=service, gateway=service.subnet.gateway),)
    service, tenant = ports
    return (Link(role="service", port=service), Link(role="tenant", port=tenant, gateway=tenant.subnet.gateway))


def instance_ports(layout: Layout, ports: Sequence[Port]) -> tuple[InstancePort, ...]:
    return tuple(
        InstancePort(role=role, port_id=port.id, mac=port.mac, address=str(port.address))
        for role, port in zip(roles(layout), ports, strict=True)
    )
