"""Snapshots of shares that clients use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import openstack.exceptions
import pytest

from client_vm import CommandFailed
from deployment import Deployment, wait_for
from sharewright.clouds.contract import TAG_OWNER, Cloud
from sharewright.configuration_file import load
from sharewright.operations.assembly import assemble, open_secrets, service_instance_settings
from sharewright.service_instance.instances import CloudServiceInstances
from sharewright.store.tables import operations, share_snapshot_instances
from steady_writer import writing
from stories_on_clouds.machines import Machines, cloud_of, share_instance, volumes_of
from stories_on_clouds.managed_shares import server_unmanaged_and_managed_again, share_unmanaged_and_managed_again
from stories_on_clouds.share_types import make_share_type
from tenants import Shares

# What a client has read it may show for a while, whoever lets it in.
READ_ANEW = "echo 3 > /proc/sys/vm/drop_caches; timeout -s KILL 30 cat /mnt/then/file"


class Snapshots:
    """Fixtures: ``red``, ``deployment``, ``machines``."""

    @pytest.fixture
    def cloud(self, deployment: Deployment) -> Iterator[Cloud]:
        cloud = cloud_of(deployment)
        yield cloud
        cloud.close()

    @pytest.fixture(scope="class")
    def share(self, red: Shares) -> Iterator[str]:
        share_id = red.create("snapped")
        red.wait(share_id)
        red.allow(share_id, red.tenant.client.address)
        yield share_id
        for snapshot in red.api.share_snapshots():
            delete(red, snapshot.id)
        red.delete(share_id)

    # First, as these need a share server without other shares.

    def test_a_share_that_is_unmanaged_and_managed_again(
        self, red: Shares, deployment: Deployment, cloud: Cloud
    ) -> None:
        share_unmanaged_and_managed_again(red, deployment, cloud)

    def test_a_server_that_is_unmanaged_and_managed_again(
        self, red: Shares, deployment: Deployment, cloud: Cloud
    ) -> None:
        server_unmanaged_and_managed_again(red, deployment, cloud)

    def test_snapshot_under_a_client_that_writes(
        self, red: Shares, share: str, deployment: Deployment, cloud: Cloud
    ) -> None:
        client = red.tenant.client
        client.mount(red.export(share), "/mnt/snapped")
        lines = "wc -l < /mnt/snapped/steady"
        with writing(client, "/mnt/snapped") as outcome:
            before = int(client.run(lines))
            first = taken(red, share, "first")
            after = int(client.run(lines))
            second = taken(red, share, "second")
        (written,) = outcome
        print(f"longest gap between writes: {written.gap:.2f} s, {written.lines} writes")
        assert (written.errors, written.same) == ([], True)
        assert client.run("cat /mnt/snapped/steady").split() == [str(line) for line in range(written.lines)]
        client.unmount("/mnt/snapped")
        for snapshot in (first, second):
            row = snapshot_instance(deployment, snapshot)
            found = cloud.volumes.find_snapshot(row.provider_location)
            assert found is not None
            assert (found.ready, found.volume_id) == (True, share_instance(deployment, share).volume_id)
            told = story(deployment, snapshot)
            assert (told.guest_round_trips, told.attempts) == (2, 1)
            print(f"stood still for {told.facts['frozen_seconds']:.2f} s")
        with pytest.raises(openstack.exceptions.ForbiddenException):
            red.api.delete_share(share)
        self.made_from_it(red, share, first, between=(before, after))
        for snapshot in (first, second):
            gone = snapshot_instance(deployment, snapshot).provider_location
            delete(red, snapshot)
            assert cloud.volumes.find_snapshot(gone) is None

    def made_from_it(self, red: Shares, share: str, snapshot: str, *, between: tuple[int, int]) -> None:
        """A larger share holds what the snapshot's moment was: all that clients had been promised, and no half line."""
        client = red.tenant.client
        made = red.api.create_share(
            name="copy",
            share_protocol=red.protocol,
            size=3,
            share_type=red.api.get_share(share).share_type,
            share_network_id=red.tenant.share_network_id,
            snapshot_id=snapshot,
        )
        red.wait(made.id)
        red.allow(made.id, client.address)
        client.mount(red.export(made.id), "/mnt/copy")
        client.mount(red.export(share), "/mnt/snapped")
        copied = client.run("cat /mnt/copy/steady").split()
        assert copied == [str(line) for line in range(len(copied))]
        assert between[0] <= len(copied) <= between[1]
        kib = int(client.run("df -k --output=size /mnt/copy | tail -1"))
        assert 0.9 * 3 * 2**20 < kib <= 3 * 2**20
        original = client.run("sha256sum < /mnt/snapped/steady")
        client.run("echo other > /mnt/copy/steady; fallocate -l 2G /mnt/copy/large; sync /mnt/copy")
        assert client.run("sha256sum < /mnt/snapped/steady") == original
        assert "large" not in client.run("ls /mnt/snapped")
        client.unmount("/mnt/copy")
        client.unmount("/mnt/snapped")
        red.delete(made.id)

    def test_revert(self, red: Shares, share: str, deployment: Deployment, cloud: Cloud) -> None:
        """What was changed and added since is gone, and clients that have it mounted go on."""
        client = red.tenant.client
        client.mount(red.export(share), "/mnt/snapped")
        client.run("echo then > /mnt/snapped/file; stat -c %i /mnt/snapped/file > /tmp/inode; sync /mnt/snapped")
        snapshot = taken(red, share, "then")
        client.run("echo now > /mnt/snapped/file; echo more > /mnt/snapped/more; sync /mnt/snapped")
        before = share_instance(deployment, share)
        answer = red.api.post(f"/shares/{share}/action", json={"revert": {"snapshot_id": snapshot}})
        assert answer.status_code == 202
        red.wait(share)
        assert client.run("cat /mnt/snapped/file") == "then\n"
        assert "more" not in client.run("ls /mnt/snapped")
        assert client.run("stat -c %i /mnt/snapped/file") == client.run("cat /tmp/inode")
        client.run("echo after > /mnt/snapped/file; sync /mnt/snapped")
        client.unmount("/mnt/snapped")
        wait(red, snapshot)
        old = cloud.volumes.find_volume(before.volume_id)
        assert old is not None
        assert old.instance_id is None
        delete(red, snapshot)
        assert cloud.volumes.find_volume(before.volume_id) is None

    @pytest.mark.parametrize("filesystem", ["ext4", "xfs"])
    def test_mounted(
        self, red: Shares, deployment: Deployment, cloud: Cloud, machines: Machines, filesystem: str
    ) -> None:
        """A client reads what was, and never writes; whom no rule lets in sees nothing."""
        client = red.tenant.client
        share = red.create("mountable", share_type=mountable_type(deployment, filesystem))
        red.wait(share)
        red.allow(share, client.address)
        client.mount(red.export(share), "/mnt/now")
        client.run("echo then > /mnt/now/file && chmod 666 /mnt/now/file && mkdir /mnt/now/sub && sync /mnt/now")
        snapshot = taken(red, share, "mounted")
        client.run("echo now > /mnt/now/file && echo more > /mnt/now/more && sync /mnt/now")
        (path,) = snapshot_exports(red, snapshot)
        assert mount_volumes(cloud, deployment, snapshot) == []
        other = allow_snapshot(red, snapshot, "10.88.0.9")
        with pytest.raises(CommandFailed):
            client.mount(path, "/mnt/then", seconds=20)
        mine = allow_snapshot(red, snapshot, client.address)
        client.mount(path, "/mnt/then")
        assert client.run("cat /mnt/then/file /mnt/now/file") == "then\nnow\n"
        assert set(client.run("ls /mnt/then").split()) - {"lost+found"} == {"file", "sub"}
        for attempt in ("touch /mnt/then/new", "echo x >> /mnt/then/file", "rm /mnt/then/file", "rmdir /mnt/then/sub"):
            assert "Read-only file system" in client.run(attempt, check=False), attempt
        if filesystem == "ext4":
            self.after_a_reboot(red, share, deployment, machines)
            self.while_its_share_goes_back(red, share, snapshot)
        deny_snapshot(red, snapshot, mine)
        assert client.run(READ_ANEW, check=False).startswith("cat: ")
        client.run("umount -f /mnt/then || umount -l /mnt/then")
        with pytest.raises(CommandFailed):
            client.mount(path, "/mnt/then", seconds=20)
        assert len(mount_volumes(cloud, deployment, snapshot)) == 1
        deny_snapshot(red, snapshot, other)
        assert mount_volumes(cloud, deployment, snapshot) == []
        allow_snapshot(red, snapshot, client.address)
        client.mount(path, "/mnt/then")
        assert client.run("cat /mnt/then/file") == "then\n"
        delete(red, snapshot)  # with the client on it
        assert volumes_of(cloud, share_instance(deployment, share).id) != []
        assert client.run(READ_ANEW, check=False).startswith("cat: ")
        client.run("umount -f /mnt/then || umount -l /mnt/then")
        assert "more" in client.run("echo after > /mnt/now/more && ls /mnt/now")
        client.unmount("/mnt/now")
        red.delete(share)
        assert not [each.name for each in cloud.volumes.list_volumes() if "snapshot_mount" in str(each.tags)]

    def after_a_reboot(self, red: Shares, share: str, deployment: Deployment, machines: Machines) -> None:
        """The server serves both again by itself; nobody told it."""
        client = red.tenant.client
        deployment.kill()
        try:
            machines.reset(share_instance(deployment, share).share_server_id)
            read = "echo 3 > /proc/sys/vm/drop_caches; cat /mnt/then/file /mnt/now/file"
            assert client.run(read, timeout=300) == "then\nnow\n"
        finally:
            deployment.start()

    def while_its_share_goes_back(self, red: Shares, share: str, snapshot: str) -> None:
        client = red.tenant.client
        red.api.post(f"/shares/{share}/action", json={"revert": {"snapshot_id": snapshot}}, raise_exc=True)
        red.wait(share)
        assert client.run("cat /mnt/now/file") == "then\n"
        client.run("echo now > /mnt/now/file && echo more > /mnt/now/more && sync /mnt/now")
        assert client.run("cat /mnt/then/file /mnt/now/file") == "then\nnow\n"
        wait(red, snapshot)

    def test_the_controller_dies_while_a_share_stands_still(
        self, red: Shares, share: str, deployment: Deployment
    ) -> None:
        """The server lets clients go on by itself."""
        client = red.tenant.client
        client.mount(red.export(share), "/mnt/snapped")
        instance = share_instance(deployment, share)
        write = "timeout -s KILL {} sh -c 'date > /mnt/snapped/{} && sync /mnt/snapped/{}'"
        with (
            service_instances(deployment) as (instances, channels),
            instances.frozen(instance.share_server_id, [instance.id], seconds=20) as freeze,
        ):
            channels.close()  # from here on nothing of the one who froze it is heard any more
            assert client.run(write.format(3, "early", "early") + " && echo written || echo stands still").endswith(
                "stands still\n"
            )
            client.run(write.format(60, "late", "late"))
        assert not freeze.held
        client.unmount("/mnt/snapped")

    def test_the_controller_is_killed_while_it_takes_one(
        self, red: Shares, share: str, deployment: Deployment, cloud: Cloud
    ) -> None:
        snapshot = red.api.create_share_snapshot(share_id=share, name="killed").id
        deployment.kill()
        deployment.start()
        wait(red, snapshot)
        ours = [each.id for each in cloud.volumes.list_snapshots()]
        assert ours == [snapshot_instance(deployment, snapshot).provider_location]
        delete(red, snapshot)


