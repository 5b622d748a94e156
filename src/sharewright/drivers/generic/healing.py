"""Bring a share server back to what the store says: running, volumes attached, mounted, exported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import structlog
from sqlalchemy import select

from sharewright.clouds.contract import Cloud
from sharewright.drivers.contract import ExportLocation
from sharewright.drivers.generic.mounts import mounts_on
from sharewright.drivers.generic.moves import moves_on
from sharewright.drivers.generic.records import instances_on
from sharewright.drivers.generic.servers import ServerSubnet, distinct_networks, network_changes
from sharewright.drivers.generic.usage import changed_usage, write_usage
from sharewright.drivers.locations import write_locations, write_snapshot_locations
from sharewright.errors import CloudError, CloudUnavailable, GuestError, NotFound, StaleDocument
from sharewright.guest.document import Document, State
from sharewright.progress import Progress
from sharewright.service_instance.contract import ServiceInstance, ServiceInstances
from sharewright.service_instance.layouts import is_routed
from sharewright.store.database import Store
from sharewright.store.tables import (
    share_export_locations,
    share_instances,
    share_snapshot_export_locations,
    share_snapshot_instances,
    shares,
)

log = structlog.get_logger()

# Of a share instance, by its id and protocol.
Locations: TypeAlias = Callable[[str, str, ServiceInstance], Sequence[ExportLocation]]


def heal(
    store: Store,
    cloud: Cloud,
    instances: ServiceInstances,
    server_id: str,
    *,
    document: Callable[[ServiceInstance], Document],
    converge: Callable[[], State],
    subnets: Callable[[], Sequence[ServerSubnet]],
    make_again: Callable[[Sequence[ServerSubnet]], ServiceInstance],
    locations: Locations,
    progress: Progress,
) -> bool:
    """Look first and act only on a difference. False: the server is not (wholly) back; look again later.

    ``make_again`` is called when the cloud says that the VM does not exist any more: the new one has the addresses,
    keys and export paths of the old, and all data are on the volumes. Also when the server is not on the subnets that
    it should be on (``subnets``): it gets the NICs that it lacks. Never while the share network changes: the story that
    changes it makes the same ports and VM, and two at the same time would each make their own.
    ``locations`` are the export locations of a share instance.
    """
    server = instances.find(server_id)
    if server is None:
        return False
    seen: list[State | None] = []

    def look(server: ServiceInstance = server) -> None:
        with suppress(NotFound):  # the server's row is going; said below
            seen.append(_observe(instances, server, document(server)))

    with progress.step("running"):
        running = instances.ensure_running(server_id, progress, ask=look)
    if not running:
        # Only the cloud's own word that it is gone: a VM that is merely silent may still write to the volumes.
        if server.is_named or instances.look(server_id) is not None:
            return False
        if network_changes(store, server_id):
            log.info("service instance is gone while its share network changes", share_server=server_id)
            return False
        log.warning("service instance is gone, making it again", share_server=server_id)
        server = make_again(subnets())
    elif not server.is_named and not _is_on_its_subnets(server, subnets) and not network_changes(store, server_id):
        with progress.step("networks"):
            try:
                server = make_again(subnets())
                seen.clear()
            except CloudUnavailable:
                raise
            except CloudError as error:  # its clients on the other subnets come first
                log.warning("share server lacks a network", share_server=server_id, reason=error.message)
    with progress.step("guest"):
        try:
            state = seen[0] if seen else _observe(instances, server, document(server))
            if state is not None:  # as it should be, volumes included: the cloud need not be asked
                _record(store, server, state, locations, progress)
                return True
        except (GuestError, NotFound) as error:
            log.warning("share server does not answer", share_server=server_id, reason=error.message)
            return False
    with progress.step("volumes"):
        attached = _attach_missing(cloud, instances, server, _volumes_on(store, server_id), progress)
    with progress.step("apply"):
        try:
            state = converge()
        except (GuestError, NotFound) as error:
            log.warning("share server does not answer", share_server=server_id, reason=error.message)
            return False
    _record(store, server, state, locations, progress)
    for share in state.shares:
        if share.error:
            log.warning(
                "share is not served", share_server=server_id, share_instance=share.id, error=share.error,
                reason=share.message,
            )  # fmt: skip
    return attached and _serves(state)


def _observe(instances: ServiceInstances, server: ServiceInstance, document: Document) -> State | None:
    """The guest's state if it is as it should be; None when a document has to be applied."""
    try:
        state = instances.observe(server.id, document)
    except StaleDocument:  # it knows more than was just read
        return None
    ruled = {share.id for share in document.shares if share.rules}
    if state.generation != document.generation or state.changed or not _serves(state):
        return None
    return state if all(share.exported for share in state.shares if share.id in ruled) else None


