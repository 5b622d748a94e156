"""Shares on a machine that an operator keeps: made, used and taken away there, beside what he has there himself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from client_vm import ClientVm, CommandFailed
from deployment import PATIENCE, Deployment, wait_for
from sharewright.clouds.contract import Cloud
from sharewright.service_instance.keys import new_key_pair
from sharewright.store.tables import share_servers
from stories_on_clouds.group_snapshots import check_group_from, group_of, moments, story
from stories_on_clouds.group_snapshots import delete_snapshot as delete_group_snapshot
from stories_on_clouds.machines import cloud_of, share_instance
from stories_on_clouds.managed_shares import share_unmanaged_and_managed_again
from stories_on_clouds.smb import mount as mount_smb
from stories_on_clouds.snapshots import (
    allow_snapshot,
    delete,
    deny_snapshot,
    mount_volumes,
    snapshot_exports,
    taken,
)
from tenants import Shares

TYPE = "named"
THEIRS = "/srv/office"
SILENT_SECONDS = 30
SILENCE = (  # no SSH server, nor what it has begun
    "sleep 1; systemctl stop ssh.service; "
    "for each in /proc/[0-9]*; do grep -qs sshd \\$each/comm && kill \\${each#/proc/}; done; "
    f"sleep {SILENT_SECONDS}; systemctl start ssh.service"
)


def make_keys(directory: Path) -> str:
    """The host key that the operator's machine is going to have, public; and the key that it admits us with."""
    login, host = new_key_pair(), new_key_pair()
    for name, key in (("server_key", login), ("client_host_key", host)):
        (directory / name).touch(mode=0o600)
        (directory / name).write_text(key.private)
    return host.public


def create(shares: Shares, name: str, *, size: int = 1, snapshot: str | None = None) -> str:
    made = shares.api.create_share(
        name=name, share_protocol=shares.protocol, size=size, share_type=TYPE, snapshot_id=snapshot
    )
    shares.wait(made.id)
    return str(made.id)


class OnMachine(Shares):
    """As other stories make theirs."""

    def create(self, name: str, *, share_type: str = TYPE, size: int = 1) -> str:
        return create(self, name, size=size)


def boot_id(nas: ClientVm) -> str:
    return nas.run("cat /proc/sys/kernel/random/boot_id").strip()


