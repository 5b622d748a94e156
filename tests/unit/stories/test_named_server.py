"""Shares on a machine that the backend's configuration names: all that can be done with them, and nothing to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from operators_machine import SECONDS, make_machine, named_server, operators_cloud
from sharewright.clouds.contract import Instance
from sharewright.errors import CloudError, ConfigurationError
from sharewright.identifiers import new_id, utcnow
from sharewright.operations.assembly import assemble
from sharewright.operations.maintenance import Maintenance
from sharewright.operations.reconciler import reconcile
from sharewright.settings import Backend
from sharewright.store.database import Store
from sharewright.store.tables import operations, retired_volumes, service_instances, share_servers, shares
from story_world import BACKEND, World, make_settings, make_world

LIFE = ("start_instance", "reboot_instance", "delete_instance", "ensure_instance")


@pytest.fixture
def world(store: Store, tmp_path: Path) -> Iterator[World]:
    """On SQLite and on PostgreSQL."""
    with make_world(store, tmp_path / "state", named=True) as world:
        world.cloud.reset_calls()  # the operator's own
        yield world
        assert not set(LIFE) & set(world.cloud.calls())


def machine(world: World) -> Instance:
    found = world.cloud.compute.find_named_instance("nas")
    assert found is not None
    return found


def make_share(world: World, **values: Any) -> str:
    share = world.request_share(**values)
    world.request_rule(share, "192.0.2.50")
    world.run()
    assert world.share(share).status == "available"
    return share


def heal(world: World) -> Any:
    """The row of the server after a look."""
    (server,) = world.rows(share_servers)
    world.request_server_operation("heal_server", server.id)
    world.run()
    (server,) = world.rows(share_servers)
    return server


def test_the_life_of_a_share(world: World) -> None:
    share = make_share(world)
    address = world.settings.backends[BACKEND].server.management_address
    instance = world.instance(share)
    assert world.locations(share) == [f"{address}:/shares/share-{instance.id}"]
    assert world.exports(share) == [["192.0.2.50/32", "rw"]]
    assert world.share(share).share_server_id is None
    assert world.share(share).share_network_id is None
    (server,) = world.rows(share_servers)
    assert (server.named, server.is_auto_deletable, server.status) == (True, False, "active")
    assert world.rows(service_instances) == []
    (volume,) = world.cloud.volumes.list_volumes()
    assert volume.instance_id == machine(world).id

    world.request_extend(share, 3)
    world.run()
    assert (world.share(share).status, world.share(share).size) == ("available", 3)
    snapshot = world.request_snapshot(share)
    world.run()
    assert world.snapshot(snapshot).status == "available"
    clone = world.request_clone(snapshot)
    world.run()
    assert world.share(clone).status == "available"
    assert world.instance(clone).share_server_id == server.id
    world.request_revert(share, snapshot)
    world.run()
    assert world.share(share).status == "available"
    world.check_consistent()
    world.request_snapshot_delete(snapshot)
    world.run()
    world.request_shrink(share, 2)
    world.run()
    assert (world.share(share).status, world.share(share).size) == ("available", 2)
    assert world.exports(share) == [["192.0.2.50/32", "rw"]]
    world.check_consistent()
    for each in (share, clone):
        world.request_delete(each)
        world.run()
    assert list(world.cloud.volumes.list_volumes()) == []
    assert world.usage() == (0, 0)
    assert world.cloud.violations() == []
    assert machine(world).running


def disks(world: World, volume_id: str) -> Any:
    """The cloud's row of a volume, whose ever it is."""
    with world.cloud.state.transaction(write=False) as tx:
        return tx.execute("SELECT * FROM volumes WHERE id = ?", (volume_id,)).fetchone()


