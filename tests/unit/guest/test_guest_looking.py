"""Disks that are somebody else's are looked at, by real tools on sparse files, and never changed."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from guest_machines import MIB, Machine, Session, apply, document, number, serial, share
from test_guest_filesystems import partition_table, swap

from sharewright.guest.document import Found

UUID = number(0xF502)


@pytest.fixture
def session(machine: Machine) -> Iterator[Session]:
    session = Session(machine)
    yield session
    session.close()


def make(device: Path, kind: str, *options: str) -> None:
    subprocess.run([f"mkfs.{kind}", *options, str(device)], check=True, capture_output=True)


def fingerprint(device: Path) -> str:
    return hashlib.sha256(device.read_bytes()).hexdigest()


def look(session: Session, generation: int = 1, call: str = "apply") -> Found:
    state = apply(session, document(generation, look=(serial(1),)), call)
    assert state.shares == ()
    return state.found[serial(1)]


@pytest.mark.parametrize("call", ["apply", "observe"])
@pytest.mark.parametrize(("kind", "options"), [("ext4", ("-U", UUID)), ("xfs", ("-m", f"uuid={UUID}"))])
def test_a_file_system(machine: Machine, session: Session, kind: str, options: tuple[str, ...], call: str) -> None:
    device = machine.add_disk(1, size=320 * MIB)
    make(device, kind, *options)
    before = fingerprint(device)
    assert look(session, call=call) == Found(type=kind, uuid=UUID)
    assert fingerprint(device) == before
    assert machine.mounted == []
    assert "/shares/" not in machine.read("etc/fstab")


@pytest.mark.parametrize(
    ("what", "part"),
    [
        ("nothing", "no file system"),
        ("partitions", "a partition table (dos)"),
        ("swap", "carries swap"),
        ("ext3", "carries ext3"),
        ("several", "several things"),
        ("no uuid", "has no UUID"),
    ],
)
def test_what_can_be_no_share(machine: Machine, session: Session, what: str, part: str) -> None:
    device = machine.add_disk(1, size=320 * MIB)
    if what == "partitions":
        partition_table(device)
    elif what == "swap":
        swap(device)
    elif what == "ext3":
        make(device, "ext3")
    elif what == "several":
        make(device, "ext4")
        other = device.with_name("other")
        with other.open("wb") as file:
            file.truncate(320 * MIB)
        make(other, "xfs")
        with device.open("r+b") as file:
            file.write(other.read_bytes()[:1024])
    elif what == "no uuid":
        make(device, "ext4")
        subprocess.run(["tune2fs", "-U", "clear", str(device)], check=True, capture_output=True)
    before = fingerprint(device)
    found = look(session)
    assert (found.type, found.uuid, found.error) == ("", "", "no_filesystem")
    assert part in found.message
    assert fingerprint(device) == before


def test_a_disk_that_is_not_there_yet(machine: Machine, session: Session) -> None:
    assert look(session).error == "device_missing"
    make(machine.add_disk(1), "ext4", "-U", UUID)
    assert look(session, 2).uuid == UUID


def test_the_shares_of_the_server_are_served_meanwhile(machine: Machine, session: Session) -> None:
    machine.add_disk(2)
    make(machine.add_disk(1), "ext4", "-U", UUID)
    state = apply(session, document(1, share(2), look=(serial(1),)))
    assert (state.shares[0].mounted, state.found[serial(1)].uuid) == (True, UUID)
