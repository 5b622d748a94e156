"""What may speak against a pool, one check after the other: each returns why in words, or nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sharewright.identifiers import utcnow
from sharewright.operations.extra_specs import is_true, unsatisfied
from sharewright.operations.pool_rows import DOMAIN, Pool, Request, Service
from sharewright.operations.registration import DOWN_AFTER
from sharewright.operations.share_groups import CONSISTENT_SNAPSHOTS, consistent_snapshots
from sharewright.operations.type_specs import unasked


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
    return kind_failure(pool, request) or capacity_failure(pool, request)


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


def capacity_failure(pool: Pool, request: Request) -> str:
    """Whether the pool has room for the request's size alone."""
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