def taken(shares: Shares, share_id: str, name: str) -> str:
    """The id of a new snapshot that is available."""
    snapshot = shares.api.create_share_snapshot(share_id=share_id, name=name)
    wait(shares, snapshot.id)
    return str(snapshot.id)


def wait(shares: Shares, snapshot_id: str) -> None:
    def reached() -> bool:
        now = shares.api.get_share_snapshot(snapshot_id).status
        if now in ("error", "error_deleting"):
            messages = [m.user_message for m in shares.api.user_messages() if m.resource_id == snapshot_id]
            raise AssertionError(f"snapshot {snapshot_id} is {now}: {messages}")
        return bool(now == "available")

    wait_for(f"snapshot {snapshot_id}", reached, seconds=240)


def delete(shares: Shares, snapshot_id: str) -> None:
    shares.api.delete_share_snapshot(snapshot_id)
    wait_for(
        f"snapshot {snapshot_id} gone",
        lambda: snapshot_id not in {each.id for each in shares.api.share_snapshots()},
        seconds=120,
    )


def mountable_type(deployment: Deployment, filesystem: str) -> str:
    """A share type whose shares have that file system, on the backend with two NICs."""
    name = f"mountable-{filesystem}"
    make_share_type(
        deployment,
        name,
        share_backend_name="two_nics",
        snapshot_support="True",
        revert_to_snapshot_support="True",
        mount_snapshot_support="True",
        sharewright__filesystem=filesystem,
    )
    return name


