"""What the database says about the whole deployment, read anew for each scrape. Any process gives the same answer.

A scrape costs one read transaction of a few statements. Series per share and server are labelled with their ids, so
their number is that of shares and servers; beyond ``metrics.most_detailed_shares`` there are none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import Connection, Table, case, exists, func, literal, literal_column, or_, select, union_all

from sharewright.identifiers import utcnow
from sharewright.operations import leases
from sharewright.states import OperationState
from sharewright.store.database import Store
from sharewright.store.tables import (
    operations,
    pools,
    retired_volumes,
    share_group_snapshots,
    share_instances,
    share_servers,
    share_snapshot_instances,
    share_snapshots,
    shares,
    workers,
)

GIBIBYTE: Final = 2**30
SERVER: Final = ("share_server_id", "project_id", "backend")
SHARE: Final = ("share_id", "project_id", "share_server_id", "backend")


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its name, what it says, its labels. ``detailed``: a series for each share or server. A name that ends
    in ``_total`` is a counter's; it begins anew with the guest's own."""

    name: str
    text: str
    labels: tuple[str, ...] = ()
    detailed: bool = False

    def empty(self) -> CounterMetricFamily | GaugeMetricFamily:
        kind = CounterMetricFamily if self.name.endswith("_total") else GaugeMetricFamily
        return kind(self.name, self.text, labels=self.labels)


FAMILIES: Final = {
    family.name: family
    for family in (
        Family(
            "sharewright_operations_open",
            "Operations that are not finished; state: queued (ready for a worker), parked (waits for a time or for "
            "another operation), running",
            ("kind", "state"),
        ),
        Family(
            "sharewright_operations_oldest_age_seconds",
            "Time since the oldest of them was asked for",
            ("kind", "state"),
        ),
        Family("sharewright_shares", "Shares by status", ("status",)),
        Family("sharewright_share_snapshots", "Snapshots of shares by status", ("status",)),
        Family("sharewright_share_group_snapshots", "Snapshots of share groups by status", ("status",)),
        Family(
            "sharewright_detailed_metrics",
            "1: those of each share and share server are told; 0: there are more than metrics.most_detailed_shares",
        ),
        Family("sharewright_share_servers", "Share servers by status", ("backend", "status")),
        Family(
            "sharewright_share_servers_unhealthy",
            "Share servers that did not answer, or were not wholly as they should be, when last looked at",
            ("backend",),
        ),
        Family(
            "sharewright_retired_volumes",
            "Volumes that shares have left and that are still to be deleted; state: kept (snapshots of the share need "
            "it), due (nothing was tried yet), refused (the cloud did not delete it; others' snapshots may be of it)",
            ("backend", "state"),
        ),
        Family(
            "sharewright_retired_volumes_oldest_age_seconds",
            "Time since a share left the oldest of them",
            ("backend", "state"),
        ),
        Family("sharewright_pool_total_bytes", "Capacity of a pool, where the cloud tells it", ("pool",)),
        Family("sharewright_pool_free_bytes", "Free capacity of a pool, where the cloud tells it", ("pool",)),
        Family("sharewright_pool_provisioned_bytes", "Sizes promised to the shares of a pool", ("pool",)),
        Family("sharewright_pool_report_age_seconds", "Time since a pool's backend last reported", ("pool",)),
        Family(
            "sharewright_service_heartbeat_age_seconds",
            "Time since a service last said that it lives, as in the API's list of services",
            ("binary", "host"),
        ),
        Family("sharewright_share_size_bytes", "Size that a share was asked for", SHARE, detailed=True),
        Family(
            "sharewright_share_used_bytes",
            "Bytes in use in a share's file system; none while it does not answer",
            SHARE,
            detailed=True,
        ),
        Family("sharewright_share_file_system_bytes", "Size of a share's file system", SHARE, detailed=True),
        Family("sharewright_share_inodes_used", "Inodes in use in a share's file system", SHARE, detailed=True),
        Family("sharewright_share_inodes_limit", "Inodes that a share's file system can have", SHARE, detailed=True),
        Family(
            "sharewright_share_nfs_read_bytes_total",
            "Bytes that NFS clients read from a share; begins anew when its access rules change",
            SHARE,
            detailed=True,
        ),
        Family(
            "sharewright_share_nfs_written_bytes_total",
            "Bytes that NFS clients wrote to a share; begins anew when its access rules change",
            SHARE,
            detailed=True,
        ),
        Family(
            "sharewright_share_smb_connections",
            "Connections of SMB clients to a share; none where Samba does not run",
            SHARE,
            detailed=True,
        ),
        Family(
            "sharewright_share_server_healthy",
            "1: as it should be when last looked at; 0: not",
            SERVER,
            detailed=True,
        ),
        Family(
            "sharewright_share_server_last_seen_timestamp_seconds",
            "When a share server last answered",
            SERVER,
            detailed=True,
        ),
        Family(
            "sharewright_share_server_usage_timestamp_seconds",
            "When a share server last told what is in use, of its shares too",
            SERVER,
            detailed=True,
        ),
        Family(
            "sharewright_share_server_nfs_clients", "NFS clients connected to a share server", SERVER, detailed=True
        ),
        Family(
            "sharewright_share_server_smb_sessions",
            "Sessions of SMB clients on a share server; none where Samba does not run",
            SERVER,
            detailed=True,
        ),
        Family(
            "sharewright_share_server_smb_clients",
            "Machines with a session of SMB on a share server; none where Samba does not run",
            SERVER,
            detailed=True,
        ),
        Family(
            "sharewright_share_server_nfs_calls_total",
            "NFS requests to a share server since its VM booted",
            SERVER,
            detailed=True,
        ),
        Family(
            "sharewright_share_server_nfs_operations_total",
            "NFSv4 operations in these; a request has several",
            (*SERVER, "operation"),
            detailed=True,
        ),
        Family(
            "sharewright_share_server_nfs_read_bytes_total",
            "Bytes that NFS clients read from a share server since its VM booted",
            SERVER,
            detailed=True,
        ),
        Family(
            "sharewright_share_server_nfs_written_bytes_total",
            "Bytes that NFS clients wrote to a share server since its VM booted",
            SERVER,
            detailed=True,
        ),
        Family(
            "sharewright_share_server_smb_operations_total",
            "SMB requests to a share server since its Samba was started; none where Samba does not run",
            (*SERVER, "operation"),
            detailed=True,
        ),
        Family(
            "sharewright_share_server_smb_read_bytes_total",
            "Bytes that Samba read from shares since it was started",
            SERVER,
            detailed=True,
        ),
        Family(
            "sharewright_share_server_smb_written_bytes_total",
            "Bytes that Samba wrote to shares since it was started",
            SERVER,
            detailed=True,
        ),
    )
}


