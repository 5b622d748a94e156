"""Things that break under us: the VM, the network, the controller; and a tenant that changes his mind."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from deployment import Deployment, wait_for
from sharewright.clouds.contract import Cloud
from stories_on_clouds.machines import Machines, cloud_of, share_instance, volumes_of
from tenants import Shares

# What a failure may have left, or an administrator may have set. In the last two something seems to be under way, and
# only he deletes.
STATES = ("error", "error_deleting", "extending_error", "inactive", "creating", "deleting")
UNDER_WAY = STATES[-2:]


class Failures:
    """Fixtures: ``red``, ``blue``, ``deployment``, ``machines``; ``KILL_DELAYS``: seconds after the request at which
    the controller dies."""

    KILL_DELAYS: tuple[float, ...] = (0.2, 0.6, 1.2)
    SERVER_KILL_DELAYS: tuple[float, ...] = (0.3, 1.0, 3.0, 10.0)  # each after the start that follows the last one

    @pytest.fixture
    def cloud(self, deployment: Deployment) -> Iterator[Cloud]:
        cloud = cloud_of(deployment)
        yield cloud
        cloud.close()

    def test_delete_share_whose_vm_was_switched_off(
        self, red: Shares, deployment: Deployment, cloud: Cloud, machines: Machines
    ) -> None:
        """The volume must be freed although nobody in the guest can unmount it; the server comes back by itself."""
        gone, kept = red.create("gone"), red.create("kept")
        red.wait(gone)
        red.wait(kept)
        red.allow(kept, red.tenant.client.address)
        row = share_instance(deployment, gone)
        machines.power_off(row.share_server_id)
        red.delete(gone)
        assert not volumes_of(cloud, row.id)
        # The reconciler starts the VM again, and the other share is served again.
        red.tenant.client.mount(red.export(kept), "/mnt/kept", seconds=180)
        red.tenant.client.run("echo alive > /mnt/kept/file")
        red.tenant.client.unmount("/mnt/kept")
        red.delete(kept)

    def test_vm_that_was_deleted_behind_our_back_is_made_again(
        self, red: Shares, deployment: Deployment, machines: Machines
    ) -> None:
        """Same address, same exports, same data; a hard mount goes on."""
        share = red.create("rebuilt")
        red.wait(share)
        client = red.tenant.client
        red.allow(share, client.address)
        client.mount(red.export(share), "/mnt/rebuilt")
        client.run("echo before > /mnt/rebuilt/file && sync")
        machines.destroy(share_instance(deployment, share).share_server_id)
        assert client.run("cat /mnt/rebuilt/file && echo after >> /mnt/rebuilt/file && sync", timeout=300) == "before\n"
        assert client.run("cat /mnt/rebuilt/file") == "before\nafter\n"
        client.unmount("/mnt/rebuilt")
        red.delete(share)

    def test_share_with_missing_network_fails_with_a_reason(self, red: Shares) -> None:
        network = red.api.create_share_network(
            name="nowhere",
            neutron_net_id="11111111-2222-4333-8444-555555555555",
            neutron_subnet_id="11111111-2222-4333-8444-555555555556",
        )
        share = red.api.create_share(
            name="nowhere", share_protocol="NFS", size=1, share_type="two_nics", share_network_id=network.id
        )
        wait_for("error", lambda: red.api.get_share(share.id).status == "error", seconds=60)
        texts = [m.user_message for m in red.api.user_messages() if m.resource_id == share.id]
        assert any("11111111-2222-4333-8444-555555555555" in text for text in texts), texts
        red.delete(share.id)
        red.api.delete_share_network(network.id)

    def test_delete_from_every_state(self, red: Shares, deployment: Deployment, cloud: Cloud) -> None:
        """Also while the share is being made, and with a client on it. Nothing is left of any."""
        admin = deployment.sdk("admin").shared_file_system
        shares = {state: red.create(state) for state in (*STATES, "mounted")}
        for share in shares.values():
            red.wait(share)
        for state in STATES:
            admin.reset_share_status(shares[state], state)
        red.allow(shares["mounted"], red.tenant.client.address)
        red.tenant.client.mount(red.export(shares["mounted"]), "/mnt/doomed")
        red.tenant.client.run("echo doomed > /mnt/doomed/file")
        shares["begun"] = red.create("begun")
        instances = {share: share_instance(deployment, share).id for share in shares.values()}
        for state, share in shares.items():
            if state in (*UNDER_WAY, "begun"):
                admin.post(f"/shares/{share}/action", json={"force_delete": None}, raise_exc=True)
            else:
                red.api.delete_share(share)
        for share in shares.values():
            red.wait_gone(share)
        for share, instance in instances.items():
            assert not volumes_of(cloud, instance), share
        red.tenant.client.run("umount -f -l /mnt/doomed")

    def test_controller_killed_in_the_middle(self, red: Shares, deployment: Deployment, cloud: Cloud) -> None:
        """SIGKILL the whole service in a create, a rule change and a delete; the next one finishes the work, once."""
        for delay in self.KILL_DELAYS:
            share = red.create(f"killed-after-{delay}")
            time.sleep(delay)
            deployment.kill()
            deployment.start()
            red.wait(share)
            row = share_instance(deployment, share)
            assert len(volumes_of(cloud, row.id)) == 1
            rule = red.allow(share, red.tenant.client.address, wait=False)
            deployment.kill()
            deployment.start()
            wait_for("rule active", lambda id=rule: red.api.get_access_rule(id).state == "active", seconds=90)
            red.tenant.client.mount(red.export(share), "/mnt/killed")
            red.tenant.client.run("echo once > /mnt/killed/file")
            red.tenant.client.unmount("/mnt/killed")
            red.api.delete_share(share)
            time.sleep(delay)
            deployment.kill()
            deployment.start()
            red.wait_gone(share)
            assert not volumes_of(cloud, row.id)

    def test_controller_killed_while_it_makes_a_server(self, red: Shares, deployment: Deployment, cloud: Cloud) -> None:
        """SIGKILL again and again until the new server serves: one VM, one set of ports, and then nothing of them."""
        tenant = red.tenant
        network = red.api.create_share_network(
            name="killed", neutron_net_id=tenant.network_id, neutron_subnet_id=tenant.subnet_id
        )
        share = red.api.create_share(
            name="killed", share_protocol="NFS", size=1, share_type="two_nics", share_network_id=network.id
        ).id
        for delay in self.SERVER_KILL_DELAYS:
            time.sleep(delay)
            deployment.kill()
            deployment.start()
        red.wait(share)
        server_id = str(share_instance(deployment, share).share_server_id)
        ports = [port.name for port in cloud.networks.list_ports() if server_id in port.name]
        assert len(ports) == len(set(ports)) == 2
        assert len([each for each in cloud.compute.list_instances() if server_id in each.name]) == 1
        red.delete(share)
        red.api.delete_share_network(network.id)
        wait_for(
            "the server to be gone",
            lambda: not [each for each in cloud.compute.list_instances() if server_id in each.name],
            seconds=120,
        )
        wait_for("its ports too", lambda: not [p for p in cloud.networks.list_ports() if server_id in p.name])

    def test_unused_server_is_removed_after_the_set_time(
        self, blue: Shares, deployment: Deployment, cloud: Cloud
    ) -> None:
        share = blue.create("short-lived")
        blue.wait(share)
        server_id = str(share_instance(deployment, share).share_server_id)
        blue.delete(share)
        deployment.stop()
        text = deployment.config.read_text()
        deployment.config.write_text(text.replace("unused_server_seconds = 3600", "unused_server_seconds = 1"))
        try:
            deployment.start()
            wait_for(
                "the server to be gone",
                lambda: not [each for each in cloud.compute.list_instances() if server_id in each.name],
                seconds=120,
            )
            wait_for("its ports too", lambda: not [p for p in cloud.networks.list_ports() if server_id in p.name])
        finally:
            deployment.stop()
            deployment.config.write_text(text)
            deployment.start()
