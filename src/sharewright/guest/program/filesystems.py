"""Disks and file systems: recognising, finding by serial, making sure that a disk is blank, formatting."""

from __future__ import annotations

import json
import os

from .desired import Share
from .host import STATE, CommandFailed, Host, polls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

MIB = 1024 * 1024
NEITHER_DISK = ("loop", "ram", "zram", "dm-", "md", "nbd", "fd", "sr")
MARKS = f"{STATE}/formatting"  # one file per format in progress
# noatime: a client's read costs no write on the volume; NFS clients get access times only by chance anyway.
# nosuid, nodev: what a tenant stores never gains rights on the server (its clients decide for themselves).
MOUNT_OPTIONS = "rw,nosuid,nodev,noatime"
READ_ONLY_OPTIONS = "ro,nosuid,nodev,noatime"
FORMAT_SECONDS = 900.0
# A disk or a file system may stay that much below the size asked for: an encrypted volume keeps room for its header,
# xfs drops a last allocation group that would be too small. Shares differ by whole GiB.
SLACK = 32 * MIB


class Superblock:
    """What a disk's own first sectors say. ``complete`` is False for a file system whose making was cut short. ``size``
    in bytes, 0 when it is not known; ``log_bytes``: what an xfs keeps of it for its log; ``sums_by_uuid``: the
    checksums of an ext4 begin with its UUID."""

    __slots__ = ("block_bytes", "complete", "log_bytes", "size", "sums_by_uuid", "type", "uuid")

    def __init__(
        self,
        type: str,
        uuid: str,
        *,
        complete: bool = True,
        size: int = 0,
        block_bytes: int = 0,
        log_bytes: int = 0,
        sums_by_uuid: bool = False,
    ) -> None:
        self.type = type
        self.uuid = uuid
        self.complete = complete
        self.size = size
        self.block_bytes = block_bytes
        self.log_bytes = log_bytes
        self.sums_by_uuid = sums_by_uuid


class Disk:
    """A disk of a share. ``number`` is major:minor; ``content`` says why the disk is not blank, "" when it is, None
    when nobody looked (it is only looked at before formatting). ``size`` and ``filesystem_size`` in bytes. ``link``: a
    name in /dev/disk/by-id that holds the serial, where one was looked for."""

    __slots__ = ("content", "device", "filesystem_size", "link", "number", "size", "superblock")

    def __init__(
        self,
        device: str,
        number: str,
        superblock: Superblock | None = None,
        content: str | None = None,
        *,
        size: int = 0,
    ) -> None:
        self.device = device
        self.number = number
        self.superblock = superblock
        self.content = content
        self.size = size
        self.filesystem_size = superblock.size if superblock is not None else 0
        self.link = ""


def mount_options(share: Share) -> str:
    options = READ_ONLY_OPTIONS if share.read_only else MOUNT_OPTIONS
    return options + (",errors=remount-ro" if share.filesystem == "ext4" else "")


# ---- finding ---------------------------------------------------------------------------------------------------------


def disk_serials(host: Host) -> dict[str, str]:
    """Disk name → serial as the kernel knows it, of all disks that have one. A disk is asked once."""
    known = host.memory.serials
    found = {}
    for name, inode in host.entries("/sys/block").items():
        if not name.startswith(NEITHER_DISK):
            kept = known.get(name)
            serial = kept[1] if kept is not None and kept[0] == inode else _serial(host, name)
            if serial:
                found[name] = (inode, serial)
    host.memory.serials = found
    return {name: serial for name, (_, serial) in found.items()}


def _serial(host: Host, name: str) -> str:
    page = host.read_bytes(f"/sys/block/{name}/device/vpd_pg80")  # SCSI: 4 bytes of header, the last two its length
    if len(page) > 4:
        return page[4 : 4 + int.from_bytes(page[2:4], "big")].decode(errors="replace").strip(" \0")
    for path in (f"/sys/block/{name}/serial", f"/sys/block/{name}/device/serial"):  # virtio-blk; NVMe
        serial = host.read(path).strip(" \0\n")
        if serial:
            return serial
    number = host.read(f"/sys/block/{name}/dev").strip()
    for line in host.read(f"/run/udev/data/b{number}").splitlines():
        if line.startswith("E:ID_SCSI_SERIAL="):
            return line.partition("=")[2]
    return ""


