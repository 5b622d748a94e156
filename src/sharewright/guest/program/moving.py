"""A share that moves to another, smaller disk while clients use it.

Its files are copied with their inode numbers (:mod:`copying`) by a process of its own, in passes, until one is short
enough to be done while clients wait. Then, in one apply: the NFS server stops, or SMB clients are parted from the share
(:mod:`leaving`); what has changed is copied; the copy is checked and compared; the old file system is unmounted;
/etc/fstab names the new one; and the copy gets the identity that the document gives to the share's next file system, in
one write. That write is the switch. From then on, wherever the two disks are attached, the new one is served; before
it, the old one is. NFS clients with hard mounts wait, and go on with the handles, open files and locks that they had;
SMB clients connect again.
"""

from __future__ import annotations

import errno
import json
import os
import time

from . import facts as observing
from .desired import Desired, Share, Successor, mount_path
from .ext4 import (
    DoesNotFit,
    check_free,
    finish,
    inodes_of_copy,
    make_copy,
    read_geometry,
    write_identities,
    write_uuid,
)
from .filesystems import MOUNT_OPTIONS, Disk, content_of, read_superblock
from .fstab import fstab_line, is_line_of, split_fstab
from .host import MOVES, PROGRAM, STATE, CommandFailed, Host, Refusal, polls
from .planning import Facts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .copying import Pass

BEGUN = f"{STATE}/copies"  # formats of copies that were begun
MOST_PASSES = 12
STOP_SECONDS = 10.0
_MARGIN = 16 * 1024 * 1024


class Move:
    """What became of a share's move, in guest/document.py's words."""

    __slots__ = ("message", "state")

    def __init__(self, state: str, message: str = "") -> None:
        self.state = state
        self.message = message


# ---- in an apply -----------------------------------------------------------------------------------------------------


def settle(host: Host, desired: Desired, facts: Facts, *, act: bool) -> tuple[Desired, Facts]:
    """The document with each share on the disk that it has to be served from, and what is there. ``act``: make the
    switches that the document asks for."""
    if act:
        for share in desired.shares:
            if share.protocol == "CIFS" and share.successor is not None and not _has_moved(share, facts):
                from .leaving import resume

                resume(host, share)
        switched = [_switch_if_ready(host, share, facts) for share in desired.shares if share.successor is not None]
        if any(switched):
            facts = observing.gather(host, desired, wait=True)
    shares = tuple(share.moved() if _has_moved(share, facts) else share for share in desired.shares)
    return desired.with_shares(shares), facts


def _has_moved(share: Share, facts: Facts) -> bool:
    new = share.successor
    if new is None:
        return False
    found = [disk.superblock for disk in facts.disks.get(new.serial, []) if disk.superblock is not None]
    if found:
        return any(superblock.uuid == new.uuid for superblock in found)
    # The disk that may be the share's is missing or cannot be read. Only this VM's own fstab, which names the new one
    # before the switch, can tell that it is not; to serve the old one by mistake would lose what was written since.
    named = is_line_of(split_fstab(facts.fstab)[1].get(share.id, ""), share)
    return new.step != "copy" and not named


def tasks(host: Host, desired: Desired) -> list[Share]:
    """Shares whose copying has to be started: it is new, it was killed, or more has to be copied before a switch."""
    wanted = []
    for share in desired.shares:
        if share.successor is not None and not share.has_moved:
            state, step = move_of(host, share).state, share.successor.step
            if state == "" or (state in ("late", "in_use") and step == "copy"):
                wanted.append(share)
    return wanted


def start(host: Host, share: Share, facts: Facts) -> None:
    """Start copying; CommandFailed when the new disk is not there."""
    new = share.successor
    disks = facts.disks.get(new.serial, []) if new is not None else []
    if new is None or len(disks) != 1:
        raise CommandFailed("no disk, or several, with the serial of the new one")
    job = {
        "share": share.id,
        "device": disks[0].device,
        "serial": new.serial,
        "uuid": new.uuid,
        "copy_uuid": new.copy_uuid,
        "size": new.size,
        "stall": new.stall,
    }
    host.start(host.at(PROGRAM), "copy", json.dumps(job))


