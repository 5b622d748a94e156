"""One failure at each cloud or guest call of each story, before or after the call's effect.

Whatever call fails, and however: the story ends in a documented state, the cloud holds what the rows say and nothing
else, the quota is right, and deleting everything leaves an empty cloud.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from sharewright.clouds.simulated.state import SimulatedState
from sharewright.errors import CloudError, CloudUnavailable, SharewrightError
from sharewright.store.database import Store
from sharewright.store.tables import (
    metadata,
    retired_volumes,
    share_access_rules,
    share_servers,
    share_snapshot_access_rules,
    share_snapshot_mounts,
    share_snapshots,
    shares,
)
from story_world import World, make_world

Moment = Literal["before", "after"]


class Saboteur:
    """Counts the calls that reach a simulated cloud and its guests, and fails the chosen one."""

    def __init__(self, target: int = -1, error: type[SharewrightError] = CloudError, moment: Moment = "before") -> None:
        self.calls: list[str] = []
        self._target = target
        self._error = error
        self._moment = moment

    @contextmanager
    def on(self, state: SimulatedState) -> Iterator[None]:
        real = state.call

        @contextmanager
        def call(method: str, *, timeout: float | None = None, cloud: bool = True) -> Iterator[None]:
            chosen = len(self.calls) == self._target
            self.calls.append(method)
            if chosen and self._moment == "before":
                raise self._error(f"Sabotage before {method}.")
            with real(method, timeout=timeout, cloud=cloud):
                yield
            if chosen:
                raise self._error(f"Sabotage after {method}.")

        state.call = call  # type: ignore[method-assign]
        try:
            yield
        finally:
            del state.call  # type: ignore[method-assign]


class Laboratory:
    """Runs one story again and again, each time in a fresh world with another call failing."""

    def __init__(self, store: Store, directory: Path) -> None:
        self._store = store
        self._directory = directory
        self._number = 0

    @contextmanager
    def world(self) -> Iterator[World]:
        """An empty store (the same object: statements stay compiled) and a new cloud."""
        self._number += 1
        with self._store.begin() as tx:
            for table in reversed(metadata.sorted_tables):
                tx.execute(table.delete())
        with make_world(self._store, self._directory / str(self._number)) as world:
            yield world

    def run(
        self,
        prepare: Callable[[World], str],
        act: Callable[[World, str], None],
        error: type[SharewrightError],
        moment: Moment,
        examine: Callable[[World, str], None],
    ) -> int:
        """Fail each call in turn; return how many there were."""
        with self.world() as world:
            share, census = prepare(world), Saboteur()
            with census.on(world.cloud.state):
                act(world, share)
                world.run()
        for target, method in enumerate(census.calls):
            with self.world() as world:
                share, saboteur = prepare(world), Saboteur(target, error, moment)
                with saboteur.on(world.cloud.state):
                    act(world, share)
                    world.run()
                assert len(saboteur.calls) > target
                try:
                    examine(world, share)
                    world.check_consistent()
                    delete_everything(world)
                except AssertionError as failure:
                    failure.add_note(f"call {target} ({method}) failed {moment} its effect with {error.__name__}")
                    raise
        return len(census.calls)


@pytest.fixture(scope="module")
def laboratory(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    """In memory where that is possible: a hundred worlds need no disk."""
    memory = Path("/dev/shm")
    place = memory if memory.is_dir() else tmp_path_factory.mktemp("stories")
    with tempfile.TemporaryDirectory(prefix="stories-", dir=place) as directory:
        shutil.copyfile(sqlite_template, Path(directory) / "store.db")
        store = Store(f"sqlite:///{directory}/store.db")
        yield Laboratory(store, Path(directory))
        store.close()


def delete_everything(world: World) -> None:
    """What users and maintenance do; ends with an empty cloud and no quota in use."""
    for row in world.rows(share_snapshots):
        world.request_snapshot_delete(row.id)
    world.run()
    assert world.rows(share_snapshots) == []
    assert world.snapshot_usage() == (0, 0)
    for row in world.rows(shares):
        world.request_delete(row.id)
    world.run()
    assert world.rows(shares) == []
    assert world.usage() == (0, 0)
    for server in world.rows(share_servers):
        world.request_server_operation("delete_share_server", server.id)
    world.run()
    assert world.rows(share_servers) == []
    world.check_empty()
    assert world.cloud.state.violations() == []


# ---- create ----


def nothing(world: World) -> str:
    """A fresh world: the share's server has to be made as well."""
    return ""


