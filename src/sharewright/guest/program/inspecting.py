"""What a machine lacks for serving shares, and what others have there: for an operator who is about to name it."""

from __future__ import annotations

import re

from . import borrowed
from .desired import Desired
from .host import Host, Refusal
from .samba import find_samba
from .smb import OWNER, OWNER_ID

PLACES = ("/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/local/bin")
PROGRAMS = (
    "blkid", "debugfs", "e2fsck", "exportfs", "fsfreeze", "mkfs.ext4", "mkfs.xfs", "mount", "resize2fs", "rpc.mountd",
    "rpc.nfsd", "systemctl", "tune2fs", "xfs_growfs",
)  # fmt: skip
SMB_PROGRAMS = ("net", "smbcontrol", "smbd", "smbpasswd", "smbstatus")
WANTS = "/etc/systemd/system/multi-user.target.wants"


def inspect(host: Host) -> dict[str, list[str]]:
    """``missing``: without it no share is served there. ``warnings``: what does not work, or not as well."""
    missing = [f"the program {name}" for name in PROGRAMS if not _has(host, name)]
    warnings = []
    try:
        borrowed.check(host, Desired("", 0, (), borrowed=True))
    except Refusal as refusal:
        missing.append(f"room beside what is there: {refusal.message} {refusal.hint}")
    if not host.exists("/proc/fs/nfsd") and not _has_module(host, "nfsd"):
        missing.append("a kernel with the NFS server (nfsd)")
    if not any(host.exists(f"{WANTS}/{unit}") for unit in ("nfs-server.service", "nfs-kernel-server.service")):
        warnings.append("The NFS server is not started at boot: systemctl enable nfs-server.")
    problem = _smb_problem(host)
    if problem:
        warnings.append(f"SMB shares cannot be served: {problem}")
    return {"missing": missing, "warnings": warnings}


def _smb_problem(host: Host) -> str:
    absent = [name for name in SMB_PROGRAMS if not _has(host, name)]
    if absent:
        return f"there is no {', '.join(absent)}."
    lines = {re.sub(r"\s", "", line).lower() for line in host.read(borrowed.SMB_CONF).splitlines()}
    if not lines & {"include=registry", "configbackend=registry"}:
        return f'Samba does not read its registry; put "include = registry" into [global] of {borrowed.SMB_CONF}.'
    found = find_samba(host)
    stranger = borrowed.stranger_account(found.passwd, found.group, OWNER, OWNER_ID)
    if stranger:
        return f"{stranger} has the number {OWNER_ID}, which the files of SMB shares have."
    return found.error or borrowed.samba_problem(host, found)


def _has(host: Host, name: str) -> bool:
    return any(host.exists(f"{place}/{name}") for place in PLACES)


def _has_module(host: Host, name: str) -> bool:
    release = host.read("/proc/sys/kernel/osrelease").strip()
    known = host.read(f"/lib/modules/{release}/modules.dep") + host.read(f"/lib/modules/{release}/modules.builtin")
    return re.search(rf"/{name}\.ko", known) is not None
