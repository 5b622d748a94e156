"""Which backend and pool a new share goes to.

A pool is considered when its backend is configured here and reports; then the checks of pool_checks.py run in order,
and the pool with the most free capacity among those that pass wins. When none passes, the error names for each backend
the check that failed first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import NoResultFound

from sharewright.drivers.contract import ShareDriver
from sharewright.errors import CloudError, CloudUnavailable, NoValidBackend
from sharewright.identifiers import utcnow
from sharewright.operations.pool_checks import (
    capacity_failure,
    kind_failure,
    no_backend_message,
    pool_failure,
    service_failure,
    weight,
)
from sharewright.operations.pool_rows import (
    Pool,
    Request,
    Service,
    read_candidates,
    read_hints,
    read_pools,
    read_replicas,
    read_request,
    read_requests,
    read_services,
    write_pools,
)
from sharewright.settings import Settings
from sharewright.store.database import Store
from sharewright.store.growth import pending_growth, present_sizes
from sharewright.store.tables import share_instances, share_servers, shares


class Scheduler:
    """Chooses pools. Reads ``pools``; asks a driver itself when its report is missing or old."""

    def __init__(self, store: Store, drivers: Mapping[str, ShareDriver], settings: Settings) -> None:
        self._store = store
        self._drivers = drivers
        self._settings = settings

    def choose(
        self,
        share_id: str,
        hints: Mapping[str, Any] | None = None,
        *,
        in_any_zone: bool = False,
        replica_id: str | None = None,
    ) -> Pool:
        """The best pool for a share, or a further replica of one, that exists as rows. ``hints``: same_host and
        different_host (lists of share ids), only_host (a pool's name). ``in_any_zone``: whatever the share type says
        about zones. Raises NoValidBackend, saying why for each backend; CloudUnavailable when one of them does not
        report just now."""
        failures: dict[str, str] = {}
        silent = False
        if replica_id is None:
            request, candidates, services = self._read_for_new(share_id)
        else:
            with self._store.read() as tx:
                request = replace(read_request(tx, share_id, replica_id), others=read_replicas(tx, share_id))
                # It may have a place already, which is not to be counted.
                candidates = read_pools(tx, list(self._drivers), without=replica_id)
                services = read_services(tx)
        request = replace(request, in_any_zone=in_any_zone)
        if hints:
            with self._store.read() as tx:
                request = replace(request, hints=read_hints(tx, hints))
        if stale := self._stale(candidates):
            failures, silent = self._report(stale)
            with self._store.read() as tx:
                candidates = read_pools(tx, list(self._drivers), without=request.share_instance_id)
        if request.from_snapshot:
            candidates = [_with_reserve(pool, "reserved_snapshot_percentage") for pool in candidates]
        return best_of(
            candidates,
            lambda pool: service_failure(pool, services) or pool_failure(pool, request),
            failures,
            refusal=lambda: no_backend_message(request, failures),
            hint="See the share type and the pools.",
            silent=silent,
        )

    def _read_for_new(self, share_id: str) -> tuple[Request, Sequence[Pool], Sequence[Service]]:
        """What the place of a new share depends on, with those that are chosen for others at the moment."""
        request = self._store.look_up(read_requests, share_id)
        if request is None:
            raise NoResultFound
        candidates, services = self._store.look_up(read_candidates, tuple(self._drivers)) or ([], [])
        return request, candidates, services

    def check_place(self, share_id: str) -> None:
        """Raise NoValidBackend when a share is not of the kind that the pool in its row is for. It is there already, so
        room is not asked for."""
        self.refresh()
        with self._store.read() as tx:
            request = read_request(tx, share_id)
            host = tx.execute(select(shares.c.host).where(shares.c.id == share_id)).scalar_one()
            pool = next((pool for pool in read_pools(tx, list(self._drivers), without="") if pool.host == host), None)
        failure = kind_failure(pool, request) if pool is not None else f"{host} is not a pool of a backend here"
        if failure:
            raise NoValidBackend(f"It cannot be managed there: {failure}.", hint="See the share type and the pools.")

    def check_growth(self, share_id: str, increase: int, operation_id: str) -> None:
        """Raise NoValidBackend when the pool that a share lives in, or its share server, has no room for ``increase``
        GiB more; ``operation_id`` is of the extension. What is not known the cloud will say. As Manila's capacity
        filter: the part of the pool that is reserved is the one for extending (reserved_share_extend_percentage)."""
        self.check_server(share_id, increase, operation_id)
        self.refresh()
        with self._store.read() as tx:
            request = read_request(tx, share_id)
            host = tx.execute(select(shares.c.host).where(shares.c.id == share_id)).scalar_one()
            pool = next((pool for pool in read_pools(tx, list(self._drivers), without="") if pool.host == host), None)
        if pool is None:
            return
        failure = capacity_failure(
            _with_reserve(pool, "reserved_share_extend_percentage"), replace(request, size=increase)
        )
        if failure:
            raise NoValidBackend(
                f"The share cannot grow by {increase} GiB. {pool.label}: {failure}.",
                hint="Delete what is not needed, or ask an administrator for more storage.",
            )

    def check_server(self, share_id: str, increase: int, operation_id: str) -> None:
        """Raise NoValidBackend when a share's server has no room for ``increase`` GiB more; ``operation_id`` is of what
        makes the share grow. max_share_server_size is the largest sum of sizes on one share server, however its shares
        came to theirs, with the snapshots that clients mount."""
        instances = share_instances.c
        with self._store.begin() as tx:
            row = tx.execute(
                select(instances.share_server_id, instances.backend).where(
                    instances.share_id == share_id, instances.is_main.is_(True)
                )
            ).one()
            backend = self._settings.backends.get(row.backend)
            limit = -1 if backend is None else backend.max_share_server_size
            if limit < 0 or row.share_server_id is None:
                return
            # One at a time, and after whoever places a new share there.
            tx.execute(select(share_servers.c.id).where(share_servers.c.id == row.share_server_id).with_for_update())
            total = present_sizes(tx, row.share_server_id)
            total += pending_growth(tx, [row.share_server_id], before=operation_id).get(row.share_server_id, 0)
        if total + increase > limit:
            raise NoValidBackend(
                f"The share cannot grow by {increase} GiB: its share server has {total} GiB of shares and "
                f"mounted snapshots and may have {limit}.",
                hint="Create another share with what is wanted, or make other shares on the server smaller.",
            )

    def refresh(self) -> tuple[dict[str, str], bool]:
        """Bring missing and old reports up to date. Returns backend → why it has none, and whether that may pass."""
        with self._store.read() as tx:
            present = read_pools(tx, list(self._drivers), without="")
        return self._report(self._stale(present))

    def _stale(self, present: Sequence[Pool]) -> list[str]:
        """The backends none of whose reports is of late."""
        oldest = utcnow() - timedelta(seconds=3 * self._settings.worker.stats_seconds)
        fresh = {pool.backend for pool in present if pool.reported_at >= oldest}
        return [name for name in self._drivers if name not in fresh]

    def _report(self, backends: Sequence[str]) -> tuple[dict[str, str], bool]:
        failures: dict[str, str] = {}
        silent = False
        for name in backends:
            try:
                stats = self._drivers[name].pools()
            except CloudError as error:
                failures[name] = f"its cloud does not report: {error.message.rstrip('.')}"
                silent = silent or isinstance(error, CloudUnavailable)
                continue
            with self._store.begin() as tx:
                write_pools(tx, self._settings, name, stats)
        return failures, silent


def best_of(
    candidates: Sequence[Pool],
    failure_of: Callable[[Pool], str],
    failures: dict[str, str],
    *,
    refusal: Callable[[], str],
    hint: str,
    silent: bool,
) -> Pool:
    """The heaviest of the pools that nothing speaks against. What does is added to ``failures``, of which ``refusal``
    makes the message of NoValidBackend, or of CloudUnavailable when a backend was ``silent`` (Scheduler.refresh)."""
    passed: list[Pool] = []
    for pool in candidates:
        failure = failure_of(pool)
        if failure:
            failures[pool.label] = failure
        else:
            passed.append(pool)
    if passed:
        return max(passed, key=weight)
    if silent:  # one of these might have done; ask again later
        raise CloudUnavailable(refusal(), hint="The request is tried again.")
    raise NoValidBackend(refusal(), hint=hint)


def _with_reserve(pool: Pool, name: str) -> Pool:
    """The pool with the part reserved that is so for shares from snapshots, or for extending."""
    return replace(pool, reserved_percentage=int(pool.capabilities.get(name, pool.reserved_percentage)))
