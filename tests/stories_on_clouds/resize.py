"""Shares that change their size while clients use them."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator

import openstack.exceptions
import pytest

from deployment import Deployment, wait_for
from sharewright.clouds.contract import Cloud
from sharewright.store.tables import operations
from steady_writer import writing
from stories_on_clouds.machines import cloud_of, share_instance, volumes_of
from tenants import Shares

TOO_MUCH = 10**8  # GiB, of which no cloud has so many
# Files of many kinds, in a directory that one program works in and on one of which it holds a lock.
FILL = """
set -e
mkdir -p tree/deep/deeper many; cd tree
for i in $(seq 200); do head -c $((i * 100)) /dev/urandom > file$i; done
for i in $(seq 300); do : > ../many/"a name that is long enough for several blocks $i"; done
for i in $(seq 20); do ln file$i deep/link$i; ln -s file$i deep/symlink$i; done
mkfifo fifo; chmod 4711 file7; chown 1234:567 file8; touch -d 2001-02-03T04:05:06.789 file9
truncate -s 1G sparse; echo end >> sparse
"""
# How many blocks a directory has depends on the order in which its names came.
LOOK = """
find . -mindepth 1 -name steady -prune -o -type d -printf '%p d %i %n %m %U %G %T@ %C@\\n' \\
  -o -printf '%p %y %i %n %m %U %G %s %T@ %C@ %l\\n' | sort
find tree -type f ! -name sparse -exec md5sum {} + | sort
ls -U many
"""
HOLD = """
import fcntl, os, sys, time
os.chdir("tree/deep")
held = open("../locked", "w")
fcntl.lockf(held, fcntl.LOCK_EX)
gone = os.open("../file1", os.O_RDONLY)
while not os.path.exists("/run/hold-stop"):
    time.sleep(0.1)
