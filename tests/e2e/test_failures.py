"""Things that break under us: the VM, the volume, the image, the hypervisor's daemon, the controller."""

from __future__ import annotations

import time
from pathlib import Path

import libvirt
import pytest

from deployment import Deployment, wait_for
from sharewright.clouds.contract import Cloud
from sharewright.clouds.open import open_cloud
from sharewright.settings import load
from sharewright.store.database import Store
from sharewright.store.tables import operations, share_instances
from tenants import Shares

pytestmark = pytest.mark.e2e

NFS = 2049


@pytest.fixture
def cloud(deployment: Deployment) -> Cloud:
    settings = load(deployment.config)
    return open_cloud(settings, settings.backends["two_nics"])


def leftovers(cloud: Cloud, share_instance_id: str) -> list[str]:
    return [volume.name for volume in cloud.volumes.list_volumes() if share_instance_id in volume.name]


def instance_row(deployment: Deployment, share_id: str) -> object:
    store = Store(f"sqlite:///{deployment.state_dir / 'sharewright.db'}")
    try:
        with store.read() as tx:
            return tx.execute(share_instances.select().where(share_instances.c.share_id == share_id)).one()
    finally:
        store.close()


def test_delete_share_whose_vm_was_switched_off(red: Shares, deployment: Deployment, cloud: Cloud) -> None:
    """The volume must be freed although nobody in the guest can unmount it; the server comes back by itself."""
    gone, kept = red.create("gone"), red.create("kept")
    red.wait(gone)
    red.wait(kept)
    red.allow(kept, red.tenant.client.address)
    row = instance_row(deployment, gone)
    connection = libvirt.open("qemu:///system")
    connection.lookupByName(f"manila-{row.share_server_id}").destroy()
    connection.close()
    red.delete(gone)
    assert not leftovers(cloud, row.id)
    # The reconciler starts the VM again, and the other share is served again.
    red.tenant.client.mount(red.export(kept), "/mnt/kept")
    red.tenant.client.run("echo alive > /mnt/kept/file")
    red.tenant.client.unmount("/mnt/kept")
    red.delete(kept)


def test_vm_that_was_deleted_behind_our_back_is_made_again(red: Shares, deployment: Deployment) -> None:
    """Same address, same exports, same data; a hard mount goes on."""
    share = red.create("rebuilt")
    red.wait(share)
    client = red.tenant.client
    red.allow(share, client.address)
    client.mount(red.export(share), "/mnt/rebuilt")
    client.run("echo before > /mnt/rebuilt/file && sync")
    connection = libvirt.open("qemu:///system")
    domain = connection.lookupByName(f"manila-{instance_row(deployment, share).share_server_id}")
    domain.destroy()
    domain.undefine()
    connection.close()
    assert client.run("cat /mnt/rebuilt/file; echo after >> /mnt/rebuilt/file; sync", timeout=240) == "before\n"
    assert client.run("cat /mnt/rebuilt/file") == "before\nafter\n"
    client.unmount("/mnt/rebuilt")
    red.delete(share)


def test_share_with_missing_network_fails_with_a_reason(red: Shares, deployment: Deployment) -> None:
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


def test_controller_killed_in_the_middle_of_a_create(red: Shares, deployment: Deployment, cloud: Cloud) -> None:
    """SIGKILL the whole service while it works on the real cloud; the next one finishes the work, once."""
    for delay in (0.2, 0.6, 1.2):
        share = red.create(f"killed-after-{delay}")
        time.sleep(delay)
        deployment.kill()
        deployment.start()
        red.wait(share)
        row = instance_row(deployment, share)
        assert len(leftovers(cloud, row.id)) == 1
        rule = red.api.create_access_rule(
            share, access_type="ip", access_to=red.tenant.client.address, access_level="rw"
        )
        deployment.kill()
        deployment.start()
        wait_for("rule active", lambda id=rule.id: red.api.get_access_rule(id).state == "active", seconds=90)
        red.tenant.client.mount(red.export(share), "/mnt/killed")
        red.tenant.client.run("echo once > /mnt/killed/file")
        red.tenant.client.unmount("/mnt/killed")
        red.api.delete_share(share)
        time.sleep(delay)
        deployment.kill()
        deployment.start()
        wait_for(
            "the share to be gone", lambda s=share: red.api.find_share(s, ignore_missing=True) is None, seconds=120
        )
        assert not leftovers(cloud, row.id)


def test_unused_server_is_removed_after_the_set_time(blue: Shares, deployment: Deployment, cloud: Cloud) -> None:
    """And its successor is reached at the same address, which clients still know with the old MAC."""
    share = blue.create("short-lived")
    blue.wait(share)
    blue.allow(share, blue.tenant.client.address)
    address = blue.export(share).partition(":")[0]
    assert blue.tenant.client.can_connect(address, NFS)
    server_id = deployment.sdk("admin").shared_file_system.get_share(share).share_server_id
    blue.delete(share)
    deployment.stop()
    text = deployment.config.read_text()
    deployment.config.write_text(text.replace("unused_server_seconds = 3600", "unused_server_seconds = 1"))
    try:
        deployment.start()
        wait_for(
            "the server to be gone",
            lambda: not [i for i in cloud.compute.list_instances() if server_id in i.name],
            seconds=120,
        )
        wait_for("its ports too", lambda: not [p for p in cloud.networks.list_ports() if server_id in p.name])
    finally:
        deployment.stop()
        deployment.config.write_text(text)
        deployment.start()
    share = blue.create("successor")
    blue.wait(share)
    blue.allow(share, blue.tenant.client.address)
    assert blue.export(share).partition(":")[0] == address
    assert blue.tenant.client.can_connect(address, NFS), "without an announcement the old MAC is used for 8 s"
    blue.delete(share)


def test_broken_configuration_is_refused_by_name(deployment: Deployment, tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("[api]\nport = 99999\nprot = 1\n")
    import subprocess

    from deployment import SHAREWRIGHT

    done = subprocess.run([SHAREWRIGHT, "--config", broken, "serve"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "api.port" in done.stderr
    assert "99999" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_operation_counted_its_work(red: Shares, deployment: Deployment) -> None:
    """A rule change is exactly one guest round trip."""
    share = red.create("counted")
    red.wait(share)
    red.allow(share, red.tenant.client.address)
    store = Store(f"sqlite:///{deployment.state_dir / 'sharewright.db'}")
    with store.read() as tx:
        rows = {row.kind: row for row in tx.execute(operations.select().where(operations.c.resource_id == share)).all()}
    store.close()
    assert rows["update_access"].guest_round_trips == 1
    assert rows["create_share"].guest_round_trips == 1
    red.delete(share)
