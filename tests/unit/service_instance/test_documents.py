"""The config drive and the layouts: what the VM, its ports and its firewall are told."""

from __future__ import annotations

import dataclasses
import json
from ipaddress import ip_address, ip_network
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from sharewright.clouds.contract import Port, Route, Subnet
from sharewright.errors import CloudError
from sharewright.guest.document import Firewall
from sharewright.service_instance import config_drive, layouts, records
from sharewright.service_instance.config_drive import Link
from sharewright.service_instance.contract import Layout
from sharewright.service_instance.keys import authorized_keys_line, new_key_pair, public_of
from sharewright.service_instance.layouts import Nic, Surroundings

SERVER = "5f1c2f9c-6a3e-4b0e-8f07-3f8f2f6f1a11"
SERVICE = Subnet(
    id="s", network_id="sn", cidr=ip_network("10.254.0.16/28"), gateway=ip_address("10.254.0.17"), mtu=1450
)
TENANT = Subnet(id="t", network_id="tn", cidr=ip_network("192.168.7.0/24"), gateway=ip_address("192.168.7.1"))
TENANT6 = Subnet(id="t6", network_id="tn6", cidr=ip_network("fd00:7::/64"), gateway=ip_address("fd00:7::1"))
MANAGEMENT = (ip_network("10.254.0.17/32"),)


def port(subnet: Subnet, address: str, mac: str) -> Port:
    return Port(id=f"port-{mac}", name="p", mac=mac, address=ip_address(address), subnet=subnet, tags={})


SERVICE_PORT = port(SERVICE, "10.254.0.20", "52:54:00:00:00:01")
TENANT_PORT = port(TENANT, "192.168.7.30", "52:54:00:00:00:02")
ADMIN = Subnet(id="a", network_id="an", cidr=ip_network("10.2.5.0/24"), gateway=ip_address("10.2.5.1"))
ADMIN_PORT = port(ADMIN, "10.2.5.40", "52:54:00:00:00:04")
FIREWALL = Firewall(
    management_macs=("52:54:00:00:00:01",), management_from=("10.254.0.17/32",), client_macs=("52:54:00:00:00:02",)
)


def around(layout: Layout, management: tuple[Any, ...] = MANAGEMENT) -> Surroundings:
    roles = layouts.ROLES[layout]
    return Surroundings(
        layout=layout, tenant=TENANT, service=SERVICE if "service" in roles else None,
        admin=ADMIN if "admin" in roles else None, management=management,
    )  # fmt: skip


def nics(layout: Layout, *ports: Port) -> tuple[Nic, ...]:
    return tuple(Nic(role=role, port=port) for role, port in zip(layouts.ROLES[layout], ports, strict=True))


def links(layout: Layout, *ports: Port) -> tuple[Link, ...]:
    return layouts.links(layout, nics(layout, *ports))


def drive(links: tuple[Link, ...], firewall: Firewall | None = FIREWALL) -> dict[str, Any]:
    files = config_drive.build(
        server_id=SERVER,
        name=f"manila-{SERVER}",
        links=links,
        authorized_keys=('restrict,command="x" ssh-ed25519 AAAA',),
        host_private_key="PEM\n",
        firewall=firewall,
    )
    assert set(files) == {"meta_data.json", "network_data.json", "user_data"}
    return {name: json.loads(content) for name, content in files.items()}


