"""The generic driver on the simulated cloud, without operations: each verb, after a crash, and from odd states."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import update

from sharewright.clouds.contract import TAG_OWNER, Capacity, InstanceSpec
from sharewright.drivers.generic.document import build_document
from sharewright.drivers.generic.driver import GenericDriver
from sharewright.drivers.generic.exports import export_path
from sharewright.drivers.generic.pools import pool_stats
from sharewright.errors import (
    CloudError,
    CloudObjectMissing,
    CloudUnavailable,
    ConfigurationError,
    DeviceNotBlank,
    GuestError,
    GuestUnreachable,
    NotFound,
)
from sharewright.guest.contract import round_trips
from sharewright.guest.document import Document, Firewall, Usage
from sharewright.identifiers import new_id, utcnow
from sharewright.progress import NoProgress
from sharewright.settings import Backend
from sharewright.store.database import Store
from sharewright.store.statements import statements
from sharewright.store.tables import (
    service_instances,
    share_access_rules,
    share_export_locations,
    share_instances,
    share_servers,
    share_type_extra_specs,
    shares,
)
from story_world import BACKEND, World, make_world


@pytest.fixture
def world(sqlite_store: Store, tmp_path: Path) -> Iterator[World]:
    with make_world(sqlite_store, tmp_path / "state", guest_seconds=1.0) as world:
        yield world


@pytest.fixture
def driver(world: World) -> GenericDriver:
    driver = world.assembly.drivers[BACKEND]
    assert isinstance(driver, GenericDriver)
    return driver


def add_server(world: World, driver: GenericDriver) -> str:
    """A share server that runs."""
    server_id = new_id()
    with world.store.begin() as tx:
        tx.execute(
            share_servers.insert().values(
                id=server_id, project_id="p", share_network_id=world.share_network_id,
                share_network_subnet_id=world.subnet_id, backend=BACKEND, host=f"node@{BACKEND}", status="active",
                created_at=utcnow(),
            )
        )  # fmt: skip
    driver.create_server(server_id, NoProgress())
    return server_id


def add_share(world: World, server_id: str | None, *rules: tuple[str, str, str], **values: str) -> str:
    """A share that the scheduler has placed. ``rules``: (address, level, state). Returns the instance's id."""
    share_id = world.request_share(**values)
    instance_id = str(world.instance(share_id).id)
    with world.store.begin() as tx:
        tx.execute(
            update(share_instances)
            .where(share_instances.c.id == instance_id)
            .values(backend=BACKEND, host=f"node@{BACKEND}#{BACKEND}", share_server_id=server_id)
        )
        for access_to, level, state in rules:
            tx.execute(
                share_access_rules.insert().values(
                    id=new_id(), share_id=share_id, access_type="ip", access_to=access_to, access_level=level,
                    state=state, created_at=utcnow(),
                )
            )  # fmt: skip
    return instance_id


def row(world: World, instance_id: str):
    (found,) = world.rows(share_instances, id=instance_id)
    return found


def vm(world: World) -> str:
    (instance,) = world.cloud.compute.list_instances()
    return instance.id


def ports(document: Document) -> tuple[int, ...]:
    assert document.firewall is not None
    return document.firewall.client_ports


