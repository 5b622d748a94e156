"""Which of the drivers can take snapshots: that is an option of the driver's contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from sharewright.drivers.contract import (
    ExportLocation,
    GroupSnapshotDriver,
    MountDriver,
    RevertDriver,
    ShareDriver,
    SnapshotDriver,
    SnapshotManager,
)
from sharewright.errors import SharewrightError, Unsupported
from sharewright.operations.create_share import find_driver
from sharewright.operations.snapshot_rows import SnapshotRow

Locations: TypeAlias = Sequence[ExportLocation]


def find_snapshot_driver(drivers: Mapping[str, ShareDriver], backend: str | None) -> SnapshotDriver:
    """The backend's driver. Unsupported when it takes no snapshots, SharewrightError when there is none."""
    if backend is None:
        raise SharewrightError("The share is not on any backend, so it has no snapshots.", hint="Create it again.")
    driver = find_driver(drivers, backend)
    if not isinstance(driver, SnapshotDriver):
        raise Unsupported(
            f"The driver of backend {backend} takes no snapshots.",
            hint="A share type that says snapshot_support = True keeps its shares off such backends.",
        )
    return driver


def find_group_snapshot_driver(drivers: Mapping[str, ShareDriver], backend: str | None) -> GroupSnapshotDriver:
    """As :func:`find_snapshot_driver`, of one that takes snapshots of several shares at one moment."""
    driver = find_snapshot_driver(drivers, backend)
    if not isinstance(driver, GroupSnapshotDriver):
        raise Unsupported(
            f"The driver of backend {backend} takes no snapshots of several shares at one moment.",
            hint="A share group type that says consistent_snapshot_support = host keeps its groups off such backends.",
        )
    return driver


def find_revert_driver(drivers: Mapping[str, ShareDriver], backend: str | None) -> RevertDriver:
    """As :func:`find_snapshot_driver`, of one that can revert shares too."""
    driver = find_snapshot_driver(drivers, backend)
    if not isinstance(driver, RevertDriver):
        raise Unsupported(
            f"The driver of backend {backend} cannot revert shares.",
            hint="A share type that says revert_to_snapshot_support = True keeps its shares off such backends.",
        )
    return driver


def find_mount_driver(drivers: Mapping[str, ShareDriver], backend: str | None) -> MountDriver:
    """As :func:`find_snapshot_driver`, of one whose snapshots clients can mount."""
    driver = find_snapshot_driver(drivers, backend)
    if not isinstance(driver, MountDriver):
        raise Unsupported(
            f"The driver of backend {backend} cannot let clients mount snapshots.",
            hint="A share type that says mount_snapshot_support = True keeps its shares off such backends.",
        )
    return driver


def find_snapshot_manager(drivers: Mapping[str, ShareDriver], backend: str | None) -> SnapshotManager:
    """As :func:`find_snapshot_driver`, of one that takes over snapshots and gives them away."""
    driver = find_snapshot_driver(drivers, backend)
    if not isinstance(driver, SnapshotManager):
        raise Unsupported(f"The driver of backend {backend} does not manage snapshots that somebody else took.")
    return driver


def find_locations(drivers: Mapping[str, ShareDriver], snapshot: SnapshotRow) -> Locations:
    """Where clients will find a snapshot; nowhere where they may not mount it."""
    if not snapshot.mountable or snapshot.server_id is None:
        return ()
    return find_mount_driver(drivers, snapshot.backend).snapshot_locations(snapshot.instance_id, snapshot.server_id)
