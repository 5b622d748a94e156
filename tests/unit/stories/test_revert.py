"""Shares that are reverted to their latest snapshot, told by the real engine on the simulated cloud."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sharewright.drivers.contract import SnapshotDriver
from sharewright.errors import CloudCapacityExceeded, CloudError, CloudUnavailable, GuestUnreachable
from sharewright.operations.messages import Action, Detail
from sharewright.progress import NoProgress
from sharewright.store.database import Store
from sharewright.store.tables import operations, retired_volumes, share_snapshots, shares
from story_world import BACKEND, World, make_world


def a_snapshot(world: World, size: int = 1) -> tuple[str, str]:
    """A share and a snapshot of it."""
    share = world.request_share(size)
    world.request_rule(share, "10.20.0.5")
    world.run()
    snapshot = world.request_snapshot(share)
    world.run()
    assert world.snapshot(snapshot).status == "available"
    return share, snapshot


def volumes(world: World) -> list[str]:
    return sorted(volume.id for volume in world.cloud.volumes.list_volumes())


def is_from(world: World, share: str, snapshot: str) -> bool:
    """Whether a share's volume was made from a snapshot."""
    with world.cloud.state.transaction(write=False) as tx:
        row = tx.execute(
            "SELECT snapshot_id FROM sources WHERE volume_id = ?", (world.instance(share).volume_id,)
        ).fetchone()
    return row is not None and row["snapshot_id"] == world.snapshot_instance(snapshot).provider_location


def test_a_share_is_what_it_was(world: World) -> None:
    share, snapshot = a_snapshot(world)
    before = world.instance(share)
    locations = world.locations(share)
    world.request_revert(share, snapshot)
    world.run()
    after = world.instance(share)
    assert (world.share(share).status, world.snapshot(snapshot).status, after.status) == ("available",) * 3
    assert after.volume_id != before.volume_id
    assert is_from(world, share, snapshot)
    assert (after.filesystem_ready, after.clone_of, after.old_volume_id, after.old_volume_serial) == (
        True, None, None, None,
    )  # fmt: skip
    assert after.filesystem_uuid != before.filesystem_uuid
    assert world.exports(share) == [["10.20.0.5/32", "rw"]]
    assert world.locations(share) == locations
    old = world.cloud.volumes.find_volume(before.volume_id)
    assert old is not None  # its snapshot is there, and needs it
    assert old.instance_id is None
    assert world.messages(share) == []
    assert world.cloud.state.violations() == []
    world.check_consistent()


def test_what_it_costs(sqlite_world: World) -> None:
    share, snapshot = a_snapshot(sqlite_world)
    sqlite_world.request_revert(share, snapshot)
    sqlite_world.run()
    (row,) = sqlite_world.rows(operations, kind="revert_to_snapshot")
    assert row.guest_round_trips == 2  # before the copy is attached, and the change itself
    assert sqlite_world.steps("revert_to_snapshot") == ["volume", "parent", "attach", "guest", "old volume", "detach"]


def test_again_and_again(world: World) -> None:
    """Each time a new volume, also to the same snapshot; the old one goes when no snapshot needs it."""
    share, snapshot = a_snapshot(world)
    first = world.instance(share).volume_id
    seen = [first]
    for _ in range(3):
        world.request_revert(share, snapshot)
        world.run()
        assert world.share(share).status == "available"
        seen.append(world.instance(share).volume_id)
        assert is_from(world, share, snapshot)
        world.check_consistent()
    assert len(set(seen)) == 4
    assert volumes(world) == sorted([first, seen[-1]])
    world.request_snapshot_delete(snapshot)
    world.run()
    assert world.rows(share_snapshots) == []
    assert volumes(world) == [seen[-1]]
    world.request_delete(share)
    world.run()
    assert volumes(world) == []


def test_the_former_volume_goes_with_its_last_snapshot(world: World) -> None:
    share, first = a_snapshot(world)
    second = world.request_snapshot(share)
    world.run()
    old = world.instance(share).volume_id
    world.request_revert(share, second)
    world.run()
    third = world.request_snapshot(share)
    world.run()
    world.request_snapshot_delete(second)
    world.run()
    assert old in volumes(world)
    world.request_snapshot_delete(third)  # of the new volume, which stays
    world.run()
    assert volumes(world) == sorted([old, world.instance(share).volume_id])
    world.request_snapshot_delete(first)
    world.run()
    assert volumes(world) == [world.instance(share).volume_id]
    world.check_consistent()


def test_a_former_volume_that_cannot_be_deleted_keeps_neither_snapshot_nor_share(world: World) -> None:
    """An operator's own snapshot may be of it. It goes when the cloud lets it go."""
    share, snapshot = a_snapshot(world)
    former = world.instance(share).volume_id
    world.request_revert(share, snapshot)
    world.run()
    world.cloud.fail("delete_volume", CloudError, times=2, message="Volume has 1 snapshot.")
    world.request_snapshot_delete(snapshot)
    world.run()
    assert world.rows(share_snapshots) == []
    assert world.snapshot_usage() == (0, 0)
    world.request_delete(share)
    world.run()
    assert world.rows(shares) == []
    assert volumes(world) == [former]
    world.tidy()
    assert volumes(world) == []
    assert world.rows(retired_volumes) == []


