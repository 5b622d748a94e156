"""Shares that move to a smaller disk: real ext4 file systems, copied with their inode numbers and generations."""

from __future__ import annotations

import json
import os
import random
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from guest_machines import number
from loop_disks import LoopHost, loop_disk, needs_loop_devices, private_mounts, run

from sharewright.guest.program import copying, leaving, moving
from sharewright.guest.program.copying import OutOfTime, Pass, compare
from sharewright.guest.program.desired import Desired, Share, Successor
from sharewright.guest.program.ext4 import DoesNotFit, Geometry, inodes_of_copy, read_geometry, write_identities
from sharewright.guest.program.filesystems import Disk, read_superblock
from sharewright.guest.program.fstab import fstab_line
from sharewright.guest.program.handles import generation
from sharewright.guest.program.host import CommandFailed
from sharewright.guest.program.planning import Facts, Mount

pytestmark = needs_loop_devices

GIBIBYTE = 2**30
OLD, NEW, COPY = number(101), number(102), number(103)
SERIAL = "the-new-disk"


# Nobody is connected; noted are who gets through the gate, and how the share is mounted.
SMBSTATUS = """#!/bin/sh
flock -n -s {root}/var/lib/sharewright/smb-gate true && echo open >> {root}/gate || echo closed >> {root}/gate
echo '{{"sessions": {{}}, "tcons": {{}}}}'
"""


class Bench:
    """One share on a disk of 4 GiB, mounted; a blank disk of 2 GiB beside it."""

    def __init__(self, root: Path, old: str, new: str) -> None:
        self.host = LoopHost(str(root))
        self.old, self.new = old, new
        self.successor = Successor(SERIAL, NEW, COPY, size=2 * GIBIBYTE, step="switch", stall=60.0)
        self.share = Share(number(1), "the-old-disk", "ext4", OLD, size=4 * GIBIBYTE, successor=self.successor)
        tools = root / "usr/sbin"
        tools.mkdir(parents=True)
        systemctl = tools / "systemctl"
        systemctl.write_text(f'#!/bin/sh\necho "$@" >> {root}/systemctl\n')
        systemctl.chmod(0o755)
        smbstatus = tools / "smbstatus"
        smbstatus.write_text(SMBSTATUS.format(root=root))
        smbstatus.chmod(0o755)
        run("mkfs.ext4", "-q", "-m", "0", "-U", OLD, "-E", "lazy_itable_init=1", old)
        self.path = Path(self.host.at(self.share.path))
        self.path.mkdir(parents=True)
        run("mount", "-o", "noatime", old, str(self.path))
        self.host.replace("/etc/fstab", f"/dev/vda1 / ext4 rw 0 1\n{fstab_line(self.share)}\n")

    @property
    def job(self) -> dict[str, object]:
        return {
            "share": self.share.id, "device": self.new, "serial": SERIAL, "uuid": NEW, "copy_uuid": COPY,
            "size": 2 * GIBIBYTE, "stall": 60.0,
        }  # fmt: skip

    def facts(self) -> Facts:
        disks = {
            serial: [Disk(device, self.number(device), read_superblock(self.host, device))]
            for serial, device in (("the-old-disk", self.old), (SERIAL, self.new))
        }
        mounts = {self.share.id: Mount(self.number(self.old))}
        return Facts(disks=disks, mounts=mounts, fstab=self.host.read("/etc/fstab"))

    @staticmethod
    def number(device: str) -> str:
        return Path(f"/sys/block/{Path(device).name}/dev").read_text().strip()

    def copy(self) -> None:
        moving.copy(self.host, self.job)

    def move(self) -> None:
        """The whole move, as the copying process and an apply make it."""
        assert moving.main(self.host, json.dumps(self.job)) == 0
        assert moving.move_of(self.host, self.share).state == "ready"
        moving.switch(self.host, self.share, self.successor, self.facts())

    def serve_by_smb(self) -> None:
        self.share = Share(
            number(1), "the-old-disk", "ext4", OLD, size=4 * GIBIBYTE, protocol="CIFS", successor=self.successor
        )

    def options(self) -> list[str]:
        """With which the share is mounted."""
        lines = [line.split(" ") for line in self.host.read("/proc/self/mountinfo").splitlines()]
        return next(fields[5].split(",") for fields in lines if fields[4] == self.share.path)

    def mount_new(self) -> None:
        run("mount", self.new, str(self.path))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with loop_disk(tmp_path / "old", 4) as old, loop_disk(tmp_path / "new", 2) as new, private_mounts():
        yield Bench(tmp_path / "root", old, new)