def _serves(state: State) -> bool:
    return all(share.mounted and not share.error for share in state.shares)


def _volumes_on(store: Store, server_id: str) -> list[tuple[str, str]]:
    """Share instance and volume of all that should be attached: those that shares move to, and those of snapshots that
    clients mount, included."""
    volumes = [
        (record.id, record.volume_id)
        for record in instances_on(store, server_id)
        if record.volume_attached and record.volume_id is not None
    ]
    with store.read() as tx:
        moves = moves_on(tx, server_id)
        mounts = mounts_on(tx, server_id)
    volumes += [(mount.id, mount.volume_id) for mount in mounts if mount.is_served and mount.volume_id is not None]
    return volumes + [(instance, move.volume_id) for instance, move in moves.items() if move.volume_id is not None]


def _attach_missing(
    cloud: Cloud,
    instances: ServiceInstances,
    server: ServiceInstance,
    volumes: Sequence[tuple[str, str]],
    progress: Progress,
) -> bool:
    """Attach again the volumes that the cloud lost the attachment of. False when one cannot be.

    One question for each share of this server: a list would be of all volumes there are.
    """
    complete = True
    for share_instance, volume_id in volumes:
        volume = cloud.volumes.find_volume(volume_id)
        if volume is not None and volume.instance_id == server.instance_id:
            continue
        try:
            if volume is None:
                raise CloudError(f"Volume {volume_id} does not exist any more.")
            instances.attach_volume(server.id, volume.id, progress)
        except CloudUnavailable:
            raise
        except CloudError as error:
            log.warning(
                "volume cannot be attached again", share_server=server.id, share_instance=share_instance,
                reason=error.message,
            )  # fmt: skip
            complete = False
    return complete


def _is_on_its_subnets(server: ServiceInstance, subnets: Callable[[], Sequence[ServerSubnet]]) -> bool:
    """Whether the server has a NIC on each of the tenant's subnets that it should be on, and on no other."""
    if is_routed(server.layout):
        return True
    nics = sum(port.role == "tenant" for port in server.ports)
    return nics == len(distinct_networks(subnets()))


def _record(
    store: Store,
    server: ServiceInstance,
    state: State,
    locations: Locations,
    progress: Progress,
) -> None:
    """Keep what is in use; make export locations agree with the server's addresses. Of shares and locations only what
    differs is written."""
    table, of_snapshots, snapshots = share_export_locations, share_snapshot_export_locations, share_snapshot_instances
    with store.read() as tx:
        usage = changed_usage(tx, state)
        of_shares = _changed_locations(
            tx.execute(
                select(table.c.share_instance_id, shares.c.protocol, table.c.path)
                .join(share_instances, share_instances.c.id == table.c.share_instance_id)
                .join(shares, shares.c.id == share_instances.c.share_id)
                .where(share_instances.c.share_server_id == server.id)
            ).all(),
            locations,
            server,
        )
        mountable = _changed_locations(
            tx.execute(
                select(snapshots.c.id, shares.c.protocol, of_snapshots.c.path)
                .join(snapshots, snapshots.c.id == of_snapshots.c.share_snapshot_instance_id)
                .join(share_instances, share_instances.c.id == snapshots.c.share_instance_id)
                .join(shares, shares.c.id == share_instances.c.share_id)
                .where(share_instances.c.share_server_id == server.id)
            ).all(),
            locations,
            server,
        )
    if not usage and not of_shares and not mountable and state.usage is None:
        return
    with store.begin() as tx:
        progress.fence(tx)
        write_usage(tx, server.id, usage, state)
        for instance_id, value in of_shares.items():
            write_locations(tx, instance_id, value)
        for instance_id, value in mountable.items():
            write_snapshot_locations(tx, instance_id, value)


def _changed_locations(
    rows: Sequence[Any], locations: Locations, server: ServiceInstance
) -> dict[str, Sequence[ExportLocation]]:
    """Instance → its export locations, where they are not those of the rows (instance, protocol, path)."""
    present: dict[tuple[str, str], set[str]] = {}
    for instance_id, protocol, path in rows:
        present.setdefault((instance_id, protocol), set()).add(path)
    found = {
        instance_id: (locations(instance_id, protocol, server), paths)
        for (instance_id, protocol), paths in present.items()
    }
    return {key: wanted for key, (wanted, paths) in found.items() if {each.path for each in wanted} != paths}
