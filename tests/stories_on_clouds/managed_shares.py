"""A share, and a share server, that an administrator gives away and takes over again: the data are there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import update

from deployment import Deployment, wait_for
from sharewright.clouds.contract import Cloud
from sharewright.store.tables import share_servers
from stories_on_clouds.machines import service_instance, share_instance, volumes_of
from tenants import Shares


@dataclass
class Administrator:
    """``shares``: what is in the administrator's project, on the tenant's network and used by the tenant's machine."""

    api: Any
    shares: Shares

    def unmanage(self, shares: Shares, share: str) -> dict[str, Any]:
        """What the API had said of the share."""
        shown = dict(self.api.get(f"/shares/{share}").json()["share"])
        answer = self.api.post(f"/shares/{share}/action", json={"unmanage": None})
        assert answer.status_code == 202, answer.text
        shares.wait_gone(share)
        return shown

    def manage(self, shown: dict[str, Any], path: str) -> str:
        body = {name: shown[name] for name in ("share_server_id", "share_type") if shown[name] is not None}
        body |= {"service_host": shown["host"], "protocol": shown["share_proto"], "export_path": path}
        answer = self.api.post("/shares/manage", json={"share": body})
        assert answer.status_code == 200, answer.text
        share = str(answer.json()["share"]["id"])
        self.shares.wait(share)
        self.shares.allow(share, self.shares.tenant.client.address)
        return share

    def server_status(self, server: str) -> str:
        """ "" when there is none."""
        answer = self.api.get(f"/share-servers/{server}")
        return "" if answer.status_code == 404 else str(answer.json()["share_server"]["status"])


@contextmanager
def administrator(shares: Shares, deployment: Deployment) -> Iterator[Administrator]:
    with deployment.sdk("admin", microversion="2.80") as sdk:
        own = Shares(replace(shares.tenant, sdk=sdk), protocol=shares.protocol)
        yield Administrator(sdk.shared_file_system, own)
    # Servers that were managed stay until they are deleted; other tests' are not to.
    with deployment.store() as store, store.begin() as tx:
        tx.execute(update(share_servers).where(share_servers.c.named.is_(False)).values(is_auto_deletable=True))


def written(shares: Shares, name: str) -> str:
    """The id of a share of 2 GiB with something in it."""
    client = shares.tenant.client
    share = shares.create(name, size=2)
    shares.wait(share)
    shares.allow(share, client.address)
    client.mount(shares.export(share), "/mnt/lent")
    client.run("seq 100000 > /mnt/lent/file; mkdir /mnt/lent/own; chown 1000 /mnt/lent/own; chmod 700 /mnt/lent/own")
    client.run("sync /mnt/lent")
    client.unmount("/mnt/lent")
    return share


def check_written(shares: Shares, share: str) -> None:
    client = shares.tenant.client
    client.mount(shares.export(share), "/mnt/lent")
    assert client.run("seq 100000 | cmp - /mnt/lent/file && echo same") == "same\n"
    assert client.run("stat -c '%u %a' /mnt/lent/own") == "1000 700\n"
    client.run("echo more > /mnt/lent/more; sync /mnt/lent")
    client.unmount("/mnt/lent")


def share_unmanaged_and_managed_again(shares: Shares, deployment: Deployment, cloud: Cloud) -> None:
    share = written(shares, "lent")
    path, before = shares.export(share), share_instance(deployment, share)
    with administrator(shares, deployment) as admin:
        shown = admin.unmanage(shares, share)
        assert cloud.volumes.find_volume(before.volume_id) is None  # it is not ours any more
        assert volumes_of(cloud, before.id) == []
        managed = admin.manage(shown, path)
        assert admin.api.get(f"/shares/{managed}").json()["share"]["size"] == 2
        after = share_instance(deployment, managed)
        assert after.filesystem_uuid == before.filesystem_uuid
        assert admin.shares.export(managed) != path
        check_written(admin.shares, managed)
        admin.shares.delete(managed)
    assert volumes_of(cloud, after.id) == []


def server_unmanaged_and_managed_again(shares: Shares, deployment: Deployment, cloud: Cloud) -> None:
    """With the share that was on it. No other share may be on it."""
    share = written(shares, "moved")
    path = shares.export(share)
    with administrator(shares, deployment) as admin:
        shown = admin.unmanage(shares, share)
        server = str(shown["share_server_id"])
        machine = service_instance(deployment, server).instance_id
        host = admin.api.get(f"/share-servers/{server}").json()["share_server"]["host"]
        answer = admin.api.post(f"/share-servers/{server}/action", json={"unmanage": {"force": False}})
        assert answer.status_code == 202, answer.text
        wait_for("the share server to be unmanaged", lambda: admin.server_status(server) == "", seconds=60)
        found = cloud.compute.find_instance(machine)
        assert found is not None
        assert found.running
        body = {"host": host, "share_network_id": shown["share_network_id"], "identifier": machine}
        answer = admin.api.post("/share-servers/manage", json={"share_server": body})
        assert answer.status_code == 202, answer.text
        assert answer.json()["share_server"]["id"] == server
        wait_for("the share server to be managed", lambda: admin.server_status(server) == "active", seconds=120)
        managed = admin.manage(shown, path)
        check_written(admin.shares, managed)
        admin.shares.delete(managed)