def test_two_nics_with_the_default_route_at_the_tenant() -> None:
    data = drive(links("tenant", SERVICE_PORT, TENANT_PORT))
    assert data["meta_data.json"] == {"uuid": SERVER, "name": f"manila-{SERVER}", "hostname": f"manila-{SERVER}"}
    assert data["network_data.json"] == {
        "links": [
            {
                "id": "service",
                "type": "phy",
                "vif_id": SERVICE_PORT.id,
                "ethernet_mac_address": "52:54:00:00:00:01",
                "mtu": 1450,
            },
            {
                "id": "tenant",
                "type": "phy",
                "vif_id": TENANT_PORT.id,
                "ethernet_mac_address": "52:54:00:00:00:02",
                "mtu": 1500,
            },
        ],
        "networks": [
            {
                "id": "service-network",
                "link": "service",
                "type": "ipv4",
                "network_id": "sn",
                "ip_address": "10.254.0.20",
                "netmask": "255.255.255.240",
                "routes": [],
            },
            {
                "id": "tenant-network",
                "link": "tenant",
                "type": "ipv4",
                "network_id": "tn",
                "ip_address": "192.168.7.30",
                "netmask": "255.255.255.0",
                "routes": [{"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "192.168.7.1"}],
            },
        ],
        "services": [],
    }
    assert data["user_data"] == {
        "sharewright": 1,
        "authorized_keys": ['restrict,command="x" ssh-ed25519 AAAA'],
        "ssh_host_ed25519_key": "PEM\n",
        "firewall": {
            "management_macs": ["52:54:00:00:00:01"],
            "management_from": ["10.254.0.17/32"],
            "client_macs": ["52:54:00:00:00:02"],
        },
        "network_data": data["network_data.json"],
    }


def test_one_nic_with_the_default_route_at_the_router() -> None:
    (network,) = drive(links("router", SERVICE_PORT))["network_data.json"]["networks"]
    assert network["routes"] == [{"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "10.254.0.17"}]


def test_a_tenant_network_without_a_gateway_has_no_default_route() -> None:
    isolated = Subnet(id="i", network_id="in", cidr=TENANT.cidr)
    made = links("tenant", SERVICE_PORT, port(isolated, "192.168.7.31", "52:54:00:00:00:03"))
    assert [network["routes"] for network in drive(made)["network_data.json"]["networks"]] == [[], []]


def test_a_router_layout_without_a_router_is_refused() -> None:
    alone = Subnet(id="a", network_id="an", cidr=SERVICE.cidr)
    with pytest.raises(CloudError, match="no gateway") as caught:
        links("router", port(alone, "10.254.0.20", "52:54:00:00:00:01"))
    assert "connect_share_server_to_tenant_network" in caught.value.hint


def test_an_ipv6_tenant_network() -> None:
    made = links("tenant", SERVICE_PORT, port(TENANT6, "fd00:7::30", "52:54:00:00:00:06"))
    network = drive(made)["network_data.json"]["networks"][1]
    assert network["type"] == "ipv6"
    assert network["netmask"] == "ffff:ffff:ffff:ffff::"
    assert network["routes"] == [{"network": "::", "netmask": "::", "gateway": "fd00:7::1"}]


def test_no_firewall_is_null() -> None:
    assert drive((), firewall=None)["user_data"]["firewall"] is None


def specs(layout: Layout) -> tuple[Any, ...]:
    made = layouts.port_specs(around(layout), server_id=SERVER, client_ports=(2049, 445), tags={"a": "b"})
    assert tuple(role for role, _ in made) == layouts.ROLES[layout]
    return tuple(spec for _, spec in made)


def test_ports_with_two_nics() -> None:
    service, tenant = specs("tenant")
    assert (service.name, tenant.name) == (f"{SERVER}-service", f"{SERVER}-tenant")
    assert (service.allowed_tcp, service.allowed_from) == ((22,), (ip_network("10.254.0.17/32"),))
    assert service.also_allowed == ()
    assert (tenant.allowed_tcp, tenant.allowed_from, tenant.also_allowed) == ((2049, 445), (), ())
    assert (service.subnet, tenant.subnet, service.tags) == (SERVICE, TENANT, {"a": "b"})
    assert (service.outgoing, tenant.outgoing) == (False, True), "NIC 1 only answers"


def test_ports_with_one_nic() -> None:
    (service,) = specs("router")
    assert (service.allowed_tcp, service.allowed_from) == ((22,), (ip_network("10.254.0.17/32"),))
    (clients,) = service.also_allowed
    assert (clients.ports, clients.sources) == ((2049, 445), (TENANT.cidr,))


def test_ports_with_a_service_and_an_admin_nic() -> None:
    service, admin = specs("router_admin")
    assert (service.allowed_tcp, service.allowed_from) == ((22,), MANAGEMENT)
    assert [(each.ports, each.sources) for each in service.also_allowed] == [((2049, 445), (TENANT.cidr,))]
    assert (admin.name, admin.subnet, admin.outgoing) == (f"{SERVER}-admin", ADMIN, False)
    assert (admin.allowed_tcp, admin.allowed_from, admin.also_allowed) == ((2049, 445), (), ()), "no SSH there"


def test_ports_with_a_tenant_and_an_admin_nic() -> None:
    tenant, admin = specs("tenant_admin")
    assert (tenant.subnet, tenant.allowed_tcp, tenant.allowed_from, tenant.also_allowed) == (
        TENANT, (2049, 445), (), (),
    )  # fmt: skip
    assert (admin.allowed_tcp, admin.allowed_from) == ((22,), MANAGEMENT)
    assert [(each.ports, each.sources) for each in admin.also_allowed] == [((2049, 445), ())]
    assert (tenant.outgoing, admin.outgoing) == (True, False)


@pytest.mark.parametrize("layout", layouts.ROLES)
def test_ssh_is_never_open_to_everybody(layout: Layout) -> None:
    with pytest.raises(CloudError, match="nobody"):
        layouts.port_specs(around(layout, ()), server_id=SERVER, client_ports=(2049,), tags={})


@pytest.mark.parametrize("layout", layouts.ROLES)
def test_no_tenant_is_on_a_nic_with_ssh_but_where_a_router_filters(layout: Layout) -> None:
    for role, spec in zip(layouts.ROLES[layout], specs(layout), strict=True):
        admitted = dict.fromkeys(spec.allowed_tcp, spec.allowed_from)
        admitted |= {port: each.sources for each in spec.also_allowed for port in each.ports}
        assert admitted.get(22) == (MANAGEMENT if role == layouts.management_role(layout) else None)


def test_the_admin_network_is_no_tenants() -> None:
    layouts.refuse_admin_network(TENANT, ADMIN)
    for tenant, why in (
        (dataclasses.replace(TENANT, network_id=ADMIN.network_id), "no tenant's"),
        (dataclasses.replace(TENANT, cidr=ip_network("10.2.0.0/16")), "overlaps"),
    ):
        with pytest.raises(CloudError, match=why):
            layouts.refuse_admin_network(tenant, ADMIN)
    layouts.refuse_admin_network(TENANT6, ADMIN)


@pytest.mark.parametrize("layout", ["router_admin", "tenant_admin"])
def test_the_admin_nic_only_replies(layout: Layout) -> None:
    first = SERVICE_PORT if layout == "router_admin" else TENANT_PORT
    networks = drive(links(layout, first, ADMIN_PORT))["network_data.json"]["networks"]
    assert [network["routes"][0]["gateway"] for network in networks] == [str(first.subnet.gateway), "10.2.5.1"]
    assert [network.get("replies_only") for network in networks] == [None, True]


def test_the_way_back_to_the_controllers() -> None:
    """NIC 1 has no default route, so it needs one to where the controllers are."""
    way = Route(destination=ip_network("172.16.0.0/24"), gateway=ip_address("10.254.0.30"))
    service = dataclasses.replace(SERVICE_PORT, subnet=dataclasses.replace(SERVICE, routes=(way,)))
    shown = {"network": "172.16.0.0", "netmask": "255.255.255.0", "gateway": "10.254.0.30"}
    networks = drive(links("tenant", service, TENANT_PORT))["network_data.json"]["networks"]
    assert networks[0]["routes"] == [shown]
    (network,) = drive(links("router", service))["network_data.json"]["networks"]
    assert network["routes"] == [shown, {"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "10.254.0.17"}]


def test_a_port_that_vanished_comes_back_as_it_was() -> None:
    known = records.with_port((), "tenant", TENANT_PORT)
    wanted = layouts.port_specs(around("tenant"), server_id=SERVER, client_ports=(2049,), tags={}, known=known)
    assert [(spec.address, spec.mac) for _, spec in wanted] == [(None, None), (TENANT_PORT.address, TENANT_PORT.mac)]
    other = dataclasses.replace(TENANT_PORT, mac="52:54:00:00:00:07")
    assert [port.mac for port in records.with_port(known, "tenant", other)] == [other.mac]


def test_the_guests_firewall_says_what_the_ports_say() -> None:
    def firewall(layout: Layout, *ports: Port) -> Firewall:
        return layouts.firewall(around(layout), nics(layout, *ports), client_ports=(2049,))

    assert firewall("tenant", SERVICE_PORT, TENANT_PORT) == FIREWALL
    one = firewall("router", SERVICE_PORT)
    assert one.client_macs == one.management_macs == ("52:54:00:00:00:01",)
    assert one.client_from == ("192.168.7.0/24",)
    routed = firewall("router_admin", SERVICE_PORT, ADMIN_PORT)
    assert routed == msgspec.structs.replace(one, admin_macs=("52:54:00:00:00:04",))
    direct = firewall("tenant_admin", TENANT_PORT, ADMIN_PORT)
    assert (direct.client_macs, direct.client_from) == (("52:54:00:00:00:02",), ())
    assert direct.management_macs == direct.admin_macs == ("52:54:00:00:00:04",)


def test_service_subnets_are_routed_only_in_layout_router() -> None:
    def spec(layout: Layout) -> Any:
        return layouts.service_subnet_spec(
            layout, name="n", cidr=SERVICE.cidr, tags={}, tenant=TENANT, client_ports=(2049,)
        )

    assert (spec("tenant").routed_to, spec("tenant").tenant_ports) == (None, ())
    for layout in ("router", "router_admin"):
        assert (spec(layout).routed_to, spec(layout).tenant_ports) == (TENANT, (2049,))


def test_keys_are_what_openssh_reads() -> None:
    pair, other = new_key_pair(), new_key_pair()
    assert pair.public != other.public
    assert pair.public.startswith("ssh-ed25519 AAAA")
    assert pair.private.startswith("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    assert "PRIVATE KEY" not in repr(pair)
    assert public_of(pair.private) == pair.public
    load_ssh_private_key(pair.private.encode(), password=None)


def test_a_key_may_run_one_command_only() -> None:
    assert authorized_keys_line("ssh-ed25519 AAAA") == (
        'restrict,command="/usr/lib/sharewright/sharewright-guest serve" ssh-ed25519 AAAA sharewright'
    )
    for command in ('a" ,pty', "a\nb", "a\\"):
        with pytest.raises(ValueError, match="forced command"):
            authorized_keys_line("ssh-ed25519 AAAA", command=command)