def match(serials: dict[str, str], wanted: Iterable[str]) -> dict[str, list[str]]:
    """Each serial that is wanted → names of the disks with it. virtio-blk keeps 20 characters of a serial, so one of
    just 20 matches the start of a longer one; whole matches come before those."""
    names: dict[str, list[str]] = {}
    for name, serial in serials.items():
        names.setdefault(serial, []).append(name)
    return {serial: names.get(serial) or names.get(serial[:20], []) for serial in wanted}


class Device:
    """What the kernel knows of a disk: ``number`` is major:minor, ``size`` in bytes."""

    __slots__ = ("number", "size")

    def __init__(self, number: str, size: int) -> None:
        self.number = number
        self.size = size


def block_devices(host: Host) -> dict[str, Device]:
    """Disk name → what /proc/partitions says of it (proc(5): blocks of 1024 bytes): one file, however many disks there
    are. What has no size, such as an empty tray, is not in it; a disk that is just being added is shown as 0:0 for a
    moment, and is not there yet."""
    devices = {}
    for line in host.read("/proc/partitions").splitlines():
        fields = line.split()
        if len(fields) == 4 and fields[2].isdecimal() and fields[:2] != ["0", "0"]:
            devices[fields[3]] = Device(f"{fields[0]}:{fields[1]}", int(fields[2]) * 1024)
    return devices


def is_small(size: int, wanted: int) -> bool:
    """Whether a disk or a file system of that size has yet to grow."""
    return size + SLACK < wanted


def small_disks(serials: dict[str, str], sizes: dict[str, int], devices: dict[str, Device]) -> list[str]:
    """Names of the disks that have fewer bytes than ``sizes`` (by serial) says."""
    return [
        name
        for serial, names in match(serials, sizes).items()
        for name in names
        if is_small(devices[name].size, sizes[serial])
    ]


def wait_for_disks(
    host: Host, wanted: list[str], *, seconds: float, sizes: dict[str, int] | None = None
) -> tuple[dict[str, str], dict[str, Device]]:
    """Disk name → serial, and what the kernel knows of each, as soon as every wanted serial is there, with the size
    that it should have, or the time is over. Hot-plugging needs no help from us; a rescan of the SCSI hosts is the
    fallback for events that were lost. A disk that has grown is asked for its size at once: not every host tells."""
    serials: dict[str, str] = {}
    devices: dict[str, Device] = {}
    rescanned = False
    for left in polls(seconds, 0.1):
        devices = block_devices(host)
        serials = {name: serial for name, serial in disk_serials(host).items() if name in devices}
        small = small_disks(serials, sizes or {}, devices)
        if not small and all(match(serials, wanted).values()):
            break
        for name in small:
            host.poke(f"/sys/block/{name}/device/rescan", "1")
        if not rescanned and seconds - left >= min(2.0, seconds / 2) > 0:
            rescanned = True
            for name in host.listing("/sys/class/scsi_host"):
                host.poke(f"/sys/class/scsi_host/{name}/scan", "- - -")
    return serials, devices


# ---- looking ---------------------------------------------------------------------------------------------------------


