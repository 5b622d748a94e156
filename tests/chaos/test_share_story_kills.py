"""Real worker processes, killed with SIGKILL at every boundary of share create, rule change, extend, shrink
and delete, and of what is told of share networks.

Another worker takes over when the lease has run out. However it was interrupted, the work ends as if nothing had
happened: nothing is done twice, nothing is left over in the cloud.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest
from killable_worker import LOG, Victim
from sqlalchemy import func, select

import backups_of_shares as backups
import migrations_of_shares as migrations
from replicas_of_shares import (
    a_replicated_share,
    a_share,
    add,
    delete,
    main_of,
    other_of,
    promote,
    revert,
    snapshot_on,
    take,
)
from sharewright.clouds.open import simulated_path
from sharewright.errors import CloudError
from sharewright.identifiers import utcnow
from sharewright.services import share_network_subnets
from sharewright.services.deployment import Deployment
from sharewright.states import OperationState
from sharewright.store.database import Store
from sharewright.store.tables import (
    messages,
    operations,
    retired_volumes,
    share_access_rules,
    share_backups,
    share_group_snapshots,
    share_groups,
    share_instance_moves,
    share_networks,
    share_servers,
    share_snapshot_access_rules,
    share_snapshot_mounts,
    share_snapshots,
    shares,
)
from story_world import BACKEND, World, make_world, same_world

pytestmark = pytest.mark.chaos

LIMIT = 180.0  # seconds for one world, on a machine that has much else to do
AT_ONCE = 8  # worlds side by side; they mostly wait for leases, and for frozen shares

LEDGER = """
CREATE TABLE ledger (what TEXT NOT NULL);
CREATE TRIGGER made_volume AFTER INSERT ON volumes BEGIN INSERT INTO ledger VALUES ('volume'); END;
CREATE TRIGGER made_instance AFTER INSERT ON instances BEGIN INSERT INTO ledger VALUES ('instance'); END;
CREATE TRIGGER made_port AFTER INSERT ON ports BEGIN INSERT INTO ledger VALUES ('port'); END;
CREATE TRIGGER made_subnet AFTER INSERT ON subnets BEGIN INSERT INTO ledger VALUES ('subnet'); END;
CREATE TRIGGER grown AFTER UPDATE OF size ON volumes BEGIN INSERT INTO ledger VALUES ('growth'); END;
CREATE TRIGGER snapped AFTER INSERT ON snapshots BEGIN INSERT INTO ledger VALUES ('snapshot'); END;
CREATE TRIGGER formatted AFTER UPDATE OF filesystem_uuid ON volumes BEGIN INSERT INTO ledger VALUES ('mkfs'); END;
"""


def watch(world: World) -> None:
    """Give its simulated cloud a ledger."""
    with closing(sqlite3.connect(simulated_path(world.settings))) as connection:
        connection.executescript(LEDGER)


class Ruin:
    """One world of its own: a store file, a simulated cloud with a ledger of everything ever made, and workers; with
    ``empties_bin`` these empty the recycle bin, too."""

    def __init__(self, world: World, url: str, *, empties_bin: bool = False) -> None:
        self.world = world
        self._empties_bin = empties_bin
        self.url = url
        self._cloud_file = simulated_path(world.settings)
        self._workers: list[Victim] = []

    def made(self) -> dict[str, int]:
        """How often each kind of thing was made, ever."""
        with closing(sqlite3.connect(self._cloud_file)) as connection:
            return dict(connection.execute("SELECT what, count(*) FROM ledger GROUP BY what"))

    def crashes(self, kind: str) -> int:
        """How often a worker lost an operation of that kind: the one that was killed, and on a machine with much else
        to do one that lives and came too late to keep its lease."""
        return sum(row.crashes for row in self.world.rows(operations, kind=kind))

    def said(self) -> str:
        """The end of what its workers logged."""
        log = self.world.settings.state_path / LOG
        return log.read_text()[-6000:] if log.exists() else "nothing"

    def start_worker(self, kill_at: int = 0) -> Victim:
        backend = self.world.settings.backends[BACKEND]
        options = {"driver_handles_share_servers": backend.driver_handles_share_servers, "server": backend.server}
        self._workers.append(
            Victim(
                self.url,
                self.world.settings.state_path,
                kill_at,
                empties_bin=self._empties_bin,
                replicas=len(self.world.settings.backends) > 1,
                backend=options,
            )
        )
        return self._workers[-1]

    def is_idle(self) -> bool:
        open_ones = select(func.count()).where(operations.c.state.in_(OperationState.OPEN))
        with self.world.store.read() as tx:
            if self._empties_bin and tx.scalar(select(func.count()).where(shares.c.is_soft_deleted)):
                return False
            return not tx.scalar(open_ones)

    def wait(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + LIMIT
        while not condition():
            assert time.monotonic() < end, f"still open: {[tuple(row) for row in self.world.rows(operations)]}"
            time.sleep(0.05)

    def settle(self) -> None:
        """Let an unharmed worker finish everything."""
        worker = self.start_worker()
        self.wait(self.is_idle)
        worker.end()

    def close(self) -> None:
        for worker in self._workers:
            worker.end()


@contextmanager
def prepared(
    template: Path, prepare: Callable[[World], str], *, named: bool = False, replicas: bool = False
) -> Iterator[tuple[Path, World, str]]:
    """A directory with a world after ``prepare``, that world, which is closed, and what ``prepare`` said."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="chaos-stories-", dir=memory if memory.is_dir() else None) as directory:
        shutil.copyfile(template, Path(directory) / "store.db")
        store = Store(f"sqlite:///{directory}/store.db")
        try:
            with make_world(store, Path(directory) / "state", named=named, replicas=replicas) as world:
                watch(world)
                subject = prepare(world)
        finally:
            store.close()
        yield Path(directory), world, subject