def test_a_share_is_given_away_and_taken_over_again(world: World) -> None:
    share = make_share(world)
    (server,) = world.rows(share_servers)
    (path,), volume = world.locations(share), str(world.instance(share).volume_id)
    filesystem = world.instance(share).filesystem_uuid
    world.request_unmanage(share)
    world.run()
    assert world.rows(shares, id=share) == []
    row = disks(world, volume)
    assert (row["deployment"], row["filesystem_uuid"], row["instance_id"]) == ("", filesystem, None)
    assert (world.usage(), world.cloud.volumes.list_volumes()) == ((0, 0), [])
    again = world.request_manage(server.id, path)
    world.run()
    found, instance = world.share(again), world.instance(again)
    assert (found.status, found.share_server_id) == ("available", None)
    assert (instance.share_server_id, instance.volume_id) == (server.id, volume)
    assert (instance.filesystem_uuid, instance.taken_over) == (filesystem, True)
    world.request_rule(again, "192.0.2.50")
    world.run()
    assert world.exports(again) == [["192.0.2.50/32", "rw"]]
    world.check_consistent()
    assert [each.id for each in world.rows(share_servers)] == [server.id]


def test_the_first_share_of_a_machine_may_be_one_that_is_managed(world: World) -> None:
    """There is no row of the machine yet. It has no file system, so it is given back as it was."""
    foreign = world.cloud.volumes.add_foreign_volume("theirs", 2)
    passing = {"id": new_id(), "project_id": "", "backend": BACKEND, "host": f"{world.settings.node}@{BACKEND}"}
    with world.store.begin() as tx:  # so that the request knows the host
        tx.execute(share_servers.insert().values(**passing, status="active", named=True, created_at=utcnow()))
    managed = world.request_manage(passing["id"], volume_id="theirs")
    with world.store.begin() as tx:
        tx.execute(share_servers.delete())
    world.run()
    assert world.share(managed).status == "manage_error"
    (message,) = world.messages(managed)
    assert "no file system" in message.detail
    row = disks(world, foreign)
    assert (row["deployment"], row["filesystem_uuid"], row["instance_id"]) == ("", None, None)
    assert [each.named for each in world.rows(share_servers)] == [True]
    world.request_delete(managed)
    world.run()
    assert disks(world, foreign) is not None


def test_what_the_operator_has_attached_to_the_machine_is_not_taken(world: World) -> None:
    """He may have it mounted for something else."""
    make_share(world)
    (server,) = world.rows(share_servers)
    foreign = world.cloud.volumes.add_foreign_volume("theirs", 2)
    nas = machine(world).id
    with world.cloud.state.transaction() as tx:
        tx.execute("UPDATE volumes SET instance_id = ? WHERE id = ?", (nas, foreign))
    managed = world.request_manage(server.id, volume_id="theirs")
    world.run()
    assert world.share(managed).status == "manage_error"
    (message,) = world.messages(managed)
    assert "attached to instance" in message.detail
    row = disks(world, foreign)
    assert (row["deployment"], row["instance_id"]) == ("", nas)


def test_a_volume_that_the_cloud_keeps_is_retired(world: World) -> None:
    """Of a share that shrank on the machine; it goes as soon as the cloud lets it go."""
    share = make_share(world, size=4)
    old = world.instance(share).volume_id
    world.cloud.fail("delete_volume", CloudError, times=9999, message="Volume has 1 snapshot.")
    world.request_shrink(share, 2)
    world.run()
    assert (world.share(share).status, world.share(share).size) == ("available", 2)
    assert world.exports(share) == [["192.0.2.50/32", "rw"]]
    (left,) = world.rows(retired_volumes)
    assert left.volume_id == old
    kept = world.cloud.volumes.find_volume(str(old))
    assert kept is not None
    assert kept.instance_id is None
    world.check_consistent()
    world.mend()
    world.tidy()
    assert world.rows(retired_volumes) == []
    assert [volume.id for volume in world.cloud.volumes.list_volumes()] == [world.instance(share).volume_id]