def clean(host: Host, desired: Desired) -> None:
    """Stop what the document does not ask for any more. What does not end is tried again with the next document; it can
    do no harm, since it only writes to a disk that is thrown away."""
    wanted = {
        share.id: share.successor.uuid
        for share in desired.shares
        if share.successor is not None and share.successor.step != "cancel"
    }
    for name in host.listing(MOVES):
        share_id = name.removesuffix(".json")
        if name.endswith(".json") and wanted.get(share_id) != _read_note(host, share_id).get("uuid"):
            try:
                stop(host, share_id)
            except (CommandFailed, OSError):
                continue
    for name in host.listing(BEGUN):
        if name not in wanted:
            host.remove(f"{BEGUN}/{name}")
    if not host.listing(MOVES) and host.exists(MOVES):
        os.rmdir(host.at(MOVES))


def stop(host: Host, share_id: str) -> None:
    """End a share's copying and let go of its new disk. CommandFailed when it does not end."""
    import signal

    for number in (signal.SIGTERM, signal.SIGKILL):
        process = _read_note(host, share_id).get("process")
        if not _is_copying(host, share_id) or not isinstance(process, int):
            break
        os.kill(process, number)
        for _ in polls(STOP_SECONDS, 0.1):
            if not _is_copying(host, share_id):
                break
    if _is_copying(host, share_id):
        raise CommandFailed(f"the copying of share {share_id} does not end")
    _release(host, share_id)
    if host.exists(f"{MOVES}/{share_id}"):
        os.rmdir(host.at(f"{MOVES}/{share_id}"))
    host.remove(f"{MOVES}/{share_id}.json")


def move_of(host: Host, share: Share) -> Move:
    """How far the move of a share is."""
    new = share.successor
    if new is None:
        return Move("")
    if share.has_moved:
        return Move("moved")
    if new.step == "cancel":
        return Move("stopped")
    noted = _noted(host, share.id, new)
    state, message = str(noted.get("state", "")), str(noted.get("message", ""))
    if state == "copying" and not _is_copying(host, share.id):
        return Move("")  # it was killed
    return Move(state, message)


# ---- the switch ------------------------------------------------------------------------------------------------------


def _switch_if_ready(host: Host, share: Share, facts: Facts) -> bool:
    """Whether a switch was tried; its failure is noted as ``late``, that clients have files open as ``in_use``."""
    new = share.successor
    if new is None or new.step != "switch" or _has_moved(share, facts) or move_of(host, share).state != "ready":
        return False
    from .leaving import InUse

    try:
        switch(host, share, new, facts)
    except InUse as error:
        _note(host, share.id, new.uuid, "in_use", str(error))
    except (CommandFailed, OSError) as error:
        _note(host, share.id, new.uuid, "late", str(error))
    return True


def switch(host: Host, share: Share, new: Successor, facts: Facts) -> None:
    """CommandFailed or OSError when nothing was switched; the plan that follows serves the old disk again. InUse when
    no client has noticed anything."""
    old_disks, new_disks = facts.disks.get(share.serial, []), facts.disks.get(new.serial, [])
    mount = facts.mounts.get(share.id)
    if len(old_disks) != 1 or len(new_disks) != 1 or mount is None or mount.number != old_disks[0].number:
        raise CommandFailed("the old and the new disk are not both there")
    lock = host.lock(f"copy-{share.id}", timeout=STOP_SECONDS)
    try:
        if share.protocol == "CIFS":
            _switch_smb(host, share, new, old_disks[0], new_disks[0])
        else:
            _switch_disks(host, share, new, old_disks[0], new_disks[0])
    finally:
        try:
            _release(host, share.id)
        finally:
            os.close(lock)  # else this process would hold it, and the share would be copied no more


