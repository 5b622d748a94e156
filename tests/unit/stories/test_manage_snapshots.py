"""Snapshots that are given away and taken over, told by the real engine on the simulated cloud."""

from __future__ import annotations

from sharewright.errors import CloudError, CloudUnavailable
from sharewright.operations.messages import Action
from sharewright.store.tables import share_snapshots
from story_world import World


def a_snapshot(world: World, size: int = 2) -> tuple[str, str]:
    share = world.request_share(size)
    world.run()
    snapshot = world.request_snapshot(share)
    world.run()
    return share, snapshot


def given_away(world: World, snapshot: str) -> str:
    """The cloud's id of a snapshot that nobody manages any more."""
    location = str(world.snapshot_instance(snapshot).provider_location)
    world.request_unmanage_snapshot(snapshot)
    world.run()
    assert world.rows(share_snapshots, id=snapshot) == []
    return location


def test_given_away_and_taken_over_again(world: World) -> None:
    share, snapshot = a_snapshot(world)
    location = given_away(world, snapshot)
    assert world.snapshot_usage() == (0, 0)
    assert list(world.cloud.volumes.list_snapshots()) == []  # none of ours
    again = world.request_manage_snapshot(share, location)
    world.run()
    row, instance = world.snapshot(again), world.snapshot_instance(again)
    assert (row.status, row.size, instance.provider_location) == ("available", 2, location)
    assert world.snapshot_usage() == (1, 2)
    clone = world.request_clone(again)
    world.run()
    assert world.share(clone).status == "available"
    assert world.instance(clone).clone_of == world.instance(share).filesystem_uuid
    world.check_consistent()


def test_the_quota_counts_the_size_that_it_has(world: World) -> None:
    share, snapshot = a_snapshot(world)
    location = given_away(world, snapshot)
    world.request_extend(share, 5)
    world.run()
    again = world.request_manage_snapshot(share, location)
    assert world.snapshot_usage() == (1, 5)
    world.run()
    assert (world.snapshot(again).size, world.snapshot_usage()) == (2, (1, 2))
    world.request_snapshot_delete(again)
    world.run()
    assert world.snapshot_usage() == (0, 0)


def test_what_is_none_or_another_share_s(world: World) -> None:
    _, snapshot = a_snapshot(world)
    other = world.request_share()
    world.run()
    location = given_away(world, snapshot)
    for reference, part in (("no-such-snapshot", ""), (location, "not of the share's")):
        managed = world.request_manage_snapshot(other, reference)
        world.run()
        assert world.snapshot(managed).status == "manage_error"
        (message,) = world.messages(managed)
        assert (message.action_id, part in message.detail) == (Action.CREATE, True)
        world.request_unmanage_snapshot(managed)
        world.run()
        assert world.rows(share_snapshots, id=managed) == []
    assert world.snapshot_usage() == (0, 0)
    with world.cloud.state.transaction(write=False) as tx:  # it was left as it is
        assert tx.execute("SELECT id FROM snapshots WHERE id = ?", (location,)).fetchone() is not None


def test_another_share_s_outlives_what_could_not_take_it_over(world: World) -> None:
    """It was ours for a moment, and giving it back fails again and again; deleting the failure must not delete it."""
    _, snapshot = a_snapshot(world)
    other = world.request_share()
    world.run()
    location = given_away(world, snapshot)
    world.cloud.fail("disown_snapshot", CloudError, times=10, message="Not now.")
    managed = world.request_manage_snapshot(other, location)
    world.run()
    assert world.snapshot(managed).status == "manage_error"
    world.request_unmanage_snapshot(managed)
    world.run()
    assert world.snapshot(managed).status == "manage_error"
    world.request_snapshot_delete(managed)  # the row says that it is not ours, whatever its status
    world.run()
    assert world.snapshot(managed).status == "error_deleting"
    with world.cloud.state.transaction() as tx:
        tx.execute("DELETE FROM failures")
    world.request_unmanage_snapshot(managed)
    world.run()
    assert world.rows(share_snapshots) == []
    with world.cloud.state.transaction(write=False) as tx:
        assert tx.execute("SELECT id FROM snapshots WHERE id = ?", (location,)).fetchone() is not None


def test_deleted_while_it_is_taken_over(world: World) -> None:
    """Forced, with a failure to take it over and to give it back on top: the operator's snapshot stays."""
    share, snapshot = a_snapshot(world)
    location = given_away(world, snapshot)
    for failing in (False, True):
        if failing:
            world.cloud.fail("disown_snapshot", CloudError, times=3, message="Not now.")
        managed = world.request_manage_snapshot(share, location)
        world.request_snapshot_delete(managed)
        world.run()
        assert world.rows(share_snapshots, id=managed) == []
        with world.cloud.state.transaction(write=False) as tx:
            row = tx.execute("SELECT deployment FROM snapshots WHERE id = ?", (location,)).fetchone()
        assert row["deployment"] == ""
    assert world.snapshot_usage() == (0, 0)


def test_failures(world: World) -> None:
    share, snapshot = a_snapshot(world)
    world.cloud.fail("disown_snapshot", CloudError, message="Not now.")
    world.request_unmanage_snapshot(snapshot)
    world.run()
    assert world.snapshot(snapshot).status == "unmanage_error"
    location = given_away(world, snapshot)
    world.cloud.fail("adopt_snapshot", CloudUnavailable, moment="after", message="In a moment.")
    again = world.request_manage_snapshot(share, location)
    world.run()
    assert world.snapshot(again).status == "available"
