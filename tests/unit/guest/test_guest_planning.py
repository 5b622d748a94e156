"""Facts and a document → the plan, as cases; carried out on the facts, the second plan is empty."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import pytest
from guest_machines import CLIENT_MAC, MANAGEMENT_MAC, document, firewall, number, rule, serial, share

from sharewright.guest.document import Document
from sharewright.guest.program.desired import Desired, parse_document
from sharewright.guest.program.exports import HEADER, clients
from sharewright.guest.program.filesystems import Disk, Superblock
from sharewright.guest.program.fstab import fstab_line
from sharewright.guest.program.host import Refusal
from sharewright.guest.program.planning import Facts, Mount, Plan, make_plan

GIB = 2**30
NICS = {MANAGEMENT_MAC: "eth0", CLIENT_MAC: "eth1"}


def desired(value: Document) -> Desired:
    return parse_document(msgspec.json.decode(msgspec.json.encode(value)))


def disk(
    index: int,
    *,
    carries: int | None = None,
    content: str | None = "",
    type: str = "ext4",
    complete: bool = True,
    size: int = 0,
    filesystem: int = 0,
) -> Disk:
    """Disk ``index``, with the file system of share ``carries``; ``size`` of both in GiB."""
    superblock = None
    if carries is not None:
        superblock = Superblock(type, number(0xF500 + carries), complete=complete, size=filesystem * GIB)
    return Disk(f"/dev/sd{'abcdef'[index]}", f"8:{16 * index}", superblock, content, size=size * GIB)


def disks(*found: tuple[int, Disk]) -> dict[str, list[Disk]]:
    return {serial(index): [each] for index, each in found}


def carry_out(facts: Facts, plan: Plan, wanted: Desired) -> Facts:
    """What the facts are after the plan's actions went well."""
    places = {each.serial: each for each in wanted.shares}
    for action in plan.actions:
        match action.kind:
            case "format":
                assert action.share is not None
                found = facts.disks[action.share.serial][0]
                found.superblock = Superblock(action.share.filesystem, action.share.uuid)
                facts.marks[action.share_id] = (action.share.serial, action.share.uuid)
            case "release" | "unmount":
                del facts.mounts[action.share_id]
                if action.kind == "unmount":
                    facts.directories -= {action.share_id}
            case "mount":
                assert action.disk is not None
                facts.mounts[action.share_id] = Mount(action.disk.number)
                facts.directories |= {action.share_id}
            case "finish_format":
                del facts.marks[action.share_id]
            case "grow":
                assert action.share is not None
                assert action.disk is not None
                action.disk.filesystem_size = action.share.size
            case "remove_directory":
                facts.directories -= {action.share_id}
            case "write_fstab":
                facts.fstab = action.text
            case "write_exports":
                facts.exports = action.text
            case "export":
                facts.etab = etab(*(each for each in places.values() if each in plan.established))
            case "start_nfs":
                facts.nfs_running = True
            case "load_firewall":
                facts.firewall = action.text
            case "flush":
                pass
            case kind:
                raise AssertionError(kind)
    return facts


def etab(*shares: object) -> str:
    """etab in nfs-utils' form, as recorded from 2.6.2."""
    lines = []
    for each in shares:
        for client, level in clients(each.rules)[0]:  # type: ignore[attr-defined]
            squash = each.squash  # type: ignore[attr-defined]
            words = "root_squash,all_squash" if squash == "all_squash" else f"{squash},no_all_squash"
            lines.append(
                f"{each.path}\t{client}({level},sync,wdelay,hide,nocrossmnt,secure,{words},no_subtree_check,"  # type: ignore[attr-defined]
                f"secure_locks,acl,no_pnfs,fsid={each.id},mountpoint,anonuid=65534,anongid=65534,sec=sys,{level},"  # type: ignore[attr-defined]
                f"secure,{words})\n"
            )
    return "".join(lines)


@dataclass
class Case:
    """``actions`` are (kind, share index) in order, index 0 for what is nobody's."""

    facts: Facts
    document: Document
    actions: list[tuple[str, int]]
    problems: dict[int, str] = field(default_factory=dict)


