"""A share that an administrator gives away and takes over again: its data are there."""

from __future__ import annotations

from dataclasses import replace

from deployment import Deployment
from sharewright.clouds.contract import Cloud
from stories_on_clouds.machines import share_instance, volumes_of
from tenants import Shares


def unmanaged_and_managed_again(shares: Shares, deployment: Deployment, cloud: Cloud) -> None:
    client = shares.tenant.client
    share = shares.create("lent", size=2)
    shares.wait(share)
    shares.allow(share, client.address)
    path, before = shares.export(share), share_instance(deployment, share)
    client.mount(path, "/mnt/lent")
    client.run("seq 100000 > /mnt/lent/file; mkdir /mnt/lent/own; chown 1000 /mnt/lent/own; chmod 700 /mnt/lent/own")
    written = client.run("sha256sum < /mnt/lent/file; sync /mnt/lent")
    client.unmount("/mnt/lent")
    with deployment.sdk("admin", microversion="2.80") as sdk:
        admin = Shares(replace(shares.tenant, sdk=sdk), protocol=shares.protocol)
        shown = sdk.shared_file_system.get(f"/shares/{share}").json()["share"]
        answer = sdk.shared_file_system.post(f"/shares/{share}/action", json={"unmanage": None})
        assert answer.status_code == 202, answer.text
        shares.wait_gone(share)
        assert cloud.volumes.find_volume(before.volume_id) is None  # it is not ours any more
        assert volumes_of(cloud, before.id) == []
        body = {
            "service_host": shown["host"],
            "share_server_id": shown["share_server_id"],
            "share_type": shown["share_type"],
            "protocol": shares.protocol,
            "export_path": path,
            "name": "returned",
        }
        answer = sdk.shared_file_system.post("/shares/manage", json={"share": body})
        assert answer.status_code == 200, answer.text
        managed = str(answer.json()["share"]["id"])
        admin.wait(managed)
        assert sdk.shared_file_system.get(f"/shares/{managed}").json()["share"]["size"] == 2
        after = share_instance(deployment, managed)
        assert after.filesystem_uuid == before.filesystem_uuid
        admin.allow(managed, client.address)
        assert admin.export(managed) != path
        client.mount(admin.export(managed), "/mnt/lent")
        assert client.run("sha256sum < /mnt/lent/file") == written
        assert client.run("stat -c '%u %a' /mnt/lent/own") == "1000 700\n"
        client.run("echo more > /mnt/lent/more; sync /mnt/lent")
        client.unmount("/mnt/lent")
        admin.delete(managed)
    assert volumes_of(cloud, after.id) == []