@contextmanager
def ruin_of(before: Path, world: World, *, empties_bin: bool) -> Iterator[Ruin]:
    """A copy of a prepared world of its own."""
    with tempfile.TemporaryDirectory(prefix="chaos-stories-", dir=before.parent) as directory:
        shutil.copytree(before, directory, dirs_exist_ok=True)
        url = f"sqlite:///{directory}/store.db"
        store = Store(url)
        with same_world(world, store, Path(directory) / "state") as mine:
            ruin = Ruin(mine, url, empties_bin=empties_bin)
            try:
                yield ruin
            finally:
                ruin.close()
                store.close()


def kill_everywhere(
    template: Path,
    prepare: Callable[[World], str],
    act: Callable[[World, str], None],
    examine: Callable[[Ruin], None],
    *,
    empties_bin: bool = False,
    named: bool = False,
    replicas: bool = False,
) -> int:
    """Kill a worker at each boundary of ``act`` in turn, each time in a copy of the world after ``prepare``; return how
    many there were. ``named``: in a world whose shares are on an operator's machine.

    Threads do not cross boundaries in the same order every time, and now and then one looks once more than it must; so
    a run may be over before its boundary comes. That is no failure as long as it is rare.
    """
    unreached: list[int] = []

    def unharmed() -> int:
        with ruin_of(before, world, empties_bin=empties_bin) as ruin:
            act(ruin.world, subject)
            worker = ruin.start_worker()
            ruin.wait(ruin.is_idle)
            examine(ruin)
            return worker.crossed

    def one(kill_at: int) -> str:
        with ruin_of(before, world, empties_bin=empties_bin) as ruin:
            act(ruin.world, subject)
            victim = ruin.start_worker(kill_at)
            ruin.wait(lambda: not victim.alive or ruin.is_idle())
            if not victim.killed:
                unreached.append(kill_at)
            ruin.settle()
            try:
                rows = ruin.world.rows(operations)
                assert [(row.kind, row.state, row.error) for row in rows if row.state != "succeeded"] == []
                examine(ruin)
                ruin.world.check_consistent()
            except AssertionError as failure:
                return f"boundary {kill_at} of {boundaries}: {failure}\nThe workers said:\n{ruin.said()}"
        return ""

    with prepared(template, prepare, named=named, replicas=replicas) as (before, world, subject):
        boundaries = unharmed()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            failures = [failure for failure in pool.map(one, range(1, boundaries + 1)) if failure]
    assert not failures, "\n".join(failures)
    assert len(unreached) <= max(4, boundaries // 8), f"of {boundaries} boundaries not reached: {sorted(unreached)}"
    return boundaries


# ---- the stories ----


def fresh(world: World) -> str:
    return ""


def with_share(world: World) -> str:
    share = world.request_share()
    world.request_rule(share, "10.20.0.99", "ro")
    world.run()
    return share


def examine_created(ruin: Ruin) -> None:
    world = ruin.world
    (share,) = world.rows(shares)
    assert share.status == "available"
    assert world.exports(share.id) == []
    assert len(world.locations(share.id)) == 1
    assert ruin.made() == {"volume": 1, "instance": 1, "port": 2, "subnet": 1, "mkfs": 1}
    assert world.cloud.state.violations() == []
    assert world.usage() == (1, 1)


def test_killed_while_creating_a_share_and_its_server(sqlite_template: Path) -> None:
    def act(world: World, _: str) -> None:
        world.request_share()

    assert kill_everywhere(sqlite_template, fresh, act, examine_created) > 60


def test_killed_while_changing_rules(sqlite_template: Path) -> None:
    def act(world: World, share: str) -> None:
        (old,) = world.rows(share_access_rules, share_id=share)
        world.request_deny(share, old.id)
        world.request_rule(share, "10.20.0.1")

    def examine(ruin: Ruin) -> None:
        (share,) = ruin.world.rows(shares)
        assert ruin.world.rules(share.id) == {"10.20.0.1": "active"}
        assert ruin.world.exports(share.id) == [["10.20.0.1/32", "rw"]]
        assert share.access_rules_status == "active"
        assert ruin.made()["mkfs"] == 1

    assert kill_everywhere(sqlite_template, with_share, act, examine) > 8


def test_killed_while_extending_a_share(sqlite_template: Path) -> None:
    def act(world: World, share: str) -> None:
        world.request_extend(share, 3)

    def examine(ruin: Ruin) -> None:
        (share,) = ruin.world.rows(shares)
        assert (share.status, share.size, ruin.world.instance(share.id).size) == ("available", 3, 3)
        (volume,) = ruin.world.cloud.volumes.list_volumes()
        assert volume.size == 3
        assert ruin.made()["mkfs"] == 1
        assert ruin.made()["growth"] == 1
        assert ruin.world.exports(share.id) == [["10.20.0.99/32", "ro"]]
        assert ruin.world.usage() == (1, 3)
        assert ruin.world.messages(share.id) == []

    assert kill_everywhere(sqlite_template, with_share, act, examine) > 10


def test_killed_while_taking_a_snapshot(sqlite_template: Path) -> None:
    """However often it is taken: the one that is to be had was taken of a share that stood still (check_consistent)."""

    def act(world: World, share: str) -> None:
        world.request_snapshot(share)

    def examine(ruin: Ruin) -> None:
        (snapshot,) = ruin.world.rows(share_snapshots)
        assert snapshot.status == "available"
        assert len(ruin.world.cloud.volumes.list_snapshots()) == 1
        assert ruin.made()["snapshot"] <= 1 + ruin.crashes("create_snapshot")
        assert ruin.world.messages(snapshot.id) == []

    assert kill_everywhere(sqlite_template, with_share, act, examine) > 12


def with_group(world: World) -> str:
    """Of two shares, each on a server of its own."""
    group, _ = world.request_group(1)
    world.request_share(share_group_id=group, share_network_id=world.add_share_network(cidr="10.21.0.0/24"))
    world.run()
    assert len(world.rows(share_servers)) == 2
    return group


def test_killed_while_making_a_share_group_and_its_server(sqlite_template: Path) -> None:
    """One server, whoever chose its pool and whoever made it; the group has it and no other."""

    def act(world: World, _: str) -> None:
        world.request_new_group()

    def examine(ruin: Ruin) -> None:
        (group,) = ruin.world.rows(share_groups)
        (server,) = ruin.world.rows(share_servers)
        assert (group.status, group.share_server_id, server.status) == ("available", server.id, "active")
        assert ruin.made() == {"instance": 1, "port": 2, "subnet": 1}
        assert ruin.world.cloud.state.violations() == []
        assert ruin.world.messages(group.id) == []

    assert kill_everywhere(sqlite_template, fresh, act, examine) > 40


def snapshot_group(world: World, group: str) -> None:
    world.request_group_snapshot(group)


def examine_group_snapshot(ruin: Ruin) -> None:
    (snapshot,) = ruin.world.rows(share_group_snapshots)
    assert snapshot.status == "available"
    assert len(ruin.world.cloud.volumes.list_snapshots()) == 2
    assert ruin.made()["snapshot"] <= 2 * (1 + ruin.crashes("create_group_snapshot"))
    assert ruin.world.messages(snapshot.id) == []


def test_killed_while_taking_a_group_snapshot(sqlite_template: Path) -> None:
    """Whatever was taken when the worker died, an available one is of one moment (check_consistent looks)."""
    assert kill_everywhere(sqlite_template, with_group, snapshot_group, examine_group_snapshot) > 25


def test_killed_while_making_a_group_from_a_snapshot(sqlite_template: Path) -> None:
    def prepare(world: World) -> str:
        snapshot = world.request_group_snapshot(with_group(world))
        world.run()
        return snapshot

    def act(world: World, snapshot: str) -> None:
        world.request_group_from(snapshot)

    def examine(ruin: Ruin) -> None:
        (group,) = [row for row in ruin.world.rows(share_groups) if row.source_share_group_snapshot_id is not None]
        assert group.status == "available"
        made = ruin.world.rows(shares, share_group_id=group.id)
        assert [share.status for share in made] == ["available"] * 2
        assert ruin.made()["volume"] == 4
        assert ruin.made()["mkfs"] == 4  # of the parents, and new names for the copies
        assert ruin.world.cloud.state.violations() == []

    assert kill_everywhere(sqlite_template, prepare, act, examine) > 25


def test_killed_while_deleting_a_group_snapshot(sqlite_template: Path) -> None:
    def prepare(world: World) -> str:
        snapshot = world.request_group_snapshot(with_group(world))
        world.run()
        return snapshot

    def examine(ruin: Ruin) -> None:
        assert ruin.world.rows(share_group_snapshots) == []
        assert list(ruin.world.cloud.volumes.list_snapshots()) == []

    assert kill_everywhere(sqlite_template, prepare, World.request_group_snapshot_delete, examine) > 8


def test_killed_while_making_a_share_from_a_snapshot(sqlite_template: Path) -> None:
    def prepare(world: World) -> str:
        snapshot = world.request_snapshot(with_share(world))
        world.run()
        return snapshot

    def act(world: World, snapshot: str) -> None:
        world.request_clone(snapshot, 2)

    def examine(ruin: Ruin) -> None:
        (clone,) = [row for row in ruin.world.rows(shares) if row.snapshot_id is not None]
        assert (clone.status, clone.size) == ("available", 2)
        assert ruin.made()["mkfs"] == 2  # the parent's, and the copy's UUID once
        assert ruin.made()["volume"] == 2
        assert ruin.world.exports(clone.id) == []
        assert ruin.world.messages(clone.id) == []

    assert kill_everywhere(sqlite_template, prepare, act, examine) > 15


def test_killed_while_reverting_a_share(sqlite_template: Path) -> None:
    def prepare(world: World) -> str:
        share = with_share(world)
        world.request_snapshot(share)
        world.run()
        return share

    def act(world: World, share: str) -> None:
        (snapshot,) = world.rows(share_snapshots)
        world.request_revert(share, snapshot.id)

    def examine(ruin: Ruin) -> None:
        (share,) = ruin.world.rows(shares)
        (snapshot,) = ruin.world.rows(share_snapshots)
        assert (share.status, snapshot.status) == ("available", "available")
        assert ruin.made()["volume"] == 2
        assert ruin.made()["mkfs"] == 2  # the share's, and the new volume's UUID once
        assert ruin.world.instance(share.id).old_volume_id is None
        assert ruin.world.exports(share.id) == [["10.20.0.99/32", "ro"]]
        assert ruin.world.cloud.state.violations() == []
        assert ruin.world.messages(share.id) == []

    assert kill_everywhere(sqlite_template, prepare, act, examine) > 20


def a_mountable_snapshot(world: World) -> str:
    share = world.request_share(mount_snapshot_support=True)
    world.request_rule(share, "10.20.0.99", "ro")
    world.run()
    snapshot = world.request_snapshot(share)
    world.run()
    return snapshot


def a_mounted_snapshot(world: World) -> str:
    snapshot = a_mountable_snapshot(world)
    world.request_snapshot_rule(snapshot, "10.20.0.7")
    world.run()
    return snapshot


def test_killed_while_mounting_a_snapshot(sqlite_template: Path) -> None:
    def act(world: World, snapshot: str) -> None:
        world.request_snapshot_rule(snapshot, "10.20.0.7")

    def examine(ruin: Ruin) -> None:
        world = ruin.world
        (snapshot,) = world.rows(share_snapshots)
        assert world.snapshot_rules(snapshot.id) == {"10.20.0.7": "active"}
        assert world.snapshot_exports(snapshot.id) == [["10.20.0.7/32", "ro"]]
        assert world.exports(snapshot.share_id) == [["10.20.0.99/32", "ro"]]
        assert ruin.made()["volume"] == 2
        assert ruin.made()["mkfs"] == 2  # the share's, and the copy's UUID once
        assert world.cloud.state.violations() == []
        assert world.messages(snapshot.id) == []

    assert kill_everywhere(sqlite_template, a_mountable_snapshot, act, examine) > 12


def test_killed_while_the_last_rule_of_a_snapshot_goes(sqlite_template: Path) -> None:
    def act(world: World, snapshot: str) -> None:
        (rule,) = world.rows(share_snapshot_access_rules)
        world.request_snapshot_deny(rule.id)

    def examine(ruin: Ruin) -> None:
        world = ruin.world
        (snapshot,) = world.rows(share_snapshots)
        assert snapshot.status == "available"
        assert world.rows(share_snapshot_access_rules) == []
        assert world.rows(share_snapshot_mounts) == []
        assert len(world.cloud.volumes.list_volumes()) == 1
        assert world.cloud.state.violations() == []
        assert world.messages(snapshot.id) == []

    assert kill_everywhere(sqlite_template, a_mounted_snapshot, act, examine) > 8


def test_killed_while_deleting_a_mounted_snapshot(sqlite_template: Path) -> None:
    def examine(ruin: Ruin) -> None:
        assert ruin.world.rows(share_snapshots) == []
        assert ruin.world.rows(share_snapshot_mounts) == []
        assert list(ruin.world.cloud.volumes.list_snapshots()) == []
        assert len(ruin.world.cloud.volumes.list_volumes()) == 1
        assert ruin.world.snapshot_usage() == (0, 0)

    assert kill_everywhere(sqlite_template, a_mounted_snapshot, World.request_snapshot_delete, examine) > 10


def test_killed_while_deleting_a_snapshot(sqlite_template: Path) -> None:
    def prepare(world: World) -> str:
        snapshot = world.request_snapshot(with_share(world))
        world.run()
        return snapshot

    def examine(ruin: Ruin) -> None:
        assert ruin.world.rows(share_snapshots) == []
        assert list(ruin.world.cloud.volumes.list_snapshots()) == []
        assert ruin.world.snapshot_usage() == (0, 0)

    assert kill_everywhere(sqlite_template, prepare, World.request_snapshot_delete, examine) > 5


def with_large_share(world: World) -> str:
    share = world.request_share(4)
    world.request_rule(share, "10.20.0.99", "ro")
    world.run()
    return share


def shrink(world: World, share: str) -> None:
    world.request_shrink(share, 2)


def examine_shrunk(ruin: Ruin) -> None:
    (share,) = ruin.world.rows(shares)
    instance = ruin.world.instance(share.id)
    assert (share.status, share.size, instance.size) == ("available", 2, 2)
    (volume,) = ruin.world.cloud.volumes.list_volumes()
    assert (volume.id, volume.size) == (instance.volume_id, 2)
    assert ruin.made()["volume"] == 2
    assert ruin.made()["mkfs"] == 3  # the first one, the copy, and the copy's new identity
    assert ruin.world.exports(share.id) == [["10.20.0.99/32", "ro"]]
    assert ruin.world.usage() == (1, 2)
    assert ruin.world.messages(share.id) == []
    assert ruin.world.rows(share_instance_moves) == []


def test_killed_while_shrinking_a_share(sqlite_template: Path) -> None:
    assert kill_everywhere(sqlite_template, with_large_share, shrink, examine_shrunk) > 20


def test_killed_while_adding_a_subnet(sqlite_template: Path) -> None:
    """While the server is healed, too; one of the two plugs the NIC in."""

    def act(world: World, share: str) -> None:
        (server,) = world.rows(share_servers)
        world.request_server_operation("heal_server", server.id)
        network = world.cloud.networks.create_network("another", ip_network("10.21.0.0/24"))
        values = {"neutron_net_id": network.id, "neutron_subnet_id": network.subnets[0].id}
        deployment = Deployment(store=world.store, settings=world.settings)
        share_network_subnets.create(deployment, world.context(), world.share_network_id, values)
        world.request_server_operation("heal_server", server.id)

    def examine(ruin: Ruin) -> None:
        world = ruin.world
        (share,) = world.rows(shares)
        assert sorted(path.split(".")[1] for path in world.locations(share.id)) == ["20", "21"]
        (network,) = world.rows(share_networks, id=share.share_network_id)
        assert network.status == "active"
        (server,) = world.rows(share_servers)
        assert (server.status, server.healthy) == ("active", True)
        (instance,) = world.cloud.compute.list_instances()
        assert len(world.guests.network(instance.id)["links"]) == 3
        assert ruin.made() == {"volume": 1, "instance": 1, "port": 3, "subnet": 2, "mkfs": 1}
        assert world.exports(share.id) == [["10.20.0.99/32", "ro"]]
        assert world.rows(messages) == []
        assert world.cloud.state.violations() == []

    assert kill_everywhere(sqlite_template, with_share, act, examine) > 20


def test_killed_while_an_smb_share_shrinks_that_has_files_open(sqlite_template: Path) -> None:
    def prepare(world: World) -> str:
        share = world.request_share(4, protocol="CIFS")
        world.request_rule(share, "10.20.0.99", "ro")
        world.run()
        return share

    def act(world: World, share: str) -> None:
        world.cloud.fail("guest.part", CloudError, times=2, message="SMB clients have files open")
        world.request_shrink(share, 2)

    def examine(ruin: Ruin) -> None:
        (share,) = ruin.world.rows(shares)
        instance = ruin.world.instance(share.id)
        assert (share.status, share.size, instance.size) == ("available", 2, 2)
        ruin.world.tidy()
        (volume,) = ruin.world.cloud.volumes.list_volumes()
        assert (volume.id, volume.size) == (instance.volume_id, 2)
        assert ruin.world.exports(share.id) == [["10.20.0.99/32", "ro"]]
        assert ruin.world.messages(share.id) == []

    assert kill_everywhere(sqlite_template, prepare, act, examine) > 20


def test_killed_while_the_cloud_keeps_what_a_share_leaves(sqlite_template: Path) -> None:
    """Somebody's own snapshot is of the old volume, which goes when that snapshot has gone."""

    def prepare(world: World) -> str:
        share = world.request_share(4)
        world.run()
        world.request_snapshot(share)
        world.run()
        (snapshot,) = world.rows(share_snapshots)
        world.request_unmanage_snapshot(snapshot.id)
        world.run()
        return share

    def act(world: World, share: str) -> None:
        world.request_shrink(share, 2)

    def examine(ruin: Ruin) -> None:
        (share,) = ruin.world.rows(shares)
        assert (share.status, share.size) == ("available", 2)
        assert ruin.world.messages(share.id) == []
        assert ruin.world.rows(share_instance_moves) == []
        (left,) = ruin.world.rows(retired_volumes)
        assert ruin.world.cloud.volumes.find_volume(left.volume_id) is not None
        with ruin.world.cloud.state.transaction() as tx:
            tx.execute("DELETE FROM snapshots")
        ruin.world.tidy()
        (volume,) = ruin.world.cloud.volumes.list_volumes()
        assert volume.id == ruin.world.instance(share.id).volume_id
        assert ruin.world.rows(retired_volumes) == []

    assert kill_everywhere(sqlite_template, prepare, act, examine) > 20


def test_killed_while_deleting_a_share(sqlite_template: Path) -> None:
    def examine(ruin: Ruin) -> None:
        assert ruin.world.rows(shares) == []
        assert list(ruin.world.cloud.volumes.list_volumes()) == []
        assert ruin.world.cloud.state.violations() == []
        assert ruin.world.usage() == (0, 0)
        (server,) = ruin.world.rows(share_servers)
        assert (server.status, server.unused_since is None) == ("active", False)

    assert kill_everywhere(sqlite_template, with_share, World.request_delete, examine) > 16


def test_killed_while_the_recycle_bin_is_emptied(sqlite_template: Path) -> None:
    """The share whose time is over goes once, however often that is noticed; the other one stays."""

    def prepare(world: World) -> str:
        share = with_share(world)
        world.request_share()
        world.run()
        return share

    def act(world: World, share: str) -> None:
        now = utcnow()
        with world.store.begin() as tx:
            tx.execute(shares.update().values(scheduled_to_be_deleted_at=now + timedelta(days=1)))
            mine = {"is_soft_deleted": True, "scheduled_to_be_deleted_at": now}
            tx.execute(shares.update().where(shares.c.id == share).values(**mine))

    def examine(ruin: Ruin) -> None:
        (left,) = ruin.world.rows(shares)
        assert left.status == "available"
        assert len(ruin.world.rows(operations, kind="delete_share")) == 1
        assert len(ruin.world.cloud.volumes.list_volumes()) == 1
        assert ruin.world.cloud.state.violations() == []
        assert ruin.world.usage() == (1, 1)
        assert ruin.world.messages(left.id) == []

    assert kill_everywhere(sqlite_template, prepare, act, examine, empties_bin=True) > 15


# ---- given away and taken over ----


def disowned(ruin: Ruin, table: str) -> list[tuple[str, str | None]]:
    """Ids and file systems of the cloud's volumes or snapshots that are nobody's."""
    query = {
        "volumes": "SELECT id, filesystem_uuid FROM volumes WHERE deployment = '' AND instance_id IS NULL",
        "snapshots": "SELECT id, filesystem_uuid FROM snapshots WHERE deployment = ''",
    }[table]
    with ruin.world.cloud.state.transaction(write=False) as tx:
        return [tuple(row) for row in tx.execute(query)]


def with_unmanaged_share(world: World) -> str:
    """The export path of a share of 2 GiB that was given away, with its server's id."""
    share = world.request_share(2)
    world.run()
    (path,), server = world.locations(share), world.instance(share).share_server_id
    world.request_unmanage(share)
    world.run()
    return f"{server} {path}"


def test_killed_while_unmanaging_a_share(sqlite_template: Path) -> None:
    def examine(ruin: Ruin) -> None:
        assert ruin.world.rows(shares) == []
        assert list(ruin.world.cloud.volumes.list_volumes()) == []
        ((_, filesystem),) = disowned(ruin, "volumes")
        assert filesystem is not None
        assert ruin.world.usage() == (0, 0)
        (server,) = ruin.world.rows(share_servers)
        assert (server.status, server.is_auto_deletable) == ("active", False)

    assert kill_everywhere(sqlite_template, with_share, World.request_unmanage, examine) > 15


def test_killed_while_managing_a_share(sqlite_template: Path) -> None:
    def act(world: World, found: str) -> None:
        world.request_manage(*found.split(" "))

    def examine(ruin: Ruin) -> None:
        (share,) = ruin.world.rows(shares)
        assert (share.status, share.size) == ("available", 2)
        assert ruin.made()["volume"] == ruin.made()["mkfs"] == 1
        assert disowned(ruin, "volumes") == []
        assert ruin.world.exports(share.id) == []
        assert len(ruin.world.locations(share.id)) == 1
        assert ruin.world.usage() == (1, 2)
        assert ruin.world.messages(share.id) == []
        assert ruin.world.cloud.state.violations() == []

    assert kill_everywhere(sqlite_template, with_unmanaged_share, act, examine) > 20


def test_killed_while_deleting_what_could_not_be_managed(sqlite_template: Path) -> None:
    """It is half taken over, and somebody else's still."""

    def prepare(world: World) -> str:
        found = with_unmanaged_share(world)
        world.cloud.fail("guest.mount", CloudError, message="Not that one.")
        world.cloud.fail("disown_volume", CloudError, times=3, message="Not now.")
        share = world.request_manage(*found.split(" "))
        world.run()
        assert world.share(share).status == "manage_error"
        assert len(world.cloud.volumes.list_volumes()) == 1
        with world.store.begin() as tx:
            tx.execute(operations.delete())
        return share

    def examine(ruin: Ruin) -> None:
        assert ruin.world.rows(shares) == []
        assert len(disowned(ruin, "volumes")) == 1
        assert ruin.world.usage() == (0, 0)

    assert kill_everywhere(sqlite_template, prepare, World.request_delete, examine) > 8


def test_killed_while_unmanaging_a_snapshot(sqlite_template: Path) -> None:
    def prepare(world: World) -> str:
        snapshot = world.request_snapshot(with_share(world))
        world.run()
        return snapshot

    def examine(ruin: Ruin) -> None:
        assert ruin.world.rows(share_snapshots) == []
        assert len(disowned(ruin, "snapshots")) == 1
        assert ruin.world.snapshot_usage() == (0, 0)

    assert kill_everywhere(sqlite_template, prepare, World.request_unmanage_snapshot, examine) > 5


def test_killed_while_managing_a_snapshot(sqlite_template: Path) -> None:
    def prepare(world: World) -> str:
        share = with_share(world)
        snapshot = world.request_snapshot(share)
        world.run()
        location = world.snapshot_instance(snapshot).provider_location
        world.request_unmanage_snapshot(snapshot)
        world.run()
        return f"{share} {location}"

    def act(world: World, found: str) -> None:
        world.request_manage_snapshot(*found.split(" "))

    def examine(ruin: Ruin) -> None:
        (snapshot,) = ruin.world.rows(share_snapshots)
        assert (snapshot.status, ruin.world.snapshot_instance(snapshot.id).taken_over) == ("available", True)
        assert len(ruin.world.cloud.volumes.list_snapshots()) == ruin.made()["snapshot"] == 1
        assert ruin.world.snapshot_usage() == (1, 1)

    assert kill_everywhere(sqlite_template, prepare, act, examine) > 5


def with_empty_server(world: World) -> str:
    share = with_share(world)
    server = str(world.share(share).share_server_id)
    world.request_delete(share)
    world.run()
    return server


def test_killed_while_unmanaging_a_share_server(sqlite_template: Path) -> None:
    def examine(ruin: Ruin) -> None:
        (server,) = ruin.world.rows(share_servers)
        assert (server.status, server.taken_over, server.share_network_id) == ("unmanaged", False, None)
        assert len(ruin.world.cloud.compute.list_instances()) == 1

    assert kill_everywhere(sqlite_template, with_empty_server, World.request_unmanage_server, examine) >= 2


def test_killed_while_managing_a_share_server(sqlite_template: Path) -> None:
    def prepare(world: World) -> str:
        server = with_empty_server(world)
        world.request_unmanage_server(server)
        world.run()
        with world.store.begin() as tx:  # no healing, which has boundaries of its own, as soon as it is in service
            tx.execute(share_servers.update().values(looked_at=utcnow() + timedelta(days=1)))
        return server

    def examine(ruin: Ruin) -> None:
        (server,) = ruin.world.rows(share_servers)
        assert (server.status, server.taken_over) == ("active", True)
        assert ruin.made() == {"volume": 1, "instance": 1, "port": 2, "subnet": 1, "mkfs": 1}
        assert ruin.world.messages(server.id) == []

    assert kill_everywhere(sqlite_template, prepare, World.request_manage_server, examine) > 8


# ---- many at once ----


@pytest.mark.parametrize("seed", range(3))
def test_killed_again_and_again_with_much_going_on(database_url: str, tmp_path: Path, seed: int) -> None:
    """Creates, rules and deletes of many shares, and a worker that dies four times at random."""
    choose = random.Random(seed)
    store = Store(database_url)
    with make_world(store, tmp_path / "state") as world:
        watch(world)
        ruin = Ruin(world, database_url)
        try:
            old = [world.request_share() for _ in range(3)]
            ruin.settle()
            new = [world.request_share() for _ in range(3)]
            world.request_delete(old[0])
            for last in range(1, 6):
                world.request_rule(old[1], f"10.20.0.{last}")
            for _ in range(4):
                victim = ruin.start_worker(kill_at=choose.randint(5, 60))
                ruin.wait(lambda victim=victim: not victim.alive or ruin.is_idle())  # type: ignore[misc]
                victim.end()
            ruin.settle()
            assert {row.state for row in world.rows(operations)} == {"succeeded"}
            assert {world.share(share).status for share in old[1:] + new} == {"available"}
            assert len(world.rows(shares)) == 5
            assert set(world.rules(old[1]).values()) == {"active"}
            assert len(world.exports(old[1]) or []) == 5
            assert ruin.made() == {"volume": 6, "instance": 1, "port": 2, "subnet": 1, "mkfs": 6}
            assert world.cloud.state.violations() == []
            world.check_consistent()
        finally:
            ruin.close()
            store.close()


# ---- on an operator's machine ----


def examine_machine(ruin: Ruin) -> None:
    """It runs as it did, and nothing was made but volumes."""
    machine = ruin.world.cloud.compute.find_named_instance("nas")
    assert machine is not None
    assert machine.running
    assert ruin.made().keys() <= {"volume", "mkfs", "growth", "snapshot"}
    assert len(ruin.world.rows(share_servers)) <= 1
    assert ruin.world.cloud.state.violations() == []
    assert not {"start_instance", "reboot_instance", "delete_instance"} & set(ruin.world.cloud.calls())


def test_killed_while_creating_a_share_on_a_named_server(sqlite_template: Path) -> None:
    def act(world: World, _: str) -> None:
        world.request_share()

    def examine(ruin: Ruin) -> None:
        examine_machine(ruin)
        (share,) = ruin.world.rows(shares)
        assert (share.status, share.share_server_id) == ("available", None)
        assert ruin.world.exports(share.id) == []
        assert len(ruin.world.locations(share.id)) == 1
        assert ruin.made() == {"volume": 1, "mkfs": 1}
        assert ruin.world.usage() == (1, 1)

    assert kill_everywhere(sqlite_template, fresh, act, examine, named=True) > 20


def test_killed_while_deleting_a_share_on_a_named_server(sqlite_template: Path) -> None:
    def act(world: World, share: str) -> None:
        world.request_delete(share)

    def examine(ruin: Ruin) -> None:
        examine_machine(ruin)
        assert ruin.world.rows(shares) == []
        assert list(ruin.world.cloud.volumes.list_volumes()) == []
        assert ruin.world.usage() == (0, 0)
        (server,) = ruin.world.rows(share_servers)
        assert server.status == "active"

    assert kill_everywhere(sqlite_template, with_share, act, examine, named=True) > 15


def test_killed_while_unmanaging_a_share_on_a_named_server(sqlite_template: Path) -> None:
    def examine(ruin: Ruin) -> None:
        examine_machine(ruin)
        assert ruin.world.rows(shares) == []
        assert list(ruin.world.cloud.volumes.list_volumes()) == []
        ((_, filesystem),) = disowned(ruin, "volumes")
        assert filesystem is not None
        assert ruin.world.usage() == (0, 0)

    assert kill_everywhere(sqlite_template, with_share, World.request_unmanage, examine, named=True) > 15


def test_killed_while_managing_a_share_on_a_named_server(sqlite_template: Path) -> None:
    def act(world: World, found: str) -> None:
        world.request_manage(*found.split(" "))

    def examine(ruin: Ruin) -> None:
        examine_machine(ruin)
        (share,) = ruin.world.rows(shares)
        assert (share.status, share.size, share.share_server_id) == ("available", 2, None)
        assert ruin.made() == {"volume": 1, "mkfs": 1}
        assert disowned(ruin, "volumes") == []
        assert ruin.world.exports(share.id) == []
        assert ruin.world.usage() == (1, 2)
        assert ruin.world.messages(share.id) == []

    assert kill_everywhere(sqlite_template, with_unmanaged_share, act, examine, named=True) > 20


def test_killed_while_a_share_on_a_named_server_shrinks(sqlite_template: Path) -> None:
    def examine(ruin: Ruin) -> None:
        examine_machine(ruin)
        examine_shrunk(ruin)

    assert kill_everywhere(sqlite_template, with_large_share, shrink, examine, named=True) > 20


def test_killed_while_taking_a_group_snapshot_on_a_named_server(sqlite_template: Path) -> None:
    def prepare(world: World) -> str:
        group, _ = world.request_group(2)
        world.run()
        return group

    def examine(ruin: Ruin) -> None:
        examine_machine(ruin)
        examine_group_snapshot(ruin)

    assert kill_everywhere(sqlite_template, prepare, snapshot_group, examine, named=True) > 20


def test_killed_while_creating_a_replica(sqlite_template: Path) -> None:
    def act(world: World, share: str) -> None:
        add(world, share)

    def examine(ruin: Ruin) -> None:
        (share,) = ruin.world.rows(shares)
        replica = other_of(ruin.world, share.id)
        assert (replica.status, replica.replica_state) == ("available", "in_sync")
        assert replica.backend != main_of(ruin.world, share.id).backend
        assert (ruin.made()["volume"], ruin.made()["instance"], ruin.made()["mkfs"]) == (2, 2, 2)
        assert ruin.world.cloud.state.violations() == []
        assert ruin.world.messages(replica.id) == []

    assert kill_everywhere(sqlite_template, a_share, act, examine, replicas=True) > 60


def test_killed_while_promoting_a_replica(sqlite_template: Path) -> None:
    def act(world: World, share: str) -> None:
        promote(world, other_of(world, share).id)

    def examine(ruin: Ruin) -> None:
        (share,) = ruin.world.rows(shares)
        main, other = main_of(ruin.world, share.id), other_of(ruin.world, share.id)
        assert (share.status, main.replica_state) == ("available", "active")
        assert (other.status, other.replica_state) == ("available", "in_sync")
        assert main.created_at > other.created_at  # the one that was the replica

    assert kill_everywhere(sqlite_template, a_replicated_share, act, examine, replicas=True) > 8


def test_killed_while_deleting_a_replica(sqlite_template: Path) -> None:
    def act(world: World, share: str) -> None:
        delete(world, other_of(world, share).id)

    def examine(ruin: Ruin) -> None:
        (share,) = ruin.world.rows(shares)
        assert main_of(ruin.world, share.id).status == "available"
        assert len(ruin.world.cloud.volumes.list_volumes()) == 1

    assert kill_everywhere(sqlite_template, a_replicated_share, act, examine, replicas=True) > 8


def with_replicated_snapshot(world: World) -> str:
    share = a_replicated_share(world)
    snapshot = take(world, share)
    world.run()
    return snapshot


def examine_replicated_snapshot(ruin: Ruin) -> None:
    (share,) = ruin.world.rows(shares)
    (snapshot,) = ruin.world.rows(share_snapshots)
    main, other = main_of(ruin.world, share.id), other_of(ruin.world, share.id)
    assert (share.status, snapshot.status) == ("available", "available")
    assert (other.status, other.replica_state) == ("available", "in_sync")
    for instance in (main, other):
        assert snapshot_on(ruin.world, snapshot.id, instance.id).status == "available"
    assert ruin.world.cloud.state.violations() == []


def test_killed_while_taking_a_snapshot_of_a_replicated_share(sqlite_template: Path) -> None:
    def act(world: World, share: str) -> None:
        take(world, share)

    assert kill_everywhere(sqlite_template, a_replicated_share, act, examine_replicated_snapshot, replicas=True) > 20


def test_killed_while_reverting_a_replicated_share(sqlite_template: Path) -> None:
    def act(world: World, snapshot: str) -> None:
        revert(world, world.snapshot(snapshot).share_id, snapshot)

    assert (
        kill_everywhere(sqlite_template, with_replicated_snapshot, act, examine_replicated_snapshot, replicas=True) > 40
    )


def with_backup(world: World) -> str:
    return backups.a_backup(world, backups.a_share(world))


def examine_backup(ruin: Ruin) -> None:
    (share,) = ruin.world.rows(shares)
    (backup,) = ruin.world.rows(share_backups)
    assert (share.status, backup.status) == ("available", "available")
    assert ruin.world.exports(share.id) == [["10.20.0.99/32", "rw"]]
    assert len(ruin.world.cloud.volumes.list_volumes()) == 2
    assert ruin.world.cloud.state.violations() == []
    backups.check(ruin.world)


def test_killed_while_backing_up(sqlite_template: Path) -> None:
    def act(world: World, share: str) -> None:
        backups.back_up(world, share)

    assert kill_everywhere(sqlite_template, backups.a_share, act, examine_backup, replicas=True) > 10


def test_killed_while_restoring_a_backup(sqlite_template: Path) -> None:
    def act(world: World, backup: str) -> None:
        backups.restore(world, backup)

    assert kill_everywhere(sqlite_template, with_backup, act, examine_backup, replicas=True) > 20


def test_killed_while_deleting_a_backup(sqlite_template: Path) -> None:
    def act(world: World, backup: str) -> None:
        backups.delete(world, backup)

    def examine(ruin: Ruin) -> None:
        assert ruin.world.rows(share_backups) == []
        assert len(ruin.world.cloud.volumes.list_volumes()) == 1
        backups.check(ruin.world)

    assert kill_everywhere(sqlite_template, with_backup, act, examine, replicas=True) > 5


def migrating(world: World) -> str:
    """A share with a snapshot, the first phase of whose migration is done."""
    share = migrations.a_share(world)
    world.request_snapshot(share)
    world.run()
    migrations.start(world, share, preserve_snapshots=True)
    world.run()
    return share


def examine_migrated(ruin: Ruin) -> None:
    (share,), world = ruin.world.rows(shares), ruin.world
    assert (share.status, share.task_state) == ("available", "migration_success")
    row, (snapshot,) = migrations.main_of(world, share.id), world.rows(share_snapshots)
    assert (row.host, migrations.others_of(world, share.id)) == (migrations.pool_of(world), [])
    assert world.instance_exports(row.id) == [["10.20.0.99/32", "rw"]]
    taken = world.snapshot_instance(snapshot.id)
    assert (snapshot.status, taken.share_instance_id, taken.volume_id) == ("available", row.id, row.volume_id)
    assert (ruin.made()["volume"], ruin.made()["mkfs"], ruin.made()["snapshot"]) == (1, 1, 1)
    assert world.cloud.state.violations() == []
    assert world.messages(share.id) == []


def test_killed_while_a_migration_begins(sqlite_template: Path) -> None:
    def act(world: World, share: str) -> None:
        migrations.start(world, share)

    def examine(ruin: Ruin) -> None:
        (share,) = ruin.world.rows(shares)
        assert (share.status, share.task_state) == ("migrating", "migration_driver_phase1_done")
        (other,) = migrations.others_of(ruin.world, share.id)
        assert (other.status, other.backend, other.volume_id) == ("migrating_to", "beta", None)
        assert (ruin.made()["volume"], ruin.made()["instance"]) == (1, 2)
        assert ruin.world.messages(share.id) == []

    assert kill_everywhere(sqlite_template, migrations.a_share, act, examine, replicas=True) > 20


def test_killed_while_a_migration_is_completed(sqlite_template: Path) -> None:
    """The one volume, with its snapshot, is somebody's at every moment, and in the end the right one's."""

    def act(world: World, share: str) -> None:
        migrations.complete(world, share)

    assert kill_everywhere(sqlite_template, migrating, act, examine_migrated, replicas=True) > 20


def test_killed_while_a_migration_is_cancelled(sqlite_template: Path) -> None:
    def act(world: World, share: str) -> None:
        migrations.cancel(world, share)

    def examine(ruin: Ruin) -> None:
        (share,), (snapshot,) = ruin.world.rows(shares), ruin.world.rows(share_snapshots)
        assert (share.status, share.task_state) == ("available", "migration_cancelled")
        assert snapshot.status == "available"
        assert migrations.others_of(ruin.world, share.id) == []
        assert ruin.world.exports(share.id) == [["10.20.0.99/32", "rw"]]

    assert kill_everywhere(sqlite_template, migrating, act, examine, replicas=True) > 4


def test_killed_while_a_server_gives_its_shares_away(sqlite_template: Path) -> None:
    """Two shares: the first one may be there while the second one is not."""

    def prepare(world: World) -> str:
        first, _ = migrations.a_share(world), migrations.a_share(world)
        server = str(world.share(first).share_server_id)
        migrations.start_server(world, server)
        world.run()
        return server

    def act(world: World, server: str) -> None:
        migrations.complete_server(world, server)

    def examine(ruin: Ruin) -> None:
        world = ruin.world
        (server,) = world.rows(share_servers)
        assert (server.backend, server.status, server.task_state) == ("beta", "active", "migration_success")
        for share in world.rows(shares):
            assert (share.status, share.share_server_id, share.host) == (
                "available",
                server.id,
                migrations.pool_of(world),
            )
            assert world.exports(share.id) == [["10.20.0.99/32", "rw"]]
        assert world.messages(server.source_share_server_id) == []
        assert world.cloud.state.violations() == []

    assert kill_everywhere(sqlite_template, prepare, act, examine, replicas=True) > 30
