"""In the service VM: an rsync daemon that serves each mounted share as a module, to the addresses of its rules.

Its part of the document is ``{"modules": [{"share": ID, "hosts": [CIDR, ...]}, ...]}``; the answer is ``{"errors": {ID:
reason}}``. A module's path is the directory ``files`` on the share's own volume: when that is not mounted, there is no
such directory, and nothing is served or written by mistake.
"""

from __future__ import annotations

import ipaddress
import os
import re
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sharewright.guest.program.host import Host

CONFIGURATION = "/etc/rsyncd.conf"  # survives a reboot: the daemon then serves with no controller
IN_FORCE = "/run/sharewright/rsyncd.conf"  # the configuration whose leavers have been sent away
UNIT = "rsync-shares.service"
PROCESSES = f"/sys/fs/cgroup/system.slice/{UNIT}/cgroup.procs"
NOBODY = 65534  # who clients are on the server, whoever they say they are
HEAD = (
    "uid = nobody\ngid = nogroup\nuse chroot = yes\nnumeric ids = yes\nlist = no\nreverse lookup = no\ntimeout = 600\n"
)
SHARE = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

Modules = dict[str, list[str]]  # share id → who may connect, as canonical CIDRs


def parse(section: object) -> Modules:
    if not isinstance(section, dict) or section.keys() != {"modules"} or not isinstance(section["modules"], list):
        raise ValueError("expected an object with a list, modules")
    modules: Modules = {}
    for module in section["modules"]:
        if not isinstance(module, dict) or module.keys() != {"share", "hosts"}:
            raise ValueError("a module has share and hosts")
        share, hosts = module["share"], module["hosts"]
        if not isinstance(share, str) or not SHARE.fullmatch(share) or share in modules:
            raise ValueError(f"{str(share)[:80]!r} is not the id of a share, or is there twice")
        if not isinstance(hosts, list) or not all(isinstance(host, str) and "%" not in host for host in hosts):
            raise ValueError(f"the hosts of {share} are not a list of addresses")
        modules[share] = [str(ipaddress.ip_network(host)) for host in hosts]
    return modules


def apply(host: Host, wanted: Modules, mounts: dict[str, str]) -> tuple[dict[str, object], list[str]]:
    served, errors = judge(wanted, mounts)
    text, done = configuration(served), []
    for share in served:
        make_directory(host, share)
    if host.read(CONFIGURATION) != text:
        host.replace(CONFIGURATION, text)  # the daemon reads it at every connection
        done.append("write rsyncd.conf")
    before = host.read(IN_FORCE)
    if before != text:
        # After the file: who is sent away now cannot come back. Noted after that: a crash in between does it again.
        leavers = sorted(shares_with_leavers(modules_of(before), served))
        done += [f"end the transfers of share {share}" for share in leavers if end_transfers(host, share)]
        host.replace(IN_FORCE, text)
    if served and not running(host):
        host.run("systemctl", "start", UNIT, timeout=30.0).check()
        done.append("start the rsync daemon")
    return {"errors": errors}, done


def observe(host: Host, wanted: Modules, mounts: dict[str, str]) -> tuple[dict[str, object], list[str]]:
    served, errors = judge(wanted, mounts)
    text, needed = configuration(served), []
    if host.read(CONFIGURATION) != text:
        needed.append("write rsyncd.conf")
    if served and not running(host):
        needed.append("start the rsync daemon")
    return {"errors": errors}, needed


def judge(wanted: Modules, mounts: dict[str, str]) -> tuple[Modules, dict[str, str]]:
    """What can be served, and why the rest cannot. Without a host a module would be open to all, so it is left out."""
    errors = {share: "its volume is not mounted" for share in wanted if share not in mounts}
    return {share: hosts for share, hosts in wanted.items() if hosts and share not in errors}, errors


def directory(share: str) -> str:
    return f"/shares/share-{share}/files"


def configuration(modules: Modules) -> str:
    """rsyncd.conf. Every value is one that :func:`parse` has made."""
    return HEAD + "".join(
        f"\n[share-{share}]\npath = {directory(share)}\nread only = no\nhosts allow = {' '.join(modules[share])}\n"
        for share in sorted(modules)
    )


def modules_of(text: str) -> Modules:
    """The modules of a configuration of ours."""
    found = re.findall(r"^\[share-(\S+)\]\npath = .*\nread only = no\nhosts allow = (.*)$", text, re.MULTILINE)
    return {share: hosts.split() for share, hosts in found}


def shares_with_leavers(before: Modules, now: Modules) -> set[str]:
    """Shares that somebody might no longer be admitted to."""
    return {share for share, hosts in before.items() if not set(hosts) <= set(now.get(share, []))}


def make_directory(host: Host, share: str) -> None:
    if not host.exists(directory(share)):
        os.mkdir(host.at(directory(share)), 0o755)
        os.chown(host.at(directory(share)), NOBODY, NOBODY)


def running(host: Host) -> bool:
    return host.read(PROCESSES).strip() != ""


def end_transfers(host: Host, share: str) -> int:
    """Kill the processes that serve the share, which are those with its directory as their root; how many there were.
    Clients that are still admitted connect again."""
    ended = 0
    for process in host.listing("/proc"):
        try:
            if process.isdigit() and host.bare(os.readlink(host.at(f"/proc/{process}/root"))) == directory(share):
                os.kill(int(process), signal.SIGKILL)
                ended += 1
        except OSError:
            continue  # it has gone by itself, or is the kernel's own
    return ended