def test_a_snapshot_that_clients_mount(world: World) -> None:
    share = make_share(world, mount_snapshot_support=True)
    snapshot = world.request_snapshot(share)
    world.run()
    rule = world.request_snapshot_rule(snapshot, "192.0.2.51")
    world.run()
    assert world.snapshot_exports(snapshot) == [["192.0.2.51/32", "ro"]]
    assert {volume.instance_id for volume in world.cloud.volumes.list_volumes()} == {machine(world).id}
    world.request_snapshot_deny(rule)
    world.run()
    assert world.snapshot_exports(snapshot) is None
    assert [volume.id for volume in world.cloud.volumes.list_volumes()] == [world.instance(share).volume_id]
    world.check_consistent()


def test_the_life_of_an_smb_share(world: World) -> None:
    share = world.request_share(protocol="CIFS")
    world.request_rule(share, "192.0.2.50")
    world.request_rule(share, "192.0.2.51", level="ro")
    world.run()
    address = world.settings.backends[BACKEND].server.management_address
    path = rf"\\{address}\share-{world.instance(share).id}"
    assert world.locations(share) == [path]
    served = world.exports(share)
    assert served is not None
    assert len(served) == 2
    world.request_extend(share, 4)
    world.run()
    old = world.instance(share).volume_id
    world.request_shrink(share, 2)
    world.run()
    instance = world.instance(share)
    assert (world.share(share).status, world.share(share).size) == ("available", 2)
    assert world.exports(share) == served
    assert world.locations(share) == [path]
    (volume,) = world.cloud.volumes.list_volumes()
    assert (volume.id, volume.size, volume.instance_id) == (instance.volume_id, 2, machine(world).id)
    assert volume.id != old
    snapshot = world.request_snapshot(share)
    world.run()
    clone = world.request_clone(snapshot, protocol="CIFS")
    world.run()
    assert world.share(clone).status == "available"
    world.request_revert(share, snapshot)
    world.run()
    assert world.exports(share) == served
    world.check_consistent()
    world.request_delete(clone)
    world.request_snapshot_delete(snapshot)
    world.run()
    world.request_delete(share)
    world.run()
    assert (world.cloud.volumes.list_volumes(), world.usage()) == ([], (0, 0))
    assert world.cloud.violations() == []


def test_a_group_and_its_snapshots(world: World) -> None:
    """All of its shares are there, so that one freeze has them all; another group is made of what was then."""
    group, made = world.request_group(3, 2)
    world.run()
    (server,) = world.rows(share_servers)
    assert {world.instance(each).share_server_id for each in made} == {server.id}
    assert {world.share(each).share_server_id for each in made} == {None}
    snapshot = world.request_group_snapshot(group)
    world.run()
    members = world.members(snapshot)
    assert (world.group_snapshot(snapshot).status, len(members)) == ("available", 3)
    assert world.cloud.volumes.are_of_one_moment([member.provider_location for member in members])
    assert world.guests.frozen_shares() == []
    (told,) = world.rows(operations, kind="create_group_snapshot")
    assert told.guest_round_trips == 2
    copy = world.request_group_from(snapshot)
    world.run()
    copies = world.rows(shares, share_group_id=copy)
    assert [row.status for row in copies] == ["available"] * 3
    assert {world.instance(row.id).share_server_id for row in copies} == {server.id}
    world.check_consistent()
    world.request_group_snapshot_delete(snapshot)
    world.run()
    for each in [*made, *(row.id for row in copies)]:
        world.request_delete(each)
    world.run()
    assert (world.cloud.volumes.list_volumes(), world.cloud.volumes.list_snapshots()) == ([], [])
    assert world.cloud.violations() == []


def test_shares_at_once_are_on_one_server(world: World) -> None:
    wanted = [world.request_share() for _ in range(6)]
    world.run_worker()
    assert {world.share(each).status for each in wanted} == {"available"}
    assert len({world.instance(each).share_server_id for each in wanted}) == 1
    assert len(world.rows(share_servers)) == 1