def act_create(world: World, _: str) -> None:
    world.request_share()


def examine_final_failure(world: World, _: str) -> None:
    """Made, or failed with everything removed and the reason told."""
    (share,) = world.rows(shares)
    if share.status == "available":
        assert world.exports(share.id) == []
        assert world.messages(share.id) == []
        return
    assert share.status == "error"
    (message,) = world.messages(share.id)
    assert "Sabotage" in message.detail
    assert list(world.cloud.volumes.list_volumes()) == []
    assert world.rows(share_servers, status="creating") == []


def examine_available(world: World, _: str) -> None:
    (share,) = world.rows(shares)
    assert share.status == "available"
    assert world.exports(share.id) == []
    assert len(world.cloud.volumes.list_volumes()) == 1
    assert len(world.cloud.compute.list_instances()) == 1


@pytest.mark.parametrize("moment", ["before", "after"])
def test_create_with_a_call_that_fails(laboratory: Laboratory, moment: Moment) -> None:
    assert laboratory.run(nothing, act_create, CloudError, moment, examine_final_failure) >= 11


@pytest.mark.parametrize("moment", ["before", "after"])
def test_create_with_a_call_that_fails_for_a_moment(laboratory: Laboratory, moment: Moment) -> None:
    assert laboratory.run(nothing, act_create, CloudUnavailable, moment, examine_available) >= 11


# ---- rules ----


def a_share(world: World) -> str:
    share = world.request_share()
    world.request_rule(share, "10.20.0.99", "ro")
    world.run()
    return share


def act_rules(world: World, share: str) -> None:
    (old,) = world.rows(share_access_rules, share_id=share)
    world.request_deny(share, old.id)
    world.request_rule(share, "10.20.0.1")


def examine_rules(world: World, share: str) -> None:
    states = world.rules(share)
    if states == {"10.20.0.1": "active"}:
        assert world.exports(share) == [["10.20.0.1/32", "rw"]]
    else:
        assert set(states.values()) == {"error"}
        assert "Sabotage" in world.messages(share)[0].detail
    assert world.share(share).status == "available"


def examine_rules_in_force(world: World, share: str) -> None:
    assert world.rules(share) == {"10.20.0.1": "active"}
    assert world.exports(share) == [["10.20.0.1/32", "rw"]]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_rules_with_a_call_that_fails(laboratory: Laboratory, moment: Moment) -> None:
    assert laboratory.run(a_share, act_rules, CloudError, moment, examine_rules) >= 1


@pytest.mark.parametrize("moment", ["before", "after"])
def test_rules_with_a_call_that_fails_for_a_moment(laboratory: Laboratory, moment: Moment) -> None:
    assert laboratory.run(a_share, act_rules, CloudUnavailable, moment, examine_rules_in_force) >= 1


# ---- extend ----


def act_extend(world: World, share: str) -> None:
    world.request_extend(share, 3)


def examine_extended_or_error(world: World, share: str) -> None:
    row = world.share(share)
    if row.status == "available":
        assert (row.size, world.messages(share)) == (3, [])
    else:
        assert (row.status, row.size) == ("extending_error", 1)
        assert "Sabotage" in world.messages(share)[0].detail
        world.request_extend(share, 2)  # whatever the first one left behind
        world.run()
        assert (world.share(share).status, world.share(share).size) == ("available", 2)
    assert world.exports(share) is not None


def examine_extended(world: World, share: str) -> None:
    assert (world.share(share).status, world.share(share).size) == ("available", 3)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_extend_with_a_call_that_fails(laboratory: Laboratory, moment: Moment) -> None:
    assert laboratory.run(a_share, act_extend, CloudError, moment, examine_extended_or_error) >= 3


@pytest.mark.parametrize("moment", ["before", "after"])
def test_extend_with_a_call_that_fails_for_a_moment(laboratory: Laboratory, moment: Moment) -> None:
    assert laboratory.run(a_share, act_extend, CloudUnavailable, moment, examine_extended) >= 3


# ---- snapshots ----


def act_snapshot(world: World, share: str) -> None:
    world.request_snapshot(share)