@dataclass(slots=True)
class _Answer:
    """The families of one scrape, in the order of FAMILIES."""

    detailed: bool
    families: dict[str, CounterMetricFamily | GaugeMetricFamily] = field(init=False)

    def __post_init__(self) -> None:
        self.families = {
            name: family.empty() for name, family in FAMILIES.items() if self.detailed or not family.detailed
        }

    def add(self, name: str, labels: Sequence[str | None], value: float | None) -> None:
        """A series; none where there is nothing to tell."""
        if value is not None:
            self.families[f"sharewright_{name}"].add_metric([label or "" for label in labels], value)


class DeploymentCollector(Collector):
    """For a registry of prometheus_client. Up to so many shares, it tells of each share and server, too."""

    def __init__(self, store: Store, *, most_detailed_shares: int) -> None:
        self._store = store
        self._most = most_detailed_shares

    def describe(self) -> Iterable[Metric]:
        """What it would tell, without asking the database."""
        return list(_Answer(detailed=True).families.values())

    def collect(self) -> Iterator[Metric]:
        now = utcnow()
        with self._store.read() as tx:
            counted = _count(tx, shares, share_snapshots, share_group_snapshots)
            total = sum(number for table, _, number in counted if table == shares.name)
            answer = _Answer(detailed=total <= self._most and self._most > 0)
            answer.add("detailed_metrics", (), float(answer.detailed))
            for table, status, number in counted:
                answer.add(table, (status,), number)
            _collect_operations(tx, answer, now)
            _collect_sums(tx, answer, now)
            if answer.detailed:
                _collect_shares(tx, answer, _collect_servers(tx, answer))
        yield from answer.families.values()


def _count(tx: Connection, *tables: Table) -> list[tuple[str, str, int]]:
    """Name of the table, status, number of rows. One statement."""
    queries = [
        select(literal(table.name), table.c.status, func.count()).select_from(table).group_by(table.c.status)
        for table in tables
    ]
    return [(name, status, number) for name, status, number in tx.execute(union_all(*queries))]


def _collect_operations(tx: Connection, answer: _Answer, now: datetime) -> None:
    columns = operations.c
    parked = or_(columns.not_before > now, columns.waits_for.is_not(None))
    state: Any = case(
        (columns.state == OperationState.RUNNING, OperationState.RUNNING), (parked, "parked"), else_=columns.state
    )
    query = (
        select(
            columns.kind,
            state.label("phase"),
            func.count().label("number"),
            func.min(columns.created_at).label("oldest"),
        )
        .where(leases.is_open(columns))
        .group_by(columns.kind, literal_column("phase"))
    )
    for row in tx.execute(query):
        answer.add("operations_open", (row.kind, row.phase), row.number)
        answer.add("operations_oldest_age_seconds", (row.kind, row.phase), _age(row.oldest, now))


