"""Shares that shrink, told by the real engine on the simulated cloud."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from sharewright.drivers.contract import SnapshotDriver
from sharewright.drivers.generic.moves import find_move
from sharewright.errors import CloudCapacityExceeded, CloudError, CloudUnavailable
from sharewright.identifiers import utcnow
from sharewright.operations.messages import Action, Detail
from sharewright.progress import NoProgress
from sharewright.store.database import Store
from sharewright.store.tables import (
    operations,
    retired_volumes,
    share_instance_moves,
    share_instances,
    share_servers,
    shares,
)
from story_world import BACKEND, World, make_world

GIBIBYTE = 2**30
SERVED = [["10.20.0.5/32", "rw"]]


def a_share(world: World, size: int = 4) -> str:
    share = world.request_share(size)
    world.request_rule(share, "10.20.0.5")
    world.run()
    assert world.share(share).status == "available"
    return share


def an_smb_share(world: World, size: int = 4) -> str:
    share = world.request_share(size, protocol="CIFS")
    world.request_rule(share, "10.20.0.5")
    world.run()
    assert world.share(share).status == "available"
    return share


def served_from(world: World, share: str) -> str:
    """The volume that clients' data come from now."""
    with world.cloud.state.transaction(write=False) as tx:
        row = tx.execute(
            "SELECT serial FROM guest_shares WHERE share_id = ? AND mounted", (world.instance(share).id,)
        ).fetchone()
    return str(row["serial"])


def check_as_before(world: World, share: str, volume_id: str, size: int = 4) -> None:
    """The share is served from the volume that it had, and nothing else is left."""
    assert (world.share(share).size, world.instance(share).size) == (size, size)
    assert world.instance(share).volume_id == served_from(world, share) == volume_id
    assert world.exports(share) == SERVED
    assert world.usage() == (1, size)
    assert world.rows(share_instance_moves) == []
    world.check_consistent()


def check_shrunk(world: World, share: str, size: int) -> None:
    instance = world.instance(share)
    assert (world.share(share).status, world.share(share).size, instance.size) == ("available", size, size)
    (volume,) = world.cloud.volumes.list_volumes()
    assert (volume.id, volume.size) == (instance.volume_id, size)
    assert served_from(world, share) == instance.volume_serial
    assert world.exports(share) == SERVED
    assert world.usage() == (1, size)
    assert world.rows(share_instance_moves) == []
    world.check_consistent()


def operation(world: World, share: str) -> Any:
    return world.rows(operations, resource_id=share, kind="shrink_share")[-1]


def test_the_room_is_given_back(world: World) -> None:
    share = a_share(world)
    before = world.instance(share)
    locations = world.locations(share)
    world.request_shrink(share, 2)
    world.run()
    check_shrunk(world, share, 2)
    after = world.instance(share)
    assert after.volume_id != before.volume_id
    assert after.filesystem_uuid != before.filesystem_uuid
    assert after.share_server_id == before.share_server_id
    assert world.locations(share) == locations
    assert world.messages(share) == []


def test_what_it_costs(sqlite_world: World) -> None:
    share = a_share(sqlite_world)
    sqlite_world.request_shrink(share, 2)
    sqlite_world.run()
    # Does it fit; copy; is it ready; switch; let go of the old volume.
    assert operation(sqlite_world, share).guest_round_trips == 5
    assert operation(sqlite_world, share).cloud_calls <= 7


@pytest.mark.parametrize("method", ["delete_volume", "detach_volume"])
@pytest.mark.parametrize("error", [CloudError, CloudUnavailable])
def test_an_old_volume_that_stays_is_nothing_to_the_share(
    sqlite_world: World, method: str, error: type[CloudError]
) -> None:
    """Somebody else's snapshot may be of it. It goes as soon as the cloud lets it go."""
    share = a_share(sqlite_world)
    old = sqlite_world.instance(share).volume_id
    sqlite_world.cloud.fail(method, error, times=9999, message="Volume has 1 snapshot.")
    sqlite_world.request_shrink(share, 2)
    sqlite_world.run()
    assert (sqlite_world.share(share).status, sqlite_world.share(share).size) == ("available", 2)
    assert sqlite_world.messages(share) == []
    assert sqlite_world.usage() == (1, 2)
    assert served_from(sqlite_world, share) == sqlite_world.instance(share).volume_id != old
    assert sqlite_world.rows(share_instance_moves) == []
    sqlite_world.tidy()
    assert sqlite_world.cloud.volumes.find_volume(old) is not None
    (left,) = sqlite_world.rows(retired_volumes)
    assert (left.volume_id, "Volume has 1 snapshot." in left.reason) == (old, True)
    sqlite_world.check_consistent()
    sqlite_world.mend()
    sqlite_world.tidy()
    assert sqlite_world.rows(retired_volumes) == []
    check_shrunk(sqlite_world, share, 2)


