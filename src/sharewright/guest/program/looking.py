"""What a disk carries that is to become a share's and is not yet: somebody's data. It is only read."""

from __future__ import annotations

from .desired import FILESYSTEMS, UUID
from .filesystems import disk_serials, match, read_superblock
from .host import CommandFailed, Host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

HOLDERS = "holders"


def look(host: Host, serials: Sequence[str]) -> dict[str, dict[str, str]]:
    """Serial → guest/document.py's Found."""
    names = match(disk_serials(host), serials)
    return {serial: _look(host, serial, names[serial]) for serial in serials}


def _look(host: Host, serial: str, names: list[str]) -> dict[str, str]:
    if len(names) != 1:
        several = f"Several disks have the serial {serial}: {', '.join(names)}." if names else ""
        return _failure("device_missing", several or f"No disk with serial {serial} appeared.")
    device = f"/dev/{names[0]}"
    if host.listing(f"/sys/block/{names[0]}/{HOLDERS}"):
        return _failure("no_filesystem", f"{device} is part of something else.")
    try:
        probe = host.run("blkid", "-p", "-o", "export", host.at(device), timeout=30.0)
    except CommandFailed as error:
        return _failure("no_filesystem", f"{device} could not be probed: {error}")
    if probe.status == 2:
        return _failure("no_filesystem", f"{device} carries no file system.")
    facts = dict(line.partition("=")[::2] for line in probe.output.splitlines() if "=" in line)
    if probe.status != 0 or "TYPE" not in facts:
        kind = facts.get("PTTYPE") and f"a partition table ({facts['PTTYPE']})"
        return _failure("no_filesystem", f"{device} carries {kind or 'several things at once'}.")
    if facts["TYPE"] not in FILESYSTEMS:
        return _failure("no_filesystem", f"{device} carries {facts['TYPE']}, which is not {' or '.join(FILESYSTEMS)}.")
    if not UUID.fullmatch(facts.get("UUID", "")):  # a UUID of zeros is none to blkid either
        return _failure("no_filesystem", f"The {facts['TYPE']} on {device} has no UUID.")
    # Shares are found by what the disk's own first sectors say, so these have to say the same.
    found = read_superblock(host, device)
    if found is None or found.type != facts["TYPE"] or found.uuid != facts["UUID"] or not found.complete:
        return _failure("no_filesystem", f"{device} carries a broken {facts['TYPE']}.")
    return {"type": found.type, "uuid": found.uuid, "error": "", "message": ""}


def _failure(error: str, message: str) -> dict[str, str]:
    return {"type": "", "uuid": "", "error": error, "message": message}
