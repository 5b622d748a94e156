"""The simulated cloud beyond the contract (tests/contract): knobs for tests, guests, survival of processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from ipaddress import ip_network
from pathlib import Path
from typing import Literal

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sharewright.clouds.contract import (
    Flavor,
    Instance,
    InstanceSpec,
    PortSpec,
    SnapshotSpec,
    Volume,
    VolumeSpec,
    cloud_calls,
)
from sharewright.clouds.simulated import SimulatedCloud
from sharewright.clouds.simulated.guest import SimulatedGuests
from sharewright.errors import (
    CloudCapacityExceeded,
    CloudError,
    CloudObjectMissing,
    CloudUnavailable,
    DeadlineExceeded,
    GuestError,
    GuestUnreachable,
    StaleDocument,
)
from sharewright.guest.contract import GuestAddress, round_trips
from sharewright.guest.document import Document, Filesystem, Rule, Share
from sharewright.settings import Simulated

UUID = "6f1c2a3e-0000-4000-8000-000000000001"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cloud.db"


@pytest.fixture
def cloud(path: Path) -> SimulatedCloud:
    return SimulatedCloud(Simulated(capacity=100), deployment="tests", path=path)


def key_pair() -> tuple[str, str]:
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private.decode(), public.decode()


class Server:
    """An instance with keys on a network, and how to talk to it."""

    def __init__(self, cloud: SimulatedCloud) -> None:
        self.cloud = cloud
        self.guests = SimulatedGuests(cloud)
        network = cloud.networks.create_network("tenant", ip_network("10.1.0.0/24"))
        port = cloud.networks.ensure_port(
            PortSpec(name="p", subnet=network.subnets[0], tags={}, allowed_tcp=(22,)), timeout=5
        )
        host_private, host_public = key_pair()
        private, public = key_pair()
        files = {
            "user_data": json.dumps(
                {"authorized_keys": [f'restrict,command="x" {public}'], "ssh_host_ed25519_key": host_private}
            ).encode()
        }
        self.spec = InstanceSpec(name="vm", image="image", flavor=Flavor(), ports=(port,), files=files, tags={})
        self.instance: Instance = cloud.compute.ensure_instance(self.spec, timeout=5)
        self.address = GuestAddress(server_id="s", host=str(port.address), host_key=host_public, private_key=private)

    def volume(self, name: str = "v", size: int = 1) -> Volume:
        volume = self.cloud.volumes.ensure_volume(VolumeSpec(name=name, size=size, tags={}), timeout=5)
        self.cloud.compute.attach_volume(self.instance.id, volume.id, timeout=5)
        return volume


def share(volume: Volume, *, create: bool = True, uuid: str = UUID, rules: tuple[Rule, ...] = ()) -> Share:
    return Share(
        id=volume.name,
        serial=volume.serial,
        filesystem=Filesystem(type="ext4", uuid=uuid, create=create),
        protocol="NFS",
        rules=rules,
    )


def document(generation: int, *shares: Share) -> Document:
    return Document(server_id="s", generation=generation, shares=shares)


@pytest.fixture
def server(cloud: SimulatedCloud) -> Server:
    return Server(cloud)


def test_state_survives_a_killed_process(path: Path, cloud: SimulatedCloud) -> None:
    program = f"""
import time
from pathlib import Path
from sharewright.clouds.contract import VolumeSpec
from sharewright.clouds.simulated import SimulatedCloud
from sharewright.settings import Simulated
cloud = SimulatedCloud(Simulated(), deployment="tests", path=Path({str(path)!r}))
cloud.volumes.ensure_volume(VolumeSpec(name="first", size=1, tags={{}}), timeout=5)
cloud.set_delay("ensure_volume", 60)
print("ready", flush=True)
cloud.volumes.ensure_volume(VolumeSpec(name="second", size=1, tags={{}}), timeout=100)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    cloud.set_delay("ensure_volume", 0)
    assert [volume.name for volume in cloud.volumes.list_volumes()] == ["first"]
    assert cloud.calls()["ensure_volume"] >= 1


def test_failures_are_seen_by_another_object_and_are_used_up(path: Path, cloud: SimulatedCloud) -> None:
    cloud.fail("ensure_volume", CloudUnavailable, times=2)
    other = SimulatedCloud(Simulated(), deployment="tests", path=path)
    spec = VolumeSpec(name="v", size=1, tags={})
    for _ in range(2):
        with pytest.raises(CloudUnavailable):
            other.volumes.ensure_volume(spec, timeout=5)
    assert other.volumes.ensure_volume(spec, timeout=5).name == "v"


