"""Story: a share network got another subnet, and share servers serve it already: each gets a NIC there, while it runs.

for each server of the subnet's zone → a port, plugged in, configured in one guest round trip → export locations; and
the share network is ``active`` again, in one transaction. Nobody on the other subnets notices anything.

When it fails for one server the subnet is taken away again, from all, and a user message says why: a share network
never stays between two states. What cannot be undone just now, healing undoes later.

Healing makes the same ports and plugs them in, under another resource key. So it leaves a server's networks and VM
alone while the share network changes, which it looks up after its own row is there; and this story waits for the
healings whose rows are there already, for they may have looked before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, Connection, exists, select

from sharewright.drivers.contract import ExportLocation, MountDriver, ShareDriver
from sharewright.drivers.locations import write_locations, write_snapshot_locations
from sharewright.errors import CloudCapacityExceeded, SharewrightError
from sharewright.identifiers import utcnow
from sharewright.operations.contract import BaseStory, Done, Operation, Outcome, WaitFor
from sharewright.operations.create_share import find_driver
from sharewright.operations.heal_server import HealServer
from sharewright.operations.messages import Action, Detail, Resource, write_message
from sharewright.operations.share_servers import open_creation
from sharewright.progress import Progress
from sharewright.states import NetworkStatus, OperationState, ServerStatus
from sharewright.store.database import Store
from sharewright.store.tables import (
    operations,
    share_instances,
    share_network_subnets,
    share_networks,
    share_servers,
    share_snapshot_export_locations,
    share_snapshot_instances,
)


@dataclass(frozen=True, slots=True)
class Locations:
    """Export locations by share instance, and by instance of snapshots that clients may mount."""

    shares: dict[str, Sequence[ExportLocation]] = field(default_factory=dict)
    snapshots: dict[str, Sequence[ExportLocation]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Server:
    id: str
    backend: str
    status: str


class AddSubnet(BaseStory):
    """Of a share network. Payload: ``subnet_id`` (its row is there), ``availability_zone``."""

    kind = "add_share_network_subnet"

    def __init__(self, store: Store, drivers: Mapping[str, ShareDriver]) -> None:
        self._store = store
        self._drivers = drivers

    def run(self, operation: Operation, progress: Progress) -> Outcome:
        with self._store.read() as tx:
            present = find_subnet(tx, operation)
            servers = servers_of(tx, operation) if present else []
            for server in servers:
                if server.status == ServerStatus.CREATING:  # it may have begun before the subnet was there
                    creation = open_creation(tx, server.id)
                    if creation is not None:
                        return WaitFor(creation)
        healing = self._earlier_healing(servers, progress)
        if healing is not None:
            return WaitFor(healing)
        locations = self._update(servers, progress)
        return Done(lambda tx: finish(tx, operation, locations))

    def compensate(self, operation: Operation, progress: Progress, error: SharewrightError) -> None:
        with self._store.begin() as tx:
            progress.fence(tx)
            servers = servers_of(tx, operation)
            subnets = share_network_subnets
            tx.execute(subnets.delete().where(subnets.c.id == operation.payload["subnet_id"]))
        locations = self._update(servers, progress)
        with self._store.begin() as tx:
            progress.fence(tx)
            write_all(tx, locations)

    def fail(self, tx: Connection, operation: Operation, error: SharewrightError) -> None:
        activate(tx, operation.resource_id)
        full = isinstance(error, CloudCapacityExceeded)
        write_message(
            tx,
            operation,
            project_id=operation.project_id or "",
            resource_type=Resource.SHARE_NETWORK_SUBNET,
            resource_id=operation.payload["subnet_id"],
            action=Action.CREATE,
            detail=Detail.NEUTRON_SUBNET_FULL if full else Detail.UNKNOWN_ERROR,
            error=error,
        )

    def _earlier_healing(self, servers: Sequence[Server], progress: Progress) -> str | None:
        """An open operation that heals one of the servers and was there before this one ran first."""
        earlier = progress.recall("earlier_healings")
        if earlier is None:
            with self._store.read() as tx:
                earlier = open_healings(tx, operations.c.resource_id.in_([server.id for server in servers]))
            progress.record(earlier_healings=earlier)
        if not earlier:
            return None
        with self._store.read() as tx:
            return next(iter(open_healings(tx, operations.c.id.in_(earlier))), None)

    def _update(self, servers: Sequence[Server], progress: Progress) -> Locations:
        """A server that is in error gets its NIC when it is healed."""
        found = Locations()
        for server in servers:
            if server.status != ServerStatus.ACTIVE:
                continue
            driver = find_driver(self._drivers, server.backend)
            found.shares.update(driver.update_server_networks(server.id, progress))
            if isinstance(driver, MountDriver):
                with self._store.read() as tx:
                    snapshots = located_snapshots(tx, server.id)
                found.snapshots.update({each: driver.snapshot_locations(each, server.id) for each in snapshots})
        return found


def find_subnet(tx: Connection, operation: Operation) -> bool:
    wanted = select(share_network_subnets.c.id).where(share_network_subnets.c.id == operation.payload["subnet_id"])
    return tx.execute(wanted).first() is not None


def open_healings(tx: Connection, which: ColumnElement[bool]) -> list[str]:
    return list(
        tx.execute(
            select(operations.c.id)
            .where(which, operations.c.kind == HealServer.kind, operations.c.state.in_(OperationState.OPEN))
            .order_by(operations.c.id)
        ).scalars()
    )


def servers_of(tx: Connection, operation: Operation) -> list[Server]:
    """Of the share network, in the subnet's zone."""
    own = share_network_subnets
    rows = tx.execute(
        select(share_servers.c.id, share_servers.c.backend, share_servers.c.status)
        .join(own, own.c.id == share_servers.c.share_network_subnet_id)
        .where(
            share_servers.c.share_network_id == operation.resource_id,
            own.c.availability_zone.is_not_distinct_from(operation.payload["availability_zone"]),
        )
        .order_by(share_servers.c.id)
    )
    return [Server(*row) for row in rows]


def located_snapshots(tx: Connection, server_id: str) -> list[str]:
    """Snapshot instances of shares on a server that have export locations."""
    snapshots = share_snapshot_instances
    query = (
        select(snapshots.c.id)
        .join(share_instances, share_instances.c.id == snapshots.c.share_instance_id)
        .where(
            share_instances.c.share_server_id == server_id,
            exists().where(share_snapshot_export_locations.c.share_snapshot_instance_id == snapshots.c.id),
        )
    )
    return list(tx.execute(query.order_by(snapshots.c.id)).scalars())


def finish(tx: Connection, operation: Operation, locations: Locations) -> None:
    write_all(tx, locations)
    activate(tx, operation.resource_id)


def write_all(tx: Connection, locations: Locations) -> None:
    """A share or a snapshot may have been deleted meanwhile."""
    for table, found, write in (
        (share_instances, locations.shares, write_locations),
        (share_snapshot_instances, locations.snapshots, write_snapshot_locations),
    ):
        alive = set(tx.execute(select(table.c.id).where(table.c.id.in_(found))).scalars())
        for instance_id in sorted(alive):
            write(tx, instance_id, found[instance_id])


def activate(tx: Connection, share_network_id: str) -> None:
    tx.execute(
        share_networks.update()
        .where(share_networks.c.id == share_network_id, share_networks.c.status == NetworkStatus.NETWORK_CHANGE)
        .values(status=NetworkStatus.ACTIVE, updated_at=utcnow())
    )