def served(*indexes: int, **fields: object) -> Facts:
    """The facts of a server that serves these shares, each with one rule."""
    wanted = desired(document(1, *(share(index, rule("10.0.0.5")) for index in indexes)))
    facts = Facts(disks={serial(index): [disk(index, carries=index)] for index in indexes}, nfs_running=True)
    for name, value in fields.items():
        setattr(facts, name, value)
    plan = make_plan(facts, wanted)
    return carry_out(facts, plan, wanted)


def without_mount(facts: Facts, index: int) -> Facts:
    del facts.mounts[number(index)]
    return facts


def with_disks(facts: Facts, **found: Disk) -> Facts:
    facts.disks = {serial(int(name.removeprefix("d"))): [value] for name, value in found.items()}
    return facts


FILES = [("write_fstab", 0), ("write_exports", 0), ("start_nfs", 0), ("export", 0)]
CASES = {
    "nothing wanted, nothing there": Case(Facts(exports=HEADER), document(1), []),
    "a new share on a blank disk": Case(
        Facts(disks=disks((1, disk(1)))),
        document(1, share(1, rule("10.0.0.0/24"))),
        [("format", 1), ("mount", 1), ("finish_format", 1), *FILES],
    ),
    "a new share without rules needs no NFS server": Case(
        Facts(disks=disks((1, disk(1)))),
        document(1, share(1)),
        [("format", 1), ("mount", 1), ("finish_format", 1), ("write_fstab", 0), ("write_exports", 0)],
    ),
    "a disk that already carries the file system is used, though creation is asked for": Case(
        Facts(disks=disks((1, disk(1, carries=1, content=None)))),
        document(1, share(1, rule("10.0.0.5"))),
        [("mount", 1), *FILES],
    ),
    "a file system grows, mounted and exported as it is, when its disk has grown": Case(
        with_disks(served(1), d1=disk(1, carries=1, size=2, filesystem=1)),
        document(1, share(1, rule("10.0.0.5"), size=2 * GIB)),
        [("grow", 1)],
    ),
    "it grows to the size asked for, not to its disk's": Case(
        with_disks(served(1), d1=disk(1, carries=1, size=9, filesystem=2)),
        document(1, share(1, rule("10.0.0.5"), size=2 * GIB)),
        [],
    ),
    "a file system is never made smaller": Case(
        with_disks(served(1), d1=disk(1, carries=1, size=3, filesystem=3)),
        document(1, share(1, rule("10.0.0.5"), size=2 * GIB)),
        [],
    ),
    "without a size in the document nothing grows": Case(
        with_disks(served(1), d1=disk(1, carries=1, size=2, filesystem=1)),
        document(1, share(1, rule("10.0.0.5"))),
        [],
    ),
    "a disk that has not grown yet leaves the share as it is served": Case(
        with_disks(served(1), d1=disk(1, carries=1, size=1, filesystem=1)),
        document(1, share(1, rule("10.0.0.5"), size=2 * GIB)),
        [],
        {1: "disk_small"},
    ),
    "a server made anew serves a share whose disk has not grown yet": Case(
        Facts(disks=disks((1, disk(1, carries=1, size=1, filesystem=1)))),
        document(1, share(1, rule("10.0.0.5"), create=False, size=2 * GIB)),
        [("mount", 1), *FILES],
        {1: "disk_small"},
    ),
    "a server made anew mounts first, then completes a growth": Case(
        Facts(disks=disks((1, disk(1, carries=1, type="xfs", size=2, filesystem=1)))),
        document(1, share(1, rule("10.0.0.5"), create=False, type="xfs", size=2 * GIB)),
        [("mount", 1), ("grow", 1), *FILES],
    ),
    "a disk a little smaller than asked for, as encrypted ones are, is large enough": Case(
        with_disks(
            served(1), d1=Disk("/dev/sdb", "8:16", Superblock("ext4", number(0xF501), size=GIB), size=2 * GIB - 4096)
        ),
        document(1, share(1, rule("10.0.0.5"), size=2 * GIB)),
        [("grow", 1)],
    ),
    "a foreign file system is never formatted": Case(
        Facts(disks=disks((1, disk(1, carries=7, content="carries ext4")))),
        document(1, share(1)),
        [("write_exports", 0)],
        {1: "not_blank"},
    ),
    "data without a signature is never formatted": Case(
        Facts(disks=disks((1, disk(1, content="has data near byte 4096")))),
        document(1, share(1)),
        [("write_exports", 0)],
        {1: "not_blank"},
    ),
    "a blank disk is not formatted when nobody asked for it": Case(
        Facts(disks=disks((1, disk(1, content=None)))),
        document(1, share(1, create=False)),
        [("write_exports", 0)],
        {1: "filesystem_mismatch"},
    ),
    "the right UUID on the wrong type is a mismatch": Case(
        Facts(disks=disks((1, disk(1, carries=1, type="xfs")))),
        document(1, share(1, create=False)),
        [("write_exports", 0)],
        {1: "filesystem_mismatch"},
    ),
    "an interrupted format of ours is made again": Case(
        Facts(
            disks=disks((1, disk(1, content="has data near byte 1024"))),
            marks={number(1): (serial(1), number(0xF501))},
        ),
        document(1, share(1)),
        [("format", 1), ("mount", 1), ("finish_format", 1), ("write_fstab", 0), ("write_exports", 0)],
    ),
    "an interrupted xfs format of ours is made again": Case(
        Facts(
            disks=disks((1, disk(1, carries=1, type="xfs", complete=False, content="carries xfs"))),
            marks={number(1): (serial(1), number(0xF501))},
        ),
        document(1, share(1, type="xfs")),
        [("format", 1), ("mount", 1), ("finish_format", 1), ("write_fstab", 0), ("write_exports", 0)],
    ),
    "a mark for another disk gives no right to format": Case(
        Facts(
            disks=disks((1, disk(1, content="has data near byte 1024"))),
            marks={number(1): (serial(2), number(0xF501))},
        ),
        document(1, share(1)),
        [("write_exports", 0)],
        {1: "not_blank"},
    ),
    "a mark gives no right to a disk with another's signature": Case(
        Facts(
            disks=disks((1, disk(1, carries=9, content="carries ext4"))),
            marks={number(1): (serial(1), number(0xF501))},
        ),
        document(1, share(1)),
        [("write_exports", 0)],
        {1: "not_blank"},
    ),
    "a crash between format and opening the root is finished": Case(
        Facts(
            disks=disks((1, disk(1, carries=1))),
            mounts={number(1): Mount("8:16")},
            directories=frozenset({number(1)}),
            marks={number(1): (serial(1), number(0xF501))},
        ),
        document(1, share(1)),
        [("finish_format", 1), ("write_fstab", 0), ("write_exports", 0)],
    ),
    "one missing disk hinders nobody": Case(
        Facts(disks=disks((2, disk(2)))),
        document(1, share(1, rule("10.0.0.5")), share(2, rule("10.0.0.5"))),
        [("format", 2), ("mount", 2), ("finish_format", 2), *FILES],
        {1: "device_missing"},
    ),
    "two disks with one serial are not chosen between": Case(
        Facts(disks={serial(1): [disk(1), disk(2)]}),
        document(1, share(1)),
        [("write_exports", 0)],
        {1: "device_missing"},
    ),
    "one disk that two serials may mean is nobody's": Case(
        Facts(disks={serial(1): [disk(1)], serial(2): [disk(1)]}),
        document(1, share(1), share(2)),
        [("write_exports", 0)],
        {1: "device_missing", 2: "device_missing"},
    ),
    "a served server needs nothing": Case(
        served(1, 2), document(2, share(1, rule("10.0.0.5")), share(2, rule("10.0.0.5"))), []
    ),
    "one more rule: one file and one exportfs": Case(
        served(1),
        document(2, share(1, rule("10.0.0.5"), rule("10.0.0.6", "ro"))),
        [("write_exports", 0), ("export", 0)],
    ),
    "the last rule goes": Case(served(1), document(2, share(1)), [("write_exports", 0), ("export", 0)]),
    "a share goes: unexported before it is unmounted": Case(
        served(1, 2),
        document(2, share(2, rule("10.0.0.5"))),
        [("write_fstab", 0), ("write_exports", 0), ("export", 0), ("unmount", 1)],
    ),
    "after a reboot without the disk, its lines stay": Case(
        with_disks(without_mount(served(1, 2), 1), d2=disk(2, carries=2)),
        document(2, share(1, rule("10.0.0.5")), share(2, rule("10.0.0.5"))),
        [],
        {1: "device_missing"},
    ),
    "the disk came back: mounted, and what clients were denied is forgotten": Case(
        without_mount(served(1), 1),
        document(2, share(1, rule("10.0.0.5"))),
        [("mount", 1), ("flush", 0)],
    ),
    "another living device is mounted there: left alone, and no longer exported": Case(
        with_disks(served(1), d1=Disk("/dev/sde", "8:64", Superblock("ext4", number(0xF501)))),
        document(2, share(1, rule("10.0.0.5"))),
        [("write_fstab", 0), ("write_exports", 0), ("export", 0)],
        {1: "filesystem_mismatch"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_plan(case: Case) -> None:
    wanted = desired(case.document)
    plan = make_plan(case.facts, wanted)
    indexes = {number(index): index for index in range(10)}
    found = [(action.kind, indexes.get(action.share_id, 0)) for action in plan.actions]
    assert found == case.actions
    assert {share_id: error for share_id, (error, _) in plan.problems.items()} == {
        number(index): error for index, error in case.problems.items()
    }
    facts = carry_out(case.facts, plan, wanted)
    assert make_plan(facts, wanted).actions == []


def test_drift_is_seen() -> None:
    wanted = desired(document(2, share(1, rule("10.0.0.5"))))
    for name, value, actions in (
        ("etab", "", ["export"]),
        ("etab", etab(*wanted.shares).replace("(rw,", "(ro,"), ["export"]),
        ("etab", etab(*wanted.shares) + "/etc\t*(rw,sync)\n", ["export"]),
        ("exports", "/etc *(rw)\n", ["write_exports"]),
        ("fstab", "/dev/vda1 / ext4 rw 0 1\n", ["write_fstab"]),
        ("nfs_running", False, ["start_nfs"]),
        ("mounts", {}, ["mount", "flush"]),
        ("mounts", {number(1): Mount("8:99", alive=False)}, ["release", "mount", "flush"]),
        ("directories", frozenset({number(1), number(5)}), ["remove_directory"]),
    ):
        facts = served(1)
        setattr(facts, name, value)
        assert [action.kind for action in make_plan(facts, wanted).actions] == actions, (name, value)


def test_foreign_fstab_lines_are_kept() -> None:
    facts = served(1)
    facts.fstab = (
        "# mine\n\n/dev/vda1 / ext4 rw 0 1\n" + fstab_line(desired(document(1, share(3))).shares[0]) + "\nlast"
    )
    plan = make_plan(facts, desired(document(2, share(1, rule("10.0.0.5")))))
    (written,) = [action.text for action in plan.actions if action.kind == "write_fstab"]
    assert written.splitlines()[:4] == ["# mine", "", "/dev/vda1 / ext4 rw 0 1", "last"]
    assert [line.split()[:3] for line in written.splitlines()[4:]] == [
        [f"UUID={number(0xF501)}", f"/shares/share-{number(1)}", "ext4"]
    ]
    assert "nofail" in written


def test_firewall_is_replaced_only_when_it_differs() -> None:
    facts = Facts(nics=NICS)
    wanted = desired(document(1, firewall=firewall("10.0.0.0/24")))
    plan = make_plan(facts, wanted)
    assert [action.kind for action in plan.actions] == ["load_firewall", "write_exports"]
    carry_out(facts, plan, wanted)
    assert make_plan(facts, wanted).actions == []
    other = desired(document(2, firewall=firewall("10.0.1.0/24")))
    assert [action.kind for action in make_plan(facts, other).actions] == ["load_firewall"]


def test_a_firewall_that_locks_us_out_is_refused() -> None:
    with pytest.raises(Refusal, match="management"):
        make_plan(Facts(nics={CLIENT_MAC: "eth1"}), desired(document(1, firewall=firewall())))
