"""Which backend and pool a new share goes to.

A pool is considered when its backend is configured here and reports; then the checks below run in order, and the pool
with the most free capacity among those that pass wins. When none passes, the error names for each backend the check
that failed first.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, bindparam, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import NoResultFound

from sharewright.drivers.contract import PoolStats, ShareDriver
from sharewright.errors import CloudError, CloudUnavailable, NoValidBackend
from sharewright.identifiers import utcnow
from sharewright.operations.extra_specs import completed, is_true, unsatisfied
from sharewright.operations.registration import DOWN_AFTER, SHARE
from sharewright.operations.share_groups import CONSISTENT_SNAPSHOTS, backend_of_group, consistent_snapshots
from sharewright.operations.type_specs import unasked
from sharewright.settings import Settings
from sharewright.store.database import Store
from sharewright.store.growth import pending_growth, present_sizes
from sharewright.store.tables import (
    pools,
    share_groups,
    share_instances,
    share_network_subnets,
    share_servers,
    share_type_extra_specs,
    share_types,
    shares,
    workers,
)

DOMAIN = "replication_domain"  # the capability: backends with the same one replicate between each other


@dataclass(frozen=True, slots=True, kw_only=True)
class Hints:
    """A share's scheduler hints, with other shares resolved to the pools ("<node>@<backend>#<pool>") they are in."""

    same_host: frozenset[str] | None = None
    different_host: frozenset[str] = frozenset()
    only_host: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicas:
    """Where the other replicas of a share are: their pools, and the active one's replication domain."""

    hosts: frozenset[str]
    domain: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a share asks of a pool. ``size`` in GiB; ``zones``: those that the share network has subnets in (None: the
    default subnet, good for all zones), several of them in ``zones_with_several``. ``hints``: where the user wants it,
    with Manila's names (see affinity). ``group_backend``: where the other shares of its group are."""

    share_instance_id: str
    size: int
    protocol: str
    share_type: str
    extra_specs: Mapping[str, str]
    availability_zone: str | None = None
    share_network_id: str | None = None
    zones: frozenset[str | None] = frozenset()
    zones_with_several: frozenset[str | None] = frozenset()
    hints: Hints | None = None
    from_snapshot: bool = False
    group_backend: str | None = None
    in_any_zone: bool = False  # whatever the share type says about zones
    consistent_snapshots: str | None = None  # the support for them that the share's group has
    others: Replicas | None = None  # of a further replica


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """One row of ``pools``, with what was promised since it was reported (GiB). None is unknown. ``reported_at``: UTC
    without zone."""

    host: str
    backend: str
    availability_zone: str
    total_capacity: float | None
    free_capacity: float | None
    provisioned_capacity: float
    reserved_percentage: int
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    promised: float = 0.0
    reported_at: datetime = datetime.min

    @property
    def label(self) -> str:
        """What a message calls it: the backend, or "<backend>#<pool>" for one of a backend's further pools."""
        pool = self.host.partition("#")[2]
        return self.backend if pool == self.backend else f"{self.backend}#{pool}"

    @property
    def is_thin(self) -> bool:
        return bool(self.capabilities.get("thin_provisioning"))

    @property
    def ratio(self) -> float:
        return float(self.capabilities.get("max_over_subscription_ratio") or 1.0)

    @property
    def reserved(self) -> float:
        return math.floor((self.total_capacity or 0.0) * self.reserved_percentage / 100)

    @property
    def available(self) -> float | None:
        """GiB that may still be promised; None is unknown."""
        limits = []
        if self.capabilities.get("free_quota_gb") is not None:  # the cloud's quota: not a GiB more, however thin
            limits.append(float(self.capabilities["free_quota_gb"]) - self.promised)
        if self.total_capacity is not None and self.free_capacity is not None:
            if self.is_thin:
                promised = self.provisioned_capacity + self.promised
                limits.append((self.total_capacity - self.reserved) * self.ratio - promised)
                limits.append((self.free_capacity - self.reserved) * self.ratio)
            else:
                limits.append(self.free_capacity - self.reserved - self.promised)
        return min(limits, default=None)


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
        with self._store.read() as tx:
            request = replace(read_request(tx, share_id, replica_id), in_any_zone=in_any_zone)
            if hints:
                request = replace(request, hints=read_hints(tx, hints))
            if replica_id is not None:  # the domain is in the reports
                request = replace(request, others=_read_replicas(tx, share_id))
            candidates = read_pools(tx, list(self._drivers), without=request.share_instance_id)
            services = read_services(tx)
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
        failure = _capacity_failure(
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


def write_pools(tx: Connection, settings: Settings, backend: str, stats: Sequence[PoolStats]) -> None:
    """Replace a backend's rows in ``pools``. Any number of processes may do so at the same time."""
    zone = settings.backends[backend].availability_zone if backend in settings.backends else "nova"
    rows = [
        {
            "host": f"{settings.node}@{backend}#{pool.pool}",
            "backend": backend,
            "availability_zone": zone,
            "total_capacity": pool.total_capacity,
            "free_capacity": pool.free_capacity,
            "provisioned_capacity": pool.provisioned_capacity,
            "reserved_percentage": pool.reserved_percentage,
            "capabilities": completed(pool.capabilities),
            "reported_at": utcnow(),
        }
        for pool in stats
    ]
    hosts = [row["host"] for row in rows]
    tx.execute(pools.delete().where(pools.c.backend == backend, pools.c.host.not_in(hosts)))
    insert = sqlite.insert(pools) if tx.dialect.name == "sqlite" else postgresql.insert(pools)
    for row in rows:
        changes = {name: value for name, value in row.items() if name != "host"}
        tx.execute(insert.values(row).on_conflict_do_update(index_elements=["host"], set_=changes))


# ---- what the checks look at -----------------------------------------------------------------------------------------


# A row for each extra spec of its type and each subnet of its network.
_OF_SHARE: Final = (
    select(
        shares.c.size,
        shares.c.protocol,
        shares.c.share_type_id,
        shares.c.snapshot_id,
        shares.c.source_share_group_snapshot_member_id.label("member_id"),
        shares.c.share_group_id,
        share_groups.c.consistent_snapshot_support,
        # What the user asked for; the zone of the chosen backend comes later.
        share_instances.c.availability_zone,
        share_instances.c.id.label("instance_id"),
        share_instances.c.is_main,
        share_instances.c.share_network_id,
        share_types.c.name.label("type_name"),
        share_type_extra_specs.c.key.label("spec_key"),
        share_type_extra_specs.c.value.label("spec_value"),
        share_network_subnets.c.id.label("subnet_id"),
        share_network_subnets.c.availability_zone.label("subnet_zone"),
    )
    .join(share_instances, share_instances.c.share_id == shares.c.id)
    .join(share_types, share_types.c.id == shares.c.share_type_id)
    .outerjoin(share_groups, share_groups.c.id == shares.c.share_group_id)
    .outerjoin(share_type_extra_specs, share_type_extra_specs.c.share_type_id == share_types.c.id)
    .outerjoin(share_network_subnets, share_network_subnets.c.share_network_id == share_instances.c.share_network_id)
    .where(shares.c.id == bindparam("share"))
)
_REQUEST: Final = _OF_SHARE.where(share_instances.c.is_main.is_(True))
_REPLICA_REQUEST: Final = _OF_SHARE.where(share_instances.c.id == bindparam("replica"))

_ZONES: Final = select(share_network_subnets.c.availability_zone).where(
    share_network_subnets.c.share_network_id == bindparam("network")
)


def read_request(tx: Connection, share_id: str, replica_id: str | None = None) -> Request:
    """What a share asks for, or one of its replicas."""
    if replica_id is None:
        rows = tx.execute(_REQUEST, {"share": share_id}).all()
    else:
        rows = tx.execute(_REPLICA_REQUEST, {"share": share_id, "replica": replica_id}).all()
    if not rows:
        raise NoResultFound
    row = rows[0]
    zones, zones_with_several = _counted(
        {each.subnet_id: each.subnet_zone for each in rows if each.subnet_id is not None}.values()
    )
    return Request(
        share_instance_id=row.instance_id,
        size=row.size,
        protocol=row.protocol,
        share_type=row.type_name,
        extra_specs={each.spec_key: each.spec_value for each in rows if each.spec_key is not None},
        availability_zone=row.availability_zone,
        share_network_id=row.share_network_id,
        zones=zones,
        zones_with_several=zones_with_several,
        from_snapshot=row.is_main and (row.snapshot_id is not None or row.member_id is not None),
        group_backend=backend_of_group(tx, row.share_group_id, without=share_id) if row.share_group_id else None,
        consistent_snapshots=row.consistent_snapshot_support,
    )


def read_subnet_zones(tx: Connection, network_id: str | None) -> tuple[frozenset[str | None], frozenset[str | None]]:
    """The zones that a share network has subnets in, and those with several; see Request."""
    if network_id is None:
        return frozenset(), frozenset()
    return _counted(tx.execute(_ZONES, {"network": network_id}).scalars())


def _counted(of_subnets: Iterable[str | None]) -> tuple[frozenset[str | None], frozenset[str | None]]:
    subnets = Counter(of_subnets)
    return frozenset(subnets), frozenset(zone for zone, count in subnets.items() if count > 1)


def _read_replicas(tx: Connection, share_id: str) -> Replicas:
    columns = share_instances.c
    rows = tx.execute(
        select(columns.host, columns.is_main, pools.c.capabilities)
        .outerjoin(pools, pools.c.host == columns.host)
        .where(columns.share_id == share_id, columns.host.is_not(None))
    ).all()
    domain = next((row.capabilities.get(DOMAIN) for row in rows if row.is_main and row.capabilities), None)
    return Replicas(hosts=frozenset(row.host for row in rows), domain=domain)


def read_hints(tx: Connection, hints: Mapping[str, Any]) -> Hints:
    """Where the shares that the hints name are now; one that is gone or nowhere yet counts for nothing."""

    def hosts(name: str) -> frozenset[str]:
        found = tx.execute(select(shares.c.host).where(shares.c.id.in_(hints[name]), shares.c.host.is_not(None)))
        return frozenset(str(host) for host in found.scalars())

    return Hints(
        same_host=hosts("same_host") if hints.get("same_host") else None,
        different_host=hosts("different_host") if hints.get("different_host") else frozenset(),
        only_host=hints.get("only_host"),
    )


_POOLS: Final = select(pools)
_PROMISED: Final = (
    select(share_instances.c.host, func.sum(share_instances.c.size).label("promised"))
    .join(pools, pools.c.host == share_instances.c.host)
    .where(
        share_instances.c.host == bindparam("host"),
        share_instances.c.id != bindparam("without"),
        share_instances.c.wanted.is_(True),
        # Its volume was not there when the pool was reported. The first line says less than the second, and in a form
        # that indexes serve.
        or_(share_instances.c.created_at >= bindparam("oldest"), share_instances.c.volume_id.is_(None)),
        or_(share_instances.c.created_at >= pools.c.reported_at, share_instances.c.volume_id.is_(None)),
    )
    .group_by(share_instances.c.host)
)


def read_pools(tx: Connection, backends: Sequence[str], *, without: str) -> list[Pool]:
    """The pools of these backends, and what other shares were promised on each since its report."""
    rows = [row for row in tx.execute(_POOLS) if row.backend in backends]
    if not rows:
        return []
    oldest = min(row.reported_at for row in rows)
    asked = {"without": without, "oldest": oldest}
    promised = {
        row.host: row.promised
        for host in [row.host for row in rows]
        for row in tx.execute(_PROMISED, {**asked, "host": host})
    }
    return [
        Pool(
            host=row.host,
            backend=row.backend,
            availability_zone=row.availability_zone,
            total_capacity=row.total_capacity,
            free_capacity=row.free_capacity,
            provisioned_capacity=row.provisioned_capacity,
            reserved_percentage=row.reserved_percentage,
            capabilities=row.capabilities,
            promised=float(promised.get(row.host, 0)),
            reported_at=row.reported_at,
        )
        for row in rows
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A row of ``workers`` that runs a backend."""

    host: str
    disabled: bool
    disabled_reason: str | None
    heartbeat_at: datetime


_SERVICES: Final = select(workers.c.host, workers.c.disabled, workers.c.disabled_reason, workers.c.heartbeat_at).where(
    workers.c.binary == SHARE
)


def read_services(tx: Connection) -> list[Service]:
    return [Service(**row._mapping) for row in tx.execute(_SERVICES)]


# ---- the checks ------------------------------------------------------------------------------------------------------


def service_failure(pool: Pool, services: Sequence[Service]) -> str:
    """Why no service works for the pool. No row at all: the caller itself is the service and lives."""
    mine = [row for row in services if row.host in (pool.host.partition("#")[0], pool.host)]
    if not mine:
        return ""
    enabled = [row for row in mine if not row.disabled]
    if not enabled:
        reason = mine[0].disabled_reason
        return f"its service is disabled{f' ({reason})' if reason else ''}"
    if all(row.heartbeat_at < utcnow() - DOWN_AFTER for row in enabled):
        return "its service is down"
    return ""


def pool_failure(pool: Pool, request: Request) -> str:
    """The first check that a pool fails, in words; empty when it passes all."""
    return kind_failure(pool, request) or _capacity_failure(pool, request)


def kind_failure(pool: Pool, request: Request) -> str:
    """The same without the room that it takes."""
    return (
        _zone_failure(pool, request)
        or _affinity_failure(pool, request)
        or _group_failure(pool, request)
        or _replication_failure(pool, request)
        or _protocol_failure(pool, request)
        or unsatisfied(request.extra_specs, pool.capabilities)
        or unasked(request.extra_specs, pool.capabilities)
        or _network_failure(pool, request)
    )


def _affinity_failure(pool: Pool, request: Request) -> str:
    """What Manila's affinity and only-host filters check."""
    hints = request.hints
    if hints is None:
        return ""
    if hints.only_host is not None and pool.host != hints.only_host:
        return f"scheduler hint only_host: {hints.only_host} is asked for"
    if hints.same_host is not None and pool.host not in hints.same_host:
        return "scheduler hint same_host: none of the named shares is in this pool"
    if pool.host in hints.different_host:
        return "scheduler hint different_host: a named share is in this pool"
    return ""


def _group_failure(pool: Pool, request: Request) -> str:
    if request.group_backend not in (None, pool.backend):
        return f"share group: its shares are on backend {request.group_backend}"
    wanted = request.consistent_snapshots
    if wanted is not None and consistent_snapshots(pool.capabilities) != wanted:
        return f"share group: it has {CONSISTENT_SNAPSHOTS} = {wanted}, which the backend does not offer"
    return ""


def _replication_failure(pool: Pool, request: Request) -> str:
    """What Manila's share replication filter checks."""
    others = request.others
    if others is None:
        return ""
    if pool.host in others.hosts:
        return "replication: a replica of the share is in this pool already"
    domain = pool.capabilities.get(DOMAIN)
    if others.domain is None or domain != others.domain:
        return f"replication: its domain is {domain}, the active replica's is {others.domain}"
    return ""


def _zone_failure(pool: Pool, request: Request) -> str:
    if request.availability_zone and request.availability_zone != pool.availability_zone:
        return f"availability zone {request.availability_zone}: the backend is in {pool.availability_zone}"
    allowed = request.extra_specs.get("availability_zones")
    if (
        allowed is not None
        and not request.in_any_zone
        and pool.availability_zone not in [zone.strip() for zone in allowed.split(",")]
    ):
        return f"share type {request.share_type} is for availability zones {allowed}, not {pool.availability_zone}"
    return ""


def _protocol_failure(pool: Pool, request: Request) -> str:
    offered = str(pool.capabilities.get("storage_protocol") or "")
    if not request.protocol:  # of a share group: not known yet
        return ""
    if request.protocol.upper() in offered.upper().split("_"):
        return ""
    return f"protocol {request.protocol}: the backend offers {offered or 'none'}"


def _network_failure(pool: Pool, request: Request) -> str:
    if not pool.capabilities.get("driver_handles_share_servers"):
        return ""
    if request.share_network_id is None:
        return "share network: none is given, and the backend makes its share servers on one"
    if not request.zones & {None, pool.availability_zone}:
        return f"share network: it has no subnet for availability zone {pool.availability_zone}"
    zone = pool.availability_zone if pool.availability_zone in request.zones else None
    if zone in request.zones_with_several and not pool.capabilities.get("share_server_multiple_subnet_support"):
        return "share network: it has several subnets, and the backend's share servers can be on one"
    return ""


def _capacity_failure(pool: Pool, request: Request) -> str:
    available = pool.available
    if available is None:  # unknown, as Manila's filter: let the cloud say
        return ""
    thick = "thin_provisioning" in request.extra_specs and not is_true(request.extra_specs["thin_provisioning"])
    if thick and pool.free_capacity is not None:
        available = min(available, pool.free_capacity - pool.reserved)
    if request.size <= available:
        return ""
    return f"capacity: {request.size} GiB asked for, {max(0.0, available):.1f} GiB available"


def weight(pool: Pool) -> tuple[float, str]:
    """More free capacity is better; unknown is worst; the name decides between equals."""
    available = pool.available
    return (-1.0 if available is None else available, pool.host)


def no_backend_message(request: Request, failures: Mapping[str, str]) -> str:
    what = f"No backend can take a share of {request.size} GiB, {request.protocol}, type {request.share_type}"
    if not failures:
        return f"{what}: no backend is configured."
    reasons = "; ".join(f"{pool}: {failure}" for pool, failure in sorted(failures.items()))
    return f"{what}. {reasons}."
