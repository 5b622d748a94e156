"""Shares that are given away and taken over, told by the real engine on the simulated cloud."""

from __future__ import annotations

from typing import Any

import pytest

from sharewright.errors import CloudError, CloudUnavailable, GuestUnreachable, SharewrightError
from sharewright.identifiers import new_id
from sharewright.operations.messages import Action
from sharewright.store.tables import share_instances, share_servers, shares
from story_world import World


def a_share(world: World, size: int = 2) -> str:
    share = world.request_share(size)
    world.request_rule(share, "10.20.0.99")
    world.run()
    return share


def volume(world: World, volume_id: str) -> Any:
    """The cloud's row, whose ever it is; None: it is gone."""
    with world.cloud.state.transaction(write=False) as tx:
        return tx.execute("SELECT * FROM volumes WHERE id = ?", (volume_id,)).fetchone()


def given_away(world: World, share: str) -> tuple[str, str, str]:
    """The volume's id, the export path, and the server of a share that nobody manages any more."""
    volume_id, (path,), server = (
        str(world.instance(share).volume_id),
        world.locations(share),
        world.share(share).share_server_id,
    )
    world.request_unmanage(share)
    world.run()
    assert world.rows(shares, id=share) == []
    return volume_id, path, server


def is_as_it_was(world: World, volume_id: str, filesystem: str) -> bool:
    row = volume(world, volume_id)
    return (row["deployment"], row["filesystem_uuid"], row["instance_id"]) == ("", filesystem, None)


def test_given_away(world: World) -> None:
    share = a_share(world)
    filesystem = world.instance(share).filesystem_uuid
    volume_id, _, server = given_away(world, share)
    assert is_as_it_was(world, volume_id, filesystem)
    assert list(world.cloud.volumes.list_volumes()) == []  # none of ours
    assert world.usage() == (0, 0)
    (row,) = world.rows(share_servers, id=server)
    assert (row.status, row.is_auto_deletable, row.unused_since is None) == ("active", False, False)
    world.check_consistent()


@pytest.mark.parametrize("by", ["path", "id"])
def test_taken_over_again(world: World, by: str) -> None:
    share = a_share(world)
    filesystem = world.instance(share).filesystem_uuid
    volume_id, path, server = given_away(world, share)
    again = world.request_manage(server, path) if by == "path" else world.request_manage(server, volume_id=volume_id)
    assert world.usage() == (0, 0)
    world.run()
    row, instance = world.share(again), world.instance(again)
    assert (row.status, row.size, row.progress) == ("available", 2, "100%")
    assert (instance.volume_id, instance.filesystem_uuid, instance.size) == (volume_id, filesystem, 2)
    assert (instance.taken_over, instance.filesystem_type) == (True, "ext4")
    assert world.usage() == (1, 2)
    assert len(world.locations(again)) == 1
    assert world.locations(again) != [path]
    world.request_rule(again, "10.20.0.7", "ro")
    world.run()
    assert world.exports(again) == [["10.20.0.7/32", "ro"]]
    world.request_extend(again, 3)
    world.run()
    assert world.share(again).size == 3
    world.check_consistent()
    world.request_delete(again)  # it is ours, so its data go
    world.run()
    assert volume(world, volume_id) is None
    assert world.usage() == (0, 0)


def refused(world: World, managed: str, part: str) -> None:
    """It ended in manage_error, with a message, and is served by nobody."""
    assert world.share(managed).status == "manage_error"
    (message,) = world.messages(managed)
    assert message.action_id == Action.CREATE
    assert part in message.detail
    assert world.exports(managed) is None
    world.check_consistent()


