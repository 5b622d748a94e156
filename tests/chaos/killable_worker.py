"""A worker process that kills itself with SIGKILL at the n-th boundary of its operations.

Boundaries are where the outside world changes or may have changed: before and after each call to the cloud or a guest,
and before and after each commit to the store; only those in threads that run operations count. Processes are forked
from a server that has everything imported, so that hundreds of them are affordable.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

import sharewright.drivers.generic.driver  # noqa: F401 - otherwise imported by every process anew, and late
from sharewright.clouds.simulated.state import SimulatedState
from sharewright.operations.assembly import assemble
from sharewright.operations.maintenance import Maintenance
from sharewright.operations.worker import Worker
from sharewright.store.database import Store
from story_world import make_settings

LEASE_SECONDS = 1.0
LOG = "workers.log"  # of all workers of a world, in its state directory

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["pytest", "killable_worker"])


@functools.cache
def start_server() -> None:
    """Start the fork server where it finds what it is to import: Python 3.11 does not tell it our ``sys.path``, and it
    keeps quiet about a module that it does not find; then every worker imports everything, which takes it 0.7 s."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


class Boundaries:
    """Counts boundaries, and ends the process at number ``kill_at`` (from 1; 0: never). ``count`` is shared memory."""

    def __init__(self, kill_at: int, count: Any) -> None:
        self._kill_at = kill_at
        self._count = count
        self._lock = threading.Lock()

    def cross(self) -> None:
        if not threading.current_thread().name.startswith("operation-"):
            return
        with self._lock:
            self._count.value += 1
            if self._count.value == self._kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(60)  # the signal is on its way

    def install(self) -> None:
        """Put them around the store's transactions and the simulated cloud's calls, for this whole process."""
        begin, call = Store.begin, SimulatedState.call

        @contextmanager
        def watched_begin(store: Store) -> Iterator[Connection]:
            with begin(store) as tx:
                yield tx
                self.cross()
            self.cross()

        @contextmanager
        def watched_call(
            state: SimulatedState, method: str, *, timeout: float | None = None, cloud: bool = True
        ) -> Iterator[None]:
            self.cross()
            with call(state, method, timeout=timeout, cloud=cloud):
                yield
            self.cross()

        Store.begin = watched_begin  # type: ignore[method-assign]
        SimulatedState.call = watched_call  # type: ignore[method-assign]


def work(
    url: str, state_dir: str, kill_at: int, count: Any, empties_bin: bool, replicas: bool, backend: dict[str, Any]
) -> None:
    """The process: a real worker until it is killed. ``empties_bin``: it empties the recycle bin first, which is
    maintenance otherwise, in a thread whose boundaries do not count. ``replicas``: as of story_world.make_settings."""
    Boundaries(kill_at, count).install()
    sys.stdout = (Path(state_dir) / LOG).open("a")
    store = Store(url)
    # Who takes over waits until the shares that a victim froze go on by themselves.
    settings = make_settings(
        Path(state_dir),
        lease_seconds=LEASE_SECONDS,
        replicas=replicas,
        **{"snapshot_freeze_seconds": 10.0, **backend},
    )
    # With much else to do on the machine leases of a second run out under workers that live. That is work done again,
    # as after a kill, but no operation is to be given up for it.
    worker = Worker(store, assemble(settings, store).stories, settings, crash_limit=1000)
    if empties_bin:
        maintenance = Maintenance(store, settings, drivers={}, clouds={}, holder="victim")
        thread = threading.Thread(target=maintenance.empty_bin, name="operation-bin")
        thread.start()
        thread.join()
    worker.start()
    while True:
        time.sleep(60)


class Victim:
    """Runs a killable worker; ``crossed`` tells how many boundaries it has crossed. ``backend``: options of the world's
    backend."""

    def __init__(
        self,
        url: str,
        state_dir: Path,
        kill_at: int = 0,
        *,
        empties_bin: bool = False,
        replicas: bool = False,
        backend: dict[str, Any] | None = None,
    ) -> None:
        self._kill_at = kill_at
        start_server()
        self._count = context.Value("i", 0)
        self._process: ForkServerProcess = context.Process(
            target=work,
            args=(url, str(state_dir), kill_at, self._count, empties_bin, replicas, backend or {}),
            daemon=True,
        )
        self._process.start()

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    @property
    def killed(self) -> bool:
        # Not the exit code: starting a process in another thread looks at all of them, and of two who read the fork
        # server's word at the same time one finds none and takes that for 255.
        return 0 < self._kill_at <= self.crossed

    @property
    def crossed(self) -> int:
        return int(self._count.value)

    def end(self) -> None:
        if self._process.is_alive():
            self._process.kill()
        self._process.join(10)
