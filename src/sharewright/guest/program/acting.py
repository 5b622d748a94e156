"""Doing what the plan says. One share's failure stops that share's actions and nobody else's."""

from __future__ import annotations

import json
import os
import time

from . import facts as observing
from .desired import Desired, Share, mount_path
from .exports import found_entries, wanted_entries
from .filesystems import MARKS, finish_format, make_filesystem, mount_options
from .firewall import SAVED, forbid_forwarding, load
from .host import CommandFailed, Host, polls
from .planning import Action, Plan, file_actions, make_plan

UNMOUNT_SECONDS = 10.0
FILE_ACTIONS = ("write_fstab", "write_exports", "start_nfs", "export")
FAILURES = {
    "format": "mkfs_failed",
    "mount": "mount_failed",
    "release": "mount_failed",
    "finish_format": "mount_failed",
}


class Outcome:
    """What became of an apply; :func:`state` turns it into guest/document.py's State."""

    __slots__ = ("acted", "busy", "changed", "export_error", "formatted", "timings", "unmounted")

    def __init__(self, *, acted: bool) -> None:
        self.acted = acted
        self.unmounted: list[str] = []
        self.busy: dict[str, str] = {}
        self.changed: list[str] = []
        self.formatted: set[str] = set()
        self.export_error = ""
        self.timings: dict[str, float] = {}

    def add_time(self, phase: str, started: float) -> None:
        self.timings[phase] = round(self.timings.get(phase, 0.0) + time.monotonic() - started, 4)


def apply(host: Host, desired: Desired) -> dict[str, object]:
    """Make the server what the document says; the answer's State. Call with the apply lock held."""
    outcome = Outcome(acted=True)
    started = time.monotonic()
    facts = observing.gather(host, desired, wait=True)
    outcome.add_time("observe", started)
    plan = make_plan(facts, desired)
    for action in plan.actions:
        if action.kind == "load_firewall":
            _timed(outcome, "firewall", host, action, desired)
    actions = [action for action in plan.actions if action.share is not None]
    for action in actions:
        if action.share_id not in plan.problems:
            _act_on_share(host, action, plan, outcome)
    if any(action.share_id in plan.problems for action in actions):
        failed = ({action.share_id for action in actions} & plan.problems.keys()) - plan.lasting
        plan.established = [share for share in plan.established if share.id not in failed]
        plan.actions = [action for action in plan.actions if action.kind not in FILE_ACTIONS]
        plan.actions += file_actions(facts, plan.established)
    for action in plan.actions:
        if action.kind in (*FILE_ACTIONS, "flush"):
            _timed(outcome, "exports", host, action, desired)
    for action in plan.actions:
        if action.kind in ("unmount", "remove_directory"):
            phase = time.monotonic()
            _take_away(host, action, outcome)
            outcome.add_time("unmount", phase)
    for share_id in facts.marks.keys() - {share.id for share in desired.shares}:
        host.remove(f"{MARKS}/{share_id}.json")
    outcome.timings["total"] = round(time.monotonic() - started, 4)
    return state(host, desired, plan, outcome)


def observe(host: Host, desired: Desired) -> dict[str, object]:
    """The State without changing anything; ``changed`` says what an apply would do."""
    outcome = Outcome(acted=False)
    started = time.monotonic()
    plan = make_plan(observing.gather(host, desired, wait=False), desired)
    outcome.changed = [action.words for action in plan.actions]
    outcome.add_time("total", started)
    return state(host, desired, plan, outcome)


def state(host: Host, desired: Desired, plan: Plan, outcome: Outcome) -> dict[str, object]:
    """What is there now, share by share."""
    mounts = observing.find_mounts(host)
    exported = found_entries(host.read(observing.ETAB))
    shares = []
    for share in desired.shares:
        error, message = plan.problems.get(share.id, ("", ""))
        mounted = share.id in mounts and mounts[share.id].alive and error in ("", "export_failed")
        wanted = wanted_entries([share])
        in_force = mounted and all(exported.get(entry) == options for entry, options in wanted.items())
        if mounted and not in_force and not error and outcome.acted:
            error, message = "export_failed", outcome.export_error or "The NFS server did not take all its rules over."
        total, used = observing.bytes_of(host, share.id) if mounted else (0, 0)
        shares.append(
            {
                "id": share.id,
                "mounted": mounted,
                "exported": in_force and bool(wanted),
                "formatted": share.id in outcome.formatted,
                "error": error,
                "message": message,
                "rule_errors": plan.rule_errors.get(share.id, {}),
                "bytes_total": total,
                "bytes_used": used,
            }
        )
    return {
        "generation": desired.generation,
        "shares": shares,
        "unmounted": outcome.unmounted,
        "busy": outcome.busy,
        "changed": outcome.changed,
        "timings": outcome.timings,
    }