def _switch_smb(host: Host, share: Share, new: Successor, old_disk: Disk, new_disk: Disk) -> None:
    """Other shares of Samba's are served meanwhile, those of the same clients too."""
    from .acting import mount  # late: it imports this module
    from .leaving import close_gate, forbid_writing, part, resume

    gate = close_gate(host)
    try:
        try:
            part(host, share)
            forbid_writing(host, share)
            _switch_disks(host, share, new, old_disk, new_disk)
        except (CommandFailed, OSError):
            found = read_superblock(host, new_disk.device)
            if found is not None and found.uuid != new.uuid:
                if observing.find_mount(host, share.id) is None:
                    mount(host, share, old_disk.device, old_disk.number)
                resume(host, share)
            raise
        mount(host, share.moved(), new_disk.device, new_disk.number)
    finally:
        os.close(gate)  # who waits there would be refused while nothing is mounted


def _switch_disks(host: Host, share: Share, new: Successor, old_disk: Disk, new_disk: Disk) -> None:
    from .copying import compare  # late: it needs ctypes, which the images of others may lack

    device, place = new_disk.device, f"{MOVES}/{share.id}"
    end = time.monotonic() + new.stall

    def left() -> float:
        seconds = end - time.monotonic()
        if seconds <= 0:
            raise CommandFailed(f"the switch did not end within {new.stall:g} s")
        return seconds

    if share.protocol == "NFS":
        host.run("systemctl", "stop", "nfs-server.service", timeout=left()).check()
    last = _pass(host, share.id, device, still=True, seconds=left())
    if not last.settled:
        raise CommandFailed("something other than its clients changes the share")
    write_identities(host, device, last.fix, seconds=left())
    finish(host, device, seconds=left())
    _mount(host, device, place, "ro,noatime")
    compare(host.at(share.path), host.at(place))
    left()
    _release(host, share.id)
    host.run("umount", host.at(share.path), timeout=left()).check()
    check_free(host, old_disk.device)
    left()
    foreign, ours = split_fstab(host.read("/etc/fstab"))
    lines = {**ours, share.id: fstab_line(share.moved())}
    host.replace("/etc/fstab", "".join(f"{line}\n" for line in [*foreign, *lines.values()]))
    write_uuid(host, device, new.uuid, seconds=30.0)


# ---- the copying process ---------------------------------------------------------------------------------------------


def main(host: Host, text: str) -> int:
    """``sharewright-guest copy``: make a share's copy until it can be switched to; how it went is noted."""
    job = json.loads(text)
    share_id, uuid = str(job["share"]), str(job["uuid"])
    try:
        lock = host.lock(f"copy-{share_id}", timeout=0.0)
    except Refusal:
        return 0  # another one does it
    try:
        os.setpriority(os.PRIO_PROCESS, 0, 10)
        _note(host, share_id, uuid, "copying", process=os.getpid())
        try:
            message = copy(host, job)
            _note(host, share_id, uuid, "ready", message, process=os.getpid())
        except DoesNotFit as error:
            _note(host, share_id, uuid, "does_not_fit", str(error), process=os.getpid())
        except ImportError as error:
            _note(host, share_id, uuid, "failed", f"the service image lacks a part of Python: {error}")
        except (CommandFailed, OSError) as error:
            full = isinstance(error, OSError) and error.errno == errno.ENOSPC
            _note(host, share_id, uuid, "does_not_fit" if full else "failed", str(error), process=os.getpid())
    finally:
        _release(host, share_id)
        os.close(lock)
    return 0


def copy(host: Host, job: dict[str, object]) -> str:
    """Copy in passes until one is short enough; returns what it was like, in words. DoesNotFit, CommandFailed,
    OSError."""
    share_id, device = str(job["share"]), str(job["device"])
    stall = float(str(job["stall"]))
    _release(host, share_id)
    _ensure_filesystem(host, job)
    number = 0
    while number < MOST_PASSES:
        started = time.monotonic()
        done = _pass(host, share_id, device)
        write_identities(host, device, done.fix, seconds=900.0)
        if done.partial:
            continue
        number += 1
        seconds = time.monotonic() - started
        if seconds <= stall / 3:  # checking and comparing take as long once more
            return f"{number} passes; the last copied {done.bytes} bytes in {seconds:.1f} s"
    raise CommandFailed(
        f"there is more to copy than fits into a stall of {stall:g} s: after {number} passes one took {seconds:.0f} s"
    )