def snapshot_exports(shares: Shares, snapshot_id: str) -> list[str]:
    """Paths that clients mount."""
    answer = shares.api.get(f"/snapshots/{snapshot_id}/export-locations", microversion="2.32")
    return [str(each["path"]) for each in answer.json()["share_snapshot_export_locations"]]


def allow_snapshot(shares: Shares, snapshot_id: str, to: str) -> str:
    """The id of a rule in force."""
    body = {"allow_access": {"access_type": "ip", "access_to": to}}
    answer = shares.api.post(f"/snapshots/{snapshot_id}/action", json=body, microversion="2.32", raise_exc=True)
    rule = str(answer.json()["snapshot_access"]["id"])

    def in_force() -> bool:
        state = snapshot_rules(shares, snapshot_id)[rule]
        if state == "error":
            messages = [m.user_message for m in shares.api.user_messages() if m.resource_id == snapshot_id]
            raise AssertionError(f"rule {to} of snapshot {snapshot_id} is in error: {messages}")
        return state == "active"

    wait_for(f"snapshot rule {to} active", in_force, seconds=120)
    return rule


def deny_snapshot(shares: Shares, snapshot_id: str, rule: str) -> None:
    body = {"deny_access": {"access_id": rule}}
    shares.api.post(f"/snapshots/{snapshot_id}/action", json=body, microversion="2.32", raise_exc=True)
    wait_for("the snapshot's rule gone", lambda: rule not in snapshot_rules(shares, snapshot_id), seconds=120)


