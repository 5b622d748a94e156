"""How much is in use, of each share and of the server: file systems, NFS, and Samba while it runs.

Only files of the kernel are read, but for Samba, which has to be asked with a process. A file system that does not
answer (its disk is gone or hangs) keeps nobody waiting: it is asked in a thread, and left alone until that returns.
"""

from __future__ import annotations

import _thread  # threading's import would take as long as all of this
import os
import time

from .desired import share_of
from .host import CommandFailed, Host
from .samba import PID, smb_profile, smb_status
from .smb import PREFIX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SHARE_SECONDS = 1.0  # one file system may take so long
ALL_SECONDS = 3.0  # and all of them together
NFSD = "/proc/fs/nfsd"

# Mount points that a thread of ours was given up for, each with the lock that the thread lets go of at its end.
_silent: dict[str, _thread.LockType] = {}


def file_systems(
    paths: list[str], *, statvfs: Callable[[str], os.statvfs_result] = os.statvfs, seconds: float = SHARE_SECONDS
) -> dict[str, os.statvfs_result]:
    """What statvfs says of each mount point. One that fails, or does not answer within its time, is not in it."""
    answers: dict[str, os.statvfs_result | None] = {}
    end = time.monotonic() + ALL_SECONDS
    while time.monotonic() < end:
        waiting = [path for path in paths if path not in answers and not _is_silent(path)]
        if not waiting:
            break
        asked = _Asked(waiting, answers, statvfs)
        if not asked.wait(seconds, end):
            asked.abandoned = True
            _silent[waiting[min(asked.position, len(waiting) - 1)]] = asked.running
    return {path: answer for path, answer in dict(answers).items() if answer is not None}


def _is_silent(path: str) -> bool:
    lock = _silent.get(path)
    if lock is None or lock.locked():
        return lock is not None
    del _silent[path]
    return False


class _Asked:
    """A thread that asks one file system after the other. ``running`` is locked until it ends."""

    def __init__(
        self,
        paths: list[str],
        answers: dict[str, os.statvfs_result | None],
        statvfs: Callable[[str], os.statvfs_result],
    ) -> None:
        self.position = 0
        self.abandoned = False
        self.running = _thread.allocate_lock()
        self.running.acquire()
        self._paths = paths
        self._answers = answers
        self._statvfs = statvfs
        _thread.start_new_thread(self._ask, ())

    def wait(self, seconds: float, end: float) -> bool:
        """Whether all have answered; gives up when one takes longer than that, or at ``end``."""
        position = -1
        while position != self.position and (left := end - time.monotonic()) > 0:
            position = self.position
            if self.running.acquire(timeout=min(seconds, left)):
                self.running.release()
                return True
        return False

    def _ask(self) -> None:
        for path in self._paths:
            if self.abandoned:
                break
            try:
                self._answers[path] = self._statvfs(path)
            except OSError:
                self._answers[path] = None  # not mounted any more, or broken
            self.position += 1
        self.running.release()


def exports(host: Host) -> dict[str, tuple[int, int]]:
    """Share id → bytes read and written through NFS since its exports were last changed. Since Linux 5.12 the kernel
    counts them for each export and client."""
    counts: dict[str, tuple[int, int]] = {}
    share_id = None
    for line in host.read(f"{NFSD}/export_stats").splitlines():
        if not line.startswith(("#", "\t")):
            share_id = share_of(line.partition("\t")[0])
        name, _, value = line.strip().partition(": ")
        if share_id is None or name not in ("io_read", "io_write") or not value.isdigit():
            continue
        read, written = counts.get(share_id, (0, 0))
        more = int(value)
        counts[share_id] = (read + more, written) if name == "io_read" else (read, written + more)
    return counts


def server(host: Host) -> dict[str, object]:
    """Usage of guest/document.py."""
    found: dict[str, object] = {"nfs_clients": nfs_clients(host)}
    for line in host.read("/proc/net/rpc/nfsd").splitlines():
        name, _, rest = line.partition(" ")
        numbers = [int(value) for value in rest.split() if value.isdigit()]
        if name == "io" and len(numbers) >= 2:
            found["nfs_bytes_read"], found["nfs_bytes_written"] = numbers[:2]
        elif name == "rpc" and numbers:
            found["nfs_calls"] = numbers[0]
        elif name == "proc4ops":
            found["nfs_operations"] = numbers[1:]  # the first is how many there are
    return {**found, **smb(host)}


def nfs_clients(host: Host) -> int:
    """NFSv4 clients that hold a lease. One that was lost and not yet forgotten ("courtesy") is none."""
    gone = ("status: courtesy", "status: unconfirmed")
    clients = f"{NFSD}/clients"
    return sum(not any(mark in host.read(f"{clients}/{each}/info") for mark in gone) for each in host.listing(clients))


# What Samba counts of its calls of the system; a read or write goes one of these ways. Under the names of 4.17.
READ_BY = ("syscall_pread", "syscall_asys_pread", "syscall_sendfile")
WRITTEN_BY = ("syscall_pwrite", "syscall_asys_pwrite", "syscall_recvfile")


def smb(host: Host) -> dict[str, object]:
    """The fields of Usage about SMB; none when Samba does not run, those that it does not answer for left out."""
    found: dict[str, object] = {}
    if not host.exists(PID):
        return found
    try:
        status = smb_status(host, timeout=ALL_SECONDS)
        sessions = list(status["sessions"].values())
        found["smb_sessions"] = len(sessions)
        # A machine has a session for each of its users.
        found["smb_clients"] = len({str(each["remote_machine"]) for each in sessions})
        connections: dict[str, int] = {}
        for each in status["tcons"].values():
            share_id = str(each["service"]).lower().removeprefix(PREFIX)
            connections[share_id] = connections.get(share_id, 0) + 1
        found["smb_connections"] = connections
    except (CommandFailed, ValueError, KeyError, TypeError, AttributeError):
        pass
    try:
        profile = smb_profile(host, timeout=ALL_SECONDS)
        calls = {name: int(each["count"]) for name, each in profile["SMB2 Calls"].items()}
        system = profile["System Calls"]
        found["smb_bytes_read"] = sum(int(system[name]["bytes"]) for name in READ_BY if name in system)
        found["smb_bytes_written"] = sum(int(system[name]["bytes"]) for name in WRITTEN_BY if name in system)
        found["smb_operations"] = calls
    except (CommandFailed, ValueError, KeyError, TypeError, AttributeError):
        pass
    return found