def examine_snapshot_or_error(world: World, share: str) -> None:
    """Taken of a share that stood still (check_consistent looks), or failed with everything removed."""
    (snapshot,) = world.rows(share_snapshots)
    if snapshot.status == "error":
        assert "Sabotage" in world.messages(snapshot.id)[0].detail
        assert list(world.cloud.volumes.list_snapshots()) == []
    else:
        assert snapshot.status == "available"
        assert world.messages(snapshot.id) == []
    assert world.share(share).status == "available"


def examine_snapshot(world: World, share: str) -> None:
    (snapshot,) = world.rows(share_snapshots)
    assert snapshot.status == "available"


@pytest.mark.parametrize("moment", ["before", "after"])
def test_snapshot_with_a_call_that_fails(laboratory: Laboratory, moment: Moment) -> None:
    assert laboratory.run(a_share, act_snapshot, CloudError, moment, examine_snapshot_or_error) >= 4


@pytest.mark.parametrize("moment", ["before", "after"])
def test_snapshot_with_a_call_that_fails_for_a_moment(laboratory: Laboratory, moment: Moment) -> None:
    assert laboratory.run(a_share, act_snapshot, CloudUnavailable, moment, examine_snapshot) >= 4


def a_share_with_a_snapshot(world: World) -> str:
    share = a_share(world)
    world.request_snapshot(share)
    world.run()
    return share


def act_delete_snapshot(world: World, share: str) -> None:
    (snapshot,) = world.rows(share_snapshots)
    world.request_snapshot_delete(snapshot.id)


def examine_snapshot_deleted_or_error(world: World, share: str) -> None:
    for snapshot in world.rows(share_snapshots):
        assert snapshot.status == "error_deleting"
        assert "Sabotage" in world.messages(snapshot.id)[0].detail


def examine_snapshot_deleted(world: World, share: str) -> None:
    assert world.rows(share_snapshots) == []
    assert list(world.cloud.volumes.list_snapshots()) == []


@pytest.mark.parametrize("moment", ["before", "after"])
def test_delete_snapshot_with_a_call_that_fails(laboratory: Laboratory, moment: Moment) -> None:
    run = laboratory.run
    assert run(a_share_with_a_snapshot, act_delete_snapshot, CloudError, moment, examine_snapshot_deleted_or_error) >= 1


@pytest.mark.parametrize("moment", ["before", "after"])
def test_delete_snapshot_with_a_call_that_fails_for_a_moment(laboratory: Laboratory, moment: Moment) -> None:
    run = laboratory.run
    assert run(a_share_with_a_snapshot, act_delete_snapshot, CloudUnavailable, moment, examine_snapshot_deleted) >= 1


# ---- shares from snapshots ----


def act_clone(world: World, share: str) -> None:
    (snapshot,) = world.rows(share_snapshots)
    world.request_clone(snapshot.id, 2)


def clone_of(world: World, parent: str) -> Any:
    (clone,) = [row for row in world.rows(shares) if row.id != parent]
    return clone


def examine_clone_or_error(world: World, parent: str) -> None:
    clone = clone_of(world, parent)
    if clone.status == "available":
        examine_clone(world, parent)
    else:
        assert clone.status == "error"
        assert "Sabotage" in world.messages(clone.id)[0].detail
        assert len(world.cloud.volumes.list_volumes()) == 1
    assert world.share(parent).status == "available"
    assert world.exports(parent) == [["10.20.0.99/32", "ro"]]


def examine_clone(world: World, parent: str) -> None:
    clone = clone_of(world, parent)
    assert (clone.status, clone.size, world.messages(clone.id)) == ("available", 2, [])
    assert world.instance(clone.id).clone_of == world.instance(parent).filesystem_uuid
    assert world.exports(clone.id) == []


@pytest.mark.parametrize("moment", ["before", "after"])
def test_clone_with_a_call_that_fails(laboratory: Laboratory, moment: Moment) -> None:
    assert laboratory.run(a_share_with_a_snapshot, act_clone, CloudError, moment, examine_clone_or_error) >= 4


@pytest.mark.parametrize("moment", ["before", "after"])
def test_clone_with_a_call_that_fails_for_a_moment(laboratory: Laboratory, moment: Moment) -> None:
    assert laboratory.run(a_share_with_a_snapshot, act_clone, CloudUnavailable, moment, examine_clone) >= 4


