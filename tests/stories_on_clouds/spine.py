"""The main job: a tenant's share, mounted, written and read back by a kernel NFS client."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select

from client_vm import CommandFailed
from deployment import Deployment, wait_for
from sharewright.store.tables import operations
from stories_on_clouds.machines import Machines, addresses, share_instance
from tenants import Shares, Tenant

SOFT = "vers=4.2,soft,timeo=50,retrans=1"
MEBIBYTES_10 = 10 * 2**20


class Spine:
    """Fixtures: ``red``, ``blue``, ``tenants``, ``deployment``, ``machines``."""

    @pytest.fixture(scope="class")
    def share(self, red: Shares) -> Iterator[str]:
        """A share of the red tenant on a server of its own network, with a rule for the red client."""
        share_id = red.create("spine")
        red.wait(share_id)
        red.allow(share_id, red.tenant.client.address)
        yield share_id
        red.delete(share_id)

    def test_client_writes_and_reads_back(self, red: Shares, share: str) -> None:
        client = red.tenant.client
        client.mount(red.export(share), "/mnt/spine")
        written = client.run(
            "head -c 67108864 /dev/urandom > /root/data && cp /root/data /mnt/spine/data && sync "
            "&& sha256sum < /root/data"
        )
        client.unmount("/mnt/spine")
        client.run("echo 3 > /proc/sys/vm/drop_caches")
        client.mount(red.export(share), "/mnt/spine")
        assert client.run("sha256sum < /mnt/spine/data") == written
        assert hashlib.sha256(b"").hexdigest() not in written
        client.unmount("/mnt/spine")

    def test_size_is_the_size_asked_for(self, red: Shares, share: str) -> None:
        client = red.tenant.client
        client.mount(red.export(share), "/mnt/spine")
        kib = int(client.run("df -k --output=size /mnt/spine | tail -1"))
        client.unmount("/mnt/spine")
        assert 0.9 * 1024 * 1024 < kib <= 1024 * 1024

    def test_second_share_lands_on_the_same_server_and_is_separate(
        self, red: Shares, share: str, deployment: Deployment
    ) -> None:
        other = red.create("second")
        red.wait(other)
        admin = deployment.sdk("admin").shared_file_system
        assert admin.get_share(other).share_server_id == admin.get_share(share).share_server_id
        client = red.tenant.client
        with pytest.raises(CommandFailed, match=r"denied|not permitted|No such file"):
            client.mount(red.export(other), "/mnt/second", options=SOFT)
        red.allow(other, red.tenant.cidr)
        client.mount(red.export(other), "/mnt/second")
        client.run("echo second > /mnt/second/file")
        client.unmount("/mnt/second")
        client.mount(red.export(share), "/mnt/spine")
        assert "file" not in client.run("ls /mnt/spine").split()
        client.unmount("/mnt/spine")
        red.delete(other)

    def test_read_only_rule_and_most_specific_rule(self, red: Shares, share: str) -> None:
        other = red.create("levels")
        red.wait(other)
        client = red.tenant.client
        everyone = red.allow(other, red.tenant.cidr, "ro")
        client.mount(red.export(other), "/mnt/levels")
        with pytest.raises(CommandFailed, match="Read-only file system"):
            client.run("touch /mnt/levels/file")
        client.unmount("/mnt/levels")
        mine = red.allow(other, client.address, "rw")  # more specific than the network's ro
        client.mount(red.export(other), "/mnt/levels")
        client.run("touch /mnt/levels/file")
        client.unmount("/mnt/levels")
        red.deny(mine, other)
        red.deny(everyone, other)
        with pytest.raises(CommandFailed):
            client.mount(red.export(other), "/mnt/levels", options=SOFT)
        red.delete(other)

    def test_many_rules_take_one_guest_round_trip(self, red: Shares, share: str, deployment: Deployment) -> None:
        """A hundred rules from ten senders, and then their removal, are an update each of one round trip; two or three
        if the machine stands still meanwhile."""

        def rules() -> dict[str, str]:
            return {rule.id: rule.state for rule in red.api.access_rules(red.api.get_share(share))}

        def trips() -> int:
            query = select(func.sum(operations.c.guest_round_trips)).where(
                operations.c.resource_id == share, operations.c.kind == "update_access"
            )
            with deployment.store() as store, store.read() as tx:
                return int(tx.scalar(query) or 0)

        before = trips()
        with ThreadPoolExecutor(10) as senders:
            made = set(senders.map(lambda last: red.allow(share, f"10.88.0.{last}", wait=False), range(1, 101)))
        wait_for("all rules active", lambda: all(rules().get(rule) == "active" for rule in made), seconds=60)
        assert 1 <= trips() - before <= 3
        before = trips()
        with ThreadPoolExecutor(10) as senders:
            list(senders.map(lambda rule: red.api.delete_access_rule(rule, share), made))
        wait_for("all rules gone", lambda: not made & rules().keys(), seconds=60)
        assert 1 <= trips() - before <= 3

    def test_metrics_tell_what_a_client_does(self, red: Shares, share: str, deployment: Deployment) -> None:
        """Used bytes grow by what was written; the client is counted while it has the share mounted."""
        client, server = red.tenant.client, str(share_instance(deployment, share).share_server_id)

        def told(name: str, clients: int) -> float:
            """A number of the share, from a look at the server that begins after now and sees so many clients."""
            looked = "sharewright_share_server_usage_timestamp_seconds"
            connected = "sharewright_share_server_nfs_clients"
            now = time.time()

            def seen() -> bool:
                found = deployment.scrape()
                return found.sum(looked, share_server_id=server) > now and (
                    found.sum(connected, share_server_id=server) == clients
                )

            wait_for(f"a look that sees {clients} clients", seen, seconds=120)
            return deployment.scrape().sum(f"sharewright_share_{name}", share_id=share)

        before, written = told("used_bytes", 0), told("nfs_written_bytes_total", 0)
        client.mount(red.export(share), "/mnt/spine")
        client.run("dd if=/dev/urandom of=/mnt/spine/metrics bs=1M count=10 conv=fsync")
        assert MEBIBYTES_10 <= told("used_bytes", 1) - before < 1.1 * MEBIBYTES_10
        assert MEBIBYTES_10 <= told("nfs_written_bytes_total", 1) - written < 1.1 * MEBIBYTES_10
        found = deployment.scrape()
        writes = "sharewright_share_server_nfs_operations_total"
        assert found.sum(writes, share_server_id=server, operation="write") > 0
        assert found.sum("sharewright_share_inodes_used", share_id=share) > 1
        client.run("rm /mnt/spine/metrics")
        client.unmount("/mnt/spine")
        told("used_bytes", 0)

    def test_every_operation_counted_its_work(self, red: Shares, deployment: Deployment) -> None:
        """A rule change is exactly one guest round trip."""
        share = red.create("counted")
        red.wait(share)
        red.allow(share, red.tenant.client.address)
        with deployment.store() as store, store.read() as tx:
            found = tx.execute(operations.select().where(operations.c.resource_id == share)).all()
        rows = {row.kind: row for row in found}
        assert rows["update_access"].guest_round_trips == 1
        assert rows["create_share"].guest_round_trips == 1
        red.delete(share)

    def test_reboot_with_the_controller_down(
        self, red: Shares, share: str, deployment: Deployment, machines: Machines
    ) -> None:
        """A service VM that reboots on its own serves its shares again; a hard mount sees no error."""
        client = red.tenant.client
        client.mount(red.export(share), "/mnt/spine")
        client.run("echo before > /mnt/spine/reboot")
        server_id = str(share_instance(deployment, share).share_server_id)
        deployment.stop()
        try:
            machines.reset(server_id)
            started = time.monotonic()
            assert (
                client.run("cat /mnt/spine/reboot && echo after >> /mnt/spine/reboot && sync", timeout=240)
                == "before\n"
            )
            print(f"the mount answered {time.monotonic() - started:.0f} s after the reset")
        finally:
            deployment.start()
        assert client.run("cat /mnt/spine/reboot") == "before\nafter\n"
        client.unmount("/mnt/spine")

    def test_the_stock_command_line_tells_the_whole_story(
        self, deployment: Deployment, tenants: dict[str, Tenant]
    ) -> None:
        red = tenants["red"].client
        share = deployment.openstack_json(
            "red", "create", "NFS", "1", "--name", "cli", "--share-type", "two_nics",
            "--share-network", tenants["red"].share_network_id, "--wait",
        )  # fmt: skip
        assert share["status"] == "available"
        deployment.openstack("red", "access", "create", share["id"], "ip", red.address, "--wait")
        (location,) = deployment.openstack_json("red", "export", "location", "list", share["id"])
        red.mount(location["Path"], "/mnt/cli")
        red.run("echo hello > /mnt/cli/hello")
        red.unmount("/mnt/cli")
        deployment.openstack("red", "delete", share["id"], "--wait")
        assert share["id"] not in deployment.openstack("red", "list")

    def test_share_behind_a_router(self, red: Shares, blue: Shares, deployment: Deployment) -> None:
        """The other layout: one NIC on the service network, reached by the tenant through a router."""
        share = red.create("routed", share_type="one_nic")
        red.wait(share)
        client = red.tenant.client
        red.allow(share, client.address)
        management, exports = addresses(deployment, share)
        assert exports == [management]
        client.mount(red.export(share), "/mnt/routed")
        client.run("echo routed > /mnt/routed/file && sync")
        client.unmount("/mnt/routed")
        client.mount(red.export(share), "/mnt/routed")
        assert client.run("cat /mnt/routed/file") == "routed\n"
        client.unmount("/mnt/routed")
        assert not client.can_connect(management, 22)
        assert not blue.tenant.client.can_connect(management, 2049)
        red.delete(share)