def _act_on_share(host: Host, action: Action, plan: Plan, outcome: Outcome) -> None:
    started = time.monotonic()
    share, disk = action.share, action.disk
    try:
        if action.kind == "format" and share and disk:
            make_filesystem(host, share, disk)
            outcome.formatted.add(share.id)
        elif action.kind == "mount" and share and disk:
            mount(host, share, disk.device, disk.number)
        elif action.kind == "finish_format" and share:
            finish_format(host, share)
        elif action.kind == "release" and share:
            host.run("umount", host.at(share.path), timeout=UNMOUNT_SECONDS).check()
        outcome.changed.append(action.words)
    except (CommandFailed, OSError) as error:
        plan.problems[action.share_id] = (FAILURES[action.kind], f"To {action.words} failed: {error}")
    outcome.add_time(action.kind, started)


def mount(host: Host, share: Share, device: str, number: str) -> None:
    """Mount a disk and make sure that this disk, and not another, is what is mounted there."""
    os.makedirs(host.at(share.path), mode=0o755, exist_ok=True)
    made = host.run(
        "mount",
        "-t",
        share.filesystem,
        "-o",
        mount_options(share),
        host.at(device),
        host.at(share.path),
        timeout=60.0,
    )
    found = observing.find_mount(host, share.id)
    if found is None:
        made.check()
        raise CommandFailed(f"mount ended well but nothing is mounted at {share.path}")
    if found.number != number:
        raise CommandFailed(f"device {found.number} is mounted at {share.path}, not {device} ({number})")


def _timed(outcome: Outcome, phase: str, host: Host, action: Action, desired: Desired) -> None:
    started = time.monotonic()
    if action.kind == "load_firewall":
        forbid_forwarding(host)
        load(host, action.text)
        host.replace(SAVED, json.dumps({"firewall": desired.saved_firewall}), 0o600)
    elif action.kind == "write_fstab":
        host.replace("/etc/fstab", action.text)
    elif action.kind == "write_exports":
        host.replace("/etc/exports", action.text)
    else:
        try:
            if action.kind == "start_nfs":
                host.run("systemctl", "start", "nfs-server.service", timeout=60.0).check()
            elif action.kind == "flush":
                host.run("exportfs", "-f", timeout=30.0).check()
            else:
                # Its status speaks of all shares together; which of them suffered shows in etab.
                host.run("exportfs", "-ra", timeout=60.0).check()
        except CommandFailed as error:
            outcome.export_error = str(error)
            outcome.add_time(phase, started)
            return
    outcome.changed.append(action.words)
    outcome.add_time(phase, started)


# ---- taking away -----------------------------------------------------------------------------------------------------


def _take_away(host: Host, action: Action, outcome: Outcome) -> None:
    share_id = action.share_id
    try:
        if action.kind == "unmount":
            unmount(host, share_id, seconds=2.0 if outcome.busy else UNMOUNT_SECONDS)
            outcome.unmounted.append(share_id)
        try:
            os.rmdir(host.at(mount_path(share_id)))
        except FileNotFoundError:
            pass
        outcome.changed.append(action.words)
    except (CommandFailed, OSError) as error:
        if action.kind == "unmount" and share_id not in outcome.unmounted:
            outcome.busy[share_id] = str(error)


