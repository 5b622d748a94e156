"""Shares that are made from snapshots, told by the real engine on the simulated cloud."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update

from sharewright.clouds.contract import Volume
from sharewright.drivers.generic.document import build_document
from sharewright.errors import CloudError, CloudUnavailable
from sharewright.operations.messages import Detail
from sharewright.store.tables import pools, share_instances, share_servers, share_snapshots, shares
from story_world import World


def a_snapshot(world: World, size: int = 1) -> tuple[str, str]:
    """A share and a snapshot of it."""
    share = world.request_share(size)
    world.run()
    snapshot = world.request_snapshot(share)
    world.run()
    assert world.snapshot(snapshot).status == "available"
    return share, snapshot


def volume(world: World, share: str) -> Volume:
    found = world.cloud.volumes.find_volume(world.instance(share).volume_id)
    assert found is not None
    return found


def filesystem(world: World, share: str) -> Any:
    """The file system on a share's volume."""
    with world.cloud.state.transaction(write=False) as tx:
        return tx.execute("SELECT * FROM volumes WHERE id = ?", (world.instance(share).volume_id,)).fetchone()


@pytest.mark.parametrize("size", [2, 5])
def test_a_share_as_large_or_larger(world: World, size: int) -> None:
    parent, snapshot = a_snapshot(world, 2)
    clone = world.request_clone(snapshot, size)
    world.request_rule(clone, "10.20.0.7")
    world.run()
    row, instance = world.share(clone), world.instance(clone)
    assert (row.status, row.size, row.snapshot_id) == ("available", size, snapshot)
    assert instance.filesystem_ready
    assert instance.clone_of == world.instance(parent).filesystem_uuid
    assert instance.filesystem_uuid != instance.clone_of
    found = filesystem(world, clone)
    assert (found["filesystem_uuid"], found["filesystem_size"], found["size"]) == (instance.filesystem_uuid, size, size)
    assert filesystem(world, parent)["filesystem_uuid"] == instance.clone_of
    assert world.exports(clone) == [["10.20.0.7/32", "rw"]]
    assert world.usage() == (2, 2 + size)
    assert world.messages(clone) == []
    world.check_consistent()


def test_it_is_never_formatted_and_its_parent_s_disk_not_taken_for_it(sqlite_world: World) -> None:
    """While it is not known to have its own UUID, its parent is found by its serial."""
    parent, snapshot = a_snapshot(sqlite_world)
    sqlite_world.cloud.fail("guest.identify", CloudError, message="No tool.")
    clone = sqlite_world.request_clone(snapshot)
    documents = []
    apply = sqlite_world.guests.apply

    def watch(address: Any, document: Any, *, timeout: float) -> Any:
        documents.append(document)
        return apply(address, document, timeout=timeout)

    sqlite_world.guests.apply = watch  # type: ignore[method-assign]
    sqlite_world.run()
    assert sqlite_world.share(clone).status == "error"
    before, attached, *_ = documents
    assert [share.by_serial for share in before.shares] == [True]
    assert {share.by_serial for share in attached.shares} == {True, False}
    (copy,) = [share for share in attached.shares if not share.by_serial]
    assert (copy.filesystem.create, copy.filesystem.clone_of) == (False, sqlite_world.instance(parent).filesystem_uuid)
    assert sqlite_world.messages(clone)[0].detail_id == Detail.DRIVER_FAILED_CREATING_FROM_SNAP
    sqlite_world.check_consistent()


def test_when_it_is_there_its_parent_is_found_by_its_uuid_again(sqlite_world: World) -> None:
    _, snapshot = a_snapshot(sqlite_world)
    sqlite_world.request_clone(snapshot)
    sqlite_world.run()
    (server,) = sqlite_world.rows(share_servers)
    document = build_document(sqlite_world.store, server.id, None, str, advance=False)
    assert [(share.by_serial, share.filesystem.clone_of) for share in document.shares] == [(False, "")] * 2


def test_of_a_share_that_grew_and_of_one_whose_volume_is_larger(sqlite_world: World) -> None:
    """Volumes do not shrink: a failed extension leaves one that is larger than its share."""
    parent, snapshot = a_snapshot(sqlite_world)
    sqlite_world.request_extend(parent, 4)
    sqlite_world.run()
    old = sqlite_world.request_clone(snapshot)
    sqlite_world.cloud.fail("guest.grow", CloudError, message="No.")
    sqlite_world.request_extend(parent, 6)
    sqlite_world.run()
    assert (volume(sqlite_world, parent).size, sqlite_world.share(parent).size) == (6, 4)
    later = sqlite_world.request_snapshot(parent)
    sqlite_world.run()
    new = sqlite_world.request_clone(later)
    sqlite_world.run()
    assert (sqlite_world.share(old).size, volume(sqlite_world, old).size) == (1, 1)
    assert (sqlite_world.share(new).size, volume(sqlite_world, new).size) == (4, 6)
    assert filesystem(sqlite_world, new)["filesystem_size"] == 4
    sqlite_world.request_extend(new, 5)
    sqlite_world.run()
    assert (sqlite_world.share(new).status, filesystem(sqlite_world, new)["filesystem_size"]) == ("available", 5)