def test_what_is_left_goes_also_after_the_share(sqlite_world: World) -> None:
    share = a_share(sqlite_world)
    old = sqlite_world.instance(share).volume_id
    sqlite_world.cloud.fail("delete_volume", CloudError, times=1, message="Not now.")
    sqlite_world.request_shrink(share, 2)
    sqlite_world.run()
    sqlite_world.cloud.fail("delete_volume", CloudError, times=1, message="Not now.")
    sqlite_world.request_delete(share)
    sqlite_world.run()
    assert sqlite_world.rows(shares) == []
    assert [volume.id for volume in sqlite_world.cloud.volumes.list_volumes()] == [old]
    sqlite_world.tidy()
    assert list(sqlite_world.cloud.volumes.list_volumes()) == []
    assert sqlite_world.rows(retired_volumes) == []


def test_a_volume_in_use_is_never_taken_away(sqlite_world: World) -> None:
    """Whatever the row says."""
    share = a_share(sqlite_world)
    instance = sqlite_world.instance(share)
    with sqlite_world.store.begin() as tx:
        tx.execute(
            retired_volumes.insert().values(
                volume_id=instance.volume_id, backend=BACKEND, share_instance_id=instance.id, created_at=utcnow()
            )
        )
    sqlite_world.tidy()
    assert "a share uses it" in sqlite_world.rows(retired_volumes)[0].reason
    assert served_from(sqlite_world, share) == instance.volume_serial


@pytest.mark.parametrize("runs", range(1, 8))
def test_the_last_snapshot_goes_in_the_same_seconds(sqlite_world: World, runs: int) -> None:
    share = a_share(sqlite_world)
    snapshot = sqlite_world.request_snapshot(share)
    sqlite_world.run()
    sqlite_world.request_shrink(share, 2)
    for _ in range(runs):
        sqlite_world.run_one("shrink_share") or sqlite_world._let_time_pass()
    instance = sqlite_world.snapshot_instance(snapshot)
    progress = NoProgress()
    driver = sqlite_world.assembly.drivers[BACKEND]
    assert isinstance(driver, SnapshotDriver)
    driver.delete_snapshot(instance.id, progress)  # and before the row has gone, the shrinking ends
    sqlite_world.run()
    sqlite_world.request_snapshot_delete(snapshot)
    sqlite_world.run()
    sqlite_world.tidy()
    check_shrunk(sqlite_world, share, 2)


def test_again_and_then_larger(world: World) -> None:
    share = a_share(world)
    for size in (3, 1):
        world.request_shrink(share, size)
        world.run()
        check_shrunk(world, share, size)
    world.request_extend(share, 5)
    world.run()
    check_shrunk(world, share, 5)


def test_many_at_once_on_one_server(world: World) -> None:
    many = [a_share(world) for _ in range(4)]
    for share in many:
        world.request_shrink(share, 2)
    world.run_worker()
    assert [world.share(share).size for share in many] == [2] * 4
    assert world.usage() == (4, 8)
    world.check_consistent()


