"""Shares that grow, told by the real engine on the simulated cloud."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from sharewright.errors import CloudCapacityExceeded, CloudError, CloudUnavailable, GuestUnreachable
from sharewright.operations.messages import Action, Detail
from sharewright.store.database import Store
from sharewright.store.tables import operations, pools, share_instances, share_servers, shares
from story_world import World, make_world

GIBIBYTE = 2**30


def a_share(world: World, size: int = 1) -> str:
    share = world.request_share(size)
    world.request_rule(share, "10.20.0.5")
    world.run()
    assert world.share(share).status == "available"
    return share


def filesystem(world: World, share: str) -> int:
    """GiB of the file system in the guest."""
    with world.cloud.state.transaction(write=False) as tx:
        row = tx.execute(
            "SELECT filesystem_size FROM volumes WHERE id = ?", (world.instance(share).volume_id,)
        ).fetchone()
    return int(row["filesystem_size"])


def volume(world: World, share: str) -> int:
    found = world.cloud.volumes.find_volume(world.instance(share).volume_id)
    assert found is not None
    return found.size


def operation(world: World, share: str) -> Any:
    return world.rows(operations, resource_id=share, kind="extend_share")[-1]


def test_a_share_grows_while_it_is_served(world: World) -> None:
    share = a_share(world)
    before = world.instance(share)
    world.request_extend(share, 3)
    world.run()
    assert (world.share(share).status, world.share(share).size, world.instance(share).size) == ("available", 3, 3)
    assert (volume(world, share), filesystem(world, share)) == (3, 3)
    assert world.usage() == (1, 3)
    assert world.exports(share) == [["10.20.0.5/32", "rw"]]
    after = world.instance(share)
    for kept in ("volume_id", "volume_serial", "filesystem_uuid", "share_server_id"):
        assert getattr(after, kept) == getattr(before, kept)
    assert world.messages(share) == []
    world.check_consistent()


def test_it_costs_two_calls_of_the_cloud_and_one_round_trip(sqlite_world: World) -> None:
    share = a_share(sqlite_world)
    sqlite_world.request_extend(share, 2)
    sqlite_world.run()
    row = operation(sqlite_world, share)
    assert (row.cloud_calls, row.guest_round_trips) == (2, 1)
    assert sqlite_world.steps("extend_share") == ["schedule", "volume", "guest"]


def test_other_shares_of_the_server_keep_their_sizes(sqlite_world: World) -> None:
    share, other = a_share(sqlite_world), a_share(sqlite_world, 2)
    sqlite_world.request_extend(share, 5)
    sqlite_world.run()
    assert (volume(sqlite_world, other), filesystem(sqlite_world, other)) == (2, 2)
    assert sqlite_world.usage() == (2, 7)


def test_no_room_in_the_pool_and_nothing_has_happened(sqlite_world: World) -> None:
    share = a_share(sqlite_world)
    with sqlite_world.store.begin() as tx:
        tx.execute(update(pools).values(total_capacity=10.0, free_capacity=1.0, provisioned_capacity=200.0))
    sqlite_world.request_extend(share, 9)
    sqlite_world.run()
    assert (sqlite_world.share(share).status, sqlite_world.share(share).size) == ("available", 1)
    assert volume(sqlite_world, share) == 1
    assert sqlite_world.usage() == (1, 1)
    (message,) = sqlite_world.messages(share)
    assert (message.action_id, message.detail_id) == (Action.EXTEND, Detail.FILTER_CAPACITY)
    assert "capacity: 8 GiB asked for, 0.0 GiB available" in message.detail

    sqlite_world.request_extend(share, 9, force=True)
    sqlite_world.run()
    assert (sqlite_world.share(share).status, sqlite_world.share(share).size) == ("available", 9)


def test_what_is_reserved_for_extending_counts(sqlite_world: World) -> None:
    share = a_share(sqlite_world)
    with sqlite_world.store.begin() as tx:
        (pool,) = tx.execute(select(pools)).all()
        capabilities = pool.capabilities | {"reserved_share_extend_percentage": 100}
        tx.execute(update(pools).values(capabilities=capabilities))
    sqlite_world.request_extend(share, 2)
    sqlite_world.run()
    assert sqlite_world.share(share).status == "available"
    assert sqlite_world.messages(share)[0].detail_id == Detail.FILTER_CAPACITY


class TestTheLimitOfAServer:
    """max_share_server_size."""

    @pytest.fixture
    def small(self, store: Store, tmp_path: Path) -> Iterator[World]:
        with make_world(store, tmp_path / "state", max_share_server_size=5) as world:
            yield world

    def test_nothing_has_happened(self, small: World) -> None:
        share, _ = a_share(small), a_share(small, 2)
        small.request_extend(share, 4)
        small.run()
        assert (small.share(share).status, small.share(share).size, volume(small, share)) == ("available", 1, 1)
        assert small.usage() == (2, 3)
        (message,) = small.messages(share)
        assert (message.action_id, message.detail_id) == (Action.EXTEND, Detail.FILTER_CAPACITY)
        assert "its share server has 3 GiB of shares and mounted snapshots and may have 5" in message.detail
        small.request_extend(share, 3)
        small.run()
        assert (small.share(share).status, small.share(share).size) == ("available", 3)
        small.request_extend(share, 6, force=True)
        small.run()
        assert small.share(share).size == 6

    def test_of_several_at_once_the_first_wins(self, small: World) -> None:
        first, second = a_share(small), a_share(small)
        small.request_extend(first, 4)
        small.request_extend(second, 3)
        third = small.request_share(1)
        small.run_worker()
        assert (small.share(first).size, small.share(second).size) == (4, 1)
        assert small.share(second).status == "available"
        assert small.instance(third).share_server_id != small.instance(first).share_server_id
        small.check_consistent()


class TestFailures:
    def test_the_cloud_has_no_room(self, world: World) -> None:
        share = a_share(world)
        world.cloud.fail("extend_volume", CloudCapacityExceeded, message="The disks are full.")
        world.request_extend(share, 2)
        world.run()
        assert (world.share(share).status, world.share(share).size) == ("extending_error", 1)
        assert world.usage() == (1, 1)
        (message,) = world.messages(share)
        assert (message.action_id, message.detail_id) == (Action.EXTEND, Detail.DRIVER_FAILED_EXTEND)
        assert "The disks are full." in message.detail
        assert world.exports(share) == [["10.20.0.5/32", "rw"]]  # it goes on being served
        world.check_consistent()

    def test_again_from_extending_error(self, world: World) -> None:
        share = a_share(world)
        world.cloud.fail("guest.grow", CloudError, message="The journal is broken.")
        world.request_extend(share, 5)
        world.run()
        assert world.share(share).status == "extending_error"
        assert "The journal is broken." in world.messages(share)[0].detail
        # The volume has grown and never shrinks; the share is as large as it says, not as its volume.
        assert (volume(world, share), filesystem(world, share)) == (5, 1)
        assert (world.share(share).size, world.instance(share).size, world.usage()) == (1, 1, (1, 1))

        world.request_extend(share, 3)
        world.run()
        assert (world.share(share).status, world.share(share).size, world.usage()) == ("available", 3, (1, 3))
        assert (volume(world, share), filesystem(world, share)) == (5, 3)
        world.request_extend(share, 6)
        world.run()
        assert (volume(world, share), filesystem(world, share), world.usage()) == (6, 6, (1, 6))
        world.check_consistent()

    def test_deleted_from_extending_error(self, world: World) -> None:
        share = a_share(world)
        world.cloud.fail("extend_volume", CloudError, message="No.")
        world.request_extend(share, 2)
        world.run()
        assert world.share(share).status == "extending_error"
        world.request_delete(share)
        world.run()
        assert world.rows(shares) == []
        assert world.usage() == (0, 0)
        assert list(world.cloud.volumes.list_volumes()) == []

    def test_faults_that_pass_are_waited_for(self, sqlite_world: World) -> None:
        share = a_share(sqlite_world)
        sqlite_world.cloud.fail("extend_volume", CloudUnavailable, times=2, message="In a moment.")
        sqlite_world.cloud.fail("guest.apply", CloudUnavailable, times=2, message="In a moment.")
        sqlite_world.request_extend(share, 2)
        sqlite_world.run()
        assert (sqlite_world.share(share).status, sqlite_world.share(share).size) == ("available", 2)
        assert sqlite_world.messages(share) == []

    def test_the_room_is_asked_for_only_before_the_volume_grows(self, sqlite_world: World) -> None:
        share = a_share(sqlite_world)
        with sqlite_world.store.begin() as tx:
            tx.execute(update(pools).values(total_capacity=4.0, free_capacity=3.0, provisioned_capacity=1.0))
            (pool,) = tx.execute(select(pools)).all()
            tx.execute(update(pools).values(capabilities=pool.capabilities | {"max_over_subscription_ratio": 1.0}))
        sqlite_world.cloud.fail("guest.apply", CloudUnavailable, message="In a moment.")
        sqlite_world.request_extend(share, 4)
        assert sqlite_world.run_one("extend_share")
        with sqlite_world.store.begin() as tx:  # as it is reported next
            tx.execute(update(pools).values(free_capacity=0.0, provisioned_capacity=4.0))
        sqlite_world.run()
        assert (sqlite_world.share(share).status, sqlite_world.share(share).size) == ("available", 4)

    def test_a_volume_that_is_gone(self, sqlite_world: World) -> None:
        share = a_share(sqlite_world)
        with sqlite_world.store.begin() as tx:
            tx.execute(update(share_instances).values(volume_id="no-such-volume"))
        sqlite_world.request_extend(share, 2)
        sqlite_world.run()
        assert sqlite_world.share(share).status == "extending_error"
        assert "does not exist any more" in sqlite_world.messages(share)[0].detail

    def test_a_share_without_a_server(self, sqlite_world: World) -> None:
        share = a_share(sqlite_world)
        with sqlite_world.store.begin() as tx:
            tx.execute(update(share_instances).values(share_server_id=None))
        sqlite_world.request_extend(share, 2)
        sqlite_world.run()
        assert sqlite_world.share(share).status == "extending_error"
        assert "not served" in sqlite_world.messages(share)[0].detail
        assert sqlite_world.usage() == (1, 1)


class TestTogetherWith:
    def test_a_forced_deletion_that_comes_meanwhile(self, world: World) -> None:
        share = a_share(world)
        world.request_extend(share, 2)
        world.request_delete(share, force=True)
        world.run()
        assert world.rows(shares) == []
        assert world.usage() == (0, 0)
        assert list(world.cloud.volumes.list_volumes()) == []

    def test_two_extensions_after_the_status_was_reset(self, world: World) -> None:
        """An administrator's reset_status lets a second one in while the first is queued; both took from the quota."""
        share = a_share(world)
        world.request_extend(share, 4)
        world.request_extend(share, 6)
        assert world.usage() == (1, 1 + 3 + 5)
        world.run()
        assert (world.share(share).size, world.usage()) == (6, (1, 6))
        world.check_consistent()

    def test_the_larger_one_first(self, world: World) -> None:
        share = a_share(world)
        world.request_extend(share, 6)
        world.request_extend(share, 4)
        world.run()
        assert (world.share(share).size, world.usage(), world.share(share).status) == (6, (1, 6), "available")

    def test_healing_completes_a_growth(self, sqlite_world: World) -> None:
        """The volume has grown and the work waits; whoever looks after the server next grows the file system."""
        share = a_share(sqlite_world)
        sqlite_world.cloud.fail("guest.apply", GuestUnreachable, message="No answer.")
        sqlite_world.request_extend(share, 2)
        assert sqlite_world.run_one("extend_share")
        assert (volume(sqlite_world, share), filesystem(sqlite_world, share)) == (2, 1)
        (server,) = sqlite_world.rows(share_servers)
        sqlite_world.request_server_operation("heal_server", server.id)
        assert sqlite_world.run_one("heal_server")
        assert filesystem(sqlite_world, share) == 2
        assert sqlite_world.share(share).status == "extending"
        sqlite_world.run()
        assert (sqlite_world.share(share).status, sqlite_world.share(share).size) == ("available", 2)