held.write("still locked")
held.flush()
os.fsync(held.fileno())
os.read(gone, 10)
assert "link1" in os.listdir(".")
open("/run/hold-result", "w").write("well")
"""


class Resize:
    """Fixtures: ``red``, ``deployment``."""

    @pytest.fixture
    def cloud(self, deployment: Deployment) -> Iterator[Cloud]:
        cloud = cloud_of(deployment)
        yield cloud
        cloud.close()

    @pytest.fixture(scope="class")
    def share(self, red: Shares) -> Iterator[str]:
        share_id = red.create("growing")
        red.wait(share_id)
        red.allow(share_id, red.tenant.client.address)
        yield share_id
        red.delete(share_id)

    def grown(self, red: Shares, share: str, size: int) -> None:
        wait_for(
            f"{size} GiB",
            lambda: (found := red.api.get_share(share)).size == size and found.status == "available",
            seconds=180,
        )

    def test_extend_under_a_client_that_writes(
        self, red: Shares, share: str, deployment: Deployment, cloud: Cloud
    ) -> None:
        client = red.tenant.client
        before = share_instance(deployment, share)
        client.mount(red.export(share), "/mnt/growing")
        with writing(client, "/mnt/growing") as outcome:
            for size in (2, 4):
                red.api.resize_share(share, size)
                self.grown(red, share, size)
        (written,) = outcome
        print(f"longest gap between writes: {written.gap:.2f} s, {written.lines} writes")
        assert (written.errors, written.same) == ([], True)
        assert client.run("cat /mnt/growing/steady").split() == [str(line) for line in range(written.lines)]
        kib = int(client.run("df -k --output=size /mnt/growing | tail -1"))
        assert 0.9 * 4 * 2**20 < kib <= 4 * 2**20
        client.run("fallocate -l 3G /mnt/growing/large && rm /mnt/growing/large")  # more than it ever had
        client.unmount("/mnt/growing")
        after = share_instance(deployment, share)
        assert (after.volume_id, after.filesystem_uuid) == (before.volume_id, before.filesystem_uuid)
        volume = cloud.volumes.find_volume(after.volume_id)
        assert volume is not None
        assert volume.size == after.size == 4
        with deployment.store() as store, store.read() as tx:
            mine = operations.c.resource_id == share
            told = tx.execute(operations.select().where(mine, operations.c.kind == "extend_share")).all()
        assert [row.guest_round_trips for row in told] == [1, 1]
        assert [message for message in red.api.user_messages() if message.resource_id == share] == []

    def test_refusals_change_nothing(self, red: Shares, share: str, deployment: Deployment, cloud: Cloud) -> None:
        before = red.api.get_share(share)
        volume_id = share_instance(deployment, share).volume_id
        for size, refusal in (
            (before.size, openstack.exceptions.BadRequestException),
            (TOO_MUCH, openstack.exceptions.ForbiddenException),  # the project's quota
        ):
            with pytest.raises(refusal):
                before.extend_share(red.api, size, False)
        after = red.api.get_share(share)
        assert (after.status, after.size) == ("available", before.size)
        volume = cloud.volumes.find_volume(volume_id)
        assert volume is not None
        assert volume.size == before.size

    def test_the_controller_dies_while_it_extends(self, red: Shares, share: str, deployment: Deployment) -> None:
        size = red.api.get_share(share).size + 1
        client = red.tenant.client
        client.mount(red.export(share), "/mnt/growing")
        with writing(client, "/mnt/growing") as outcome:
            red.api.resize_share(share, size)
            deployment.kill()
            deployment.start()
            self.grown(red, share, size)
        (written,) = outcome
        assert (written.errors, written.same) == ([], True)
        kib = int(client.run("df -k --output=size /mnt/growing | tail -1"))
        assert 0.9 * size * 2**20 < kib <= size * 2**20
        client.unmount("/mnt/growing")

    def shrunk(self, red: Shares, share: str, deployment: Deployment, cloud: Cloud, size: int) -> None:
        """The share and its only volume are that small, in the cloud too."""
        self.grown(red, share, size)
        instance = share_instance(deployment, share)
        volume = cloud.volumes.find_volume(instance.volume_id)
        assert volume is not None
        assert volume.size == instance.size == size
        assert volumes_of(cloud, instance.id) == [volume.name]

    def test_shrink_under_a_client_that_writes(
        self, red: Shares, share: str, deployment: Deployment, cloud: Cloud
    ) -> None:
        client = red.tenant.client
        if red.api.get_share(share).size < 4:  # the tests above were left out, or failed
            red.api.resize_share(share, 4)
            self.grown(red, share, 4)
        old = share_instance(deployment, share)
        client.mount(red.export(share), "/mnt/growing")
        client.run(f"cd /mnt/growing; rm -f steady; {FILL}", timeout=300)
        client.run("rm -f /run/hold-stop /run/hold-result")
        hold = f"cd /mnt/growing; nohup setsid python3 -c {shlex.quote(HOLD)} </dev/null >/run/hold.log 2>&1 &"
        client.run(hold)
        time.sleep(2.5)  # what changed less than two seconds ago would be copied once more
        before = client.run(f"cd /mnt/growing; {LOOK}", timeout=120)
        with writing(client, "/mnt/growing") as outcome:
            red.api.resize_share(share, 3)
            self.shrunk(red, share, deployment, cloud, 3)
        (written,) = outcome
        print(f"longest gap between writes: {written.gap:.2f} s, {written.lines} writes")
        assert (written.errors, written.same) == ([], True)
        assert written.gap < 120
        assert client.run("cat /mnt/growing/steady").split() == [str(line) for line in range(written.lines)]
        # The same mount, with the same inode numbers, times and order, and the lock is held still.
        assert client.run(f"cd /mnt/growing; {LOOK}", timeout=120) == before
        client.run("touch /run/hold-stop; sleep 2; cat /run/hold-result || (cat /run/hold.log; exit 1)")
        assert client.run("cat /mnt/growing/tree/locked") == "still locked"
        kib = int(client.run("df -k --output=size /mnt/growing | tail -1"))
        assert 0.85 * 3 * 2**20 < kib <= 3 * 2**20
        client.unmount("/mnt/growing")
        assert cloud.volumes.find_volume(old.volume_id) is None
        assert [message for message in red.api.user_messages() if message.resource_id == share] == []

    def test_data_that_do_not_fit_change_nothing(
        self, red: Shares, share: str, deployment: Deployment, cloud: Cloud
    ) -> None:
        client = red.tenant.client
        before = share_instance(deployment, share)
        client.mount(red.export(share), "/mnt/growing")
        client.run("fallocate -l 1200M /mnt/growing/large")
        with writing(client, "/mnt/growing") as outcome:
            red.api.resize_share(share, 1)
            self.shrunk(red, share, deployment, cloud, 3)
        (written,) = outcome
        assert (written.errors, written.same) == ([], True)
        (message,) = [m for m in red.api.user_messages() if m.resource_id == share]
        assert (message.action_id, message.detail_id) == ("009", "018")
        after = share_instance(deployment, share)
        assert (after.volume_id, after.filesystem_uuid) == (before.volume_id, before.filesystem_uuid)
        client.run("rm /mnt/growing/large")
        client.unmount("/mnt/growing")

    def test_the_controller_dies_again_and_again_while_it_shrinks(
        self, red: Shares, share: str, deployment: Deployment, cloud: Cloud
    ) -> None:
        client = red.tenant.client
        client.mount(red.export(share), "/mnt/growing")
        before = client.run(f"cd /mnt/growing; {LOOK}", timeout=120)
        with writing(client, "/mnt/growing") as outcome:
            # Not to less: where ext4 puts a directory is left to chance, and its number has to fit.
            red.api.resize_share(share, 2)
            for seconds in (0.5, 1.5, 3.0, 5.0):
                time.sleep(seconds)
                deployment.kill()
                deployment.start()
            self.shrunk(red, share, deployment, cloud, 2)
        (written,) = outcome
        assert (written.errors, written.same) == ([], True)
        assert client.run(f"cd /mnt/growing; {LOOK}", timeout=120) == before
        client.unmount("/mnt/growing")

    def test_what_the_cloud_refuses_ends_in_extending_error(
        self, red: Shares, deployment: Deployment, cloud: Cloud
    ) -> None:
        """The share goes on being served; extending it again works, and so does deleting it."""
        client = red.tenant.client
        share = red.create("refused")
        red.wait(share)
        red.allow(share, client.address)
        client.mount(red.export(share), "/mnt/refused")
        client.run("echo before > /mnt/refused/file")
        with deployment.sdk("admin", "2.64") as admin:
            project = red.api.get_share(share).project_id
            quota = f"/quota-sets/{project}"
            admin.shared_file_system.put(quota, json={"quota_set": {"gigabytes": -1}}, raise_exc=True)
            try:
                in_use = self.gigabytes(red, project)
                admin.shared_file_system.resize_share(share, TOO_MUCH, force=True)
                red.wait(share, "extending_error")
                assert self.gigabytes(red, project) == in_use
                (message,) = [m for m in red.api.user_messages() if m.resource_id == share]
                assert (message.action_id, message.detail_id) == ("008", "015")
                assert client.run("cat /mnt/refused/file") == "before\n"
                red.api.resize_share(share, 2)
                self.grown(red, share, 2)
                admin.shared_file_system.resize_share(share, TOO_MUCH, force=True)
                red.wait(share, "extending_error")
            finally:
                admin.shared_file_system.delete(quota)
        client.unmount("/mnt/refused")
        instance_id = share_instance(deployment, share).id
        red.delete(share)
        assert volumes_of(cloud, instance_id) == []

    def gigabytes(self, red: Shares, project: str) -> int:
        answer = red.api.get(f"/quota-sets/{project}/detail")
        return int(answer.json()["quota_set"]["gigabytes"]["in_use"])
