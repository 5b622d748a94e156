"""The stories of moving a share, told by the real engine on the simulated cloud."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from migrations_of_shares import a_share, cancel, complete, main_of, others_of, pool_of, reset_task_state, start
from sharewright.errors import CloudError, InvalidInput
from sharewright.operations.share_rows import write_status
from sharewright.store.database import Store
from sharewright.store.quotas import read_usage
from sharewright.store.tables import share_snapshot_mounts
from story_world import PROJECT, World, make_world

RULE = [["10.20.0.99/32", "rw"]]


@pytest.fixture
def migrating(store: Store, tmp_path: Path) -> Iterator[World]:
    with make_world(store, tmp_path / "state", replicas=True) as world:
        yield world


def of_type(world: World, share_type_id: str) -> dict[str, int]:
    with world.store.read() as tx:
        usage = read_usage(tx, PROJECT, share_type_id=share_type_id)
    return {name: value for name, value in usage.items() if value}


def test_a_share_moves_in_two_phases(migrating: World) -> None:
    world = migrating
    share = a_share(world, size=2)
    before, path = main_of(world, share), world.locations(share)
    start(world, share, writable=True, preserve_metadata=True)
    assert (world.share(share).status, world.share(share).task_state) == ("migrating", "migration_starting")
    world.run()
    assert world.share(share).task_state == "migration_driver_phase1_done"
    (other,) = others_of(world, share)
    assert (other.status, other.backend, other.host, other.volume_id) == (
        "migrating_to",
        "beta",
        pool_of(world),
        None,
    )
    assert main_of(world, share).id == before.id
    assert world.instance_exports(before.id) == RULE  # clients notice nothing
    world.check_consistent()

    complete(world, share)
    world.run()
    row = main_of(world, share)
    assert (row.id, row.status, row.host, row.volume_id) == (other.id, "available", pool_of(world), before.volume_id)
    assert (row.availability_zone, row.size, row.filesystem_uuid) == ("zone-beta", 2, before.filesystem_uuid)
    shown = world.share(share)
    assert (shown.task_state, shown.progress) == ("migration_success", "100%")
    assert others_of(world, share) == []
    assert world.locations(share) != path
    assert (world.instance_exports(before.id), world.instance_exports(row.id)) == (None, RULE)
    world.check_consistent()
    world.request_extend(share, 3)
    world.request_delete(share)
    world.run()
    world.check_consistent()
    assert world.usage() == (0, 0)


def test_a_migration_may_be_cancelled(migrating: World) -> None:
    world = migrating
    share = a_share(world)
    before = main_of(world, share)
    snapshot = world.request_snapshot(share)
    world.run()
    start(world, share, preserve_snapshots=True)
    world.run()
    assert (world.snapshot(snapshot).status, world.snapshot_instance(snapshot).status) == ("migrating", "migrating")
    cancel(world, share)
    assert world.share(share).task_state == "migration_cancel_in_progress"
    world.run()
    shown = world.share(share)
    assert (shown.status, shown.task_state) == ("available", "migration_cancelled")
    assert world.snapshot(snapshot).status == "available"
    assert others_of(world, share) == []
    assert main_of(world, share).id == before.id
    assert world.instance_exports(before.id) == RULE
    world.check_consistent()
    start(world, share)  # and again
    world.run()
    complete(world, share)
    world.run()
    assert main_of(world, share).host == pool_of(world)


def test_snapshots_go_with_their_share(migrating: World) -> None:
    world = migrating
    share = a_share(world)
    snapshot = world.request_snapshot(share)
    world.run()
    world.request_snapshot_rule(snapshot, "10.20.0.0/24")
    world.run()
    start(world, share, preserve_snapshots=True)
    world.run()
    complete(world, share)
    world.run()
    row, taken = main_of(world, share), world.snapshot_instance(snapshot)
    assert (world.snapshot(snapshot).status, taken.status) == ("available", "available")
    assert (taken.share_instance_id, taken.volume_id) == (row.id, row.volume_id)
    (mount,) = world.rows(share_snapshot_mounts)
    assert mount.share_server_id == row.share_server_id
    assert world.snapshot_exports(snapshot) == [["10.20.0.0/24", "ro"]]
    world.check_consistent()
    clone = world.request_clone(snapshot, snapshot_support=True)
    world.run()
    assert world.share(clone).status == "available"
    assert world.share(clone).host == pool_of(world)
    world.request_snapshot_delete(snapshot)
    world.request_delete(clone)
    world.run()
    world.request_delete(share)
    world.run()
    world.check_consistent()


def test_volumes_that_a_share_has_left_go_with_it(migrating: World) -> None:
    world = migrating
    share = a_share(world, size=2)
    snapshot = world.request_snapshot(share)
    world.run()
    world.request_revert(share, snapshot)
    world.run()
    start(world, share)
    world.run()
    complete(world, share)
    world.run()
    assert world.share(share).task_state == "migration_success"
    world.check_consistent()
    world.request_snapshot_delete(snapshot)
    world.run()
    world.request_delete(share)
    world.run()
    world.tidy()
    assert list(world.cloud.volumes.list_volumes()) == []


def test_another_type_has_its_own_quota_meanwhile(migrating: World) -> None:
    world = migrating
    former = world.add_share_type("former", snapshot_support="True")
    wanted = world.add_share_type("wanted", replication_type="readable")
    share = a_share(world, size=2, share_type_id=former)
    snapshot = world.request_snapshot(share)
    world.run()
    start(world, share, new_share_type_id=wanted)
    world.run()
    assert of_type(world, former) == {"shares": 1, "gigabytes": 2, "snapshots": 1, "snapshot_gigabytes": 2}
    both = {"shares": 1, "gigabytes": 2, "share_replicas": 1, "replica_gigabytes": 2}
    assert of_type(world, wanted) == both
    cancel(world, share)
    world.run()
    assert of_type(world, wanted) == {}
    start(world, share, new_share_type_id=wanted)
    world.run()
    complete(world, share)
    world.run()
    assert of_type(world, former) == {}
    assert of_type(world, wanted) == both | {"snapshots": 1, "snapshot_gigabytes": 2}
    shown = world.share(share)
    assert (shown.share_type_id, shown.snapshot_support, shown.replication_type) == (wanted, False, "readable")
    assert main_of(world, share).replica_state == "active"
    world.check_consistent()
    world.request_snapshot_delete(snapshot)
    world.run()
    world.request_delete(share)
    world.run()
    assert of_type(world, wanted) == {}


def test_deleting_a_share_that_is_migrating_ends_both(migrating: World) -> None:
    world = migrating
    wanted = world.add_share_type("wanted")
    share = a_share(world)
    start(world, share, new_share_type_id=wanted)
    world.run()
    world.request_delete(share, force=True)
    world.run()
    assert world.usage() == (0, 0)
    assert of_type(world, wanted) == {}
    world.check_consistent()
    share = a_share(world)
    start(world, share, new_share_type_id=wanted)
    world.run_one("start_share_migration")
    world.request_delete(share, force=True)
    world.run()
    assert world.usage() == (0, 0)
    assert of_type(world, wanted) == {}
    world.check_consistent()


@pytest.mark.parametrize("values", [{"nondisruptive": True}, {"forced": True, "force_host_assisted_migration": True}])
def test_what_no_driver_does_ends_in_an_error_with_a_message(migrating: World, values: dict[str, bool]) -> None:
    world = migrating
    share = a_share(world)
    before = main_of(world, share)
    start(world, share, **values)
    world.run()
    check_untouched(world, share, before.id)


def check_untouched(world: World, share: str, instance: str) -> None:
    shown = world.share(share)
    assert (shown.status, shown.task_state) == ("available", "migration_error")
    assert len(world.messages(share)) == 1
    assert others_of(world, share) == []
    assert main_of(world, share).id == instance
    assert world.instance_exports(instance) == RULE
    world.check_consistent()


def test_a_pool_that_the_type_does_not_allow_is_refused(migrating: World) -> None:
    world = migrating
    odd = world.add_share_type("odd", sharewright__squash="all_squash", thin_provisioning="<is> nonsense")
    share = a_share(world)
    before = main_of(world, share)
    start(world, share, new_share_type_id=odd)
    world.run()
    check_untouched(world, share, before.id)
    assert world.messages(share)[0].action_id == "001"  # allocate host
    assert of_type(world, odd) == {}


def test_another_kind_of_volume_is_refused(migrating: World) -> None:
    world = migrating
    fast = world.add_share_type("fast", sharewright__filesystem="xfs")
    share = a_share(world)
    before = main_of(world, share)
    start(world, share, new_share_type_id=fast)
    world.run()
    check_untouched(world, share, before.id)
    assert "file system is ext4" in world.messages(share)[0].detail
    assert of_type(world, fast) == {}


def test_a_driver_without_the_capability_leaves_the_share_alone(store: Store, tmp_path: Path) -> None:
    with make_world(store, tmp_path / "state") as world:
        share = world.request_share()
        world.request_rule(share, "10.20.0.99")
        world.run()
        other = world.add_share_type("other")
        before = main_of(world, share)
        start(world, share, host=pool_of(world, "alpha"), new_share_type_id=other)
        world.run()
        check_untouched(world, share, before.id)
        assert "cannot move shares" in world.messages(share)[0].detail
        assert of_type(world, other) == {}


def test_a_server_that_cannot_be_made_ends_it(migrating: World) -> None:
    world = migrating
    share = a_share(world)
    before = main_of(world, share)
    world.cloud.fail("ensure_instance", CloudError, times=-1)
    start(world, share)
    world.run()
    check_untouched(world, share, before.id)


def test_a_completion_that_fails_may_be_cancelled_or_asked_for_again(migrating: World) -> None:
    world = migrating
    share = a_share(world)
    before = main_of(world, share)
    for _ in range(2):
        start(world, share)
        world.run()
        world.cloud.fail("attach_volume", CloudError, times=-1)  # the volume is the other instance's by then
        complete(world, share)
        world.run()
        shown = world.share(share)
        assert (shown.status, shown.task_state) == ("error", "migration_error")
        assert main_of(world, share).id == before.id
        (other,) = others_of(world, share)
        assert other.volume_id == before.volume_id
        world.cloud.forgive()
        reset_task_state(world, share)
        if not world.rows(share_snapshot_mounts) and len(world.messages(share)) == 1:
            cancel(world, share)
            world.run()
            shown = world.share(share)
            assert (shown.status, shown.task_state) == ("available", "migration_cancelled")
            assert world.instance_exports(before.id) == RULE
        else:
            complete(world, share)
            world.run()
            assert world.share(share).task_state == "migration_success"
            assert world.instance_exports(main_of(world, share).id) == RULE
        world.check_consistent()


def test_a_share_whose_completion_failed_can_be_deleted(migrating: World) -> None:
    world = migrating
    share = a_share(world)
    start(world, share)
    world.run()
    world.cloud.fail("attach_volume", CloudError, times=-1)
    complete(world, share)
    world.run()
    world.cloud.forgive()
    world.request_delete(share)
    world.run()
    assert world.usage() == (0, 0)
    world.check_consistent()
    assert list(world.cloud.volumes.list_volumes()) == []


def test_a_source_that_does_not_let_go_keeps_the_share(migrating: World) -> None:
    world = migrating
    share = a_share(world)
    before = main_of(world, share)
    start(world, share)
    world.run()
    world.cloud.fail("detach_volume", CloudError, times=-1)
    complete(world, share)
    world.run()
    assert world.share(share).task_state == "migration_error"
    assert others_of(world, share)[0].volume_id is None
    world.cloud.forgive()
    reset_task_state(world, share)
    cancel(world, share)
    world.run()
    assert world.instance_exports(before.id) == RULE
    world.check_consistent()


def test_what_an_earlier_migration_has_left_goes_with_the_next(migrating: World) -> None:
    world = migrating
    share = a_share(world)
    start(world, share)
    world.run()
    (left,) = others_of(world, share)
    reset_task_state(world, share, None)
    with world.store.begin() as tx:
        write_status(tx, share, "available")
    with pytest.raises(InvalidInput):
        complete(world, share)
    start(world, share)
    world.run()
    (other,) = others_of(world, share)
    assert other.id != left.id
    complete(world, share)
    world.run()
    assert others_of(world, share) == []
    world.check_consistent()
