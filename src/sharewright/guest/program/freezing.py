"""``freeze`` and ``thaw``: a share's file system stands still while the cloud fixes the moment of a snapshot.

One freeze at a time on a server, under a token of the controller's. Before anything is frozen a dead man is at work: a
process of its own that thaws when the time is over, whatever became of the controller, the connection or ``serve``.
``thaw`` says whether the freeze held until then; only that makes a snapshot consistent. What is known of the freeze is
in /run, so a reboot, which thaws, forgets it.
"""

from __future__ import annotations

import json
import os
import sys
import time

from .desired import mount_path
from .facts import find_mount
from .host import RUN, CommandFailed, Host, Refusal

FROZEN = f"{RUN}/frozen.json"
SYNC_SECONDS = 15.0
LOOK_SECONDS = 0.25  # between the dead man's looks whether he is still needed
INSISTENCE_SECONDS = 900.0  # how long he tries to thaw what will not


class Freeze:
    """The freeze in force. ``until`` (monotonic seconds) is when the dead man ends it; ``sure``: the kernel has
    confirmed it."""

    __slots__ = ("begun", "share_id", "sure", "token", "until")

    def __init__(self, token: str, share_id: str, begun: float, until: float, *, sure: bool) -> None:
        self.token = token
        self.share_id = share_id
        self.begun = begun
        self.until = until
        self.sure = sure

    def write(self, host: Host) -> None:
        host.replace(FROZEN, json.dumps({name: getattr(self, name) for name in self.__slots__}), 0o600)


def current(host: Host) -> Freeze | None:
    try:
        found = json.loads(host.read(FROZEN))
        return Freeze(
            str(found["token"]),
            str(found["share_id"]),
            float(found["begun"]),
            float(found["until"]),
            sure=found["sure"],
        )
    except (ValueError, KeyError, TypeError):
        return None


def freeze(host: Host, share_id: str, token: str, seconds: float) -> None:
    """Freeze a mounted share. The same token again: success while it is in force. Refusal (busy) while another freeze
    is; (failed) when the share is not mounted or its file system refuses."""
    path = host.at(mount_path(share_id))
    mount = find_mount(host, share_id)
    if mount is None or not mount.alive:
        raise Refusal("failed", f"Share {share_id} is not mounted, so it cannot be frozen.")
    _flush(host, path)
    lock = host.lock("freeze", timeout=seconds)
    try:
        found = _in_force(host)
        if found is not None and found.token == token and found.sure:
            return
        if found is not None:
            raise Refusal("busy", f"Share {found.share_id} of this server is frozen.", "Try again in a moment.")
        now = time.monotonic()
        made = Freeze(token, share_id, now, now + seconds, sure=False)
        made.write(host)
        _start_dead_man(host, token)
        result = host.run("fsfreeze", "--freeze", path, timeout=seconds)
        # From a command that does not end the state is left to the dead man: it may freeze yet.
        if result.status != 0:
            host.remove(FROZEN)
            result.check()
        made.sure = True
        made.write(host)
    finally:
        os.close(lock)


def _in_force(host: Host) -> Freeze | None:
    """The freeze in force; one that should long have ended, and whose dead man has given up or is gone, is ended. Call
    with the lock held."""
    found = current(host)
    if found is not None and time.monotonic() > found.until + INSISTENCE_SECONDS:
        _unfreeze(host, found)
        host.remove(FROZEN)
        return None
    return found


def _flush(host: Host, path: str) -> None:
    """Writers wait from the freeze on, so what can be written before is written before."""
    for _ in range(2):
        try:
            host.run("sync", "-f", path, timeout=SYNC_SECONDS).check()
        except CommandFailed as error:
            raise Refusal("busy", f"The share has not been written to its disk yet: {error}.", "Try again.") from error


def thaw(host: Host, token: str) -> dict[str, object]:
    """End the freeze with that token. ``held``: it was in force until now; ``seconds``: for how long."""
    lock = host.lock("freeze", timeout=30.0)
    try:
        found = current(host)
        if found is None or found.token != token:
            return {"held": False, "seconds": 0.0}
        ended = _unfreeze(host, found)
        return {"held": ended and found.sure, "seconds": round(time.monotonic() - found.begun, 4)}
    finally:
        os.close(lock)


def release(host: Host, share_id: str) -> None:
    """End whatever freeze of a share there is: it is going to be unmounted, and a frozen disk could not be thawed
    afterwards."""
    found = current(host)
    if found is not None and found.share_id == share_id:
        thaw(host, found.token)


def _unfreeze(host: Host, found: Freeze) -> bool:
    """Whether it was frozen and is not any more. Call with the lock held."""
    done = host.run("fsfreeze", "--unfreeze", host.at(mount_path(found.share_id)), timeout=60.0)
    if done.status == 0 or found.sure:
        host.remove(FROZEN)
    return done.status == 0


# ---- the dead man ----------------------------------------------------------------------------------------------------


def _start_dead_man(host: Host, token: str) -> None:
    """Return when he is at work: two forks, so that he is nobody's child and survives ``serve`` and its connection."""
    ready, armed = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(ready)
            os.setsid()
            if os.fork() == 0:
                _be_dead_man(host, token, armed)
        finally:
            os._exit(0)
    os.close(armed)
    os.waitpid(child, 0)
    try:
        said = os.read(ready, 1)
    finally:
        os.close(ready)
    if said != b"1":
        host.remove(FROZEN)
        raise CommandFailed("the process that would thaw the share did not start, so it was not frozen")


def _be_dead_man(host: Host, token: str, armed: int) -> None:
    sys.stdin = sys.stdout = sys.stderr = None
    nothing = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1, 2):  # the connection must be able to end without us
        os.dup2(nothing, descriptor)
    os.closerange(3, armed)
    os.closerange(armed + 1, 1024)  # among them the lock's, which serve holds
    host.poke("/proc/self/oom_score_adj", "-1000")
    os.write(armed, b"1")
    os.close(armed)
    while (found := current(host)) is not None and found.token == token:
        now = time.monotonic()
        if now > found.until + INSISTENCE_SECONDS:
            return
        if now >= found.until:
            _end_overdue(host, token)
        time.sleep(LOOK_SECONDS)


def _end_overdue(host: Host, token: str) -> None:
    try:
        lock = host.lock("freeze", timeout=5.0)
    except Refusal:
        return  # serve is at it; looked at again
    try:
        found = current(host)
        if found is not None and found.token == token:
            _unfreeze(host, found)
    except (CommandFailed, OSError):
        return
    finally:
        os.close(lock)