class TestRefusals:
    """Nothing has changed, and the reason is told."""

    def check(self, world: World, share: str, volume: str, reason: str) -> None:
        assert world.share(share).status == "available"
        (message,) = world.messages(share)
        assert (message.action_id, message.detail_id) == (Action.SHRINK, Detail.DRIVER_REFUSED_SHRINK)
        assert reason in message.detail
        check_as_before(world, share, volume)

    def test_the_data_are_larger(self, world: World) -> None:
        share = a_share(world)
        volume = world.instance(share).volume_id
        world.guests.use(world.instance(share).id, bytes_used=3 * GIBIBYTE)
        calls = world.cloud.calls()["ensure_volume"]
        world.request_shrink(share, 2)
        world.run()
        self.check(world, share, volume, "bytes of the share are in use")
        assert world.cloud.calls()["ensure_volume"] == calls

    def test_the_guest_finds_that_they_do_not_fit(self, world: World) -> None:
        share = a_share(world)
        volume = world.instance(share).volume_id
        world.cloud.fail("guest.fit", CloudError, message="the inode numbers in use need 3 GiB at least")
        world.request_shrink(share, 2)
        world.run()
        self.check(world, share, volume, "need 3 GiB at least")

    def test_the_new_volume_cannot_be_taken_away(self, sqlite_world: World) -> None:
        """The share is as it was all the same."""
        share = a_share(sqlite_world)
        volume = sqlite_world.instance(share).volume_id
        sqlite_world.cloud.fail("guest.fit", CloudError, message="the inode numbers in use need 3 GiB at least")
        sqlite_world.cloud.fail("delete_volume", CloudError, times=10, message="Not now.")
        sqlite_world.request_shrink(share, 2)
        sqlite_world.run(limit=5000)
        assert len(sqlite_world.cloud.volumes.list_volumes()) == 2
        self.check(sqlite_world, share, volume, "need 3 GiB at least")
        sqlite_world.mend()
        sqlite_world.request_shrink(share, 2)
        sqlite_world.run()
        check_shrunk(sqlite_world, share, 2)

    def test_another_file_system(self, sqlite_world: World) -> None:
        share = a_share(sqlite_world)
        with sqlite_world.store.begin() as tx:
            tx.execute(update(share_instances).values(filesystem_type="xfs"))
        volume = sqlite_world.instance(share).volume_id
        sqlite_world.request_shrink(share, 2)
        sqlite_world.run()
        self.check(sqlite_world, share, volume, "xfs, which cannot become smaller")

    def test_another_protocol(self, sqlite_world: World) -> None:
        share = a_share(sqlite_world)
        volume = sqlite_world.instance(share).volume_id
        with sqlite_world.store.begin() as tx:
            tx.execute(update(shares).values(protocol="NONE"))
        sqlite_world.request_shrink(share, 2)
        sqlite_world.run()
        self.check(sqlite_world, share, volume, "Shares of NONE do not shrink")

    def test_smb_clients_keep_files_open(self, store: Store, tmp_path: Path) -> None:
        """They were waited for; no client has noticed anything."""
        with make_world(store, tmp_path / "state", shrink_open_files_seconds=0.0) as world:
            share = an_smb_share(world)
            volume = world.instance(share).volume_id
            world.cloud.fail("guest.part", CloudError, message='SMB clients have files open: "a.doc"')
            world.request_shrink(share, 2)
            world.run()
            self.check(world, share, volume, '"a.doc"')
            assert "Close them" in world.messages(share)[0].detail
            world.request_shrink(share, 2)
            world.run()
            check_shrunk(world, share, 2)

    def test_a_snapshot_that_is_being_taken(self, sqlite_world: World) -> None:
        share = a_share(sqlite_world)
        volume = sqlite_world.instance(share).volume_id
        sqlite_world.cloud.set_delay("copy", 3600.0)
        sqlite_world.request_snapshot(share)
        assert sqlite_world.run_one("create_snapshot")
        sqlite_world.request_shrink(share, 2)
        assert sqlite_world.run_one("shrink_share")
        assert sqlite_world.instance(share).volume_id == volume
        assert "is being taken" in sqlite_world.messages(share)[0].detail
        assert sqlite_world.share(share).status == "available"


