"""Another subnet for a share network whose servers serve already, told by the real engine on the simulated cloud."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest
from sqlalchemy import select

from sharewright.clouds.contract import PortSpec
from sharewright.errors import CloudError, CloudUnavailable, Conflict, InvalidInput
from sharewright.services import share_network_subnets as service
from sharewright.services.deployment import Deployment
from sharewright.store.database import Store
from sharewright.store.tables import (
    messages,
    operations,
    service_instances,
    share_export_locations,
    share_network_subnets,
    share_networks,
    share_servers,
)
from story_world import World, make_world


def a_share(world: World) -> str:
    share = world.request_share()
    world.request_rule(share, "10.20.0.0/16")
    world.run()
    assert world.share(share).status == "available"
    return share


def deployment(world: World) -> Deployment:
    return Deployment(store=world.store, settings=world.settings)


def add(world: World, cidr: str = "10.21.0.0/24") -> str:
    """What POST /share-networks/{id}/subnets does."""
    network = world.cloud.networks.create_network(f"tenant-{cidr}", ip_network(cidr))
    values = {"neutron_net_id": network.id, "neutron_subnet_id": network.subnets[0].id}
    created = service.create(deployment(world), world.context(), world.share_network_id, values)
    return str(created["id"])


def status(world: World) -> str:
    (row,) = world.rows(share_networks, id=world.share_network_id)
    return str(row.status)


def places(world: World, share: str) -> list[str]:
    """The networks (10.x) that a share has export locations on, the preferred one first."""
    rows = world.rows(share_export_locations, share_instance_id=world.instance(share).id)
    rows.sort(key=lambda row: not row.preferred)
    assert [row.preferred for row in rows] == [True] + [False] * (len(rows) - 1)
    return [row.path.split(".")[1] for row in rows]


def macs_in_guest(world: World) -> set[str]:
    (instance,) = world.cloud.compute.list_instances()
    return {link["ethernet_mac_address"] for link in world.guests.network(instance.id)["links"]}


def check_alone(world: World, share: str) -> None:
    """Everything is as before the subnet."""
    assert status(world) == "active"
    assert places(world, share) == ["20"]
    (row,) = world.rows(service_instances)
    assert {port["mac"] for port in row.ports} == macs_in_guest(world)
    assert len(world.cloud.networks.list_ports()) == len(row.ports) == 2
    assert len(world.rows(share_network_subnets, share_network_id=world.share_network_id)) == 1


def test_servers_get_a_nic_and_shares_an_export_location(world: World) -> None:
    share = a_share(world)
    (before,) = world.cloud.compute.list_instances()
    locations = {row.path: row.id for row in world.rows(share_export_locations)}
    subnet = add(world)
    assert status(world) == "network_change"
    world.run()
    assert status(world) == "active"
    assert places(world, share) == ["20", "21"]
    assert locations.items() <= {row.path: row.id for row in world.rows(share_export_locations)}.items()
    assert list(world.cloud.compute.list_instances()) == [before], "the same VM, and it has not been restarted"
    assert len(macs_in_guest(world)) == 3
    (row,) = world.rows(share_network_subnets, id=subnet)
    assert row.cidr == "10.21.0.0/24"
    assert places(world, a_share(world)) == places(world, share) == ["20", "21"]
    world.check_consistent()


def test_subnets_that_are_there_before_the_first_share(world: World) -> None:
    add(world)
    assert status(world) == "active", "there is no server to change"
    assert world.rows(operations) == []
    assert places(world, a_share(world)) == ["20", "21"]
    world.check_consistent()


def test_dual_stack(sqlite_world: World) -> None:
    """A subnet of each version: each has an export location, and the rules of its version."""
    world = sqlite_world
    share = a_share(world)
    add(world, "fd00:7::/64")
    world.run()
    four, six = sorted(world.locations(share))
    assert (four.startswith("10.20."), six.startswith("[fd00:7::")) == (True, True)
    assert six.partition("]:")[2] == f"/shares/share-{world.instance(share).id}"
    world.request_rule(share, "fd00:7::5")
    world.run()
    assert world.rules(share) == {"10.20.0.0/16": "active", "fd00:7::5": "active"}
    world.check_consistent()


def test_smb_shares_are_offered_where_their_clients_can_be_allowed(sqlite_world: World) -> None:
    world = sqlite_world
    share = world.request_share(protocol="CIFS")
    world.run()
    for cidr in ("fd00:7::/64", "10.21.0.0/24"):
        add(world, cidr)
        world.run()
    assert len(world.locations(share)) == 2
    assert all(path.startswith("\\\\10.") for path in world.locations(share)), world.locations(share)


def test_ipv6_behind_a_router_is_refused_with_the_reason(sqlite_store: Store, tmp_path: Path) -> None:
    with make_world(sqlite_store, tmp_path / "state", connect_share_server_to_tenant_network=False) as world:
        share = world.request_share(share_network_id=world.add_share_network(cidr="fd00:7::/64"))
        world.run()
        assert world.share(share).status == "error"
        (message,) = world.messages(share)
        assert "IPv6" in message.detail
        assert world.cloud.networks.list_ports() == []


def test_a_server_that_is_being_made_gets_it_too(sqlite_world: World) -> None:
    world = sqlite_world
    share = world.request_share()
    while not world.rows(share_servers):
        assert world.run_one("create_share")
    add(world)
    world.run()
    assert places(world, share) == ["20", "21"]
    assert len(macs_in_guest(world)) == 3
    assert status(world) == "active"


def test_a_subnet_that_is_full_is_taken_away_again(sqlite_world: World) -> None:
    world = sqlite_world
    share = a_share(world)
    subnet = add(world, "10.21.0.0/29")
    (row,) = world.rows(share_network_subnets, id=subnet)
    place = world.cloud.networks.find_subnet(row.neutron_net_id, row.neutron_subnet_id)
    assert place is not None
    for number in range(5):
        spec = PortSpec(name=f"other-{number}", subnet=place, tags={}, allowed_tcp=())
        world.cloud.networks.ensure_port(spec, timeout=1)
    world.run()
    assert places(world, share) == ["20"]
    assert (status(world), world.rows(share_network_subnets, id=subnet)) == ("active", [])
    (message,) = world.rows(messages)
    assert (message.resource_type, message.resource_id, message.detail_id) == ("SHARE_NETWORK_SUBNET", subnet, "033")
    assert "free address" in message.detail


def test_a_subnet_that_is_not_there(sqlite_world: World) -> None:
    world = sqlite_world
    share = a_share(world)
    values = {"neutron_net_id": world.share_network_id, "neutron_subnet_id": share}  # ids of something else
    service.create(deployment(world), world.context(), world.share_network_id, values)
    world.run()
    check_alone(world, share)
    (message,) = world.rows(messages)
    assert "the cloud does not have" in message.detail


@pytest.mark.parametrize("error", [CloudError, CloudUnavailable])
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("call", ["find_subnet", "ensure_port", "ensure_instance", "guest.wait_ready", "guest.apply"])
def test_whatever_fails_it_is_there_for_all_or_not_at_all(
    sqlite_world: World, call: str, moment: str, error: type[CloudError]
) -> None:
    world = sqlite_world
    share = a_share(world)
    add(world)
    world.cloud.fail(call, error, moment=moment)
    world.run()
    assert status(world) == "active"
    if error is CloudUnavailable:  # it passes
        assert places(world, share) == ["20", "21"]
        assert len(macs_in_guest(world)) == 3
    else:
        check_alone(world, share)
        assert len(world.rows(messages)) == 1


def test_healing_finishes_what_could_not_be_undone(sqlite_world: World) -> None:
    world = sqlite_world
    share = a_share(world)
    add(world)
    world.cloud.fail("guest.apply", CloudError)
    world.cloud.fail("detach_port", CloudError, times=3)  # as often as it is tried
    world.run()
    assert status(world) == "active"
    assert len(world.cloud.networks.list_ports()) == 3
    (server,) = world.rows(share_servers)
    world.request_server_operation("heal_server", server.id)
    world.run()
    check_alone(world, share)


def test_healing_puts_a_server_on_the_subnet_that_it_lacks(sqlite_world: World) -> None:
    """A server in error is left alone while the subnet is added."""
    world = sqlite_world
    share = a_share(world)
    (server,) = world.rows(share_servers)
    with world.store.begin() as tx:
        tx.execute(share_servers.update().values(status="error"))
    add(world)
    world.run()
    assert (status(world), places(world, share)) == ("active", ["20"])
    world.request_server_operation("heal_server", server.id)
    world.run()
    assert places(world, share) == ["20", "21"]
    assert len(macs_in_guest(world)) == 3


def test_healing_leaves_the_networks_alone_while_they_change(sqlite_world: World) -> None:
    """Both would make the port, and plug it in, under two resource keys."""
    world = sqlite_world
    share = a_share(world)
    (server,) = world.rows(share_servers)
    add(world)
    world.request_server_operation("heal_server", server.id)
    assert world.run_one("heal_server")
    assert (len(macs_in_guest(world)), len(world.cloud.networks.list_ports())) == (2, 2)
    (healed,) = world.rows(operations, kind="heal_server")
    assert (healed.state, world.rows(share_servers)[0].healthy) == ("succeeded", True)
    world.run()
    assert places(world, share) == ["20", "21"]


def test_a_vm_that_is_gone_while_its_networks_change_is_made_once(sqlite_world: World) -> None:
    world = sqlite_world
    share = a_share(world)
    (server,) = world.rows(share_servers)
    (instance,) = world.cloud.compute.list_instances()
    world.cloud.compute.delete_instance(instance.id, timeout=1)
    add(world)
    world.request_server_operation("heal_server", server.id)
    assert world.run_one("heal_server")
    assert world.cloud.compute.list_instances() == []
    world.run()
    assert places(world, share) == ["20", "21"]
    assert len(macs_in_guest(world)) == 3


def test_a_subnet_waits_for_the_healing_that_was_there_first(sqlite_world: World) -> None:
    world = sqlite_world
    share = a_share(world)
    (server,) = world.rows(share_servers)
    earlier = world.request_server_operation("heal_server", server.id)
    add(world)
    kind = "add_share_network_subnet"
    assert world.run_one(kind)
    (waiting,) = world.rows(operations, kind=kind)
    assert (waiting.state, waiting.waits_for) == ("queued", earlier)
    assert not world.run_one(kind)
    assert world.run_one("heal_server")
    later = world.request_server_operation("heal_server", server.id)
    assert world.run_one(kind), "one that begins now sees that the networks change"
    assert places(world, share) == ["20", "21"]
    assert world.rows(operations, id=later)[0].state == "queued"


def test_a_vm_that_vanished_comes_back_on_all_subnets(sqlite_world: World) -> None:
    world = sqlite_world
    share = a_share(world)
    add(world)
    world.run()
    before = {row.path for row in world.rows(share_export_locations)}
    (instance,) = world.cloud.compute.list_instances()
    world.cloud.compute.delete_instance(instance.id, timeout=1)
    (server,) = world.rows(share_servers)
    world.request_server_operation("heal_server", server.id)
    world.run()
    assert {row.path for row in world.rows(share_export_locations)} == before
    assert len(macs_in_guest(world)) == 3
    assert world.exports(share) is not None


def test_what_is_refused_changes_nothing(sqlite_world: World) -> None:
    world = sqlite_world
    a_share(world)
    (row,) = world.rows(share_network_subnets)
    same = {"neutron_net_id": row.neutron_net_id, "neutron_subnet_id": row.neutron_subnet_id}
    with pytest.raises(Conflict, match="already"):
        service.create(deployment(world), world.context(), world.share_network_id, same)
    with pytest.raises(Conflict, match="need neutron_net_id"):
        service.create(deployment(world), world.context(), world.share_network_id, {})
    add(world)
    with pytest.raises(InvalidInput, match="network_change"):
        add(world, "10.22.0.0/24")
    with pytest.raises(Conflict, match="being changed"):
        service.remove(deployment(world), world.context(), world.share_network_id, row.id)
    world.run()
    with pytest.raises(Conflict, match="has shares"):
        service.remove(deployment(world), world.context(), world.share_network_id, row.id)
    with world.store.read() as tx:
        assert len(tx.execute(select(share_network_subnets)).all()) == 2


def test_behind_a_router_there_is_one_subnet(sqlite_store: Store, tmp_path: Path) -> None:
    with make_world(sqlite_store, tmp_path / "state", connect_share_server_to_tenant_network=False) as world:
        share = a_share(world)
        with pytest.raises(Conflict, match="behind the tenant's router"):
            add(world)
        assert status(world) == "active"
        world.request_delete(share)
        world.run()
        (server,) = world.rows(share_servers)
        world.request_server_operation("delete_share_server", server.id)
        world.run()
        add(world, "10.22.0.0/24")
        refused = world.request_share()
        world.run()
        (message,) = world.messages(refused)
        assert "several subnets" in message.detail
