"""The stories of moving a share server, told by the real engine on the simulated cloud."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from migrations_of_shares import (
    a_share,
    administrator,
    cancel_server,
    complete_server,
    deployment,
    made_for,
    main_of,
    pool_of,
    server_of,
    start_server,
)
from replicas_of_shares import a_replicated_share, other_of
from sharewright.errors import CloudError, Conflict
from sharewright.services import share_servers as server_service
from sharewright.store.database import Store
from sharewright.store.tables import messages, share_servers, share_snapshot_mounts
from story_world import World, make_world

RULE = [["10.20.0.99/32", "rw"]]


@pytest.fixture
def migrating(store: Store, tmp_path: Path) -> Iterator[World]:
    with make_world(store, tmp_path / "state", replicas=True) as world:
        yield world


def two_shares(world: World) -> tuple[str, str, str]:
    """Two shares on one server of the first backend, and that server."""
    first, second = a_share(world, size=2), a_share(world)
    server = world.share(first).share_server_id
    assert world.share(second).share_server_id == server
    return first, second, str(server)


def statuses(world: World, *shares: str) -> set[str]:
    return {world.share(share).status for share in shares}


def told(world: World, server: str) -> list[Any]:
    return world.rows(messages, resource_id=server)


def test_a_server_gives_its_shares_to_another_in_two_phases(migrating: World) -> None:
    world = migrating
    first, second, server = two_shares(world)
    before = {share: main_of(world, share) for share in (first, second)}
    paths = {share: world.locations(share) for share in before}
    start_server(world, server, writable=True)
    assert (server_of(world, server).status, server_of(world, server).task_state) == (
        "server_migrating",
        "migration_starting",
    )
    world.run()
    assert server_of(world, server).task_state == "migration_driver_phase1_done"
    other = made_for(world, server)
    assert (other.status, other.backend, other.task_state) == (
        "server_migrating_to",
        "beta",
        "migration_driver_phase1_done",
    )
    assert statuses(world, first, second) == {"server_migrating"}
    assert [world.exports(share) for share in before] == [RULE, RULE]  # clients notice nothing
    world.check_consistent()

    assert complete_server(world, server) == other.id
    world.run()
    for share, row in before.items():
        now = main_of(world, share)
        assert (now.id, now.volume_id, now.filesystem_uuid) == (row.id, row.volume_id, row.filesystem_uuid)
        assert (now.host, now.share_server_id, now.availability_zone) == (pool_of(world), other.id, "zone-beta")
        assert now.status == "available"
        assert world.exports(share) == RULE
        assert world.locations(share) != paths[share]
    assert world.rows(share_servers, id=server) == []
    other = made_for(world, server)
    assert (other.status, other.task_state, other.is_auto_deletable) == ("active", "migration_success", True)
    world.check_consistent()
    third = world.request_share(hints={"only_host": pool_of(world)})  # others may live on it now
    world.run()
    assert world.share(third).share_server_id == other.id
    for share in (first, second, third):
        world.request_delete(share)
    world.run()
    assert world.usage() == (0, 0)
    world.check_consistent()


def test_the_share_network_may_be_another_one(migrating: World) -> None:
    world = migrating
    first, _, server = two_shares(world)
    network = world.add_share_network(cidr="10.21.0.0/24")
    start_server(world, server, host=f"{world.settings.node}@alpha", new_share_network_id=network)
    world.run()
    complete_server(world, server)
    world.run()
    assert (main_of(world, first).share_network_id, world.share(first).share_network_id) == (network, network)
    assert world.exports(first) == RULE
    world.check_consistent()


def test_nobody_else_gets_the_server_before(migrating: World) -> None:
    world = migrating
    _, _, server = two_shares(world)
    start_server(world, server)
    world.run()
    other = made_for(world, server)
    share = world.request_share(hints={"only_host": pool_of(world)})
    world.run()
    assert world.share(share).status == "available"
    assert world.share(share).share_server_id != other.id
    share = world.request_share(hints={"only_host": pool_of(world, "alpha")})
    world.run()
    assert world.share(share).share_server_id != server


def test_a_server_migration_may_be_cancelled(migrating: World) -> None:
    world = migrating
    first, second, server = two_shares(world)
    snapshot = world.request_snapshot(first)
    world.run()
    start_server(world, server, preserve_snapshots=True)
    world.run()
    assert world.snapshot(snapshot).status == "server_migrating"
    cancel_server(world, server)
    world.run()
    row = server_of(world, server)
    assert (row.status, row.task_state) == ("active", "migration_cancelled")
    assert statuses(world, first, second) == {"available"}
    assert world.snapshot(snapshot).status == "available"
    assert world.rows(share_servers, source_share_server_id=server) == []
    assert world.exports(first) == RULE
    world.check_consistent()
    start_server(world, server)  # and again
    world.run()
    assert server_of(world, server).task_state == "migration_driver_phase1_done"


def test_snapshots_go_with_the_shares_of_a_server(migrating: World) -> None:
    world = migrating
    share = a_share(world)
    snapshot = world.request_snapshot(share)
    world.run()
    world.request_snapshot_rule(snapshot, "10.20.0.0/24")
    world.run()
    server = str(world.share(share).share_server_id)
    start_server(world, server)
    world.run()
    other = complete_server(world, server)
    world.run()
    assert (world.snapshot(snapshot).status, world.snapshot_instance(snapshot).status) == ("available", "available")
    (mount,) = world.rows(share_snapshot_mounts)
    assert mount.share_server_id == other
    assert world.snapshot_exports(snapshot) == [["10.20.0.0/24", "ro"]]
    clone = world.request_clone(snapshot, snapshot_support=True)
    world.run()
    assert world.share(clone).status == "available"
    world.check_consistent()


def test_a_replica_elsewhere_stays_in_sync(migrating: World) -> None:
    world = migrating
    share = a_replicated_share(world)
    before, replica = main_of(world, share), other_of(world, share)
    start_server(world, str(before.share_server_id), host=f"{world.settings.node}@{replica.backend}")
    world.run()
    complete_server(world, str(before.share_server_id))
    world.run()
    assert main_of(world, share).id == before.id
    assert main_of(world, share).backend == replica.backend
    assert (other_of(world, share).id, other_of(world, share).replica_state) == (replica.id, "in_sync")
    world.check_consistent()


def check_untouched(world: World, server: str, *shares: str) -> None:
    row = server_of(world, server)
    assert (row.status, row.task_state) == ("active", "migration_error")
    assert statuses(world, *shares) == {"available"}
    assert len(told(world, server)) == 1
    assert all(world.exports(share) == RULE for share in shares)
    assert world.rows(share_servers, source_share_server_id=server) == []
    world.check_consistent()


def test_a_wish_that_no_driver_fulfils_leaves_all_as_it_was(migrating: World) -> None:
    first, second, server = two_shares(migrating)
    start_server(migrating, server, nondisruptive=True)
    migrating.run()
    check_untouched(migrating, server, first, second)


def test_another_server_that_cannot_be_made_leaves_all_as_it_was(migrating: World) -> None:
    first, second, server = two_shares(migrating)
    migrating.cloud.fail("ensure_instance", CloudError, times=-1)
    start_server(migrating, server)
    migrating.run()
    check_untouched(migrating, server, first, second)


def test_a_driver_without_the_capability_leaves_all_as_it_was(store: Store, tmp_path: Path) -> None:
    with make_world(store, tmp_path / "state") as world:
        share = world.request_share()
        world.request_rule(share, "10.20.0.99")
        world.run()
        server, network = str(world.share(share).share_server_id), world.add_share_network(cidr="10.21.0.0/24")
        start_server(world, server, host=f"{world.settings.node}@alpha", new_share_network_id=network)
        world.run()
        check_untouched(world, server, share)
        assert "cannot move share servers" in told(world, server)[0].detail


def test_shares_that_cannot_leave_are_served_where_they_were(migrating: World) -> None:
    world = migrating
    first, second, server = two_shares(world)
    start_server(world, server)
    world.run()
    world.cloud.fail("detach_volume", CloudError, times=2)  # the second share is still attached
    complete_server(world, server)
    world.run()
    check_untouched(world, server, first, second)


def test_a_completion_that_fails_afterwards_is_asked_for_again(migrating: World) -> None:
    world = migrating
    first, second, server = two_shares(world)
    start_server(world, server)
    world.run()
    world.cloud.fail("attach_volume", CloudError, times=-1)  # the shares live on the other server by then
    other = complete_server(world, server)
    world.run()
    assert statuses(world, first, second) == {"error"}
    assert {server_of(world, each).status for each in (server, other)} == {"error"}
    assert world.share(first).share_server_id == other
    world.cloud.forgive()
    server_service.reset_task_state(deployment(world), administrator(), server, "migration_driver_phase1_done")
    assert complete_server(world, server) == other
    world.run()
    assert statuses(world, first, second) == {"available"}
    assert world.exports(second) == RULE
    assert world.rows(share_servers, id=server) == []
    world.check_consistent()


def test_shares_whose_server_moves_can_be_deleted_by_force(migrating: World) -> None:
    world = migrating
    first, second, server = two_shares(world)
    start_server(world, server)
    world.run()
    world.request_delete(first, force=True)
    complete_server(world, server)  # waits for that
    world.run()
    assert world.share(second).status == "available"
    assert world.exports(second) == RULE
    world.request_delete(second)
    world.run()
    assert world.usage() == (0, 0)
    world.check_consistent()


def test_a_server_whose_shares_are_gone_meanwhile_ends_well(migrating: World) -> None:
    world = migrating
    first, second, server = two_shares(world)
    start_server(world, server)
    world.run()
    for share in (first, second):
        world.request_delete(share, force=True)
    world.run()
    other = complete_server(world, server)
    world.run()
    assert server_of(world, other).status == "active"
    assert server_of(world, other).unused_since is not None
    with pytest.raises(Conflict):
        start_server(world, other, host=f"{world.settings.node}@alpha")
    world.check_consistent()
