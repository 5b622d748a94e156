"""The config drive and the layouts: what the VM, its ports and its firewall are told."""

from __future__ import annotations

import dataclasses
import json
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from sharewright.clouds.contract import Port, Route, Subnet
from sharewright.errors import CloudError
from sharewright.guest.document import Firewall
from sharewright.service_instance import config_drive, layouts
from sharewright.service_instance.config_drive import Link
from sharewright.service_instance.contract import Layout
from sharewright.service_instance.keys import authorized_keys_line, new_key_pair, public_of

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
FIREWALL = Firewall(
    management_macs=("52:54:00:00:00:01",), management_from=("10.254.0.17/32",), client_macs=("52:54:00:00:00:02",)
)


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
    data = drive(layouts.links("tenant", (SERVICE_PORT, TENANT_PORT)))
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
            "client_from": [],
            "client_ports": [2049],
        },
        "network_data": data["network_data.json"],
    }


def test_one_nic_with_the_default_route_at_the_router() -> None:
    (network,) = drive(layouts.links("router", (SERVICE_PORT,)))["network_data.json"]["networks"]
    assert network["routes"] == [{"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "10.254.0.17"}]


def test_a_tenant_network_without_a_gateway_has_no_default_route() -> None:
    isolated = Subnet(id="i", network_id="in", cidr=TENANT.cidr)
    links = layouts.links("tenant", (SERVICE_PORT, port(isolated, "192.168.7.31", "52:54:00:00:00:03")))
    assert [network["routes"] for network in drive(links)["network_data.json"]["networks"]] == [[], []]


def test_a_router_layout_without_a_router_is_refused() -> None:
    alone = Subnet(id="a", network_id="an", cidr=SERVICE.cidr)
    with pytest.raises(CloudError, match="no gateway") as caught:
        layouts.links("router", (port(alone, "10.254.0.20", "52:54:00:00:00:01"),))
    assert "connect_share_server_to_tenant_network" in caught.value.hint


def test_an_ipv6_tenant_network() -> None:
    links = layouts.links("tenant", (SERVICE_PORT, port(TENANT6, "fd00:7::30", "52:54:00:00:00:06")))
    network = drive(links)["network_data.json"]["networks"][1]
    assert network["type"] == "ipv6"
    assert network["netmask"] == "ffff:ffff:ffff:ffff::"
    assert network["routes"] == [{"network": "::", "netmask": "::", "gateway": "fd00:7::1"}]


def test_no_firewall_is_null() -> None:
    assert drive((), firewall=None)["user_data"]["firewall"] is None


def specs(layout: Layout) -> tuple[Any, ...]:
    return layouts.port_specs(
        layout, server_id=SERVER, service=SERVICE, tenant=TENANT, management=MANAGEMENT, client_ports=(2049, 445),
        tags={"a": "b"},
    )  # fmt: skip


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


def test_ssh_is_never_open_to_everybody() -> None:
    layout: Layout
    for layout in ("tenant", "router"):
        with pytest.raises(CloudError, match="nobody"):
            layouts.port_specs(
                layout, server_id=SERVER, service=SERVICE, tenant=TENANT, management=(), client_ports=(2049,), tags={}
            )


def test_the_way_back_to_the_controllers() -> None:
    """NIC 1 has no default route, so it needs one to where the controllers are."""
    way = Route(destination=ip_network("172.16.0.0/24"), gateway=ip_address("10.254.0.30"))
    service = dataclasses.replace(SERVICE_PORT, subnet=dataclasses.replace(SERVICE, routes=(way,)))
    shown = {"network": "172.16.0.0", "netmask": "255.255.255.0", "gateway": "10.254.0.30"}
    networks = drive(layouts.links("tenant", (service, TENANT_PORT)))["network_data.json"]["networks"]
    assert networks[0]["routes"] == [shown]
    (network,) = drive(layouts.links("router", (service,)))["network_data.json"]["networks"]
    assert network["routes"] == [shown, {"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "10.254.0.17"}]


def test_a_port_that_vanished_comes_back_as_it_was() -> None:
    known = layouts.instance_ports("tenant", (SERVICE_PORT, TENANT_PORT))
    wanted = layouts.port_specs(
        "tenant", server_id=SERVER, service=SERVICE, tenant=TENANT, management=MANAGEMENT, client_ports=(2049,),
        tags={}, known=known[1:],
    )  # fmt: skip
    assert [(spec.address, spec.mac) for spec in wanted] == [(None, None), (TENANT_PORT.address, TENANT_PORT.mac)]


def test_the_guests_firewall_says_what_the_ports_say() -> None:
    two = layouts.firewall(
        "tenant", (SERVICE_PORT, TENANT_PORT), tenant=TENANT, management=MANAGEMENT, client_ports=(2049,)
    )
    assert two == FIREWALL
    one = layouts.firewall("router", (SERVICE_PORT,), tenant=TENANT, management=MANAGEMENT, client_ports=(2049,))
    assert one.client_macs == one.management_macs == ("52:54:00:00:00:01",)
    assert one.client_from == ("192.168.7.0/24",)


def test_service_subnets_are_routed_only_in_layout_router() -> None:
    def spec(layout: Layout) -> Any:
        return layouts.service_subnet_spec(
            layout, name="n", cidr=SERVICE.cidr, tags={}, tenant=TENANT, client_ports=(2049,)
        )

    assert (spec("tenant").routed_to, spec("tenant").tenant_ports) == (None, ())
    assert (spec("router").routed_to, spec("router").tenant_ports) == (TENANT, (2049,))


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