class TestCreate:
    def test_everything_is_recorded_and_the_guest_is_asked_once(self, world: World, driver: GenericDriver) -> None:
        server = add_server(world, driver)
        instance = add_share(world, server, ("10.0.0.5", "rw", "queued_to_apply"))
        driver.prepare_share(instance, NoProgress())
        prepared = row(world, instance)
        assert prepared.volume_id
        assert prepared.volume_serial
        assert prepared.filesystem_uuid
        assert not prepared.filesystem_ready
        before = round_trips.count

        locations = driver.create_share(instance, server, NoProgress())

        assert round_trips.count - before == 1
        made = row(world, instance)
        assert made.volume_attached
        assert made.filesystem_ready
        assert world.guests.exports(vm(world)) == {instance: [["10.0.0.5/32", "rw"]]}
        (location,) = locations
        address, _, path = location.path.partition(":")
        assert path == f"/shares/share-{instance}"
        assert address in {str(port.address) for port in world.cloud.networks.list_ports()}
        assert location.preferred
        assert not location.is_admin_only
        (volume,) = world.cloud.volumes.list_volumes()
        assert volume.name == f"manila-share-{instance}"
        assert volume.tags[TAG_OWNER] == f"share_instance:{instance}"

    def test_a_cifs_share(self, world: World, driver: GenericDriver) -> None:
        server = add_server(world, driver)
        instance = add_share(world, server, ("10.0.0.5", "rw", "queued_to_apply"), protocol="CIFS")
        (location,) = driver.create_share(instance, server, NoProgress())
        (address,) = world.rows(service_instances, id=server)[0].export_addresses
        assert location.path == rf"\\{address}\share-{instance}"
        assert world.guests.exports(vm(world)) == {instance: [["10.0.0.5/32", "rw"]]}

    def test_the_smb_port_is_open_only_where_there_is_an_smb_share(self, world: World, driver: GenericDriver) -> None:
        wall = Firewall(management_macs=("m",), management_from=(), client_macs=("c",), client_ports=(2049, 445))
        before_smb = Firewall(
            management_macs=("m",), management_from=(), client_macs=("c",), client_ports=(2049,)
        )  # of a server made before there were any
        server = add_server(world, driver)
        driver.create_share(add_share(world, server), server, NoProgress())
        for stored in (wall, before_smb):
            assert ports(build_document(world.store, server, stored, str)) == (2049,)
        driver.create_share(add_share(world, server, protocol="CIFS"), server, NoProgress())
        for stored in (wall, before_smb):
            assert ports(build_document(world.store, server, stored, str)) == (2049, 445)

    def test_again_changes_nothing(self, world: World, driver: GenericDriver) -> None:
        server = add_server(world, driver)
        instance = add_share(world, server)
        first = driver.create_share(instance, server, NoProgress())
        before = row(world, instance)
        assert driver.create_share(instance, server, NoProgress()) == first
        assert len(world.cloud.volumes.list_volumes()) == 1
        assert row(world, instance).filesystem_uuid == before.filesystem_uuid

    def test_a_crash_between_mkfs_and_our_note_of_it_does_not_format_again(
        self, world: World, driver: GenericDriver
    ) -> None:
        server = add_server(world, driver)
        instance = add_share(world, server)
        world.cloud.fail("guest.apply", GuestUnreachable, moment="after")  # formatted, and the answer is lost
        with pytest.raises(GuestUnreachable):
            driver.create_share(instance, server, NoProgress())
        assert not row(world, instance).filesystem_ready
        world.cloud.fail("guest.mkfs", CloudError, times=-1)  # would show any attempt to format

        driver_again = heal_and_create(world, driver, instance, server)

        assert driver_again
        assert row(world, instance).filesystem_ready

    @pytest.mark.parametrize("moment", ["before", "after"])
    @pytest.mark.parametrize("method", ["ensure_volume", "attach_volume"])
    def test_a_lost_answer_of_the_cloud_doubles_nothing(
        self, world: World, driver: GenericDriver, method: str, moment: str
    ) -> None:
        server = add_server(world, driver)
        instance = add_share(world, server)
        world.cloud.fail(method, CloudUnavailable, moment=moment)  # type: ignore[arg-type]
        with pytest.raises(CloudUnavailable):
            driver.create_share(instance, server, NoProgress())
        driver.create_share(instance, server, NoProgress())
        assert len(world.cloud.volumes.list_volumes()) == 1
        assert world.guests.exports(vm(world)) == {instance: []}

    def test_a_volume_that_is_not_blank_is_never_formatted(self, world: World, driver: GenericDriver) -> None:
        server = add_server(world, driver)
        instance = add_share(world, server)
        driver.prepare_share(instance, NoProgress())
        foreign = new_id()
        write_filesystem(world, row(world, instance).volume_id, foreign)
        with pytest.raises(DeviceNotBlank, match="not blank"):
            driver.create_share(instance, server, NoProgress())
        assert read_filesystem(world, row(world, instance).volume_id) == foreign
        assert not row(world, instance).filesystem_ready

    def test_a_lost_attachment_is_made_again(self, world: World, driver: GenericDriver) -> None:
        server = add_server(world, driver)
        instance = add_share(world, server)
        driver.create_share(instance, server, NoProgress())
        world.cloud.compute.stop_instance(vm(world))  # so that pulling the disk is not an offence
        world.cloud.compute.detach_volume(vm(world), row(world, instance).volume_id, timeout=1)
        world.cloud.compute.start_instance(vm(world), timeout=1)
        driver.create_share(instance, server, NoProgress())
        assert world.guests.exports(vm(world)) == {instance: []}

    def test_a_failed_mkfs_says_why(self, world: World, driver: GenericDriver) -> None:
        server = add_server(world, driver)
        instance = add_share(world, server)
        world.cloud.fail("guest.mkfs", CloudError, message="the disk is broken")
        with pytest.raises(GuestError, match=r"mkfs_failed.*the disk is broken"):
            driver.create_share(instance, server, NoProgress())

    def test_shares_do_not_suffer_from_a_broken_neighbour(self, world: World, driver: GenericDriver) -> None:
        server = add_server(world, driver)
        broken, sound = add_share(world, server), add_share(world, server)
        world.cloud.fail("guest.mkfs", CloudError)
        with pytest.raises(GuestError):
            driver.create_share(broken, server, NoProgress())
        driver.create_share(sound, server, NoProgress())
        assert sound in world.guests.exports(vm(world))

    def test_volume_type_comes_from_the_share_type_or_the_backend(self, world: World, driver: GenericDriver) -> None:
        specs = []
        real = world.cloud.volumes.ensure_volume

        class Watching:
            """The cloud's volumes, remembering what was asked for."""

            def __getattr__(self, name: str):
                return getattr(type(world.cloud).volumes.fget(world.cloud), name)

            def ensure_volume(self, spec, *, timeout: float):
                specs.append(spec)
                return real(spec, timeout=timeout)

        class WatchedCloud:
            volumes = Watching()

            def __getattr__(self, name: str):
                return getattr(world.cloud, name)

        driver._volumes._cloud = WatchedCloud()
        plain = add_share(world, None)
        driver.prepare_share(plain, NoProgress())
        fast = world.add_share_type("fast", sharewright__volume_type="ssd")
        driver.prepare_share(add_share(world, None, share_type_id=fast), NoProgress())
        assert [spec.volume_type for spec in specs] == [None, "ssd"]
        assert specs[0].size == 1

    def test_encryption_is_that_of_the_type(self, world: World, driver: GenericDriver) -> None:
        server = add_server(world, driver)
        secret = world.add_share_type("secret", sharewright__smb_encryption="required")
        plain = add_share(world, server, protocol="CIFS")
        sealed = add_share(world, server, protocol="CIFS", share_type_id=secret)
        for instance in (plain, sealed):
            driver.create_share(instance, server, NoProgress())
        document = build_document(world.store, server, None, str)
        assert {share.id: share.encryption for share in document.shares} == {plain: "", sealed: "required"}

    def test_file_system_and_squash_are_those_of_the_type_when_the_share_was_requested(
        self, world: World, driver: GenericDriver
    ) -> None:
        server = add_server(world, driver)
        other = world.add_share_type("other", sharewright__filesystem="xfs", sharewright__squash="all_squash")
        plain, chosen = add_share(world, server), add_share(world, server, share_type_id=other)
        with world.store.begin() as tx:
            tx.execute(
                update(share_type_extra_specs)
                .where(share_type_extra_specs.c.share_type_id == other, share_type_extra_specs.c.value == "xfs")
                .values(value="ext4")
            )
        for instance in (plain, chosen):
            driver.create_share(instance, server, NoProgress())
        document = build_document(world.store, server, None, str, advance=False)
        assert {share.id: (share.filesystem.type, share.squash) for share in document.shares} == {
            plain: ("ext4", "no_root_squash"),
            chosen: ("xfs", "all_squash"),
        }