class TestFailures:
    def check_error(self, world: World, share: str, volume: str, reason: str) -> None:
        assert world.share(share).status == "shrinking_error"
        (message,) = world.messages(share)
        assert (message.action_id, message.detail_id) == (Action.SHRINK, Detail.DRIVER_FAILED_SHRINK)
        assert reason in message.detail
        check_as_before(world, share, volume)

    def test_no_room_for_the_new_volume(self, world: World) -> None:
        share = a_share(world)
        volume = world.instance(share).volume_id
        world.cloud.fail("ensure_volume", CloudCapacityExceeded, message="The disks are full.")
        world.request_shrink(share, 2)
        world.run()
        self.check_error(world, share, volume, "The disks are full.")
        world.request_shrink(share, 2)
        world.run()
        check_shrunk(world, share, 2)

    def test_copying_fails(self, sqlite_world: World) -> None:
        share = a_share(sqlite_world)
        volume = sqlite_world.instance(share).volume_id
        sqlite_world.cloud.fail("guest.copy", CloudError, message="there is more to copy than fits into a stall")
        sqlite_world.request_shrink(share, 2)
        sqlite_world.run()
        self.check_error(sqlite_world, share, volume, "more to copy")

    def test_a_switch_that_is_late_is_tried_again(self, world: World) -> None:
        share = a_share(world)
        world.cloud.fail("guest.switch", CloudError, times=3, message="it did not end within 30 s")
        world.request_shrink(share, 2)
        world.run()
        check_shrunk(world, share, 2)
        assert world.messages(share) == []

    def test_smb_clients_close_their_files_in_time(self, world: World) -> None:
        """However often it was tried: only time counts."""
        share = an_smb_share(world)
        world.cloud.fail("guest.part", CloudError, times=2, message='SMB clients have files open: "a.doc"')
        world.request_shrink(share, 2)
        world.run()
        check_shrunk(world, share, 2)
        assert world.messages(share) == []

    def test_but_not_for_ever(self, world: World) -> None:
        share = a_share(world)
        volume = world.instance(share).volume_id
        world.cloud.fail("guest.switch", CloudError, times=99, message="it did not end within 30 s")
        world.request_shrink(share, 2)
        world.run()
        self.check_error(world, share, volume, "tried 5 times: it did not end within 30 s")

    def test_deleted_from_shrinking_error(self, sqlite_world: World) -> None:
        share = a_share(sqlite_world)
        sqlite_world.cloud.fail("guest.copy", CloudError, message="No.")
        sqlite_world.request_shrink(share, 2)
        sqlite_world.run()
        assert sqlite_world.share(share).status == "shrinking_error"
        sqlite_world.request_delete(share)
        sqlite_world.run()
        assert sqlite_world.rows(shares) == []
        assert sqlite_world.usage() == (0, 0)
        assert list(sqlite_world.cloud.volumes.list_volumes()) == []

    def test_a_share_without_a_server(self, sqlite_world: World) -> None:
        share = a_share(sqlite_world)
        with sqlite_world.store.begin() as tx:
            tx.execute(update(share_instances).values(share_server_id=None))
        sqlite_world.request_shrink(share, 2)
        sqlite_world.run()
        assert sqlite_world.share(share).status == "shrinking_error"
        assert "not served" in sqlite_world.messages(share)[0].detail


def move_by_hand(world: World, share: str, *, switched: bool) -> str:
    """A share whose move was told to switch and whose worker then had no answer; returns its old volume."""
    old = str(world.instance(share).volume_id)
    world.request_shrink(share, 2)
    while not world.rows(share_instance_moves, volume_attached=True):
        assert world.run_one("shrink_share") or world._let_time_pass()
    (move,) = world.rows(share_instance_moves)
    with world.store.begin() as tx:
        tx.execute(update(share_instance_moves).values(step="switch"))
    if switched:
        found = find_move(world.store, world.instance(share).id)
        assert found is not None
        with world.cloud.state.transaction() as tx:
            tx.execute(
                "UPDATE volumes SET filesystem_uuid = ?, filesystem_size = 2 WHERE id = ?",
                (found.filesystem_uuid, move.volume_id),
            )
    return old


@pytest.mark.parametrize("switched", [False, True])
def test_the_guest_is_silent_after_it_was_told_to_switch(sqlite_world: World, switched: bool) -> None:
    """Whether it has switched is not known; so neither volume is touched, and the share is found by the next one."""
    share = a_share(sqlite_world)
    old = move_by_hand(sqlite_world, share, switched=switched)
    sqlite_world.cloud.fail("guest.apply", CloudUnavailable, times=10_000, message="No answer.")
    sqlite_world.run(limit=5000)
    assert sqlite_world.share(share).status == "shrinking_error"
    assert len(sqlite_world.cloud.volumes.list_volumes()) == 2
    (move,) = sqlite_world.rows(share_instance_moves)
    assert move.step == "cancel"
    with sqlite_world.cloud.state.transaction() as tx:
        tx.execute("DELETE FROM failures")

    sqlite_world.request_shrink(share, 2)
    sqlite_world.run()
    check_shrunk(sqlite_world, share, 2)
    assert (sqlite_world.instance(share).volume_id == move.volume_id) is switched
    assert sqlite_world.cloud.volumes.find_volume(old) is None


