"""Snapshots that clients mount, told by the real engine on the simulated cloud."""

from __future__ import annotations

from typing import Any

import pytest

from sharewright.clouds.contract import TAG_OWNER
from sharewright.errors import CloudCapacityExceeded, CloudError, GuestUnreachable
from sharewright.identifiers import utcnow
from sharewright.operations.messages import Action
from sharewright.operations.reconciler import reconcile
from sharewright.operations.sweeper import Sweeper
from sharewright.store.tables import (
    operations,
    share_servers,
    share_snapshot_access_rules,
    share_snapshot_export_locations,
    share_snapshot_mounts,
    share_snapshots,
)
from story_world import BACKEND, World, make_settings, make_world


def a_snapshot(world: World, **values: Any) -> tuple[str, str]:
    """A share and a snapshot of it that clients may mount."""
    share = world.request_share(mount_snapshot_support=True, snapshot_support=True, **values)
    world.request_rule(share, "10.20.0.5")
    world.run()
    snapshot = world.request_snapshot(share)
    world.run()
    assert world.snapshot(snapshot).status == "available"
    return share, snapshot


def mounted(world: World, **values: Any) -> tuple[str, str, str]:
    """The same, mounted by the rule that is the third."""
    share, snapshot = a_snapshot(world, **values)
    rule = world.request_snapshot_rule(snapshot, "10.20.0.7")
    world.run()
    assert world.snapshot_rules(snapshot) == {"10.20.0.7": "active"}
    return share, snapshot, rule


def volumes(world: World) -> set[str]:
    return {volume.id for volume in world.cloud.volumes.list_volumes()}


def locations(world: World, snapshot: str) -> list[str]:
    instance = world.snapshot_instance(snapshot).id
    return [row.path for row in world.rows(share_snapshot_export_locations, share_snapshot_instance_id=instance)]


def test_locations_are_there_from_the_beginning_and_nothing_else_is(world: World) -> None:
    share, snapshot = a_snapshot(world)
    (path,) = locations(world, snapshot)
    (parent,) = world.locations(share)
    assert path == parent.replace(world.instance(share).id, world.snapshot_instance(snapshot).id)
    assert volumes(world) == {world.instance(share).volume_id}
    assert world.snapshot_exports(snapshot) is None


def test_a_type_without_has_no_locations(world: World) -> None:
    share = world.request_share()
    world.run()
    snapshot = world.request_snapshot(share)
    world.run()
    assert locations(world, snapshot) == []


def test_the_first_rule_mounts_for_reading_and_the_last_one_ends_it(world: World) -> None:
    share, snapshot, first = mounted(world)
    (mount,) = world.rows(share_snapshot_mounts)
    assert (mount.id, mount.share_server_id) == (
        world.snapshot_instance(snapshot).id, world.instance(share).share_server_id,
    )  # fmt: skip
    assert (mount.filesystem_ready, mount.volume_attached, mount.wanted) == (True, True, True)
    assert world.snapshot_exports(snapshot) == [["10.20.0.7/32", "ro"]]
    assert world.exports(share) == [["10.20.0.5/32", "rw"]]
    volume = world.cloud.volumes.find_volume(mount.volume_id)
    assert volume is not None
    assert volume.tags[TAG_OWNER] == f"share_snapshot_mount:{mount.id}"
    second = world.request_snapshot_rule(snapshot, "10.20.0.0/24")
    world.request_snapshot_deny(first)
    world.run()
    assert world.snapshot_exports(snapshot) == [["10.20.0.0/24", "ro"]]
    assert world.rows(share_snapshot_mounts) == [mount]
    world.check_consistent()
    world.request_snapshot_deny(second)
    world.run()
    assert world.snapshot_rules(snapshot) == {}
    assert world.snapshot_exports(snapshot) is None
    assert world.rows(share_snapshot_mounts) == []
    assert volumes(world) == {world.instance(share).volume_id}
    assert world.exports(share) == [["10.20.0.5/32", "rw"]]
    assert world.messages(snapshot) == []
    assert world.cloud.state.violations() == []
    world.check_consistent()


def test_what_it_costs(sqlite_world: World) -> None:
    """A burst of rules on a mounted snapshot is one guest round trip, without any call to the cloud."""
    world = sqlite_world
    _, snapshot, _ = mounted(world)
    for last in range(20, 30):
        world.request_snapshot_rule(snapshot, f"10.20.0.{last}")
    world.run()
    assert set(world.snapshot_rules(snapshot).values()) == {"active"}
    first, burst = world.rows(operations, kind="update_snapshot_access")
    assert (first.guest_round_trips, burst.guest_round_trips, burst.cloud_calls) == (2, 1, 0)
    assert sorted(world.steps("update_snapshot_access")) == ["attach", "guest", "guest", "parent", "volume"]


