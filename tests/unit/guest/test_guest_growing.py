"""File systems that grow: sizes read from real ones, and an apply that grows a share with the real resize2fs."""

from __future__ import annotations

import subprocess
import threading

import pytest
from guest_machines import MIB, Machine, Session, apply, document, number, rule, serial, share

from sharewright.guest.document import ShareState, State
from sharewright.guest.program.filesystems import match, read_superblock, wait_for_disks
from sharewright.guest.program.host import Host

CLIENT = rule("10.0.0.5")


def only(state: State) -> ShareState:
    (found,) = state.shares
    return found


@pytest.mark.parametrize(
    ("command", "size"),
    [
        (["mkfs.ext4", "-q"], 64 * MIB),  # blocks of 1 KiB
        (["mkfs.ext4", "-q"], 3072 * MIB),
        (["mkfs.ext4", "-q", "-O", "^64bit"], 1024 * MIB),
        (["mkfs.xfs", "-q"], 512 * MIB),
        (["mkfs.xfs", "-q", "-b", "size=1024"], 512 * MIB),
    ],
    ids=["ext4 with small blocks", "ext4", "ext4 of 32 bits", "xfs", "xfs with small blocks"],
)
def test_the_size_of_a_file_system(machine: Machine, command: list[str], size: int) -> None:
    device = machine.add_disk(1, size=size)
    subprocess.run([*command, str(device)], check=True)
    found = read_superblock(Host(str(machine.root)), "/dev/sdb")
    assert found is not None
    assert found.size == size
    if found.type == "xfs":
        told = subprocess.run(["xfs_db", "-r", "-c", "sb 0", "-c", "p logblocks", str(device)], capture_output=True)
        assert found.log_bytes == int(told.stdout.split()[-1]) * found.block_bytes > 0


def test_ext4_counts_blocks_beyond_32_bits(machine: Machine) -> None:
    device = machine.add_disk(1, size=1024 * MIB)
    subprocess.run(["mkfs.ext4", "-q", str(device)], check=True)
    with device.open("r+b") as file:
        file.seek(1024 + 0x150)
        file.write((5).to_bytes(4, "little"))
    found = read_superblock(Host(str(machine.root)), "/dev/sdb")
    assert found is not None
    assert found.size == (5 << 32) * 4096 + 1024 * MIB


def test_a_share_grows_where_it_is_mounted(machine: Machine, session: Session) -> None:
    device = machine.add_disk(1)
    served = only(apply(session, document(1, share(1, CLIENT, size=64 * MIB))))
    assert (served.mounted, served.exported, served.error) == (True, True, "")
    machine.grow_disk(1, 256 * MIB)
    assert machine.calls

    state = apply(session, document(2, share(1, CLIENT, create=False, size=192 * MIB)))
    assert only(state).error == ""
    assert state.changed == (f"grow share {number(1)} from {64 * MIB} to {192 * MIB} bytes",)
    assert machine.calls == []  # neither mount, umount nor exportfs
    found = read_superblock(Host(str(machine.root)), "/dev/sdb")
    assert found is not None
    assert found.size == 192 * MIB
    assert subprocess.run(["e2fsck", "-fn", str(device)], capture_output=True).returncode == 0

    again = apply(session, document(3, share(1, CLIENT, create=False, size=192 * MIB)))
    assert (again.changed, only(again).error) == ((), "")


def test_a_disk_that_has_not_grown_hurts_nobody(machine: Machine, session: Session) -> None:
    for index in (1, 2):
        machine.add_disk(index)
    apply(session, document(1, share(1, CLIENT, size=64 * MIB), share(2, CLIENT, size=64 * MIB)))
    wanted = document(2, share(1, CLIENT, create=False, size=128 * MIB), share(2, rule("10.0.0.6"), create=False))
    first, second = apply(session, wanted).shares
    assert (first.mounted, first.exported, first.error) == (True, True, "disk_small")
    assert f"{64 * MIB} bytes" in first.message
    assert (second.mounted, second.exported, second.error) == (True, True, "")
    assert "10.0.0.6" in machine.read("etc/exports")


def test_a_growth_that_fails_leaves_the_share_served(machine: Machine, session: Session) -> None:
    machine.add_disk(1)
    apply(session, document(1, share(1, CLIENT, size=64 * MIB)))
    machine.grow_disk(1, 128 * MIB)
    tool = machine.root / "usr/sbin/resize2fs"
    tool.write_text("#!/bin/sh\necho 'resize2fs: no journal, no growth' >&2\nexit 1\n")
    tool.chmod(0o755)
    wanted = document(2, share(1, CLIENT, rule("10.0.0.6"), create=False, size=128 * MIB))
    failed = only(apply(session, wanted))
    assert (failed.mounted, failed.exported, failed.error) == (True, True, "grow_failed")
    assert "no journal, no growth" in failed.message
    assert "10.0.0.6" in machine.read("etc/exports")
    tool.unlink()
    assert only(apply(session, wanted)).error == ""


def test_a_tool_that_does_nothing_is_not_believed(machine: Machine, session: Session) -> None:
    machine.add_disk(1)
    apply(session, document(1, share(1, CLIENT, size=64 * MIB)))
    machine.grow_disk(1, 128 * MIB)
    tool = machine.root / "usr/sbin/resize2fs"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    failed = only(apply(session, document(2, share(1, CLIENT, create=False, size=128 * MIB))))
    assert failed.error == "grow_failed"
    assert f"has {64 * MIB} of {128 * MIB} bytes" in failed.message


def test_the_size_is_waited_for_and_asked_for(machine: Machine) -> None:
    """A host that tells nothing: the kernel knows the new size only when it is made to look."""
    machine.add_disk(1)
    rescan = machine.root / "sys/block/sdb/device/rescan"
    rescan.write_text("")

    def kernel() -> None:
        while rescan.read_text() != "1" and not done.wait(0.01):
            pass
        machine.grow_disk(1, 128 * MIB)

    done = threading.Event()
    thread = threading.Thread(target=kernel)
    thread.start()
    try:
        serials, devices = wait_for_disks(
            Host(str(machine.root)), [serial(1)], seconds=20, sizes={serial(1): 128 * MIB}
        )
    finally:
        done.set()
        thread.join()
    assert match(serials, [serial(1)]) == {serial(1): ["sdb"]}
    assert devices["sdb"].size == 128 * MIB
