"""A driver that keeps replicas and backups and moves shares: the generic driver with that, for the simulated cloud.

Volumes of the simulated cloud hold no data, so there is nothing to copy: a replica is a volume of its own on a share
server of its own (or on the machine that its backend's operator names), in sync as soon as it is served. Rows, servers,
volumes, export locations and access rules are as real there as those of any share. Tests of the API use it; see
docs/write-a-driver.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from sharewright.drivers.contract import BACKUP_SUPPORT, ExportLocation, PoolStats
from sharewright.drivers.generic.driver import GENERIC
from sharewright.drivers.registration import DriverKind, DriverParts
from sharewright.drivers.simulated.backing_up import BackingUp
from sharewright.drivers.simulated.migrating import MigratingDriver
from sharewright.errors import ConfigurationError
from sharewright.progress import Progress
from sharewright.states import WRITABLE


class ReplicatingDriver(BackingUp, MigratingDriver):
    """drivers.contract.ReplicationDriver and BackupDriver, and drivers.migration.ServerMigrationDriver."""

    replication_type = "readable"

    def pools(self) -> Sequence[PoolStats]:
        reported = {
            "replication_type": self.replication_type,
            "replication_domain": self._cloud.deployment,
            BACKUP_SUPPORT: True,
        }
        return [replace(pool, capabilities={**pool.capabilities, **reported}) for pool in super().pools()]

    def create_replica(
        self, share_instance_id: str, active_id: str, server_id: str, progress: Progress
    ) -> Sequence[ExportLocation]:
        return self.create_share(share_instance_id, server_id, progress)

    def delete_replica(
        self, share_instance_id: str, active_id: str, server_id: str | None, progress: Progress, *, force: bool = False
    ) -> None:
        self.delete_share(share_instance_id, server_id, progress, force=force)

    def promote_replica(self, share_instance_id: str, active_id: str, server_id: str, progress: Progress) -> None:
        """It can be written to already; who may is a matter of its rules."""

    def update_replica(self, share_instance_id: str, active_id: str, server_id: str, progress: Progress) -> bool:
        return True


class WritableDriver(ReplicatingDriver):
    """The same, of which clients may write to every replica."""

    replication_type = WRITABLE


def _make(driver: type[MigratingDriver], parts: DriverParts) -> MigratingDriver:
    if parts.cloud.name != "simulated":
        raise ConfigurationError(
            f"The driver of backend {parts.backend} copies no data, so it is for the simulated cloud only.",
            hint='Use driver = "generic".',
        )
    return driver.of_parts(parts)


MIGRATING: Final = DriverKind(  # the same without replicas and backups
    make=partial(_make, MigratingDriver), client_ports=GENERIC.client_ports, takes_named_servers=True
)
REPLICATING: Final = DriverKind(
    make=partial(_make, ReplicatingDriver), client_ports=GENERIC.client_ports, takes_named_servers=True
)
WRITABLE_EVERYWHERE: Final = DriverKind(
    make=partial(_make, WritableDriver), client_ports=GENERIC.client_ports, takes_named_servers=True
)
