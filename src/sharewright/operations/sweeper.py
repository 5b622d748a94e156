"""Takes away cloud objects that carry our tag and whose owner is gone from the store; and, since it has the list of all
instances in hand, gives servers whose VM does not run the next turn to be looked at.

An object is taken away only when all of this holds: it carries our deployment's tag and an owner that we understand;
the owner has no row, read *after* the cloud was listed (rows are written before their objects, so a new object always
has its row); no open operation mentions the owner; and all that has been so for the grace time, seen with our own eyes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import structlog
from sqlalchemy import Connection, select

from sharewright.clouds.contract import TAG_DEPLOYMENT, TAG_OWNER, Cloud, Tags
from sharewright.errors import SharewrightError
from sharewright.operations import leases
from sharewright.states import ServerStatus
from sharewright.store.database import Store
from sharewright.store.tables import NEVER, metadata, operations, share_servers

log = structlog.get_logger()

GRACE_SECONDS = 600.0
TIMEOUT = 120.0  # seconds for each call that deletes
_BATCH = 500
# Owner in a tag → the table of its rows. What an owner without a table has is not understood, so it is left alone.
OWNER_TABLES = {
    "share_server": "share_servers",
    "share_instance": "share_instances",
    "share_snapshot_instance": "share_snapshot_instances",
    "share_snapshot_mount": "share_snapshot_mounts",
    "share_backup": "share_backups",
    "service_subnet": "service_subnets",
}
OWNERS = {owner: metadata.tables[table] for owner, table in OWNER_TABLES.items() if table in metadata.tables}

Kind = Literal["instance", "snapshot", "volume", "port", "service_subnet"]
ORDER: Sequence[Kind] = ("instance", "snapshot", "volume", "port", "service_subnet")  # what holds others goes first


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """A cloud object of ours. ``owner`` as in its tag; ``attached_to`` is the instance that holds a volume."""

    cloud: str
    kind: Kind
    id: str
    owner: str
    attached_to: str | None = None
    running: bool = True

    @property
    def name(self) -> tuple[str, str, str]:
        return (self.cloud, self.kind, self.id)


def sight(cloud: str, kind: Kind, identifier: str, tags: Tags, deployment: str, **more: Any) -> Sighting | None:
    """A sighting of what is surely ours and says whose it is; None for anything else, which is left alone."""
    owner_type, _, owner_id = tags.get(TAG_OWNER, "").partition(":")
    if tags.get(TAG_DEPLOYMENT) != deployment or owner_type not in OWNERS or not owner_id:
        return None
    return Sighting(cloud=cloud, kind=kind, id=identifier, owner=f"{owner_type}:{owner_id}", **more)


def choose_orphans(
    sightings: Iterable[Sighting],
    *,
    living: frozenset[str],
    busy: frozenset[str],
    first_seen: Mapping[tuple[str, str, str], float],
    now: float,
    grace: float,
) -> list[Sighting]:
    """The objects to take away, in the order to do it.

    ``living`` are the owners that have a row, ``busy`` those that an open operation mentions; ``first_seen`` tells
    since when (same clock as ``now``) an object has been seen without either.
    """
    orphans = [
        sighting
        for sighting in sightings
        if sighting.owner not in living
        and sighting.owner not in busy
        and now - first_seen.get(sighting.name, now) >= grace
    ]
    return sorted(orphans, key=lambda sighting: (ORDER.index(sighting.kind), sighting.name))


class Sweeper:
    """Looks at all clouds again and again; remembers since when an object has had no owner."""

    def __init__(
        self,
        store: Store,
        clouds: Mapping[str, Cloud],
        *,
        grace_seconds: float = GRACE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        # Backends on the same cloud share one object, and one look.
        self._clouds = {name: cloud for name, cloud in clouds.items() if name == _first_name(clouds, cloud)}
        self._grace = grace_seconds
        self._clock = clock
        self._first_seen: dict[tuple[str, str, str], float] = {}

    def sweep(self) -> list[Sighting]:
        """One round over all clouds; return what was taken away. A cloud that does not answer is left for the next."""
        sightings: list[Sighting] = []
        silent: set[str] = set()
        for name, cloud in self._clouds.items():
            try:
                cloud.networks.repair()
            except SharewrightError as error:
                log.warning("a cloud's networks cannot be repaired now", cloud=name, error=str(error))
            try:
                sightings += _look(name, cloud)
            except SharewrightError as error:
                silent.add(name)
                log.warning("a cloud cannot be swept now", cloud=name, error=str(error))
        with self._store.read() as tx:  # after the look: see the module's text
            owners = {sighting.owner for sighting in sightings}
            living = living_owners(tx, owners)
            busy = busy_owners(tx, owners - living)
        with self._store.begin() as tx:
            look_soon(tx, sightings, complete=not silent)
        now = self._clock()
        spared = living | busy
        unowned = {sighting.name for sighting in sightings if sighting.owner not in spared}
        self._first_seen = {
            **{name: seen for name, seen in self._first_seen.items() if name[0] in silent},
            **{name: self._first_seen.get(name, now) for name in unowned},
        }
        orphans = choose_orphans(
            sightings, living=living, busy=busy, first_seen=self._first_seen, now=now, grace=self._grace
        )
        return [orphan for orphan in orphans if self._remove(orphan)]

    def _remove(self, orphan: Sighting) -> bool:
        cloud = self._clouds[orphan.cloud]
        try:
            if orphan.kind == "instance":
                cloud.compute.delete_instance(orphan.id, timeout=TIMEOUT)
            elif orphan.kind == "snapshot":
                cloud.volumes.delete_snapshot(orphan.id, timeout=TIMEOUT)
            elif orphan.kind == "port":
                cloud.networks.delete_port(orphan.id, timeout=TIMEOUT)
            elif orphan.kind == "service_subnet":
                cloud.networks.delete_service_subnet(orphan.id, timeout=TIMEOUT)
            else:
                if orphan.attached_to is not None:
                    # A server that still serves others let go of it in its healing rounds during the grace time.
                    cloud.compute.detach_volume(orphan.attached_to, orphan.id, timeout=TIMEOUT)
                cloud.volumes.delete_volume(orphan.id, timeout=TIMEOUT)
        except SharewrightError as error:
            log.warning("an orphan could not be taken away", kind=orphan.kind, id=orphan.id, error=str(error))
            return False
        self._first_seen.pop(orphan.name, None)
        log.info("orphan taken away", cloud=orphan.cloud, kind=orphan.kind, id=orphan.id, owner=orphan.owner)
        return True


def _look(name: str, cloud: Cloud) -> list[Sighting]:
    ours = cloud.deployment
    seen: list[Sighting | None] = [
        sight(name, "instance", instance.id, instance.tags, ours, running=instance.running)
        for instance in cloud.compute.list_instances()
    ]
    seen += [sight(name, "snapshot", each.id, each.tags, ours) for each in cloud.volumes.list_snapshots()]
    seen += [
        sight(name, "volume", volume.id, volume.tags, ours, attached_to=volume.instance_id)
        for volume in cloud.volumes.list_volumes()
    ]
    seen += [sight(name, "port", port.id, port.tags, ours) for port in cloud.networks.list_ports()]
    seen += [
        sight(name, "service_subnet", subnet.id, tags, ours) for subnet, tags in cloud.networks.list_service_subnets()
    ]
    return [sighting for sighting in seen if sighting is not None]


def _first_name(clouds: Mapping[str, Cloud], cloud: Cloud) -> str:
    return next(name for name, each in clouds.items() if each is cloud)


def look_soon(tx: Connection, sightings: Iterable[Sighting], *, complete: bool) -> None:
    """Let the reconciler look next at servers in service whose VM is stopped or, if the list is ``complete``, gone; not
    at those that are known to be in trouble already."""
    instances = {sighting.owner: sighting.running for sighting in sightings if sighting.kind == "instance"}
    servers = share_servers.c
    believed = tx.scalars(
        select(servers.id).where(
            servers.status == ServerStatus.ACTIVE,
            servers.healthy.is_not(False),
            servers.named.is_(False),  # their VMs are in nobody's list
        )
    )
    down = [server for server in believed if not instances.get(f"share_server:{server}", not complete)]
    for start in range(0, len(down), _BATCH):
        tx.execute(share_servers.update().where(servers.id.in_(down[start : start + _BATCH])).values(looked_at=NEVER))


def living_owners(tx: Connection, owners: Iterable[str]) -> frozenset[str]:
    """Those of the owners ("<type>:<id>") that have a row."""
    wanted = set(owners)
    living: set[str] = set()
    for owner_type, table in OWNERS.items():
        living.update(f"{owner_type}:{identifier}" for identifier in tx.scalars(select(table.c.id)))
    return frozenset(wanted & living)


def busy_owners(tx: Connection, owners: Iterable[str]) -> frozenset[str]:
    """Those of the owners whose id an open operation names: as its resource, in its payload or in its facts."""
    columns = operations.c
    rows = tx.execute(select(columns.resource_id, columns.payload, columns.facts).where(leases.is_open(columns)))
    text = "\n".join(f"{row.resource_id} {json.dumps(row.payload)} {json.dumps(row.facts)}" for row in rows)
    return frozenset(owner for owner in set(owners) if owner.partition(":")[2] in text)