def snapshot_rules(shares: Shares, snapshot_id: str) -> dict[str, str]:
    """Rule → state."""
    answer = shares.api.get(f"/snapshots/{snapshot_id}/access-list", microversion="2.32")
    return {rule["id"]: rule["state"] for rule in answer.json()["snapshot_access_list"]}


def mount_volumes(cloud: Cloud, deployment: Deployment, snapshot_id: str) -> list[str]:
    """Ids of the volumes that are there for a snapshot to be mounted."""
    owner = f"share_snapshot_mount:{snapshot_instance(deployment, snapshot_id).id}"
    return [each.id for each in cloud.volumes.list_volumes() if each.tags.get(TAG_OWNER) == owner]


def snapshot_instance(deployment: Deployment, snapshot_id: str) -> Any:
    columns = share_snapshot_instances.c
    with deployment.store() as store, store.read() as tx:
        return tx.execute(share_snapshot_instances.select().where(columns.snapshot_id == snapshot_id)).one()


def story(deployment: Deployment, snapshot_id: str) -> Any:
    """The operation that took a snapshot."""
    columns = operations.c
    with deployment.store() as store, store.read() as tx:
        return tx.execute(
            operations.select().where(columns.resource_id == snapshot_id, columns.kind == "create_snapshot")
        ).one()


@contextmanager
def service_instances(deployment: Deployment) -> Iterator[Any]:
    """What another controller of the same deployment talks to service VMs with, and its channels."""
    settings = load(deployment.config)
    backend = settings.backends["two_nics"]
    with deployment.store() as store, closing(assemble(settings, store)) as assembly:
        channels = assembly.channels["two_nics"]
        options = service_instance_settings(settings, "two_nics", backend, client_ports=(2049,))
        cloud = assembly.clouds["two_nics"]
        yield CloudServiceInstances(store, cloud, channels, open_secrets(settings), options), channels