def heal_and_create(world: World, driver: GenericDriver, instance: str, server: str) -> bool:
    """Create again once the guest is known to answer (a failed call makes the server refused for a while)."""
    assert driver.heal_server(server, NoProgress())
    return bool(driver.create_share(instance, server, NoProgress()))


def write_filesystem(world: World, volume_id: str, uuid: str) -> None:
    with world.cloud.state.transaction() as tx:
        tx.execute("UPDATE volumes SET filesystem_uuid = ?, filesystem_type = 'ext4' WHERE id = ?", (uuid, volume_id))


def read_filesystem(world: World, volume_id: str) -> str:
    with world.cloud.state.transaction(write=False) as tx:
        return str(tx.execute("SELECT filesystem_uuid FROM volumes WHERE id = ?", (volume_id,)).fetchone()[0])


class TestDelete:
    def test_the_guest_lets_go_before_the_volume_is_pulled(self, world: World, driver: GenericDriver) -> None:
        server = add_server(world, driver)
        instance, other = add_share(world, server), add_share(world, server)
        driver.create_share(instance, server, NoProgress())
        driver.create_share(other, server, NoProgress())
        before = round_trips.count
        driver.delete_share(instance, server, NoProgress())
        assert round_trips.count - before == 1
        assert [volume.tags[TAG_OWNER] for volume in world.cloud.volumes.list_volumes()] == [f"share_instance:{other}"]
        assert set(world.guests.exports(vm(world))) == {other}
        assert world.cloud.state.violations() == []
        gone = row(world, instance)
        assert (gone.volume_id, gone.volume_attached, gone.wanted) == (None, False, False)
        driver.delete_share(instance, server, NoProgress())  # again: nothing to do
        assert set(world.guests.exports(vm(world))) == {other}

    def test_from_every_half_made_state(self, world: World, driver: GenericDriver) -> None:
        server = add_server(world, driver)
        unknown = new_id()
        driver.delete_share(unknown, server, NoProgress())
        never_made = add_share(world, server)
        driver.delete_share(never_made, server, NoProgress())
        only_volume = add_share(world, server)
        driver.prepare_share(only_volume, NoProgress())
        driver.delete_share(only_volume, None, NoProgress())
        unrecorded = add_share(world, server)
        driver.prepare_share(unrecorded, NoProgress())
        with world.store.begin() as tx:
            tx.execute(update(share_instances).where(share_instances.c.id == unrecorded).values(volume_id=None))
        driver.delete_share(unrecorded, server, NoProgress())
        attached = add_share(world, server)
        driver.prepare_share(attached, NoProgress())
        world.cloud.compute.attach_volume(vm(world), row(world, attached).volume_id, timeout=1)
        driver.delete_share(attached, server, NoProgress())
        assert world.cloud.volumes.list_volumes() == []
        assert world.cloud.state.violations() == []

    def test_with_the_volume_gone(self, world: World, driver: GenericDriver) -> None:
        server = add_server(world, driver)
        instance = add_share(world, server)
        driver.create_share(instance, server, NoProgress())
        world.cloud.compute.stop_instance(vm(world))
        world.cloud.compute.detach_volume(vm(world), row(world, instance).volume_id, timeout=1)
        world.cloud.volumes.delete_volume(row(world, instance).volume_id, timeout=1)
        world.cloud.compute.start_instance(vm(world), timeout=1)
        driver.delete_share(instance, server, NoProgress())
        assert row(world, instance).volume_id is None

    @pytest.mark.parametrize("loss", ["stopped", "gone", "forgotten"])
    def test_with_the_server_lost(self, world: World, driver: GenericDriver, loss: str) -> None:
        server = add_server(world, driver)
        instance = add_share(world, server)
        driver.create_share(instance, server, NoProgress())
        if loss == "stopped":
            world.cloud.compute.stop_instance(vm(world))
        elif loss == "gone":
            world.cloud.compute.delete_instance(vm(world), timeout=1)
        else:
            driver.delete_server(server, NoProgress())
        calls = world.cloud.calls().get("guest.apply", 0)
        driver.delete_share(instance, server, NoProgress())
        assert world.cloud.calls().get("guest.apply", 0) == calls  # nobody there to ask
        assert world.cloud.volumes.list_volumes() == []

    def test_with_a_silent_server(self, world: World, driver: GenericDriver) -> None:
        """The guest is asked once, within its deadline; then the volume is pulled through the cloud."""
        server = add_server(world, driver)
        instance, other = add_share(world, server), add_share(world, server)
        driver.create_share(instance, server, NoProgress())
        driver.create_share(other, server, NoProgress())
        world.cloud.fail("guest.apply", GuestUnreachable, times=-1)
        driver.delete_share(instance, server, NoProgress())
        assert [volume.tags[TAG_OWNER] for volume in world.cloud.volumes.list_volumes()] == [f"share_instance:{other}"]
        assert len(world.cloud.state.violations()) == 1  # the documented price

        world.cloud.forgive()  # the server comes back, and drops what it still had of the share
        assert driver.heal_server(server, NoProgress())
        assert set(world.guests.exports(vm(world))) == {other}

    def test_a_busy_share_is_an_error_unless_forced(
        self, world: World, driver: GenericDriver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sharewright.drivers.generic.release.BUSY_PAUSE", 0.0)
        server = add_server(world, driver)
        instance = add_share(world, server)
        driver.create_share(instance, server, NoProgress())
        world.cloud.fail("guest.unmount", CloudError, times=-1, message="target is busy")
        with pytest.raises(GuestError, match=r"cannot unmount.*target is busy"):
            driver.delete_share(instance, server, NoProgress())
        assert len(world.cloud.volumes.list_volumes()) == 1
        driver.delete_share(instance, server, NoProgress(), force=True)
        assert world.cloud.volumes.list_volumes() == []

    def test_busy_for_a_moment_is_waited_for(
        self, world: World, driver: GenericDriver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sharewright.drivers.generic.release.BUSY_PAUSE", 0.0)
        server = add_server(world, driver)
        instance = add_share(world, server)
        driver.create_share(instance, server, NoProgress())
        world.cloud.fail("guest.unmount", CloudError, times=2)
        driver.delete_share(instance, server, NoProgress())
        assert world.cloud.volumes.list_volumes() == []
        assert world.cloud.state.violations() == []

    def test_a_volume_attached_again_in_between_is_detached_again(self, world: World, driver: GenericDriver) -> None:
        server = add_server(world, driver)
        instance = add_share(world, server)
        driver.create_share(instance, server, NoProgress())
        server_vm, volume = vm(world), row(world, instance).volume_id
        real = world.cloud

        class Meddling:
            """A heal that had read the old rows attaches the volume once more, just after it was detached."""

            meddled = False

            def __getattr__(self, name: str):
                return getattr(real.compute, name)

            def detach_volume(self, instance_id: str, volume_id: str, *, timeout: float) -> None:
                real.compute.detach_volume(instance_id, volume_id, timeout=timeout)
                if not self.meddled:
                    self.meddled = True
                    real.compute.attach_volume(server_vm, volume, timeout=timeout)

        class MeddledCloud:
            compute = Meddling()

            def __getattr__(self, name: str):
                return getattr(real, name)

        driver._volumes._cloud = MeddledCloud()
        driver.delete_share(instance, server, NoProgress())
        assert MeddledCloud.compute.meddled
        assert real.volumes.list_volumes() == []


class TestAccess:
    def test_the_document_holds_the_rules_that_stay(self, world: World, driver: GenericDriver) -> None:
        server = add_server(world, driver)
        states = ["queued_to_apply", "applying", "active", "queued_to_deny", "denying", "error"]
        instance = add_share(world, server, *[(f"10.0.0.{index}", "ro", state) for index, state in enumerate(states)])
        driver.create_share(instance, server, NoProgress())
        document = build_document(world.store, server, None, str)
        (share,) = document.shares
        assert {rule.access_to for rule in share.rules} == {"10.0.0.0", "10.0.0.1", "10.0.0.2"}
        assert not share.filesystem.create
        assert build_document(world.store, server, None, str).generation == document.generation + 1
        assert build_document(world.store, server, None, str, advance=False).generation == document.generation + 1

    def test_the_document_holds_the_keys_of_users(self, world: World, driver: GenericDriver) -> None:
        server = add_server(world, driver)
        instance = add_share(world, server, protocol="CIFS")
        driver.create_share(instance, server, NoProgress())
        (share,) = world.rows(shares)
        with world.store.begin() as tx:
            for name, sealed in (("alice", "s-good"), ("bobby", "s-other-master-key")):
                tx.execute(
                    share_access_rules.insert().values(
                        id=new_id(), share_id=share.id, access_type="user", access_to=name, access_level="rw",
                        access_key=sealed, state="active", created_at=utcnow(),
                    )
                )  # fmt: skip

        def open_key(sealed: str) -> str:
            if sealed != "s-good":
                raise ConfigurationError("cannot be decrypted")
            return "secret"

        document = build_document(world.store, server, None, open_key)
        found = {rule.access_to: (rule.access_type, rule.access_key) for rule in document.shares[0].rules}
        assert found == {"alice": ("user", "secret"), "bobby": ("user", "")}
        assert "secret" not in repr(document)

    def test_a_document_needs_a_server(self, world: World) -> None:
        for advance in (True, False):
            with pytest.raises(NotFound):
                build_document(world.store, new_id(), None, str, advance=advance)

    def test_outcome_of_each_rule_in_one_round_trip(self, world: World, driver: GenericDriver) -> None:
        server = add_server(world, driver)
        instance = add_share(world, server)
        driver.create_share(instance, server, NoProgress())
        share_id = row(world, instance).share_id
        good = world.request_rule(share_id, "10.1.0.0/16", "ro")
        bad = world.request_rule(share_id, "10.1.2.3/16")  # host bits: the guest refuses this one
        before = round_trips.count
        outcomes = {outcome.rule_id: outcome.error for outcome in driver.update_access(instance, server, NoProgress())}
        assert round_trips.count - before == 1
        assert outcomes[good] == ""
        assert "not an address" in outcomes[bad]
        assert world.guests.exports(vm(world)) == {instance: [["10.1.0.0/16", "ro"]]}

    def test_a_share_nobody_serves(self, world: World, driver: GenericDriver) -> None:
        server = add_server(world, driver)
        instance = add_share(world, server)
        with pytest.raises(GuestError, match="not served"):
            driver.update_access(instance, server, NoProgress())


class TestHeal:
    def test_nothing_to_do_changes_nothing(self, world: World, driver: GenericDriver) -> None:
        server = add_server(world, driver)
        instance = add_share(world, server, ("10.0.0.5", "rw", "active"))
        driver.create_share(instance, server, NoProgress())
        world.cloud.reset_calls()
        assert driver.heal_server(server, NoProgress())
        assert world.cloud.calls() == {"find_instance": 1, "guest.observe": 1}
        assert row(world, instance).bytes_used == 0

    def test_a_look_keeps_what_is_in_use(self, world: World, driver: GenericDriver) -> None:
        """In the round trip that the look takes anyway, and writing only what differs of the shares."""
        server = add_server(world, driver)
        instances = [add_share(world, server, ("10.0.0.5", "rw", "active")) for _ in range(3)]
        for instance in instances:
            driver.create_share(instance, server, NoProgress())
        costs = []
        for used, clients in ((10, 1), (10, 2)):
            world.guests.use(instances[0], bytes_used=used * 2**20, bytes_read=5, bytes_written=used * 2**20)
            world.guests.use_server(server, Usage(nfs_clients=clients, nfs_calls=9, nfs_operations=(0,) * 38 + (7, 1)))
            trips, sql = round_trips.count, statements.count
            assert driver.heal_server(server, NoProgress())
            costs.append((round_trips.count - trips, statements.count - sql))
            found = [row(world, instance) for instance in instances]
            assert [each.bytes_used for each in found] == [used * 2**20, 0, 0]
            assert (found[0].bytes_read, found[0].bytes_written) == (5, used * 2**20)
            assert {each.bytes_total for each in found} == {2**30}
            (told,) = world.rows(share_servers, id=server)
            assert told.usage["nfs_clients"] == clients
            assert (told.usage["nfs_operations"]["write"], told.usage["nfs_operations"]["other"]) == (7, 1)
            assert told.usage_at is not None
        assert costs[0][0] == costs[1][0] == 1
        assert costs[1][1] == costs[0][1] - 1, "shares in which nothing changed are not written"

    def test_a_file_system_that_does_not_answer_is_unknown(self, world: World, driver: GenericDriver) -> None:
        server = add_server(world, driver)
        instance = add_share(world, server, ("10.0.0.5", "rw", "active"))
        driver.create_share(instance, server, NoProgress())
        world.guests.use(instance, bytes_used=None, bytes_total=None, inodes_used=None, inodes_total=None)
        assert driver.heal_server(server, NoProgress())
        assert row(world, instance).bytes_used is None

    def test_a_lost_attachment_costs_a_question_for_each_share_of_the_server(
        self, world: World, driver: GenericDriver
    ) -> None:
        server = add_server(world, driver)
        instances = [add_share(world, server, ("10.0.0.5", "rw", "active")) for _ in range(3)]
        for instance in instances:
            driver.create_share(instance, server, NoProgress())
        world.cloud.compute.detach_volume(vm(world), row(world, instances[1]).volume_id, timeout=1)
        world.cloud.reset_calls()
        assert driver.heal_server(server, NoProgress())
        calls = world.cloud.calls()
        assert (calls["find_volume"], calls["attach_volume"], calls["guest.apply"]) == (3, 1, 1)
        assert "list_volumes" not in calls
        assert world.guests.exports(vm(world)).keys() == set(instances)

    def test_a_stopped_vm_with_a_lost_attachment_serves_again(self, world: World, driver: GenericDriver) -> None:
        server = add_server(world, driver)
        instance = add_share(world, server, ("10.0.0.5", "rw", "active"))
        driver.create_share(instance, server, NoProgress())
        world.cloud.compute.stop_instance(vm(world))
        world.cloud.compute.detach_volume(vm(world), row(world, instance).volume_id, timeout=1)
        assert driver.heal_server(server, NoProgress())
        assert world.guests.exports(vm(world)) == {instance: [["10.0.0.5/32", "rw"]]}

    def test_a_lost_export_comes_back(self, world: World, driver: GenericDriver) -> None:
        server = add_server(world, driver)
        instance = add_share(world, server, ("10.0.0.5", "rw", "active"))
        driver.create_share(instance, server, NoProgress())
        with world.cloud.state.transaction() as tx:
            tx.execute("UPDATE guest_shares SET rules = NULL")
        assert world.guests.exports(vm(world)) == {}
        assert driver.heal_server(server, NoProgress())
        assert world.guests.exports(vm(world)) == {instance: [["10.0.0.5/32", "rw"]]}

    def test_a_volume_that_is_gone_does_not_hide_the_others(self, world: World, driver: GenericDriver) -> None:
        server = add_server(world, driver)
        lost, kept = add_share(world, server), add_share(world, server, ("10.0.0.5", "rw", "active"))
        for instance in (lost, kept):
            driver.create_share(instance, server, NoProgress())
        world.cloud.compute.stop_instance(vm(world))
        for instance in (lost, kept):
            world.cloud.compute.detach_volume(vm(world), row(world, instance).volume_id, timeout=1)
        world.cloud.volumes.delete_volume(row(world, lost).volume_id, timeout=1)
        assert not driver.heal_server(server, NoProgress())
        assert world.guests.exports(vm(world)) == {kept: [["10.0.0.5/32", "rw"]]}

    def test_not_possible_now(self, world: World, driver: GenericDriver) -> None:
        assert not driver.heal_server(new_id(), NoProgress())
        server = add_server(world, driver)
        world.cloud.fail("guest.wait_ready", GuestUnreachable, times=-1)
        world.cloud.fail("guest.observe", GuestUnreachable, times=-1)
        assert not driver.heal_server(server, NoProgress())
        assert len(world.cloud.compute.list_instances()) == 1  # silent, but there: never made a second time

    def test_a_vm_that_is_gone_is_made_again_under_the_same_address(self, world: World, driver: GenericDriver) -> None:
        server = add_server(world, driver)
        instance = add_share(world, server, ("10.0.0.5", "rw", "active"))
        before = driver.create_share(instance, server, NoProgress())
        formatted = row(world, instance).filesystem_uuid
        world.cloud.compute.delete_instance(vm(world), timeout=1)
        assert driver.heal_server(server, NoProgress())
        assert world.guests.exports(vm(world)) == {instance: [["10.0.0.5/32", "rw"]]}
        assert driver.create_share(instance, server, NoProgress()) == before
        assert row(world, instance).filesystem_uuid == formatted
        assert len(world.cloud.volumes.list_volumes()) == 1

    @pytest.mark.parametrize("protocol", ["NFS", "CIFS"])
    def test_export_locations_follow_the_servers_address(
        self, world: World, driver: GenericDriver, protocol: str
    ) -> None:
        server = add_server(world, driver)
        instance = add_share(world, server, protocol=protocol)
        (location,) = driver.create_share(instance, server, NoProgress())
        with world.store.begin() as tx:
            tx.execute(
                share_export_locations.insert().values(
                    id=new_id(), share_instance_id=instance, path=export_path(protocol, "10.9.9.9", instance),
                    is_admin_only=False, preferred=True, created_at=utcnow(),
                )
            )  # fmt: skip
        driver.heal_server(server, NoProgress())
        (found,) = world.rows(share_export_locations)
        assert found.path == location.path


class TestServers:
    def test_the_subnet_is_learned_from_the_cloud(self, world: World, driver: GenericDriver) -> None:
        add_server(world, driver)
        from sharewright.store.tables import share_network_subnets

        (subnet,) = world.rows(share_network_subnets, id=world.subnet_id)
        assert (subnet.cidr, subnet.ip_version, subnet.network_type) == ("10.20.0.0/24", 4, "flat")

    def test_a_missing_network_says_so(self, world: World, driver: GenericDriver) -> None:
        from sharewright.store.tables import share_network_subnets

        with world.store.begin() as tx:
            tx.execute(update(share_network_subnets).values(neutron_net_id=new_id()))
        with pytest.raises(CloudObjectMissing, match="does not have"):
            add_server(world, driver)
        with world.store.begin() as tx:
            tx.execute(update(share_network_subnets).values(neutron_net_id=None))
        with pytest.raises(CloudObjectMissing, match="names no network"):
            add_server(world, driver)
        assert world.cloud.compute.list_instances() == []

    def test_the_least_loaded_server_with_room(self, world: World, driver: GenericDriver) -> None:
        full, light, ill = (add_server(world, driver) for _ in range(3))
        for _ in range(2):
            add_share(world, full)
        add_share(world, light)
        with world.store.begin() as tx:
            tx.execute(update(share_servers).where(share_servers.c.id == ill).values(healthy=False))
        new = add_share(world, None)

        def choose(**limits: int) -> str | None:
            driver._settings = msgspec.structs.replace(world.settings.backends[BACKEND], **limits)
            with world.store.begin() as tx:
                return driver.choose_server([full, light, ill], new, tx)

        assert choose() == light
        assert choose(max_shares_per_share_server=1) is None
        assert choose(max_shares_per_share_server=2) == light
        assert choose(max_share_server_size=1) is None
        assert choose(max_share_server_size=2) == light
        # What a transaction has chosen, it counts.
        driver._settings = msgspec.structs.replace(
            world.settings.backends[BACKEND], max_shares_per_share_server=3, max_share_server_size=3
        )
        with world.store.begin() as tx:
            chosen = [driver.choose_server([full, light, ill], new, tx) for _ in range(4)]
            assert driver.choose_server([light], new, tx) is None
        assert sorted(map(str, chosen)) == sorted(map(str, [light, light, full, None]))

    def test_pools(self, world: World, driver: GenericDriver) -> None:
        (pool,) = driver.pools()
        assert pool.pool == BACKEND
        assert pool.total_capacity == world.settings.simulated.capacity
        assert pool.capabilities["driver_handles_share_servers"] is True
        assert pool.capabilities["storage_protocol"] == "NFS_CIFS"
        assert "simulated" in pool.capabilities["vendor_name"]
        assert pool.capabilities["volume_type_required"] is False

    def test_a_pool_for_each_volume_type(self, sqlite_store: Store, tmp_path: Path) -> None:
        with make_world(
            sqlite_store, tmp_path / "state", volume_types=("fast",), reserved_share_percentage=20,
            reserved_share_extend_percentage=5,
        ) as world:  # fmt: skip
            driver = world.assembly.drivers[BACKEND]
            fast = world.add_share_type("fast", sharewright__volume_type="fast")
            world.request_share(size=3, share_type_id=fast)
            world.run()
            found = {pool.pool: pool for pool in driver.pools()}
        assert found.keys() == {BACKEND, "fast"}
        assert [found[name].provisioned_capacity for name in (BACKEND, "fast")] == [0.0, 3.0]
        assert [found[name].capabilities["volume_types"] for name in (BACKEND, "fast")] == [[], ["fast"]]
        assert found["fast"].capabilities["volume_type_required"] is True
        names = ("reserved_percentage", "reserved_snapshot_percentage", "reserved_share_extend_percentage")
        assert [found["fast"].capabilities[name] for name in names] == [20, 20, 5]

    @pytest.mark.parametrize("error", [CloudObjectMissing, CloudError, CloudUnavailable])
    def test_a_volume_type_that_the_cloud_has_not_is_no_pool(self, error: type[CloudError]) -> None:
        """The backend's own pool is reported all the same; a passing fault leaves the last report as it is."""

        class Volumes:
            def capacity(self, volume_type: str | None = None) -> Capacity:
                if volume_type is not None:
                    raise error(f"Volume type {volume_type} is not there.", hint="Make it.")
                return Capacity(total=1.0, free=1.0)

        class Typeless:
            name = "openstack"
            volumes = Volumes()

        settings = Backend(cloud="simulated", volume_types=("fast",))
        with pytest.raises(CloudUnavailable) if error is CloudUnavailable else nullcontext():
            assert [pool.pool for pool in pool_stats(BACKEND, settings, Typeless())] == [BACKEND]  # type: ignore[arg-type]

    @pytest.mark.parametrize(("extend", "from_snapshot", "told"), [(0, 0, (30, 30)), (10, 20, (10, 20))])
    def test_what_is_reserved(self, world: World, extend: int, from_snapshot: int, told: tuple[int, int]) -> None:
        settings = Backend(
            cloud="simulated",
            reserved_share_percentage=30,
            reserved_share_extend_percentage=extend,
            reserved_share_from_snapshot_percentage=from_snapshot,
        )
        (pool,) = pool_stats(BACKEND, settings, world.cloud)
        assert pool.reserved_percentage == 30
        capabilities = pool.capabilities
        assert told == (capabilities["reserved_share_extend_percentage"], capabilities["reserved_snapshot_percentage"])


def test_instance_spec_is_never_shown_with_its_keys(world: World, driver: GenericDriver) -> None:
    """The config drive holds private keys; nothing that is logged may show it."""
    spec = InstanceSpec(name="x", image="y", flavor=None, ports=(), files={"user_data": b"SECRET"}, tags={})  # type: ignore[arg-type]
    assert "SECRET" not in repr(spec)