def test_a_lasting_failure_ends_when_forgiven(cloud: SimulatedCloud) -> None:
    cloud.fail("capacity", CloudError, times=-1)
    for _ in range(3):
        with pytest.raises(CloudError):
            cloud.volumes.capacity()
    cloud.forgive("capacity")
    assert cloud.volumes.capacity().total == 100


def test_a_lost_answer_leaves_the_effect(cloud: SimulatedCloud) -> None:
    cloud.fail("ensure_volume", CloudUnavailable, moment="after")
    with pytest.raises(CloudUnavailable):
        cloud.volumes.ensure_volume(VolumeSpec(name="v", size=1, tags={}), timeout=5)
    assert [volume.name for volume in cloud.volumes.list_volumes()] == ["v"]


def test_a_delay_beyond_the_timeout_is_a_deadline_without_effect(cloud: SimulatedCloud) -> None:
    cloud.set_delay("ensure_volume", 100_000)
    with pytest.raises(DeadlineExceeded):
        cloud.volumes.ensure_volume(VolumeSpec(name="v", size=1, tags={}), timeout=0.05)
    assert cloud.volumes.list_volumes() == []


def test_calls_are_counted_per_thread_and_per_method(cloud: SimulatedCloud) -> None:
    before = cloud_calls.count
    cloud.volumes.list_volumes()
    cloud.volumes.capacity()
    assert cloud_calls.count - before == 2
    assert cloud.calls() == {"list_volumes": 1, "capacity": 1}
    cloud.reset_calls()
    assert cloud.calls() == {}


def test_capacity_is_a_limit(cloud: SimulatedCloud) -> None:
    with pytest.raises(CloudCapacityExceeded, match="101 GiB"):
        cloud.volumes.ensure_volume(VolumeSpec(name="v", size=101, tags={}), timeout=5)


# ---- snapshots, adoption ----


def test_a_snapshot_is_ready_after_its_copy(cloud: SimulatedCloud) -> None:
    volume = cloud.volumes.ensure_volume(VolumeSpec(name="v", size=1, tags={}), timeout=5)
    cloud.set_delay("copy", 0.2)
    snapshot = cloud.volumes.ensure_snapshot(SnapshotSpec(name="s", volume_id=volume.id, tags={}), timeout=5)
    assert not snapshot.ready
    with pytest.raises(DeadlineExceeded, match="not ready"):
        cloud.volumes.await_snapshot(snapshot.id, timeout=0.01)
    assert cloud.volumes.await_snapshot(snapshot.id, timeout=5).ready


def test_a_snapshot_that_is_not_ready_makes_no_volume(cloud: SimulatedCloud) -> None:
    volume = cloud.volumes.ensure_volume(VolumeSpec(name="v", size=1, tags={}), timeout=5)
    cloud.set_delay("copy", 60)
    snapshot = cloud.volumes.ensure_snapshot(SnapshotSpec(name="s", volume_id=volume.id, tags={}), timeout=5)
    with pytest.raises(CloudError, match="not ready"):
        cloud.volumes.ensure_volume(VolumeSpec(name="c", size=1, tags={}, source_snapshot=snapshot.id), timeout=5)
    assert [each.name for each in cloud.volumes.list_volumes()] == ["v"]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_snapshots_fail_as_other_calls_do(cloud: SimulatedCloud, moment: Literal["before", "after"]) -> None:
    volume = cloud.volumes.ensure_volume(VolumeSpec(name="v", size=1, tags={}), timeout=5)
    cloud.fail("ensure_snapshot", CloudUnavailable, moment=moment)
    spec = SnapshotSpec(name="s", volume_id=volume.id, tags={})
    with pytest.raises(CloudUnavailable):
        cloud.volumes.ensure_snapshot(spec, timeout=5)
    assert len(cloud.volumes.list_snapshots()) == (moment == "after")
    assert cloud.volumes.ensure_snapshot(spec, timeout=5) == cloud.volumes.list_snapshots()[0]


