"""SMB shares with real clients: the kernel's in a tenant's machine, smbclient and smbprotocol from that machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import openstack.exceptions
import pytest
import smbprotocol.exceptions

from client_vm import ClientVm, CommandFailed
from deployment import Deployment, wait_for
from sharewright.clouds.contract import Cloud
from smb_client import Refused, SmbClient, smb_client
from stories_on_clouds.machines import Machines, cloud_of, share_instance, volumes_of
from stories_on_clouds.snapshots import allow_snapshot, deny_snapshot, snapshot_exports, taken
from stories_on_clouds.snapshots import delete as delete_snapshot
from tenants import Shares

SMB_3_1_1 = 0x311
GUEST = "username=guest,password=none"  # any name that is no user of the server


def name_of(export: str) -> str:
    return export.rsplit("\\", 1)[1]


def address_of(export: str) -> str:
    return export.split("\\")[2]


def mount(client: ClientVm, export: str, path: str, options: str = GUEST) -> None:
    """With the kernel's client; the image has no mount.cifs, which would only look the address up."""
    address = address_of(export)
    client.run(
        f"mkdir -p {path} && modprobe cifs && timeout 60 mount -i -t cifs //{address}/{name_of(export)} {path} "
        f"-o vers=3.1.1,ip={address},{options}"
    )


