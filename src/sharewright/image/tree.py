"""The file system inside an image, read without booting it.

:class:`DebugfsTree` reads ext2/3/4 through debugfs, no mount and no privileges; :class:`DirectoryTree` reads a
directory, which is how other file systems are read: mounted read-only through a loop device, by root.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Protocol

from sharewright.errors import SharewrightError

SECTOR = 512
LINUX_GUIDS = {  # GPT types of partitions that may hold a root file system, in preference order
    "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",  # root, x86-64
    "0fc63daf-8483-4772-8e79-3d69d8477de4",  # Linux data
}
COMMAND_SECONDS = 120.0
MAX_LINKS = 16


class UnreadableDisk(SharewrightError):
    """The disk holds no file system that can be read here."""


class Tree(Protocol):
    """Paths are absolute. Symbolic links are followed inside the image; what is missing reads as empty."""

    def exists(self, path: str) -> bool: ...

    def is_file(self, path: str) -> bool: ...

    def is_directory(self, path: str) -> bool: ...

    def is_executable(self, path: str) -> bool: ...

    def read(self, path: str) -> bytes: ...

    def listing(self, path: str) -> list[str]: ...

    def resolve(self, path: str) -> str | None:
        """The path after following links; None when there is nothing."""
        ...


class _LinkedTree:
    """What follows from ``mode``, ``link``: the same for both ways of reading."""

    def mode(self, path: str) -> int:
        """st_mode of the path itself, directories on the way resolved; 0: nothing there."""
        raise NotImplementedError

    def link(self, path: str) -> str:
        raise NotImplementedError

    def resolve(self, path: str) -> str | None:
        """Walk the path one name at a time: a link may stand for any directory on the way, and may be absolute, which
        means from the image's root."""
        done, left, links = PurePosixPath("/"), list(PurePosixPath(path).parts[1:]), 0
        while left:
            name = left.pop(0)
            if name == "..":
                done = done.parent
                continue
            here = done / name
            mode = self.mode(str(here))
            if not mode:
                return None
            if stat.S_ISLNK(mode):
                links += 1
                if links > MAX_LINKS:
                    return None
                target = PurePosixPath(self.link(str(here)))
                parts = list(target.parts)
                if target.is_absolute():
                    done, parts = PurePosixPath("/"), parts[1:]
                left = parts + left
                continue
            done = here
        return str(done)

    def _resolved_mode(self, path: str) -> int:
        resolved = self.resolve(path)
        return self.mode(resolved) if resolved else 0

    def exists(self, path: str) -> bool:
        """Also true of a link that leads nowhere, as those that enable units do when read out of place."""
        parent = self.resolve(str(PurePosixPath(path).parent))
        return bool(parent and self.mode(str(PurePosixPath(parent) / PurePosixPath(path).name)))

    def is_file(self, path: str) -> bool:
        return stat.S_ISREG(self._resolved_mode(path))

    def is_directory(self, path: str) -> bool:
        return stat.S_ISDIR(self._resolved_mode(path))

    def is_executable(self, path: str) -> bool:
        return self.is_file(path) and bool(self._resolved_mode(path) & 0o100)


