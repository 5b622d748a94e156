"""The worker: claims operations, runs them on threads, keeps their leases, and stops in good order.

One dispatcher thread looks for work whenever the store's bell rings, a thread becomes free, a parked operation's time
has come, or ``poll_seconds`` have passed; each claimed operation gets a thread of its own, ``worker.threads`` at most.
One heartbeat thread renews all leases in one statement every third of ``lease_seconds``, and shows the steps that take
long. On PostgreSQL a third one listens for the bell of other processes; it is only a hint, polling finds everything
too.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import structlog

from sharewright import settings as configuration
from sharewright.clouds.contract import Cloud, cloud_requests
from sharewright.drivers.contract import ShareDriver
from sharewright.errors import LeaseLost
from sharewright.instruments import (
    operation_attempt_duration,
    operation_claims,
    operation_duration,
    operation_wait,
    operations_running,
)
from sharewright.logging import bound
from sharewright.operations import leases
from sharewright.operations.contract import Story
from sharewright.operations.journal import Journal, clock
from sharewright.operations.leases import Claim
from sharewright.operations.maintenance import Maintenance
from sharewright.operations.registration import beat, register_worker
from sharewright.operations.runner import CRASH_LIMIT, DATABASE_FAULTS, GRACE_SECONDS, Runner
from sharewright.states import OperationState
from sharewright.store.crier import CHANNEL
from sharewright.store.database import Store

log = structlog.get_logger()

# Seconds in which many rings from other processes are one: every worker is rung for every request, and each time one
# that has a free thread asks the database for work that another may have taken already.
BETWEEN_RINGS = 0.02
# Where claims follow each other, each waits a moment for more work and more free threads: ten operations cost the
# database as much to claim as one.
BUSY_SECONDS = 0.1  # since the last one that found something
GATHER_SECONDS = 0.01
CLOCKS_DIFFER = 0.005  # seconds. A parked operation's time is the database's: a little later is surely not too early.


class Worker:
    """Runs ``stories`` (by kind) from ``store``. With ``drivers`` and ``clouds`` (by backend) it also takes its turn at
    maintenance. Use as a context manager, or call start and stop.

    ``worker_id`` must be new for each process start: it names the holder of leases.
    """

    def __init__(
        self,
        store: Store,
        stories: Mapping[str, Story],
        settings: configuration.Settings,
        *,
        drivers: Mapping[str, ShareDriver] | None = None,
        clouds: Mapping[str, Cloud] | None = None,
        worker_id: str | None = None,
        grace_seconds: float = GRACE_SECONDS,
        crash_limit: int = CRASH_LIMIT,
    ) -> None:
        self.worker_id = worker_id or f"{settings.node}:{os.getpid()}:{secrets.token_hex(4)}"
        self._store = store
        self._stories = dict(stories)
        self._settings = settings
        self._options = settings.worker
        self._runner = Runner(store, self._stories, grace_seconds=grace_seconds, crash_limit=crash_limit)
        self._maintenance = (
            Maintenance(store, settings, drivers=drivers, clouds=clouds or {}, holder=self.worker_id)
            if drivers is not None
            else None
        )
        self._number = settings.worker_threads  # at most
        self._slots = threading.Semaphore(self._number)
        self._lock = threading.Lock()
        self._running: dict[str, Journal] = {}
        self._background: set[str] = set()  # those of them that nobody waits for
        self._threads: set[threading.Thread] = set()
        self._stopping = threading.Event()
        self._stopped = threading.Event()
        self._service_ids: Sequence[str] = ()
        self._next_look = 0.0  # by clock(): when operations whose lease has run out are asked for again

    # ---- life ----

    def start(self) -> None:
        """Register the services and begin to work. The database must be migrated."""
        self._service_ids = register_worker(self._store, self._settings)
        self._spawn("dispatcher", self._dispatch)
        self._spawn("heartbeat", self._beat)
        if not self._store.is_sqlite:
            self._spawn("listener", self._listen)
        if self._maintenance is not None:
            self._spawn("maintenance", self._maintain)
        log.info("worker started", worker=self.worker_id, kinds=sorted(self._stories))

    def stop(self, timeout: float = 30.0) -> bool:
        """Claim nothing more, let running operations come to an end or to their next step within ``timeout`` seconds,
        and hand those back that are not finished. True when nothing was left running.

        What did not even reach a step goes on in its thread until the process ends; its lease then runs out.
        """
        self._stopping.set()
        self._store.bell.ring()
        end = time.monotonic() + timeout
        idle = self._wait(lambda: not self._running, min(end, time.monotonic() + timeout / 2))
        if not idle:
            with self._lock:
                for journal in self._running.values():
                    journal.stop()
            idle = self._wait(lambda: not self._running, end)
        self._stopped.set()
        self._store.bell.ring()
        for thread in list(self._threads):
            if thread.name.startswith("worker-"):
                thread.join(max(0.5, min(5.0, end - time.monotonic())))
        if self._maintenance is not None:
            self._maintenance.release()
        log.info("worker stopped", worker=self.worker_id, idle=idle)
        return idle

    def __enter__(self) -> Worker:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def running(self) -> int:
        """How many operations this worker runs now."""
        return len(self._running)

    def _wait(self, condition: Callable[[], bool], end: float) -> bool:
        while not condition() and time.monotonic() < end:
            time.sleep(0.01)
        return condition()

    def _spawn(self, name: str, target: Callable[[], None]) -> None:
        # Daemons: a story that hangs in a cloud's library must not keep the process from ending.
        thread = threading.Thread(target=target, name=f"worker-{name}", daemon=True)
        with self._lock:
            self._threads.add(thread)
        thread.start()

    # ---- dispatching ----

    def _dispatch(self) -> None:
        busy_until = 0.0  # by time.monotonic()
        while not self._stopping.is_set():
            rings = self._store.bell.rings
            if not self._slots.acquire(timeout=1.0):
                continue
            if time.monotonic() < busy_until:
                self._stopping.wait(GATHER_SECONDS)
            free = 1
            while self._slots.acquire(blocking=False):
                free += 1
            claims: list[Claim] = []
            nothing_left = True
            try:
                if not self._stopping.is_set():
                    claims, nothing_left = self._claim(free)
            except DATABASE_FAULTS as fault:
                log.warning("no work can be claimed", fault=type(fault).__name__)
            except Exception as error:
                log.error("defect in the dispatcher", exc_info=error)
            if len(claims) < free:
                self._slots.release(free - len(claims))
            if claims:
                busy_until = time.monotonic() + BUSY_SECONDS
            if nothing_left:
                self._store.bell.wait(rings, self._options.poll_seconds)

    def _claim(self, free: int) -> tuple[list[Claim], bool]:
        """Claim as many operations as there are free threads, and begin them. Also whether no more could be
        claimed, so that there is nothing to do before somebody rings."""
        before = clock()
        # Work that nobody waits for has half of the threads at most: many servers that do not answer, each for its
        # time, must not keep users waiting.
        room = max(1, self._number // 2) - len(self._background)
        number = min(free, room) if room > 0 else free
        look = before >= self._next_look  # for what dead workers left; nobody rings for it
        if look:
            self._next_look = before + self._options.poll_seconds
        claims = leases.claim_several(
            self._store,
            self.worker_id,
            number,
            lease_seconds=self._options.lease_seconds,
            kinds=self._stories,
            least_priority=None if room > 0 else 0,
            abandoned=look,
        )
        for claim in claims:
            self._begin(claim, before)
        return claims, len(claims) < number

    def _begin(self, claim: Claim, before: float) -> None:
        """Run an operation, claimed after ``before``, on a thread of its own."""
        journal = Journal(
            self._store, claim.operation, valid_until=before + self._options.lease_seconds, steps=claim.steps
        )
        thread = threading.Thread(
            target=self._work, args=(claim, journal), name=f"operation-{claim.operation.kind}", daemon=True
        )
        with self._lock:
            self._running[claim.operation.id] = journal
            if claim.priority < 0:
                self._background.add(claim.operation.id)
        thread.start()

    def _work(self, claim: Claim, journal: Journal) -> None:
        operation = claim.operation
        started = time.perf_counter()
        outcome = "lost"
        operation_claims.labels(operation.kind).inc()
        if operation.attempts == 1:
            operation_wait.labels(operation.kind).observe(claim.age)
        operations_running.labels(operation.kind).inc()
        try:
            with bound(request_id=operation.request_id, operation_id=operation.id):
                before = cloud_requests.count
                result = self._runner.run(claim, journal)
                outcome = result.state
                log.debug(
                    "operation attempt",
                    kind=operation.kind,
                    state=result.state,
                    cloud_requests=cloud_requests.count - before,
                )
            if result.delay:
                self._store.bell.ring_later(operation.id, result.delay + CLOCKS_DIFFER)
        except Exception as error:
            log.error("defect in the runner", operation=operation.id, exc_info=error)
        finally:
            operations_running.labels(operation.kind).dec()
            seconds = time.perf_counter() - started
            operation_attempt_duration.labels(operation.kind, outcome).observe(seconds)
            if outcome in (OperationState.SUCCEEDED, OperationState.FAILED):
                operation_duration.labels(operation.kind, outcome).observe(claim.age + seconds)
            with self._lock:
                if self._running.get(operation.id) is journal:
                    del self._running[operation.id]
                    self._background.discard(operation.id)
            self._slots.release()
            if claim.priority < 0:  # others of the background may have waited for this one's thread
                self._store.bell.ring()

    # ---- leases ----

    def _beat(self) -> None:
        interval = self._options.lease_seconds / 3
        while not self._stopped.wait(interval):
            interval = self._options.lease_seconds / 3
            try:
                self._renew()
                beat(self._store, self._service_ids)
            except Exception as error:
                # What cannot be renewed expires by itself: each journal knows until when its lease is valid.
                log.warning("heartbeat failed", fault=type(error).__name__)
                interval = min(1.0, self._options.lease_seconds / 10)

    def _renew(self) -> None:
        with self._lock:
            journals = dict(self._running)
        before = clock()
        held = leases.renew(
            self._store,
            self.worker_id,
            {identifier: journal.operation.epoch for identifier, journal in journals.items()},
            lease_seconds=self._options.lease_seconds,
        )
        for identifier, journal in journals.items():
            if identifier in held:
                journal.extend(before + self._options.lease_seconds)
                with suppress(LeaseLost):  # it has just come to its end
                    journal.show()
            elif self._running.get(identifier) is journal:
                journal.lose()

    # ---- the bell of other processes ----

    def _listen(self) -> None:
        import psycopg  # an extra that only PostgreSQL needs

        address = self._store.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        while not self._stopped.is_set():
            try:
                with psycopg.connect(address, autocommit=True) as connection:
                    connection.execute(f"LISTEN {CHANNEL}".encode())
                    self._store.bell.ring()  # what was rung before we listened
                    while not self._stopped.is_set():
                        heard = list(connection.notifies(timeout=1.0, stop_after=1))
                        for notification in heard:
                            self._store.hear(notification.payload, notification.pid)
                        if heard:
                            self._stopped.wait(BETWEEN_RINGS)
            except psycopg.Error as fault:
                log.warning("not listening for new work; polling goes on", fault=type(fault).__name__)
                self._stopped.wait(2.0)

    # ---- maintenance ----

    def _maintain(self) -> None:
        assert self._maintenance is not None  # noqa: S101 - only started when there is one
        while not self._stopping.is_set():
            try:
                pause = self._maintenance.tick()
            except Exception as error:
                log.warning("maintenance failed", exc_info=error)
                pause = self._options.poll_seconds
            self._stopping.wait(pause)
