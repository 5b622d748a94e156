"""Pools, and what shares ask of them, as the database has them: what pool_checks.py looks at."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, bindparam, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import NoResultFound

from sharewright.drivers.contract import PoolStats
from sharewright.identifiers import utcnow
from sharewright.operations.extra_specs import completed
from sharewright.operations.registration import SHARE
from sharewright.operations.share_groups import backend_of_group
from sharewright.settings import Settings
from sharewright.store.lookups import RowsOf
from sharewright.store.tables import (
    pools,
    share_groups,
    share_instances,
    share_network_subnets,
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A row of ``workers`` that runs a backend."""

    host: str
    disabled: bool
    disabled_reason: str | None
    heartbeat_at: datetime


# A row for each extra spec of its type and each subnet of its network.
_OF_SHARE: Final[Select[Any]] = (
    select(
        shares.c.id,
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
)
_REQUESTS: Final = RowsOf(_OF_SHARE.where(share_instances.c.is_main.is_(True)), shares.c.id)
_REPLICA_REQUEST: Final = _OF_SHARE.where(
    shares.c.id == bindparam("share"), share_instances.c.id == bindparam("replica")
)

_ZONES: Final = select(share_network_subnets.c.availability_zone).where(
    share_network_subnets.c.share_network_id == bindparam("network")
)


def read_request(tx: Connection, share_id: str, replica_id: str | None = None) -> Request:
    """What a share asks for, or one of its replicas."""
    if replica_id is not None:
        rows = tx.execute(_REPLICA_REQUEST, {"share": share_id, "replica": replica_id}).all()
        found = {share_id: _request(tx, rows)} if rows else {}
    else:
        found = read_requests(tx, [share_id])
    if share_id not in found:
        raise NoResultFound
    return found[share_id]


def read_requests(tx: Connection, share_ids: Sequence[str]) -> dict[str, Request]:
    """By id, what shares ask for; one statement, and one for each that is in a share group. For look_up."""
    rows: dict[str, list[Row[Any]]] = {}
    for row in _REQUESTS.read(tx, share_ids):
        rows.setdefault(row.id, []).append(row)
    return {share_id: _request(tx, of_share) for share_id, of_share in rows.items()}


def _request(tx: Connection, rows: Sequence[Row[Any]]) -> Request:
    """Of the rows of one share."""
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
        group_backend=backend_of_group(tx, row.share_group_id, without=row.id) if row.share_group_id else None,
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


def read_replicas(tx: Connection, share_id: str) -> Replicas:
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


_SERVICES: Final = select(workers.c.host, workers.c.disabled, workers.c.disabled_reason, workers.c.heartbeat_at).where(
    workers.c.binary == SHARE
)


def read_services(tx: Connection) -> list[Service]:
    return [Service(**row._mapping) for row in tx.execute(_SERVICES)]


def read_candidates(
    tx: Connection, drivers: Sequence[tuple[str, ...]]
) -> dict[tuple[str, ...], tuple[list[Pool], list[Service]]]:
    """By names of backends: what the places of new shares depend on, however many are chosen at the moment. For
    look_up."""
    return {backends: (read_pools(tx, backends, without=""), read_services(tx)) for backends in drivers}


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
