"""The two network layouts: which ports a service VM gets, who may reach them, where its default route goes.

* "tenant": NIC 1 on a service subnet (SSH from the controller only), NIC 2 on the tenant's own subnet (client ports
  only). The default route is the tenant's gateway: it carries only replies to clients behind routers. What the
  controllers need as a way back is a route of NIC 1's own (``Subnet.routes``).
* "router": one NIC on a service subnet that the cloud's router connects to the tenant's subnet.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

from sharewright.clouds.contract import Admission, Cidr, Port, PortSpec, ServiceSubnetSpec, Subnet, Tags
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


def port_specs(
    layout: Layout,
    *,
    server_id: str,
    service: Subnet,
    tenant: Subnet,
    management: Sequence[Cidr],
    client_ports: tuple[int, ...],
    tags: Tags,
    known: Sequence[InstancePort] = (),
) -> tuple[PortSpec, ...]:
    """The ports to ensure, in NIC order. SSH is admitted from ``management``; ``known`` are the ports that the server
    has had: one that vanished comes back with the same address, because clients mount from it."""
    if not management:
        raise CloudError(
            "The cloud names nobody who may log in to service VMs.", hint="An empty list admits everybody."
        )
    clients = () if layout == "tenant" else (Admission(ports=client_ports, sources=(tenant.cidr,)),)
    had = {port.role: port for port in known}
    service_port = PortSpec(
        name=f"{server_id}-service", subnet=service, tags=tags, outgoing=False,
        allowed_tcp=(SSH,), allowed_from=tuple(management), also_allowed=clients, **_as_before(had.get("service")),
    )  # fmt: skip
    if layout == "router":
        return (service_port,)
    tenant_port = PortSpec(
        name=f"{server_id}-tenant", subnet=tenant, tags=tags,
        allowed_tcp=client_ports, **_as_before(had.get("tenant")),
    )  # fmt: skip
    return (service_port, tenant_port)


def _as_before(port: InstancePort | None) -> dict[str, Any]:
    return {} if port is None else {"address": ip_address(port.address), "mac": port.mac}


def firewall(
    layout: Layout, ports: Sequence[Port], *, tenant: Subnet, management: Sequence[Cidr], client_ports: tuple[int, ...]
) -> Firewall:
    """The guest's own firewall: the same admissions as the ports', a second time, by the guest's kernel."""
    return Firewall(
        management_macs=(ports[0].mac,),
        management_from=tuple(str(source) for source in management),
        client_macs=(ports[-1].mac,),
        client_from=() if layout == "tenant" else (str(tenant.cidr),),
        client_ports=client_ports,
    )


def links(layout: Layout, ports: Sequence[Port]) -> tuple[Link, ...]:
    """NICs with their routes. CloudError when layout "router" has no router to reply through."""
    if layout == "router":
        (service,) = ports
        if service.subnet.gateway is None:
            raise CloudError(
                f"The service subnet {service.subnet.cidr} has no gateway, so replies cannot reach the tenant.",
                hint="The cloud must route between the service subnet and the tenant's subnet, or use two NICs: "
                "connect_share_server_to_tenant_network = true.",
            )
        return (Link(role="service", port=service, gateway=service.subnet.gateway, routes=service.subnet.routes),)
    service, tenant = ports
    return (
        Link(role="service", port=service, routes=service.subnet.routes),
        Link(role="tenant", port=tenant, gateway=tenant.subnet.gateway, routes=tenant.subnet.routes),
    )


def instance_ports(layout: Layout, ports: Sequence[Port]) -> tuple[InstancePort, ...]:
    return tuple(
        InstancePort(role=role, port_id=port.id, mac=port.mac, address=str(port.address))
        for role, port in zip(roles(layout), ports, strict=True)
    )
