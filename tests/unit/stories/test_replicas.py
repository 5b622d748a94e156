"""The stories of replicas, told by the real engine on the simulated cloud."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

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
    replica_usage,
    take,
)
from sharewright.errors import CloudError, GuestUnreachable, InvalidInput
from sharewright.services import export_locations, share_replicas
from sharewright.store.database import Store
from sharewright.store.tables import share_instances, shares
from story_world import World, make_world


@pytest.fixture
def replicating(store: Store, tmp_path: Path) -> Iterator[World]:
    with make_world(store, tmp_path / "state", replicas=True) as world:
        yield world


def test_a_replica_is_an_instance_elsewhere(replicating: World) -> None:
    share = a_share(replicating, size=2)
    replica = add(replicating, share)
    replicating.run()
    row, main = other_of(replicating, share), main_of(replicating, share)
    assert (row.id, row.status, row.replica_state) == (replica, "available", "in_sync")
    assert row.backend != main.backend
    assert row.share_server_id != main.share_server_id
    assert replica_usage(replicating) == (1, 2)  # the world's shares do not count themselves
    replicating.check_consistent()


def test_promoting_exchanges_the_two(replicating: World) -> None:
    share = a_replicated_share(replicating)
    before, replica = main_of(replicating, share), other_of(replicating, share)
    writing, reading = [["10.20.0.99/32", "rw"]], [["10.20.0.99/32", "ro"]]
    assert replicating.instance_exports(before.id) == writing
    assert replicating.instance_exports(replica.id) == reading  # "readable": what was written there would be lost
    promote(replicating, replica.id)
    replicating.run()
    assert main_of(replicating, share).id == replica.id
    former = other_of(replicating, share)
    assert (former.id, former.status, former.replica_state) == (before.id, "available", "in_sync")
    assert replicating.instance_exports(replica.id) == writing
    assert replicating.instance_exports(before.id) == reading


def test_a_failed_creation_leaves_nothing_but_its_message(replicating: World) -> None:
    share = a_share(replicating)
    replicating.cloud.fail("ensure_volume", CloudError, times=-1)
    replica = add(replicating, share)
    replicating.run()
    row = other_of(replicating, share)
    assert (row.status, row.replica_state, row.volume_id) == ("error", "error", None)
    assert main_of(replicating, share).status == "available"
    assert len(replicating.messages(replica)) == 1
    replicating.cloud.forgive()
    delete(replicating, replica)
    replicating.run()
    assert len(replicating.rows(share_instances)) == 1
    assert replica_usage(replicating) == (0, 0)


def test_a_second_replica_has_no_place(replicating: World) -> None:
    share = a_replicated_share(replicating)
    replica = add(replicating, share)
    replicating.run()
    (row,) = replicating.rows(share_instances, id=replica)
    assert (row.status, row.backend) == ("error", None)
    (message,) = replicating.messages(replica)
    assert "a replica of the share is in this pool already" in str(message)


def test_extending_a_share_extends_its_replicas(replicating: World) -> None:
    share = a_replicated_share(replicating)
    replicating.request_extend(share, 3)
    replicating.run()
    assert [row.size for row in replicating.rows(share_instances)] == [3, 3]
    assert [volume.size for volume in replicating.cloud.volumes.list_volumes()] == [3, 3]
    (row,) = replicating.rows(shares)
    assert (row.status, row.size) == ("available", 3)


def test_a_replica_that_cannot_be_reached_keeps_nobody_from_the_share(replicating: World) -> None:
    share = a_replicated_share(replicating)
    server = other_of(replicating, share).share_server_id
    driver = replicating.assembly.drivers[other_of(replicating, share).backend]
    reached = driver.update_access

    def unreachable(share_instance_id: str, server_id: str, progress: object) -> object:
        assert server_id == server
        raise GuestUnreachable("gone")

    driver.update_access = unreachable  # type: ignore[method-assign, assignment]
    replicating.request_rule(share, "10.20.0.7")
    replicating.run()
    assert replicating.rules(share)["10.20.0.7"] == "active"
    assert other_of(replicating, share).replica_state == "error"
    driver.update_access = reached  # type: ignore[method-assign]


def test_deleting_from_every_state(replicating: World) -> None:
    share = a_replicated_share(replicating)
    replica = other_of(replicating, share).id
    delete(replicating, replica)
    replicating.run()
    assert len(replicating.rows(share_instances)) == 1
    replicating.check_consistent()


def test_a_replica_of_a_share_from_a_snapshot_needs_the_snapshot_no_more(replicating: World) -> None:
    snapshot = replicating.request_snapshot(a_share(replicating))
    replicating.run()
    clone = replicating.request_clone(snapshot, replication_type="readable")
    replicating.run()
    replicating.request_snapshot_delete(snapshot)
    replicating.run()
    add(replicating, clone)
    replicating.run()
    replica = other_of(replicating, clone)
    assert (replica.status, replica.clone_of) == ("available", None)
    promote(replicating, replica.id)
    replicating.run()
    assert main_of(replicating, clone).id == replica.id
    replicating.check_consistent()


def test_on_machines_of_an_operators(store: Store, tmp_path: Path) -> None:
    """driver_handles_share_servers = false: no user sees the machines as share servers, also after a promotion."""
    with make_world(store, tmp_path / "state", replicas=True, named=True) as world:
        share = a_replicated_share(world)
        replica = other_of(world, share)
        (before,) = [row for row in world.rows(share_instances) if row.is_main]
        assert (replica.status, replica.replica_state) == ("available", "in_sync")
        assert replica.share_server_id not in (None, before.share_server_id)
        promote(world, replica.id)
        world.run()
        assert [row.id for row in world.rows(share_instances) if row.is_main] == [replica.id]
        row = world.share(share)
        assert (row.status, row.host, row.share_server_id) == ("available", replica.host, None)
        shown = share_replicas.show(deployment(world), world.context(), replica.id)
        assert shown["share_server_id"] is None
        delete(world, before.id)
        world.run()
        assert len(world.rows(share_instances)) == 1
        world.check_consistent()


def test_clients_write_to_every_replica(store: Store, tmp_path: Path) -> None:
    """Replication type "writable": all are active, and any may be deleted but the last."""
    driver = "sharewright.drivers.simulated.replicating:WRITABLE_EVERYWHERE"
    with make_world(store, tmp_path / "state", replicas=True, driver=driver) as world:
        share = a_share(world, kind="writable")
        with pytest.raises(InvalidInput, match="last active"):
            delete(world, main_of(world, share).id)
        add(world, share)
        world.run()
        first, second = main_of(world, share), other_of(world, share)
        assert (second.status, second.replica_state) == ("available", "active")
        for each in (first, second):
            assert world.instance_exports(each.id) == [["10.20.0.99/32", "rw"]]
        found = export_locations.of_share(deployment(world), world.context(), share)
        assert {row["share_instance_id"] for row in found} == {first.id, second.id}
        promote(world, second.id)  # nothing is to be done
        assert main_of(world, share).id == first.id
        snapshot = take(world, share)
        world.run()
        delete(world, first.id)
        assert main_of(world, share).id == second.id
        world.run()
        assert [row.id for row in world.rows(share_instances)] == [second.id]
        assert world.share(share).status == world.snapshot(snapshot).status == "available"
        assert world.instance_exports(second.id) == [["10.20.0.99/32", "rw"]]
        with pytest.raises(InvalidInput, match="last active"):
            delete(world, second.id)
        world.check_consistent()


def test_of_other_types_the_active_one_stays(replicating: World) -> None:
    share = a_replicated_share(replicating)
    with pytest.raises(InvalidInput, match="last active"):
        delete(replicating, main_of(replicating, share).id)