def test_somebody_elses_volume_is_adopted_with_its_file_system(cloud: SimulatedCloud) -> None:
    for name in ("theirs", "twin", "twin"):
        cloud.volumes.add_foreign_volume(name, 3)
    assert list(cloud.volumes.list_volumes()) == []
    adopted = cloud.volumes.adopt_volume("theirs", "manila-share-1", {}, timeout=5)
    assert (adopted.name, adopted.size) == ("manila-share-1", 3)
    held = cloud.volumes.add_foreign_volume("held", 2)
    with cloud.state.transaction() as tx:
        tx.execute("UPDATE volumes SET instance_id = 'machine' WHERE id = ?", (held,))
    with pytest.raises(CloudError, match="attached to instance machine"):
        cloud.volumes.adopt_volume("held", "manila-share-3", {}, timeout=5, holder="another")
    assert cloud.volumes.adopt_volume("held", "manila-share-3", {}, timeout=5, holder="machine").id == held
    with pytest.raises(CloudError, match="2 volumes are called twin"):
        cloud.volumes.adopt_volume("twin", "manila-share-2", {}, timeout=5)
    with pytest.raises(CloudObjectMissing):
        cloud.volumes.adopt_volume("nobody's", "manila-share-2", {}, timeout=5)


# ---- guests ----


def test_first_document_formats_mounts_and_exports(server: Server) -> None:
    volume = server.volume()
    server.guests.wait_ready(server.address, timeout=5)
    before = round_trips.count
    rule = Rule(id="r", access_to="10.1.0.9/32", access_level="rw")
    state = server.guests.apply(server.address, document(1, share(volume, rules=(rule,))), timeout=5)
    assert round_trips.count - before == 1
    (one,) = state.shares
    assert (one.mounted, one.exported, one.formatted, one.error) == (True, True, True, "")
    assert one.bytes_total == 2**30
    assert server.guests.exports(server.instance.id) == {"v": [["10.1.0.9/32", "rw"]]}


def test_second_document_changes_nothing(server: Server) -> None:
    volume = server.volume()
    server.guests.apply(server.address, document(1, share(volume)), timeout=5)
    again = server.guests.apply(server.address, document(2, share(volume)), timeout=5)
    assert again.changed == ()
    assert not again.shares[0].formatted


def test_older_generation_is_refused(server: Server) -> None:
    server.guests.apply(server.address, document(5), timeout=5)
    with pytest.raises(StaleDocument):
        server.guests.apply(server.address, document(4), timeout=5)
    server.guests.apply(server.address, document(5), timeout=5)


@pytest.mark.parametrize(("create", "error"), [(True, "not_blank"), (False, "filesystem_mismatch")])
def test_a_foreign_file_system_is_never_touched(server: Server, create: bool, error: str) -> None:
    volume = server.volume()
    server.guests.apply(server.address, document(1, share(volume)), timeout=5)
    server.guests.apply(server.address, document(2), timeout=5)
    other = UUID.replace("1", "2")
    state = server.guests.apply(server.address, document(3, share(volume, create=create, uuid=other)), timeout=5)
    assert state.shares[0].error == error
    state = server.guests.apply(server.address, document(4, share(volume, create=False)), timeout=5)
    assert state.shares[0].mounted


def test_blank_volume_that_should_not_be_new_is_not_formatted(server: Server) -> None:
    volume = server.volume()
    state = server.guests.apply(server.address, document(1, share(volume, create=False)), timeout=5)
    assert state.shares[0].error == "filesystem_mismatch"
    assert not state.shares[0].formatted


def test_a_clone_serves_the_file_system_of_the_snapshots_moment(server: Server) -> None:
    blank = server.volume("v")
    specs = [SnapshotSpec(name=name, volume_id=blank.id, tags={}) for name in ("before", "after")]
    volumes = server.cloud.volumes
    early = volumes.ensure_snapshot(specs[0], timeout=5)
    server.guests.apply(server.address, document(1, share(blank)), timeout=5)
    late = volumes.ensure_snapshot(specs[1], timeout=5)
    clones = []
    for number, snapshot in enumerate((early, late)):
        spec = VolumeSpec(name=f"clone {number}", size=2, tags={}, source_snapshot=snapshot.id)
        clones.append(volumes.ensure_volume(spec, timeout=5))
        server.cloud.compute.attach_volume(server.instance.id, clones[-1].id, timeout=5)
    state = server.guests.apply(
        server.address, document(2, share(blank), *(share(clone, create=False) for clone in clones)), timeout=5
    )
    assert [one.error for one in state.shares] == ["", "filesystem_mismatch", ""]
    assert state.shares[2].mounted


def test_missing_device_leaves_the_others_alone(server: Server) -> None:
    volume = server.volume()
    missing = share(Volume(id="x", name="x", size=1, serial="x", tags={}))
    state = server.guests.apply(server.address, document(1, missing, share(volume)), timeout=5)
    assert [one.error for one in state.shares] == ["device_missing", ""]


