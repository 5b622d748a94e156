"""Whether a share may be moved to a pool, with another share type or share network perhaps; as the scheduler checks it
for a new share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from sqlalchemy import Connection, select

from sharewright.drivers.contract import ShareDriver
from sharewright.errors import NoValidBackend
from sharewright.operations.migration_rows import read_type
from sharewright.operations.pool_checks import kind_failure, pool_failure, service_failure
from sharewright.operations.pool_rows import Pool, Request, read_pools, read_request, read_services
from sharewright.operations.scheduler import Scheduler
from sharewright.settings import Settings
from sharewright.store.database import Store
from sharewright.store.tables import share_network_subnets, share_types


class Places:
    """Reads ``pools``; asks a driver itself when its report is missing or old."""

    def __init__(self, store: Store, drivers: Mapping[str, ShareDriver], settings: Settings) -> None:
        self._store = store
        self._drivers = drivers
        self._scheduler = Scheduler(store, drivers, settings)

    def check(self, share_id: str, host: str, *, share_type_id: str, share_network_id: str | None) -> Pool:
        """The pool ``host``. Raises NoValidBackend, saying why the share cannot be there."""
        self._scheduler.refresh()
        with self._store.read() as tx:
            request = read_migration_request(tx, share_id, share_type_id, share_network_id)
            found = read_pools(tx, list(self._drivers), without=request.share_instance_id)
            services = read_services(tx)
        pool = next((each for each in found if each.host == host), None)
        if pool is None:
            raise NoValidBackend(f"{host} is not a pool of a backend here.", hint="See the pools.")
        failure = service_failure(pool, services) or pool_failure(pool, request)
        if failure:
            raise NoValidBackend(
                f"The share cannot be migrated to {host}: {failure}.", hint="See the type and the pool."
            )
        return pool

    def choose(self, share_id: str, backend: str, *, share_type_id: str, share_network_id: str) -> Pool:
        """A pool of a backend for a share as it is, as :meth:`check`; room is not asked for, as its volume is there."""
        self._scheduler.refresh()
        with self._store.read() as tx:
            return choose_pool(tx, share_id, backend, share_type_id=share_type_id, share_network_id=share_network_id)


def choose_pool(tx: Connection, share_id: str, backend: str, *, share_type_id: str, share_network_id: str) -> Pool:
    """The same in a transaction, by what the backends have reported."""
    request = read_migration_request(tx, share_id, share_type_id, share_network_id)
    services, failures = read_services(tx), []
    for pool in sorted(read_pools(tx, [backend], without=request.share_instance_id), key=lambda each: each.host):
        failure = service_failure(pool, services) or kind_failure(pool, request)
        if not failure:
            return pool
        failures.append(f"{pool.host}: {failure}")
    raise NoValidBackend(
        f"Share {share_id} cannot be on backend {backend}: {'; '.join(failures) or 'it has no pool'}.",
        hint="See the share's type and the pools.",
    )


def read_migration_request(tx: Connection, share_id: str, share_type_id: str, share_network_id: str | None) -> Request:
    """What a share would ask for as one of that type on that share network, wherever it is now."""
    subnets: Counter[str | None] = Counter(
        tx.scalars(
            select(share_network_subnets.c.availability_zone).where(
                share_network_subnets.c.share_network_id == share_network_id
            )
        )
    )
    name = tx.execute(select(share_types.c.name).where(share_types.c.id == share_type_id)).scalar_one()
    return replace(
        read_request(tx, share_id),
        share_type=name,
        extra_specs=read_type(tx, share_type_id),
        availability_zone=None,
        share_network_id=share_network_id,
        zones=frozenset(subnets),
        zones_with_several=frozenset(zone for zone, count in subnets.items() if count > 1),
        from_snapshot=False,
    )
