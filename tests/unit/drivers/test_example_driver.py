"""The example of a driver on the simulated cloud: stories through the engine, failures in every call."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rsync_driver
from sharewright.errors import CloudError, CloudUnavailable
from sharewright.progress import NoProgress
from sharewright.store.database import Store
from sharewright.store.tables import share_access_rules
from story_world import BACKEND, World, make_world


@pytest.fixture
def world(sqlite_store: Store, tmp_path: Path) -> Iterator[World]:
    with make_world(sqlite_store, tmp_path / "state", driver="rsync_driver:RSYNC", guest_seconds=1.0) as world:
        yield world


def modules(world: World) -> dict[str, list[str]]:
    """What the one server serves: share instance → addresses."""
    (server,) = world.cloud.compute.list_instances()
    return {module["share"]: module["hosts"] for module in world.guests.extension(server.id)["modules"]}


def check_used_up(world: World) -> None:
    """What was to fail has failed."""
    with world.cloud.state.transaction(write=False) as tx:
        assert tx.execute("SELECT count(*) FROM failures").fetchone()[0] == 0


def make_share(world: World, **values: Any) -> str:
    share = world.request_share(protocol="RSYNC", **values)
    world.run()
    return share


def test_the_whole_life_of_a_share(world: World) -> None:
    share = make_share(world)
    assert world.share(share).status == "available"
    (location,) = world.locations(share)
    assert location.startswith("rsync://10.20.0.")
    assert location.endswith(f"/share-{world.instance(share).id}")
    world.request_rule(share, "10.20.0.9")
    world.run()
    assert modules(world) == {world.instance(share).id: ["10.20.0.9"]}
    other = make_share(world)
    assert world.share(other).share_server_id == world.share(share).share_server_id
    world.check_consistent()
    instance = world.instance(share).id
    world.request_delete(share)
    world.run()
    assert instance not in modules(world)
    world.request_delete(other)
    world.run()
    assert list(world.cloud.volumes.list_volumes()) == []


def test_ports_are_the_drivers(world: World) -> None:
    make_share(world)
    with world.cloud.state.transaction(write=False) as tx:
        allowed = {row["allowed_tcp"] for row in tx.execute("SELECT allowed_tcp FROM ports")}
    assert allowed == {"[22]", "[873]"}


def test_another_protocol_finds_no_backend(world: World) -> None:
    share = world.request_share(protocol="NFS")
    world.run()
    assert world.share(share).status == "error"
    assert "RSYNC" in str(world.messages(share)[0])


def test_a_read_only_rule_errors_alone_and_can_be_denied(world: World) -> None:
    share = make_share(world)
    read_only = world.request_rule(share, "10.20.0.8", "ro")
    world.request_rule(share, "10.20.0.9")
    world.run()
    assert world.rules(share) == {"10.20.0.8": "error", "10.20.0.9": "active"}
    assert modules(world)[world.instance(share).id] == ["10.20.0.9"]
    world.request_deny(share, read_only)
    world.run()
    assert [row.access_to for row in world.rows(share_access_rules)] == ["10.20.0.9"]


CALLS = (
    "ensure_volume", "ensure_port", "ensure_instance", "attach_volume",
    "guest.apply",
)  # fmt: skip


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_fails_for_a_moment(world: World, call: str, moment: Any) -> None:
    world.cloud.fail(call, CloudUnavailable, moment=moment)
    share = make_share(world)
    assert world.share(share).status == "available"
    check_used_up(world)
    world.check_consistent()


@pytest.mark.parametrize("call", ["detach_volume", "delete_volume", "guest.apply"])
def test_a_deletion_that_fails_for_a_moment(world: World, call: str) -> None:
    share = make_share(world)
    world.cloud.fail(call, CloudUnavailable, moment="after")
    world.request_delete(share)
    world.run()
    check_used_up(world)
    assert list(world.cloud.volumes.list_volumes()) == []
    world.check_consistent()


@pytest.mark.parametrize("call", ["attach_volume", "ensure_volume"])
def test_a_share_that_cannot_be_made_leaves_nothing(world: World, call: str) -> None:
    world.cloud.fail(call, CloudError, -1)
    share = make_share(world)
    assert world.share(share).status == "error"
    assert list(world.cloud.volumes.list_volumes()) == []


def test_a_vm_that_is_gone_is_made_again_and_serves(world: World) -> None:
    share = make_share(world)
    world.request_rule(share, "10.20.0.9")
    world.run()
    locations = world.locations(share)
    (server,) = world.cloud.compute.list_instances()
    world.cloud.compute.delete_instance(server.id, timeout=1)
    driver = world.assembly.drivers[BACKEND]
    assert driver.heal_server(str(world.share(share).share_server_id), NoProgress())
    assert modules(world) == {world.instance(share).id: ["10.20.0.9"]}
    assert world.locations(share) == locations
    world.check_consistent()


def test_a_deletion_does_not_need_the_guest(world: World) -> None:
    share = make_share(world)
    (server,) = world.cloud.compute.list_instances()
    world.cloud.compute.delete_instance(server.id, timeout=1)
    world.request_delete(share)
    world.run()
    assert list(world.cloud.volumes.list_volumes()) == []


def test_the_example_uses_nothing_of_the_generic_driver() -> None:
    for path in Path(rsync_driver.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not any("drivers.generic" in name for name in names), path
