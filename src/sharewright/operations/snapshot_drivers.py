"""Which of the drivers can take snapshots: that is an option of the driver's contract."""

from __future__ import annotations

from collections.abc import Mapping

from sharewright.drivers.contract import RevertDriver, ShareDriver, SnapshotDriver, SnapshotManager
from sharewright.errors import SharewrightError, Unsupported
from sharewright.operations.create_share import find_driver


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


def find_revert_driver(drivers: Mapping[str, ShareDriver], backend: str | None) -> RevertDriver:
    """As :func:`find_snapshot_driver`, of one that can revert shares too."""
    driver = find_snapshot_driver(drivers, backend)
    if not isinstance(driver, RevertDriver):
        raise Unsupported(
            f"The driver of backend {backend} cannot revert shares.",
            hint="A share type that says revert_to_snapshot_support = True keeps its shares off such backends.",
        )
    return driver


def find_snapshot_manager(drivers: Mapping[str, ShareDriver], backend: str | None) -> SnapshotManager:
    """As :func:`find_snapshot_driver`, of one that takes over snapshots and gives them away."""
    driver = find_snapshot_driver(drivers, backend)
    if not isinstance(driver, SnapshotManager):
        raise Unsupported(f"The driver of backend {backend} does not manage snapshots that somebody else took.")
    return driver
