"""What has to be done from time to time, by one worker at a time: reports, reconciling, sweeping, tidying, purging."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

import structlog
from sqlalchemy import ColumnElement, and_, delete, literal_column, select

from sharewright.clouds.contract import Cloud
from sharewright.context import RequestContext
from sharewright.drivers.contract import ShareDriver, TidyDriver
from sharewright.errors import SharewrightError
from sharewright.identifiers import utcnow
from sharewright.instruments import maintenance_duration, maintenance_failures
from sharewright.operations import leases, reconciler
from sharewright.operations.pool_rows import write_pools
from sharewright.operations.queue import enqueue
from sharewright.operations.share_rows import write_status
from sharewright.operations.sweeper import Sweeper
from sharewright.settings import Settings
from sharewright.states import OperationState, ShareStatus
from sharewright.store.database import Store
from sharewright.store.tables import messages, operations, pools, shares

log = structlog.get_logger()

LEASE = "maintenance"
LEASE_SECONDS = 60.0
PURGE_SECONDS = 3600.0
ROUTINE_KINDS = ("heal_server",)  # succeed all the time and tell nothing then
ROUTINE_RETENTION = timedelta(hours=1)
_BATCH = 500


@dataclass(slots=True)
class Task:
    """One periodic job. ``due`` is on time.monotonic()."""

    name: str
    seconds: float
    action: Callable[[], object]
    due: float


class Maintenance:
    """``drivers`` by backend, ``clouds`` by any name. ``holder`` names the process in the lease; that two processes
    both believe to hold it for a moment does no harm, because every task decides in the transaction that writes."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        drivers: Mapping[str, ShareDriver],
        clouds: Mapping[str, Cloud],
        holder: str,
    ) -> None:
        self._store = store
        self._settings = settings
        self._drivers = drivers
        self._holder = holder
        self._sweeper = Sweeper(store, clouds)
        options, now = settings.worker, time.monotonic()
        self._tasks = [
            Task("report", options.stats_seconds, self.report, now),
            Task("reconcile", options.reconcile_seconds, self.reconcile, now),
            Task("sweep", options.sweep_seconds, self._sweeper.sweep, now),
            Task("tidy", options.sweep_seconds, self.tidy, now),
            Task("bin", options.reconcile_seconds, self.empty_bin, now),
            Task("purge", PURGE_SECONDS, self.purge, now),
        ]

    def tick(self) -> float:
        """Do what is due, if the lease is ours; return the seconds until the next call."""
        if not leases.hold(self._store, LEASE, self._holder, seconds=LEASE_SECONDS):
            return LEASE_SECONDS / 4
        for task in self._tasks:
            if task.due > time.monotonic():
                continue
            try:
                with maintenance_duration.labels(task.name).time():
                    task.action()
            except Exception as error:
                maintenance_failures.labels(task.name).inc()
                # One task's trouble is not the others'; the next round tries again.
                log.warning("maintenance task failed", task=task.name, exc_info=error)
            task.due = time.monotonic() + task.seconds
            if not leases.hold(self._store, LEASE, self._holder, seconds=LEASE_SECONDS):
                return LEASE_SECONDS / 4
        soonest = min(task.due for task in self._tasks) - time.monotonic()
        return max(0.05, min(soonest, LEASE_SECONDS / 3))

    def release(self) -> None:
        """Let another worker take over at once."""
        leases.release(self._store, LEASE, self._holder)

    # ---- tasks ----

    def report(self) -> None:
        """Write what every backend reports into ``pools``; a backend that does not answer keeps its last report."""
        for backend, driver in self._drivers.items():
            try:
                stats = driver.pools()
            except SharewrightError as error:
                log.warning("a backend does not report", backend=backend, error=str(error))
                continue
            with self._store.begin() as tx:
                write_pools(tx, self._settings, backend, stats)
        forgotten = utcnow() - timedelta(seconds=100 * self._settings.worker.stats_seconds)
        with self._store.begin() as tx:  # a backend that nobody configures any more
            tx.execute(
                delete(pools).where(pools.c.backend.not_in(list(self._drivers)), pools.c.reported_at < forgotten)
            )

    def reconcile(self) -> None:
        """See operations/reconciler.py."""
        enqueued = reconciler.reconcile(self._store, self._settings, backends=list(self._drivers))
        made = {kind: number for kind, number in enqueued.items() if number}
        if made:
            # Looking after every server is routine; anything else was missing work.
            (log.debug if made.keys() == {"heal_server"} else log.info)("reconciled", **made)

    def tidy(self) -> None:
        """What drivers had to leave. One that cannot do it now keeps no other from it."""
        for backend, driver in self._drivers.items():
            if isinstance(driver, TidyDriver):
                try:
                    driver.tidy()
                except SharewrightError as error:
                    log.warning("a backend cannot be tidied now", backend=backend, error=str(error))

    def empty_bin(self) -> None:
        """Ask for the deletion of shares whose time in the recycle bin is over."""
        columns = shares.c
        due = and_(
            columns.scheduled_to_be_deleted_at.is_not(None),
            columns.scheduled_to_be_deleted_at <= utcnow(),
            columns.status.in_((ShareStatus.AVAILABLE, ShareStatus.ERROR, "inactive")),
        )
        query = select(columns.id, columns.project_id, columns.user_id).where(due).limit(_BATCH)
        with self._store.begin() as tx:
            for share in tx.execute(query.with_for_update()).all():
                context = RequestContext(project_id=share.project_id, user_id=share.user_id)
                write_status(tx, share.id, ShareStatus.DELETING)
                enqueue(
                    tx,
                    "delete_share",
                    resource_type="share",
                    resource_id=share.id,
                    context=context,
                    payload={"force": False},
                    seconds=self._settings.worker.operation_seconds,
                )
                log.info("share has been in the recycle bin for its time", share=share.id)

    def purge(self) -> None:
        """Remove expired messages and the operations whose retention time is over, in short transactions."""
        now = utcnow()
        with self._store.begin() as tx:
            tx.execute(delete(messages).where(messages.c.expires_at < now))
        oldest = now - timedelta(days=self._settings.worker.retention_days)
        columns = operations.c
        self._purge_operations(columns.finished_at < oldest)
        # Written as the index of these is, with literals.
        routine = columns.kind.in_([literal_column(f"'{kind}'") for kind in ROUTINE_KINDS])
        succeeded = columns.state == literal_column(f"'{OperationState.SUCCEEDED}'")
        self._purge_operations(columns.finished_at < now - ROUTINE_RETENTION, routine, succeeded)

    def _purge_operations(self, *conditions: ColumnElement[bool]) -> None:
        while True:
            with self._store.begin() as tx:
                batch = list(tx.scalars(select(operations.c.id).where(*conditions).limit(_BATCH)))
                tx.execute(delete(operations).where(operations.c.id.in_(batch)))
            if len(batch) < _BATCH:
                return
