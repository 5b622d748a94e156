"""What a share driver does. The stories in operations/ call it; it may use service_instance, clouds and the store.

Every method is *ensure*: it may be called again after a crash at any point and must converge. A driver reports its
steps through ``progress`` and records every cloud object's id in the store at the moment it learns it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, runtime_checkable

from sqlalchemy import Connection

from sharewright.progress import Progress

BACKUP_SUPPORT: Final = "share_backup_support"  # the capability of a pool whose driver is a BackupDriver


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportLocation:
    """``path`` is what a client mounts. ``is_admin_only`` ones are hidden from tenants."""

    path: str
    is_admin_only: bool = False
    preferred: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleOutcome:
    """``error`` is empty when the rule is in force (or, for a rule being denied, when it is gone)."""

    rule_id: str
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStats:
    """What the scheduler and /scheduler-stats/pools see. Capacities in GiB, None unknown; ``capabilities`` holds
    Manila's names (snapshot_support, storage_protocol, …)."""

    pool: str
    total_capacity: float | None
    free_capacity: float | None
    provisioned_capacity: float
    reserved_percentage: int = 0
    capabilities: Mapping[str, Any] = field(default_factory=dict)


class ShareDriver(Protocol):
    """``share_instance_id`` and ``server_id`` are row ids; the driver reads the rows itself."""

    @property
    def backend(self) -> str:
        """The backend's name in the configuration."""
        ...

    def pools(self) -> Sequence[PoolStats]: ...

    # Share servers (DHSS=True).

    def choose_server(
        self, candidates: Sequence[str], share_instance_id: str | None, transaction: Connection
    ) -> str | None:
        """The best of the existing servers for a new share, or None to make one. Reads in the given transaction, which
        writes the choice, so that two shares never take the same last place; it may have written others before (see
        CountingDriver). No share instance: for a share group that has no shares yet."""
        ...

    def create_server(self, server_id: str, progress: Progress) -> None:
        """Raises when it cannot be made; ``delete_server`` then removes what was made."""
        ...

    def update_server_networks(self, server_id: str, progress: Progress) -> Mapping[str, Sequence[ExportLocation]]:
        """Put a server that serves shares on the subnets that its share network has in its zone now, and take it from
        those that are gone; no client on another subnet notices. Returns the export locations of each of its share
        instances. Only for drivers whose pools report ``network_allocation_update_support``."""
        ...

    def delete_server(self, server_id: str, progress: Progress) -> None:
        """Works from every state, with any part missing."""
        ...

    def heal_server(self, server_id: str, progress: Progress) -> bool:
        """Bring a server back to its desired state (started, attached, mounted, exported). False: not possible now."""
        ...

    # Shares.

    def prepare_share(self, share_instance_id: str, progress: Progress) -> None:
        """What can be done before the server is ready (the volume), so that it overlaps with the server's boot."""
        ...

    def create_share(self, share_instance_id: str, server_id: str, progress: Progress) -> Sequence[ExportLocation]:
        """Serve a share, on a server that is ready. ``prepare_share`` was called only if that had to be waited for."""
        ...

    def delete_share(
        self, share_instance_id: str, server_id: str | None, progress: Progress, *, force: bool = False
    ) -> None:
        """Works from every state, with the server or the volume missing too; never blocks on an unreachable guest
        longer than the driver's guest deadline. ``force``: do not insist on a clean unmount either."""
        ...

    def extend_share(self, share_instance_id: str, server_id: str, size: int, progress: Progress) -> None:
        """Grow a share that is in use to ``size`` GiB; no client notices anything but the room. A failure leaves it as
        it was, or larger already in parts that users do not see; the same or another size may be asked for again."""
        ...

    def shrink_share(self, share_instance_id: str, server_id: str, size: int, progress: Progress) -> bool:
        """Make a share that is in use smaller, to ``size`` GiB, with its volume in the cloud; clients may wait for a
        moment. False: it is under way, ask again later. ShrinkRefused: it cannot be. After any error ``cancel_shrink``
        is called."""
        ...

    def cancel_shrink(self, share_instance_id: str, server_id: str | None, progress: Progress) -> None:
        """Undo what an unfinished ``shrink_share`` made, or complete it where it cannot be undone."""
        ...

    def update_access(self, share_instance_id: str, server_id: str, progress: Progress) -> Sequence[RuleOutcome]:
        """Make the server's access equal to the rules in the store. One guest round trip."""
        ...


