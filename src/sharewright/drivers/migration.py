"""What a share driver can do besides: move shares to other pools and backends, in two phases ("migration").

The driver of the backend that a share is on moves it; ``destination`` is the driver of the backend it goes to, which
may be the same one. Every method is *ensure*, as all of a driver's (contract.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from sharewright.drivers.contract import ShareDriver
from sharewright.progress import Progress

SERVER_DOMAIN: Final = "share_server_migration_domain"  # the capability of a pool; see ServerMigrationDriver


@dataclass(frozen=True, slots=True, kw_only=True)
class Compatibility:
    """Whether, and how, a driver can move something to a certain place (Manila's names). ``reason``: why it cannot, or
    why not without one of these. ``writable``: clients write on through the first phase; a driver that cannot keep it
    so is not ``compatible``. ``nondisruptive``: what clients have mounted goes on."""

    compatible: bool
    writable: bool = False
    preserve_metadata: bool = False
    nondisruptive: bool = False
    preserve_snapshots: bool = False
    reason: str = ""


@runtime_checkable
class MigrationDriver(ShareDriver, Protocol):
    """``share_instance_id`` is what clients use; ``destination_id`` is another instance of the same share, whose row
    says where it goes and on which share server it will be. Its server is ready from ``continue_migration`` on."""

    def check_migration(
        self, share_instance_id: str, destination_id: str, destination: ShareDriver
    ) -> Compatibility: ...

    def continue_migration(
        self, share_instance_id: str, destination_id: str, destination: ShareDriver, progress: Progress
    ) -> int:
        """The first phase, which clients do not notice: per cent done; 100: all that can be before the second. Called
        again until then."""
        ...

    def complete_migration(
        self, share_instance_id: str, destination_id: str, destination: ShareDriver, progress: Progress
    ) -> None:
        """The second phase: the share is served no more; what it holds is the destination's, its snapshots too
        (``share_snapshot_instances.share_instance_id``). ``create_share`` of the destination then serves it, and
        ``delete_share`` of the source takes away what is left there. Only *this* may be called again after an error
        that came when the destination had it; ``cancel_migration`` brings it back."""
        ...

    def cancel_migration(
        self, share_instance_id: str, destination_id: str, destination: ShareDriver, progress: Progress
    ) -> None:
        """From every state before the destination is the share's main instance: the share is served as it was.
        ``delete_share`` of the destination then takes away what is left there."""
        ...


@runtime_checkable
class ServerMigrationDriver(MigrationDriver, Protocol):
    """What a driver can do besides whose pools report a ``share_server_migration_domain``: give all shares on a share
    server to another one, of any backend with the same domain. Clients write on until the second phase, and snapshots
    go with their shares. The instances' rows stay; they say on which server each is."""

    def check_server_migration(self, share_instance_id: str, destination: ShareDriver) -> Compatibility:
        """Of one of the shares."""
        ...

    def release_share(self, share_instance_id: str, progress: Progress) -> None:
        """The share is served no more, and what it holds is kept. Then its row says where it goes, perhaps."""
        ...

    def take_over_share(self, share_instance_id: str, progress: Progress) -> None:
        """What was released is this backend's, which may be the one that it was released by; ``create_share`` then
        serves it."""
        ...
