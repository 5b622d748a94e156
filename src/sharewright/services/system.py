"""What runs and where: services, pools, availability zones."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import func, select, update

from sharewright.context import RequestContext
from sharewright.errors import Conflict, InvalidInput, NotFound
from sharewright.identifiers import utcnow
from sharewright.operations.extra_specs import unsatisfied
from sharewright.operations.registration import DOWN_AFTER
from sharewright.services import share_types
from sharewright.services.deployment import Deployment, fetch
from sharewright.services.policy import authorize
from sharewright.services.work import submit
from sharewright.states import OperationState
from sharewright.store.tables import availability_zones, operations, pools, share_instances, share_servers, workers

# The hosts whose servers an administrator asked to be looked after, and that is not over yet.
_ENSURED: Final = (
    select(share_servers.c.host)
    .join(operations, operations.c.resource_id == share_servers.c.id)
    .where(
        operations.c.kind == "heal_server",
        operations.c.state.in_(OperationState.OPEN),
        operations.c.request_id.is_not(None),
    )
    .distinct()
)


def list_services(deployment: Deployment, context: RequestContext, filters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every process that reports, oldest first, with state (up, down) and status (enabled, disabled)."""
    authorize(context, "service:index")
    statement = select(workers).order_by(workers.c.number)
    with deployment.store.read() as tx:
        rows = fetch(tx, statement)
        busy = set(tx.scalars(_ENSURED))
    oldest = utcnow() - DOWN_AFTER
    for row in rows:
        row["ensuring"] = row["host"] in busy
        row["zone"] = row["availability_zone"]
        row["status"] = "disabled" if row["disabled"] else "enabled"
        row["state"] = "up" if row["heartbeat_at"] >= oldest else "down"
    wanted = {key: filters[key] for key in ("host", "binary", "zone", "state", "status", "ensuring") if key in filters}
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def enable_service(
    deployment: Deployment, context: RequestContext, *, host: str, binary: str, enabled: bool, reason: str | None = None
) -> None:
    """Let the scheduler use a service or not. Shares that it has are served on."""
    authorize(context, "service:update")
    with deployment.store.begin() as tx:
        changed = tx.execute(
            update(workers)
            .where(workers.c.host == host, workers.c.binary == binary)
            .values(disabled=not enabled, disabled_reason=None if enabled else reason)
        )
        if not changed.rowcount:
            raise NotFound(f"Service {binary[:64]} on host {host[:64]} could not be found.")


def ensure_shares(deployment: Deployment, context: RequestContext, host: str) -> None:
    """Look after every share server of a host now: volumes, exports, rules, export locations. Workers do so from time
    to time anyway."""
    authorize(context, "service:ensure_shares")
    with deployment.store.begin() as tx:
        query = select(workers.c.heartbeat_at).where(workers.c.host == host, workers.c.binary == "manila-share")
        heartbeat = tx.execute(query).scalar()
        if heartbeat is None:
            raise NotFound(f"manila-share binary for '{host[:64]}' host not found.")
        if heartbeat < utcnow() - DOWN_AFTER:
            raise Conflict("The service must have its state set to 'up' prior to running ensure shares.")
        active = select(share_servers.c.id).where(share_servers.c.host == host, share_servers.c.status == "active")
        for server in tx.scalars(active).all():
            submit(tx, deployment, context, "heal_server", "share_server", server)
    deployment.wake()


def list_pools(
    deployment: Deployment, context: RequestContext, filters: Mapping[str, Any], *, detail: bool
) -> list[dict[str, Any]]:
    """The pools as last reported. ``host``, ``backend`` and ``pool`` are regular expressions for the whole value;
    ``share_type`` (id or name) keeps those whose capabilities meet its extra specs, ``capabilities`` likewise."""
    authorize(context, "scheduler_stats:pools:detail" if detail else "scheduler_stats:pools:index")
    with deployment.store.read() as tx:
        rows = fetch(tx, select(pools).order_by(pools.c.host))
        size = func.sum(share_instances.c.size).label("size")
        query = select(share_instances.c.host, size).group_by(share_instances.c.host)
        allocated = {row.host: row.size for row in tx.execute(query)}
        specs: dict[str, str] = {}
        if filters.get("share_type"):
            specs = dict(share_types.choose(tx, deployment, context, filters["share_type"])["extra_specs"])
    specs |= filters.get("capabilities", {})
    patterns = {key: _pattern(filters[key], key) for key in ("host", "backend", "pool") if filters.get(key)}
    shown = []
    for row in rows:
        record = _pool(row, allocated.get(row["host"], 0))
        if any(not pattern.fullmatch(record[key]) for key, pattern in patterns.items()):
            continue
        if specs and unsatisfied(specs, record["capabilities"]):
            continue
        shown.append(record)
    return shown


def list_zones(deployment: Deployment, context: RequestContext) -> list[dict[str, Any]]:
    authorize(context, "availability_zone:index")
    with deployment.store.read() as tx:
        return fetch(tx, select(availability_zones).order_by(availability_zones.c.name))


def _pool(row: Mapping[str, Any], allocated: int) -> dict[str, Any]:
    """``allocated``: GiB of the shares that live in the pool."""
    host, _, rest = row["host"].partition("@")
    backend, _, pool = rest.partition("#")
    unknown = "unknown"
    return {
        "name": row["host"],
        "host": host,
        "backend": backend,
        "pool": pool,
        "capabilities": {
            **row["capabilities"],
            "pool_name": pool,
            "share_backend_name": row["capabilities"].get("share_backend_name", backend),
            "total_capacity_gb": unknown if row["total_capacity"] is None else row["total_capacity"],
            "free_capacity_gb": unknown if row["free_capacity"] is None else row["free_capacity"],
            "allocated_capacity_gb": float(allocated),
            "provisioned_capacity_gb": row["provisioned_capacity"],
            "reserved_percentage": row["reserved_percentage"],
            "timestamp": row["reported_at"].isoformat(timespec="microseconds"),
        },
    }


def _pattern(text: str, name: str) -> re.Pattern[str]:
    try:
        if len(text) > 255:
            raise ValueError
        return re.compile(text)
    except (re.error, ValueError, RecursionError, OverflowError):
        raise InvalidInput(f"Invalid input for {name}: not a regular expression.") from None