@pytest.mark.parametrize("end", ["unmanage", "delete", "force_delete"])
def test_what_carries_no_file_system(world: World, end: str) -> None:
    """It is never formatted, and the failure is removed without it."""
    server = world.share(a_share(world)).share_server_id
    foreign = world.cloud.volumes.add_foreign_volume("theirs", 5)
    managed = world.request_manage(server, volume_id="theirs")
    world.run()
    refused(world, managed, "no file system")
    assert is_as_it_was(world, foreign, None)  # type: ignore[arg-type]
    if end == "unmanage":
        world.request_unmanage(managed)
    else:
        world.request_delete(managed, force=end == "force_delete")
    world.run()
    assert world.rows(shares, id=managed) == []
    assert is_as_it_was(world, foreign, None)  # type: ignore[arg-type]
    assert world.usage() == (1, 2)


def test_what_does_not_name_a_volume(world: World) -> None:
    server = world.share(a_share(world)).share_server_id
    ours = world.cloud.volumes.list_volumes()[0]
    for path, options, part in (
        ("10.0.0.1:/exports/data", {}, "volume_id"),
        ("10.0.0.1:/shares/share-" + new_id(), {}, "There is no volume"),
        ("10.0.0.1:/x", {"volume_id": "no-such-volume"}, "There is no volume"),
        ("10.0.0.1:/x", {"volume_id": ours.id}, "ours already"),
        ("10.0.0.1:/x", {"volume": "x"}, "no driver option volume"),
    ):
        managed = world.request_manage(server, path, **options)
        world.run()
        refused(world, managed, part)
        world.request_delete(managed)
        world.run()
    assert [each.id for each in world.cloud.volumes.list_volumes()] == [ours.id]


def test_a_copy_of_another_share_s_volume(world: World) -> None:
    """Both would have the same file system's UUID, and a boot might mount the one for the other."""
    share = a_share(world)
    instance = world.instance(share)
    foreign = world.cloud.volumes.add_foreign_volume("copy", 2)
    with world.cloud.state.transaction() as tx:
        tx.execute(
            "UPDATE volumes SET filesystem_uuid = ?, filesystem_type = 'ext4', filesystem_size = 2 WHERE id = ?",
            (instance.filesystem_uuid, foreign),
        )
    managed = world.request_manage(instance.share_server_id, volume_id=foreign)
    world.run()
    refused(world, managed, "copy of it")
    assert is_as_it_was(world, foreign, instance.filesystem_uuid)
    assert world.exports(share) == [["10.20.0.99/32", "rw"]]


def test_a_volume_that_has_a_larger_size_than_its_file_system(world: World) -> None:
    server = world.share(a_share(world)).share_server_id
    foreign, filesystem = world.cloud.volumes.add_foreign_volume("theirs", 7), new_id()
    with world.cloud.state.transaction() as tx:
        tx.execute(
            "UPDATE volumes SET filesystem_uuid = ?, filesystem_type = 'xfs', filesystem_size = 5 WHERE id = ?",
            (filesystem, foreign),
        )
    managed = world.request_manage(server, volume_id="theirs")
    world.run()
    assert (world.share(managed).status, world.share(managed).size) == ("available", 7)
    assert (world.instance(managed).filesystem_type, world.usage()) == ("xfs", (2, 9))
    assert volume(world, foreign)["filesystem_size"] == 7


def test_a_type_that_is_not_for_its_size(world: World) -> None:
    share = a_share(world)
    volume_id, path, server = given_away(world, share)
    world.share_type_id = world.add_share_type("small", provisioning__max_share_size="1")
    managed = world.request_manage(server, path)
    world.run()
    refused(world, managed, "maximum")
    assert volume(world, volume_id)["deployment"] == ""


def test_a_type_that_is_not_for_the_pool(world: World) -> None:
    _, path, server = given_away(world, a_share(world))
    world.share_type_id = world.add_share_type("other", share_backend_name="OTHER")
    managed = world.request_manage(server, path)
    world.run()
    refused(world, managed, "cannot be managed there")


def test_deleted_while_it_is_taken_over(world: World) -> None:
    """Whoever comes first, the data stay: it was somebody else's when its deletion was asked for."""
    volume_id, path, server = given_away(world, a_share(world))
    managed = world.request_manage(server, path)
    world.request_delete(managed, force=True)
    world.run()
    assert world.rows(shares, id=managed) == []
    assert volume(world, volume_id)["deployment"] == ""
    assert world.usage() == (0, 0)


