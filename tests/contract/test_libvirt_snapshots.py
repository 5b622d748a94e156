"""Snapshots on libvirt: jobs of QEMU at work, files that others put beside ours, calls that died.

Disks are written through QEMU as the guest would write them (its monitor's qemu-io), and jobs are slowed down so that
things happen while they run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cloud_sites import SECONDS, LibvirtSite, block_holds, instance_spec

from sharewright.clouds.contract import SnapshotSpec, Volume, VolumeSnapshot, VolumeSpec
from sharewright.clouds.libvirt.cloud import LibvirtCloud
from sharewright.errors import CloudError, CloudObjectMissing, CloudUnavailable, DeadlineExceeded
from sharewright.progress import NoProgress

libvirt = pytest.importorskip("libvirt")
libvirt_qemu = pytest.importorskip("libvirt_qemu")
pytestmark = pytest.mark.e2e
MIB = 2**20
FILLED = 512 * MIB  # of a volume of 1 GiB, with OLD: enough to have a job at work for a while
OLD, NEW = 65, 66


@pytest.fixture
def cloud(libvirt_site: LibvirtSite) -> LibvirtCloud:
    cloud = libvirt_site.open()
    assert isinstance(cloud, LibvirtCloud)
    cloud.check()
    return cloud


class Machine:
    """A machine with a volume, and a way to its QEMU that is not ours."""

    def __init__(self, site: LibvirtSite, cloud: LibvirtCloud) -> None:
        self.cloud = cloud
        self.files = site.state_dir() / "libvirt" / "volumes"
        self.records = site.state_dir() / "libvirt" / "records" / "snapshots"
        self.instance = cloud.compute.ensure_instance(instance_spec(site, cloud), timeout=SECONDS)
        self._connection = libvirt.open("qemu:///system")
        self._domain = self._connection.lookupByUUIDString(self.instance.id)
        self.volume = self.attach("v")

    def attach(self, name: str) -> Volume:
        volume = self.cloud.volumes.ensure_volume(VolumeSpec(name=name, size=1, tags={}), timeout=SECONDS)
        with (self.files / f"{volume.id}.raw").open("r+b") as file:
            for _ in range(FILLED // MIB):
                file.write(bytes([OLD]) * MIB)
        self.cloud.compute.attach_volume(self.instance.id, volume.id, timeout=SECONDS)
        return volume

    def snapshots(self, *volumes: Volume, timeout: float = SECONDS) -> list[VolumeSnapshot]:
        """Of several volumes together; named like them."""
        specs = [SnapshotSpec(name=f"of-{volume.name}", volume_id=volume.id, tags={}) for volume in volumes]
        return list(self.cloud.volumes.ensure_snapshots(specs, timeout=timeout))

    def snapshot(self, name: str = "s", *, volume: Volume | None = None, timeout: float = SECONDS) -> VolumeSnapshot:
        spec = SnapshotSpec(name=name, volume_id=(volume or self.volume).id, tags={})
        return self.cloud.volumes.ensure_snapshot(spec, timeout=timeout)

    def slow_snapshot(self) -> VolumeSnapshot:
        """One whose job does not end before it is told to."""
        (snapshot,) = self._slowed(lambda: [self.snapshot()])
        return snapshot

    def slow_snapshots(self, *volumes: Volume) -> list[VolumeSnapshot]:
        """The same of several volumes together."""
        return self._slowed(lambda: self.snapshots(*volumes))

    def _slowed(self, take: Callable[[], list[VolumeSnapshot]]) -> list[VolumeSnapshot]:
        """From the beginning, which a thread waits for. On a busy host a copy may be over even so; then all are taken
        again."""
        for _ in range(10):
            with self._slowing():
                taken = take()
            if self._limit(MIB) == len(taken) and not any(snapshot.ready for snapshot in taken):
                return taken
            self._limit(0)
            for snapshot in taken:
                self.cloud.volumes.delete_snapshot(snapshot.id, timeout=SECONDS)
        raise AssertionError("A copy was always over before it could be slowed down.")

    @contextmanager
    def _slowing(self) -> Iterator[None]:
        """What begins to be copied meanwhile is slowed down at once."""
        stopping = threading.Event()

        def slow() -> None:
            while not stopping.wait(0.002):
                self._limit(MIB)

        thread = threading.Thread(target=slow)
        thread.start()
        try:
            yield
        finally:
            stopping.set()
            thread.join()

    def set_speed(self, speed: int) -> None:
        """Of what is being copied, in bytes a second; 0 is no limit."""
        assert self._limit(speed), "Nothing is being copied."

    def _limit(self, speed: int) -> int:
        """How many disks are being copied, each at that speed now; one of several may be done meanwhile."""
        answers = [
            self._say({"execute": "block-job-set-speed", "arguments": {"device": job["device"], "speed": speed}})
            for job in self.jobs()
        ]
        return sum("return" in answer for answer in answers)

    def write(self, offset: int, volume: Volume | None = None) -> None:
        (device,) = [
            str(alias.get("name"))
            for disk in ET.fromstring(self._domain.XMLDesc(0)).iter("disk")
            for alias in disk.findall("alias")
            if disk.findtext("serial") == (volume or self.volume).serial
        ]
        line = f'qemu-io -d {device} "write -P {NEW} {offset} 64k"'
        # What it did is looked at with holds(); the monitor tells only failures.
        assert not self._ask({"execute": "human-monitor-command", "arguments": {"command-line": line}})

    def jobs(self) -> list[Any]:
        found: list[Any] = self._ask({"execute": "query-block-jobs"})
        return found

    def image(self, key: str) -> Path:
        (path,) = self.files.glob(f"{key}.*")
        return path

    def _ask(self, command: dict[str, Any]) -> Any:
        return self._say(command)["return"]

    def _say(self, command: dict[str, Any]) -> Any:
        return json.loads(libvirt_qemu.qemuMonitorCommand(self._domain, json.dumps(command), 0))

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def machine(libvirt_site: LibvirtSite, cloud: LibvirtCloud) -> Iterator[Machine]:
    machine = Machine(libvirt_site, cloud)
    yield machine
    machine.close()


def holds(path: Path, pattern: int, offset: int) -> bool:
    command = ["qemu-io", "-U", "-r", "-f", path.suffix[1:], "-c", f"read -P {pattern} {offset} 64k", str(path)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "read 65536/65536" in output
    return "Pattern verification failed" not in output


def test_what_the_guest_writes_meanwhile_is_not_in_the_snapshot(machine: Machine) -> None:
    snapshot = machine.slow_snapshot()
    end, hole = FILLED - MIB, FILLED + 100 * MIB
    for offset in (0, end, hole):
        machine.write(offset)
    assert not machine.snapshot().ready, "the same one, and its moment stays"
    machine.set_speed(0)
    ready = machine.cloud.volumes.await_snapshot(snapshot.id, timeout=SECONDS)
    assert ready.ready
    spec = VolumeSpec(name="clone", size=2, tags={}, source_snapshot=snapshot.id)
    clone = machine.cloud.volumes.ensure_volume(spec, timeout=SECONDS)
    assert clone.size == 2
    for copy in (machine.image(snapshot.id), machine.image(clone.id)):
        assert [holds(copy, OLD, 0), holds(copy, OLD, end), holds(copy, 0, hole)] == [True] * 3
        assert copy.stat().st_blocks * 512 < FILLED + 16 * MIB, "holes stay holes"
    assert [holds(machine.image(machine.volume.id), NEW, offset) for offset in (0, end, hole)] == [True] * 3
    machine.cloud.compute.attach_volume(machine.instance.id, clone.id, timeout=SECONDS)
    assert machine.cloud.volumes.extend_volume(clone.id, 3, timeout=SECONDS).size == 3


def test_a_detach_ends_a_copy_that_takes_too_long(machine: Machine) -> None:
    snapshot = machine.slow_snapshot()
    machine.cloud.compute.detach_volume(machine.instance.id, machine.volume.id, timeout=4.0)
    with pytest.raises(CloudObjectMissing, match="has failed"):
        machine.cloud.volumes.await_snapshot(snapshot.id, timeout=SECONDS)
    assert list(machine.cloud.volumes.list_snapshots()) == []
    assert [path.stem for path in machine.files.iterdir()] == [machine.volume.id]
    assert machine.snapshot().ready, "made anew, of a volume that nobody has"


def test_a_detach_lets_a_copy_finish(machine: Machine) -> None:
    snapshot = machine.slow_snapshot()
    faster = threading.Timer(0.5, machine.set_speed, [0])
    faster.start()
    machine.cloud.compute.detach_volume(machine.instance.id, machine.volume.id, timeout=SECONDS)
    faster.join()
    assert machine.cloud.volumes.await_snapshot(snapshot.id, timeout=SECONDS).ready


def test_growing_waits_for_the_copy(machine: Machine) -> None:
    snapshot = machine.slow_snapshot()
    with pytest.raises(CloudUnavailable, match="still being copied"):
        machine.cloud.volumes.extend_volume(machine.volume.id, 2, timeout=0.5)
    machine.set_speed(0)
    assert machine.cloud.volumes.extend_volume(machine.volume.id, 2, timeout=SECONDS).size == 2
    assert machine.cloud.volumes.await_snapshot(snapshot.id, timeout=SECONDS).size == 1


def test_a_machine_that_dies_takes_its_snapshot_along(machine: Machine) -> None:
    snapshot = machine.slow_snapshot()
    machine.cloud.compute.reboot_instance(machine.instance.id, timeout=SECONDS)
    again = machine.snapshot()
    assert again.id == snapshot.id
    assert machine.cloud.volumes.await_snapshot(snapshot.id, timeout=SECONDS).ready
    machine.cloud.volumes.delete_snapshot(snapshot.id, timeout=SECONDS)
    snapshot = machine.slow_snapshot()
    machine.cloud.compute.delete_instance(machine.instance.id, timeout=SECONDS)
    with pytest.raises(CloudObjectMissing, match="has failed"):
        machine.cloud.volumes.await_snapshot(snapshot.id, timeout=SECONDS)
    assert [path.stem for path in machine.files.iterdir()] == [machine.volume.id]


def test_snapshots_of_one_machine_take_turns(machine: Machine) -> None:
    other = machine.attach("w")
    first = machine.slow_snapshot()
    with pytest.raises(DeadlineExceeded):
        machine.snapshot("t", volume=other, timeout=0.5)
    assert list(machine.cloud.volumes.list_snapshots()) == [first]
    machine.set_speed(0)
    second = machine.snapshot("t", volume=other)
    found = machine.cloud.volumes.find_snapshot(first.id)
    assert found is not None
    assert found.ready, "settled before the next job hides how it ended"
    assert machine.cloud.volumes.await_snapshot(second.id, timeout=SECONDS).ready
    assert machine.cloud.volumes.await_snapshot(first.id, timeout=SECONDS).ready


class TestTogether:
    def test_disks_of_one_machine_are_one_job_and_have_one_moment(self, machine: Machine) -> None:
        other = machine.attach("w")
        taken = machine.slow_snapshots(machine.volume, other)
        assert len(machine.jobs()) == 2, "QEMU shows one for each disk"
        for volume in (machine.volume, other):
            machine.write(0, volume)
            machine.write(FILLED - MIB, volume)
        assert machine.snapshots(other, machine.volume) == taken[::-1], "the same ones"
        machine.set_speed(0)
        for snapshot, volume in zip(taken, (machine.volume, other), strict=True):
            assert machine.cloud.volumes.await_snapshot(snapshot.id, timeout=SECONDS).ready
            copy = machine.image(snapshot.id)
            assert [holds(copy, OLD, 0), holds(copy, OLD, FILLED - MIB)] == [True] * 2
            assert holds(machine.image(volume.id), NEW, 0)

    def test_of_two_machines_and_of_none(
        self, machine: Machine, libvirt_site: LibvirtSite, cloud: LibvirtCloud
    ) -> None:
        elsewhere, loose = make(cloud, "elsewhere"), make(cloud, "loose")
        second = cloud.compute.ensure_instance(instance_spec(libvirt_site, cloud, name="second"), timeout=SECONDS)
        cloud.compute.attach_volume(second.id, elsewhere.id, timeout=SECONDS)
        taken = machine.snapshots(elsewhere, machine.volume, loose)
        assert [each.volume_id for each in taken] == [elsewhere.id, machine.volume.id, loose.id]
        assert all(cloud.volumes.await_snapshot(each.id, timeout=SECONDS).ready for each in taken)

    def test_a_job_at_work_leaves_none_of_them(self, machine: Machine) -> None:
        """Those that were made already are taken away again."""
        other, loose = machine.attach("w"), make(machine.cloud, "loose")
        first = machine.slow_snapshot()
        with pytest.raises(DeadlineExceeded):
            machine.snapshots(loose, machine.volume, other, timeout=0.5)
        assert list(machine.cloud.volumes.list_snapshots()) == [first]
        machine.set_speed(0)
        assert machine.cloud.volumes.await_snapshot(first.id, timeout=SECONDS).ready
        taken = machine.snapshots(loose, machine.volume, other)
        assert all(machine.cloud.volumes.await_snapshot(each.id, timeout=SECONDS).ready for each in taken)

    def test_deleting_one_that_is_copied_fails_the_others(self, machine: Machine) -> None:
        """The job is theirs too; and nothing claims to be whole that is not."""
        other = machine.attach("w")
        taken = machine.slow_snapshots(machine.volume, other)
        machine.cloud.volumes.delete_snapshot(taken[0].id, timeout=SECONDS)
        assert machine.jobs() == []
        with pytest.raises(CloudObjectMissing, match="has failed"):
            machine.cloud.volumes.await_snapshot(taken[1].id, timeout=SECONDS)
        assert list(machine.cloud.volumes.list_snapshots()) == []
        assert {path.stem for path in machine.files.iterdir()} == {machine.volume.id, other.id}


def test_a_deleted_snapshots_job_ends(machine: Machine) -> None:
    snapshot = machine.slow_snapshot()
    machine.cloud.volumes.delete_snapshot(snapshot.id, timeout=SECONDS)
    assert machine.jobs() == []
    assert [path.stem for path in machine.files.iterdir()] == [machine.volume.id]
    assert list(machine.cloud.volumes.list_snapshots()) == []


def test_a_job_whose_caller_died_before_it_noted_it_is_begun_anew(machine: Machine) -> None:
    snapshot = machine.slow_snapshot()
    record = machine.records / f"{snapshot.id}.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "begun": False}))
    machine.write(0)
    assert not machine.snapshot().ready
    assert machine.cloud.volumes.await_snapshot(snapshot.id, timeout=SECONDS).ready
    assert holds(machine.image(snapshot.id), NEW, 0), "the moment is the second call's"


def test_nobody_elses_word_makes_a_partial_copy_ready(machine: Machine, libvirt_site: LibvirtSite) -> None:
    snapshot = machine.slow_snapshot()
    machine.cloud.compute.reboot_instance(machine.instance.id, timeout=SECONDS)
    connection = libvirt.open("qemu:///system")
    domain = connection.lookupByUUIDString(machine.instance.id)
    target = libvirt_site.directory / "operators.qcow2"
    domain.backupBegin(
        "<domainbackup mode='push'><disks><disk name='sda' backup='yes' type='file'><driver type='qcow2'/>"
        f"<target file='{target}'/></disk></disks></domainbackup>",
        None,
        0,
    )
    with pytest.raises(CloudObjectMissing, match="has failed"):
        machine.cloud.volumes.await_snapshot(snapshot.id, timeout=SECONDS)
    connection.close()


# ---- volumes that nobody has ----


def make(cloud: LibvirtCloud, name: str = "v") -> Volume:
    return cloud.volumes.ensure_volume(VolumeSpec(name=name, size=1, tags={}), timeout=SECONDS)


def directory(site: LibvirtSite) -> Path:
    return site.state_dir() / "libvirt" / "volumes"


def test_a_copy_that_died_is_made_anew(libvirt_site: LibvirtSite, cloud: LibvirtCloud) -> None:
    volume = make(cloud)
    libvirt_site.write(cloud, volume.id, OLD)
    spec = SnapshotSpec(name="s", volume_id=volume.id, tags={})
    snapshot = cloud.volumes.ensure_snapshot(spec, timeout=SECONDS)
    assert snapshot.ready
    path = libvirt_site.state_dir() / "libvirt" / "records" / "snapshots" / f"{snapshot.id}.json"
    died = json.dumps({**json.loads(path.read_text()), "begun": False, "ready": False})
    file = directory(libvirt_site) / f"{snapshot.id}.raw"
    file.write_bytes(b"half made")
    path.write_text(died)
    source = VolumeSpec(name="clone", size=1, tags={}, source_snapshot=snapshot.id)
    with pytest.raises(CloudError, match="not ready"):
        cloud.volumes.ensure_volume(source, timeout=SECONDS)
    assert cloud.volumes.ensure_snapshot(spec, timeout=SECONDS) == snapshot
    assert block_holds(str(file), "raw", OLD, 0)
    assert file.stat().st_blocks * 512 < MIB, "holes stay holes"
    file.write_bytes(b"half made")
    path.write_text(died)
    with pytest.raises(CloudObjectMissing, match="has failed"):
        cloud.volumes.await_snapshot(snapshot.id, timeout=SECONDS)
    assert not file.exists()
    assert not path.exists()


def test_a_volume_made_from_a_snapshot_by_a_call_that_died(libvirt_site: LibvirtSite, cloud: LibvirtCloud) -> None:
    volume = make(cloud)
    libvirt_site.write(cloud, volume.id, OLD)
    snapshot = cloud.volumes.ensure_snapshot(SnapshotSpec(name="s", volume_id=volume.id, tags={}), timeout=SECONDS)
    spec = VolumeSpec(name="clone", size=1, tags={}, source_snapshot=snapshot.id)
    clone = cloud.volumes.ensure_volume(spec, timeout=SECONDS)
    path = libvirt_site.state_dir() / "libvirt" / "records" / "volumes" / f"{clone.id}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "ready": False}))
    file = directory(libvirt_site) / f"{clone.id}.raw"
    file.write_bytes(b"half made")
    with pytest.raises(CloudError, match="not blank"):
        make(cloud, "clone")
    assert cloud.volumes.ensure_volume(spec, timeout=SECONDS) == clone
    assert block_holds(str(file), "raw", OLD, 0)


def test_what_another_process_writes_to_is_not_copied(libvirt_site: LibvirtSite, cloud: LibvirtCloud) -> None:
    volume = make(cloud)
    command = ["qemu-io", "-f", "raw", str(directory(libvirt_site) / f"{volume.id}.raw")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        writer.stdin.write(b"write 0 64k\n")
        writer.stdin.flush()
        while b"wrote" not in writer.stdout.readline():
            pass
        with pytest.raises(CloudError, match="outside of Sharewright"):
            cloud.volumes.ensure_snapshot(SnapshotSpec(name="s", volume_id=volume.id, tags={}), timeout=SECONDS)
        writer.stdin.close()
    assert list(cloud.volumes.list_snapshots()) == []


# ---- files of the operator ----


def qemu_img(*arguments: str | Path) -> None:
    subprocess.run(["qemu-img", *arguments], check=True, capture_output=True)


@pytest.mark.parametrize("format_", ["raw", "qcow2"])
def test_an_operators_file_is_adopted(libvirt_site: LibvirtSite, cloud: LibvirtCloud, format_: str) -> None:
    file = directory(libvirt_site) / f"old disk.{format_}"
    qemu_img("create", "-f", format_, file, "2G")
    subprocess.run(["qemu-io", "-f", format_, "-c", f"write -P {OLD} 0 64k", file], check=True, capture_output=True)
    volume = cloud.volumes.adopt_volume(file.name, "adopted", {}, timeout=SECONDS)
    assert (volume.size, volume.serial) == (2, volume.id)
    assert not file.exists()
    assert cloud.volumes.adopt_volume(file.name, "adopted", {}, timeout=SECONDS) == volume
    assert libvirt_site.holds(cloud, volume.id, OLD)
    instance = cloud.compute.ensure_instance(instance_spec(libvirt_site, cloud), timeout=SECONDS)
    cloud.compute.attach_volume(instance.id, volume.id, timeout=SECONDS)
    assert cloud.volumes.extend_volume(volume.id, 3, timeout=SECONDS).size == 3


def test_files_that_are_not_adopted(libvirt_site: LibvirtSite, cloud: LibvirtCloud) -> None:
    files = directory(libvirt_site)
    outside = libvirt_site.directory / "outside.raw"
    qemu_img("create", "-f", "raw", outside, "1G")
    (files / "link").symlink_to(outside)
    (files / "hard").hardlink_to(outside)
    (files / "directory").mkdir()
    os.mkfifo(files / "pipe")
    qemu_img("create", "-f", "raw", files / "odd", "1000M")
    (files / "empty").touch()
    qemu_img("create", "-f", "qcow2", "-F", "raw", "-b", outside, files / "backed", "1G")
    qemu_img("create", "-f", "qcow2", "-o", f"data_file={libvirt_site.directory / 'data'}", files / "spread", "1G")
    before = sorted(files.iterdir())
    expected = {
        "link": "cannot be opened",
        "hard": "other names",
        "directory": "not a plain file",
        "pipe": "not a plain file",
        "odd": "not whole GiB",
        "empty": "not whole GiB",
        "backed": "backing file",
        "spread": "external data file",
        str(outside): "no volume",
        "../volumes/odd": "no volume",
        "x" * 300: "no volume",
        "a\0b": "no volume",
    }
    for reference, message in expected.items():
        with pytest.raises(CloudError, match=message) as caught:
            cloud.volumes.adopt_volume(reference, "adopted", {}, timeout=SECONDS)
        assert caught.value.hint
    assert sorted(files.iterdir()) == before
    assert list(cloud.volumes.list_volumes()) == []
    shutil.rmtree(files / "directory")


def test_an_adoption_that_died_is_completed(libvirt_site: LibvirtSite, cloud: LibvirtCloud) -> None:
    """It links, writes the record, removes the old name."""
    files, old = directory(libvirt_site), make(cloud, "old")
    libvirt_site.write(cloud, old.id, OLD)
    cloud.volumes.disown_volume(old.id, timeout=SECONDS)
    new = make(cloud, "new")  # for its id
    cloud.volumes.delete_volume(new.id, timeout=SECONDS)
    (files / f"{new.id}.raw").hardlink_to(files / f"{old.id}.raw")
    with pytest.raises(CloudError, match="not ours"):
        make(cloud, "new")
    adopt: Callable[[], Volume] = lambda: cloud.volumes.adopt_volume(old.id, "new", {}, timeout=SECONDS)  # noqa: E731
    assert adopt().id == new.id
    (files / f"{old.id}.raw").hardlink_to(files / f"{new.id}.raw")  # died before it removed the old name
    assert adopt().id == new.id
    assert [path.name for path in files.iterdir()] == [f"{new.id}.raw"]
    assert libvirt_site.holds(cloud, new.id, OLD)
    assert make(cloud, "old").id == old.id, "its name is free"


def test_a_disowned_volume_is_never_overwritten_and_survives_a_purge(
    libvirt_site: LibvirtSite, cloud: LibvirtCloud
) -> None:
    volume = make(cloud)
    libvirt_site.write(cloud, volume.id, OLD)
    cloud.volumes.disown_volume(volume.id, timeout=SECONDS)
    with pytest.raises(CloudError, match="not ours"):
        make(cloud)
    make(cloud, "another")
    cloud.purge(NoProgress())
    (file,) = directory(libvirt_site).iterdir()
    assert block_holds(str(file), "raw", OLD, 0)
    again = libvirt_site.open()
    again.check()
    assert again.volumes.adopt_volume(file.name, "v", {}, timeout=SECONDS).size == 1


def test_disowned_snapshots_follow_their_volume(libvirt_site: LibvirtSite, cloud: LibvirtCloud) -> None:
    volume = make(cloud)
    snapshot = cloud.volumes.ensure_snapshot(SnapshotSpec(name="s", volume_id=volume.id, tags={}), timeout=SECONDS)
    with pytest.raises(CloudError, match="has snapshot"):
        cloud.volumes.disown_volume(volume.id, timeout=SECONDS)
    cloud.volumes.disown_snapshot(snapshot.id, timeout=SECONDS)
    cloud.volumes.disown_volume(volume.id, timeout=SECONDS)
    with pytest.raises(CloudError, match="not one of a volume of ours"):
        cloud.volumes.adopt_snapshot(snapshot.id, "s", {}, timeout=SECONDS)
    adopted = cloud.volumes.adopt_volume(volume.id, "w", {}, timeout=SECONDS)
    assert cloud.volumes.adopt_snapshot("s", "t", {}, timeout=SECONDS).volume_id == adopted.id
