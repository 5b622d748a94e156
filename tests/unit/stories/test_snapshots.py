"""Snapshots of shares, told by the real engine on the simulated cloud."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from sqlalchemy import update

from sharewright.clouds.contract import SnapshotSpec
from sharewright.errors import CloudCapacityExceeded, CloudError, CloudUnavailable, GuestUnreachable
from sharewright.operations.messages import Action, Detail, Resource
from sharewright.store.database import Store
from sharewright.store.tables import (
    operations,
    share_instances,
    share_servers,
    share_snapshot_instances,
    share_snapshots,
    shares,
)
from story_world import World, make_world


def a_share(world: World, size: int = 1) -> str:
    share = world.request_share(size)
    world.request_rule(share, "10.20.0.5")
    world.run()
    assert world.share(share).status == "available"
    return share


def operation(world: World, snapshot: str, kind: str = "create_snapshot") -> Any:
    return world.rows(operations, resource_id=snapshot, kind=kind)[-1]


def test_a_snapshot_is_taken_of_a_share_that_stands_still(world: World) -> None:
    share = a_share(world, 3)
    snapshot = world.request_snapshot(share)
    world.run()
    row, instance = world.snapshot(snapshot), world.snapshot_instance(snapshot)
    assert (row.status, row.progress, row.size, instance.status) == ("available", "100%", 3, "available")
    (taken,) = world.cloud.volumes.list_snapshots()
    assert (taken.id, taken.volume_id) == (instance.provider_location, world.instance(share).volume_id)
    assert world.cloud.volumes.frozen_at(taken.id)
    assert world.guests.frozen_shares() == []
    assert (instance.volume_size, instance.filesystem_uuid) == (3, world.instance(share).filesystem_uuid)
    assert world.snapshot_usage() == (1, 3)
    assert world.usage() == (1, 3)
    assert world.exports(share) == [["10.20.0.5/32", "rw"]]
    assert world.messages(snapshot) == []
    world.check_consistent()


def test_it_costs_two_calls_of_the_cloud_and_two_round_trips(sqlite_world: World) -> None:
    snapshot = sqlite_world.request_snapshot(a_share(sqlite_world))
    sqlite_world.run()
    row = operation(sqlite_world, snapshot)
    assert (row.cloud_calls, row.guest_round_trips) == (2, 2)
    assert sqlite_world.steps("create_snapshot") == ["snapshot"]
    assert row.facts["frozen_seconds"] >= 0


def test_of_a_share_that_grew_before_its_moment(world: World) -> None:
    """Reverting to it gives the share the size that it counts: it must be the size of what is in it."""
    share = a_share(world)
    snapshot = world.request_snapshot(share)
    world.request_extend(share, 4)
    assert world.run_one("extend_share")
    world.run()
    assert (world.snapshot(snapshot).status, world.snapshot(snapshot).size) == ("available", 4)
    assert world.snapshot_usage() == (1, 4)
    world.request_extend(share, 6)
    world.run()
    assert (world.snapshot(snapshot).size, world.snapshot_usage()) == (4, (1, 4))
    world.check_consistent()


def test_several_snapshots_deleted_in_any_order(world: World) -> None:
    share = a_share(world)
    first, second, third = (world.request_snapshot(share) for _ in range(3))
    world.run()
    assert len(world.cloud.volumes.list_snapshots()) == 3
    for snapshot in (second, first, third):
        world.request_snapshot_delete(snapshot)
        world.run()
        assert world.rows(share_snapshots, id=snapshot) == []
        world.check_consistent()
    assert world.snapshot_usage() == (0, 0)
    world.request_delete(share)
    world.run()
    assert world.rows(shares) == []


class TestCopying:
    def test_what_the_cloud_goes_on_copying_is_waited_for_without_a_freeze(self, world: World) -> None:
        share = a_share(world)
        world.cloud.set_delay("copy", 0.3)
        snapshot = world.request_snapshot(share)
        assert world.run_one("create_snapshot")
        assert world.snapshot(snapshot).status == "creating"
        assert world.guests.frozen_shares() == []
        assert operation(world, snapshot).state == "succeeded"
        world.run()
        assert world.snapshot(snapshot).status == "available"
        assert operation(world, snapshot, "finish_snapshot").guest_round_trips == 0
        world.check_consistent()

    def test_the_next_one_on_the_server_waits_before_it_freezes(self, sqlite_world: World) -> None:
        """Some clouds copy one at a time; a share must not stand still until another's copy is made."""
        share, other = a_share(sqlite_world), a_share(sqlite_world)
        sqlite_world.cloud.set_delay("copy", 30.0)
        first = sqlite_world.request_snapshot(share)
        assert sqlite_world.run_one("create_snapshot")
        second = sqlite_world.request_snapshot(other)
        assert sqlite_world.run_one("create_snapshot")
        waiting = operation(sqlite_world, second)
        assert waiting.waits_for == operation(sqlite_world, first, "finish_snapshot").id
        assert waiting.guest_round_trips == 0
        assert len(sqlite_world.cloud.volumes.list_snapshots()) == 1

    def test_two_whose_freezes_ended_too_early_do_not_wait_for_one_another(self, world: World) -> None:
        """They began at the same moment, each before the other was seen, and both begin anew."""
        both = [world.request_snapshot(share) for share in (a_share(world), a_share(world))]
        with world.store.begin() as tx:
            tx.execute(update(share_snapshot_instances).values(provider_location="thawed-before"))
        world.run()
        assert [world.snapshot(snapshot).status for snapshot in both] == ["available"] * 2
        world.check_consistent()

    def test_a_copy_that_the_cloud_loses(self, sqlite_world: World) -> None:
        share = a_share(sqlite_world)
        sqlite_world.cloud.set_delay("copy", 30.0)
        snapshot = sqlite_world.request_snapshot(share)
        assert sqlite_world.run_one("create_snapshot")
        (taken,) = sqlite_world.cloud.volumes.list_snapshots()
        sqlite_world.cloud.volumes.delete_snapshot(taken.id, timeout=1.0)
        sqlite_world.run()
        assert sqlite_world.snapshot(snapshot).status == "error"
        (message,) = sqlite_world.messages(snapshot)
        assert "lost" in message.detail
        sqlite_world.check_consistent()


