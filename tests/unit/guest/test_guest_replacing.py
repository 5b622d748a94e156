"""A reverted share: another disk takes the place of the one that is mounted."""

from __future__ import annotations

import json
import subprocess

import msgspec
import pytest
from guest_machines import MIB, Machine, Session, document, number, rule, serial, share

from sharewright.guest.document import Document, Filesystem, Share, State, encode_request
from sharewright.guest.program.filesystems import read_superblock
from sharewright.guest.program.host import Host
from sharewright.guest.program.smb import GATE

OLD = number(0xF501)
NEW = number(0xF509)


def apply(session: Session, wanted: Document) -> State:
    answer = session.send(encode_request("apply", document=wanted))
    assert answer["ok"], answer
    return msgspec.convert(answer["state"], State)


def reverted(*, replaces: str = serial(1)) -> Share:
    """Share 1 on disk 2, a copy of an earlier moment of disk 1."""
    return msgspec.structs.replace(
        share(1, rule("10.0.0.5"), create=False),
        serial=serial(2),
        filesystem=Filesystem(type="ext4", uuid=NEW, clone_of=OLD),
        by_serial=True,
        replaces=replaces,
    )


def other() -> Share:
    return share(3, rule("10.0.0.6"))


@pytest.fixture
def served(machine: Machine, session: Session) -> Session:
    for index in (1, 3):
        machine.add_disk(index)
    apply(session, document(1, share(1, rule("10.0.0.5")), other()))
    copy = machine.add_disk(2, size=64 * MIB)
    copy.write_bytes((machine.root / "dev/sdb").read_bytes())
    assert machine.calls
    return session


def mounted(machine: Machine) -> list[str]:
    """Devices of share 1, by number."""
    lines = machine.read("proc/self/mountinfo").splitlines()
    return [line.split()[2] for line in lines if line.split()[4].endswith(number(1))]


def test_the_new_disk_is_served_and_the_others_notice_nothing(machine: Machine, served: Session) -> None:
    state = apply(served, document(2, reverted(), msgspec.structs.replace(other(), rules=other().rules)))
    assert [(each.mounted, each.exported, each.error) for each in state.shares] == [(True, True, "")] * 2
    assert mounted(machine) == ["8:32"]
    found = read_superblock(Host(str(machine.root)), "/dev/sdc")
    assert found is not None
    assert found.uuid == NEW
    calls = machine.calls
    path = f"/shares/share-{number(1)}"
    # Unexported first, or clients would keep the old one busy; never the server as a whole.
    assert (
        calls.index("exportfs -ra") < calls.index(f"umount {path}") < len(calls) - 1 - calls[::-1].index("exportfs -ra")
    )
    assert not [call for call in calls if call.startswith("systemctl") or number(3) in call]
    again = apply(served, document(3, reverted(), other()))
    assert again.changed == ()


def test_only_for_the_disk_that_it_had(machine: Machine, served: Session) -> None:
    for replaces in ("", serial(3)):
        refused, _ = apply(served, document(2, reverted(replaces=replaces), other())).shares
        assert refused.error == "filesystem_mismatch"
        assert mounted(machine) == ["8:16"]


def test_one_that_is_busy_is_left_and_tried_again(machine: Machine, served: Session) -> None:
    machine.write(f"busy/share-{number(1)}", "a process")
    failed, served_still = apply(served, document(2, reverted(), other())).shares
    assert (failed.error, failed.mounted) == ("replace_failed", False)
    assert "busy" in failed.message
    assert (served_still.exported, served_still.error) == (True, "")
    (machine.root / f"busy/share-{number(1)}").unlink()
    assert apply(served, document(3, reverted(), other())).shares[0].error == ""
    assert mounted(machine) == ["8:32"]


def test_and_back(machine: Machine, served: Session) -> None:
    """Undone: the disk that it had is served again, with what it holds."""
    apply(served, document(2, reverted(), other()))
    back = msgspec.structs.replace(share(1, rule("10.0.0.5"), create=False), replaces=serial(2), by_serial=True)
    assert [each.error for each in apply(served, document(3, back, other())).shares] == ["", ""]
    assert mounted(machine) == ["8:16"]


def test_observing_says_so_and_changes_nothing(machine: Machine, served: Session) -> None:
    answer = served.send(encode_request("observe", document=document(2, reverted(), other())))
    assert f"let go of the disk that share {number(1)} had" in answer["state"]["changed"]
    assert mounted(machine) == ["8:16"]
    assert machine.calls == []


def test_smb_clients_wait_and_the_section_stays(machine: Machine, session: Session) -> None:
    """Whoever connects while the disk is away would be refused; at the gate he waits."""
    machine.add_disk(1)
    wanted = msgspec.structs.replace(share(1, rule("10.0.0.5")), protocol="CIFS")
    apply(session, document(1, wanted))
    copy = machine.add_disk(2, size=64 * MIB)
    copy.write_bytes((machine.root / "dev/sdb").read_bytes())
    registry = machine.read("var/lib/samba/registry.tdb")
    name = f"share-{number(1)}"
    clients = [{"id": "1", "pid": "101", "machine": "10.0.0.5", "username": "nobody", "service": name}]
    machine.write("smb-clients", json.dumps(clients))
    machine.write("proc/101/comm", "smbd\n")
    assert machine.calls
    gate = machine.root / GATE.removeprefix("/")
    tool = machine.root / "usr/sbin/mount"
    (machine.root / "real").mkdir()
    real = tool.rename(machine.root / "real/mount")
    tool.write_text(f'#!/bin/sh\nflock -n -s {gate} true || echo waits > {machine.root}/gate\nexec {real} "$@"\n')
    tool.chmod(0o755)
    (state,) = apply(session, document(2, msgspec.structs.replace(reverted(), protocol="CIFS"))).shares
    assert (state.mounted, state.exported, state.error) == (True, True, "")
    assert machine.read("gate") == "waits\n"
    assert subprocess.run(["flock", "-n", "-s", gate, "true"], check=False).returncode == 0
    assert machine.read("var/lib/samba/registry.tdb") == registry
