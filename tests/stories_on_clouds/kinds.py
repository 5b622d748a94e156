"""Shares of a type that chooses everything, and many shares on one server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import pytest
from openstack.shared_file_system.v2.share import Share
from sqlalchemy import select

from client_vm import CommandFailed
from deployment import Deployment, wait_for
from sharewright.store.tables import share_servers
from stories_on_clouds.machines import share_instance
from stories_on_clouds.share_types import make_share_type
from tenants import Shares

AT_ONCE = 10  # requests
NOBODY = "65534"


class Kinds(Protocol):
    """What the cloud under test has besides its defaults, and what it says of things."""

    volume_type: str
    flavor: str
    memory_mib: int  # of that flavor

    def volume_type_of(self, volume_id: str) -> str: ...

    def memory_of(self, server_id: str) -> int: ...


class ShareTypes:
    """Fixtures: ``red``, ``deployment``, ``kinds``; ``MANY``: shares on one server."""

    MANY = 100

    @pytest.fixture(scope="class")
    def type_id(self, deployment: Deployment, kinds: Kinds) -> str:
        return make_share_type(
            deployment,
            "chosen",
            share_backend_name="two_nics",
            sharewright__filesystem="xfs",
            sharewright__squash="root_squash",
            sharewright__volume_type=kinds.volume_type,
            sharewright__server_flavor=kinds.flavor,
        )

    @pytest.fixture(scope="class")
    def share(self, red: Shares, type_id: str) -> Iterator[str]:
        share_id = red.create("chosen", share_type="chosen")
        red.wait(share_id)
        red.allow(share_id, red.tenant.client.address)
        yield share_id
        red.delete(share_id)

    def test_the_share_is_made_of_what_its_type_says(self, share: str, deployment: Deployment, kinds: Kinds) -> None:
        instance = share_instance(deployment, share)
        assert instance.host.endswith(f"@two_nics#{kinds.volume_type}")
        assert kinds.volume_type_of(instance.volume_id) == kinds.volume_type
        assert instance.filesystem_type == "xfs"  # which the guest has compared with the disk
        with deployment.store() as store, store.read() as tx:
            server = tx.execute(select(share_servers).where(share_servers.c.id == instance.share_server_id)).one()
        assert server.flavor == kinds.flavor
        assert kinds.memory_of(server.id) == kinds.memory_mib

    def test_root_is_squashed_and_others_are_not(self, red: Shares, share: str) -> None:
        client = red.tenant.client
        client.mount(red.export(share), "/mnt/chosen")
        client.run(
            "touch /mnt/chosen/of-root && setpriv --reuid 1234 --regid 1234 --clear-groups touch /mnt/chosen/mine"
        )
        assert client.run("stat -c %u /mnt/chosen/of-root /mnt/chosen/mine").split() == [NOBODY, "1234"]
        with pytest.raises(CommandFailed, match="not permitted"):
            client.run("chown 0 /mnt/chosen/mine")
        client.unmount("/mnt/chosen")

    def test_xfs_grows_while_it_is_mounted(self, red: Shares, share: str) -> None:
        client = red.tenant.client
        client.mount(red.export(share), "/mnt/chosen")
        red.api.resize_share(share, 2)
        wait_for("2 GiB", lambda: (found := red.api.get_share(share)).size == 2 and found.status == "available")
        kib = int(client.run("df -k --output=size /mnt/chosen | tail -1"))
        assert 0.9 * 2 * 2**20 < kib <= 2 * 2**20
        client.unmount("/mnt/chosen")

    def test_a_type_that_changes_changes_no_share(
        self, red: Shares, share: str, type_id: str, deployment: Deployment
    ) -> None:
        with deployment.sdk("admin") as admin:
            body = {"extra_specs": {"sharewright:squash": "no_root_squash", "sharewright:filesystem": "ext4"}}
            admin.shared_file_system.post(f"/types/{type_id}/extra_specs", json=body, raise_exc=True)
        red.allow(share, "10.99.0.1")  # the guest is told anew
        client = red.tenant.client
        client.mount(red.export(share), "/mnt/chosen")
        client.run("touch /mnt/chosen/later")
        assert client.run("stat -c %u /mnt/chosen/later").strip() == NOBODY
        client.unmount("/mnt/chosen")

    def test_what_nobody_offers_is_refused_with_the_reason(self, red: Shares, deployment: Deployment) -> None:
        make_share_type(deployment, "impossible", sharewright__volume_type="of the moon")
        share = red.create("impossible", share_type="impossible")
        red.wait(share, "error")
        (message,) = [each for each in red.api.user_messages() if each.resource_id == share]
        assert "sharewright:volume_type = of the moon: the backend offers" in message.user_message
        red.delete(share)

    def test_many_shares_on_one_server(self, red: Shares, share: str, deployment: Deployment) -> None:
        """Asked for at once; all land on one server, and one client uses every one of them."""
        quota = f"/quota-sets/{red.api.get_share(share).project_id}"
        with deployment.sdk("admin", "2.64") as admin:
            admin.shared_file_system.put(quota, json={"quota_set": {"shares": -1, "gigabytes": -1}}, raise_exc=True)
            try:
                self.many_shares(red, deployment)
            finally:
                admin.shared_file_system.delete(quota)

    def many_shares(self, red: Shares, deployment: Deployment) -> None:
        client = red.tenant.client
        with ThreadPoolExecutor(AT_ONCE) as pool:
            begun = time.monotonic()
            made = set(pool.map(red.create, [f"many-{number}" for number in range(self.MANY)]))
            wait_for("all shares", lambda: self._available(red, made), seconds=900, interval=1)
            print(f"{len(made)} shares in {time.monotonic() - begun:.0f} s")
            servers = {share_instance(deployment, share).share_server_id for share in made}
            assert len(servers) == 1
            begun = time.monotonic()
            list(pool.map(lambda share: red.allow(share, client.address, wait=False), made))
            wait_for("all rules", lambda: self._available(red, made, ruled=True), seconds=300, interval=1)
            print(f"a rule each in {time.monotonic() - begun:.0f} s")
            self._use_all(red, made)
            begun = time.monotonic()
            list(pool.map(red.api.delete_share, made))
            wait_for("no share", lambda: not made & self._listed(red).keys(), seconds=600, interval=1)
            print(f"deleted in {time.monotonic() - begun:.0f} s")

    @staticmethod
    def _listed(red: Shares) -> dict[str, Share]:
        return {each.id: each for each in red.api.shares(details=True)}

    def _available(self, red: Shares, made: set[str], *, ruled: bool = False) -> bool:
        found = [each for share, each in self._listed(red).items() if share in made]
        bad = {each.id: each.status for each in found if each.status not in ("creating", "available")}
        assert not bad
        assert len(found) == len(made)
        return all(each.status == "available" and (not ruled or each.access_rules_status == "active") for each in found)

    @staticmethod
    def _use_all(red: Shares, made: set[str]) -> None:
        """By one mount of the directory above them, where a client of NFSv4 sees the shares that are open to it."""
        client = red.tenant.client
        paths = {share: red.export(share) for share in made}
        (above,) = {path.rpartition("/")[0] for path in paths.values()}
        names = {path.rpartition("/")[2]: share for share, path in paths.items()}
        client.mount(above, "/mnt/many")
        assert names.keys() <= set(client.run("ls /mnt/many").split())
        written = " ".join(sorted(names))
        client.run(
            f"cd /mnt/many && for name in {written}; do "
            'test -z "$(ls -A $name | grep -v lost+found)" && echo $name > $name/file || exit 1; done && sync',
            timeout=300,
        )
        client.unmount("/mnt/many")  # those below go with it
        client.mount(above, "/mnt/many")
        said = client.run(f"cd /mnt/many && for name in {written}; do cat $name/file; done", timeout=300)
        assert said.split() == sorted(names)
        devices = client.run(f"cd /mnt/many && stat -c %d {written}").split()
        assert len(set(devices)) == len(made), "each is a file system of its own"
        client.unmount("/mnt/many")
