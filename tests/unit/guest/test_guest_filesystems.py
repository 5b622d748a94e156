"""Disks as real sparse files: found by serial, recognised, proved blank, formatted with the real mkfs."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

import pytest
from guest_machines import MIB, Machine, number, serial

from sharewright.guest.program.desired import Share
from sharewright.guest.program.filesystems import (
    Disk,
    block_devices,
    content_of,
    disk_serials,
    format_marks,
    make_filesystem,
    match,
    read_superblock,
    wait_for_disks,
)
from sharewright.guest.program.host import CommandFailed, Host

UUID = number(0xF501)


def host_of(machine: Machine) -> Host:
    return Host(str(machine.root))


def share(kind: str = "ext4") -> Share:
    return Share(number(1), serial(1), kind, UUID, create=True)


@pytest.mark.parametrize(("kind", "size"), [("ext4", 64 * MIB), ("ext4", 2048 * MIB), ("xfs", 320 * MIB)])
def test_format_and_recognise(machine: Machine, kind: str, size: int) -> None:
    device = machine.add_disk(1, size=size)
    host = host_of(machine)
    assert content_of(host, "/dev/sdb") == ""
    assert read_superblock(host, "/dev/sdb") is None
    make_filesystem(host, share(kind), Disk("/dev/sdb", "8:16"))
    found = read_superblock(host, "/dev/sdb")
    assert found is not None
    assert (found.type, found.uuid, found.complete) == (kind, UUID, True)
    assert format_marks(host) == {number(1): (serial(1), UUID)}
    assert UUID in content_of(host, "/dev/sdb")
    check = ["e2fsck", "-fn", str(device)] if kind == "ext4" else ["xfs_repair", "-n", "-f", str(device)]
    assert subprocess.run(check, capture_output=True).returncode == 0
    if kind == "ext4":
        told = subprocess.run(["dumpe2fs", "-h", str(device)], capture_output=True, text=True).stdout
        reserved = next(line for line in told.splitlines() if line.startswith("Reserved block count"))
        assert reserved.split()[-1] == "0"


def test_a_format_that_fails_says_why(machine: Machine) -> None:
    machine.add_disk(1, size=1 * MIB)
    with pytest.raises(CommandFailed, match=r"mkfs\.xfs"):
        make_filesystem(host_of(machine), share("xfs"), Disk("/dev/sdb", "8:16"))


def partition_table(device: Path) -> None:
    """An MBR with one Linux partition."""
    entry = bytes([0x80, 0, 2, 0, 0x83, 0, 0, 0]) + (2048).to_bytes(4, "little") + (65536).to_bytes(4, "little")
    with device.open("r+b") as file:
        file.seek(446)
        file.write(entry + bytes(48) + b"\x55\xaa")


def swap(device: Path) -> None:
    subprocess.run(["mkswap", "-q", str(device)], check=True, capture_output=True)


def some_bytes(device: Path, offset: int) -> None:
    with device.open("r+b") as file:
        file.seek(offset)
        file.write(b"precious")


@pytest.mark.parametrize(
    "fill",
    [
        partition_table,
        swap,
        lambda device: subprocess.run(["mkfs.ext4", "-q", str(device)], check=True),
        lambda device: some_bytes(device, 0),
        lambda device: some_bytes(device, 700_000),
        lambda device: some_bytes(device, 64 * MIB - 8),
        lambda device: device.unlink(),
    ],
    ids=["partitions", "swap", "ext4", "first bytes", "inside the first MiB", "last bytes", "unreadable"],
)
def test_what_is_not_blank(machine: Machine, fill: object) -> None:
    device = machine.add_disk(1)
    fill(device)  # type: ignore[operator]
    assert content_of(host_of(machine), "/dev/sdb") != ""


def test_a_disk_without_a_number_is_not_there_yet(machine: Machine) -> None:
    """What the kernel shows between a disk's name and its number."""
    machine.add_disk(1)
    machine.add_disk(2)
    listed = machine.read("proc/partitions")
    machine.write(
        "proc/partitions",
        "".join(line.replace("   8       32", "   0        0") for line in listed.splitlines(keepends=True)),
    )
    assert "   0        0" in machine.read("proc/partitions")
    host = host_of(machine)
    assert {name: device.number for name, device in block_devices(host).items()} == {"sdb": "8:16"}
    serials, _ = wait_for_disks(host, [serial(1), serial(2)], seconds=0)
    assert serials == {"sdb": serial(1)}


def test_serials(machine: Machine) -> None:
    machine.add_disk(1)
    machine.add_disk(2, kind="virtio")
    machine.write("sys/block/sr0/device/model", "QEMU DVD-ROM")
    machine.write("sys/block/nvme0n1/device/serial", "nvme-serial  \n")
    machine.write("sys/block/sdq/dev", "65:0\n")
    machine.write("run/udev/data/b65:0", "S:disk/by-id/x\nE:ID_SCSI_SERIAL=from-udev\n")
    serials = disk_serials(host_of(machine))
    assert serials == {"sdb": serial(1), "vdc": serial(2)[:20], "nvme0n1": "nvme-serial", "sdq": "from-udev"}
    assert match(serials, [serial(1)]) == {serial(1): ["sdb"]}
    assert match(serials, [serial(2)]) == {serial(2): ["vdc"]}
    assert match(serials, [serial(1)[:19], "nothing"]) == {serial(1)[:19]: [], "nothing": []}


def test_waiting_ends_as_soon_as_the_disk_is_there(machine: Machine) -> None:
    timer = threading.Timer(0.4, lambda: machine.add_disk(1))
    timer.start()
    serials, _ = wait_for_disks(host_of(machine), [serial(1)], seconds=100_000)
    assert match(serials, [serial(1)]) == {serial(1): ["sdb"]}
    timer.join()


def test_waiting_rescans_the_scsi_hosts_once(machine: Machine) -> None:
    machine.write("sys/class/scsi_host/host0/scan", "")
    assert wait_for_disks(host_of(machine), [serial(1)], seconds=0.6) == ({}, {})
    assert machine.read("sys/class/scsi_host/host0/scan") == "- - -"