def test_what_the_document_leaves_out_may_be_detached(server: Server) -> None:
    volume = server.volume()
    server.guests.apply(server.address, document(1, share(volume)), timeout=5)
    state = server.guests.apply(server.address, document(2), timeout=5)
    assert state.unmounted == (volume.name,)
    server.cloud.compute.detach_volume(server.instance.id, volume.id, timeout=5)
    assert server.cloud.violations() == []


def test_detaching_a_mounted_volume_is_a_violation(server: Server) -> None:
    volume = server.volume()
    server.guests.apply(server.address, document(1, share(volume)), timeout=5)
    server.cloud.compute.detach_volume(server.instance.id, volume.id, timeout=5)
    assert len(server.cloud.violations()) == 1
    assert server.guests.exports(server.instance.id) == {}


def test_a_rebooted_server_serves_by_itself(server: Server) -> None:
    volume = server.volume()
    boot = server.guests.wait_ready(server.address, timeout=5)
    server.guests.apply(server.address, document(1, share(volume)), timeout=5)
    server.cloud.compute.reboot_instance(server.instance.id, timeout=5)
    assert server.guests.wait_ready(server.address, timeout=5) != boot
    assert list(server.guests.exports(server.instance.id)) == [volume.name]
    observed = server.guests.observe(server.address, document(2, share(volume)), timeout=5)
    assert (observed.shares[0].mounted, observed.shares[0].exported, observed.generation) == (True, True, 1)


def test_stopped_missing_and_booting_instances_are_unreachable(server: Server) -> None:
    server.cloud.compute.stop_instance(server.instance.id)
    with pytest.raises(GuestUnreachable, match="stopped"):
        server.guests.apply(server.address, document(1), timeout=5)
    server.cloud.set_delay("boot", 0.3)
    server.cloud.compute.ensure_instance(server.spec, timeout=5)
    with pytest.raises(GuestUnreachable, match="booting"):
        server.guests.apply(server.address, document(1), timeout=5)
    server.guests.wait_ready(server.address, timeout=5)
    server.cloud.compute.delete_instance(server.instance.id, timeout=5)
    with pytest.raises(GuestUnreachable, match="no instance"):
        server.guests.wait_ready(server.address, timeout=0.1)


def test_wrong_keys_are_refused(server: Server) -> None:
    private, public = key_pair()
    for address in (
        GuestAddress(server_id="s", host=server.address.host, host_key=public, private_key=server.address.private_key),
        GuestAddress(server_id="s", host=server.address.host, host_key=server.address.host_key, private_key=private),
    ):
        with pytest.raises(GuestUnreachable):
            server.guests.wait_ready(address, timeout=0)


@pytest.mark.parametrize(
    ("step", "error"), [("mkfs", "mkfs_failed"), ("mount", "mount_failed"), ("export", "export_failed")]
)
def test_a_failing_step_is_one_shares_error_and_passes(server: Server, step: str, error: str) -> None:
    volume = server.volume()
    server.cloud.fail(f"guest.{step}", GuestError, message="broken")
    state = server.guests.apply(server.address, document(1, share(volume)), timeout=5)
    assert (state.shares[0].error, state.shares[0].message) == (error, "broken")
    state = server.guests.apply(server.address, document(2, share(volume)), timeout=5)
    assert state.shares[0].exported


def test_busy_share_stays_mounted(server: Server) -> None:
    volume = server.volume()
    server.guests.apply(server.address, document(1, share(volume)), timeout=5)
    server.cloud.fail("guest.unmount", GuestError, message="held open")
    state = server.guests.apply(server.address, document(2), timeout=5)
    assert state.busy == {volume.name: "held open"}
    assert state.unmounted == ()
    assert server.guests.exports(server.instance.id) == {}
    assert server.guests.apply(server.address, document(3), timeout=5).unmounted == (volume.name,)


def test_a_malformed_rule_does_not_hurt_the_others(server: Server) -> None:
    volume = server.volume()
    rules = (Rule(id="bad", access_to="nobody", access_level="rw"), Rule(id="ok", access_to="::/0", access_level="ro"))
    state = server.guests.apply(server.address, document(1, share(volume, rules=rules)), timeout=5)
    assert list(state.shares[0].rule_errors) == ["bad"]
    assert server.guests.exports(server.instance.id) == {volume.name: [["::/0", "ro"]]}


def test_an_unusable_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(os.urandom(5000))
    with pytest.raises(CloudError, match="cannot be used"):
        SimulatedCloud(Simulated(), deployment="tests", path=tmp_path / "junk")
