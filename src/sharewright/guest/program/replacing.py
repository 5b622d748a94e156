"""A share that was reverted: another disk takes the place of the one that is mounted.

The other disk holds what the share was at an earlier moment, so what clients have open there is void; who has nothing
open just goes on, because handles name the share and the file, and both are the same. SMB clients are disconnected, and
wait at the gate (leaving.py) until the other disk is there.
"""

from __future__ import annotations

from .borrowed import exports_file, has_foreign_exports
from .desired import Desired, Share
from .host import CommandFailed, Host
from .planning import Facts
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


def hold_clients(host: Host, shares: list[Share]) -> tuple[int | None, str]:
    """Let SMB clients wait who connect while their share is away, which else would be refused: a descriptor that lets
    them in again when it is closed, None when no share has such clients; and why it could not be done, or ""."""
    if not any(share.protocol == "CIFS" for share in shares):
        return None, ""
    from .leaving import close_gate  # late, as what is rare: it costs every call to load it

    try:
        return close_gate(host), ""
    except (CommandFailed, OSError) as error:
        return None, str(error)


def let_go(host: Host, share: Share, desired: Desired) -> str:
    """Unexport a share and unmount its old disk; why not, or "". Others are served meanwhile."""
    try:
        if share.protocol == "CIFS":
            _cut_off(host, share)
        file = exports_file(desired)
        lines = host.read(file).splitlines(keepends=True)
        kept = [line for line in lines if line.split(" ")[0] != share.path]
        if kept != lines:
            host.replace(file, "".join(kept))
            host.run("exportfs", "-ra", timeout=60.0).check()
        others = desired.borrowed and has_foreign_exports(host)
        unmount(host, share.id, seconds=UNMOUNT_SECONDS, restart=not others)
    except (CommandFailed, OSError) as error:
        return str(error)
    return ""


def _cut_off(host: Host, share: Share) -> None:
    """Who keeps the share all the same shows when it is unmounted, which also ends Samba's processes that do."""
    from .leaving import cut_off

    try:
        cut_off(host, share)
    except CommandFailed:
        pass