def test_several_snapshots_of_a_share_at_the_same_time(world: World) -> None:
    share, first = a_snapshot(world)
    second = world.request_snapshot(share)
    world.run()
    world.request_snapshot_rule(first, "10.20.0.1")
    world.request_snapshot_rule(second, "10.20.0.2")
    world.run()
    assert world.snapshot_exports(first) == [["10.20.0.1/32", "ro"]]
    assert world.snapshot_exports(second) == [["10.20.0.2/32", "ro"]]
    assert len(volumes(world)) == 3
    world.check_consistent()


def test_a_mounted_snapshot_is_deleted(world: World) -> None:
    share, snapshot, _ = mounted(world)
    world.request_snapshot_delete(snapshot)
    world.run()
    assert world.rows(share_snapshots) == []
    assert world.rows(share_snapshot_access_rules) == []
    assert world.rows(share_snapshot_mounts) == []
    assert world.rows(share_snapshot_export_locations) == []
    assert volumes(world) == {world.instance(share).volume_id}
    assert world.cloud.state.violations() == []
    world.check_consistent()


def test_a_mounted_snapshot_is_deleted_although_the_guest_cannot_let_go(world: World) -> None:
    share, snapshot, _ = mounted(world)
    world.cloud.fail("guest.unmount", CloudError, -1, message="in use")
    world.request_snapshot_delete(snapshot)
    world.run()
    assert world.rows(share_snapshots) == []
    assert volumes(world) == {world.instance(share).volume_id}


def test_a_mounted_snapshot_is_deleted_without_its_server(world: World) -> None:
    share, snapshot, _ = mounted(world)
    (server,) = world.cloud.compute.list_instances()
    world.cloud.compute.stop_instance(server.id)
    world.request_snapshot_delete(snapshot)
    world.run()
    assert world.rows(share_snapshots) == []
    assert volumes(world) == {world.instance(share).volume_id}


def test_a_share_is_reverted_to_its_mounted_snapshot(world: World) -> None:
    share, snapshot, _ = mounted(world)
    world.request_revert(share, snapshot)
    world.run()
    assert (world.share(share).status, world.snapshot(snapshot).status) == ("available", "available")
    assert world.snapshot_exports(snapshot) == [["10.20.0.7/32", "ro"]]
    assert world.exports(share) == [["10.20.0.5/32", "rw"]]
    assert len(volumes(world)) == 3  # the share's, the one that the snapshot is of, and the mounted one
    world.check_consistent()
    world.request_snapshot_delete(snapshot)
    world.run()
    assert volumes(world) == {world.instance(share).volume_id}


def test_a_share_with_a_mounted_snapshot_grows_and_shrinks(world: World) -> None:
    share, snapshot, _ = mounted(world)
    world.request_extend(share, 4)
    world.run()
    world.request_shrink(share, 2)
    world.run()
    assert (world.share(share).status, world.share(share).size) == ("available", 2)
    assert world.snapshot_exports(snapshot) == [["10.20.0.7/32", "ro"]]
    world.request_snapshot_delete(snapshot)
    world.run()
    assert volumes(world) == {world.instance(share).volume_id}
    world.check_consistent()


def test_a_rebooted_server_brings_it_back_and_a_lost_attachment_is_healed(world: World) -> None:
    share, snapshot, _ = mounted(world)
    (mount,) = world.rows(share_snapshot_mounts)
    server = world.instance(share).share_server_id
    (machine,) = world.cloud.compute.list_instances()
    world.cloud.compute.reboot_instance(machine.id, timeout=5.0)
    world.run_one("heal_server")
    world.cloud.compute.detach_volume(machine.id, mount.volume_id, timeout=5.0)
    world.request_server_operation("heal_server", server)
    world.run()
    found = world.cloud.volumes.find_volume(mount.volume_id)
    assert found is not None
    assert found.instance_id == machine.id
    assert world.snapshot_exports(snapshot) == [["10.20.0.7/32", "ro"]]
    assert world.rows(share_servers)[0].healthy


def test_healing_corrects_its_locations(world: World) -> None:
    share, snapshot, _ = mounted(world)
    right = locations(world, snapshot)
    with world.store.begin() as tx:
        tx.execute(share_snapshot_export_locations.update().values(path="192.0.2.9:/elsewhere"))
    world.request_server_operation("heal_server", world.instance(share).share_server_id)
    world.run()
    assert locations(world, snapshot) == right