def test_of_a_share_that_was_shrunk_since(world: World) -> None:
    """The volume that the snapshot is of is kept for it, and goes with it."""
    parent, snapshot = a_snapshot(world, 4)
    old = world.instance(parent).volume_id
    world.request_shrink(parent, 2)
    world.run()
    assert (world.share(parent).status, world.share(parent).size, volume(world, parent).size) == ("available", 2, 2)
    kept = world.cloud.volumes.find_volume(old)
    assert kept is not None
    assert kept.instance_id is None
    clone = world.request_clone(snapshot)
    world.run()
    assert (world.share(clone).status, world.share(clone).size, volume(world, clone).size) == ("available", 4, 4)
    world.check_consistent()
    world.request_revert(parent, snapshot)
    world.run()
    assert (world.share(parent).status, world.share(parent).size) == ("available", 4)
    world.request_snapshot_delete(snapshot)
    world.run()
    assert world.cloud.volumes.find_volume(old) is None
    assert len(world.cloud.volumes.list_volumes()) == 2
    world.check_consistent()


def test_a_clone_of_a_clone_and_everything_deleted_in_any_order(world: World) -> None:
    parent, snapshot = a_snapshot(world)
    clone = world.request_clone(snapshot)
    world.run()
    second = world.request_snapshot(clone)
    world.run()
    grandchild = world.request_clone(second, 3)
    world.run()
    assert world.instance(grandchild).clone_of == world.instance(clone).filesystem_uuid
    for gone in (snapshot, second):
        world.request_snapshot_delete(gone)
    world.run()
    assert world.rows(share_snapshots) == []
    for share in (parent, clone, grandchild):
        world.request_delete(share)
        world.run()
        world.check_consistent()
    assert world.rows(shares) == []


def test_only_where_its_snapshot_is(sqlite_world: World) -> None:
    _, snapshot = a_snapshot(sqlite_world)
    with sqlite_world.store.begin() as tx:
        (pool,) = tx.execute(pools.select()).all()
        tx.execute(update(pools).values(host="elsewhere@alpha#alpha"))
    clone = sqlite_world.request_clone(snapshot)
    sqlite_world.run()
    assert sqlite_world.share(clone).status == "error"
    assert f"{pool.host} is asked for" in sqlite_world.messages(clone)[0].detail


def test_the_part_that_is_reserved_for_them_counts(sqlite_world: World) -> None:
    _, snapshot = a_snapshot(sqlite_world)
    with sqlite_world.store.begin() as tx:
        (pool,) = tx.execute(pools.select()).all()
        capabilities = pool.capabilities | {"reserved_snapshot_percentage": 100}
        tx.execute(update(pools).values(capabilities=capabilities))
    clone = sqlite_world.request_clone(snapshot)
    sqlite_world.run()
    assert sqlite_world.share(clone).status == "error"
    assert "capacity: 1 GiB asked for, 0.0 GiB available" in sqlite_world.messages(clone)[0].detail


class TestFailures:
    def test_a_snapshot_that_was_deleted_before(self, world: World) -> None:
        _, snapshot = a_snapshot(world)
        clone = world.request_clone(snapshot)
        world.request_snapshot_delete(snapshot)
        assert world.run_one("delete_snapshot")
        world.run()
        assert world.share(clone).status == "error"
        (message,) = world.messages(clone)
        assert message.detail_id == Detail.DRIVER_FAILED_CREATING_FROM_SNAP
        assert "does not exist any more" in message.detail
        world.check_consistent()

    def test_after_the_volume_is_made_the_snapshot_may_go(self, world: World) -> None:
        parent, snapshot = a_snapshot(world)
        world.cloud.fail("attach_volume", CloudUnavailable, message="In a moment.")
        clone = world.request_clone(snapshot)
        assert world.run_one("create_share")
        world.request_snapshot_delete(snapshot)
        world.run()
        assert (world.share(clone).status, world.rows(share_snapshots)) == ("available", [])
        assert world.instance(clone).clone_of == world.instance(parent).filesystem_uuid
        world.check_consistent()

    def test_a_disk_that_is_another_s_is_left_alone(self, sqlite_world: World) -> None:
        _, snapshot = a_snapshot(sqlite_world)
        sqlite_world.cloud.fail("attach_volume", CloudUnavailable, message="In a moment.")
        clone = sqlite_world.request_clone(snapshot)
        assert sqlite_world.run_one("create_share")
        with sqlite_world.store.begin() as tx:
            mine = share_instances.c.share_id == clone
            tx.execute(update(share_instances).where(mine).values(clone_of="00000000-0000-4000-8000-000000000000"))
        sqlite_world.run()
        assert sqlite_world.share(clone).status == "error"
        assert "filesystem_mismatch" in sqlite_world.messages(clone)[0].detail