class DirectoryTree(_LinkedTree):
    """The image's root file system is at ``root`` in this host's."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def _at(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def mode(self, path: str) -> int:
        try:
            return self._at(path).lstat().st_mode
        except OSError:
            return 0

    def link(self, path: str) -> str:
        return str(self._at(path).readlink())

    def read(self, path: str) -> bytes:
        resolved = self.resolve(path)
        return self._at(resolved).read_bytes() if resolved and stat.S_ISREG(self.mode(resolved)) else b""

    def listing(self, path: str) -> list[str]:
        resolved = self.resolve(path)
        if not resolved or not stat.S_ISDIR(self.mode(resolved)):
            return []
        return sorted(entry.name for entry in self._at(resolved).iterdir())


class DebugfsTree(_LinkedTree):
    """An ext2/3/4 file system at ``offset`` bytes into a raw file."""

    def __init__(self, disk: Path, offset: int) -> None:
        self.device = f"{disk}?offset={offset}" if offset else str(disk)
        self._modes: dict[str, int] = {}
        self._links: dict[str, str] = {}

    def _run(self, request: str) -> bytes:
        done = subprocess.run(
            ["debugfs", "-c", "-R", request, self.device],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=COMMAND_SECONDS,
            env={"PATH": tool_path(), "DEBUGFS_PAGER": "cat", "PAGER": "cat", "LC_ALL": "C"},
            check=False,
        )
        return done.stdout

    def mode(self, path: str) -> int:
        if path not in self._modes:
            self._stat(path)
        return self._modes[path]

    def link(self, path: str) -> str:
        self.mode(path)
        return self._links.get(path, "")

    def _stat(self, path: str) -> None:
        """Fill in what debugfs's ``stat`` tells."""
        self._modes[path] = 0
        if path == "/":
            self._modes[path] = stat.S_IFDIR | 0o755
            return
        text = self._run(f'stat "{_quotable(path)}"').decode("utf-8", "replace")
        match = re.search(r"Type: (\w[\w ]*?)\s+Mode:\s+([0-7]+)", text)
        if not match:
            return
        kinds = {"regular": stat.S_IFREG, "directory": stat.S_IFDIR, "symlink": stat.S_IFLNK}
        self._modes[path] = kinds.get(match[1], stat.S_IFCHR) | int(match[2], 8)
        if match[1] == "symlink":
            target = re.search(r'Fast link dest: "(.*)"', text)
            self._links[path] = (
                target[1] if target else self._run(f'cat "{_quotable(path)}"').decode("utf-8", "replace")
            )

    def read(self, path: str) -> bytes:
        resolved = self.resolve(path)
        if not resolved or not stat.S_ISREG(self.mode(resolved)):
            return b""
        return self._run(f'cat "{_quotable(resolved)}"')

    def listing(self, path: str) -> list[str]:
        resolved = self.resolve(path)
        if not resolved or not stat.S_ISDIR(self.mode(resolved)):
            return []
        # /inode/mode/uid/gid/name/size/
        lines = self._run(f'ls -p "{_quotable(resolved)}"').decode("utf-8", "replace").splitlines()
        entries = (line.split("/") for line in lines if line.startswith("/"))
        return sorted(fields[5] for fields in entries if len(fields) > 5 and fields[5] not in (".", "..", ""))


def _quotable(path: str) -> str:
    """A path as debugfs takes it between double quotes, for which it has no escape."""
    if '"' in path or "\n" in path:
        raise UnreadableDisk(f"The image has a file of an unusual name: {path!r}.")
    return path


def tool_path() -> str:
    return os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"


@contextmanager
def open_tree(disk: Path) -> Iterator[tuple[Tree, bool]]:
    """The root file system of a disk file, and whether the disk carries a boot sector. Raises UnreadableDisk."""
    for tool, package in (("qemu-img", "qemu-utils"), ("debugfs", "e2fsprogs")):
        if shutil.which(tool, path=tool_path()) is None:
            raise SharewrightError(f"{tool} is not installed.", hint=f"apt-get install {package}")
    with tempfile.TemporaryDirectory(prefix="sharewright-image-", dir=_room_for(disk)) as scratch:
        raw = _as_raw(disk, Path(scratch))
        offset, bootable = find_root(raw)
        kind = filesystem_kind(raw, offset)
        if kind == "ext":
            yield DebugfsTree(raw, offset), bootable
            return
        if not kind:
            raise UnreadableDisk(
                f"{disk.name} has no file system that can be recognised.",
                hint="Sharewright looks for ext4 or xfs, on the whole disk or on a partition; no LVM, no encryption.",
            )
        with _mounted(raw, offset, kind, Path(scratch)) as root:
            yield DirectoryTree(root), bootable


