"""A service instance on several of a tenant's subnets, from the start or while it runs."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import pytest
from service_instance_world import ADMIN, NOTHING, Crash, Fuse, World, one_server

from sharewright.errors import CloudError
from sharewright.identifiers import new_id
from sharewright.progress import NoProgress
from sharewright.service_instance.contract import Layout, ServiceInstance, TenantNetwork
from sharewright.store.database import Store

FIRST, SECOND = ip_network("192.168.7.0/24"), ip_network("192.168.8.0/24")
SIX = ip_network("fd00:7::/64")


@pytest.fixture(params=["tenant", "tenant_admin"])
def world(request: pytest.FixtureRequest, sqlite_store: Store, make_world: Callable[..., World]) -> World:
    return make_world(sqlite_store, request.param)


def another(world: World, cidr: IPv4Network | IPv6Network = SECOND) -> TenantNetwork:
    network = world.cloud.networks.create_network(f"another-{cidr}", cidr)
    return TenantNetwork(net_id=network.id, subnet_id=network.subnets[0].id)


def with_two(world: World) -> dict[str, int]:
    one = one_server(world.settings.layout)
    return {**one, "ports": one["ports"] + 1}


def check_two(world: World, made: ServiceInstance) -> None:
    assert world.counts() == with_two(world)
    first, second = (ip_address(address) for address in made.export_addresses)
    assert first in FIRST
    assert second in SECOND
    assert made.ports[-1].address == str(second), "further NICs are the last ones"
    assert set(made.firewall.client_macs) == {port.mac for port in made.ports if port.role == "tenant"}
    assert made.network is not None
    assert [link["ethernet_mac_address"] for link in made.network["links"]] == [port.mac for port in made.ports]
    assert made.network["networks"][-1]["replies_only"] is True
    instance = world.cloud.compute.find_instance(made.instance_id)
    assert instance is not None
    assert instance.macs == {port.mac for port in made.ports}


def test_from_the_start(world: World) -> None:
    made = world.instances().ensure(new_id(), world.tenant, NoProgress(), further=[another(world)])
    check_two(world, made)


def test_while_it_runs(world: World) -> None:
    server, second = new_id(), another(world)
    before = world.instances().ensure(server, world.tenant, NoProgress())
    after = world.instances().ensure(server, world.tenant, NoProgress(), further=[second])
    check_two(world, after)
    assert (after.instance_id, after.ports[: len(before.ports)]) == (before.instance_id, before.ports)
    assert world.instances().ensure(server, world.tenant, NoProgress(), further=[second]) == after
    assert world.instances().ensure(server, world.tenant, NoProgress()) == before, "and off it again"
    assert world.counts() == one_server(world.settings.layout)
    world.instances().delete(server, NoProgress())
    assert world.counts() == NOTHING


def test_a_crash_anywhere_is_finished_by_the_next(world: World) -> None:
    second, rehearsal, server = another(world), Fuse(), new_id()
    world.instances().ensure(server, world.tenant, NoProgress())
    world.instances(rehearsal).ensure(server, world.tenant, NoProgress(), further=[second])
    assert rehearsal.passed > 10
    world.instances().delete(server, NoProgress())
    for place in range(1, rehearsal.passed + 1):
        for goes_on in (True, False):
            server = new_id()
            world.instances().ensure(server, world.tenant, NoProgress())
            with pytest.raises(Crash):
                world.instances(Fuse(place)).ensure(server, world.tenant, NoProgress(), further=[second])
            if goes_on:
                check_two(world, world.instances().ensure(server, world.tenant, NoProgress(), further=[second]))
            world.instances().delete(server, NoProgress())
            assert world.counts() == NOTHING, f"place {place}"


def test_a_crash_anywhere_on_the_way_back(world: World) -> None:
    second, rehearsal, server = another(world), Fuse(), new_id()
    world.instances().ensure(server, world.tenant, NoProgress(), further=[second])
    world.instances(rehearsal).ensure(server, world.tenant, NoProgress())
    for place in range(1, rehearsal.passed + 1):
        world.instances().ensure(server, world.tenant, NoProgress(), further=[second])
        with pytest.raises(Crash):
            world.instances(Fuse(place)).ensure(server, world.tenant, NoProgress())
        made = world.instances().ensure(server, world.tenant, NoProgress())
        assert world.counts() == one_server(world.settings.layout), f"place {place}"
        assert len(made.export_addresses) == 1


def test_a_vm_that_vanished_comes_back_with_all_its_nics(world: World) -> None:
    server, second = new_id(), another(world)
    before = world.instances().ensure(server, world.tenant, NoProgress(), further=[second])
    world.cloud.compute.delete_instance(before.instance_id, timeout=1)
    for port in before.ports:
        world.cloud.networks.lose_port(port.port_id)
    after = world.instances().ensure(server, world.tenant, NoProgress(), further=[second])
    assert after.export_addresses == before.export_addresses
    check_two(world, after)


def test_subnets_that_overlap_are_refused(world: World) -> None:
    for cidr in (ip_network("192.168.0.0/16"), ADMIN):
        if cidr == ADMIN and world.settings.layout == "tenant":
            continue
        server = new_id()
        world.instances().ensure(server, world.tenant, NoProgress())
        with pytest.raises(CloudError, match="overlap"):
            world.instances().ensure(server, world.tenant, NoProgress(), further=[another(world, cidr)])
        assert world.counts() == one_server(world.settings.layout)
        world.instances().delete(server, NoProgress())


def test_dual_stack_is_a_subnet_of_each_version(world: World) -> None:
    server = new_id()
    world.instances().ensure(server, world.tenant, NoProgress())
    made = world.instances().ensure(server, world.tenant, NoProgress(), further=[another(world, SIX)])
    four, six = (ip_address(address) for address in made.export_addresses)
    assert four in FIRST
    assert six in SIX
    assert made.network is not None
    last = made.network["networks"][-1]
    assert (last["type"], last["ip_address"], last["netmask"]) == ("ipv6", str(six), "ffff:ffff:ffff:ffff::")
    assert last["routes"] == [{"network": "::", "netmask": "::", "gateway": str(SIX[1])}]


@pytest.mark.parametrize("layout", ["router", "router_admin"])
def test_behind_a_router_there_is_no_ipv6(
    sqlite_store: Store, make_world: Callable[..., World], layout: Layout
) -> None:
    world, server = make_world(sqlite_store, layout), new_id()
    with pytest.raises(CloudError, match="IPv6") as caught:
        world.instances().ensure(server, another(world, SIX), NoProgress())
    assert "connect_share_server_to_tenant_network" in caught.value.hint
    world.instances().delete(server, NoProgress())
    assert world.counts() == NOTHING


@pytest.mark.parametrize("layout", ["router", "router_admin"])
def test_a_server_behind_a_router_serves_one_subnet(
    sqlite_store: Store, make_world: Callable[..., World], layout: Layout
) -> None:
    world, server = make_world(sqlite_store, layout), new_id()
    with pytest.raises(CloudError, match="one subnet"):
        world.instances().ensure(server, world.tenant, NoProgress(), further=[another(world)])
    world.instances().delete(server, NoProgress())
    assert world.counts() == NOTHING