class NamedServer:
    """Fixtures: ``red``, ``deployment``, and ``nas``: the operator's machine, on the red tenant's network."""

    @pytest.fixture(scope="class")
    def office(self, nas: ClientVm) -> ClientVm:
        """The machine, with an export of the operator's own."""
        nas.run(
            f"mkdir -p {THEIRS} && echo theirs > {THEIRS}/file && systemctl start nfs-server && "
            f"echo '{THEIRS} *(rw,no_subtree_check,no_root_squash)' > /etc/exports && exportfs -ra"
        )
        return nas

    @pytest.fixture(scope="class")
    def share(self, red: Shares, office: ClientVm) -> Iterator[str]:
        share_id = create(red, "on-nas")
        red.allow(share_id, red.client.address)
        yield share_id
        if red.api.find_share(share_id, ignore_missing=True) is not None:
            red.delete(share_id)

    @pytest.fixture(scope="class")
    def on_machine(self, red: Shares, office: ClientVm) -> Shares:
        return OnMachine(red.tenant)

    @pytest.fixture
    def cloud(self, deployment: Deployment) -> Iterator[Cloud]:
        cloud = cloud_of(deployment)
        yield cloud
        cloud.close()

    def test_a_client_writes_and_reads_back(
        self, red: Shares, share: str, office: ClientVm, deployment: Deployment
    ) -> None:
        with deployment.sdk("admin") as admin:
            shown = admin.shared_file_system.get_share(share)
            assert (shown.share_server_id, shown.share_network_id) == (None, None)
            assert shown.host == "node@named#named"
        assert red.export(share).startswith(f"{office.address}:/shares/share-")
        client = red.client
        client.mount(red.export(share), "/mnt/named")
        written = client.run("head -c 16777216 /dev/urandom > /mnt/named/data; sync; sha256sum < /mnt/named/data")
        client.unmount("/mnt/named")
        client.mount(red.export(share), "/mnt/named")
        assert client.run("sha256sum < /mnt/named/data") == written
        client.unmount("/mnt/named")
        other = create(red, "for-others")
        red.allow(other, "10.88.0.9")
        with pytest.raises(CommandFailed):
            client.mount(red.export(other), "/mnt/named", options="vers=4.2,soft,timeo=50,retrans=1")
        red.delete(other)

    def test_what_the_operator_exports_stays(self, red: Shares, share: str, office: ClientVm) -> None:
        client = red.client
        client.mount(f"{office.address}:{THEIRS}", "/mnt/theirs")
        holder = client.open("exec 9<>/mnt/theirs/file; cat >&9")
        rule = red.allow(share, "10.88.0.8")
        red.deny(rule, share)
        holder.sendall(b"held\n")
        holder.shutdown_write()
        assert holder.recv_exit_status() == 0
        assert client.run("cat /mnt/theirs/file").startswith("held")
        client.unmount("/mnt/theirs")
        assert office.run("cat /etc/exports").startswith(THEIRS)
        assert THEIRS in office.run("exportfs -v")

    def test_it_grows_while_it_is_mounted(self, red: Shares, share: str) -> None:
        client = red.client
        client.mount(red.export(share), "/mnt/named")
        red.api.resize_share(share, 2)
        wait_for("2 GiB", lambda: (found := red.api.get_share(share)).size == 2 and found.status == "available")
        kib = int(client.run("df -k --output=size /mnt/named | tail -1"))
        assert 0.9 * 2 * 2**20 < kib <= 2 * 2**20
        client.unmount("/mnt/named")

    def test_it_shrinks_while_it_is_mounted(
        self, red: Shares, share: str, office: ClientVm, deployment: Deployment, cloud: Cloud
    ) -> None:
        """Its volume is the small one then; who has a file of the operator's open waits, and goes on."""
        client, before = red.client, share_instance(deployment, share)
        client.mount(f"{office.address}:{THEIRS}", "/mnt/theirs")
        client.mount(red.export(share), "/mnt/named")
        client.run("rm -f /mnt/named/*; seq 100000 > /mnt/named/file; touch -d 2020-01-01 /mnt/named/file; sync")
        looked = "cd /mnt/named && sha256sum file && stat -c '%i %s %Y' file"
        seen = client.run(looked)
        holder = client.open("exec 9>/mnt/theirs/held; cat >&9")
        holder.sendall(b"before\n")
        self.shrunk(red, share, 1)
        assert client.run(looked) == seen
        client.run("echo after > /mnt/named/after && sync /mnt/named/after", timeout=240)
        holder.sendall(b"after\n")
        holder.shutdown_write()
        assert holder.recv_exit_status() == 0
        assert client.run("cat /mnt/theirs/held") == "before\nafter\n"
        kib = int(client.run("df -k --output=size /mnt/named | tail -1"))
        assert 0.8 * 2**20 < kib <= 2**20
        for each in ("/mnt/named", "/mnt/theirs"):
            client.unmount(each)
        self.check_volumes(deployment, cloud, share, size=1)
        assert cloud.volumes.find_volume(before.volume_id) is None

    def shrunk(self, shares: Shares, share: str, size: int) -> None:
        shares.api.resize_share(share, size)

        def reached() -> bool:
            found = shares.api.get_share(share)
            messages = [each.user_message for each in shares.api.user_messages() if each.resource_id == share]
            assert messages == []
            return bool(found.size == size and found.status == "available")

        wait_for(f"{size} GiB", reached, seconds=400)

    def check_volumes(self, deployment: Deployment, cloud: Cloud, share: str, *, size: int) -> None:
        """It has one, on the machine."""
        instance = share_instance(deployment, share)
        (volume,) = [each for each in cloud.volumes.list_volumes() if instance.id in each.name]
        assert (volume.id, volume.size) == (instance.volume_id, size)

    def test_snapshots(self, red: Shares, share: str) -> None:
        """Another share from one, and the share itself as it was."""
        client = red.client
        client.mount(red.export(share), "/mnt/named")
        client.run("echo then > /mnt/named/file; sync /mnt/named")
        snapshot = taken(red, share, "then")
        client.run("echo now > /mnt/named/file; sync /mnt/named")
        copy = create(red, "copy", size=2, snapshot=snapshot)
        red.allow(copy, client.address)
        client.mount(red.export(copy), "/mnt/copy")
        assert client.run("cat /mnt/copy/file") == "then\n"
        client.unmount("/mnt/copy")
        red.delete(copy)
        red.api.post(f"/shares/{share}/action", json={"revert": {"snapshot_id": snapshot}})
        red.wait(share)
        assert client.run("cat /mnt/named/file") == "then\n"
        client.unmount("/mnt/named")
        delete(red, snapshot)

    def test_a_snapshot_that_clients_mount(self, red: Shares, share: str, deployment: Deployment, cloud: Cloud) -> None:
        client = red.client
        client.mount(red.export(share), "/mnt/named")
        client.run("echo then > /mnt/named/file; sync /mnt/named")
        snapshot = taken(red, share, "mounted")
        client.run("echo now > /mnt/named/file; sync /mnt/named")
        (path,) = snapshot_exports(red, snapshot)
        rule = allow_snapshot(red, snapshot, client.address)
        assert len(mount_volumes(cloud, deployment, snapshot)) == 1
        client.mount(path, "/mnt/then")
        assert client.run("cat /mnt/then/file /mnt/named/file") == "then\nnow\n"
        assert "Read-only file system" in client.run("touch /mnt/then/new", check=False)
        client.unmount("/mnt/then")
        client.unmount("/mnt/named")
        deny_snapshot(red, snapshot, rule)
        assert mount_volumes(cloud, deployment, snapshot) == []
        delete(red, snapshot)

    def test_it_is_given_away_and_taken_over_again(
        self, on_machine: Shares, deployment: Deployment, cloud: Cloud
    ) -> None:
        share_unmanaged_and_managed_again(on_machine, deployment, cloud)

    def test_a_group(self, on_machine: Shares, deployment: Deployment) -> None:
        """Its snapshots are of one moment, and another group is made of each."""
        with group_of(on_machine, deployment, {"first": TYPE, "second": TYPE}) as (group, shares):
            assert len({share_instance(deployment, each).share_server_id for each in shares}) == 1
            snapshots = moments(on_machine, group, shares)
            for snapshot in snapshots:
                told = story(deployment, snapshot)
                assert told.attempts == 1
                print(f"stood still for {told.facts['frozen_seconds']:.2f} s")
            for snapshot, (least, most) in snapshots.items():
                check_group_from(on_machine, shares, snapshot, least=least, most=most)
                delete_group_snapshot(on_machine, snapshot)

    def test_smb(self, red: Shares, office: ClientVm, deployment: Deployment, cloud: Cloud) -> None:
        """For guests by address and for users by name; it grows and shrinks under a client that has it mounted, and a
        snapshot of it is another share."""
        shares = OnMachine(red.tenant, protocol="CIFS")
        client = shares.client
        smb = shares.create("smb-on-nas", size=2)
        rule = shares.allow(smb, client.address)
        mount_smb(client, shares.export(smb), "/mnt/smb")
        client.run("head -c 4194304 /dev/urandom > /root/d; cp /root/d /mnt/smb/d; sync /mnt/smb/d")
        shares.api.resize_share(smb, 3)
        wait_for("3 GiB", lambda: (found := shares.api.get_share(smb)).size == 3 and found.status == "available")
        self.shrunk(shares, smb, 1)
        assert client.run("cmp /root/d /mnt/smb/d && echo same") == "same\n"
        client.run("echo after > /mnt/smb/after && sync /mnt/smb/after")
        kib = int(client.run("df -k --output=size /mnt/smb | tail -1"))
        assert 0.8 * 2**20 < kib <= 2**20
        self.check_volumes(deployment, cloud, smb, size=1)
        snapshot = taken(shares, smb, "smb")
        client.run("echo now > /mnt/smb/after && sync /mnt/smb/after")
        client.unmount("/mnt/smb")
        copy = create(shares, "copy", snapshot=snapshot)
        shares.allow(copy, client.address)
        mount_smb(client, shares.export(copy), "/mnt/smb")
        assert client.run("cat /mnt/smb/after") == "after\n"
        client.unmount("/mnt/smb")
        shares.delete(copy)
        shares.api.post(f"/shares/{smb}/action", json={"revert": {"snapshot_id": snapshot}})
        shares.wait(smb)
        mount_smb(client, shares.export(smb), "/mnt/smb")
        assert client.run("cat /mnt/smb/after") == "after\n"
        client.unmount("/mnt/smb")
        delete(shares, snapshot)
        shares.deny(rule, smb)
        with pytest.raises(CommandFailed):
            mount_smb(client, shares.export(smb), "/mnt/smb")
        shares.delete(smb)
        assert "share-" not in office.run("net conf listshares")

    def test_its_restart_is_its_operators(
        self, red: Shares, share: str, office: ClientVm, deployment: Deployment
    ) -> None:
        """The shares come back with it, with no controller; and Sharewright never restarts it."""
        before = boot_id(office)
        client = red.client
        client.mount(red.export(share), "/mnt/named")
        client.run("echo before > /mnt/named/restart; sync")
        deployment.stop()
        try:
            office.cloud.compute.reboot_instance(office.machine.instance_id, timeout=60 * PATIENCE)
            started = time.monotonic()
            assert client.run("cat /mnt/named/restart && echo after >> /mnt/named/restart && sync", timeout=240)
            print(f"the mount answered {time.monotonic() - started:.0f} s after the restart")
        finally:
            deployment.start()
        office.wait()
        after = boot_id(office)
        assert after != before
        assert client.run("cat /mnt/named/restart") == "before\nafter\n"
        client.unmount("/mnt/named")
        self.wait_healthy(deployment)
        office.run(f'setsid bash -c "{SILENCE}" </dev/null >/dev/null 2>&1 &', check=False)
        time.sleep(SILENT_SECONDS)  # one of our own would be started anew by now
        office.wait()
        assert boot_id(office) == after

    def wait_healthy(self, deployment: Deployment) -> None:
        def healthy() -> bool:
            with deployment.store() as store, store.read() as tx:
                return bool(tx.execute(select(share_servers.c.healthy).where(share_servers.c.named)).scalar_one())

        wait_for("a look that finds it well", healthy, seconds=120)

    def test_everything_goes_and_the_machine_stays(
        self, red: Shares, share: str, office: ClientVm, deployment: Deployment, cloud: Cloud
    ) -> None:
        red.delete(share)
        with deployment.store() as store, store.read() as tx:
            (server,) = tx.execute(select(share_servers).where(share_servers.c.named)).all()
        assert server.status == "active"
        machine = cloud.compute.find_named_instance(office.machine.instance_id)
        assert machine is not None
        assert machine.running
        assert [volume for volume in cloud.volumes.list_volumes() if volume.instance_id == machine.id] == []

        def is_clean() -> bool:
            return "/shares/share-" not in office.run("cat /proc/mounts /etc/fstab; exportfs -v")

        # The share went while the machine was believed silent, so a look clears what it left there.
        wait_for("no mount of ours", is_clean, seconds=120)
        assert THEIRS in office.run("exportfs -v")