def _room_for(disk: Path) -> str | None:
    """A place for a sparse copy: beside the disk, where there was room for it, if one may write there."""
    return str(disk.parent) if os.access(disk.parent, os.W_OK) else None


def _as_raw(disk: Path, scratch: Path) -> Path:
    with disk.open("rb") as file:
        magic = file.read(4)
    if magic != b"QFI\xfb":
        return disk.resolve()
    raw = scratch / "disk.raw"
    done = subprocess.run(
        ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(disk), str(raw)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=600,
        env={"PATH": tool_path(), "LC_ALL": "C"},
        check=False,
    )
    if done.returncode != 0:
        raise UnreadableDisk(
            f"{disk.name} cannot be read: {done.stderr.strip()[-300:]}", hint="Build or fetch it again."
        )
    return raw


def find_root(raw: Path) -> tuple[int, bool]:
    """Byte offset of the root file system (the largest Linux partition), and whether there is a boot sector."""
    with raw.open("rb") as file:
        first = file.read(SECTOR)
        if len(first) < SECTOR or first[510:] != b"\x55\xaa":
            return 0, False
        bootable = any(first[:440])
        entries = [struct.unpack_from("<B3xB3xII", first, 446 + 16 * number) for number in range(4)]
        if any(kind == 0xEE for _, kind, _, _ in entries):
            partitions, firmware = _gpt_partitions(file.read(SECTOR), raw)
            bootable = bootable or firmware
        else:
            partitions = [(start, size) for _, kind, start, size in entries if kind == 0x83]
    if not partitions:
        return 0, bootable
    start, _ = max(partitions, key=lambda partition: partition[1])
    return start * SECTOR, bootable


def _gpt_partitions(header: bytes, raw: Path) -> tuple[list[tuple[int, int]], bool]:
    """(start, size) in sectors of Linux partitions, and whether there is an EFI system partition."""
    if header[:8] != b"EFI PART":
        return [], False
    table, count, size = struct.unpack_from("<QII", header, 72)
    if not 128 <= size <= 4096 or count > 1024:
        return [], False
    partitions, firmware = [], False
    with raw.open("rb") as file:
        file.seek(table * SECTOR)
        data = file.read(count * size)
    for number in range(len(data) // size):
        entry = data[number * size : (number + 1) * size]
        low, middle, high = struct.unpack_from("<IHH", entry)
        kind = f"{low:08x}-{middle:04x}-{high:04x}-{entry[8:10].hex()}-{entry[10:16].hex()}"
        start, end = struct.unpack_from("<QQ", entry, 32)
        if kind in LINUX_GUIDS:
            partitions.append((start, end - start + 1))
        firmware = firmware or kind == "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
    return partitions, firmware


def filesystem_kind(raw: Path, offset: int) -> str:
    """ "ext", "xfs", or "" for what is not known, by the magic numbers of the superblocks."""
    with raw.open("rb") as file:
        file.seek(offset)
        block = file.read(2048)
    if block[:4] == b"XFSB":
        return "xfs"
    return "ext" if block[1024 + 56 : 1024 + 58] == b"\x53\xef" else ""


@contextmanager
def _mounted(raw: Path, offset: int, kind: str, scratch: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        raise UnreadableDisk(f"The image's file system is {kind}.", hint="Reading it needs root: run this with sudo.")
    point = scratch / "root"
    point.mkdir()
    options = f"loop,ro,norecovery,nodev,nosuid,noexec,offset={offset}"
    done = subprocess.run(
        ["mount", "-t", kind, "-o", options, str(raw), str(point)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=COMMAND_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise UnreadableDisk(f"The image's {kind} file system cannot be mounted: {done.stderr.strip()}")
    try:
        yield point
    finally:
        subprocess.run(["umount", str(point)], stdin=subprocess.DEVNULL, timeout=COMMAND_SECONDS, check=True)
