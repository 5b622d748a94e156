"""What is there: read from the kernel's files, with no process unless a disk may have to be formatted."""

from __future__ import annotations

import json
from functools import lru_cache

from . import borrowed
from .desired import Desired, Share, share_of
from .filesystems import (
    Device,
    Disk,
    content_of,
    format_marks,
    match,
    read_superblock,
    small_disks,
    wait_for_disks,
)
from .firewall import interfaces, loaded_text
from .fstab import find_link
from .growing import filesystem_size
from .host import RUN, SHARES, Host
from .planning import Facts, Mount
from .samba import find_samba, was_used
from .smb import OWNER, OWNER_ID, Samba

ETAB = "/var/lib/nfs/etab"
MISSED = f"{RUN}/missed.json"
MISSED_SECONDS = 3.0


def gather(host: Host, desired: Desired, *, wait: bool) -> Facts:
    """The facts that planning needs. ``wait``: up to the document's device_timeout for disks to appear."""
    shares = _with_moved(desired)
    serials, devices = await_disks(host, desired, shares, wait=wait)
    mounts = find_mounts(host)
    places = {share_id for name in host.listing(SHARES) if (share_id := share_of(f"{SHARES}/{name}")) is not None}
    etab = host.read(ETAB)
    if desired.borrowed:
        places &= borrowed.known_shares(host, desired)
        etab = "".join(line for line in etab.splitlines(keepends=True) if share_of(line.partition("\t")[0]))
    return Facts(
        disks=look_at_disks(host, shares, serials, devices, mounts),
        mounts=mounts,
        directories=frozenset(places),
        fstab=host.read("/etc/fstab"),
        exports=host.read(borrowed.exports_file(desired)),
        etab=etab,
        nfs_running=nfs_running(host),
        firewall=loaded_text(host) if desired.firewall is not None else None,
        nics=interfaces(host) if desired.firewall is not None else {},
        marks=format_marks(host),
        samba=samba_of(host, desired) if _needs_samba(host, desired) else None,
    )


def samba_of(host: Host, desired: Desired) -> Samba:
    """What is there of Samba; nothing is known where it is not ours to use."""
    found = find_samba(host)
    if desired.borrowed and not found.error:
        stranger = borrowed.stranger_account(found.passwd, found.group, OWNER, OWNER_ID)
        if stranger:
            found.error = f"{stranger} has the number {OWNER_ID}, which the files of SMB shares have."
        found.error = found.error or borrowed.samba_problem(host, found)
    return found


def _needs_samba(host: Host, desired: Desired) -> bool:
    used = borrowed.read_journal(host).smb if desired.borrowed else was_used(host)
    return used or any(share.protocol == "CIFS" for share in desired.shares)


def await_disks(
    host: Host, desired: Desired, shares: list[Share], *, wait: bool
) -> tuple[dict[str, str], dict[str, Device]]:
    """Disk name → serial, and what the kernel knows of each, once the shares' are all there or the time is over.

    A disk that a whole wait already missed in this boot, or its growth, is waited for only shortly, or one lost volume
    would delay every change to the other shares.
    """
    wanted = [*(share.serial for share in shares), *desired.look]
    sizes = dict.fromkeys(desired.look, 0) | {share.serial: share.size for share in shares}
    seconds = desired.device_timeout if wait else 0.0
    missed = _missed(host)
    serials: dict[str, str] = {}
    devices: dict[str, Device] = {}
    fresh = [serial for serial in wanted if serial not in missed]
    if fresh or not wanted:
        awaited = {serial: sizes[serial] for serial in fresh}
        serials, devices = wait_for_disks(host, fresh, seconds=seconds, sizes=awaited)
    if len(fresh) < len(wanted):
        serials, devices = wait_for_disks(host, wanted, seconds=min(seconds, MISSED_SECONDS), sizes=sizes)
    if wait:
        small = {serials[name] for name in small_disks(serials, sizes, devices)}
        still = sorted(serial for serial, names in match(serials, wanted).items() if not names or serial in small)
        if still != missed:
            host.replace(MISSED, json.dumps(still), 0o600)
    return serials, devices


def look_at_disks(
    host: Host, shares: list[Share], serials: dict[str, str], devices: dict[str, Device], mounts: dict[str, Mount]
) -> dict[str, list[Disk]]:
    """Serial → disks, with what a format would destroy where the document asks for one."""
    found = {}
    names = match(serials, [each for share in shares for each in (share.serial, share.replaces) if each])
    for share in shares:
        mount = mounts.get(share.id)
        found[share.serial] = [_disk(host, name, devices[name], share, mount) for name in names[share.serial]]
        if share.replaces:
            found[share.replaces] = [_any_disk(host, name, devices[name]) for name in names[share.replaces]]
        for disk in found[share.serial]:
            disk.filesystem_size = filesystem_size(host, share, disk)
            if share.by_serial:
                disk.link = find_link(host, disk.device, share.serial)
    return found


def _with_moved(desired: Desired) -> list[Share]:
    """All shares, those that move to another disk also as they will be there."""
    return [*desired.shares, *(share.moved() for share in desired.shares if share.successor is not None)]


def _missed(host: Host) -> list[str]:
    try:
        return [str(serial) for serial in json.loads(host.read(MISSED) or "[]")]
    except (ValueError, TypeError):
        return []


def _any_disk(host: Host, name: str, known: Device) -> Disk:
    return Disk(f"/dev/{name}", known.number, read_superblock(host, f"/dev/{name}"), size=known.size)


def _disk(host: Host, name: str, known: Device, share: Share, mount: Mount | None) -> Disk:
    """The disk of a share; that of a share that is served is read once, and again when it has grown."""
    device = f"/dev/{name}"
    line = mount.line if mount is not None and mount.alive and mount.number == known.number else ""
    superblock = host.memory.superblock(name, share.uuid, known.size, line) if line else None
    if superblock is None:
        superblock = read_superblock(host, device)
        if line and superblock is not None and superblock.complete:
            host.memory.keep_superblock(name, known.size, line, superblock)
    content = None
    if share.create and (superblock is None or superblock.uuid != share.uuid):
        content = content_of(host, device)
    return Disk(device, known.number, superblock, content, size=known.size)


def find_mounts(host: Host) -> dict[str, Mount]:
    """Share id → what is mounted at its place; of several on top of each other the uppermost."""
    mounts = {}
    alive = host.entries("/sys/dev/block")
    for line in host.read("/proc/self/mountinfo").splitlines():
        read = _read_mount(line)
        if read is not None:
            share_id, number, read_only = read
            mounts[share_id] = Mount(number, alive=number in alive, read_only=read_only, line=line)
    return mounts


@lru_cache(maxsize=4096)  # the lines of other shares stay as they are from one call to the next
def _read_mount(line: str) -> tuple[str, str, bool] | None:
    """Of a share's mount: its id, major:minor, and whether it is read-only (proc(5))."""
    fields = line.split(" ")
    share_id = share_of(fields[4]) if len(fields) > 5 else None
    return (share_id, fields[2], "ro" in fields[5].split(",")) if share_id is not None else None


def find_mount(host: Host, share_id: str) -> Mount | None:
    return find_mounts(host).get(share_id)


def nfs_running(host: Host) -> bool:
    return host.read("/proc/fs/nfsd/threads").strip() not in ("", "0")
