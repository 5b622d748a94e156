"""Snapshots that clients mount: a copy of a share's disk, for reading only, whatever its rules say."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from guest_machines import Machine, Session, document, number, rule, serial, share, user_rule

from sharewright.guest.document import Document, Filesystem, Share, State, Successor, encode_request
from sharewright.guest.program import desired
from sharewright.guest.program.exports import exports_text, wanted_entries
from sharewright.guest.program.filesystems import mount_options, read_superblock
from sharewright.guest.program.host import Host, Refusal
from sharewright.guest.program.smb import share_section, wanted_accounts

PARENT = number(0xF501)


def snapshot(*rules: Any, clone_of: str = PARENT, **fields: Any) -> Share:
    made = share(2, *rules, create=False)
    filesystem = Filesystem(type=made.filesystem.type, uuid=made.filesystem.uuid, clone_of=clone_of)
    return msgspec.structs.replace(made, filesystem=filesystem, **{"read_only": True, **fields})


def parsed(value: Share) -> desired.Share:
    plain = msgspec.json.decode(msgspec.json.encode(document(1, value)))
    (found,) = desired.parse_document(plain).shares
    return found


def apply(session: Session, wanted: Document) -> State:
    answer = session.send(encode_request("apply", document=wanted))
    assert answer["ok"], answer
    return msgspec.convert(answer["state"], State)


@pytest.fixture
def copied(machine: Machine, session: Session) -> Session:
    """Share 1 is served; disk 2 is a copy of its disk."""
    machine.add_disk(1)
    apply(session, document(1, share(1, rule("10.0.0.5"))))
    copy = machine.add_disk(2)
    copy.write_bytes((machine.root / "dev/sdb").read_bytes())
    return session


def parent() -> Share:
    return share(1, rule("10.0.0.5"), create=False)


def options(machine: Machine, share_id: str) -> str:
    """Of what is mounted in a share's place."""
    (line,) = [each for each in machine.read("proc/self/mountinfo").splitlines() if each.split()[4].endswith(share_id)]
    return line.split()[5]


def test_it_is_mounted_and_exported_for_reading_only(machine: Machine, copied: Session) -> None:
    state = apply(copied, document(2, parent(), snapshot(rule("10.0.0.7", "rw"), rule("10.0.0.0/24", "ro"))))
    assert [(each.mounted, each.exported, each.error) for each in state.shares] == [(True, True, "")] * 2
    found = read_superblock(Host(str(machine.root)), "/dev/sdc")
    assert found is not None
    assert found.uuid == number(0xF502)  # a boot does not take it for its share
    assert options(machine, number(2)).split(",")[0] == "ro"
    assert options(machine, number(1)).split(",")[0] == "rw"
    (exported,) = [line for line in machine.read("etc/exports").splitlines() if number(2) in line]
    assert exported.endswith("10.0.0.7(ro) 10.0.0.0/24(ro)")
    assert f"fsid={number(2)}" in exported
    (at_boot,) = [line for line in machine.read("etc/fstab").splitlines() if number(2) in line]
    assert at_boot.startswith(f"UUID={number(0xF502)} /shares/share-{number(2)} ext4 ro,")
    again = apply(copied, document(3, parent(), snapshot(rule("10.0.0.7"), rule("10.0.0.0/24", "ro"), clone_of="")))
    assert again.changed == ()


def test_its_end_leaves_the_share_alone(machine: Machine, copied: Session) -> None:
    apply(copied, document(2, parent(), snapshot(rule("10.0.0.7"))))
    state = apply(copied, document(3, parent()))
    assert state.unmounted == (number(2),)
    for file in ("etc/exports", "etc/fstab", "proc/self/mountinfo"):
        assert number(2) not in machine.read(file)
        assert number(1) in machine.read(file)


def test_one_that_is_mounted_for_writing_is_not_served(machine: Machine, copied: Session) -> None:
    apply(copied, document(2, parent(), snapshot(rule("10.0.0.7"), read_only=False)))
    assert "10.0.0.7(rw)" in machine.read("etc/exports")
    state = apply(copied, document(3, parent(), snapshot(rule("10.0.0.7"), clone_of="")))
    first, second = state.shares
    assert (first.exported, second.exported, second.error) == (True, False, "filesystem_mismatch")
    assert "for writing" in second.message
    assert number(2) not in machine.read("etc/exports")


@pytest.mark.parametrize("type", ["ext4", "xfs"])
def test_options(type: Any) -> None:
    made = snapshot(rule("10.0.0.7", "rw"))
    made = msgspec.structs.replace(made, filesystem=Filesystem(type=type, uuid=number(0xF502)))
    found = parsed(made)
    assert mount_options(found).split(",")[:3] == ["ro", "nosuid", "nodev"]
    assert "rw" not in mount_options(found).split(",")
    assert "(rw)" not in exports_text([found])
    assert [level for level in wanted_entries([found]).values() if "rw" in level] == []


@pytest.mark.parametrize("kind", ["ip", "user"])
def test_by_smb(kind: str) -> None:
    rules = (rule("10.0.0.7", "rw"),) if kind == "ip" else (user_rule("alice", "rw"), user_rule("bob", "ro"))
    found = parsed(snapshot(*rules, protocol="CIFS"))
    section = share_section(found, wanted_accounts([found]))
    assert section is not None
    assert section["read only"] == "yes"
    assert "write list" not in section


@pytest.mark.parametrize(
    "fields",
    [
        {"filesystem": Filesystem(type="ext4", uuid=number(0xF502), create=True)},
        {"filesystem": Filesystem(type="ext4", uuid=number(0xF502), size=2**30)},
        {"replaces": serial(3)},
        {
            "successor": Successor(
                serial=serial(3), uuid=number(3), copy_uuid=number(4), size=2**30, step="copy", stall=5.0
            )
        },
        {"read_only": "yes"},
    ],
)
def test_what_a_snapshot_never_is(fields: dict[str, Any]) -> None:
    with pytest.raises(Refusal):
        parsed(msgspec.structs.replace(snapshot(), **fields))