class TestFreeze:
    def test_a_cloud_that_is_slower_than_the_dead_man_makes_no_snapshot(
        self, sqlite_store: Store, tmp_path: Path
    ) -> None:
        with make_world(sqlite_store, tmp_path / "state", snapshot_freeze_seconds=0.2) as world:
            share = a_share(world)
            world.cloud.set_delay("find_volume", 0.0)
            real = world.cloud.volumes.ensure_snapshot
            slow = [True, True]

            def ensure_snapshot(spec: SnapshotSpec, *, timeout: float) -> Any:
                taken = real(spec, timeout=timeout)
                if slow.pop() if slow else False:
                    wait_until_thawed(world)
                return taken

            world.cloud.volumes.ensure_snapshot = ensure_snapshot  # type: ignore[method-assign]
            snapshot = world.request_snapshot(share)
            assert world.run_one("create_snapshot")
            assert world.snapshot(snapshot).status == "creating"
            assert "longer than 0.2 s" in operation(world, snapshot).error
            world.run()
            assert slow == []
            assert world.snapshot(snapshot).status == "available"
            assert len(world.cloud.volumes.list_snapshots()) == 1  # the others were removed
            world.check_consistent()

    def test_one_share_of_a_server_at_a_time(self, sqlite_world: World) -> None:
        share = a_share(sqlite_world)
        (server,) = sqlite_world.rows(share_servers)
        snapshot = sqlite_world.request_snapshot(share)
        instances = sqlite_world.assembly.drivers["alpha"]._instances  # type: ignore[attr-defined]
        with instances.frozen(server.id, [sqlite_world.instance(share).id], seconds=30) as freeze:
            assert sqlite_world.run_one("create_snapshot")
            assert "is frozen" in operation(sqlite_world, snapshot).error
            assert list(sqlite_world.cloud.volumes.list_snapshots()) == []
        assert freeze.held
        sqlite_world.run()
        assert sqlite_world.snapshot(snapshot).status == "available"

    def test_an_answer_to_the_thaw_that_is_lost_is_no_thaw(self, sqlite_world: World) -> None:
        share = a_share(sqlite_world)
        sqlite_world.cloud.fail("guest.thaw", GuestUnreachable, moment="after", message="Lost.")
        snapshot = sqlite_world.request_snapshot(share)
        sqlite_world.run()
        assert sqlite_world.snapshot(snapshot).status == "available"
        assert sqlite_world.cloud.state.calls()["ensure_snapshot"] == 2
        sqlite_world.check_consistent()

    def test_a_reboot_ends_it(self, sqlite_world: World) -> None:
        share = a_share(sqlite_world)
        (server,) = sqlite_world.cloud.compute.list_instances()
        real, reboots = sqlite_world.cloud.volumes.ensure_snapshot, [True]

        def ensure_snapshot(spec: SnapshotSpec, *, timeout: float) -> Any:
            if reboots and reboots.pop():
                sqlite_world.cloud.compute.reboot_instance(server.id, timeout=5.0)
            return real(spec, timeout=timeout)

        sqlite_world.cloud.volumes.ensure_snapshot = ensure_snapshot  # type: ignore[method-assign]
        snapshot = sqlite_world.request_snapshot(share)
        sqlite_world.run()
        assert sqlite_world.snapshot(snapshot).status == "available"
        sqlite_world.check_consistent()