def unmount(host: Host, share_id: str, *, seconds: float) -> None:
    """Unmount a share that is no longer exported, for real (never lazily: the disk is detached next). CommandFailed
    when something still uses it after that time.

    The kernel's export caches are flushed first, which also closes the files that nfsd keeps open; then locks are
    dropped; what is left are files that NFSv4 clients hold open, and those clients' leases are ended.
    """
    path = mount_path(share_id)
    host.run("exportfs", "-f", timeout=30.0)
    reason = _try_unmount(host, share_id, seconds=seconds)
    if reason and not processes_in(host, path):
        # Nobody but the kernel's NFS server can hold it now. Starting that anew lets go of everything; clients of other
        # shares wait for the grace period and go on, because nfsdcld remembers them.
        seen = _kernel_view(host, path)
        host.run("systemctl", "restart", "nfs-server.service", timeout=60.0)
        reason = _try_unmount(host, share_id, seconds=seconds) and f"{reason} ({seen})"
    if reason:
        raise CommandFailed(f"{path} is in use: {reason} {holders(host, path)}")


def _try_unmount(host: Host, share_id: str, *, seconds: float) -> str:
    """ "" when it is unmounted and released, otherwise why not after that time."""
    path = mount_path(share_id)
    reason = "still mounted"
    started = time.monotonic()
    for left in polls(seconds, 0.5):
        found = observing.find_mount(host, share_id)
        if found is None:
            return ""
        done = host.run("umount", host.at(path), timeout=max(left, 1.0))
        if done.status == 0 and observing.find_mount(host, share_id) is None:
            _check_released(host, found.number, path)
            return ""
        reason = " ".join(done.errors.split())[-300:] or reason
        host.poke("/proc/fs/nfsd/unlock_filesystem", path)
        if time.monotonic() - started > 1.0:
            expire_clients(host, found.number)
        host.run("exportfs", "-f", timeout=30.0)
    return reason


def processes_in(host: Host, path: str) -> list[str]:
    """Processes that have a file or directory below a path open, in words."""
    found = []
    for process in host.listing("/proc"):
        if not process.isdigit():
            continue
        places = [f"/proc/{process}/{name}" for name in ("cwd", "root")]
        places += [f"/proc/{process}/fd/{name}" for name in host.listing(f"/proc/{process}/fd")]
        if any(_target(host, place).startswith(path) for place in places):
            found.append(f"process {process} ({host.read(f'/proc/{process}/comm').strip()})")
    return found


def _kernel_view(host: Host, path: str) -> str:
    """What the kernel's NFS server tells of a path, for people."""
    clients = [c for c in host.listing("/proc/fs/nfsd/clients") if host.read(f"/proc/fs/nfsd/clients/{c}/states")]
    caches = [f"/proc/net/rpc/{name}/content" for name in ("nfsd.export", "nfsd.fh")]
    cached = sum(path in line for cache in caches for line in host.read(cache).splitlines())
    inodes = host.read("/proc/fs/nfsd/filecache").partition("\n")[0].split()[-1:]
    return f"{len(clients)} NFS clients with open files, {cached} cache entries, {''.join(inodes) or 'no'} open inodes"


def holders(host: Host, path: str) -> str:
    """Who keeps a path in use, for people."""
    return f"({', '.join([*processes_in(host, path), _kernel_view(host, path)])})"


def _target(host: Host, link: str) -> str:
    try:
        return os.readlink(host.at(link))
    except OSError:
        return ""


def _check_released(host: Host, number: str, path: str) -> None:
    """That no other mount namespace holds the disk, and that all is on it: the cloud detaches it next."""
    name = os.path.basename(os.path.realpath(host.at(f"/sys/dev/block/{number}")))
    if not host.exists(f"/dev/{name}"):
        return  # the disk has gone already
    try:
        descriptor = os.open(host.at(f"/dev/{name}"), os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise CommandFailed(f"{path} is unmounted, but its disk is still in use: {error.strerror}") from error


def expire_clients(host: Host, number: str) -> int:
    """End the lease of every NFSv4 client that holds state on the file system with that major:minor; how many. They
    come back by themselves for their other shares. Kernels before 6.8 have no narrower way."""
    major, _, minor = number.partition(":")
    mark = f'superblock: "{int(major):02x}:{int(minor):02x}:'
    ended = 0
    for client in host.listing("/proc/fs/nfsd/clients"):
        if mark in host.read(f"/proc/fs/nfsd/clients/{client}/states"):
            ended += host.poke(f"/proc/fs/nfsd/clients/{client}/ctl", "expire\n")
    return ended
