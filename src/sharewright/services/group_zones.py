"""The availability zone of a share group that is asked for without one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, select

from sharewright.operations.extra_specs import unsatisfied
from sharewright.services.validation import ZONES_SPEC, parse_zones
from sharewright.store.tables import pools, share_network_subnets


def group_zone(tx: Connection, types: Sequence[Mapping[str, str]], network_id: str | None) -> str | None:
    """That of the pool with the most free capacity which satisfies all of its share types (their extra specs) and in
    whose zone its share network has a subnet: as Manila, where a new group is put on a backend and has its zone. None
    when no pool does: the group is made all the same, and its shares say what is wrong."""
    subnets: set[str | None] = set()
    if network_id is not None:
        query = select(share_network_subnets.c.availability_zone)
        subnets = set(tx.execute(query.where(share_network_subnets.c.share_network_id == network_id)).scalars())
    best: tuple[float, str] | None = None
    columns = pools.c
    for pool in tx.execute(select(columns.availability_zone, columns.free_capacity, columns.capabilities)):
        zone = str(pool.availability_zone)
        if network_id is not None and not subnets & {None, zone}:
            continue
        if any(ZONES_SPEC in specs and zone not in parse_zones(specs[ZONES_SPEC]) for specs in types):
            continue
        if any(unsatisfied(specs, pool.capabilities) for specs in types):
            continue
        found = (-1.0 if pool.free_capacity is None else float(pool.free_capacity), zone)
        best = found if best is None else max(best, found)
    return best[1] if best is not None else None
