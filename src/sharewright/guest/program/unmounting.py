"""Taking a share's file system away for real, never lazily: its disk is detached next."""

from __future__ import annotations

import os
import time

from . import freezing
from .desired import mount_path
from .facts import find_mount
from .host import RUN, CommandFailed, Host, polls

UNMOUNT_SECONDS = 10.0


def unmount(host: Host, share_id: str, *, seconds: float, restart: bool = True) -> None:
    """Unmount a share that is no longer exported. CommandFailed when something still uses it after that time.

    The kernel's export caches are flushed first, which also closes the files that nfsd keeps open; then locks are
    dropped; what is left are files that NFSv4 clients hold open, and those clients' leases are ended. When nothing but
    the kernel's NFS server itself can hold it, that is started anew, once for each share: clients of other shares wait
    for the grace period, and doing it again would not help them. ``restart`` False: others' exports would suffer too.
    """
    freezing.release(host, share_id)
    path = mount_path(share_id)
    tried = f"{RUN}/nfs-restarted/{share_id}"  # gone with a reboot, which lets go of everything
    host.run("exportfs", "-f", timeout=30.0)
    reason = _try_unmount(host, share_id, seconds=seconds)
    if reason and restart and not host.exists(tried) and not processes_in(host, path):
        seen = _kernel_view(host, path)
        host.replace(tried, "")
        host.run("systemctl", "restart", "nfs-server.service", timeout=60.0)
        reason = _try_unmount(host, share_id, seconds=seconds) and f"{reason} ({seen})"
    if reason:
        hint = "; starting the NFS server anew did not help, a reboot of the server will" if host.exists(tried) else ""
        raise CommandFailed(f"{path} is in use: {reason} {holders(host, path)}{hint}")
    host.remove(tried)


def _try_unmount(host: Host, share_id: str, *, seconds: float) -> str:
    """ "" when it is unmounted and released, otherwise why not after that time."""
    path = mount_path(share_id)
    reason = "still mounted"
    started = time.monotonic()
    for left in polls(seconds, 0.5):
        found = find_mount(host, share_id)
        if found is None:
            return ""
        done = host.run("umount", host.at(path), timeout=max(left, 5.0))  # begun in time, it may end
        if done.status == 0 and find_mount(host, share_id) is None:
            _check_released(host, found.number, path)
            return ""
        reason = " ".join(done.errors.split())[-300:] or reason
        host.poke("/proc/fs/nfsd/unlock_filesystem", path)
        if time.monotonic() - started > 1.0:
            expire_clients(host, found.number)
            end_samba(host, path)
        host.run("exportfs", "-f", timeout=30.0)
    return reason


def end_samba(host: Host, path: str) -> None:
    """End those processes of Samba that still have something below a path open: each serves one client, which comes
    back by itself for its other shares."""
    for process, name in _using(host, path):
        if name.startswith("smbd"):
            host.run("kill", process, timeout=10.0)


def processes_in(host: Host, path: str) -> list[str]:
    """Processes that have a file or directory below a path open, in words."""
    return [f"process {process} ({name})" for process, name in _using(host, path)]


def _using(host: Host, path: str) -> list[tuple[str, str]]:
    """Number and name of each process that has a file or directory below a path open."""
    found = []
    for process in host.listing("/proc"):
        if not process.isdigit():
            continue
        places = [f"/proc/{process}/{name}" for name in ("cwd", "root")]
        places += [f"/proc/{process}/fd/{name}" for name in host.listing(f"/proc/{process}/fd")]
        if any(_target(host, place).startswith(path) for place in places):
            found.append((process, host.read(f"/proc/{process}/comm").strip()))
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
