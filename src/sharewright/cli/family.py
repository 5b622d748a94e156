"""Processes that live and die as one: a parent that only watches, and children that it forks, and forks again when they
end on their own.

The parent has no threads and no open database, so that it may fork at any time. However it ends, the kernel kills the
children (PR_SET_PDEATHSIG); when it is asked to end, they are, one after the other, the last one started first.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog

log = structlog.get_logger()

GRACE_SECONDS: Final = 90.0  # for a child to end, before it is killed
_LOOK: Final = 0.1  # seconds between looks at the children
_FIRST_PAUSE: Final = 1.0  # seconds before a child that has ended is started again; twice as many each time
_LONGEST_PAUSE: Final = 30.0
_STEADY: Final = 60.0  # seconds after which a child counts as one that runs well
_PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True, slots=True)
class Part:
    """What a child does. ``run`` gets a function to call when the part is ready, works until SIGTERM, and returns the
    exit code; it must handle its own errors."""

    name: str
    run: Callable[[Callable[[], None]], int]


@dataclass(slots=True)
class _Child:
    part: Part
    pid: int = 0  # 0: it does not run
    started: float = 0.0  # time.monotonic()
    again: float = 0.0  # when it may be started again
    pause: float = _FIRST_PAUSE
    ready: bool = False
    telling: int = -1  # a pipe on which it says that it is ready


class Family:
    """``run`` starts the parts in order, each when the one before is ready."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._children = [_Child(part) for part in parts]

    def run(self, stopping: threading.Event, *, ready: Callable[[], None], ending: Callable[[], None]) -> int:
        """Until ``stopping`` is set, by a signal: then the exit code is 0. When a part cannot be started the first
        time: that part's code, at once. ``ready`` is called when all parts are, ``ending`` before they are ended."""
        _say_where_threads_are(then=self._pass_on)
        gc.collect()
        gc.freeze()  # what is here by now is never garbage; the children share its memory as long as nobody touches it
        try:
            for child in self._children:
                self._start(child)
                while not child.ready and not stopping.wait(_LOOK):
                    code = self._look(child)
                    if code is not None:
                        return code or 1
            if not stopping.is_set():
                ready()
            while not stopping.wait(_LOOK):
                for child in self._children:
                    self._keep(child)
            return 0
        finally:
            ending()
            for child in reversed(self._children):
                self._end(child)

    # ---- parts -------------------------------------------------------------------------------------------------------

    def _start(self, child: _Child) -> None:
        parent = os.getpid()
        child.telling, says = os.pipe()
        os.set_blocking(child.telling, False)
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                _die_with(parent)
                os.close(child.telling)
                _say_where_threads_are()
                code = child.part.run(lambda: _tell(says))
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)  # what the parent has to tidy up is not the child's
        os.close(says)
        child.pid, child.started, child.ready = pid, time.monotonic(), False

    def _look(self, child: _Child) -> int | None:
        """Its exit code if it has ended; a signal's number plus 128."""
        if not child.ready:
            with suppress(BlockingIOError):
                child.ready = os.read(child.telling, 1) != b""
        pid, status = os.waitpid(child.pid, os.WNOHANG)
        if pid == 0:
            return None
        self._forget(child)
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code

    def _keep(self, child: _Child) -> None:
        """Start it again when it has ended."""
        now = time.monotonic()
        if child.pid == 0:
            if now >= child.again:
                self._start(child)
            return
        code = self._look(child)
        if code is None:
            return
        if now - child.started > _STEADY:
            child.pause = _FIRST_PAUSE
        log.error("a process ended; it is started again", process=child.part.name, code=code, seconds=child.pause)
        child.again = now + child.pause
        child.pause = min(2 * child.pause, _LONGEST_PAUSE)

    def _end(self, child: _Child) -> None:
        if child.pid == 0:
            return
        os.kill(child.pid, signal.SIGTERM)
        end = time.monotonic() + GRACE_SECONDS
        while self._look(child) is None:
            if time.monotonic() > end:
                log.error("a process does not end and is killed", process=child.part.name)
                os.kill(child.pid, signal.SIGKILL)
                os.waitpid(child.pid, 0)
                self._forget(child)
                return
            time.sleep(0.02)

    def _forget(self, child: _Child) -> None:
        os.close(child.telling)
        child.pid, child.telling = 0, -1

    def _pass_on(self, number: int, _frame: object) -> None:
        for child in self._children:
            if child.pid:
                os.kill(child.pid, number)


def _say_where_threads_are(then: Callable[[int, object], None] | None = None) -> None:
    """At SIGUSR1, on standard error."""
    faulthandler.unregister(signal.SIGUSR1)  # it would not take the signal again while it believes to have it
    signal.signal(signal.SIGUSR1, then or signal.SIG_DFL)
    faulthandler.register(signal.SIGUSR1, chain=then is not None)


def _tell(says: int) -> None:
    os.write(says, b".")
    os.close(says)


def _die_with(parent: int) -> None:
    """Be killed when the parent has ended, even if it did so before we could ask for that."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:
        os._exit(128 + signal.SIGKILL)