def test_the_last_snapshot_goes_in_the_same_seconds(world: World) -> None:
    share, snapshot = a_snapshot(world)
    world.request_revert(share, snapshot)
    driver = world.assembly.drivers[BACKEND]
    assert isinstance(driver, SnapshotDriver)
    served = world.guests.apply

    def apply(*args: Any, **options: Any) -> Any:
        state = served(*args, **options)
        if world.instance(share).old_volume_id is not None:  # the new one is there, the old one not gone
            driver.delete_snapshot(world.snapshot_instance(snapshot).id, NoProgress())
        return state

    world.guests.apply = apply  # type: ignore[method-assign]
    world.run()
    world.request_snapshot_delete(snapshot)
    world.run()
    world.tidy()
    assert world.share(share).status == "available"
    assert volumes(world) == [world.instance(share).volume_id]
    world.check_consistent()


@pytest.mark.parametrize("then", [1, 3])
def test_of_a_share_that_has_another_size_now(world: World, then: int) -> None:
    share, snapshot = a_snapshot(world, 2)
    if then == 3:
        world.request_extend(share, 3)
        world.run()
    else:  # as a share that was shrunk is
        with world.store.begin() as tx:
            tx.execute(shares.update().where(shares.c.id == share).values(size=1))
            tx.exec_driver_sql("UPDATE share_instances SET size = 1")
            tx.exec_driver_sql("UPDATE quota_usages SET in_use = 1 WHERE resource = 'gigabytes'")
    assert world.usage() == (1, then)
    world.request_revert(share, snapshot)
    world.run()
    assert (world.share(share).status, world.share(share).size, world.instance(share).size) == ("available", 2, 2)
    assert world.usage() == (1, 2)
    world.check_consistent()


class TestTheLimitOfAServer:
    """max_share_server_size, for a share that had been larger."""

    @pytest.fixture
    def small(self, sqlite_store: Store, tmp_path: Path) -> Iterator[World]:
        with make_world(sqlite_store, tmp_path / "state", max_share_server_size=4) as world:
            yield world

    def shrunk(self, world: World) -> tuple[str, str]:
        """A share of 1 GiB, and its snapshot of 3."""
        share, snapshot = a_snapshot(world, 3)
        with world.store.begin() as tx:
            tx.execute(shares.update().where(shares.c.id == share).values(size=1))
            tx.exec_driver_sql("UPDATE share_instances SET size = 1")
            tx.exec_driver_sql("UPDATE quota_usages SET in_use = 1 WHERE resource = 'gigabytes'")
        return share, snapshot

    @pytest.mark.parametrize("status", ["available", "reverting_error"])
    def test_nothing_has_happened(self, small: World, status: str) -> None:
        share, snapshot = self.shrunk(small)
        other = small.request_share(2)
        small.run()
        before = small.instance(share)
        assert small.instance(other).share_server_id == before.share_server_id
        with small.store.begin() as tx:
            tx.execute(shares.update().where(shares.c.id == share).values(status=status))
        seen = volumes(small)
        small.request_revert(share, snapshot)
        small.run()
        assert (small.share(share).status, small.share(share).size) == (status, 1)
        assert small.snapshot(snapshot).status == "available"
        assert (small.instance(share).volume_id, small.instance(share).size) == (before.volume_id, 1)
        assert (volumes(small), small.usage()) == (seen, (2, 3))
        (message,) = small.messages(share)
        assert (message.action_id, message.detail_id) == (Action.REVERT_TO_SNAPSHOT, Detail.FILTER_CAPACITY)
        assert "its share server has 3 GiB of shares and mounted snapshots and may have 4" in message.detail
        assert small.exports(share) == [["10.20.0.5/32", "rw"]]
        small.request_delete(other)
        small.run()
        small.request_revert(share, snapshot)
        small.run()
        assert (small.share(share).status, small.share(share).size) == ("available", 3)
        small.check_consistent()

    def test_a_new_share_finds_the_place_taken(self, small: World) -> None:
        share, snapshot = self.shrunk(small)
        small.request_revert(share, snapshot)
        other = small.request_share(2)
        small.run_worker()
        assert (small.share(share).size, small.share(other).status) == (3, "available")
        assert small.instance(other).share_server_id != small.instance(share).share_server_id


def test_snapshots_and_shares_from_it_go_on(world: World) -> None:
    share, snapshot = a_snapshot(world)
    world.request_revert(share, snapshot)
    world.run()
    later = world.request_snapshot(share)
    clone, copy = world.request_clone(snapshot), world.request_clone(later)
    world.run()
    assert [world.share(each).status for each in (clone, copy)] == ["available", "available"]
    assert world.instance(copy).clone_of == world.instance(share).filesystem_uuid
    world.check_consistent()