# ---- snapshots that clients mount ----


def a_mountable_snapshot(world: World) -> str:
    share = world.request_share(mount_snapshot_support=True)
    world.request_rule(share, "10.20.0.99", "ro")
    world.run()
    world.request_snapshot(share)
    world.run()
    (snapshot,) = world.rows(share_snapshots)
    return str(snapshot.id)


def a_mounted_snapshot(world: World) -> str:
    snapshot = a_mountable_snapshot(world)
    act_mount(world, snapshot)
    world.run()
    return snapshot


def act_mount(world: World, snapshot: str) -> None:
    world.request_snapshot_rule(snapshot, "10.20.0.7")


def act_deny(world: World, snapshot: str) -> None:
    (rule,) = world.rows(share_snapshot_access_rules)
    world.request_snapshot_deny(rule.id)


def examine_mounted(world: World, snapshot: str) -> None:
    assert world.snapshot_rules(snapshot) == {"10.20.0.7": "active"}
    assert world.snapshot_exports(snapshot) == [["10.20.0.7/32", "ro"]]
    assert world.messages(snapshot) == []


def examine_mounted_or_error(world: World, snapshot: str) -> None:
    """In error nothing is left of it; and whatever was, the next rule mounts it."""
    if world.snapshot_rules(snapshot) == {"10.20.0.7": "error"}:
        assert "Sabotage" in world.messages(snapshot)[0].detail
        assert world.rows(share_snapshot_mounts) == []
        assert world.snapshot_exports(snapshot) is None
        world.request_snapshot_rule(snapshot, "10.20.0.8")
        world.run()
        assert world.snapshot_exports(snapshot) == [["10.20.0.8/32", "ro"]]
    else:
        examine_mounted(world, snapshot)
    assert world.snapshot(snapshot).status == "available"


def examine_denied(world: World, snapshot: str) -> None:
    assert world.snapshot_rules(snapshot) == {}
    assert world.snapshot_exports(snapshot) is None
    assert world.rows(share_snapshot_mounts) == []


def examine_denied_or_error(world: World, snapshot: str) -> None:
    if world.snapshot_rules(snapshot):
        assert world.snapshot_rules(snapshot) == {"10.20.0.7": "error"}
        assert "Sabotage" in world.messages(snapshot)[0].detail
        assert world.snapshot_exports(snapshot) is None
        act_deny(world, snapshot)
        world.run()
    examine_denied(world, snapshot)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_mount_with_a_call_that_fails(laboratory: Laboratory, moment: Moment) -> None:
    assert laboratory.run(a_mountable_snapshot, act_mount, CloudError, moment, examine_mounted_or_error) >= 4


@pytest.mark.parametrize("moment", ["before", "after"])
def test_mount_with_a_call_that_fails_for_a_moment(laboratory: Laboratory, moment: Moment) -> None:
    assert laboratory.run(a_mountable_snapshot, act_mount, CloudUnavailable, moment, examine_mounted) >= 4


@pytest.mark.parametrize("moment", ["before", "after"])
def test_the_end_of_a_mount_with_a_call_that_fails(laboratory: Laboratory, moment: Moment) -> None:
    assert laboratory.run(a_mounted_snapshot, act_deny, CloudError, moment, examine_denied_or_error) >= 4


@pytest.mark.parametrize("moment", ["before", "after"])
def test_the_end_of_a_mount_with_a_call_that_fails_for_a_moment(laboratory: Laboratory, moment: Moment) -> None:
    assert laboratory.run(a_mounted_snapshot, act_deny, CloudUnavailable, moment, examine_denied) >= 4


@pytest.mark.parametrize("moment", ["before", "after"])
def test_delete_of_a_mounted_snapshot_with_a_call_that_fails(laboratory: Laboratory, moment: Moment) -> None:
    run = laboratory.run
    assert run(a_mounted_snapshot, delete_it, CloudError, moment, examine_snapshot_deleted_or_error) >= 5


def delete_it(world: World, snapshot: str) -> None:
    world.request_snapshot_delete(snapshot)


# ---- shrink ----


def a_large_share(world: World) -> str:
    share = world.request_share(4)
    world.request_rule(share, "10.20.0.99", "ro")
    world.run()
    return share


