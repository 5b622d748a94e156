"""Snapshots of share groups, told by the real engine on the simulated cloud."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from sharewright.clouds.contract import SnapshotSpec
from sharewright.drivers.generic.snapshots import MOST_LOST
from sharewright.errors import CloudCapacityExceeded, CloudError, CloudUnavailable, GuestBusy, GuestUnreachable
from sharewright.operations.messages import Action, Detail, Resource
from sharewright.operations.reconciler import reconcile
from sharewright.operations.sweeper import Sweeper
from sharewright.store.database import Store
from sharewright.store.tables import (
    NEVER,
    operations,
    share_group_snapshots,
    share_instances,
    share_servers,
    share_snapshot_instances,
    shares,
)
from story_world import BACKEND, World, make_world


def a_group(world: World, count: int = 2, size: int = 1) -> tuple[str, list[str]]:
    group, made = world.request_group(count, size)
    world.run()
    assert {world.share(share).status for share in made} <= {"available"}
    return group, made


def operation(world: World, snapshot: str, kind: str = "create_group_snapshot") -> Any:
    return world.rows(operations, resource_id=snapshot, kind=kind)[-1]


def status(world: World, snapshot: str) -> str:
    return str(world.group_snapshot(snapshot).status)


@pytest.fixture
def wide(sqlite_store: Store, tmp_path: Path) -> Any:
    """A world in which each share gets a server of its own."""
    with make_world(sqlite_store, tmp_path / "state", max_shares_per_share_server=1) as world:
        yield world


def test_all_shares_stand_still_at_one_moment(world: World) -> None:
    group, made = a_group(world, 3, 2)
    snapshot = world.request_group_snapshot(group)
    world.run()
    members = world.members(snapshot)
    assert status(world, snapshot) == "available"
    assert [(member.status, member.size, member.volume_size) for member in members] == [("available", 2, 2)] * 3
    assert {member.volume_id for member in members} == {world.instance(share).volume_id for share in made}
    assert world.cloud.volumes.are_of_one_moment([member.provider_location for member in members])
    assert world.guests.frozen_shares() == []
    assert world.snapshot_usage() == (0, 0), "they count as one group snapshot"
    world.check_consistent()


def test_it_costs_one_freeze_and_one_call_for_all(sqlite_world: World) -> None:
    group, _ = a_group(sqlite_world, 4)
    sqlite_world.cloud.state.reset_calls()
    snapshot = sqlite_world.request_group_snapshot(group)
    sqlite_world.run()
    row, calls = operation(sqlite_world, snapshot), sqlite_world.cloud.state.calls()
    assert (row.guest_round_trips, calls["ensure_snapshots"], calls["find_volume"]) == (2, 1, 4)
    assert "ensure_snapshot" not in calls
    assert sqlite_world.steps("create_group_snapshot") == ["snapshot"]
    assert row.facts["frozen_seconds"] >= 0


def test_a_group_without_shares(world: World) -> None:
    group, _ = a_group(world, 0)
    snapshot = world.request_group_snapshot(group)
    world.run()
    assert status(world, snapshot) == "available"
    made = world.request_group_from(snapshot)
    world.run()
    assert world.group(made).status == "available"
    world.request_group_snapshot_delete(snapshot)
    world.run()
    assert world.rows(share_group_snapshots) == []


class TestSeveralServers:
    def test_all_of_them_stand_still_from_the_first_snapshot_to_the_last(self, wide: World) -> None:
        group, _ = a_group(wide, 3)
        assert len(wide.rows(share_servers)) == 3
        wide.cloud.set_delay("ensure_snapshots.next", 0.05)
        snapshot = wide.request_group_snapshot(group)
        wide.run()
        members = wide.members(snapshot)
        assert status(wide, snapshot) == "available"
        assert wide.cloud.volumes.are_of_one_moment([member.provider_location for member in members])
        # One that writes what it can before, and two for the freeze and the thaw, of each.
        assert operation(wide, snapshot).guest_round_trips == 9
        assert operation(wide, snapshot).facts["frozen_seconds"] >= 0.1
        wide.check_consistent()

    def test_one_that_cannot_freeze_lets_the_others_go_on(self, wide: World) -> None:
        group, _ = a_group(wide, 3)
        wide.cloud.fail("guest.freeze", GuestBusy, moment="after", message="Not now.")
        snapshot = wide.request_group_snapshot(group)
        assert wide.run_one("create_group_snapshot")
        assert status(wide, snapshot) == "creating"
        assert list(wide.cloud.volumes.list_snapshots()) == []
        wide.run()
        assert status(wide, snapshot) == "available"
        wide.check_consistent()

    def test_a_reboot_of_one_in_between_is_noticed(self, wide: World) -> None:
        group, _ = a_group(wide, 3)
        real, reboots = wide.cloud.volumes.ensure_snapshots, [True]
        instances = wide.cloud.compute.list_instances()

        def ensure_snapshots(specs: Sequence[SnapshotSpec], *, timeout: float) -> Any:
            taken = [*real(specs[:1], timeout=timeout)]
            if reboots and reboots.pop():
                wide.cloud.compute.reboot_instance(instances[1].id, timeout=5.0)
            return [*taken, *real(specs[1:], timeout=timeout)]

        wide.cloud.volumes.ensure_snapshots = ensure_snapshots  # type: ignore[method-assign]
        snapshot = wide.request_group_snapshot(group)
        assert wide.run_one("create_group_snapshot")
        taken = [each.id for each in wide.cloud.volumes.list_snapshots()]
        assert not wide.cloud.volumes.are_of_one_moment(taken)
        assert status(wide, snapshot) == "creating"
        wide.run()
        assert status(wide, snapshot) == "available"
        wide.check_consistent()

    def test_two_groups_on_the_same_servers(self, sqlite_store: Store, tmp_path: Path) -> None:
        """Threads that freeze the same servers in one order do not wait for one another."""
        with make_world(sqlite_store, tmp_path / "state", max_shares_per_share_server=2) as world:
            groups = [a_group(world)[0], a_group(world)[0]]
            instances = world.rows(share_instances)
            servers = sorted({row.share_server_id for row in instances})
            assert len(servers) == 2
            for _ in range(3):
                for group in groups:
                    world.request_group_snapshot(group)
            world.run_worker()
            assert {row.status for row in world.rows(share_group_snapshots)} == {"available"}
            world.check_consistent()


class TestFreeze:
    def test_a_cloud_that_is_slower_than_the_dead_man_makes_no_snapshot(
        self, sqlite_store: Store, tmp_path: Path
    ) -> None:
        with make_world(sqlite_store, tmp_path / "state", snapshot_freeze_seconds=0.2) as world:
            group, _ = a_group(world)
            world.cloud.set_delay("ensure_snapshots.next", 0.4)
            snapshot = world.request_group_snapshot(group)
            assert world.run_one("create_group_snapshot")
            assert status(world, snapshot) == "creating"
            assert "longer than 0.2 s" in operation(world, snapshot).error
            world.cloud.set_delay("ensure_snapshots.next", 0.0)
            world.run()
            assert status(world, snapshot) == "available"
            assert len(world.cloud.volumes.list_snapshots()) == 2, "the others were removed"
            world.check_consistent()

    def test_it_is_not_tried_for_ever(self, sqlite_store: Store, tmp_path: Path) -> None:
        """Clients wait during each try."""
        with make_world(sqlite_store, tmp_path / "state", snapshot_freeze_seconds=0.1) as world:
            group, made = a_group(world, 3)
            world.cloud.set_delay("ensure_snapshots.next", 0.1)
            world.cloud.state.reset_calls()
            snapshot = world.request_group_snapshot(group)
            world.run()
            assert status(world, snapshot) == "error"
            assert world.cloud.state.calls()["ensure_snapshots"] == MOST_LOST
            (message,) = world.messages(snapshot)
            assert (message.resource_type, message.action_id) == (Resource.SHARE_GROUP_SNAPSHOT, Action.CREATE)
            assert "to fix the moment of the snapshots of 3 shares" in message.detail
            assert "snapshot_freeze_seconds" in message.detail
            assert list(world.cloud.volumes.list_snapshots()) == []
            assert {world.share(share).status for share in made} == {"available"}
            world.check_consistent()

    def test_an_answer_to_the_thaw_that_is_lost_is_no_thaw(self, sqlite_world: World) -> None:
        group, _ = a_group(sqlite_world)
        sqlite_world.cloud.fail("guest.thaw", GuestUnreachable, moment="after", message="Lost.")
        snapshot = sqlite_world.request_group_snapshot(group)
        sqlite_world.run()
        assert status(sqlite_world, snapshot) == "available"
        assert sqlite_world.cloud.state.calls()["ensure_snapshots"] == 2
        sqlite_world.check_consistent()


class TestCopying:
    def test_it_is_available_when_the_last_one_is_whole(self, world: World) -> None:
        group, _ = a_group(world)
        world.cloud.set_delay("copy", 0.3)
        snapshot = world.request_group_snapshot(group)
        assert world.run_one("create_group_snapshot")
        assert status(world, snapshot) == "creating"
        assert world.guests.frozen_shares() == []
        world.run()
        assert status(world, snapshot) == "available"
        assert operation(world, snapshot, "finish_group_snapshot").guest_round_trips == 0
        world.check_consistent()

    def test_snapshots_of_shares_and_of_groups_wait_for_one_another(self, sqlite_world: World) -> None:
        group, (share, _) = a_group(sqlite_world)
        sqlite_world.cloud.set_delay("copy", 30.0)
        first = sqlite_world.request_group_snapshot(group)
        assert sqlite_world.run_one("create_group_snapshot")
        single = sqlite_world.request_snapshot(share)
        assert sqlite_world.run_one("create_snapshot")
        (waiting,) = sqlite_world.rows(operations, resource_id=single)
        assert waiting.waits_for == operation(sqlite_world, first, "finish_group_snapshot").id
        sqlite_world.cloud.set_delay("copy", 0.0)
        again = sqlite_world.request_group_snapshot(group)
        assert sqlite_world.run_one("create_group_snapshot")
        assert operation(sqlite_world, again).waits_for == waiting.waits_for
        assert operation(sqlite_world, again).guest_round_trips == 0

    def test_a_copy_that_the_cloud_loses(self, sqlite_world: World) -> None:
        group, _ = a_group(sqlite_world, 3)
        sqlite_world.cloud.set_delay("copy", 30.0)
        snapshot = sqlite_world.request_group_snapshot(group)
        assert sqlite_world.run_one("create_group_snapshot")
        taken = sqlite_world.cloud.volumes.list_snapshots()
        sqlite_world.cloud.volumes.delete_snapshot(taken[1].id, timeout=1.0)
        sqlite_world.cloud.state.set_delay("copy", 0.0)
        with sqlite_world.cloud.state.transaction() as tx:
            tx.execute("UPDATE snapshots SET ready_at = 0")
        sqlite_world.run()
        assert status(sqlite_world, snapshot) == "error"
        assert "lost" in sqlite_world.messages(snapshot)[0].detail
        assert list(sqlite_world.cloud.volumes.list_snapshots()) == [], "a part of it is worth nothing"
        sqlite_world.check_consistent()


class TestFailures:
    @pytest.mark.parametrize("which", ["ensure_snapshots", "ensure_snapshots.next"])
    def test_the_cloud_has_no_room(self, world: World, which: str) -> None:
        group, made = a_group(world)
        world.cloud.fail(which, CloudCapacityExceeded, message="The disks are full.")
        snapshot = world.request_group_snapshot(group)
        world.run()
        assert status(world, snapshot) == "error"
        (message,) = world.messages(snapshot)
        assert (message.detail_id, "disks are full" in message.detail) == (Detail.UNKNOWN_ERROR, True)
        assert list(world.cloud.volumes.list_snapshots()) == []
        assert {world.share(share).status for share in made} == {"available"}
        world.check_consistent()
        world.request_group_snapshot_delete(snapshot)
        world.run()
        assert world.rows(share_group_snapshots) == []
        world.check_consistent()

    @pytest.mark.parametrize("which", ["ensure_snapshots", "ensure_snapshots.next", "guest.freeze"])
    def test_faults_that_pass_are_waited_for(self, sqlite_world: World, which: str) -> None:
        group, _ = a_group(sqlite_world, 3)
        sqlite_world.cloud.fail(which, CloudUnavailable, times=2, message="In a moment.")
        snapshot = sqlite_world.request_group_snapshot(group)
        sqlite_world.run()
        assert status(sqlite_world, snapshot) == "available"
        assert sqlite_world.messages(snapshot) == []
        assert len(sqlite_world.cloud.volumes.list_snapshots()) == 3
        sqlite_world.check_consistent()

    def test_a_share_without_a_server(self, sqlite_world: World) -> None:
        group, made = a_group(sqlite_world)
        with sqlite_world.store.begin() as tx:
            which = share_instances.c.share_id == made[1]
            tx.execute(update(share_instances).where(which).values(share_server_id=None))
        snapshot = sqlite_world.request_group_snapshot(group)
        sqlite_world.run()
        assert status(sqlite_world, snapshot) == "error"
        assert "not served" in sqlite_world.messages(snapshot)[0].detail
        assert list(sqlite_world.cloud.volumes.list_snapshots()) == []

    def test_a_share_that_grew_before_the_moment(self, world: World) -> None:
        group, (share, _) = a_group(world)
        snapshot = world.request_group_snapshot(group)
        world.request_extend(share, 4)
        assert world.run_one("extend_share")
        world.run()
        assert status(world, snapshot) == "available"
        assert sorted(member.size for member in world.members(snapshot)) == [1, 4]
        made = world.request_group_from(snapshot)
        world.run()
        assert world.group(made).status == "available"

    def test_a_share_of_it_does_not_shrink_meanwhile(self, sqlite_world: World) -> None:
        group, (share, _) = a_group(sqlite_world, size=3)
        sqlite_world.cloud.set_delay("copy", 30.0)
        snapshot = sqlite_world.request_group_snapshot(group)
        assert sqlite_world.run_one("create_group_snapshot")
        sqlite_world.request_shrink(share, 1)
        assert sqlite_world.run_one("shrink_share")
        assert f"Snapshot {snapshot} of the share is being taken" in sqlite_world.messages(share)[0].detail


class TestDeletion:
    def test_one_after_the_other(self, world: World) -> None:
        group, made = a_group(world)
        first, second = world.request_group_snapshot(group), world.request_group_snapshot(group)
        world.run()
        for snapshot in (first, second):
            world.request_group_snapshot_delete(snapshot)
            world.run()
            assert world.rows(share_group_snapshots, id=snapshot) == []
            assert world.members(snapshot) == []
            world.check_consistent()
        for share in made:
            world.request_delete(share)
        world.run()
        assert world.rows(shares) == []

    @pytest.mark.parametrize("begun", [False, True])
    def test_while_it_is_being_taken(self, world: World, begun: bool) -> None:
        group, _ = a_group(world)
        world.cloud.set_delay("copy", 30.0)
        snapshot = world.request_group_snapshot(group)
        if begun:
            assert world.run_one("create_group_snapshot")
        world.request_group_snapshot_delete(snapshot)
        world.run()
        assert world.rows(share_group_snapshots) == []
        assert list(world.cloud.volumes.list_snapshots()) == []
        world.check_consistent()

    def test_from_error_with_what_a_crash_left_in_the_cloud(self, sqlite_world: World) -> None:
        """Made, and not recorded: it is found by its tag."""
        group, _ = a_group(sqlite_world)
        snapshot = sqlite_world.request_group_snapshot(group)
        sqlite_world.run()
        with sqlite_world.store.begin() as tx:
            tx.execute(update(share_snapshot_instances).values(provider_location=None, status="error"))
        sqlite_world.request_group_snapshot_delete(snapshot)
        sqlite_world.run()
        assert list(sqlite_world.cloud.volumes.list_snapshots()) == []

    def test_what_the_cloud_refuses_may_be_tried_again(self, world: World) -> None:
        group, _ = a_group(world)
        snapshot = world.request_group_snapshot(group)
        world.run()
        world.cloud.fail("delete_snapshot", CloudError, message="Not now.")
        world.request_group_snapshot_delete(snapshot)
        world.run()
        assert status(world, snapshot) == "error_deleting"
        (message,) = world.messages(snapshot)
        assert (message.action_id, message.resource_type) == (Action.DELETE, Resource.SHARE_GROUP_SNAPSHOT)
        world.request_group_snapshot_delete(snapshot)
        world.run()
        assert world.rows(share_group_snapshots) == []
        world.check_consistent()

    def test_with_the_servers_gone(self, sqlite_world: World) -> None:
        group, _ = a_group(sqlite_world)
        snapshot = sqlite_world.request_group_snapshot(group)
        sqlite_world.run()
        (server,) = sqlite_world.cloud.compute.list_instances()
        sqlite_world.cloud.compute.delete_instance(server.id, timeout=5.0)
        sqlite_world.request_group_snapshot_delete(snapshot)
        sqlite_world.run()
        assert sqlite_world.rows(share_group_snapshots) == []

    def test_of_a_share_that_was_reverted_since(self, world: World) -> None:
        """The volume that it had is kept for the member, and goes with it."""
        group, (share, _) = a_group(world)
        snapshot, later = world.request_group_snapshot(group), world.request_snapshot(share)
        world.run()
        former = world.instance(share).volume_id
        world.request_revert(share, later)
        world.run()
        world.request_snapshot_delete(later)
        world.run()
        assert (world.instance(share).volume_id != former, status(world, snapshot)) == (True, "available")
        assert world.cloud.volumes.find_volume(former) is not None
        world.check_consistent()
        world.request_group_snapshot_delete(snapshot)
        world.run()
        assert world.cloud.volumes.find_volume(former) is None
        world.check_consistent()


class TestGroupsFromSnapshots:
    def test_every_share_is_what_its_member_holds(self, world: World) -> None:
        group, made = a_group(world, 2, 2)
        snapshot = world.request_group_snapshot(group)
        world.run()
        copy = world.request_group_from(snapshot)
        world.run()
        assert world.group(copy).status == "available"
        members = {member.id: member for member in world.members(snapshot)}
        copies = world.rows(shares, share_group_id=copy)
        assert [(share.status, share.size) for share in copies] == [("available", 2)] * 2
        for share in copies:
            member = members.pop(share.source_share_group_snapshot_member_id)
            assert world.instance(share.id).clone_of == member.filesystem_uuid
            assert world.exports(share.id) == []
        assert world.cloud.state.violations() == []
        world.check_consistent()
        world.request_group_snapshot_delete(snapshot)
        world.run()
        assert world.rows(share_group_snapshots) == [], "what was made from it lives on"
        assert [world.share(share.id).status for share in copies] == ["available"] * 2
        assert made

    def test_one_share_that_cannot_be_made(self, world: World) -> None:
        group, _ = a_group(world)
        snapshot = world.request_group_snapshot(group)
        world.run()
        world.cloud.fail("guest.replace", message="A bad disk.")
        world.cloud.fail("ensure_volume", CloudCapacityExceeded, message="Full.")
        copy = world.request_group_from(snapshot)
        world.run()
        assert world.group(copy).status == "error"
        (message,) = world.messages(copy)
        assert (message.resource_type, message.action_id) == (Resource.SHARE_GROUP, Action.CREATE)
        assert message.detail_id == Detail.DRIVER_FAILED_CREATING_FROM_SNAP
        assert "1 of 2 shares could be made" in message.detail
        assert sorted(share.status for share in world.rows(shares, share_group_id=copy)) == ["available", "error"]
        world.check_consistent()

    def test_from_one_that_is_gone_meanwhile(self, world: World) -> None:
        group, _ = a_group(world)
        snapshot = world.request_group_snapshot(group)
        world.run()
        copy = world.request_group_from(snapshot)
        world.request_group_snapshot_delete(snapshot)
        assert world.run_one("delete_group_snapshot")
        world.run()
        assert world.group(copy).status == "error"
        for share in world.rows(shares, share_group_id=copy):
            assert share.status == "error"
            assert "does not exist any more" in world.messages(share.id)[0].detail
        world.check_consistent()


def test_the_sweeper_leaves_members_alone(sqlite_world: World) -> None:
    group, _ = a_group(sqlite_world)
    snapshot = sqlite_world.request_group_snapshot(group)
    sqlite_world.run()
    sweeper = Sweeper(sqlite_world.store, sqlite_world.assembly.clouds, grace_seconds=0.0)
    assert [sweeper.sweep(), sweeper.sweep()] == [[], []]
    assert len(sqlite_world.cloud.volumes.list_snapshots()) == 2
    with sqlite_world.store.begin() as tx:
        tx.execute(share_group_snapshots.delete().where(share_group_snapshots.c.id == snapshot))
    sweeper.sweep()
    sweeper.sweep()
    assert list(sqlite_world.cloud.volumes.list_snapshots()) == []


@pytest.mark.parametrize("kind", ["create_group_snapshot", "delete_group_snapshot"])
def test_the_reconciler_goes_on_with_what_was_left(sqlite_world: World, kind: str) -> None:
    group, _ = a_group(sqlite_world)
    snapshot = sqlite_world.request_group_snapshot(group)
    if kind == "delete_group_snapshot":
        sqlite_world.run()
        sqlite_world.request_group_snapshot_delete(snapshot)
    with sqlite_world.store.begin() as tx:
        which = operations.c.kind == kind
        tx.execute(update(operations).where(which).values(state="failed", finished_at=NEVER))
    assert reconcile(sqlite_world.store, sqlite_world.settings, backends=[BACKEND]).get(kind) == 1
    sqlite_world.run()
    left = sqlite_world.rows(share_group_snapshots)
    assert [row.status for row in left] == (["available"] if kind == "create_group_snapshot" else [])
    sqlite_world.check_consistent()
