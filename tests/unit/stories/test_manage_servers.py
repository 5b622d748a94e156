"""Share servers that are given away with their VMs and taken over again, told by the real engine."""

from __future__ import annotations

from typing import Any

import pytest

from sharewright.identifiers import new_id, utcnow
from sharewright.operations.sweeper import Sweeper
from sharewright.store.tables import secrets, service_instances, share_servers, shares
from story_world import BACKEND, PROJECT, World


def a_server(world: World) -> str:
    """Empty, in service."""
    share = world.request_share()
    world.run()
    server = str(world.share(share).share_server_id)
    world.request_delete(share)
    world.run()
    return server


def row(world: World, server: str) -> Any:
    (found,) = world.rows(share_servers, id=server)
    return found


def given_away(world: World, server: str) -> str:
    """The id of its VM."""
    (machine,) = world.cloud.compute.list_instances()
    world.request_unmanage_server(server)
    world.run()
    assert (row(world, server).status, row(world, server).share_network_id) == ("unmanaged", None)
    return machine.id


def sweep(world: World) -> None:
    sweeper = Sweeper(world.store, {BACKEND: world.cloud}, grace_seconds=0.0)
    assert sweeper.sweep() == []
    assert sweeper.sweep() == []


def test_given_away_and_taken_over_again(world: World) -> None:
    server = a_server(world)
    generation = row(world, server).generation
    machine = given_away(world, server)
    sweep(world)  # nobody's VM is still somebody's
    assert [each.id for each in world.cloud.compute.list_instances()] == [machine]
    assert len(world.rows(secrets)) == 2
    world.request_manage_server(server)
    world.run()
    found = row(world, server)
    assert (found.status, found.taken_over, found.healthy, found.is_auto_deletable) == ("active", True, True, False)
    assert found.generation > generation
    assert [each.id for each in world.cloud.compute.list_instances()] == [machine]
    share = world.request_share()
    world.run()
    assert (world.share(share).status, world.share(share).share_server_id) == ("available", server)
    world.check_consistent()


def test_new_shares_get_another_server_meanwhile(world: World) -> None:
    server = a_server(world)
    given_away(world, server)
    share = world.request_share()
    world.run()
    assert world.share(share).status == "available"
    assert world.share(share).share_server_id != server
    world.request_manage_server(server)
    world.run()
    assert row(world, server).status == "active"
    world.check_consistent()


def test_not_with_shares(world: World) -> None:
    share = world.request_share()
    world.run()
    server = world.share(share).share_server_id
    world.request_unmanage_server(server)
    world.run()
    assert row(world, server).status == "unmanage_error"
    assert "has shares" in world.messages(server)[0].detail
    assert world.exports(share) == []


@pytest.mark.parametrize("end", ["unmanage", "delete"])
def test_a_vm_on_another_network(world: World, end: str) -> None:
    """What could not be managed is left as it was, however the failure is removed; then it is managed where it is."""
    server = a_server(world)
    machine = given_away(world, server)
    world.request_manage_server(server, world.add_share_network(cidr="10.30.0.0/24"))
    world.run()
    assert row(world, server).status == "manage_error"
    assert "and the share network on" in world.messages(server)[0].detail
    if end == "unmanage":
        world.request_unmanage_server(server)
    else:
        world.request_server_delete(server)
    world.run()
    assert row(world, server).status == "unmanaged"
    assert [each.id for each in world.cloud.compute.list_instances()] == [machine]
    world.request_manage_server(server)
    world.run()
    assert row(world, server).status == "active"
    world.request_server_delete(server)  # it is ours, so it goes
    world.run()
    assert world.rows(share_servers) == world.rows(service_instances) == world.rows(secrets) == []
    assert list(world.cloud.compute.list_instances()) == []


def test_a_vm_that_was_stopped_is_started(world: World) -> None:
    server = a_server(world)
    machine = given_away(world, server)
    world.cloud.compute.stop_instance(machine)
    world.request_manage_server(server)
    world.run()
    assert row(world, server).status == "active"


def test_a_vm_that_is_gone(world: World) -> None:
    server = a_server(world)
    world.cloud.compute.delete_instance(given_away(world, server), timeout=5)
    world.request_manage_server(server)
    world.run()
    assert row(world, server).status == "manage_error"
    assert "no VM" in world.messages(server)[0].detail


def test_what_was_never_one_of_ours(world: World) -> None:
    server = new_id()
    with world.store.begin() as tx:
        tx.execute(
            share_servers.insert().values(
                id=server, project_id=PROJECT, backend=BACKEND, host=f"node@{BACKEND}", status="manage_starting",
                taken_over=False, created_at=utcnow(),
            )
        )  # fmt: skip
    a_server(world)  # so that the world has its networks
    with world.store.begin() as tx:
        world._enqueue(tx, "manage_share_server", server, {"identifier": "vm-7"}, resource_type="share_server")
    world.run()
    assert row(world, server).status == "manage_error"
    assert "vm-7 is no share server that was unmanaged here" in world.messages(server)[0].detail
    world.request_unmanage_server(server)
    world.run()
    assert world.rows(share_servers, id=server) == []


def test_deleted_while_it_is_managed(world: World) -> None:
    server = a_server(world)
    machine = given_away(world, server)
    world.request_manage_server(server)
    world.request_server_delete(server)
    world.run()
    assert row(world, server).status == "unmanaged"
    assert [each.id for each in world.cloud.compute.list_instances()] == [machine]


def test_a_share_and_its_server(world: World) -> None:
    """Both leave, both come back, and the data with them."""
    share = world.request_share(2)
    world.run()
    filesystem, (path,) = world.instance(share).filesystem_uuid, world.locations(share)
    server = str(world.share(share).share_server_id)
    world.request_unmanage(share)
    world.run()
    given_away(world, server)
    assert world.rows(shares) == []
    world.request_manage_server(server)
    world.run()
    again = world.request_manage(server, path)
    world.run()
    assert world.share(again).status == "available"
    assert world.instance(again).filesystem_uuid == filesystem
    world.check_consistent()
