"""SMB clients leave a share for the moment in which its disk is changed, and come back by themselves.

Samba gives nobody his open files back after a connection was lost: for durable handles locks and share modes would have
to be Samba's own affair, not the kernel's, and clients that ask for none would lose theirs all the same. So nobody
is parted from an open file. Who has none open is disconnected and connects again, which clients do unasked; meanwhile
new connections to shares wait at the gate, a lock that ``root preexec`` of every section takes (smb.py).

Directories may be open: no data depend on such a handle, and a window that shows one has it open all day.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat

from .desired import Share
from .host import SHARES, CommandFailed, Host, polls
from .samba import connections
from .smb import GATE, section_name

GATE_SECONDS = 10.0
OPEN_SECONDS = 3.0  # clients close their files up to a second after their programs did
SETTLE_SECONDS = 1.0  # for who was through the gate already when it closed
STOP_SECONDS = 2.0
LEAVE_SECONDS = 5.0
_NAMES = 3  # open files that are named


class InUse(CommandFailed):
    """Clients have files open; nothing was done to them."""


def close_gate(host: Host) -> int:
    """From now on new connections to SMB shares wait; returns the lock's descriptor, which opens the gate again when it
    is closed, or this process dies."""
    os.makedirs(os.path.dirname(host.at(GATE)), mode=0o755, exist_ok=True)
    descriptor = os.open(host.at(GATE), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for _ in polls(GATE_SECONDS, 0.05):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        return descriptor
    os.close(descriptor)
    raise CommandFailed("new SMB connections did not let anybody close the gate")


def part(host: Host, share: Share) -> None:
    """Disconnect everybody from a share that nobody has files open on; call with the gate closed. InUse when somebody
    has; CommandFailed when a process of Samba does not let go."""
    _await_closed(host, share)
    _disconnect(host, share, sparing=True)


def cut_off(host: Host, share: Share) -> None:
    """Disconnect everybody from a share, whatever they have open there; call with the gate closed. CommandFailed when
    a process of Samba does not let go."""
    _disconnect(host, share, sparing=False)


def _disconnect(host: Host, share: Share, *, sparing: bool) -> None:
    """The client's connection is ended, not only its use of the share: Linux's client connects again after a lost
    connection, but up to 6.2 it takes no share up again that was closed for it alone."""
    connected = _connected(host, share)
    there = sorted({*connected.values(), *_processes_in(host, share.path)})
    elsewhere: list[str] = []
    if there:
        try:
            _stop(host, there)
            open_files = _open_files(host, there, share.path) if sparing else []
            if open_files:
                raise InUse(_words(open_files, share.path))
            elsewhere = [process for process in there if has_files_elsewhere(host, process, [share.path])]
            for process in elsewhere:  # its client has files of other shares open: only this share is closed
                host.run("smbcontrol", process, "close-share", section_name(share.id), timeout=10.0)
            # Never asked to end, which would let it do what its client has asked for meanwhile.
            _signal(host, "KILL", [process for process in there if process not in elsewhere])
        finally:
            _signal(host, "CONT", [process for process in there if host.exists(f"/proc/{process}")])
    for _ in polls(LEAVE_SECONDS, 0.2):
        # Who has connected since waits at the gate, and Samba counts him already.
        left = {*_processes_in(host, share.path), *(set(_smbd(host)) & set(there) - set(elsewhere))}
        if not left and not connected.keys() & _connected(host, share).keys():
            return
    raise CommandFailed("a process of Samba does not let go of the share")


def has_files_elsewhere(host: Host, process: str, paths: list[str]) -> bool:
    """Whether a process of Samba has files of shares open, directories aside, that are not below these paths."""
    open_files = _open_files(host, [process], f"{SHARES}/")
    return any(not any(_is_below(file, path) for path in paths) for file in open_files)


def forbid_writing(host: Host, share: Share) -> None:
    """Whoever was overlooked is told that it cannot be written, rather than lose what he writes. CommandFailed when
    somebody writes."""
    host.run("mount", "-o", "remount,ro", host.at(share.path), timeout=30.0).check()


def resume(host: Host, share: Share) -> None:
    """Undo what was done to a share that is served as before: by an earlier call, too, that was killed."""
    stopped = [process for process in _smbd(host) if _is_stopped(host, process)]
    _signal(host, "CONT", stopped)
    for line in host.read("/proc/self/mountinfo").splitlines():
        fields = line.split(" ")
        if fields[4:5] == [share.path] and "ro" in fields[5].split(","):
            host.run("mount", "-o", "remount,rw", host.at(share.path), timeout=30.0)


# ---- parts -----------------------------------------------------------------------------------------------------------


def _await_closed(host: Host, share: Share) -> None:
    """Wait a little for files to be closed, and in any case until who is connecting has connected."""
    open_files: list[str] = []
    for left in polls(OPEN_SECONDS, 0.2):
        open_files = _open_files(host, _smbd(host), share.path)
        if not open_files and left <= OPEN_SECONDS - SETTLE_SECONDS:
            return
    if open_files:
        raise InUse(_words(open_files, share.path))


def _words(files: list[str], path: str) -> str:
    names = ", ".join(_quoted(name.removeprefix(f"{path}/")) for name in files[:_NAMES])
    more = f" and {len(files) - _NAMES} more" if len(files) > _NAMES else ""
    return f"SMB clients have files open: {names}{more}"


def _quoted(name: str) -> str:
    """A name that a tenant chose, for people: without control characters, and not endless."""
    return json.dumps(name[:80].encode(errors="replace").decode())


def _connected(host: Host, share: Share) -> dict[str, str]:
    """Connections to a share → the processes of Samba that serve them."""
    name = section_name(share.id)
    try:
        return {each.id: each.pid for each in connections(host) if each.share == name}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CommandFailed(f"Samba does not say who is connected: {error}") from error


def _smbd(host: Host) -> list[str]:
    return [
        process
        for process in host.listing("/proc")
        if process.isdigit() and host.read(f"/proc/{process}/comm").startswith("smbd")
    ]


def _processes_in(host: Host, path: str) -> list[str]:
    """Processes of Samba that have something below a path open, or stand there. Who is connected need not."""
    found = []
    for process in _smbd(host):
        places = [f"/proc/{process}/cwd", *_descriptors(host, process)]
        if any(_is_below(_target(host, place), path) for place in places):
            found.append(process)
    return found


def _open_files(host: Host, processes: list[str], path: str) -> list[str]:
    """What is open below a path, directories aside. What cannot be looked at counts."""
    found = set()
    for process in processes:
        for place in _descriptors(host, process):
            target = _target(host, place)
            if _is_below(target, path) and not _is_directory(host, place):
                found.add(target)
    return sorted(found)


def _descriptors(host: Host, process: str) -> list[str]:
    return [f"/proc/{process}/fd/{name}" for name in host.listing(f"/proc/{process}/fd")]


def _target(host: Host, link: str) -> str:
    try:
        return host.bare(os.readlink(host.at(link)))
    except OSError:
        return ""


def _is_below(target: str, path: str) -> bool:
    return target == path or target.startswith(path.rstrip("/") + "/")


def _is_directory(host: Host, place: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(host.at(place)).st_mode)
    except OSError:
        return False


def _stop(host: Host, processes: list[str]) -> None:
    _signal(host, "STOP", processes)
    for _ in polls(STOP_SECONDS, 0.02):
        if all(_is_stopped(host, process) for process in processes):
            return
    raise CommandFailed("a process of Samba does not stand still")


def _is_stopped(host: Host, process: str) -> bool:
    """proc(5): the state follows the name, which is in parentheses; what has gone stands still, too."""
    state = host.read(f"/proc/{process}/stat").rpartition(")")[2].split()[:1]
    return state in ([], ["T"])


def _signal(host: Host, name: str, processes: list[str]) -> None:
    if processes:
        host.run("kill", f"-{name}", *processes, timeout=10.0)