def test_a_machine_that_comes_back_serves_again(world: World) -> None:
    """Its fstab and exports do that by themselves; what is missing then, healing tells it."""
    share = make_share(world)
    with operators_cloud(world.settings) as operator:
        operator.compute.stop_instance(machine(world).id)
        server = heal(world)
        assert (server.healthy, server.status) == (False, "active")
        assert not machine(world).running  # it is not ours to start
        operator.compute.start_instance(machine(world).id, timeout=SECONDS)
        operator.compute.detach_volume(machine(world).id, "not ours", timeout=SECONDS)
    world.cloud.reset_calls()
    assert heal(world).healthy
    assert world.exports(share) == [["192.0.2.50/32", "rw"]]


def test_a_lost_attachment_is_made_again(world: World) -> None:
    share = make_share(world)
    instance = world.instance(share)
    with world.cloud.state.transaction() as tx:
        tx.execute("UPDATE volumes SET instance_id = NULL")
        tx.execute("UPDATE guest_shares SET mounted = 0")
    assert heal(world).healthy
    (volume,) = world.cloud.volumes.list_volumes()
    assert (volume.id, volume.instance_id) == (instance.volume_id, machine(world).id)


def test_a_silent_machine_is_never_rebooted(world: World) -> None:
    make_share(world)
    world.cloud.set_delay("guest.wait_ready", 60.0)
    world.cloud.set_delay("guest.observe", 60.0)
    with world.store.begin() as tx:
        tx.execute(share_servers.update().values(healthy=False))
    for _ in range(5):
        world.cloud.fail("guest.wait_ready", times=1)
        assert not heal(world).healthy
    assert machine(world).running


def test_while_it_is_away_a_share_waits_and_then_says_why(world: World) -> None:
    with operators_cloud(world.settings) as operator:
        operator.compute.stop_instance(machine(world).id)
    share = world.request_share()
    world.run()
    assert world.share(share).status == "error"
    (message,) = world.messages(share)
    assert "Machine nas of backend alpha does not answer" in message.detail
    assert list(world.cloud.volumes.list_volumes()) == []
    world.request_delete(share)
    world.run()
    world.check_consistent()


def test_a_machine_that_is_gone(world: World) -> None:
    """Shares are deleted all the same; a new machine of that name has them again."""
    kept, deleted = make_share(world), make_share(world)
    with operators_cloud(world.settings) as operator:
        operator.compute.delete_instance(machine(world).id, timeout=SECONDS)
    assert world.cloud.calls().pop("delete_instance") == 1
    world.cloud.reset_calls()
    assert not heal(world).healthy
    world.request_delete(deleted)
    world.run()
    assert [row.id for row in world.rows(share_servers)]
    failed = world.request_share()
    world.run()
    (message,) = world.messages(failed)
    assert "The cloud has no machine nas" in message.detail
    world.request_delete(failed)
    world.run()
    with operators_cloud(world.settings) as operator:
        port = operator.networks.list_ports()[0]
        operator.networks.delete_port(port.id, timeout=SECONDS)
    _, again = make_machine(world.settings)
    assert again.management_address == world.settings.backends[BACKEND].server.management_address
    world.cloud.reset_calls()
    backend = replace_server(world, again)
    assert heal(backend).healthy
    assert backend.exports(kept) == [["192.0.2.50/32", "rw"]]


def replace_server(world: World, server: Any) -> World:
    """The world as workers with that configuration see it."""
    backend = msgspec.structs.replace(world.settings.backends[BACKEND], server=server)
    settings = msgspec.structs.replace(world.settings, backends={BACKEND: backend})
    return replace(world, settings=settings, assembly=assemble(settings, world.store))


