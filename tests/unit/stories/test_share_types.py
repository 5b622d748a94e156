"""Shares of types that choose their server's flavor, and servers that fill up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from sharewright.operations.assembly import assemble
from sharewright.settings import ServerFlavor
from sharewright.store.database import Store
from sharewright.store.tables import share_instances, share_servers
from story_world import BACKEND, World, make_settings, make_world

FLAVORS = {"large": ServerFlavor(vcpus=4, memory_mib=4096), "other": ServerFlavor()}


@pytest.fixture
def world(sqlite_store: Store, tmp_path: Path) -> Iterator[World]:
    with make_world(sqlite_store, tmp_path / "state", flavors=FLAVORS) as world:
        yield world


def servers_by_flavor(world: World) -> dict[str | None, str]:
    found = {row.flavor: row.id for row in world.rows(share_servers)}
    assert len(found) == len(world.rows(share_servers))
    return found


def vm_sizes(world: World) -> dict[str, int]:
    """Share server → memory of its VM in MiB."""
    compute = world.cloud.compute
    return {
        instance.tags["sharewright_owner"].removeprefix("share_server:"): compute.flavor_of(instance.id).memory_mib
        for instance in compute.list_instances()
    }


def test_each_flavor_has_servers_of_its_own(world: World) -> None:
    large = world.add_share_type("large", sharewright__server_flavor="large")
    plain = [world.request_share() for _ in range(2)]
    big = [world.request_share(share_type_id=large) for _ in range(2)]
    world.run()
    servers = servers_by_flavor(world)
    assert servers.keys() == {None, "large"}
    assert {world.share(share).share_server_id for share in plain} == {servers[None]}
    assert {world.share(share).share_server_id for share in big} == {servers["large"]}
    assert vm_sizes(world) == {servers[None]: 512, servers["large"]: 4096}
    world.check_consistent()


def test_a_vm_that_is_made_again_has_its_flavor(world: World) -> None:
    large = world.add_share_type("large", sharewright__server_flavor="large")
    share = world.request_share(share_type_id=large)
    world.run()
    server = world.share(share).share_server_id
    (instance,) = world.cloud.compute.list_instances()
    world.cloud.compute.delete_instance(instance.id, timeout=1.0)
    world.request_server_operation("heal_server", server)
    world.run()
    assert vm_sizes(world) == {server: 4096}


def test_a_flavor_that_nobody_offers(world: World) -> None:
    huge = world.add_share_type("huge", sharewright__server_flavor="huge")
    share = world.request_share(share_type_id=huge)
    world.run()
    assert world.share(share).status == "error"
    (message,) = world.messages(share)
    assert f"{BACKEND}: extra spec sharewright:server_flavor = huge: the backend offers large, other" in message.detail
    world.check_empty()


def test_a_flavor_that_was_taken_from_the_configuration(world: World, sqlite_store: Store, tmp_path: Path) -> None:
    """The share was placed before; its server is not made, and the reason says what is missing."""
    large = world.add_share_type("large", sharewright__server_flavor="large")
    share = world.request_share(share_type_id=large)
    assert world.run_one("create_share")
    world.assembly.close()
    world.assembly = assemble(make_settings(tmp_path / "state"), sqlite_store)
    world.run()
    assert world.share(share).status == "error"
    (message,) = world.messages(share)
    assert "has no flavor large" in message.detail
    assert world.rows(share_servers) == []
    world.check_empty()


def test_a_volume_type_is_a_pool(sqlite_store: Store, tmp_path: Path) -> None:
    with make_world(sqlite_store, tmp_path / "state", volume_types=("fast",)) as world:
        types = {name: world.add_share_type(name, sharewright__volume_type=name) for name in ("fast", "slow")}
        plain, fast, slow = (
            world.request_share(share_type_id=share_type)
            for share_type in (world.share_type_id, types["fast"], types["slow"])
        )
        world.run()
        assert world.share(plain).host == f"sharewright@{BACKEND}#{BACKEND}"
        assert world.share(fast).host == f"sharewright@{BACKEND}#fast"
        assert world.share(plain).share_server_id == world.share(fast).share_server_id
        assert world.cloud.volumes.capacity("fast").provisioned == 1
        assert world.share(slow).status == "error"
        (message,) = world.messages(slow)
        for failure in (f"{BACKEND}: ", f"{BACKEND}#fast: "):
            assert f"{failure}extra spec sharewright:volume_type = slow: the backend offers" in message.detail
        world.request_extend(fast, 2)
        world.run()
        assert world.cloud.volumes.capacity("fast").provisioned == 2
        assert world.cloud.volumes.capacity().provisioned == 1


def test_shares_at_once_never_share_the_last_place(store: Store, tmp_path: Path) -> None:
    with make_world(store, tmp_path / "state", max_shares_per_share_server=3, max_share_server_size=8) as world:
        world.cloud.set_delay("ensure_instance", 0.1)
        made = [world.request_share(size=size) for size in (1, 1, 1, 1, 1, 1, 5, 5, 5)]
        world.run_worker()
        assert {world.share(share).status for share in made} == {"available"}
        places: Counter[str] = Counter()
        sizes: Counter[str] = Counter()
        for row in world.rows(share_instances):
            places[row.share_server_id] += 1
            sizes[row.share_server_id] += row.size
        assert max(places.values()) <= 3
        assert max(sizes.values()) <= 8
        world.check_consistent()
