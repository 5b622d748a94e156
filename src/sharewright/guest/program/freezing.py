"""``freeze`` and ``thaw``: file systems of shares stand still while the cloud fixes the moment of their snapshots.

One freeze at a time on a server, of one share or of several together, under a token of the controller's. Before
anything is frozen a dead man is at work: a process of its own that thaws them all when the time is over, whatever
became of the controller, the connection or ``serve``. ``thaw`` says whether the freeze held for all of them until then;
only that makes snapshots consistent. When one cannot be frozen, none stays so. What is known of the freeze is in /run,
so a reboot, which thaws, forgets it.
"""

from __future__ import annotations

import json
import os
import sys
import time

from .desired import mount_path
from .facts import find_mount
from .host import RUN, CommandFailed, Completed, Host, NotBegun, Refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

FROZEN = f"{RUN}/frozen.json"
SYNC_SECONDS = 15.0
LOOK_SECONDS = 0.25  # between the dead man's looks whether he is still needed
INSISTENCE_SECONDS = 900.0  # how long he tries to thaw what will not
THAW_SECONDS = 60.0


class Freeze:
    """The freeze in force. ``until`` (monotonic seconds) is when the dead man ends it; ``sure``: the kernel has
    confirmed all of it, and nobody has tried to end it yet."""

    __slots__ = ("begun", "share_ids", "sure", "token", "until")

    def __init__(self, token: str, share_ids: Sequence[str], begun: float, until: float, *, sure: bool) -> None:
        self.token = token
        self.share_ids = list(share_ids)
        self.begun = begun
        self.until = until
        self.sure = sure

    def write(self, host: Host) -> None:
        host.replace(FROZEN, json.dumps({name: getattr(self, name) for name in self.__slots__}), 0o600)


def current(host: Host) -> Freeze | None:
    try:
        found = json.loads(host.read(FROZEN))
        # One that an older program began has the one share that it is of.
        shares = found["share_ids"] if "share_ids" in found else [found["share_id"]]
        return Freeze(
            str(found["token"]),
            [str(each) for each in shares],
            float(found["begun"]),
            float(found["until"]),
            sure=found["sure"],
        )
    except (ValueError, KeyError, TypeError):
        return None


def freeze(host: Host, share_ids: Sequence[str], token: str, seconds: float) -> None:
    """Freeze mounted shares: all of them, or none. The same token again: success while it is in force. Refusal (busy)
    while another freeze is; (failed) when a share is not mounted or its file system refuses."""
    flush(host, share_ids)  # writers wait from the freeze on, so what can be written before is written before
    lock = host.lock("freeze", timeout=seconds)
    try:
        found = _in_force(host)
        if found is not None and found.token == token and found.sure:
            return
        if found is not None:
            raise Refusal("busy", _in_words(found.share_ids), "Try again in a moment.")
        now = time.monotonic()
        made = Freeze(token, share_ids, now, now + seconds, sure=False)
        made.write(host)
        _start_dead_man(host, token)
        results = _run(host, "--freeze", share_ids, seconds)
        if not all(isinstance(each, Completed) and each.status == 0 for each in results):
            _give_up(host, made, results)
        made.sure = True
        made.write(host)
    finally:
        os.close(lock)


def flush(host: Host, share_ids: Sequence[str]) -> None:
    """Write what clients have written to the disks; twice, as the first time is long enough for them to write on.
    Refusal (busy) when it takes too long; (failed) when a share is not mounted."""
    for share in share_ids:
        mount = find_mount(host, share)
        if mount is None or not mount.alive:
            raise Refusal("failed", f"Share {share} is not mounted, so it cannot be frozen.")
    commands = [("sync", "-f", host.at(mount_path(share))) for share in share_ids]
    for _ in range(2):
        try:
            for result in host.run_each(commands, timeout=SYNC_SECONDS):
                _checked(result)
        except CommandFailed as error:
            raise Refusal("busy", f"The share has not been written to its disk yet: {error}.", "Try again.") from error


def thaw(host: Host, token: str) -> dict[str, object]:
    """End the freeze with that token. ``held``: it was in force for all its shares until now; ``seconds``: for how
    long."""
    lock = host.lock("freeze", timeout=30.0)
    try:
        found = current(host)
        if found is None or found.token != token:
            return {"held": False, "seconds": 0.0}
        sure = found.sure
        ended = _unfreeze(host, found)
        return {"held": ended and sure, "seconds": round(time.monotonic() - found.begun, 4)}
    finally:
        os.close(lock)


def release(host: Host, share_id: str) -> None:
    """End whatever freeze of a share there is, with those that stand still together with it: it is going to be
    unmounted, and a frozen disk could not be thawed afterwards."""
    found = current(host)
    if found is not None and share_id in found.share_ids:
        thaw(host, found.token)


def _in_force(host: Host) -> Freeze | None:
    """The freeze in force; one that should long have ended, and whose dead man has given up or is gone, is ended. Call
    with the lock held."""
    found = current(host)
    if found is not None and time.monotonic() > found.until + INSISTENCE_SECONDS:
        _unfreeze(host, found)
        host.remove(FROZEN)
        return None
    return found


def _give_up(host: Host, made: Freeze, results: Sequence[Completed | CommandFailed]) -> None:
    """Thaw those that were frozen, because not all were; raises why. What a command that does not end does is left to
    the dead man: it may freeze yet."""
    frozen, doubtful = [], []
    for share, result in zip(made.share_ids, results, strict=True):
        if isinstance(result, Completed) and result.status == 0:
            frozen.append(share)
        elif isinstance(result, CommandFailed) and not isinstance(result, NotBegun):
            doubtful.append(share)
    ended = _run(host, "--unfreeze", frozen, THAW_SECONDS)
    doubtful += [share for share, result in zip(frozen, ended, strict=True) if isinstance(result, CommandFailed)]
    if doubtful:
        made.share_ids = doubtful
        made.write(host)
    else:
        host.remove(FROZEN)
    for result in results:
        _checked(result)


def _unfreeze(host: Host, found: Freeze) -> bool:
    """Whether all were frozen and none is any more. CommandFailed when that cannot be told of one; its freeze stays in
    force, not sure any more. Call with the lock held."""
    results = _run(host, "--unfreeze", found.share_ids, THAW_SECONDS)
    ended = [isinstance(each, Completed) and each.status == 0 for each in results]
    hung = [each for each in results if isinstance(each, CommandFailed)]
    left = [
        share
        for share, done, result in zip(found.share_ids, ended, results, strict=True)
        if not done and (isinstance(result, CommandFailed) or not found.sure)
    ]
    if left:
        Freeze(found.token, left, found.begun, found.until, sure=False).write(host)
    else:
        host.remove(FROZEN)
    if hung:
        raise hung[0]
    return all(ended)


def _run(host: Host, option: str, share_ids: Sequence[str], timeout: float) -> list[Completed | CommandFailed]:
    commands = [("fsfreeze", option, host.at(mount_path(share))) for share in share_ids]
    return host.run_each(commands, timeout=timeout)


def _checked(result: Completed | CommandFailed) -> None:
    if isinstance(result, CommandFailed):
        raise result
    result.check()


def _in_words(share_ids: Sequence[str]) -> str:
    more = f" and {len(share_ids) - 1} more" if len(share_ids) > 1 else ""
    return f"Share {share_ids[0]}{more} of this server is frozen."


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
        raise CommandFailed("the process that would thaw them did not start, so nothing was frozen")


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