def test_a_managed_snapshot_can_be_mounted(world: World) -> None:
    share, snapshot = a_snapshot(world)
    reference = world.snapshot_instance(snapshot).provider_location
    world.request_unmanage_snapshot(snapshot)
    world.run()
    again = world.request_manage_snapshot(share, reference)
    world.run()
    assert len(locations(world, again)) == 1
    world.request_snapshot_rule(again, "10.20.0.8")
    world.run()
    assert world.snapshot_exports(again) == [["10.20.0.8/32", "ro"]]
    world.request_unmanage_snapshot(again)
    world.run()
    assert world.rows(share_snapshot_mounts) == []
    assert volumes(world) == {world.instance(share).volume_id}
    with world.cloud.state.transaction(write=False) as tx:
        assert tx.execute("SELECT id FROM snapshots WHERE id = ?", (reference,)).fetchone() is not None


class TestFailures:
    def test_no_room_for_the_volume(self, world: World) -> None:
        share, snapshot = a_snapshot(world)
        world.cloud.fail("ensure_volume", CloudCapacityExceeded, message="The pool is full.")
        world.request_snapshot_rule(snapshot, "10.20.0.7")
        world.run()
        assert world.snapshot_rules(snapshot) == {"10.20.0.7": "error"}
        (message,) = world.messages(snapshot)
        assert "The pool is full." in message.detail
        assert (message.action_id, message.resource_type) == (Action.UPDATE_ACCESS_RULES, "SHARE_SNAPSHOT")
        assert world.rows(share_snapshot_mounts) == []
        assert volumes(world) == {world.instance(share).volume_id}
        assert world.snapshot(snapshot).status == "available"
        world.request_snapshot_rule(snapshot, "10.20.0.8")  # the next one tries again
        world.run()
        assert world.snapshot_exports(snapshot) == [["10.20.0.8/32", "ro"]]
        world.check_consistent()

    @pytest.mark.parametrize("step", ["guest.identify", "guest.mount", "guest.export"])
    def test_the_guest_cannot(self, world: World, step: str) -> None:
        share, snapshot = a_snapshot(world)
        world.cloud.fail(step, CloudError, -1, message="No, thanks.")
        world.request_snapshot_rule(snapshot, "10.20.0.7")
        world.run()
        world.cloud.forgive()
        assert world.snapshot_rules(snapshot) == {"10.20.0.7": "error"}
        assert "No, thanks." in world.messages(snapshot)[0].detail
        assert volumes(world) == {world.instance(share).volume_id}
        assert world.exports(share) == [["10.20.0.5/32", "rw"]]
        world.check_consistent()

    def test_a_rule_that_the_guest_refuses_hinders_no_other(self, world: World) -> None:
        _, snapshot, _ = mounted(world)
        world.request_snapshot_rule(snapshot, "nonsense")
        world.run()
        assert world.snapshot_rules(snapshot) == {"10.20.0.7": "active", "nonsense": "error"}
        assert world.snapshot_exports(snapshot) == [["10.20.0.7/32", "ro"]]

    def test_a_silent_guest_keeps_nobody_from_being_denied_in_the_end(self, world: World) -> None:
        """With the last rule the volume is pulled through the cloud."""
        share, snapshot, rule = mounted(world)
        for _ in range(4):
            world.cloud.fail("guest.apply", GuestUnreachable, message="Silence.")
        world.request_snapshot_deny(rule)
        world.run()
        assert world.snapshot_rules(snapshot) == {}
        assert volumes(world) == {world.instance(share).volume_id}

    def test_one_that_the_guest_cannot_let_go_is_tried_again(self, world: World) -> None:
        _, snapshot, rule = mounted(world)
        world.cloud.fail("guest.unmount", CloudError, -1, message="in use")
        world.request_snapshot_deny(rule)
        world.run()
        assert world.snapshot_rules(snapshot) == {"10.20.0.7": "error"}
        (mount,) = world.rows(share_snapshot_mounts)
        assert not mount.wanted
        assert world.snapshot_exports(snapshot) is None  # the client is out in any case
        world.cloud.forgive()
        world.request_snapshot_rule(snapshot, "10.20.0.8")
        world.run()
        assert world.snapshot_exports(snapshot) == [["10.20.0.8/32", "ro"]]
        world.check_consistent()

    def test_deleted_before_it_was_mounted(self, world: World) -> None:
        _, snapshot = a_snapshot(world)
        world.request_snapshot_rule(snapshot, "10.20.0.7")
        world.request_snapshot_delete(snapshot)
        world.run()
        assert world.rows(share_snapshots) == []
        assert world.rows(share_snapshot_mounts) == []
        world.check_consistent()


