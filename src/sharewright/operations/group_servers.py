"""Which backend and pool a new share group goes to. It has no shares yet, so its share types say what it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select

from sharewright.drivers.contract import ShareDriver
from sharewright.operations.pool_checks import kind_failure, service_failure
from sharewright.operations.pool_rows import Pool, Request, read_pools, read_services, read_subnet_zones
from sharewright.operations.scheduler import Scheduler, best_of
from sharewright.operations.type_specs import instance_columns
from sharewright.store.database import Store
from sharewright.store.tables import share_group_share_types, share_groups, share_type_extra_specs, share_types


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRequest:
    """What the shares of a group will ask of its pool, one of each share type; and the flavor of its server, as the
    first of its share types says."""

    shares: Sequence[Request]
    flavor: str | None


def read_group_request(tx: Connection, share_group_id: str) -> GroupRequest:
    group = tx.execute(select(share_groups).where(share_groups.c.id == share_group_id)).one()
    members = share_group_share_types.c
    types = tx.execute(
        select(share_types.c.id, share_types.c.name)
        .join(share_group_share_types, members.share_type_id == share_types.c.id)
        .where(members.share_group_id == share_group_id)
        .order_by(share_types.c.id)
    ).all()
    specs: dict[str, dict[str, str]] = {row.id: {} for row in types}
    columns = share_type_extra_specs.c
    for row in tx.execute(select(share_type_extra_specs).where(columns.share_type_id.in_(list(specs)))):
        specs[row.share_type_id][row.key] = row.value
    zones, zones_with_several = read_subnet_zones(tx, group.share_network_id)
    requests = [
        Request(
            share_instance_id="",
            size=0,
            protocol="",
            share_type=row.name,
            extra_specs=specs[row.id],
            availability_zone=group.availability_zone,
            share_network_id=group.share_network_id,
            zones=zones,
            zones_with_several=zones_with_several,
            consistent_snapshots=group.consistent_snapshot_support,
        )
        for row in types
    ]
    flavors = [instance_columns(specs[row.id]).get("server_flavor") for row in types]
    return GroupRequest(shares=requests, flavor=flavors[0] if flavors else None)


def choose_group_pool(
    store: Store, scheduler: Scheduler, drivers: Mapping[str, ShareDriver], request: GroupRequest
) -> Pool:
    """The pool with the most free capacity among those that take shares of one of the group's types at least, and whose
    backend takes those of the others, too: a server has shares of all pools of its backend. Raises as
    Scheduler.choose()."""
    failures, silent = scheduler.refresh()
    with store.read() as tx:
        candidates = read_pools(tx, list(drivers), without="")
        services = read_services(tx)

    def failure_of(pool: Pool) -> str:
        siblings = [
            other for other in candidates if other.backend == pool.backend and not service_failure(other, services)
        ]
        kinds = [kind_failure(pool, each) for each in request.shares]
        nowhere = (
            kind
            for kind, each in zip(kinds, request.shares, strict=True)
            if kind and all(kind_failure(other, each) for other in siblings)
        )
        takes_none = kinds[0] if kinds and all(kinds) else ""
        return service_failure(pool, services) or takes_none or next(nowhere, "")

    def refusal() -> str:
        reasons = "; ".join(f"{pool}: {failure}" for pool, failure in sorted(failures.items()))
        return f"No backend can take the share group. {reasons or 'No backend is configured'}."

    return best_of(
        candidates, failure_of, failures, refusal=refusal, hint="See its share types and the pools.", silent=silent
    )
