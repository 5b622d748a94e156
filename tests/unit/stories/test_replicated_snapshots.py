"""Snapshots of shares with replicas: one instance on each, whatever becomes of the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from replicas_of_shares import (
    a_replicated_share,
    a_share,
    add,
    delete,
    deployment,
    main_of,
    other_of,
    promote,
    revert,
    snapshot_on,
    take,
)
from sharewright.errors import CloudError, Conflict, InvalidInput
from sharewright.services import share_replicas, share_sizes, snapshot_access, snapshot_locations, snapshots
from sharewright.store.database import Store
from sharewright.store.tables import share_instances, share_snapshot_instances
from story_world import World, make_world


@pytest.fixture
def world(store: Store, tmp_path: Path) -> Iterator[World]:
    with make_world(store, tmp_path / "state", replicas=True) as world:
        yield world


def fail_on(world: World, instance: Any) -> Any:
    """The backend of a share instance takes no snapshots, until the returned function is called."""
    driver: Any = world.assembly.drivers[instance.backend]
    taken = driver.create_snapshot

    def refuse(*arguments: object) -> bool:
        raise CloudError("no room")

    def restore() -> None:
        driver.create_snapshot = taken

    driver.create_snapshot = refuse
    return restore


def test_each_replica_has_each_snapshot(world: World) -> None:
    """Those that were there before it, and those that come later."""
    share = a_share(world)
    first = take(world, share)
    world.run()
    add(world, share)
    world.run()
    second = take(world, share)
    world.run()
    main, replica = main_of(world, share), other_of(world, share)
    assert (replica.status, replica.replica_state) == ("available", "in_sync")
    for snapshot in (first, second):
        assert world.snapshot(snapshot).status == "available"
        ours, theirs = snapshot_on(world, snapshot, main.id), snapshot_on(world, snapshot, replica.id)
        assert (ours.status, theirs.status) == ("available", "available")
        assert (ours.volume_id, theirs.volume_id) == (main.volume_id, replica.volume_id)
    assert world.snapshot_usage() == (2, 2)
    world.check_snapshots()


def test_after_a_promotion_they_are_the_promoted_ones(world: World) -> None:
    share = a_replicated_share(world)
    snapshot = take(world, share)
    world.run()
    former, replica = main_of(world, share), other_of(world, share)
    promote(world, replica.id)
    world.run()
    delete(world, former.id)
    world.run()
    (left,) = world.rows(share_snapshot_instances)
    assert (left.share_instance_id, left.status) == (replica.id, "available")
    clone = world.request_clone(snapshot)
    world.run()
    assert world.share(clone).status == "available"
    assert world.share(clone).host == main_of(world, share).host
    snapshots.delete(deployment(world), world.context(), snapshot)
    world.run()
    assert world.rows(share_snapshot_instances) == []
    assert world.snapshot_usage() == (0, 0)
    world.check_consistent()


def test_a_snapshot_and_a_promotion_at_once(world: World) -> None:
    """Neither loses the other, in whatever order they were asked for."""
    share = a_replicated_share(world)
    replica = other_of(world, share).id
    before = take(world, share)
    promote(world, replica)
    after = take(world, share)
    world.run()
    world.run()
    main = main_of(world, share)
    assert main.id == replica
    assert snapshot_on(world, after, main.id).status == world.snapshot(after).status == "available"
    # The promoted one has no part in the one before, unless it was asked in between.
    assert (
        world.snapshot(before).status
        == {"available": "available", "error": "error"}[snapshot_on(world, before, main.id).status]
    )
    world.check_snapshots()


def test_a_replica_that_cannot_take_it_is_not_in_sync(world: World) -> None:
    share = a_replicated_share(world)
    main, replica = main_of(world, share), other_of(world, share)
    restore = fail_on(world, replica)
    snapshot = take(world, share)
    world.run()
    assert world.snapshot(snapshot).status == "available"
    assert other_of(world, share).replica_state == "error"
    promote_anyway(world, replica.id)
    world.run()
    assert main_of(world, share).id == replica.id
    assert world.snapshot(snapshot).status == "error"  # the promoted one has none
    assert snapshot_on(world, snapshot, main.id).status == "available"
    promote(world, main.id)
    world.run()
    assert world.snapshot(snapshot).status == "available"
    restore()
    resync(world, replica.id)
    world.run()
    assert other_of(world, share).replica_state == "in_sync"
    assert snapshot_on(world, snapshot, replica.id).status == "available"
    world.check_snapshots()


def test_reverting_reverts_the_replicas(world: World) -> None:
    share = a_replicated_share(world)
    snapshot = take(world, share)
    world.run()
    share_sizes.extend(deployment(world), world.context(), share, 3)
    world.run()
    before = {row.id: row.volume_id for row in world.rows(share_instances)}
    revert(world, share, snapshot)
    world.run()
    main, replica = main_of(world, share), other_of(world, share)
    assert (main.status, replica.status, replica.replica_state) == ("available", "available", "in_sync")
    assert world.snapshot(snapshot).status == "available"
    for row in (main, replica):
        assert row.size == 1
        assert row.volume_id != before[row.id]
        with world.cloud.state.transaction(write=False) as tx:
            query = "SELECT snapshot_id FROM sources WHERE volume_id = ?"
            source = tx.execute(query, (row.volume_id,)).fetchone()
        assert source["snapshot_id"] == snapshot_on(world, snapshot, row.id).provider_location
    world.check_snapshots()


def test_while_they_are_reverted_a_boot_finds_their_volumes_by_serial(world: World) -> None:
    share = a_replicated_share(world)
    snapshot = take(world, share)
    world.run()
    told: dict[str, set[bool]] = {}
    apply = world.guests.apply

    def watch(address: Any, document: Any, *, timeout: float) -> Any:
        for each in document.shares:
            told.setdefault(each.id, set()).add(each.by_serial)
        return apply(address, document, timeout=timeout)

    world.guests.apply = watch  # type: ignore[method-assign]
    revert(world, share, snapshot)
    world.run()
    assert told == {main_of(world, share).id: {True}, other_of(world, share).id: {True}}


def test_a_revert_that_fails_on_a_replica_leaves_the_share(world: World) -> None:
    share = a_replicated_share(world)
    snapshot = take(world, share)
    world.run()
    share_sizes.extend(deployment(world), world.context(), share, 3)
    world.run()
    main = main_of(world, share)
    driver: Any = world.assembly.drivers[main.backend]
    reverted = driver.revert_to_snapshot
    driver.revert_to_snapshot = fail_on  # after its replica's
    revert(world, share, snapshot)
    world.run()
    driver.revert_to_snapshot = reverted
    assert world.share(share).status == "reverting_error"
    assert main_of(world, share).volume_id == main.volume_id
    replica = other_of(world, share)
    assert (replica.replica_state, replica.size, main_of(world, share).size) == ("out_of_sync", 1, 3)
    assert world.snapshot(snapshot).status == "available"
    world.check_snapshots()
    revert(world, share, snapshot)
    world.run()
    assert world.share(share).status == "available"
    assert {row.size for row in world.rows(share_instances)} == {1}


def test_deleting_a_replica_deletes_its_snapshots_only(world: World) -> None:
    share = a_replicated_share(world)
    snapshot = take(world, share)
    world.run()
    delete(world, other_of(world, share).id)
    world.run()
    (left,) = world.rows(share_snapshot_instances)
    assert left.share_instance_id == main_of(world, share).id
    assert world.snapshot(snapshot).status == "available"
    assert len(world.cloud.volumes.list_snapshots()) == 1
    world.check_consistent()


def test_a_failed_replica_leaves_no_snapshots(world: World) -> None:
    share = a_share(world)
    take(world, share)
    world.run()
    world.cloud.fail("attach_volume", CloudError, times=-1)
    replica = add(world, share)
    world.run()
    world.cloud.forgive()
    assert other_of(world, share).status == "error"
    delete(world, replica)
    world.run()
    assert len(world.rows(share_snapshot_instances)) == 1
    assert len(world.cloud.volumes.list_snapshots()) == 1
    world.check_snapshots()


def test_mounted_snapshots_and_replicas_do_not_go_together(world: World) -> None:
    share = a_replicated_share(world)
    snapshot = take(world, share)
    world.run()
    rule = {"access_type": "ip", "access_to": "10.20.0.5"}
    with pytest.raises(Conflict, match="has replicas"):
        snapshot_access.allow(deployment(world), world.context(), snapshot, rule)
    former = main_of(world, share).id
    promote(world, other_of(world, share).id)
    world.run()
    delete(world, former)
    world.run()
    (location,) = snapshot_locations.of_snapshot(deployment(world), world.context(), snapshot)
    assert location["path"].endswith(snapshot_on(world, snapshot, main_of(world, share).id).id)
    snapshot_access.allow(deployment(world), world.context(), snapshot, rule)
    world.run()
    with pytest.raises(InvalidInput, match="has access rules"):
        add(world, share)


def promote_anyway(world: World, replica: str) -> None:
    with world.store.begin() as tx:
        tx.execute(share_instances.update().where(share_instances.c.id == replica).values(replica_state="in_sync"))
    promote(world, replica)


def resync(world: World, replica: str) -> None:
    administrator = replace(world.context(), roles=frozenset({"admin"}))
    share_replicas.resync(deployment(world), administrator, replica)