def test_a_server_has_no_more_than_it_may_have(sqlite_store: Any, tmp_path: Any) -> None:
    with make_world(sqlite_store, tmp_path / "state", max_shares_per_share_server=2) as world:
        share, snapshot, _ = mounted(world)
        other = world.request_snapshot(share)
        world.run()
        world.request_snapshot_rule(other, "10.20.0.9")
        world.run()
        assert world.snapshot_rules(other) == {"10.20.0.9": "error"}
        assert "may not have more" in world.messages(other)[0].detail
        elsewhere = world.request_share()
        world.run()
        assert world.instance(elsewhere).share_server_id != world.instance(share).share_server_id
        assert world.snapshot_exports(snapshot) == [["10.20.0.7/32", "ro"]]


def test_a_server_has_no_more_gib_than_it_may_have(sqlite_store: Any, tmp_path: Any) -> None:
    """The volume of a mounted snapshot counts with its snapshot's size: for new mounts, for growing and new shares."""
    with make_world(sqlite_store, tmp_path / "state", max_share_server_size=3) as world:
        share, snapshot, _ = mounted(world)
        server = world.instance(share).share_server_id
        world.request_extend(share, 3)
        world.run()
        assert world.share(share).size == 1
        assert "has 2 GiB of shares and mounted snapshots and may have 3" in world.messages(share)[0].detail
        elsewhere = world.request_share(3)
        world.run()
        assert world.instance(elsewhere).share_server_id != server
        beside = world.request_share(1)
        world.run()
        assert world.instance(beside).share_server_id == server
        other = world.request_snapshot(share)
        world.run()
        world.request_snapshot_rule(other, "10.20.0.9")
        world.run()
        assert world.snapshot_rules(other) == {"10.20.0.9": "error"}
        assert "has 3 GiB of shares and mounted snapshots and may have 3; the snapshot has 1" in (
            world.messages(other)[0].detail
        )
        assert world.snapshot_exports(snapshot) == [["10.20.0.7/32", "ro"]]
        assert len(world.rows(share_snapshot_mounts)) == 1
        world.request_delete(beside)
        world.run()
        world.request_snapshot_rule(other, "10.20.0.10")
        world.run()
        assert world.snapshot_rules(other)["10.20.0.10"] == "active"
        world.check_consistent()


class TestReconciler:
    def run(self, world: World) -> dict[str, int]:
        settings = make_settings(world.settings.state_path)
        return {
            kind: number
            for kind, number in reconcile(world.store, settings, backends=[BACKEND]).items()
            if kind == "update_snapshot_access"
        }

    def forget(self, world: World) -> None:
        with world.store.begin() as tx:
            tx.execute(operations.delete())

    def test_a_rule_that_nobody_applies(self, world: World) -> None:
        _, snapshot = a_snapshot(world)
        world.request_snapshot_rule(snapshot, "10.20.0.7")
        self.forget(world)
        assert self.run(world) == {"update_snapshot_access": 1}
        assert self.run(world) == {}
        world.run()
        assert world.snapshot_exports(snapshot) == [["10.20.0.7/32", "ro"]]

    def test_a_mount_without_rules(self, world: World) -> None:
        share, *_ = mounted(world)
        self.forget(world)
        assert self.run(world) == {}
        with world.store.begin() as tx:
            tx.execute(share_snapshot_access_rules.delete())
        assert self.run(world) == {"update_snapshot_access": 1}
        world.run()
        assert world.rows(share_snapshot_mounts) == []
        assert volumes(world) == {world.instance(share).volume_id}

    def test_a_volume_without_a_row_is_swept(self, sqlite_world: World) -> None:
        world = sqlite_world
        share, *_ = mounted(world)
        sweeper = Sweeper(world.store, {BACKEND: world.cloud}, grace_seconds=0.0)
        assert [each.kind for each in sweeper.sweep()] == []
        assert len(volumes(world)) == 2
        with world.store.begin() as tx:
            tx.execute(share_snapshot_mounts.delete())
            tx.execute(share_snapshot_access_rules.update().values(state="error", updated_at=utcnow()))
        sweeper.sweep()
        assert volumes(world) == {world.instance(share).volume_id}