@runtime_checkable
class CountingDriver(Protocol):
    """A driver whose ``choose_server`` counts what it has chosen before in the same transaction, though that is not
    written yet: the places of many shares are then written in one journey."""

    @property
    def counts_choices(self) -> Literal[True]: ...


@runtime_checkable
class TidyDriver(Protocol):
    """What a driver can do besides."""

    def tidy(self) -> None:
        """Called from time to time, by one worker at a time: take away what earlier work had to leave."""
        ...


@runtime_checkable
class SnapshotDriver(Protocol):
    """What a driver can do besides whose pools report ``snapshot_support``. ``snapshot_instance_id`` is a row's id."""

    def create_snapshot(self, snapshot_instance_id: str, server_id: str, progress: Progress) -> bool:
        """Fix the moment of a snapshot of a share in use, at which the share is as after a clean unmount. True: it is
        whole. False: it is still being copied, and :meth:`is_snapshot_whole` tells when it is. It keeps the cloud's id
        in ``provider_location`` from the moment on at which another snapshot of the server would have to wait."""
        ...

    def is_snapshot_whole(self, snapshot_instance_id: str, progress: Progress) -> bool:
        """Raises CloudObjectMissing when it was lost, and never will be."""
        ...

    def delete_snapshot(self, snapshot_instance_id: str, progress: Progress) -> None:
        """Works from every state, without the share's server too. What was made from it lives on."""
        ...


@runtime_checkable
class GroupSnapshotDriver(SnapshotDriver, Protocol):
    """What a driver can do besides whose pools report ``share_group_stats.consistent_snapshot_support``."""

    def create_group_snapshot(self, members: Mapping[str, str], progress: Progress) -> bool:
        """As :meth:`create_snapshot`, of several shares in use, which all stand still together: what a client wrote to
        one after it had written to another is in no snapshot without the other. ``members``: server ids by snapshot
        instance ids."""
        ...


@runtime_checkable
class RevertDriver(SnapshotDriver, Protocol):
    """What a driver can do besides whose pools report ``revert_to_snapshot_support``."""

    def revert_to_snapshot(
        self, share_instance_id: str, server_id: str, snapshot_id: str, size: int, progress: Progress
    ) -> None:
        """Make a share what it was at the moment of a snapshot, which stays, with the ``size`` in GiB that it had then.
        Clients' handles stay valid; what they have open is lost."""
        ...

    def cancel_revert(self, share_instance_id: str, server_id: str, progress: Progress) -> None:
        """After a failure, of the same operation: the share is served as it was before."""
        ...


@runtime_checkable
class BackupDriver(ShareDriver, Protocol):
    """What a driver can do besides whose pools report ``BACKUP_SUPPORT``: keep copies of shares that outlive
    them. ``backup_id`` is a row's id; ``share_backups.options`` are the request's ``backup_options``. Both kinds of
    copying may take the time that they take: False means ask again later."""

    @property
    def restores_to_any_share(self) -> bool:
        """Whether a backup can be restored to another share than its own."""
        ...

    def create_backup(self, backup_id: str, share_instance_id: str, server_id: str, progress: Progress) -> bool:
        """Copy a share in use as it is at one moment after the call. True: it is whole."""
        ...

    def restore_backup(self, backup_id: str, share_instance_id: str, server_id: str, progress: Progress) -> bool:
        """Make what a share holds what the backup holds; the share keeps its size. True: it is done."""
        ...

    def cancel_restore(self, backup_id: str, share_instance_id: str, server_id: str, progress: Progress) -> None:
        """After a failure, of the same operation: the share is served as it was before."""
        ...

    def delete_backup(self, backup_id: str, progress: Progress) -> None:
        """Works from every state, and undoes an unfinished creation. What was restored from it lives on."""
        ...