def read_superblock(host: Host, device: str) -> Superblock | None:
    """Recognise ext4 and xfs from the disk itself: no process, and no cache of udev's that may be old."""
    try:
        descriptor = os.open(host.at(device), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        head = os.pread(descriptor, 4096, 0)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    if head[1080:1082] == b"\x53\xef":
        return _ext4(head)
    if head[:4] == b"XFSB":
        return _xfs(head)
    return None


def _ext4(head: bytes) -> Superblock:
    """ext4's superblock is at 1024: blocks at 4 (and 0x150 with the feature 64bit), log of their size at 24, features
    at 0x60 (incompat: 0x2000 is metadata_csum_seed) and 0x64 (ro_compat: 0x400 is metadata_csum)."""
    block = 1024 << min(int.from_bytes(head[1048:1052], "little"), 16)
    blocks = int.from_bytes(head[1028:1032], "little")
    if int.from_bytes(head[1120:1124], "little") & 0x80:
        blocks += int.from_bytes(head[1360:1364], "little") << 32
    seed = int.from_bytes(head[1120:1124], "little") & 0x2000
    sums = int.from_bytes(head[1124:1128], "little") & 0x400
    return Superblock(
        "ext4",
        _dashed(head[1128:1144]),
        size=blocks * block,
        block_bytes=block,
        sums_by_uuid=bool(sums and not seed),
    )


def _xfs(head: bytes) -> Superblock:
    """xfs: the size of a block at 4, blocks at 8, the log's start and length in blocks at 48 and 96 (start 0: it is
    elsewhere)."""
    block = int.from_bytes(head[4:8], "big")
    inside = int.from_bytes(head[48:56], "big") != 0
    return Superblock(
        "xfs",
        _dashed(head[32:48]),
        complete=len(head) > 126 and head[126] == 0,
        size=int.from_bytes(head[8:16], "big") * block,
        block_bytes=block,
        log_bytes=int.from_bytes(head[96:100], "big") * block if inside else 0,
    )


def _dashed(value: bytes) -> str:
    text = value.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def content_of(host: Host, device: str) -> str:
    """Why a disk is not blank: the signature that blkid's low-level probe finds, or bytes other than zero in its first
    or last MiB. "" when it is blank. A disk that cannot be read is not blank."""
    try:
        probe = host.run("blkid", "-p", "-o", "export", host.at(device), timeout=30.0)
    except CommandFailed as error:
        return f"could not be probed: {error}"
    if probe.status != 2:  # 2: nothing found; 0: something; 8: several things at once
        facts = dict(line.partition("=")[::2] for line in probe.output.splitlines() if "=" in line)
        kind = facts.get("TYPE") or facts.get("PTTYPE") or " ".join(probe.errors.split())[:200] or "something"
        return f"carries {kind}" + (f" {facts['UUID']}" if facts.get("UUID") else "")
    try:
        descriptor = os.open(host.at(device), os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.lseek(descriptor, 0, os.SEEK_END)
            for offset in (0, max(size - MIB, 0)):
                data = os.pread(descriptor, MIB, offset)
                if data.count(0) != len(data):
                    return f"has data near byte {offset + len(data) - len(data.lstrip(bytes(1)))}"
        finally:
            os.close(descriptor)
    except OSError as error:
        return f"could not be read: {error.strerror}"
    return "" if size >= 16 * MIB else f"has only {size} bytes"


# ---- formatting ------------------------------------------------------------------------------------------------------
#
# A format is marked on the server's own disk before it starts and until the new root directory has its mode. After a
# power cut in between, the mark says that the half-made file system is ours to make again; without it a disk that is
# not blank is never touched.


def format_marks(host: Host) -> dict[str, tuple[str, str]]:
    """Share id → serial and UUID of formats that were begun and not finished."""
    marks = {}
    for name in host.listing(MARKS):
        try:
            mark = json.loads(host.read(f"{MARKS}/{name}"))
            marks[name.removesuffix(".json")] = (str(mark["serial"]), str(mark["uuid"]))
        except (ValueError, KeyError, TypeError):
            continue
    return marks


def make_filesystem(host: Host, share: Share, disk: Disk) -> None:
    """Format a disk that the plan found blank, or that an interrupted format of ours left half-made. CommandFailed when
    it cannot be done or the result is not what was asked for."""
    mark = json.dumps({"serial": share.serial, "uuid": share.uuid})
    host.replace(f"{MARKS}/{share.id}.json", mark, 0o600)
    device = host.at(disk.device)
    command: tuple[str, ...]
    if share.filesystem == "ext4":
        # Inode tables are zeroed by the kernel later; no blocks reserved for a root user who is not there; discarding
        # would only read the map of a volume that is new.
        command = ("mkfs.ext4", "-q", "-F", "-U", share.uuid, "-m", "0", "-E", "lazy_itable_init=1,nodiscard", device)
    else:
        command = ("mkfs.xfs", "-q", "-f", "-K", "-m", f"uuid={share.uuid}", device)
    host.run(*command, timeout=FORMAT_SECONDS).check()
    found = read_superblock(host, disk.device)
    if found is None or found.uuid != share.uuid or found.type != share.filesystem:
        raise CommandFailed(f"{command[0]} ended well but {disk.device} does not carry {share.uuid}")


def finish_format(host: Host, share: Share) -> None:
    """Open a new file system's root directory to every user, once: from then on its mode is the tenant's."""
    path = host.at(share.path)
    os.chmod(path, 0o777)  # noqa: S103 - as the generic driver always did; the rules are the guard
    host.sync_directory(path)
    host.remove(f"{MARKS}/{share.id}.json")
    host.sync_directory(host.at(MARKS))