def test_no_snapshot_while_it_is_not_known_which_volume_is_served(sqlite_world: World) -> None:
    """An administrator can call the share available by hand; a snapshot could be of the data of before."""
    share = a_share(sqlite_world)
    move_by_hand(sqlite_world, share, switched=True)
    snapshot = sqlite_world.request_snapshot(share)
    while sqlite_world.run_one("create_snapshot"):
        pass
    assert sqlite_world.snapshot(snapshot).status == "error"
    assert "has not ended moving" in sqlite_world.messages(snapshot)[0].detail
    assert list(sqlite_world.cloud.volumes.list_snapshots()) == []
    sqlite_world.run()
    check_shrunk(sqlite_world, share, 2)


@pytest.mark.parametrize("switched", [False, True])
def test_a_new_vm_serves_the_right_volume(sqlite_world: World, switched: bool) -> None:
    """The VM is lost in the middle; the one that healing makes knows nothing but what is on the volumes."""
    share = a_share(sqlite_world)
    old = move_by_hand(sqlite_world, share, switched=switched)
    new = sqlite_world.rows(share_instance_moves)[0].volume_id
    (server,) = sqlite_world.rows(share_servers)
    (instance,) = sqlite_world.cloud.compute.list_instances()
    for volume in (old, new):
        sqlite_world.cloud.compute.detach_volume(instance.id, volume, timeout=5.0)
    sqlite_world.cloud.compute.delete_instance(instance.id, timeout=5.0)
    sqlite_world.request_server_operation("heal_server", server.id)
    while sqlite_world.run_one("heal_server"):
        pass
    assert served_from(sqlite_world, share) == new  # it had been told to switch, and the copy was ready
    sqlite_world.run()
    check_shrunk(sqlite_world, share, 2)


def test_the_old_volume_is_not_served_while_the_new_one_may_have_been(sqlite_world: World) -> None:
    share = a_share(sqlite_world)
    move_by_hand(sqlite_world, share, switched=True)
    new = sqlite_world.rows(share_instance_moves)[0].volume_id
    (instance,) = sqlite_world.cloud.compute.list_instances()
    sqlite_world.cloud.compute.detach_volume(instance.id, new, timeout=5.0)
    with sqlite_world.cloud.state.transaction() as tx:
        tx.execute("DELETE FROM guest_shares")  # as in a VM that was made anew
    (server,) = sqlite_world.rows(share_servers)
    sqlite_world.request_server_operation("heal_server", server.id)
    sqlite_world.run()
    check_shrunk(sqlite_world, share, 2)
    assert sqlite_world.instance(share).volume_id == new


def test_a_forced_deletion_that_comes_meanwhile(world: World) -> None:
    for runs in range(6):
        share = a_share(world)
        world.request_shrink(share, 2)
        for _ in range(runs):
            world.run_one("shrink_share") or world._let_time_pass()
        world.request_delete(share, force=True)
        world.run()
        assert world.rows(shares) == []
        assert world.usage() == (0, 0)
        assert list(world.cloud.volumes.list_volumes()) == []


def test_deleted_in_the_middle_of_a_move(sqlite_world: World) -> None:
    share = a_share(sqlite_world)
    move_by_hand(sqlite_world, share, switched=False)
    with sqlite_world.store.begin() as tx:
        tx.execute(operations.delete().where(operations.c.kind == "shrink_share"))
    sqlite_world.request_delete(share)
    sqlite_world.run()
    assert sqlite_world.rows(shares) == []
    assert list(sqlite_world.cloud.volumes.list_volumes()) == []


def test_extending_ends_what_is_left_of_a_move(sqlite_world: World) -> None:
    share = a_share(sqlite_world)
    move_by_hand(sqlite_world, share, switched=False)
    with sqlite_world.store.begin() as tx:
        tx.execute(operations.delete().where(operations.c.kind == "shrink_share"))
        tx.execute(update(shares).values(status="available"))
    sqlite_world.request_extend(share, 6)
    sqlite_world.run()
    check_shrunk(sqlite_world, share, 6)