@runtime_checkable
class MountDriver(SnapshotDriver, Protocol):
    """What a driver can do besides whose pools report ``mount_snapshot_support``."""

    def snapshot_locations(self, snapshot_instance_id: str, server_id: str) -> Sequence[ExportLocation]:
        """Where clients find the snapshot that the rules in the store let in. No guest is asked."""
        ...

    def update_snapshot_access(
        self, snapshot_instance_id: str, server_id: str, progress: Progress
    ) -> Sequence[RuleOutcome]:
        """Make access to the snapshot equal to the rules in the store, for reading only whatever they say. What that
        takes on the server and in the cloud is there from the first rule on, and gone with the last."""
        ...


@runtime_checkable
class SnapshotManager(SnapshotDriver, Protocol):
    """What a driver can do besides: take over snapshots that somebody else took, and give them away."""

    def manage_snapshot(self, snapshot_instance_id: str, reference: str, progress: Progress) -> int:
        """Make the cloud's snapshot ``reference``, of the share's present volume, the instance's; its size in GiB.
        Raises CloudObjectMissing or CloudError when it is none of those."""
        ...

    def unmanage_snapshot(self, snapshot_instance_id: str, progress: Progress) -> None:
        """Forget it without touching it. From every state."""
        ...


@runtime_checkable
class ReplicationDriver(ShareDriver, Protocol):
    """What a driver can do besides whose pools report a ``replication_type`` (``readable``, ``writable`` or ``dr``) and
    a ``replication_domain``: backends of one domain keep replicas of each other's shares.

    A replica is another share instance of the same share. ``active_id`` is the instance that clients write to; its
    server may be gone. Access rules reach replicas by ``update_access``: as they are (``writable``, where each replica
    is active as soon as it is in sync), for reading only (``readable``) or not at all (``dr``), as
    ``share_instances.is_main`` says; extending by ``extend_share``."""

    def create_replica(
        self, share_instance_id: str, active_id: str, server_id: str, progress: Progress
    ) -> Sequence[ExportLocation]:
        """Serve a new replica and begin to replicate to it; ``prepare_share`` was called before."""
        ...

    def delete_replica(
        self, share_instance_id: str, active_id: str, server_id: str | None, progress: Progress, *, force: bool = False
    ) -> None:
        """End the replication and remove the replica. Works from every state, as :meth:`ShareDriver.delete_share`."""
        ...

    def promote_replica(self, share_instance_id: str, active_id: str, server_id: str, progress: Progress) -> None:
        """Make a replica the one that can be written to, whether the active one can be reached or not. The store says
        so only afterwards; ``update_access`` is then called for it, and ``update_replica`` for the former one."""
        ...

    def update_replica(self, share_instance_id: str, active_id: str, server_id: str, progress: Progress) -> bool:
        """See to it that a replica follows the active one. True: it is in sync; False: not yet."""
        ...


@runtime_checkable
class ShareManager(ShareDriver, Protocol):
    """What a driver can do besides: take over shares that somebody else made, and give them away."""

    def manage_share(
        self,
        share_instance_id: str,
        server_id: str | None,
        export_path: str,
        options: Mapping[str, Any],
        progress: Progress,
    ) -> int:
        """Find what ``export_path`` and the request's ``options`` mean, make it the instance's without changing what it
        holds, and return its size in GiB; ``create_share`` then serves it. Raises CloudError, GuestError or
        InvalidInput when it is none that can be."""
        ...

    def unmanage_share(
        self, share_instance_id: str, server_id: str | None, progress: Progress, *, force: bool = False
    ) -> None:
        """Serve it no more and forget it, with all that it holds. From every state. ``force``: also when its server
        cannot be asked to let go of it."""
        ...


@runtime_checkable
class ShareServerManager(ShareManager, Protocol):
    """What a driver can do besides whose share servers can be given away and taken over again."""

    def manage_server(self, server_id: str, progress: Progress) -> None:
        """Look at the VM of a server that was unmanaged: it must be on the subnets of the row's share network, and
        answer. Nothing is made, and a failure leaves it as it was."""
        ...