def test_it_is_looked_at_and_never_taken_away(world: World) -> None:
    share = make_share(world)
    world.request_delete(share)
    world.run()
    with world.store.begin() as tx:
        tx.execute(share_servers.update().values(unused_since=share_servers.c.created_at))
    settings = msgspec.structs.replace(
        world.settings, worker=msgspec.structs.replace(world.settings.worker, unused_server_seconds=0.01)
    )
    assert reconcile(world.store, settings, backends=[BACKEND]) == {"heal_server": 1}
    world.run()
    maintenance = Maintenance(
        world.store, settings, drivers=world.assembly.drivers, clouds=world.assembly.clouds, holder="test"
    )
    looked_at = world.rows(share_servers)[0].looked_at
    maintenance._sweeper.sweep()
    (server,) = world.rows(share_servers)
    assert server.looked_at == looked_at  # its VM is not missing from the list of ours
    assert {row.state for row in world.rows(operations)} == {"succeeded"}


def test_pools_say_so(world: World) -> None:
    (pool,) = world.assembly.drivers[BACKEND].pools()
    capabilities = pool.capabilities
    assert capabilities["driver_handles_share_servers"] is False
    assert (capabilities["ipv4_support"], capabilities["ipv6_support"]) == (True, False)
    assert capabilities["server_flavors"] == []
    assert capabilities["share_server_multiple_subnet_support"] is False


def test_types_choose_it(world: World) -> None:
    """A type that asks for share servers finds none here, nor does one that asks for a flavor of them."""
    for name, specs, why in (
        ("servers", {"driver_handles_share_servers": "True"}, "driver_handles_share_servers = True"),
        (
            "flavor",
            {"driver_handles_share_servers": "False", "sharewright__server_flavor": "big"},
            "sharewright:server_flavor = big: the backend offers no choice",
        ),
    ):
        share = world.request_share(share_type_id=world.add_share_type(name, **specs))
        world.run()
        (message,) = world.messages(share)
        assert why in message.detail


def test_addresses_on_a_network(sqlite_store: Store, tmp_path: Path) -> None:
    """Where the cloud tells them; the addresses of an export may be others than the controllers'."""
    settings = make_settings(tmp_path / "state")
    _, server = make_machine(settings)
    address = server.management_address
    server = msgspec.structs.replace(server, management_address="office", export_addresses=("198.51.100.9", "office"))
    options = {"driver_handles_share_servers": False, "server": server}
    settings = make_settings(tmp_path / "state", **options)
    assembly = assemble(settings, sqlite_store)
    instances = assembly.drivers[BACKEND]._instances  # type: ignore[attr-defined]
    found = instances.find("x")
    assert found.management_address == address
    assert found.export_addresses == ("198.51.100.9", address)
    assembly.close()


def test_two_backends_do_not_share_a_machine(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "state")
    one = Backend(cloud="simulated", **named_server(settings))
    with pytest.raises(ValueError, match=r"backends.b.server: expected a machine of its own; nas is a's"):
        msgspec.structs.replace(settings, backends={"a": one, "b": one})


def test_another_deployment_on_the_machine_is_refused(world: World, tmp_path: Path, sqlite_template: Path) -> None:
    """The first keeps its shares; the second says why it has none."""
    share = make_share(world)
    store = Store(f"sqlite:///{tmp_path}/other.db")
    (tmp_path / "other.db").write_bytes(sqlite_template.read_bytes())
    second = msgspec.structs.replace(world.settings, deployment="second")
    assembly = assemble(second, store)
    other = World(store, second, assembly, "", "", "")
    other.share_type_id = other.add_share_type("default", driver_handles_share_servers="False")
    refused = other.request_share()
    other.run()
    assert other.share(refused).status == "error"
    (message,) = other.messages(refused)
    assert "the document is for server" in message.detail
    assert list(other.cloud.volumes.list_volumes()) == []
    assert heal(world).healthy
    assert world.exports(share) == [["192.0.2.50/32", "rw"]]
    assembly.close()
    store.close()


def test_drivers_that_make_servers_only(sqlite_store: Store, tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "state")
    options = named_server(settings) | {"driver": "rsync_driver:RSYNC"}
    with pytest.raises(ConfigurationError, match="makes its share servers itself"):
        assemble(make_settings(tmp_path / "state", **options), sqlite_store)
