"""A new share group gets a share server, its shares go there, and what they do not fit goes elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import update

from sharewright.errors import CloudCapacityExceeded, Conflict
from sharewright.identifiers import utcnow
from sharewright.operations.delete_share_server import begin_deletion
from sharewright.services import share_groups as service
from sharewright.services.deployment import Deployment
from sharewright.store.database import Store
from sharewright.store.tables import messages, pools, share_groups, share_servers, workers
from story_world import BACKEND, World, make_world


def server_of(world: World, group: str) -> str | None:
    return world.group(group).share_server_id  # type: ignore[no-any-return]


def delete(world: World, group: str, *, force: bool = False) -> None:
    deployment = Deployment(store=world.store, settings=world.settings)
    service.delete(deployment, world.administrator() if force else world.context(), group, force=force)


def test_a_group_gets_a_server_and_its_shares_are_on_it(world: World) -> None:
    group = world.request_new_group()
    world.run()
    (server,) = world.rows(share_servers)
    assert (world.group(group).status, server_of(world, group)) == ("available", server.id)
    assert (server.status, server.unused_since) == ("active", None)
    assert len(world.cloud.compute.list_instances()) == 1
    shares = [world.request_share(share_group_id=group) for _ in range(2)]
    world.run()
    assert {world.share(share).share_server_id for share in shares} == {server.id}
    world.check_consistent()


def test_it_is_one_that_there_is_already(world: World) -> None:
    share = world.request_share()
    world.run()
    group = world.request_new_group()
    world.run()
    assert server_of(world, group) == world.share(share).share_server_id
    assert len(world.rows(share_servers)) == 1


def test_groups_and_shares_at_the_same_time_get_one_server(world: World) -> None:
    groups = [world.request_new_group() for _ in range(3)]
    share = world.request_share()
    world.run_worker()
    (server,) = world.rows(share_servers)
    assert {server_of(world, group) for group in groups} == {world.share(share).share_server_id} == {server.id}
    assert {world.group(group).status for group in groups} == {"available"}


def test_a_full_server_leaves_the_rest_to_another_one(store: Store, tmp_path: Path) -> None:
    with make_world(store, tmp_path / "state", max_shares_per_share_server=2) as world:
        group = world.request_new_group()
        world.run()
        first = server_of(world, group)
        shares = [world.request_share(share_group_id=group) for _ in range(3)]
        world.run()
        on = [world.share(share).share_server_id for share in shares]
        assert (on.count(first), len(set(on))) == (2, 2)
        assert server_of(world, group) == first
        other = world.request_new_group()
        world.run()
        assert server_of(world, other) in set(on) - {first}, "it has room"


def test_a_server_that_a_group_has_is_not_unused(world: World) -> None:
    group = world.request_new_group()
    world.run()
    share = world.request_share(share_group_id=group)
    world.run()
    world.request_delete(share)
    world.run()
    (server,) = world.rows(share_servers)
    assert server.unused_since is None
    with world.store.begin() as tx, pytest.raises(Conflict, match="has share groups"):
        begin_deletion(tx, server.id)
    delete(world, group)
    (server,) = world.rows(share_servers)
    assert server.unused_since is not None
    with world.store.begin() as tx:
        assert begin_deletion(tx, server.id) == BACKEND


def test_a_group_that_is_gone_before_its_server_is_there(world: World) -> None:
    group = world.request_new_group()
    assert world.run_one("create_share_group")
    delete(world, group, force=True)
    world.run()
    (server,) = world.rows(share_servers)
    assert (server.status, server.unused_since is not None) == ("active", True)


def test_a_server_that_cannot_be_made(world: World) -> None:
    world.cloud.fail("ensure_instance", CloudCapacityExceeded, -1)
    group = world.request_new_group()
    world.run()
    assert (world.group(group).status, server_of(world, group)) == ("error", None)
    assert world.rows(share_servers) == []
    (message,) = world.rows(messages, resource_id=group)
    assert (message.resource_type, message.action_id, message.detail_id) == ("SHARE_GROUP", "002", "004")
    world.cloud.forgive("ensure_instance")
    delete(world, group)


def test_no_backend_takes_it(world: World) -> None:
    group = world.request_new_group(share_type_ids=[world.add_share_type("odd", vendor_name="somebody")])
    world.run()
    assert (world.group(group).status, server_of(world, group)) == ("error", None)
    (message,) = world.rows(messages, resource_id=group)
    assert (message.action_id, message.detail_id) == ("001", "002")
    assert "extra spec vendor_name = somebody" in message.detail


def test_share_types_of_several_pools_of_one_backend(sqlite_store: Store, tmp_path: Path) -> None:
    """A server has shares of all of its backend's pools, and so has a group."""
    with make_world(sqlite_store, tmp_path / "state", volume_types=("fast",)) as world:
        fast, slow = (world.add_share_type(name, sharewright__volume_type=name) for name in ("fast", "slow"))
        group = world.request_new_group(share_type_ids=[world.share_type_id, fast])
        world.run()
        assert world.group(group).status == "available"
        types = (world.share_type_id, fast)
        members = [world.request_share(share_group_id=group, share_type_id=each) for each in types]
        world.run()
        assert {world.share(share).share_server_id for share in members} == {server_of(world, group)}
        assert len({world.share(share).host for share in members}) == 2
        for impossible in ([slow], [world.share_type_id, slow]):
            group = world.request_new_group(share_type_ids=impossible)
            world.run()
            assert world.group(group).status == "error"
            (message,) = world.rows(messages, resource_id=group)
            assert "sharewright:volume_type = slow" in message.detail
        world.check_consistent()


def test_a_group_without_a_server_gets_that_of_its_next_share(world: World) -> None:
    """As one that was made by a version that gave groups none, or whose server was lost and deleted."""
    group, (share,) = world.request_group(1)
    world.run()
    assert server_of(world, group) == world.share(share).share_server_id is not None


def test_a_lost_server_is_another_one_s_place(world: World) -> None:
    group = world.request_new_group()
    world.run()
    with world.store.begin() as tx:
        tx.execute(update(share_servers).values(status="error"))
    share = world.request_share(share_group_id=group)
    world.run()
    assert world.share(share).status == "available"
    assert world.share(share).share_server_id != server_of(world, group) is not None


def test_a_group_from_a_snapshot_has_the_server_of_the_snapshot_s(world: World) -> None:
    group = world.request_new_group()
    world.run()
    share = world.request_share(share_group_id=group)
    world.run()
    snapshot = world.request_group_snapshot(group)
    world.run()
    copy = world.request_group_from(snapshot)
    world.run()
    assert server_of(world, copy) == server_of(world, group) == world.share(share).share_server_id
    assert world.rows(share_groups, status="available", share_server_id=server_of(world, group))


def test_a_pool_whose_service_is_disabled_takes_nothing_of_a_group(sqlite_store: Store, tmp_path: Path) -> None:
    with make_world(sqlite_store, tmp_path / "state", volume_types=("fast",)) as world:
        fast = world.add_share_type("fast", sharewright__volume_type="fast")
        world.request_new_group()
        world.run()
        (pool,) = [row for row in world.rows(pools) if row.host.endswith("#fast")]
        moment = utcnow()
        with world.store.begin() as tx:
            tx.execute(
                workers.insert().values(
                    id="w", number=1, binary="manila-share", host=pool.host, availability_zone="nova", disabled=True,
                    disabled_reason="maintenance", heartbeat_at=moment, started_at=moment,
                )
            )  # fmt: skip
        group = world.request_new_group(share_type_ids=[world.share_type_id, fast])
        world.run()
        assert world.group(group).status == "error"