class Smb:
    """Fixtures: ``red``, ``blue``, ``deployment``, ``machines``."""

    @pytest.fixture(scope="class")
    def shares(self, red: Shares) -> Shares:
        """The red tenant's, by SMB."""
        return Shares(red.tenant, protocol="CIFS")

    @pytest.fixture(scope="class")
    def share(self, shares: Shares) -> Iterator[str]:
        """A share that the red client may write as a guest."""
        share_id = shares.create("smb")
        shares.wait(share_id)
        shares.allow(share_id, shares.client.address)
        yield share_id
        shares.delete(share_id)

    @pytest.fixture
    def cloud(self, deployment: Deployment) -> Iterator[Cloud]:
        cloud = cloud_of(deployment)
        yield cloud
        cloud.close()

    @pytest.fixture(scope="class")
    def client(self, shares: Shares, share: str) -> Iterator[SmbClient]:
        with smb_client(shares.client, address_of(shares.export(share))) as client:
            yield client

    def test_the_kernels_client_writes_and_reads_back(self, shares: Shares, share: str) -> None:
        client = shares.client
        mount(client, shares.export(share), "/mnt/smb")
        written = client.run(
            "head -c 16777216 /dev/urandom > /root/smb-data && cp /root/smb-data /mnt/smb/data && "
            "sha256sum < /root/smb-data"
        )
        client.unmount("/mnt/smb")
        mount(client, shares.export(share), "/mnt/smb")
        assert client.run("sha256sum < /mnt/smb/data") == written
        kib = int(client.run("df -k --output=size /mnt/smb | tail -1"))
        assert 0.9 * 1024 * 1024 < kib <= 1024 * 1024
        assert "lost+found" not in client.run("ls -a /mnt/smb")
        client.unmount("/mnt/smb")

    def test_smbclient_writes_and_reads_back(
        self, shares: Shares, share: str, client: SmbClient, tmp_path: Path
    ) -> None:
        name = name_of(shares.export(share))
        (tmp_path / "there").write_text("from smbclient\n")
        client.run(name, f"put {tmp_path}/there there")
        client.run(name, f"get there {tmp_path}/back")
        assert (tmp_path / "back").read_text() == "from smbclient\n"
        client.run(name, f"put {tmp_path}/back there; del there")  # its own file again, as whoever comes as a guest

    def test_only_smb_3_1_1_is_spoken(self, shares: Shares, share: str, client: SmbClient) -> None:
        name = name_of(shares.export(share))
        with client.session() as session:
            assert session.dialect == SMB_3_1_1
        for dialect in ("NT1", "SMB2_10", "SMB3_02"):
            with pytest.raises(Refused, match=r"NT_STATUS_|negotiation failed"):
                client.run(name, "ls", "-m", dialect, f"--option=client min protocol={dialect}")

    def test_metrics_tell_what_a_client_does(
        self, shares: Shares, share: str, client: SmbClient, deployment: Deployment
    ) -> None:
        server = {"share_server_id": share_instance(deployment, share).share_server_id}
        written = "sharewright_share_server_smb_written_bytes_total"
        before = deployment.scrape().sum(written, **server)
        with client.session() as session, session.open(name_of(shares.export(share)), "counted", "wb") as file:
            file.write(bytes(2**20))

            def told() -> bool:
                found = deployment.scrape()
                connections = found.sum("sharewright_share_smb_connections", share_id=share)
                return connections == 1 and found.sum(written, **server) >= before + 2**20

            wait_for("what the client does", told, seconds=120)
            found = deployment.scrape()
            assert found.sum("sharewright_share_server_smb_clients", **server) == 1
            assert found.sum("sharewright_share_server_smb_operations_total", **server, operation="write") >= 1

    def test_nothing_else_is_open_and_nobody_else_gets_in(self, shares: Shares, blue: Shares, share: str) -> None:
        address = address_of(shares.export(share))
        assert shares.client.opens((address, port) for port in (445, 22, 135, 137, 139)) == {(address, 445)}
        assert not blue.tenant.client.can_connect(address, 445)

    def test_a_share_without_a_rule_for_the_client(self, shares: Shares, share: str, client: SmbClient) -> None:
        other = shares.create("others-smb")
        shares.wait(other)
        name = name_of(shares.export(other))
        with pytest.raises(Refused, match="NT_STATUS_"):
            client.run(name, "ls")
        shares.allow(other, "10.88.0.9")
        with pytest.raises(Refused, match="NT_STATUS_ACCESS_DENIED"):
            client.run(name, "ls")
        with pytest.raises(openstack.exceptions.BadRequestException, match="one access level"):
            shares.allow(other, shares.client.address, "ro")
        shares.delete(other)

    def test_read_only(self, shares: Shares, share: str, client: SmbClient, tmp_path: Path) -> None:
        other = shares.create("reading")
        shares.wait(other)
        name = name_of(shares.export(other))
        shares.allow(other, shares.tenant.cidr, "ro")
        client.run(name, "ls")
        (tmp_path / "file").write_text("no\n")
        with pytest.raises(Refused, match="NT_STATUS_ACCESS_DENIED"):
            client.run(name, f"put {tmp_path}/file file")
        shares.delete(other)

    def test_a_snapshot(self, shares: Shares, share: str, client: SmbClient, tmp_path: Path) -> None:
        """Read what was; write nothing; and only by its own rules."""
        name = name_of(shares.export(share))
        (tmp_path / "then").write_text("then\n")
        (tmp_path / "now").write_text("now\n")
        client.run(name, f"put {tmp_path}/then when")
        snapshot = taken(shares, share, "smb")
        client.run(name, f"put {tmp_path}/now when")
        (export,) = snapshot_exports(shares, snapshot)
        with pytest.raises(Refused, match="NT_STATUS_"):
            client.run(name_of(export), "ls")
        rule = allow_snapshot(shares, snapshot, shares.client.address)
        client.run(name_of(export), f"get when {tmp_path}/back")
        assert (tmp_path / "back").read_text() == "then\n"
        for attempt in (f"put {tmp_path}/now when", f"put {tmp_path}/now new", "del when"):
            with pytest.raises(Refused, match="NT_STATUS_"):
                client.run(name_of(export), attempt)
        client.run(name, f"put {tmp_path}/now new")
        deny_snapshot(shares, snapshot, rule)
        with pytest.raises(Refused, match="NT_STATUS_"):
            client.run(name_of(export), "ls")
        delete_snapshot(shares, snapshot)

    def test_a_denied_client_is_cut_off_while_connected(
        self, shares: Shares, share: str, client: SmbClient, deployment: Deployment
    ) -> None:
        """From the share that it is denied, not from the other one."""
        other = shares.create("denied")
        shares.wait(other)
        mine = shares.allow(other, shares.client.address)
        shares.allow(other, "10.88.0.9")  # somebody else stays
        here, there = name_of(shares.export(share)), name_of(shares.export(other))
        with client.session() as session:
            kept, lost = session.open(here, "kept", "wb"), session.open(there, "lost", "wb")
            kept.write(b"one")
            lost.write(b"one")
            shares.deny(mine, other)
            with pytest.raises((smbprotocol.exceptions.SMBException, OSError)):
                lost.write(b"two")
            kept.write(b"two")
            with pytest.raises((smbprotocol.exceptions.SMBException, OSError)):
                session.open(there, "again", "wb")
            kept.close()
            assert "kept" in session.listing(here)
        with pytest.raises(Refused, match="NT_STATUS_ACCESS_DENIED"):
            client.run(there, "ls")
        shares.delete(other)

    def test_encryption_by_share_type(
        self, shares: Shares, share: str, client: SmbClient, deployment: Deployment
    ) -> None:
        specs = {
            "driver_handles_share_servers": "True", "share_backend_name": "two_nics",
            "sharewright:smb_encryption": "required",
        }  # fmt: skip
        with deployment.sdk("admin") as sdk:
            body = {"share_type": {"name": "encrypted", "extra_specs": specs}}
            sdk.shared_file_system.post("/types", json=body, raise_exc=True)
        sealed = shares.create("sealed", share_type="encrypted")
        shares.wait(sealed)
        with pytest.raises(openstack.exceptions.BadRequestException, match="guests cannot"):
            shares.allow(sealed, shares.client.address)
        key = shares.api.get_access_rule(shares.allow(sealed, "wilma", kind="user")).access_key
        name = name_of(shares.export(sealed))
        with client.session(user="wilma", password=key) as session:
            assert session.listing(name) == []
            assert session.tree(name).encrypt_data
            session.tree(name).encrypt_data = False
            with pytest.raises((smbprotocol.exceptions.SMBException, OSError)):
                session.listing(name)
        shares.delete(sealed)

    def test_signing_is_mandatory_where_there_are_no_guests(self, blue: Shares, deployment: Deployment) -> None:
        """On a server of its own, the other tenant's."""
        shares = Shares(blue.tenant, protocol="CIFS")
        share = shares.create("signed")
        shares.wait(share)
        key = shares.api.get_access_rule(shares.allow(share, "wilma", kind="user")).access_key
        with (
            smb_client(shares.client, address_of(shares.export(share))) as client,
            client.session(user="wilma", password=key) as session,
        ):
            assert session.server_requires_signing
            assert session.listing(name_of(shares.export(share))) == []
        shares.delete(share)

    def test_deleted_while_a_client_is_connected(self, shares: Shares, share: str, client: SmbClient) -> None:
        other = shares.create("leaving")
        shares.wait(other)
        shares.allow(other, shares.client.address)
        with client.session() as session:
            file = session.open(name_of(shares.export(other)), "open", "wb")
            file.write(b"x")
            started = time.monotonic()
            shares.delete(other)
            print(f"deleted under an open file in {time.monotonic() - started:.1f} s")
            assert "kept" in session.listing(name_of(shares.export(share)))

    def test_users(self, shares: Shares, share: str, client: SmbClient, tmp_path: Path) -> None:
        """A writer, a reader, a wrong password, no guest; and a user who goes while connected."""
        other = shares.create("users")
        shares.wait(other)
        name = name_of(shares.export(other))
        writing = shares.allow(other, "Wilma", kind="user")
        reading = shares.allow(other, "rudolf", "ro", kind="user")
        keys = {rule: shares.api.get_access_rule(rule).access_key for rule in (writing, reading)}
        wilma = {"user": "wilma", "password": keys[writing]}
        rudolf = {"user": "Rudolf", "password": keys[reading]}
        (tmp_path / "file").write_text("hers\n")
        client.run(name, f"put {tmp_path}/file file", **wilma)
        client.run(name, f"put {tmp_path}/file file", **wilma)  # over her own
        client.run(name, f"get file {tmp_path}/read", **rudolf)
        assert (tmp_path / "read").read_text() == "hers\n"
        with pytest.raises(Refused, match="NT_STATUS_ACCESS_DENIED"):
            client.run(name, f"put {tmp_path}/file his", **rudolf)
        with pytest.raises(Refused, match="NT_STATUS_LOGON_FAILURE"):
            client.run(name, "ls", user="wilma", password=keys[reading])
        for nobody in ({}, {"user": "stranger", "password": "x"}):
            with pytest.raises(Refused, match="NT_STATUS_ACCESS_DENIED"):
                client.run(name, "ls", **nobody)
        with client.session(user="wilma", password=keys[writing]) as session:
            assert session.dialect == SMB_3_1_1
            assert session.signed
            assert session.listing(name) == ["file"]
            mount(shares.client, shares.export(other), "/mnt/rudolf", f"username=rudolf,password={keys[reading]},ro")
            shares.deny(writing, other)
            with pytest.raises((smbprotocol.exceptions.SMBException, OSError)):
                session.listing(name)
            assert shares.client.run("cat /mnt/rudolf/file") == "hers\n"
            shares.client.unmount("/mnt/rudolf")
        with pytest.raises(Refused, match="NT_STATUS_"):
            client.run(name, "ls", **wilma)
        shares.delete(other)

    def test_shrink_waits_for_open_files_and_refuses(
        self, shares: Shares, share: str, client: SmbClient, deployment: Deployment, cloud: Cloud
    ) -> None:
        """Who has a file open keeps it, and the share is what it was; then it shrinks under a kernel client that has it
        mounted, and under one that has a file of another share open."""
        other = shares.create("shrinking", size=2)
        shares.wait(other)
        shares.allow(other, shares.client.address)
        here, there = name_of(shares.export(share)), name_of(shares.export(other))
        machine = shares.client
        mount(machine, shares.export(other), "/mnt/shrinking")
        machine.run(
            "cd /mnt/shrinking && mkdir -p a/b && for i in $(seq 50); do echo $i > a/b/$i; done && "
            "head -c 8388608 /dev/urandom > data && sha256sum data > sum && truncate -s 1G sparse && cd / && sync"
        )
        before = share_instance(deployment, other)
        looked = "cd /mnt/shrinking && sha256sum -c sum && find . -printf '%p %i %s %T@\\n' | sort"
        with client.session() as session:
            kept, held = session.open(here, "kept", "wb"), session.open(there, "held", "wb")
            held.write(b"one")
            kept.write(b"one")
            shares.api.resize_share(other, 1)
            shares.wait(other, "available", seconds=400)
            assert shares.api.get_share(other).size == 2
            (message,) = [m for m in shares.api.user_messages() if m.resource_id == other]
            assert (message.action_id, message.detail_id) == ("009", "018")
            assert '"held"' in message.user_message
            assert share_instance(deployment, other).volume_id == before.volume_id
            held.write(b"two")
            held.close()
            seen = machine.run(looked)
            shares.api.resize_share(other, 1)
            wait_for("1 GiB", lambda: shares.api.get_share(other).size == 1, seconds=400)
            shares.wait(other)
            kept.write(b"two")
            kept.close()
        assert machine.run(looked) == seen
        assert machine.run("cat /mnt/shrinking/held") == "onetwo"
        machine.run("echo after > /mnt/shrinking/after && sync /mnt/shrinking/after")
        kib = int(machine.run("df -k --output=size /mnt/shrinking | tail -1"))
        assert 0.8 * 1024 * 1024 < kib <= 1024 * 1024
        machine.unmount("/mnt/shrinking")
        after = share_instance(deployment, other)
        assert volumes_of(cloud, after.id) == [
            next(v.name for v in cloud.volumes.list_volumes() if v.id == after.volume_id)
        ]
        assert cloud.volumes.find_volume(before.volume_id) is None
        shares.delete(other)

    def test_revert_and_other_levels_under_a_mounted_client(
        self, shares: Shares, share: str, client: SmbClient
    ) -> None:
        """The kernel's client goes on with what was, except for a file that it has open, and who has a file of another
        share open keeps it. Afterwards the former goes on when its rule goes and another one comes."""
        other = shares.create("reverting")
        shares.wait(other)
        rule = shares.allow(other, shares.client.address)
        here, there = name_of(shares.export(share)), name_of(shares.export(other))
        machine = shares.client
        mount(machine, shares.export(other), "/mnt/reverting")
        machine.run("cd /mnt/reverting && echo then | tee file > held && stat -c %i . file > /tmp/inodes && sync file")
        machine.run("nohup setsid sleep 600 < /mnt/reverting/held >/dev/null 2>&1 & echo $! > /tmp/holding")
        with client.session() as session:
            snapshot = taken(shares, other, "then")
            machine.run("cd /mnt/reverting && echo now > file && echo more > more && sync file more && sleep 2")
            assert "more" in session.listing(there)
            kept = session.open(here, "kept", "wb")
            kept.write(b"one")
            shares.api.post(f"/shares/{other}/action", json={"revert": {"snapshot_id": snapshot}}, raise_exc=True)
            shares.wait(other)
            assert machine.run("cat /mnt/reverting/file") == "then\n"
            kept.write(b"two")
            kept.close()
            assert client.run(there, "ls").count("more") == 0
        assert "more" not in machine.run("ls /mnt/reverting")
        assert machine.run("cd /mnt/reverting && stat -c %i . file") == machine.run("cat /tmp/inodes")
        machine.run("echo after > /mnt/reverting/after && sync /mnt/reverting/after")
        shares.deny(rule, other)
        assert machine.run("timeout 20 cat /mnt/reverting/after 2>&1", check=False) != "after\n"
        shares.allow(other, machine.address, "ro")
        assert machine.run("cat /mnt/reverting/after") == "after\n"
        assert machine.run("echo no > /mnt/reverting/after 2>&1 || echo refused", check=False).endswith("refused\n")
        print("a file that was open:", machine.run("cat /mnt/reverting/held 2>&1", check=False))
        machine.run("kill $(cat /tmp/holding)")
        machine.unmount("/mnt/reverting")
        mount(machine, shares.export(other), "/mnt/reverting", f"{GUEST},ro")
        assert machine.run("cat /mnt/reverting/held") == "then\n"
        machine.unmount("/mnt/reverting")
        delete_snapshot(shares, snapshot)
        shares.delete(other)

    def test_reboot_with_the_controller_down(
        self, shares: Shares, share: str, deployment: Deployment, machines: Machines
    ) -> None:
        """The kernel's client finds its share again by itself."""
        client = shares.client
        mount(client, shares.export(share), "/mnt/smb")
        client.run("echo before > /mnt/smb/reboot && sync /mnt/smb/reboot")
        server_id = str(share_instance(deployment, share).share_server_id)

        def read() -> str:
            try:
                return client.run("timeout 20 cat /mnt/smb/reboot")
            except CommandFailed:
                return ""

        deployment.stop()
        try:
            machines.reset(server_id)
            started = time.monotonic()
            assert wait_for("the share again", read, seconds=240, interval=1) == "before\n"
            print(f"the mount answered {time.monotonic() - started:.0f} s after the reset")
            client.run("echo after >> /mnt/smb/reboot")
        finally:
            deployment.start()
        assert client.run("cat /mnt/smb/reboot") == "before\nafter\n"
        client.unmount("/mnt/smb")