class TestFailures:
    def test_the_cloud_has_no_room(self, world: World) -> None:
        share = a_share(world)
        world.cloud.fail("ensure_snapshot", CloudCapacityExceeded, message="The disks are full.")
        snapshot = world.request_snapshot(share)
        world.run()
        assert (world.snapshot(snapshot).status, world.share(share).status) == ("error", "available")
        (message,) = world.messages(snapshot)
        assert (message.resource_type, message.action_id) == (Resource.SHARE_SNAPSHOT, Action.CREATE)
        assert (message.detail_id, "disks are full" in message.detail) == (Detail.UNKNOWN_ERROR, True)
        assert world.snapshot_usage() == (1, 1)  # until it is deleted, as in Manila
        world.check_consistent()
        world.request_snapshot_delete(snapshot)
        world.run()
        assert world.snapshot_usage() == (0, 0)

    def test_faults_that_pass_are_waited_for(self, sqlite_world: World) -> None:
        share = a_share(sqlite_world)
        sqlite_world.cloud.fail("ensure_snapshot", CloudUnavailable, times=2, message="In a moment.")
        sqlite_world.cloud.fail("guest.freeze", CloudUnavailable, message="In a moment.")
        snapshot = sqlite_world.request_snapshot(share)
        sqlite_world.run()
        assert sqlite_world.snapshot(snapshot).status == "available"
        assert sqlite_world.messages(snapshot) == []

    def test_a_volume_that_is_gone(self, sqlite_world: World) -> None:
        share = a_share(sqlite_world)
        with sqlite_world.store.begin() as tx:
            tx.execute(update(share_instances).values(volume_id="no-such-volume"))
        snapshot = sqlite_world.request_snapshot(share)
        sqlite_world.run()
        assert sqlite_world.snapshot(snapshot).status == "error"
        assert "does not exist any more" in sqlite_world.messages(snapshot)[0].detail

    def test_a_share_without_a_server(self, sqlite_world: World) -> None:
        share = a_share(sqlite_world)
        with sqlite_world.store.begin() as tx:
            tx.execute(update(share_instances).values(share_server_id=None))
        snapshot = sqlite_world.request_snapshot(share)
        sqlite_world.run()
        assert sqlite_world.snapshot(snapshot).status == "error"
        assert "not served" in sqlite_world.messages(snapshot)[0].detail


class TestDeletion:
    def test_while_it_is_being_taken(self, world: World) -> None:
        """An administrator's force_delete; the one that is taken meanwhile goes with it."""
        share = a_share(world)
        world.cloud.set_delay("copy", 30.0)
        snapshot = world.request_snapshot(share)
        assert world.run_one("create_snapshot")
        world.request_snapshot_delete(snapshot)
        world.run()
        assert world.rows(share_snapshots) == []
        assert list(world.cloud.volumes.list_snapshots()) == []
        assert world.snapshot_usage() == (0, 0)

    def test_before_it_was_begun(self, world: World) -> None:
        share = a_share(world)
        snapshot = world.request_snapshot(share)
        world.request_snapshot_delete(snapshot)
        world.run()
        assert world.rows(share_snapshots) == []
        assert list(world.cloud.volumes.list_snapshots()) == []

    def test_from_error_with_what_a_crash_left_in_the_cloud(self, sqlite_world: World) -> None:
        """Made, and not recorded: it is found by its tag."""
        share = a_share(sqlite_world)
        snapshot = sqlite_world.request_snapshot(share)
        sqlite_world.run()
        with sqlite_world.store.begin() as tx:
            tx.execute(update(share_snapshot_instances).values(provider_location=None, status="error"))
        sqlite_world.request_snapshot_delete(snapshot)
        sqlite_world.run()
        assert list(sqlite_world.cloud.volumes.list_snapshots()) == []

    def test_what_the_cloud_refuses_may_be_tried_again(self, world: World) -> None:
        share = a_share(world)
        snapshot = world.request_snapshot(share)
        world.run()
        world.cloud.fail("delete_snapshot", CloudError, message="Not now.")
        world.request_snapshot_delete(snapshot)
        world.run()
        assert world.snapshot(snapshot).status == "error_deleting"
        (message,) = world.messages(snapshot)
        assert (message.action_id, message.resource_type) == (Action.DELETE, Resource.SHARE_SNAPSHOT)
        assert world.snapshot_usage() == (1, 1)
        world.request_snapshot_delete(snapshot)
        world.run()
        assert (world.rows(share_snapshots), world.snapshot_usage()) == ([], (0, 0))

    def test_with_the_share_s_server_gone(self, sqlite_world: World) -> None:
        share = a_share(sqlite_world)
        snapshot = sqlite_world.request_snapshot(share)
        sqlite_world.run()
        (server,) = sqlite_world.cloud.compute.list_instances()
        sqlite_world.cloud.compute.delete_instance(server.id, timeout=5.0)
        sqlite_world.request_snapshot_delete(snapshot)
        sqlite_world.run()
        assert sqlite_world.rows(share_snapshots) == []


def wait_until_thawed(world: World) -> None:
    while world.guests.frozen_shares():
        time.sleep(0.02)
