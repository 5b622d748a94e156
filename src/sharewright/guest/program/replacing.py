"""A share that was reverted: another disk takes the place of the one that is mounted.

The other disk holds what the share was at an earlier moment, so what clients have open there is void; who has nothing
open just goes on, because handles name the share and the file, and both are the same.
"""

from __future__ import annotations

from .desired import Desired, Share
from .host import CommandFailed, Host
from .planning import Facts
from .smb import section_name
from .unmounting import UNMOUNT_SECONDS, unmount


def find_replaced(facts: Facts, desired: Desired) -> list[Share]:
    """Shares at whose place the disk is mounted that the document says they had before."""
    found = []
    for share in desired.shares:
        mount = facts.mounts.get(share.id)
        if mount is None or not mount.alive or not share.replaces:
            continue
        if mount.number in {disk.number for disk in facts.disks.get(share.replaces, [])}:
            found.append(share)
    return found


def let_go(host: Host, share: Share) -> str:
    """Unexport a share and unmount its old disk; why not, or "". Others are served meanwhile."""
    try:
        if share.protocol == "CIFS":
            _close_section(host, section_name(share.id))
        lines = host.read("/etc/exports").splitlines(keepends=True)
        kept = [line for line in lines if line.split(" ")[0] != share.path]
        if kept != lines:
            host.replace("/etc/exports", "".join(kept))
            host.run("exportfs", "-ra", timeout=60.0).check()
        unmount(host, share.id, seconds=UNMOUNT_SECONDS)
    except (CommandFailed, OSError) as error:
        return str(error)
    return ""


def _close_section(host: Host, name: str) -> None:
    """The plan that follows writes it again."""
    if host.run("net", "conf", "showshare", name, timeout=30.0).status == 0:
        host.run("net", "conf", "delshare", name, timeout=30.0).check()
    host.run("smbcontrol", "all", "close-share", name, timeout=30.0)