def act_shrink(world: World, share: str) -> None:
    world.request_shrink(share, 2)


def examine_shrunk_or_error(world: World, share: str) -> None:
    row = world.share(share)
    if row.status == "shrinking_error":
        assert "Sabotage" in world.messages(share)[0].detail
        world.check_consistent()
        if row.size == 4:
            world.request_shrink(share, 3)  # whatever the first one left behind
            world.run()
    size = world.share(share).size
    assert size in (2, 3)
    assert world.exports(share) == [["10.20.0.99/32", "ro"]]
    volumes = {volume.id: volume.size for volume in world.cloud.volumes.list_volumes()}
    assert volumes.pop(str(world.instance(share).volume_id)) == size
    # What could not be deleted at once is not forgotten.
    assert volumes.keys() == {row.volume_id for row in world.rows(retired_volumes)}


def examine_shrunk(world: World, share: str) -> None:
    assert (world.share(share).status, world.share(share).size) == ("available", 2)
    assert world.messages(share) == []


@pytest.mark.parametrize("moment", ["before", "after"])
def test_shrink_with_a_call_that_fails(laboratory: Laboratory, moment: Moment) -> None:
    assert laboratory.run(a_large_share, act_shrink, CloudError, moment, examine_shrunk_or_error) >= 9


@pytest.mark.parametrize("moment", ["before", "after"])
def test_shrink_with_a_call_that_fails_for_a_moment(laboratory: Laboratory, moment: Moment) -> None:
    assert laboratory.run(a_large_share, act_shrink, CloudUnavailable, moment, examine_shrunk) >= 9


# ---- revert ----


def act_revert(world: World, share: str) -> None:
    (snapshot,) = world.rows(share_snapshots)
    world.request_revert(share, snapshot.id)


def examine_reverted_or_error(world: World, share: str) -> None:
    """Served, from the one volume or the other; and then it can be reverted."""
    row = world.share(share)
    if row.status != "available":
        assert row.status == "reverting_error"
        assert "Sabotage" in world.messages(share)[0].detail
        act_revert(world, share)
        world.run()
    examine_reverted(world, share)


def examine_reverted(world: World, share: str) -> None:
    (snapshot,) = world.rows(share_snapshots)
    assert (world.share(share).status, snapshot.status) == ("available", "available")
    assert world.instance(share).filesystem_ready
    assert world.exports(share) == [["10.20.0.99/32", "ro"]]
    assert len(world.cloud.volumes.list_volumes()) <= 3  # one more, where taking the old one away failed
    if world.instance(share).old_volume_id is not None:
        act_revert(world, share)
        world.run()
    assert len(world.cloud.volumes.list_volumes()) == 2
    assert world.cloud.state.violations() == []


@pytest.mark.parametrize("moment", ["before", "after"])
def test_revert_with_a_call_that_fails(laboratory: Laboratory, moment: Moment) -> None:
    assert laboratory.run(a_share_with_a_snapshot, act_revert, CloudError, moment, examine_reverted_or_error) >= 6


@pytest.mark.parametrize("moment", ["before", "after"])
def test_revert_with_a_call_that_fails_for_a_moment(laboratory: Laboratory, moment: Moment) -> None:
    assert laboratory.run(a_share_with_a_snapshot, act_revert, CloudUnavailable, moment, examine_reverted) >= 6


# ---- delete ----


def act_delete(world: World, share: str) -> None:
    world.request_delete(share)


def examine_deleted_or_error(world: World, share: str) -> None:
    if world.rows(shares):
        assert world.share(share).status == "error_deleting"
        assert "Sabotage" in world.messages(share)[0].detail


def examine_deleted(world: World, share: str) -> None:
    assert world.rows(shares) == []
    assert list(world.cloud.volumes.list_volumes()) == []


@pytest.mark.parametrize("moment", ["before", "after"])
def test_delete_with_a_call_that_fails(laboratory: Laboratory, moment: Moment) -> None:
    assert laboratory.run(a_share, act_delete, CloudError, moment, examine_deleted_or_error) >= 4


@pytest.mark.parametrize("moment", ["before", "after"])
def test_delete_with_a_call_that_fails_for_a_moment(laboratory: Laboratory, moment: Moment) -> None:
    assert laboratory.run(a_share, act_delete, CloudUnavailable, moment, examine_deleted) >= 4
