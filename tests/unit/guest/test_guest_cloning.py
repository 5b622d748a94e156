"""Copies of file systems: real ones get another UUID; a boot never takes one for its parent."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from guest_machines import MIB, Machine, Session, document, number, rule, serial, share

from sharewright.guest.document import Document, Filesystem, Share, State, encode_request
from sharewright.guest.program import desired
from sharewright.guest.program.filesystems import read_superblock
from sharewright.guest.program.fstab import fstab_text, split_fstab
from sharewright.guest.program.host import Host

PARENT = number(0xF501)


def apply(session: Session, wanted: Document) -> State:
    answer = session.send(encode_request("apply", document=wanted))
    assert answer["ok"], answer
    return msgspec.convert(answer["state"], State)


def clone(index: int = 2, of: str = PARENT, **fields: Any) -> Share:
    made = share(index, rule("10.0.0.7"), create=False, **fields)
    filesystem = Filesystem(
        type=made.filesystem.type, uuid=made.filesystem.uuid, size=made.filesystem.size, clone_of=of
    )
    return msgspec.structs.replace(made, filesystem=filesystem)


def parent(**fields: Any) -> Share:
    return msgspec.structs.replace(share(1, rule("10.0.0.5"), create=False), **fields)


def uuid_of(machine: Machine, name: str) -> str:
    found = read_superblock(Host(str(machine.root)), f"/dev/{name}")
    assert found is not None
    return found.uuid


@pytest.fixture
def copied(machine: Machine, session: Session) -> Session:
    """Share 1 is served; disk 2 is a copy of its disk, twice as large."""
    machine.add_disk(1)
    apply(session, document(1, share(1, rule("10.0.0.5"))))
    copy = machine.add_disk(2, size=128 * MIB)
    with (machine.root / "dev/sdb").open("rb") as source, copy.open("r+b") as target:
        target.write(source.read())
    assert uuid_of(machine, "sdc") == PARENT
    assert machine.calls
    return session


def test_a_copy_gets_its_own_uuid_grows_and_is_served(machine: Machine, copied: Session) -> None:
    state = apply(copied, document(2, parent(), clone(size=128 * MIB)))
    assert [(each.mounted, each.exported, each.error) for each in state.shares] == [(True, True, "")] * 2
    assert any(action.startswith(f"make /dev/sdc, a copy of {PARENT}") for action in state.changed)
    assert (uuid_of(machine, "sdb"), uuid_of(machine, "sdc")) == (PARENT, number(0xF502))
    found = read_superblock(Host(str(machine.root)), "/dev/sdc")
    assert found is not None
    assert (found.size, found.sums_by_uuid) == (128 * MIB, False)
    assert subprocess.run(["e2fsck", "-fn", str(machine.root / "dev/sdc")], capture_output=True).returncode == 0
    again = apply(copied, document(3, parent(), clone(size=128 * MIB)))
    assert again.changed == ()


def test_cut_short_after_the_uuid_it_is_simply_used(machine: Machine, copied: Session) -> None:
    device = str(machine.root / "dev/sdc")
    subprocess.run(
        ["tune2fs", "-O", "metadata_csum_seed", "-U", number(0xF502), device], check=True, capture_output=True
    )
    state = apply(copied, document(2, parent(), clone()))
    assert [each.error for each in state.shares] == ["", ""]
    assert not any("copy" in action for action in state.changed)


def test_a_copy_of_a_copy(machine: Machine, copied: Session) -> None:
    apply(copied, document(2, parent(), clone()))
    third = machine.add_disk(3, size=128 * MIB)
    third.write_bytes((machine.root / "dev/sdc").read_bytes())
    grandchild = clone(3, of=number(0xF502))
    state = apply(copied, document(3, parent(), clone(), grandchild))
    assert [each.error for each in state.shares] == ["", "", ""]
    assert uuid_of(machine, "sdd") == number(0xF503)
    assert subprocess.run(["e2fsck", "-fn", str(third)], capture_output=True).returncode == 0


def test_a_copy_of_something_else_is_left_untouched(machine: Machine, copied: Session) -> None:
    state = apply(copied, document(2, parent(), clone(of=number(0xF577))))
    served, refused = state.shares
    assert (served.error, refused.error) == ("", "filesystem_mismatch")
    assert uuid_of(machine, "sdc") == PARENT


def test_a_tool_that_fails_hurts_nobody(machine: Machine, copied: Session) -> None:
    tool = machine.root / "usr/sbin/tune2fs"
    tool.write_text("#!/bin/sh\necho 'tune2fs: no' >&2\nexit 1\n")
    tool.chmod(0o755)
    served, failed = apply(copied, document(2, parent(), clone())).shares
    assert (served.error, failed.error, failed.mounted) == ("", "clone_failed", False)
    assert "tune2fs: no" in failed.message
    tool.write_text("#!/bin/sh\n")
    assert apply(copied, document(2, parent(), clone())).shares[1].error == "clone_failed"  # nothing done, not believed
    tool.unlink()
    assert apply(copied, document(2, parent(), clone())).shares[1].error == ""


def test_it_is_never_formatted(machine: Machine, session: Session) -> None:
    """The volume is expected to be a copy and is blank: something went wrong in the cloud."""
    machine.add_disk(2)
    (state,) = apply(session, document(1, clone())).shares
    assert state.error == "filesystem_mismatch"
    assert (machine.root / "dev/sdc").read_bytes().count(0) == 64 * MIB


def test_both_at_once_is_refused(session: Session) -> None:
    wanted = clone()
    filesystem = msgspec.structs.replace(wanted.filesystem, create=True)
    answer = session.send(
        encode_request("apply", document=document(1, msgspec.structs.replace(wanted, filesystem=filesystem)))
    )
    assert (answer["error"], "not both" in answer["message"]) == ("invalid", True)


@pytest.mark.skipif(not Path("/usr/sbin/xfs_admin").exists(), reason="needs xfs_admin")
def test_an_xfs_is_replayed_first(machine: Machine, session: Session) -> None:
    """Mounted once with nouuid, out of sight; here the mount is the scratch root's, and the log is clean already."""
    machine.add_disk(1, size=512 * MIB)
    first = share(1, rule("10.0.0.5"), type="xfs")
    apply(session, document(1, first))
    copy = machine.add_disk(2, size=512 * MIB)
    copy.write_bytes((machine.root / "dev/sdb").read_bytes())
    assert machine.calls
    settled = msgspec.structs.replace(first, filesystem=msgspec.structs.replace(first.filesystem, create=False))
    state = apply(session, document(2, settled, clone(type="xfs")))
    assert [each.error for each in state.shares] == ["", ""]
    assert uuid_of(machine, "sdc") == number(0xF502)
    place = f"/run/sharewright/clones/{number(2)}"
    options = "rw,nouuid,nosuid,nodev,noexec"
    assert machine.calls[:3] == [f"umount {place}", f"mount -t xfs -o {options} /dev/sdc {place}", f"umount {place}"]