def look(root: Path) -> dict[str, tuple[object, ...]]:
    """All that a client can see of a tree; of a directory also the order of its names."""
    seen: dict[str, tuple[object, ...]] = {}
    told = run("find", str(root), "-exec", "stat", "--printf", "%n\\t%w\\0", "{}", "+")
    births = dict(line.rsplit("\t", 1) for line in told.rstrip("\0").split("\0"))
    for path, _, _ in os.walk(root):
        descriptor = os.open(path, os.O_RDONLY)
        names = os.listdir(descriptor)  # noqa: PTH208 - in the order of the file system
        for name in [*names, "."]:
            whole = f"{path}/{name}"
            found = os.lstat(whole)
            content: object = None
            if stat.S_ISREG(found.st_mode):
                content = (found.st_size, Path(whole).read_bytes())
            elif stat.S_ISLNK(found.st_mode):
                content = str(Path(whole).readlink())
            elif name == ".":
                content = tuple(names)
            attributes = {
                key: os.getxattr(whole, key, follow_symlinks=False)
                for key in os.listxattr(whole, follow_symlinks=False)
            }
            seen[os.path.relpath(whole, root)] = (
                found.st_ino, generation(descriptor, name), found.st_mode, found.st_uid, found.st_gid,
                found.st_nlink, found.st_rdev, found.st_mtime_ns, found.st_ctime_ns, content, tuple(attributes.items()),
                births[os.path.normpath(whole)],
            )  # fmt: skip
        os.close(descriptor)
    return seen


def busy(*_: object, **__: object) -> None:
    raise CommandFailed("busy")