class TestFailures:
    @pytest.mark.parametrize(
        "method", ["ensure_volume", "attach_volume", "guest.replace", "guest.identify", "guest.mount"]
    )
    def test_it_is_served_as_it_was(self, world: World, method: str) -> None:
        share, snapshot = a_snapshot(world)
        before = world.instance(share)
        world.cloud.fail(method, CloudCapacityExceeded, message="Not today.")
        world.request_revert(share, snapshot)
        world.run()
        assert (world.share(share).status, world.snapshot(snapshot).status) == ("reverting_error", "available")
        after = world.instance(share)
        for kept in ("volume_id", "volume_serial", "filesystem_uuid", "filesystem_ready", "size", "old_volume_id"):
            assert getattr(after, kept) == getattr(before, kept)
        assert world.exports(share) == [["10.20.0.5/32", "rw"]]
        assert volumes(world) == [before.volume_id]
        (message,) = world.messages(share)
        assert (message.action_id, "Not today." in message.detail) == (Action.REVERT_TO_SNAPSHOT, True)
        world.check_consistent()
        world.request_revert(share, snapshot)
        world.run()
        assert world.share(share).status == "available"
        world.check_consistent()

    def test_faults_that_pass_are_waited_for(self, sqlite_world: World) -> None:
        share, snapshot = a_snapshot(sqlite_world)
        for method in ("ensure_volume", "attach_volume", "guest.apply"):
            sqlite_world.cloud.fail(method, CloudUnavailable, message="In a moment.")
        sqlite_world.request_revert(share, snapshot)
        sqlite_world.run()
        assert sqlite_world.share(share).status == "available"
        assert sqlite_world.messages(share) == []
        sqlite_world.check_consistent()

    @pytest.mark.parametrize("error", [CloudError, CloudUnavailable])
    def test_an_old_volume_that_cannot_be_taken_away_now(self, sqlite_world: World, error: type[CloudError]) -> None:
        """It is nothing to the share."""
        share, snapshot = a_snapshot(sqlite_world)
        old = sqlite_world.instance(share).volume_id
        sqlite_world.cloud.fail("detach_volume", error, times=2, message="It is stuck.")
        sqlite_world.request_revert(share, snapshot)
        sqlite_world.run()
        assert sqlite_world.share(share).status == "available"
        assert sqlite_world.messages(share) == []
        sqlite_world.tidy()
        (left,) = sqlite_world.rows(retired_volumes)
        assert (left.volume_id, "It is stuck." in left.reason) == (old, True)
        sqlite_world.tidy()
        found = sqlite_world.cloud.volumes.find_volume(old)
        assert found is not None  # its snapshot needs it
        assert found.instance_id is None
        sqlite_world.check_consistent()

    def test_a_cloud_that_falls_silent_when_it_is_served(self, world: World) -> None:
        """Size and quota are those of the volume that is served."""
        share, snapshot = a_snapshot(world, 2)
        world.request_extend(share, 3)
        world.run()
        old = world.instance(share).volume_id
        world.cloud.fail("detach_volume", CloudUnavailable, times=10_000, message="No answer.")
        world.request_revert(share, snapshot)
        world.run(limit=5000)
        assert world.share(share).status == "available"
        assert is_from(world, share, snapshot)
        assert (world.share(share).size, world.instance(share).size, world.usage()) == (2, 2, (1, 2))
        assert world.instance(share).old_volume_id is None
        assert [row.volume_id for row in world.rows(retired_volumes)] == [old]
        world.mend()
        world.request_revert(share, snapshot)
        world.run()
        assert world.share(share).status == "available"
        world.check_consistent()

    def test_deleted_meanwhile(self, world: World) -> None:
        share, snapshot = a_snapshot(world)
        world.cloud.fail("guest.apply", GuestUnreachable, message="No answer.")
        world.request_revert(share, snapshot)
        assert world.run_one("revert_to_snapshot")
        world.request_snapshot_delete(snapshot)  # by force
        world.request_delete(share, force=True)
        world.run()
        world.check_snapshots()


def test_the_old_disk_is_told_apart_from_any_other(sqlite_world: World) -> None:
    """A document names the disk that may be unmounted for the new one."""
    share, snapshot = a_snapshot(sqlite_world)
    documents: list[Any] = []
    apply = sqlite_world.guests.apply

    def watch(address: Any, document: Any, *, timeout: float) -> Any:
        documents.append(document.shares[0])
        return apply(address, document, timeout=timeout)

    sqlite_world.guests.apply = watch  # type: ignore[method-assign]
    old = sqlite_world.instance(share).volume_serial
    sqlite_world.request_revert(share, snapshot)
    sqlite_world.run()
    assert [(each.serial == old, each.replaces, each.by_serial) for each in documents] == [
        (True, "", True),
        (False, old, True),
    ]
    assert documents[1].filesystem.clone_of == documents[0].filesystem.uuid
    assert not documents[1].filesystem.create