def _ensure_filesystem(host: Host, job: dict[str, object]) -> None:
    """Format the new disk, if it is blank; go on with a copy that was begun on it."""
    share_id, device, uuid = str(job["share"]), str(job["device"]), str(job["copy_uuid"])
    original = read_geometry(host, _device_of(host, share_id))
    inodes = inodes_of_copy(original, int(str(job["size"])))
    found = read_superblock(host, device)
    ours = found is not None and found.uuid == uuid
    if ours and not read_geometry(host, device).checksums:
        return
    mark, begun = f"{BEGUN}/{share_id}", f"{job['serial']} {uuid}"
    if not ours and (found is not None or host.read(mark) != begun):
        content = content_of(host, device)
        if content:
            raise CommandFailed(f"the new disk {device} should be blank but {content}; it was left untouched")
    host.replace(mark, begun, 0o600)
    make_copy(host, device, uuid, original, inodes)
    host.remove(mark)


def _pass(host: Host, share_id: str, device: str, *, still: bool = False, seconds: float | None = None) -> Pass:
    from .copying import Pass  # late: it needs ctypes, which the images of others may lack

    path, place = mount_path(share_id), f"{MOVES}/{share_id}"
    _mount(host, device, place, MOUNT_OPTIONS)
    try:
        before, now = os.statvfs(host.at(path)), os.statvfs(host.at(place))
        used, room = (before.f_blocks - before.f_bfree) * before.f_frsize, now.f_blocks * now.f_frsize
        if used + used // 64 + _MARGIN > room:
            raise DoesNotFit(f"{used} bytes are in use; the new file system has room for {room}")
        goal = host.at(f"/sys/fs/ext4/{os.path.basename(device)}/inode_goal")
        made = Pass(host.at(path), host.at(place), inodes=now.f_files, goal=goal, still=still, seconds=seconds)
        made.run()
    finally:
        _release(host, share_id)
    return made


# ---- small things ----------------------------------------------------------------------------------------------------


def _mount(host: Host, device: str, place: str, options: str) -> None:
    os.makedirs(host.at(place), mode=0o700, exist_ok=True)
    host.run("mount", "-t", "ext4", "-o", options, host.at(device), host.at(place), timeout=60.0).check()


def _release(host: Host, share_id: str) -> None:
    """Unmount the copy, if it is mounted."""
    place = f"{MOVES}/{share_id}"
    if any(line.split(" ")[4:5] == [place] for line in host.read("/proc/self/mountinfo").splitlines()):
        host.run("umount", host.at(place), timeout=120.0).check()


def _device_of(host: Host, share_id: str) -> str:
    mount = observing.find_mount(host, share_id)
    if mount is None or not mount.alive:
        raise CommandFailed(f"share {share_id} is not mounted")
    return f"/dev/{os.path.basename(os.path.realpath(host.at(f'/sys/dev/block/{mount.number}')))}"


def _is_copying(host: Host, share_id: str) -> bool:
    try:
        os.close(host.lock(f"copy-{share_id}", timeout=0.0))
    except Refusal:
        return True
    return False


def _note(host: Host, share_id: str, uuid: str, state: str, message: str = "", *, process: int | None = None) -> None:
    text = json.dumps({"uuid": uuid, "state": state, "message": message, "process": process})
    host.replace(f"{MOVES}/{share_id}.json", text, 0o600)


def _noted(host: Host, share_id: str, new: Successor) -> dict[str, object]:
    noted = _read_note(host, share_id)
    return noted if noted.get("uuid") == new.uuid else {}


def _read_note(host: Host, share_id: str) -> dict[str, object]:
    try:
        noted = json.loads(host.read(f"{MOVES}/{share_id}.json"))
    except ValueError:
        return {}
    return noted if isinstance(noted, dict) else {}