def access_list(*entries: tuple[int, ...]) -> bytes:
    """A POSIX access list: tag, permissions and, for users and groups that are named, their number."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry, *(-1,) * (3 - len(entry))) for entry in entries)


def fill(root: Path, files: int = 400) -> None:
    """Files of every kind."""
    chance = random.Random(4)
    directories = [root]
    for position in range(files // 20):
        path = chance.choice(directories) / f"directory {position}"
        path.mkdir()
        directories.append(path)
    for position in range(files):
        path = chance.choice(directories) / f"file-{position}-{'ä' * chance.randrange(40)}"
        path.write_bytes(chance.randbytes(chance.choice([0, 5, 5000, 70000])))
        if position % 10 == 1:
            os.link(path, chance.choice(directories) / f"second name of {position}")
        elif position % 10 == 2:
            os.chown(path, 1000 + position, 1000)
            path.chmod(0o4750)
        elif position % 10 == 3:
            os.setxattr(path, "user.color", chance.randbytes(chance.choice([3, 300, 2000])))
        elif position % 10 == 4:
            os.utime(path, ns=(10**18, chance.randrange(4 * 10**18)))
        elif position % 10 == 5:
            with path.open("r+b") as file:
                file.seek(3_000_000)
                file.write(b"after a hole")
    (root / "short link").symlink_to("file")
    (root / "long link").symlink_to("x/" * 150)
    # What Samba keeps with files and directories.
    for path in (root / "short link").parent, *root.glob("file-1*"), directories[-1]:
        os.setxattr(path, "user.DOSATTRIB", b"\0\0\5\0\5\0\0\0\x11\0\0\0" + chance.randbytes(28))
        os.setxattr(path, "security.NTACL", chance.randbytes(200))
    os.mkfifo(root / "fifo")
    os.mknod(root / "device", stat.S_IFBLK | 0o640, os.makedev(8, 17))
    os.mknod(root / "socket", stat.S_IFSOCK | 0o600)
    os.setxattr(root / "fifo", "system.posix_acl_access", access_list((1, 6), (2, 6, 1001), (4, 4), (16, 6), (32, 0)))
    os.setxattr(
        directories[-1], "system.posix_acl_default", access_list((1, 7), (2, 7, 1001), (4, 5), (16, 7), (32, 5))
    )
    for name in ("a", "b"):
        (root / f"many-{name}").mkdir()
        for position in range(600):  # more than one block of names
            (root / f"many-{name}" / f"a rather long name of a file {position}").touch()
    root.chmod(0o1770)


class TestSmb:
    def test_everything_stays_and_the_new_disk_is_there_before_the_gate_opens(self, bench: Bench) -> None:
        bench.serve_by_smb()
        fill(bench.path, files=60)
        before = look(bench.path)
        bench.move()
        assert os.path.ismount(bench.path)
        assert look(bench.path) == before
        assert "rw" in bench.options()
        assert set(bench.host.read("/gate").split()) == {"closed"}
        assert bench.host.read("/systemctl") == ""  # neither Samba nor the NFS server stops
        assert read_superblock(bench.host, bench.new).uuid == NEW  # type: ignore[union-attr]
        assert bench.path.stat().st_dev == os.makedev(*map(int, bench.number(bench.new).split(":")))

    def test_open_files_are_waited_for(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(leaving, "OPEN_SECONDS", 0.3)
        monkeypatch.setattr(leaving, "SETTLE_SECONDS", 0.1)
        bench.serve_by_smb()
        fill(bench.path, files=20)
        before = look(bench.path)
        name = "written while it is copied"
        smbd = bench.path.parent.parent / "smbd"
        smbd.symlink_to(sys.executable)
        program = f"import time; f = open({str(bench.path / name)!r}, 'w'); print('open', flush=True); time.sleep(600)"
        with subprocess.Popen([smbd, "-S", "-c", program], stdout=subprocess.PIPE, text=True) as client:
            assert client.stdout is not None
            assert client.stdout.readline() == "open\n"
            (bench.path / name).write_text("acknowledged")
            assert moving.main(bench.host, json.dumps(bench.job)) == 0
            desired = Desired(number(9), 1, (bench.share,))
            monkeypatch.setattr(moving.observing, "gather", lambda *_, **__: bench.facts())
            settled, _ = moving.settle(bench.host, desired, bench.facts(), act=True)
            (share,) = settled.shares
            assert not share.has_moved
            found = moving.move_of(bench.host, bench.share)
            assert (found.state, found.message) == ("in_use", f'SMB clients have files open: "{name}"')
            assert client.poll() is None
            client.kill()
        assert "rw" in bench.options()
        assert moving.tasks(bench.host, desired) == []  # copied again only when it is asked for
        again = Successor(SERIAL, NEW, COPY, size=2 * GIBIBYTE, step="copy", stall=60.0)
        assert moving.tasks(bench.host, desired.with_shares((_with(bench.share, again),))) != []
        bench.move()
        after = look(bench.path)
        assert (bench.path / name).read_text() == "acknowledged"
        assert {key: after[key] for key in before if key != "."} == {key: before[key] for key in before if key != "."}

    def test_a_switch_that_fails_leaves_the_share_as_it_was(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bench.serve_by_smb()
        fill(bench.path, files=20)
        before = look(bench.path)
        assert moving.main(bench.host, json.dumps(bench.job)) == 0
        for step in ("finish", "check_free", "write_uuid"):
            with monkeypatch.context() as patch:
                patch.setattr(moving, step, busy)
                with pytest.raises(CommandFailed, match="busy"):
                    moving.switch(bench.host, bench.share, bench.successor, bench.facts())
            assert "rw" in bench.options()
            assert look(bench.path) == before
            assert moving.main(bench.host, json.dumps(bench.job)) == 0
        bench.move()
        assert look(bench.path) == before

    def test_a_killed_switch_leaves_nothing_that_cannot_be_written(self, bench: Bench) -> None:
        bench.serve_by_smb()
        leaving.forbid_writing(bench.host, bench.share)
        assert "ro" in bench.options()
        desired = Desired(number(9), 1, (bench.share,))
        moving.settle(bench.host, desired, bench.facts(), act=True)
        assert "rw" in bench.options()


def _with(share: Share, successor: Successor) -> Share:
    return Share(share.id, share.serial, share.filesystem, share.uuid, protocol="CIFS", successor=successor)


class TestMove:
    def test_everything_that_a_client_sees_stays(self, bench: Bench) -> None:
        fill(bench.path)
        before = look(bench.path)
        blocks = sum(path.lstat().st_blocks for path in bench.path.rglob("file-*"))
        bench.move()
        assert not os.path.ismount(bench.path)
        bench.mount_new()
        assert look(bench.path) == before
        assert sum(path.lstat().st_blocks for path in bench.path.rglob("file-*")) <= blocks  # holes are holes
        assert len(before) > 1600

    def test_inodes_that_are_too_small_for_a_time_of_creation(self, bench: Bench) -> None:
        run("umount", str(bench.path))
        run("mkfs.ext4", "-q", "-F", "-m", "0", "-I", "128", "-U", OLD, "-E", "lazy_itable_init=1", bench.old)
        run("mount", "-o", "noatime", bench.old, str(bench.path))
        fill(bench.path, files=20)
        before = [entry[:-2] for entry in look(bench.path).values()]  # such have whole seconds only, too
        bench.move()
        bench.mount_new()
        assert [entry[:-2] for entry in look(bench.path).values()] == before

    def test_the_new_file_system_is_as_every_other(self, bench: Bench) -> None:
        fill(bench.path, files=40)
        bench.move()
        features = run("dumpe2fs", "-h", bench.new)
        assert f"Filesystem UUID:          {NEW}" in features
        assert " metadata_csum\n" in features
        assert "Reserved block count:     0\n" in features
        assert run("e2fsck", "-f", "-n", bench.new)
        bench.mount_new()
        run("resize2fs", bench.new)
        (bench.path / "new").write_bytes(b"x" * 100_000)

    def test_fstab_names_the_new_one_and_keeps_the_lines_of_others(self, bench: Bench) -> None:
        bench.move()
        assert bench.host.read("/etc/fstab") == f"/dev/vda1 / ext4 rw 0 1\n{fstab_line(bench.share.moved())}\n"
        assert bench.host.read("/systemctl") == "stop nfs-server.service\n"

    def test_the_old_one_is_left_as_it_was(self, bench: Bench) -> None:
        fill(bench.path, files=40)
        before = look(bench.path)
        bench.move()
        run("mount", "-o", "ro", bench.old, str(bench.path))
        assert look(bench.path) == before

    def test_what_changes_between_the_passes_is_followed(self, bench: Bench) -> None:
        fill(bench.path)
        assert moving.main(bench.host, json.dumps(bench.job)) == 0
        root = bench.path
        files = sorted(path for path in root.rglob("file-*") if path.is_file())
        directories = sorted(path for path in root.iterdir() if path.is_dir() and path.name.startswith("directory"))
        directories[0].rename(root / "renamed directory")
        for path in sorted(path for path in (root / "many-a").iterdir())[:300]:
            path.rename(root / "renamed directory" / path.name)  # from a directory that stays into one that moved
        files = [path for path in files if path.exists()]
        for path in files[:20]:
            path.unlink()
        for path in files[20:40]:
            path.write_bytes(b"another content")
        for position, path in enumerate(files[40:60]):
            with path.open("ab") as file:
                file.truncate(position * 1000)
        files[61].rename(files[62])
        os.link(files[63], root / "third name")
        for position in range(50):  # take the numbers that have become free, also for other kinds
            (root / f"later {position}").mkdir()
            (root / f"later {position}" / "file").write_text("new")
        run("rm", "-r", str(root / "many-b"))
        os.setxattr(files[64], "user.later", b"1")
        (root / "short link").unlink()
        (root / "short link").mkdir()
        before = look(root)
        moving.switch(bench.host, bench.share, bench.successor, bench.facts())
        bench.mount_new()
        assert look(root) == before

    def test_a_killed_pass_is_followed_by_a_good_one(self, bench: Bench) -> None:
        """What it left has other generations and change times, and what it took out of its place is found again."""
        fill(bench.path)
        bench.copy()
        for path in sorted(bench.path.glob("many-a/*"))[:200]:
            path.rename(bench.path / "many-b" / f"moved {path.name}")
        (bench.path / "many-a").rename(bench.path / "other")
        place = bench.path.parent / "copy"
        place.mkdir()
        goal = f"/sys/fs/ext4/{Path(bench.new).name}/inode_goal"
        for seconds in (0.0, 0.005, 0.01, 0.02, 0.05):
            run("mount", bench.new, str(place))
            inodes = os.statvfs(place).f_files
            with pytest.raises(OutOfTime):
                Pass(str(bench.path), str(place), inodes=inodes, goal=goal, still=True, seconds=seconds).run()
            run("umount", str(place))
        before = look(bench.path)
        bench.move()
        bench.mount_new()
        assert look(bench.path) == before

    def test_very_many_files_take_several_passes(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(copying, "MOST_AT_ONCE", 300)
        fill(bench.path)
        for path in sorted(bench.path.rglob("*")):
            os.utime(path, follow_symlinks=False)
        time.sleep(2.1)  # younger changes are copied once more
        before = look(bench.path)
        moving.copy(bench.host, bench.job)
        monkeypatch.undo()
        bench.move()
        bench.mount_new()
        assert look(bench.path) == before


class TestRefusals:
    def test_data_that_do_not_fit(self, bench: Bench) -> None:
        for position in range(21):
            with (bench.path / f"large {position}").open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, 100 * 2**20)
        moving.main(bench.host, json.dumps(bench.job))
        move = moving.move_of(bench.host, bench.share)
        assert move.state == "does_not_fit"
        assert "bytes are in use" in move.message
        assert os.path.ismount(bench.path)

    def test_inode_numbers_that_do_not_fit(self) -> None:
        geometry = Geometry(4096, 1048576, 900_000, "", checksums=True)
        assert inodes_of_copy(geometry, 4 * GIBIBYTE) == 1048576
        with pytest.raises(DoesNotFit, match="need 4 GiB at least"):
            inodes_of_copy(geometry, 3 * GIBIBYTE)

    def test_the_highest_inode_number(self, bench: Bench) -> None:
        fill(bench.path, files=200)
        run("sync", "-f", str(bench.path))
        geometry = read_geometry(bench.host, bench.old)
        highest = max(path.lstat().st_ino for path in bench.path.rglob("*"))
        assert highest <= geometry.highest < highest + 8192
        assert f"Directory Hash Seed:      {geometry.seed}" in run("dumpe2fs", "-h", bench.old)

    def test_a_disk_that_is_not_blank(self, bench: Bench) -> None:
        run("mkfs.ext4", "-q", "-U", number(77), bench.new)
        moving.main(bench.host, json.dumps(bench.job))
        move = moving.move_of(bench.host, bench.share)
        assert move.state == "failed"
        assert "should be blank" in move.message
        found = read_superblock(bench.host, bench.new)
        assert found is not None
        assert found.uuid == number(77)

    def test_a_format_that_was_cut_short_is_made_again(self, bench: Bench) -> None:
        with Path(bench.new).open("r+b") as disk:
            disk.write(b"half a file system")
        moving.main(bench.host, json.dumps(bench.job))
        assert moving.move_of(bench.host, bench.share).state == "failed"
        bench.host.replace(f"{moving.BEGUN}/{bench.share.id}", f"{SERIAL} {COPY}")
        bench.move()


class TestNoSwitch:
    """Whatever goes wrong before the switch, the old one is what is served."""

    def check_unmoved(self, bench: Bench) -> None:
        found = read_superblock(bench.host, bench.new)
        assert found is not None
        assert found.uuid == COPY
        desired = Desired(number(9), 1, (bench.share,))
        settled, _ = moving.settle(bench.host, desired, bench.facts(), act=False)
        assert settled.shares[0].uuid == OLD
        assert f" {bench.host.at(moving.MOVES)}/" not in Path("/proc/self/mountinfo").read_text()

    def test_too_slow(self, bench: Bench) -> None:
        fill(bench.path)
        moving.main(bench.host, json.dumps(bench.job))
        short = Successor(SERIAL, NEW, COPY, size=2 * GIBIBYTE, step="switch", stall=0.05)
        with pytest.raises(CommandFailed):
            moving.switch(bench.host, bench.share, short, bench.facts())
        self.check_unmoved(bench)
        assert os.path.ismount(bench.path)
        moving.switch(bench.host, bench.share, bench.successor, bench.facts())

    def test_a_copy_that_differs(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        (bench.path / "file").write_text("x")
        moving.main(bench.host, json.dumps(bench.job))
        finish = moving.finish

        def damage(host: LoopHost, device: str, *, seconds: float) -> None:
            run("debugfs", "-w", "-R", "sif file uid 7", device)
            finish(host, device, seconds=seconds)

        monkeypatch.setattr(moving, "finish", damage)
        desired = Desired(number(9), 1, (bench.share,))
        assert moving._switch_if_ready(bench.host, bench.share, bench.facts())
        move = moving.move_of(bench.host, bench.share)
        assert move.state == "late"
        assert "the copy differs in inode" in move.message
        self.check_unmoved(bench)
        # It has checksums already, which generations cannot be written under; so it is made anew.
        monkeypatch.undo()
        assert moving.tasks(bench.host, desired) == []  # not until the document says "copy"
        bench.move()

    def test_a_copy_that_cannot_be_unmounted_keeps_no_lock(self, bench: Bench) -> None:
        """The process that made the switch goes on living; with the lock, the share would look like being copied."""
        moving.main(bench.host, json.dumps(bench.job))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(moving, "_release", busy)
            with pytest.raises(CommandFailed, match="busy"):
                moving.switch(bench.host, bench.share, bench.successor, bench.facts())
        os.close(bench.host.lock(f"copy-{bench.share.id}", timeout=0.0))
        moving._release(bench.host, bench.share.id)
        self.check_unmoved(bench)
        bench.move()

    def test_the_old_one_is_in_use(self, bench: Bench) -> None:
        moving.main(bench.host, json.dumps(bench.job))
        held = os.open(bench.path, os.O_RDONLY)
        try:
            with pytest.raises(CommandFailed, match="umount"):
                moving.switch(bench.host, bench.share, bench.successor, bench.facts())
        finally:
            os.close(held)
        self.check_unmoved(bench)
        assert NEW not in bench.host.read("/etc/fstab")


class TestWhichOneIsServed:
    def served(self, bench: Bench, step: str, *, new_is_there: bool = True) -> str:
        successor = Successor(SERIAL, NEW, COPY, size=2 * GIBIBYTE, step=step, stall=60.0)
        share = Share(bench.share.id, "the-old-disk", "ext4", OLD, successor=successor)
        facts = bench.facts()
        if not new_is_there:
            facts.disks[SERIAL] = []
        settled, _ = moving.settle(bench.host, Desired(number(9), 1, (share,)), facts, act=False)
        return settled.shares[0].uuid

    def test_before_and_after(self, bench: Bench) -> None:
        assert [self.served(bench, step) for step in ("copy", "switch", "cancel")] == [OLD] * 3
        bench.copy()
        assert [self.served(bench, step) for step in ("copy", "switch", "cancel")] == [OLD] * 3
        bench.move()
        assert [self.served(bench, step) for step in ("copy", "switch", "cancel")] == [NEW] * 3

    def test_the_new_disk_is_missing(self, bench: Bench) -> None:
        """A VM made anew knows nothing; it serves the old one only while no switch can have been made."""
        assert [self.served(bench, step, new_is_there=False) for step in ("copy", "switch", "cancel")] == [OLD] * 3
        bench.host.replace("/etc/fstab", "")
        assert self.served(bench, "copy", new_is_there=False) == OLD
        assert [self.served(bench, step, new_is_there=False) for step in ("switch", "cancel")] == [NEW] * 2

    def test_the_new_disk_cannot_be_read(self, bench: Bench) -> None:
        """It is no reason to serve the old one again."""
        bench.move()
        run("dd", "if=/dev/zero", f"of={bench.new}", "bs=4096", "count=1", "conv=fsync")  # as an error of input looks
        assert [self.served(bench, step) for step in ("copy", "switch", "cancel")] == [OLD, NEW, NEW]


class TestCleaning:
    def test_a_document_without_the_move(self, bench: Bench) -> None:
        moving.main(bench.host, json.dumps(bench.job))
        moving.clean(bench.host, Desired(number(9), 1, (Share(bench.share.id, "the-old-disk", "ext4", OLD),)))
        assert moving.move_of(bench.host, bench.share).state == ""
        assert not bench.host.exists(moving.MOVES)

    def test_the_move_itself_is_left(self, bench: Bench) -> None:
        moving.main(bench.host, json.dumps(bench.job))
        moving.clean(bench.host, Desired(number(9), 1, (bench.share,)))
        assert moving.move_of(bench.host, bench.share).state == "ready"


def test_a_difference_in_names_is_found(bench: Bench) -> None:
    place = bench.path.parent / "copy"
    place.mkdir()
    bench.copy()
    last = moving._pass(bench.host, bench.share.id, bench.new, still=True)
    write_identities(bench.host, bench.new, last.fix, seconds=60.0)
    run("mount", bench.new, str(place))
    assert compare(str(bench.path), str(place)) == 1  # lost+found
    (bench.path / "new").touch()
    with pytest.raises(CommandFailed, match="copy differs"):
        compare(str(bench.path), str(place))


def test_a_handle_that_means_nothing(bench: Bench) -> None:
    from sharewright.guest.program.handles import open_handle

    root = os.open(bench.path, os.O_RDONLY)
    with pytest.raises(OSError, match="Stale file handle"):
        open_handle(root, 99, 1, os.O_RDONLY)
    os.close(root)