def _collect_sums(tx: Connection, answer: _Answer, now: datetime) -> None:
    servers = share_servers.c
    unhealthy = func.count(case((servers.healthy.is_(False), 1))).label("unhealthy")
    sick: dict[str, int] = {}
    for row in tx.execute(
        select(servers.backend, servers.status, func.count().label("number"), unhealthy).group_by(
            servers.backend, servers.status
        )
    ):
        answer.add("share_servers", (row.backend, row.status), row.number)
        sick[row.backend] = sick.get(row.backend, 0) + row.unhealthy
    for backend, number in sick.items():
        answer.add("share_servers_unhealthy", (backend,), number)
    _collect_retired(tx, answer, now)
    for row in tx.execute(select(pools)):
        for what in ("total", "free", "provisioned"):
            capacity = getattr(row, f"{what}_capacity")
            answer.add(f"pool_{what}_bytes", (row.host,), None if capacity is None else capacity * GIBIBYTE)
        answer.add("pool_report_age_seconds", (row.host,), _age(row.reported_at, now))
    for row in tx.execute(select(workers.c.binary, workers.c.host, workers.c.heartbeat_at)):
        answer.add("service_heartbeat_age_seconds", (row.binary, row.host), _age(row.heartbeat_at, now))


def _collect_retired(tx: Connection, answer: _Answer, now: datetime) -> None:
    columns, snapshots = retired_volumes.c, share_snapshot_instances.c
    kept = exists().where(
        snapshots.share_instance_id == columns.share_instance_id, snapshots.volume_id == columns.volume_id
    )
    state: Any = case((kept, "kept"), (columns.reason.is_not(None), "refused"), else_="due")
    query = select(
        columns.backend,
        state.label("phase"),
        func.count().label("number"),
        func.min(columns.created_at).label("oldest"),
    ).group_by(columns.backend, literal_column("phase"))
    for row in tx.execute(query):
        answer.add("retired_volumes", (row.backend, row.phase), row.number)
        answer.add("retired_volumes_oldest_age_seconds", (row.backend, row.phase), _age(row.oldest, now))


# Metric → column of share_instances, or key of share_servers.usage.
OF_SHARES: Final = {
    "share_used_bytes": "bytes_used",
    "share_file_system_bytes": "bytes_total",
    "share_inodes_used": "inodes_used",
    "share_inodes_limit": "inodes_total",
    "share_nfs_read_bytes_total": "bytes_read",
    "share_nfs_written_bytes_total": "bytes_written",
}
OF_SERVERS: Final = {
    "share_server_nfs_clients": "nfs_clients",
    "share_server_smb_sessions": "smb_sessions",
    "share_server_smb_clients": "smb_clients",
    "share_server_nfs_calls_total": "nfs_calls",
    "share_server_nfs_read_bytes_total": "nfs_bytes_read",
    "share_server_nfs_written_bytes_total": "nfs_bytes_written",
    "share_server_smb_read_bytes_total": "smb_bytes_read",
    "share_server_smb_written_bytes_total": "smb_bytes_written",
}


def _collect_shares(tx: Connection, answer: _Answer, connections: dict[str, dict[str, int]]) -> None:
    """``connections``: by server, as :func:`_collect_servers` found them."""
    columns = share_instances.c
    query = select(
        columns.id, columns.share_id, shares.c.project_id, columns.share_server_id, columns.backend, columns.size,
        shares.c.protocol,
        *(columns[name] for name in OF_SHARES.values()),
    ).join(shares, shares.c.id == columns.share_id)  # fmt: skip
    for row in tx.execute(query):
        labels = (row.share_id, row.project_id, row.share_server_id, row.backend)
        answer.add("share_size_bytes", labels, row.size * GIBIBYTE)
        for name, column in OF_SHARES.items():
            answer.add(name, labels, row._mapping[column])
        if row.protocol == "CIFS" and row.share_server_id in connections:
            answer.add("share_smb_connections", labels, connections[row.share_server_id].get(row.id, 0))


def _collect_servers(tx: Connection, answer: _Answer) -> dict[str, dict[str, int]]:
    """Server → share instance → connections of SMB, of the servers that tell."""
    connections: dict[str, dict[str, int]] = {}
    columns = share_servers.c
    query = select(
        columns.id, columns.project_id, columns.backend, columns.healthy, columns.last_seen, columns.usage,
        columns.usage_at,
    )  # fmt: skip
    for row in tx.execute(query):
        labels = (row.id, row.project_id, row.backend)
        usage: dict[str, Any] = row.usage or {}
        answer.add("share_server_healthy", labels, None if row.healthy is None else float(row.healthy))
        answer.add("share_server_last_seen_timestamp_seconds", labels, _timestamp(row.last_seen))
        answer.add("share_server_usage_timestamp_seconds", labels, _timestamp(row.usage_at))
        for name, key in OF_SERVERS.items():
            answer.add(name, labels, usage.get(key))
        for operation, number in usage.get("nfs_operations", {}).items():
            answer.add("share_server_nfs_operations_total", (*labels, operation), number)
        for operation, number in usage.get("smb_operations", {}).items():
            answer.add("share_server_smb_operations_total", (*labels, operation), number)
        if usage.get("smb_sessions") is not None:
            connections[row.id] = usage.get("smb_connections", {})
    return connections


def _age(moment: datetime, now: datetime) -> float:
    return max(0.0, (now - moment).total_seconds())


def _timestamp(moment: datetime | None) -> float | None:
    """Seconds since 1970 of a time of the store, which is UTC without a zone."""
    return None if moment is None else (moment - datetime(1970, 1, 1)).total_seconds()