@pytest.mark.parametrize("error", [CloudError, CloudUnavailable])
def test_neither_taken_nor_given_back(world: World, error: type[CloudError]) -> None:
    """It is ours in the cloud, and giving it back fails too; deleting what is left must not delete it."""
    volume_id, path, server = given_away(world, a_share(world))
    world.cloud.fail("guest.mount", SharewrightError, message="Not that one.")
    world.cloud.fail("disown_volume", error, times=50, message="Not now.")
    managed = world.request_manage(server, path)
    world.run()
    assert world.share(managed).status == "manage_error"
    for _ in range(2):
        world.request_delete(managed, force=True)
        world.run()
        assert world.share(managed).status == "error_deleting"
        assert volume(world, volume_id) is not None
    with world.cloud.state.transaction() as tx:
        tx.execute("DELETE FROM failures")
    world.request_delete(managed)
    world.run()
    assert world.rows(shares, id=managed) == []
    assert volume(world, volume_id)["deployment"] == ""


def test_a_server_that_does_not_answer(world: World) -> None:
    """It may have writes that are not on the volume yet, so the volume is not pulled from under it."""
    share = a_share(world)
    (server,) = world.cloud.compute.list_instances()
    world.cloud.fail("guest.apply", GuestUnreachable, times=1000, message="No answer.")
    world.request_unmanage(share)
    world.run(limit=3000)
    assert world.share(share).status == "unmanage_error"
    assert world.cloud.volumes.list_volumes()[0].instance_id == server.id
    with world.cloud.state.transaction() as tx:
        tx.execute("DELETE FROM failures")
    world.request_server_operation("heal_server", world.share(share).share_server_id)
    world.run()
    given_away(world, share)
    assert world.usage() == (0, 0)


def test_what_another_share_has_by_now_is_not_touched(world: World) -> None:
    """Told again after its volume was given away and managed elsewhere, unmanaging and deleting leave it alone."""
    share = a_share(world)
    instance = world.instance(share)
    world.cloud.volumes.add_foreign_volume("unused", 1)
    volume_id, path, server = given_away(world, share)
    again = world.request_manage(server, path)
    world.run()
    stale = world.request_share()
    world.run()
    for end in (world.request_unmanage, world.request_delete):
        with world.store.begin() as tx:
            tx.execute(share_instances.update().where(share_instances.c.share_id == stale).values(volume_id=volume_id))
        own = [each for each in world.cloud.volumes.list_volumes() if each.id != volume_id]
        end(stale)
        world.run()
        assert world.rows(shares, id=stale) == []
        assert world.instance(again).volume_id == volume_id
        assert world.exports(again) is not None
        assert volume(world, volume_id)["instance_id"] is not None
        for each in own:
            world.cloud.compute.detach_volume(str(each.instance_id), each.id, timeout=5)
            world.cloud.volumes.delete_volume(each.id, timeout=5)
        stale = world.request_share()
        world.run()
    assert instance.volume_id == volume_id


def test_failures(world: World) -> None:
    share = a_share(world)
    world.cloud.fail("disown_volume", CloudError, message="Not now.")
    world.request_unmanage(share)
    world.run()
    assert world.share(share).status == "unmanage_error"
    _, path, server = given_away(world, share)
    world.cloud.fail("adopt_volume", CloudUnavailable, moment="after", message="In a moment.")
    again = world.request_manage(server, path)
    world.run()
    assert world.share(again).status == "available"
    world.check_consistent()


def test_a_share_that_has_moved_to_another_volume(world: World) -> None:
    share = a_share(world, 4)
    world.request_shrink(share, 2)
    world.run()
    volume_id, _, server = given_away(world, share)
    again = world.request_manage(server, volume_id=volume_id)
    world.run()
    assert (world.share(again).status, world.share(again).size) == ("available", 2)
    world.check_consistent()
