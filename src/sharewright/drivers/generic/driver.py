"""The generic driver: block volumes of any cloud, attached to service VMs, become shares (DHSS=True).

One volume per share, found in the guest by its serial; one document per server, sent by group commit, so that any
number of concurrent changes on a server costs few round trips. What the driver knows of a share is in the columns of
``share_instances`` (records.py), written the moment it is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, Self

from sqlalchemy import Connection, select

from sharewright.clouds.contract import TAG_BACKEND, TAG_DEPLOYMENT, TAG_OWNER, Cloud, Volume, VolumeSpec
from sharewright.drivers.contract import ExportLocation, PoolStats, RuleOutcome
from sharewright.drivers.generic.document import SMB_PORT, build_document
from sharewright.drivers.generic.exports import export_locations
from sharewright.drivers.generic.failures import share_failure
from sharewright.drivers.generic.healing import heal
from sharewright.drivers.generic.managing import VolumeManager, find_reference
from sharewright.drivers.generic.mounting import OWNER as MOUNT_OWNER
from sharewright.drivers.generic.mounting import Mounter
from sharewright.drivers.generic.moves import find_move
from sharewright.drivers.generic.placement import least_loaded
from sharewright.drivers.generic.pools import pool_stats
from sharewright.drivers.generic.records import (
    InstanceRecord,
    find_instance,
    instances_on,
    read_instance,
    remember,
)
from sharewright.drivers.generic.release import release_volume, remove_volume, within
from sharewright.drivers.generic.resize import grow_volume
from sharewright.drivers.generic.retired import RetiredVolumes
from sharewright.drivers.generic.reverting import Reverter
from sharewright.drivers.generic.servers import (
    ServerSubnet,
    distinct_networks,
    record_subnets,
    server_flavor,
    server_subnets,
)
from sharewright.drivers.generic.shrink import Shrinker
from sharewright.drivers.generic.snapshots import SnapshotRecord, Source, VolumeSnapshots
from sharewright.drivers.generic.usage import share_usage
from sharewright.drivers.registration import DriverKind, DriverParts
from sharewright.errors import (
    CloudUnavailable,
    DeadlineExceeded,
    GuestError,
    GuestUnreachable,
    NotFound,
)
from sharewright.guest.document import Document, ShareState, State
from sharewright.identifiers import derived_id
from sharewright.progress import Progress
from sharewright.service_instance.contract import ServiceInstance, ServiceInstances
from sharewright.settings import Backend
from sharewright.store.database import Store
from sharewright.store.tables import share_access_rules, share_instances


class Converger(Protocol):
    """Group commit of documents (service_instance.convergence.Convergence)."""

    def converge(self, server_id: str, build: Callable[[], Document], timeout: float) -> State: ...


class GenericDriver:
    """drivers.contract.ShareDriver for one backend. Holds no state; any number of threads may use it."""

    def __init__(
        self,
        backend: str,
        settings: Backend,
        *,
        store: Store,
        cloud: Cloud,
        instances: ServiceInstances,
        convergence: Converger,
        open_key: Callable[[str], str],
    ) -> None:
        self._backend = backend
        self._settings = settings
        self._store = store
        self._cloud = cloud
        self._instances = instances
        self._convergence = convergence
        self._open_key = open_key
        self._retired = RetiredVolumes(
            store=store,
            cloud=cloud,
            backend=backend,
            attach_seconds=settings.attach_seconds,
            volume_seconds=settings.volume_seconds,
        )
        self._snapshots = VolumeSnapshots(
            store,
            cloud,
            instances,
            tags={TAG_DEPLOYMENT: cloud.deployment, TAG_BACKEND: backend},
            name_template=settings.volume_snapshot_name_template,
            seconds=settings.volume_seconds,
            freeze_seconds=settings.snapshot_freeze_seconds,
            retired=self._retired,
            within=within,
        )

    @classmethod
    def of_parts(cls, parts: DriverParts) -> Self:
        """The driver of a backend, as its registration makes it."""
        return cls(
            parts.backend,
            parts.settings,
            store=parts.store,
            cloud=parts.cloud,
            instances=parts.instances,
            convergence=parts.convergence,
            open_key=parts.open_key,
        )

    @property
    def backend(self) -> str:
        return self._backend

    def pools(self) -> Sequence[PoolStats]:
        return pool_stats(self._backend, self._settings, self._cloud)

    def tidy(self) -> None:
        self._retired.tidy()

    # ---- share servers ----

    def choose_server(self, candidates: Sequence[str], share_instance_id: str, transaction: Connection) -> str | None:
        size = transaction.execute(
            select(share_instances.c.size).where(share_instances.c.id == share_instance_id)
        ).scalar_one()
        return least_loaded(
            transaction,
            candidates,
            size,
            max_shares=self._settings.max_shares_per_share_server,
            max_size=self._settings.max_share_server_size,
        )

    def create_server(self, server_id: str, progress: Progress) -> None:
        subnets = server_subnets(self._store, server_id, self._settings)
        record_subnets(self._store, self._cloud, subnets, progress)
        self._ensure_service_instance(server_id, subnets, progress)

    def update_server_networks(self, server_id: str, progress: Progress) -> Mapping[str, Sequence[ExportLocation]]:
        subnets = server_subnets(self._store, server_id, self._settings)
        record_subnets(self._store, self._cloud, subnets, progress)
        server = self._ensure_service_instance(server_id, subnets, progress)
        with progress.step("guest"):
            state = self._converge(server, progress)
        if state.missing_nics:
            raise GuestUnreachable(
                f"The share server does not see its NIC {', '.join(state.missing_nics)} yet.",
                hint="If it stays so, see the kernel's messages on its console.",
            )
        return {
            each.id: export_locations(each.id, each.protocol, server)
            for each in instances_on(self._store, server_id)
            if each.filesystem_ready
        }

    def manage_server(self, server_id: str, progress: Progress) -> None:
        subnets = server_subnets(self._store, server_id, self._settings)
        record_subnets(self._store, self._cloud, subnets, progress)
        server = self._instances.check(server_id, distinct_networks(subnets), progress)
        with progress.step("guest"):
            self._converge(server, progress)

    def delete_server(self, server_id: str, progress: Progress) -> None:
        self._instances.delete(server_id, progress)

    def heal_server(self, server_id: str, progress: Progress) -> bool:
        return heal(
            self._store,
            self._cloud,
            self._instances,
            server_id,
            document=lambda server: self._document(server, advance=False),
            converge=lambda: self._converge(self._server(server_id), progress),
            subnets=lambda: server_subnets(self._store, server_id, self._settings),
            make_again=lambda subnets: self._ensure_service_instance(server_id, subnets, progress),
            locations=export_locations,
            progress=progress,
        )

    def _ensure_service_instance(
        self, server_id: str, subnets: Sequence[ServerSubnet], progress: Progress
    ) -> ServiceInstance:
        first, *further = distinct_networks(subnets)
        flavor = server_flavor(self._store, server_id)
        return self._instances.ensure(server_id, first, progress, further=further, flavor=flavor)

    # ---- shares ----

    def prepare_share(self, share_instance_id: str, progress: Progress) -> None:
        record = read_instance(self._store, share_instance_id)
        if record.volume_id is None:
            self._ensure_volume(record, progress)

    def create_share(self, share_instance_id: str, server_id: str, progress: Progress) -> Sequence[ExportLocation]:
        record = read_instance(self._store, share_instance_id)
        volume_id = record.volume_id or self._ensure_volume(record, progress).id
        if not record.volume_attached:
            if record.snapshot_id is not None or record.member_id is not None:
                with progress.step("parent"):  # from here on a boot cannot take the copy for its parent
                    self._converge(self._server(server_id), progress)
            with progress.step("attach"):
                self._instances.attach_volume(server_id, volume_id, progress)
                # From here on every document of the server holds the share.
                remember(self._store, progress, share_instance_id, volume_attached=True)
        server = self._server(server_id)
        with progress.step("guest"):
            state = self._serve(share_instance_id, server, volume_id, progress)
            remember(self._store, progress, share_instance_id, filesystem_ready=True, **share_usage(state))
        return export_locations(record.id, record.protocol, server)

    def delete_share(
        self, share_instance_id: str, server_id: str | None, progress: Progress, *, force: bool = False
    ) -> None:
        record = find_instance(self._store, share_instance_id)
        if record is None:
            return
        volume = self._volume_of(record)
        self._release(record, volume, server_id, progress, force=force)
        if find_move(self._store, share_instance_id) is not None:  # whichever of the two has served: both go
            self._shrinker(record, server_id, progress).forget(share_instance_id, progress)
        self._reverter(record, server_id or "", progress).drop_old(record, progress)
        self._remove_volume(record, volume, progress)

    def extend_share(self, share_instance_id: str, server_id: str, size: int, progress: Progress) -> None:
        self.cancel_shrink(share_instance_id, server_id, progress)  # what one that failed may have left
        record = read_instance(self._store, share_instance_id)
        server = self._server(server_id)
        timeout = within(self._settings.volume_seconds, progress)
        with progress.step("volume"):
            volume_id = grow_volume(self._cloud, record, size, timeout=timeout)
            # From here on every document of the server asks for a file system of that size.
            remember(self._store, progress, share_instance_id, size=size)
        with progress.step("guest"):
            state = self._serve(share_instance_id, server, volume_id, progress)
            remember(self._store, progress, share_instance_id, **share_usage(state))

    def shrink_share(self, share_instance_id: str, server_id: str, size: int, progress: Progress) -> bool:
        record = read_instance(self._store, share_instance_id)
        return self._shrinker(record, server_id, progress).shrink(record, size, progress)

    def cancel_shrink(self, share_instance_id: str, server_id: str | None, progress: Progress) -> None:
        record = find_instance(self._store, share_instance_id)
        if record is not None:
            self._shrinker(record, server_id, progress).cancel(share_instance_id, progress)

    def manage_share(
        self,
        share_instance_id: str,
        server_id: str | None,
        export_path: str,
        options: Mapping[str, Any],
        progress: Progress,
    ) -> int:
        record = read_instance(self._store, share_instance_id)
        reference = find_reference(export_path, options, self._volume_name)
        server = self._server(server_id or "")
        manager, name = self._manager(record, server, progress), self._volume_name(record.id)
        # One that is attached to an operator's machine already may be in use there for something else.
        holder = None if server.is_named else server.instance_id
        return manager.take(record, reference, name, holder, progress)

    def unmanage_share(
        self, share_instance_id: str, server_id: str | None, progress: Progress, *, force: bool = False
    ) -> None:
        record = find_instance(self._store, share_instance_id)
        if record is None:
            return
        if record.wanted and find_move(self._store, share_instance_id) is not None:
            self.cancel_shrink(share_instance_id, server_id, progress)  # which volume has the data is known after it
            record = read_instance(self._store, share_instance_id)
        volume = self._volume_of(record)
        self._release(record, volume, server_id, progress, force=force, keep=True)
        self._reverter(record, server_id or "", progress).drop_old(record, progress)
        self._retired.detach(volume, progress)
        self._manager(record, None, progress).give_away(record, volume, progress)

    def update_access(self, share_instance_id: str, server_id: str, progress: Progress) -> Sequence[RuleOutcome]:
        record = read_instance(self._store, share_instance_id)
        if record.volume_id is None or not record.volume_attached:
            raise GuestError(
                f"Share instance {share_instance_id} is not served by any server, so it has no access rules in force.",
                hint="Create the share again.",
            )
        with progress.step("guest"):
            state = self._serve(share_instance_id, self._server(server_id), record.volume_id, progress)
        with self._store.read() as tx:
            rules = tx.execute(
                select(share_access_rules.c.id).where(share_access_rules.c.share_id == record.share_id)
            ).scalars()
            return [RuleOutcome(rule_id=rule, error=state.rule_errors.get(rule, "")) for rule in rules]

    # ---- snapshots ----

    def create_snapshot(self, snapshot_instance_id: str, server_id: str, progress: Progress) -> bool:
        return self._snapshots.create({snapshot_instance_id: server_id}, progress)

    def create_group_snapshot(self, members: Mapping[str, str], progress: Progress) -> bool:
        return self._snapshots.create(members, progress)

    def is_snapshot_whole(self, snapshot_instance_id: str, progress: Progress) -> bool:
        return self._snapshots.is_whole(snapshot_instance_id, progress)

    def delete_snapshot(self, snapshot_instance_id: str, progress: Progress) -> None:
        self._mounter(progress).release(snapshot_instance_id, progress, force=True)
        self._snapshots.delete(snapshot_instance_id, progress)

    def manage_snapshot(self, snapshot_instance_id: str, reference: str, progress: Progress) -> int:
        return self._snapshots.manage(snapshot_instance_id, reference, progress)

    def unmanage_snapshot(self, snapshot_instance_id: str, progress: Progress) -> None:
        self._mounter(progress).release(snapshot_instance_id, progress, force=True)
        self._snapshots.unmanage(snapshot_instance_id, progress)

    def revert_to_snapshot(
        self, share_instance_id: str, server_id: str, snapshot_id: str, size: int, progress: Progress
    ) -> None:
        self.cancel_shrink(share_instance_id, server_id, progress)  # what one that failed may have left
        record = read_instance(self._store, share_instance_id)
        self._reverter(record, server_id, progress).revert(record, snapshot_id, size, progress)

    def cancel_revert(self, share_instance_id: str, server_id: str, progress: Progress) -> None:
        record = find_instance(self._store, share_instance_id)
        if record is not None:
            self._reverter(record, server_id, progress).undo(record, progress)

    def snapshot_locations(self, snapshot_instance_id: str, server_id: str) -> Sequence[ExportLocation]:
        record = read_instance(self._store, self._snapshots.read(snapshot_instance_id).share_instance_id)
        return export_locations(snapshot_instance_id, record.protocol, self._server(server_id))

    def update_snapshot_access(
        self, snapshot_instance_id: str, server_id: str, progress: Progress
    ) -> Sequence[RuleOutcome]:
        return self._mounter(progress).update(snapshot_instance_id, server_id, progress)

    # ---- parts ----

    def _release(
        self,
        record: InstanceRecord,
        volume: Volume | None,
        server_id: str | None,
        progress: Progress,
        *,
        force: bool,
        keep: bool = False,
    ) -> None:
        """Let the share server go without a share; its volume may be detached then. See release_volume."""
        if record.wanted:
            remember(self._store, progress, record.id, wanted=False)
        server = self._instances.find(server_id) if server_id is not None else None
        if server is not None and (record.volume_attached or (volume is not None and volume.instance_id)):
            with progress.step("release"):
                release_volume(
                    server,
                    record.id,
                    look=lambda: self._instances.look(server.id),
                    converge=lambda: self._converge(server, progress),
                    force=force,
                    progress=progress,
                    keep=keep,
                )

    def _manager(self, record: InstanceRecord, server: ServiceInstance | None, progress: Progress) -> VolumeManager:
        server_id = server.id if server is not None else ""
        return VolumeManager(
            store=self._store,
            cloud=self._cloud,
            tags=self._tags(record),
            seconds=self._settings.volume_seconds,
            attach=lambda volume_id: self._instances.attach_volume(server_id, volume_id, progress),
            tell=lambda: self._converge(self._server(server_id), progress),
        )

    def _tags(self, record: InstanceRecord) -> dict[str, str]:
        return {
            TAG_DEPLOYMENT: self._cloud.deployment,
            TAG_BACKEND: self._backend,
            TAG_OWNER: f"share_instance:{record.id}",
        }

    def _mounter(self, progress: Progress) -> Mounter:
        def make(snapshot: SnapshotRecord, source: Source) -> Volume:
            share = read_instance(self._store, snapshot.share_instance_id)
            return self._make_volume(
                share,
                self._volume_name(snapshot.id),
                source.size,
                share.volume_type,
                progress,
                source,
                owner=f"{MOUNT_OWNER}:{snapshot.id}",
            )

        return Mounter(
            store=self._store,
            cloud=self._cloud,
            instances=self._instances,
            snapshots=self._snapshots,
            max_shares=self._settings.max_shares_per_share_server,
            max_size=self._settings.max_share_server_size,
            make=make,
            tell=lambda server: self._converge(server, progress),
            serve=lambda name, server, volume: self._serve(name, self._server(server), volume, progress),
            remove=lambda volume: self._remove(volume, progress),
        )

    def _ensure_volume(self, record: InstanceRecord, progress: Progress) -> Volume:
        volume_type = record.volume_type or self._settings.volume_type or None
        source = self._snapshots.source_of(record)
        with progress.step("volume"):
            # As large as the snapshot's at least, which may be more than its share's: volumes do not shrink.
            size = max(record.size, source.size) if source is not None else record.size
            volume = self._make_volume(record, self._volume_name(record.id), size, volume_type, progress, source)
            remember(
                self._store,
                progress,
                record.id,
                volume_id=volume.id,
                volume_serial=volume.serial,
                volume_type=volume_type,
                filesystem_type=source.filesystem_type
                if source is not None
                else record.filesystem_type or self._settings.filesystem,
                clone_of=source.filesystem_uuid if source is not None else None,
                # Known before the volume is formatted: after a crash in between, the guest finds this UUID and stops.
                filesystem_uuid=derived_id("filesystem", record.id),
            )
        return volume

    def _make_volume(
        self,
        record: InstanceRecord,
        name: str,
        size: int,
        volume_type: str | None,
        progress: Progress,
        source: Source | None = None,
        *,
        owner: str = "",
    ) -> Volume:
        return self._cloud.volumes.ensure_volume(
            VolumeSpec(
                name=name,
                size=size,
                tags=self._tags(record) | ({TAG_OWNER: owner} if owner else {}),
                volume_type=volume_type,
                availability_zone=record.availability_zone,
                source_snapshot=source.snapshot_id if source is not None else None,
            ),
            # Some clouds copy within this call, and that takes the time that it takes.
            timeout=within(self._settings.volume_seconds, progress) if source is None else progress.remaining,
        )

    def _reverter(self, record: InstanceRecord, server_id: str, progress: Progress) -> Reverter:
        return Reverter(
            store=self._store,
            snapshots=self._snapshots,
            name=self._volume_name(record.id),
            make=lambda name, size, source: self._make_volume(record, name, size, record.volume_type, progress, source),
            find=self._find_volume,
            tell=lambda: self._converge(self._server(server_id), progress),
            attach=lambda volume_id: self._instances.attach_volume(server_id, volume_id, progress),
            serve=lambda volume_id: self._serve(record.id, self._server(server_id), volume_id, progress),
            retired=self._retired,
            usage=share_usage,
        )

    def _serve(self, share_instance_id: str, server: ServiceInstance, volume_id: str, progress: Progress) -> ShareState:
        """Converge the server and return the share's state in it; attach again, once, a disk the guest misses."""
        state = self._share_state(share_instance_id, self._converge(server, progress))
        if state.error == "device_missing":
            self._instances.attach_volume(server.id, volume_id, progress)
            state = self._share_state(share_instance_id, self._converge(server, progress))
        failure = share_failure(state)
        if failure is not None:
            raise failure
        return state

    def _shrinker(self, record: InstanceRecord, server_id: str | None, progress: Progress) -> Shrinker:
        def look(seconds: float) -> ShareState:
            return self._share_state(record.id, self._converge(self._server(server_id or ""), progress, more=seconds))

        return Shrinker(
            store=self._store,
            cloud=self._cloud,
            stall_seconds=self._settings.shrink_stall_seconds,
            open_seconds=self._settings.shrink_open_files_seconds,
            look=look,
            make=lambda name, size: self._make_volume(record, name, size, record.volume_type, progress),
            attach=lambda volume_id: self._instances.attach_volume(server_id or "", volume_id, progress),
            retired=self._retired,
            find=self._find_volume,
            name=lambda move: f"{self._volume_name(record.id)}-{move.id[:8]}",
        )

    def _find_volume(self, name: str) -> Volume | None:
        return next((volume for volume in self._cloud.volumes.list_volumes() if volume.name == name), None)

    @staticmethod
    def _share_state(share_instance_id: str, state: State) -> ShareState:
        for share in state.shares:
            if share.id == share_instance_id:
                return share
        raise CloudUnavailable(f"The share server did not report share instance {share_instance_id}.")

    def _converge(self, server: ServiceInstance, progress: Progress, *, more: float = 0.0) -> State:
        """``more``: seconds that the guest may take besides what a call may take."""
        progress.check()
        try:
            return self._convergence.converge(
                server.id,
                lambda: self._document(server),
                within(self._settings.guest_seconds + more, progress),
            )
        except DeadlineExceeded as error:
            if progress.remaining <= 0:
                raise
            # The call's time is over, not the operation's: like no answer, it may go better the next time.
            raise GuestUnreachable(error.message, hint=error.hint) from error

    def _document(self, server: ServiceInstance, *, advance: bool = True) -> Document:
        return build_document(
            self._store,
            server.id,
            server.firewall,
            self._open_key,
            network=server.network,
            borrowed=server.is_named,
            advance=advance,
        )

    def _server(self, server_id: str) -> ServiceInstance:
        server = self._instances.find(server_id)
        if server is None:
            raise NotFound(f"Share server {server_id} has no service instance.", hint="Create the share again.")
        return server

    def _volume_name(self, share_instance_id: str) -> str:
        return self._settings.volume_name_template % share_instance_id

    def _volume_of(self, record: InstanceRecord) -> Volume | None:
        """The volume as the cloud knows it. One that was made and not yet recorded is found by its owner tag. One that
        was given away may be another share's by now."""
        owner = f"share_instance:{record.id}"
        if record.volume_id is not None:
            volume = self._cloud.volumes.find_volume(record.volume_id)
            return volume if volume is not None and volume.tags.get(TAG_OWNER, owner) == owner else None
        return next(
            (volume for volume in self._cloud.volumes.list_volumes() if volume.tags.get(TAG_OWNER) == owner), None
        )

    def _remove_volume(self, record: InstanceRecord, volume: Volume | None, progress: Progress) -> None:
        self._remove(volume, progress)
        remember(
            self._store,
            progress,
            record.id,
            volume_id=None,
            volume_serial=None,
            volume_attached=False,
            clone_of=None,
        )

    def _remove(self, volume: Volume | None, progress: Progress) -> None:
        options = self._settings
        remove_volume(
            self._cloud,
            volume,
            progress,
            attach_seconds=options.attach_seconds,
            volume_seconds=options.volume_seconds,
        )


GENERIC = DriverKind(make=GenericDriver.of_parts, client_ports=(2049, SMB_PORT), takes_named_servers=True)