# ---- /etc/fstab ------------------------------------------------------------------------------------------------------


def link(machine: Machine, index: int, name: str) -> str:
    """What udev makes of a disk's serial."""
    folder = machine.root / "dev/disk/by-id"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"scsi-0QEMU_QEMU_HARDDISK_{serial(index)}").symlink_to(f"../../{name}")
    return f"/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_{serial(index)}"


def at_boot(machine: Machine) -> dict[str, str]:
    """Share id → what is mounted at its place at a boot."""
    return {share_id: line.split()[0] for share_id, line in split_fstab(machine.read("etc/fstab"))[1].items()}


def test_while_a_copy_may_carry_its_uuid_a_boot_finds_the_parent_by_serial(machine: Machine, copied: Session) -> None:
    name = link(machine, 1, "sdb")
    assert at_boot(machine) == {number(1): f"UUID={PARENT}"}
    state = apply(copied, document(2, parent(by_serial=True)))
    assert state.changed == ("write /etc/fstab",)
    assert at_boot(machine) == {number(1): name}
    # It stays so; nothing is gained by changing it again.
    assert apply(copied, document(3, parent())).changed == ()
    assert apply(copied, document(4, parent(), clone())).shares[0].error == ""
    assert at_boot(machine) == {number(1): name, number(2): f"UUID={number(0xF502)}"}


def test_without_a_name_by_serial_it_is_not_mounted_at_a_boot(machine: Machine, copied: Session) -> None:
    (state,) = apply(copied, document(2, parent(by_serial=True))).shares
    assert (state.mounted, state.exported) == (True, True)
    assert at_boot(machine) == {}
    apply(copied, document(3, parent()))
    assert at_boot(machine) == {number(1): f"UUID={PARENT}"}


def test_a_line_by_serial_lasts_while_the_disk_is_missing(machine: Machine, copied: Session) -> None:
    name = link(machine, 1, "sdb")
    apply(copied, document(2, parent(by_serial=True)))
    machine.hide_disk(1)
    (state,) = apply(copied, document(3, parent())).shares
    assert state.error == "device_missing"
    assert at_boot(machine) == {number(1): name}


def test_names_of_other_disks_do_not_count() -> None:
    wanted = desired.Share(number(1), serial(1), "ext4", PARENT)
    line = f"/dev/disk/by-id/scsi-{serial(2)} {wanted.path} ext4 rw 0 0\n"
    assert fstab_text(line, [wanted], {}).startswith(f"UUID={PARENT} ")
