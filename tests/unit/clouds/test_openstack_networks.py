"""Networks on a small Neutron on loopback: what is made, what is put right, how many requests it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any, TypeVar

import pytest
from neutron_fake import TENANT_PROJECT, FakeNeutron
from openstack_fake import PASSWORD, PROJECT

from sharewright.clouds.contract import Admission, PortSpec, Route, ServiceSubnetSpec, Subnet
from sharewright.clouds.openstack.connection import Connection
from sharewright.clouds.openstack.networks import OpenStackNetworks
from sharewright.clouds.openstack.security_groups import Filter
from sharewright.errors import CloudCapacityExceeded, CloudError, CloudObjectMissing
from sharewright.identifiers import new_id
from sharewright.settings import OpenStack

T = TypeVar("T")
SECONDS = 30.0
DEPLOYMENT = "tests"
TAGS = {"sharewright_backend": "b", "sharewright_owner": "service_subnet:1"}
CONTROLLERS = ip_network("10.253.0.0/24")


class World:
    """A controller's networks, with the operator's router in the fake."""

    def __init__(self, fake: FakeNeutron, deployment: str = DEPLOYMENT, **settings: Any) -> None:
        self.fake = fake
        values = {
            "auth_url": f"{fake.url}/identity/v3",
            "username": "sharewright",
            "password": PASSWORD,
            "management_router": "management",
            "management_cidrs": (str(CONTROLLERS),),
            **settings,
        }
        self.connection = Connection(OpenStack(**values))
        self.networks = OpenStackNetworks(self.connection, deployment, OpenStack(**values))

    def subnet(self, name: str = "sharewright-1", cidr: str = "10.254.0.0/28", **more: Any) -> Subnet:
        spec = ServiceSubnetSpec(name=name, cidr=ip_network(cidr), tags=TAGS, **more)
        return self.networks.ensure_service_subnet(spec, timeout=SECONDS)

    def tenant(self, row: dict[str, Any]) -> Subnet:
        found = self.networks.find_subnet(row["network_id"], row["id"])
        assert found is not None
        return found

    def port(self, subnet: Subnet, name: str = "a", **more: Any) -> Any:
        return self.networks.ensure_port(spec_of(subnet, name, **more), timeout=SECONDS)


def spec_of(subnet: Subnet, name: str = "a", **more: Any) -> PortSpec:
    values: dict[str, Any] = {
        "allowed_tcp": (22,), "allowed_from": (CONTROLLERS,), "outgoing": False, "tags": TAGS, **more,
    }  # fmt: skip
    return PortSpec(name=name, subnet=subnet, **values)


@pytest.fixture
def fake() -> Iterator[FakeNeutron]:
    fake = FakeNeutron()
    external = fake.add("networks", name="public", **{"router:external": True})
    fake.add("routers", name="management", external_gateway_info={"network_id": external["id"], "enable_snat": False})
    yield fake
    fake.close()


@pytest.fixture
def world(fake: FakeNeutron) -> Iterator[World]:
    world = World(fake)
    yield world
    world.connection.close()


def at_once(*work: Callable[[], T]) -> list[T]:
    with ThreadPoolExecutor(len(work)) as pool:
        return [future.result() for future in [pool.submit(piece) for piece in work]]


def rules(fake: FakeNeutron, group: str) -> set[tuple[Any, ...]]:
    names = ("direction", "ethertype", "protocol", "port_range_min", "remote_ip_prefix")
    return {tuple(each[name] for name in names) for each in fake.all("security-group-rules", security_group_id=group)}


# ---- service subnets ----


def test_a_service_subnet_is_a_network_of_our_own(fake: FakeNeutron, world: World) -> None:
    subnet = world.subnet()
    assert subnet.gateway == ip_address("10.254.0.1"), "the management router"
    assert subnet.mtu == 1450
    assert subnet.routes == (Route(destination=CONTROLLERS, gateway=ip_address("10.254.0.1")),)
    (row,) = fake.all("subnets")
    assert (row["enable_dhcp"], row["project_id"], row["name"]) == (False, PROJECT, "sharewright-1")
    (router,) = fake.all("routers")
    (interface,) = fake.all("ports")
    assert (interface["device_id"], interface["fixed_ips"][0]["ip_address"]) == (router["id"], "10.254.0.1")
    assert world.subnet() == subnet
    assert World(fake).subnet() == subnet
    ((listed, tags),) = world.networks.list_service_subnets()
    assert listed == subnet
    assert tags == {**TAGS, "sharewright": DEPLOYMENT}
    assert world.networks.find_subnet(subnet.network_id, None) is None, "no tenant's"


def test_the_next_server_on_a_subnet_costs_two_requests(fake: FakeNeutron, world: World) -> None:
    world.subnet()
    before = len(fake.requests)
    world.subnet()
    assert fake.network_requests(before) == ["GET /subnets", "GET /ports"]


def test_an_interrupted_making_goes_on(fake: FakeNeutron, world: World) -> None:
    """Neutron fails at each request in turn: the next try makes what is missing, and nothing twice."""
    world.port(world.subnet())
    done = fake.network_requests()
    number = len([each for each in done if not each.startswith("GET")])
    for place in range(number):
        other = World(fake)
        name, cidr = f"sharewright-{place + 2}", f"10.254.{place + 1}.0/28"
        count = 0

        def interrupt(asked: Any, place: int = place) -> bool:
            nonlocal count
            if asked.method == "GET" or "/network/" not in asked.path:
                return False
            count += 1
            return count == place + 1

        fake.interrupt = interrupt
        try:
            other.port(other.subnet(name, cidr), name)
        except CloudError:
            fake.interrupt = None
            other.port(other.subnet(name, cidr), name)
        fake.interrupt = None
        assert len(fake.all("networks", name=name)) == 1
        assert len(fake.all("subnets", name=name)) == 1
        assert len(fake.all("ports", name=name)) == 1


def test_service_subnets_of_the_deployment_do_not_overlap(world: World) -> None:
    world.subnet()
    with pytest.raises(CloudError, match="overlaps with sharewright-1"):
        world.subnet("sharewright-2")
    with pytest.raises(CloudError, match="exists with 10"):
        world.subnet(cidr="10.254.9.0/28")


def test_workers_that_make_one_service_network_at_once_agree(fake: FakeNeutron) -> None:
    worlds = [World(fake) for _ in range(4)]
    made = at_once(*[world.subnet for world in worlds])
    assert len({subnet.id for subnet in made}) == 1
    assert len(fake.all("networks", name="sharewright-1")) == 1
    assert [len(fake.all("ports", network_id=made[0].network_id))] == [1]


def test_another_deployments_name_is_no_matter(fake: FakeNeutron, world: World) -> None:
    other = World(fake, "others")
    theirs = other.subnet("same", "10.250.0.0/28")
    mine = world.subnet("same")
    assert theirs.id != mine.id
    world.networks.delete_service_subnet(theirs.id, timeout=SECONDS)
    assert [subnet.id for subnet, _ in other.networks.list_service_subnets()] == [theirs.id]


def test_a_tenants_object_with_our_description_is_not_ours(fake: FakeNeutron, world: World) -> None:
    subnet = world.subnet()
    port = world.port(subnet)
    row = fake.things["ports"][port.id]
    fake.add(
        "ports",
        **{**row, "id": new_id(), "project_id": TENANT_PROJECT, "mac_address": "fa:16:3e:00:00:01", "fixed_ips": []},
    )
    assert [each.id for each in world.networks.list_ports()] == [port.id]
    assert world.port(subnet).id == port.id


def test_a_network_whose_maker_died_is_listed_and_deleted(fake: FakeNeutron, world: World) -> None:
    subnet = world.subnet()
    port = fake.all("ports")[0]
    del fake.things["ports"][port["id"]]
    del fake.things["subnets"][subnet.id]
    ((bare, tags),) = world.networks.list_service_subnets()
    assert tags["sharewright_owner"] == TAGS["sharewright_owner"]
    world.networks.delete_service_subnet(bare.id, timeout=SECONDS)
    assert fake.all("networks", name="sharewright-1") == []


def test_changed_controllers_reach_subnets_that_exist(fake: FakeNeutron, world: World) -> None:
    world.subnet()
    later = World(fake, management_cidrs=("10.1.0.0/24", "fd00::/64"))
    assert [route.destination for route in later.subnet().routes] == [ip_network("10.1.0.0/24")]


def test_deleting_takes_routers_and_filters_along(fake: FakeNeutron, world: World) -> None:
    tenant = world.tenant(fake.tenant(router=True))
    subnet = world.subnet(routed_to=tenant, tenant_ports=(2049,))
    port = world.port(subnet)
    with pytest.raises(CloudError, match="still has port a"):
        world.networks.delete_service_subnet(subnet.id, timeout=SECONDS)
    world.networks.delete_port(port.id, timeout=SECONDS)
    for _ in range(2):
        world.networks.delete_service_subnet(subnet.id, timeout=SECONDS)
        assert fake.all("networks", name="sharewright-1") == []
    assert len(fake.all("ports")) == 1, "the tenant's own interface"
    assert fake.all("security-groups") == []


def test_quota_is_looked_at_before_anything_is_made(fake: FakeNeutron, world: World) -> None:
    fake.limits = {"port": 2}
    with pytest.raises(CloudCapacityExceeded, match="quota of 2 ports") as caught:
        world.subnet()
    assert "quota" in caught.value.hint
    assert fake.all("networks", project_id=PROJECT) == []


def test_no_room_for_another_filter(fake: FakeNeutron, world: World) -> None:
    fake.limits = {"security_group": 1}
    subnet = world.subnet()
    world.port(subnet)
    world.port(subnet, "b")
    with pytest.raises(CloudCapacityExceeded, match="No security group is left") as caught:
        world.port(subnet, "c", allowed_tcp=(2049,))
    assert "security-groups" in caught.value.hint


# ---- routers ----


def test_layout_router_uses_the_tenants_gateway(fake: FakeNeutron, world: World) -> None:
    tenant = world.tenant(fake.tenant(router=True))
    subnet = world.subnet(routed_to=tenant, tenant_ports=(2049,))
    theirs = next(each["id"] for each in fake.all("routers", name="tenants"))
    ours = next(each["id"] for each in fake.all("routers", name="management"))
    places = {
        port["device_id"]: port["fixed_ips"][0]["ip_address"]
        for port in fake.all("ports", network_id=subnet.network_id)
    }
    assert places == {theirs: "10.254.0.1", ours: "10.254.0.14"}
    assert subnet.gateway == ip_address("10.254.0.1")
    assert subnet.routes == (Route(destination=CONTROLLERS, gateway=ip_address("10.254.0.14")),)
    before = len(fake.requests)
    assert world.subnet(routed_to=tenant, tenant_ports=(2049,)) == subnet
    assert all(each.startswith("GET") for each in fake.network_requests(before))


def test_a_tenant_without_a_router_is_told_what_to_do(fake: FakeNeutron, world: World) -> None:
    alone = world.tenant(fake.tenant())
    with pytest.raises(CloudError, match="is no router") as caught:
        world.subnet(routed_to=alone)
    assert "openstack router add subnet" in caught.value.hint
    assert "connect_share_server_to_tenant_network" in caught.value.hint
    isolated = replace(alone, gateway=None)
    with pytest.raises(CloudError, match="has no gateway"):
        world.subnet(routed_to=isolated)


def test_a_tenant_who_changed_routers_is_followed(fake: FakeNeutron, world: World) -> None:
    row = fake.tenant(router=True)
    tenant = world.tenant(row)
    subnet = world.subnet(routed_to=tenant)
    interface = fake.all("ports", network_id=row["network_id"])[0]
    del fake.things["ports"][interface["id"]]
    other = fake.add("routers", name="another")["id"]
    fake.attach(other, row["id"])
    world.subnet(routed_to=tenant)
    gateways = [
        port["device_id"]
        for port in fake.all("ports", network_id=subnet.network_id)
        if port["fixed_ips"][0]["ip_address"] == "10.254.0.1"
    ]
    assert gateways == [other]


def test_a_router_that_is_gone_or_full(fake: FakeNeutron, world: World) -> None:
    with pytest.raises(CloudError, match="no router missing"):
        World(fake, management_router="missing").subnet()
    with pytest.raises(CloudError, match="management_router is not set"):
        World(fake, management_router="").networks.check()
    with pytest.raises(CloudError, match="management_cidrs is empty"):
        World(fake, management_cidrs=()).networks.check()
    (router,) = fake.all("routers")
    stranger = fake.tenant("10.254.0.0/24")
    fake.attach(router["id"], stranger["id"])
    with pytest.raises(CloudError, match="overlaps with the service subnet") as caught:
        world.subnet()
    assert "service_network_cidr" in caught.value.hint


def test_a_tenant_in_the_controllers_network_cannot_have_one_nic(fake: FakeNeutron, world: World) -> None:
    tenant = world.tenant(fake.tenant("10.253.0.0/24", router=True))
    with pytest.raises(CloudError, match="overlaps with the controllers"):
        world.subnet(routed_to=tenant)


# ---- ports ----


def test_a_port_in_the_tenants_subnet(fake: FakeNeutron, world: World) -> None:
    tenant = world.tenant(fake.tenant())
    port = world.port(tenant, "t", allowed_tcp=(2049,), allowed_from=(), outgoing=True)
    row = fake.things["ports"][port.id]
    assert (row["project_id"], row["network_id"]) == (PROJECT, tenant.network_id)
    assert row["port_security_enabled"]
    assert row["allowed_address_pairs"] == []
    (group,) = row["security_groups"]
    assert rules(fake, group) == {
        ("ingress", "IPv4", "icmp", 8, None),
        ("ingress", "IPv6", "ipv6-icmp", 128, None),
        ("ingress", "IPv4", "tcp", 2049, None),
        ("ingress", "IPv6", "tcp", 2049, None),
        ("egress", "IPv4", None, None, None),
        ("egress", "IPv6", None, None, None),
    }
    assert world.networks.list_ports() == [port]


def test_a_service_port_only_answers(fake: FakeNeutron, world: World) -> None:
    clients = Admission(ports=(2049,), sources=(ip_network("192.168.7.0/24"),))
    port = world.port(world.subnet(), also_allowed=(clients,))
    (group,) = fake.things["ports"][port.id]["security_groups"]
    assert rules(fake, group) == {
        ("ingress", "IPv4", "icmp", 8, None),
        ("ingress", "IPv6", "ipv6-icmp", 128, None),
        ("ingress", "IPv4", "tcp", 22, "10.253.0.0/24"),
        ("ingress", "IPv4", "tcp", 2049, "192.168.7.0/24"),
    }


def test_ports_share_their_filter_and_cost_two_requests(fake: FakeNeutron, world: World) -> None:
    subnet = world.subnet()
    world.port(subnet)
    before = len(fake.requests)
    world.port(subnet, "b")
    assert fake.network_requests(before) == ["GET /ports", "POST /ports"]
    assert len(fake.all("security-groups")) == 1


def test_changed_filters_and_ports_are_put_right(fake: FakeNeutron, world: World) -> None:
    subnet = world.subnet()
    port = world.port(subnet)
    row = fake.things["ports"][port.id]
    (group,) = row["security_groups"]
    right = rules(fake, group)

    def spoil() -> None:
        for each in fake.all("security-group-rules", security_group_id=group, protocol="tcp"):
            del fake.things["security-group-rules"][each["id"]]
        fake.add("security-group-rules", security_group_id=group, direction="ingress", ethertype="IPv4")
        row.update(security_groups=[], port_security_enabled=False, allowed_address_pairs=[{"ip_address": "0.0.0.0/0"}])

    spoil()
    later = World(fake)
    assert later.port(subnet) == port
    assert rules(fake, group) == right
    assert (row["security_groups"], row["port_security_enabled"], row["allowed_address_pairs"]) == ([group], True, [])
    spoil()
    World(fake).networks.repair()
    assert rules(fake, group) == right, "also without a server to be made"


def test_a_filter_that_went_at_this_moment_is_made_again(fake: FakeNeutron, world: World) -> None:
    subnet = world.subnet()
    port = world.port(subnet)
    world.networks.delete_port(port.id, timeout=SECONDS)
    fake.things["security-groups"].clear()  # another worker deleted the last subnet that used it
    fake.things["security-group-rules"].clear()
    assert fake.things["ports"][world.port(subnet).id]["security_groups"]


def test_a_port_that_vanished_comes_back_with_address_and_mac(fake: FakeNeutron, world: World) -> None:
    tenant = world.tenant(fake.tenant())
    port = world.port(tenant)
    del fake.things["ports"][port.id]
    again = world.port(tenant, address=port.address, mac=port.mac)
    assert (again.address, again.mac) == (port.address, port.mac)
    fake.things["ports"].clear()
    fake.may_choose_mac = False
    third = world.port(tenant, address=port.address, mac=port.mac)
    assert third.address == port.address
    assert third.mac != port.mac
    with pytest.raises(CloudError, match="another subnet or address"):
        world.port(tenant, address=ip_address("192.168.7.200") if str(port.address) != "192.168.7.200" else None)


def test_a_port_whose_subnet_is_hidden_is_still_listed(fake: FakeNeutron, world: World) -> None:
    port = world.port(world.tenant(fake.tenant()))
    fake.things["subnets"].clear()
    (listed,) = World(fake).networks.list_ports()
    assert (listed.id, listed.address) == (port.id, port.address)


def test_addresses_that_are_not_to_be_had(fake: FakeNeutron, world: World) -> None:
    tenant = world.tenant(fake.tenant("192.168.7.0/29"))
    first = world.port(tenant, "a")
    with pytest.raises(CloudError, match="not free in 192"):
        world.port(tenant, "b", address=first.address)
    for name in "bcde":
        world.port(tenant, name)
    with pytest.raises(CloudCapacityExceeded, match=r"No free address is left in 192.168.7.0/29"):
        world.port(tenant, "f")
    fake.things["subnets"].pop(tenant.id)
    with pytest.raises(CloudObjectMissing, match="no subnet"):
        world.port(tenant, "g")
    fake.things["networks"].pop(tenant.network_id)
    with pytest.raises(CloudObjectMissing, match="no subnet"):
        World(fake).port(tenant, "g")


def test_ipv6(fake: FakeNeutron, world: World) -> None:
    tenant = world.tenant(fake.tenant("fd00:7::/64"))
    port = world.port(tenant, allowed_from=(ip_network("fd00:8::/64"),))
    assert port.address.version == 6
    (group,) = fake.things["ports"][port.id]["security_groups"]
    assert ("ingress", "IPv6", "tcp", 22, "fd00:8::/64") in rules(fake, group)
    derived = world.tenant(fake.tenant("fd00:9::/64", ipv6_address_mode="slaac"))
    assert world.port(derived, "s", address=ip_address("fd00:9::5"), mac="fa:16:3e:00:00:09").address in derived.cidr


def test_of_a_network_with_several_subnets(fake: FakeNeutron, world: World) -> None:
    row = fake.tenant()
    six = fake.add("subnets", network_id=row["network_id"], cidr="fd00:7::/64", gateway_ip="fd00:7::1")
    fake.things["subnets"][row["id"]]["host_routes"] = [{"destination": "10.9.0.0/16", "nexthop": "192.168.7.254"}]
    first = world.networks.find_subnet(row["network_id"], None)
    assert first is not None
    assert first.id == row["id"]
    assert first.routes == (Route(destination=ip_network("10.9.0.0/16"), gateway=ip_address("192.168.7.254")),)
    second = world.networks.find_subnet(row["network_id"], six["id"])
    assert second is not None
    assert second.cidr.version == 6
    assert world.networks.find_subnet(row["network_id"], new_id()) is None
    assert world.networks.find_subnet(new_id(), None) is None


def test_a_project_uses_its_own_and_shared_networks_only(fake: FakeNeutron, world: World) -> None:
    network = fake.tenant(project_id="reds")["network_id"]
    find = world.networks.find_subnet
    assert find(network, None, project_id="reds") is not None
    assert find(network, None, project_id="blues") is None
    assert find(network, None) is not None
    fake.add("rbac-policies", object_id=network, object_type="network", action="access_as_external", target_tenant="*")
    fake.add(
        "rbac-policies", object_id=network, object_type="network", action="access_as_shared", target_tenant="greens"
    )
    assert find(network, None, project_id="greens") is not None
    assert find(network, None, project_id="blues") is None
    fake.add("rbac-policies", object_id=network, object_type="network", action="access_as_shared", target_tenant="*")
    assert find(network, None, project_id="blues") is not None


def test_port_security_is_on_where_a_tenant_switched_it_off(fake: FakeNeutron, world: World) -> None:
    for early in (True, False):
        row = fake.tenant()
        network = fake.things["networks"][row["network_id"]]
        if early:
            network["port_security_enabled"] = False
        subnet = world.tenant(row)
        network["port_security_enabled"] = False
        port = world.port(subnet, f"p{early}")
        assert fake.things["ports"][port.id]["port_security_enabled"]


def test_a_port_is_deleted_only_when_no_server_has_it(fake: FakeNeutron, world: World) -> None:
    port = world.port(world.subnet())
    server = fake.add_server("s", DEPLOYMENT)
    fake.things["ports"][port.id] |= {"device_id": server, "device_owner": "compute:nova"}
    with pytest.raises(CloudError, match=f"in use by instance {server}"):
        world.networks.delete_port(port.id, timeout=SECONDS)
    del fake.servers[server]  # and Nova did not let go of the port
    world.networks.delete_port(port.id, timeout=SECONDS)
    world.networks.delete_port(port.id, timeout=SECONDS)
    world.networks.delete_port("no such thing", timeout=SECONDS)
    assert world.networks.list_ports() == []


# ---- the way in ----


def test_routed_controllers_use_the_ports_own_address(fake: FakeNeutron, world: World) -> None:
    world.networks.check()
    subnet = world.subnet()
    port = world.port(subnet)
    before = len(fake.requests)
    assert world.networks.ensure_reachable(port, timeout=SECONDS) == port.address
    assert world.networks.management_sources(subnet) == (CONTROLLERS,)
    world.networks.repair()
    world.networks.repair()
    assert fake.network_requests(before) == ["GET /security-groups"], "once in a while"


def test_the_admin_network_is_the_operators(fake: FakeNeutron, world: World) -> None:
    row = fake.tenant("10.2.5.0/24", project_id="operators")
    found = world.networks.find_admin_network(row["network_id"], row["id"])
    assert found is not None
    assert (found.subnet.cidr, found.management) == (ip_network("10.2.5.0/24"), (CONTROLLERS,))
    assert world.networks.find_admin_network(row["network_id"], new_id()) is None
    assert world.networks.find_admin_network(new_id(), row["id"]) is None
    ours = world.subnet()
    assert world.networks.find_admin_network(ours.network_id, ours.id) is None, "a service network is none"
    with pytest.raises(CloudError, match="management_cidrs"):
        World(fake, management_cidrs=()).networks.find_admin_network(row["network_id"], row["id"])


def test_without_service_networks_no_way_to_them_is_needed(fake: FakeNeutron) -> None:
    settings = OpenStack(auth_url=f"{fake.url}/identity/v3", username="sharewright", password=PASSWORD)
    with closing(Connection(settings)) as connection:
        with pytest.raises(CloudError, match="management_router"):
            OpenStackNetworks(connection, DEPLOYMENT, settings).check()
        OpenStackNetworks(connection, DEPLOYMENT, settings, service_networks=False).check()


def test_floating_addresses_come_and_go_with_the_port(fake: FakeNeutron) -> None:
    world = World(fake, management="floating", external_network="public")
    world.networks.check()
    port = world.port(world.subnet())
    address = world.networks.ensure_reachable(port, timeout=SECONDS)
    assert str(address) == "10.253.0.50"
    assert World(fake, management="floating").networks.ensure_reachable(port, timeout=SECONDS) == address
    (row,) = fake.all("floatingips")
    assert row["project_id"] == PROJECT
    world.networks.delete_port(port.id, timeout=SECONDS)
    assert fake.all("floatingips") == []


def test_floating_needs_a_router_with_a_gateway(fake: FakeNeutron) -> None:
    fake.all("routers")[0]["external_gateway_info"] = None
    world = World(fake, management="floating", external_network="public")
    with pytest.raises(CloudError, match="no gateway on public") as caught:
        world.networks.check()
    assert "openstack router set" in caught.value.hint
    fake.limits = {"floatingip": 0}
    port = world.port(world.subnet())
    with pytest.raises(CloudCapacityExceeded, match="No floating address"):
        world.networks.ensure_reachable(port, timeout=SECONDS)


@pytest.mark.parametrize("agent", ["Linux bridge agent", "Open vSwitch agent", "OVN Controller agent"])
def test_host_ports_need_an_agent_that_plugs_them(fake: FakeNeutron, agent: str) -> None:
    world = World(fake, management="host_port", management_host="node")
    fake.add("agents", host="node", agent_type="DHCP agent")
    with pytest.raises(CloudError, match="no Linux bridge, Open vSwitch or OVN agent on host node"):
        world.networks.check()
    fake.add("agents", host="node", agent_type=agent)
    world.networks.check()
    subnet = world.subnet()
    assert subnet.gateway == ip_address("10.254.0.1"), "kept free, so that another way in may be chosen later"
    assert fake.all("ports") == []
    assert subnet.routes == ()
    assert world.networks.management_sources(subnet) == (subnet.cidr,)


# ---- tenants' networks, for tests and demonstrations ----


def test_networks_for_demonstrations(fake: FakeNeutron, world: World) -> None:
    fake.tenant()
    network = world.networks.create_network("demo", ip_network("10.99.0.0/24"), project_id=TENANT_PROJECT)
    assert network.project_id == TENANT_PROJECT
    assert world.networks.list_networks() == [network]
    assert world.networks.find_subnet(network.id, None) == network.subnets[0]
    with pytest.raises(CloudError, match="exists already"):
        world.networks.create_network("demo", ip_network("10.98.0.0/24"))
    port = world.port(network.subnets[0])
    with pytest.raises(CloudError, match="still has port a"):
        world.networks.delete_network(network.id)
    world.networks.delete_port(port.id, timeout=SECONDS)
    world.networks.delete_network(world.subnet().network_id)
    for _ in range(2):
        world.networks.delete_network(network.id)
    assert world.networks.list_networks() == []
    assert len(world.networks.list_service_subnets()) == 1


def test_purge_leaves_nothing_of_ours(fake: FakeNeutron, world: World) -> None:
    tenant = fake.tenant()
    World(fake, "others").subnet("theirs", "10.250.0.0/28")
    world.port(world.subnet())
    world.port(world.tenant(tenant), "b")
    world.networks.create_network("demo", ip_network("10.99.0.0/24"))
    world.networks.purge(timeout=SECONDS)
    assert {each["name"] for each in fake.all("networks")} == {"public", "tenant", "theirs"}
    assert fake.all("security-groups") == []


# ---- filters ----


@pytest.mark.parametrize(
    "wanted",
    [
        Filter((), outgoing=False),
        Filter((), outgoing=True),
        Filter((Admission(ports=(22,), sources=(CONTROLLERS,)), Admission(ports=(445, 2049))), outgoing=True),
        Filter((Admission(ports=(2049,), sources=(ip_network("fd00::/64"), CONTROLLERS)),), outgoing=False),
    ],
)
def test_filters_are_read_as_they_are_written(wanted: Filter) -> None:
    again = Filter.parse(wanted.text())
    assert again is not None
    assert again.rules() == wanted.rules()
    assert again.text() == wanted.text()


@pytest.mark.parametrize("text", ["22", "x<", "22<nonsense", "<>"])
def test_what_is_no_filter(text: str) -> None:
    assert Filter.parse(text) is None
