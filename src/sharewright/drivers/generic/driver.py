"""The generic driver: block volumes of any cloud, attached to service VMs, become shares (DHSS=True).

One volume per share, found in the guest by its serial; one document per server, sent by group commit, so that any
number of concurrent changes on a server costs few round trips. What the driver knows of a share is in the columns of
``share_instances`` (records.py), written the moment it is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Self

from sqlalchemy import Connection, bindparam, select

from sharewright.clouds.contract import TAG_BACKEND, TAG_DEPLOYMENT, Cloud, Volume
from sharewright.drivers.contract import ExportLocation, PoolStats, RuleOutcome
from sharewright.drivers.generic.document import SMB_PORT
from sharewright.drivers.generic.exports import export_locations
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
    note,
    read_instance,
    remember,
)
from sharewright.drivers.generic.release import release_volume, within
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
from sharewright.drivers.generic.telling import Converger, ToldServers, share_state
from sharewright.drivers.generic.usage import share_usage
from sharewright.drivers.generic.volumes import ShareVolumes
from sharewright.drivers.registration import DriverKind, DriverParts
from sharewright.errors import (
    GuestError,
    GuestUnreachable,
)
from sharewright.guest.document import ShareState
from sharewright.progress import Progress
from sharewright.service_instance.contract import ServiceInstance, ServiceInstances
from sharewright.settings import Backend
from sharewright.store.database import Store
from sharewright.store.tables import share_access_rules, share_instances

_SIZE: Final = select(share_instances.c.size).where(share_instances.c.id == bindparam("instance"))
_RULES: Final = select(share_access_rules.c.id).where(share_access_rules.c.share_id == bindparam("share"))


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
        self._servers = ToldServers(
            store, instances, convergence, open_key=open_key, guest_seconds=settings.guest_seconds
        )
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
        self._volumes = ShareVolumes(backend, settings, store=store, cloud=cloud, snapshots=self._snapshots)

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

    counts_choices: Final = True  # contract CountingDriver; see least_loaded

    def choose_server(
        self, candidates: Sequence[str], share_instance_id: str | None, transaction: Connection
    ) -> str | None:
        limit, size = self._settings.max_share_server_size, 1  # of the smallest share
        if limit >= 0 and share_instance_id is not None:
            size = transaction.execute(_SIZE, {"instance": share_instance_id}).scalar_one()
        return least_loaded(
            transaction, candidates, size, max_shares=self._settings.max_shares_per_share_server, max_size=limit
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
            state = self._servers.converge(server, progress)
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
            self._servers.converge(server, progress)

    def delete_server(self, server_id: str, progress: Progress) -> None:
        self._instances.delete(server_id, progress)

    def heal_server(self, server_id: str, progress: Progress) -> bool:
        return heal(
            self._store,
            self._cloud,
            self._instances,
            server_id,
            document=lambda server: self._servers.document(server, advance=False),
            converge=lambda: self._servers.converge(self._servers.get(server_id), progress),
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
            self._volumes.ensure(record, progress)

    def create_share(self, share_instance_id: str, server_id: str, progress: Progress) -> Sequence[ExportLocation]:
        record = read_instance(self._store, share_instance_id)
        volume_id = record.volume_id or self._volumes.ensure(record, progress, write=note).id
        if record.volume_attached:
            server = self._servers.get(server_id)
        else:
            if record.snapshot_id is not None or record.member_id is not None:
                with progress.step("parent"):  # from here on a boot cannot take the copy for its parent
                    self._servers.converge(self._servers.get(server_id), progress)
            with progress.step("attach", brief=True):
                server = self._instances.attach_volume(server_id, volume_id, progress)
                # From the next step's start on every document of the server holds the share.
                note(self._store, progress, share_instance_id, volume_attached=True)
        with progress.step("guest"):
            state = self._servers.serve(share_instance_id, server, volume_id, progress)
            note(self._store, progress, share_instance_id, filesystem_ready=True, **share_usage(state))
        return export_locations(record.id, record.protocol, server)

    def delete_share(
        self, share_instance_id: str, server_id: str | None, progress: Progress, *, force: bool = False
    ) -> None:
        record = find_instance(self._store, share_instance_id)
        if record is None:
            return
        volume = self._volumes.of(record)
        self._release(record, volume, server_id, progress, force=force)
        moves, has_retired = self._retired.find_leftovers(share_instance_id)
        if moves:  # whichever of the two has served: both go
            self._shrinker(record, server_id, progress).forget(share_instance_id, progress)
        if moves or has_retired or record.old_volume_id is not None:
            self._reverter(record, server_id or "", progress).drop_old(record, progress)
        self._volumes.remove_of(record, volume, progress)

    def extend_share(self, share_instance_id: str, server_id: str, size: int, progress: Progress) -> None:
        self.cancel_shrink(share_instance_id, server_id, progress)  # what one that failed may have left
        record = read_instance(self._store, share_instance_id)
        server = self._servers.get(server_id)
        timeout = within(self._settings.volume_seconds, progress)
        with progress.step("volume"):
            volume_id = grow_volume(self._cloud, record, size, timeout=timeout)
            # From here on every document of the server asks for a file system of that size.
            remember(self._store, progress, share_instance_id, size=size)
        with progress.step("guest"):
            state = self._servers.serve(share_instance_id, server, volume_id, progress)
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
        reference = find_reference(export_path, options, self._volumes.name)
        server = self._servers.get(server_id or "")
        manager, name = self._manager(record, server, progress), self._volumes.name(record.id)
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
        volume = self._volumes.of(record)
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
        with progress.step("guest", brief=True):
            state = self._servers.serve(share_instance_id, self._servers.get(server_id), record.volume_id, progress)
        with self._store.read() as tx:
            rules = tx.execute(_RULES, {"share": record.share_id}).scalars()
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
        self._reverter(record, server_id, progress).revert(
            record, lambda: self._snapshots.source(snapshot_id, record.id), size, progress
        )

    def cancel_revert(self, share_instance_id: str, server_id: str, progress: Progress) -> None:
        record = find_instance(self._store, share_instance_id)
        if record is not None:
            self._reverter(record, server_id, progress).undo(record, progress)

    def snapshot_locations(self, snapshot_instance_id: str, server_id: str) -> Sequence[ExportLocation]:
        record = read_instance(self._store, self._snapshots.read(snapshot_instance_id).share_instance_id)
        return export_locations(snapshot_instance_id, record.protocol, self._servers.get(server_id))

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
        server = self._instances.find(server_id) if server_id is not None else None
        serves = server is not None and (record.volume_attached or (volume is not None and volume.instance_id))
        if record.wanted:  # with the start of the step that tells the server, when there is one
            (note if serves else remember)(self._store, progress, record.id, wanted=False)
        if server is not None and serves:
            with progress.step("release"):
                release_volume(
                    server,
                    record.id,
                    look=lambda: self._instances.look(server.id),
                    converge=lambda: self._servers.converge(server, progress),
                    force=force,
                    progress=progress,
                    keep=keep,
                )

    def _manager(self, record: InstanceRecord, server: ServiceInstance | None, progress: Progress) -> VolumeManager:
        server_id = server.id if server is not None else ""
        return VolumeManager(
            store=self._store,
            cloud=self._cloud,
            tags=self._volumes.tags(record),
            seconds=self._settings.volume_seconds,
            attach=lambda volume_id: self._instances.attach_volume(server_id, volume_id, progress),
            tell=lambda: self._servers.converge(self._servers.get(server_id), progress),
        )

    def _mounter(self, progress: Progress) -> Mounter:
        def make(snapshot: SnapshotRecord, source: Source) -> Volume:
            share = read_instance(self._store, snapshot.share_instance_id)
            return self._volumes.make(
                share,
                self._volumes.name(snapshot.id),
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
            tell=lambda server: self._servers.converge(server, progress),
            serve=lambda name, server, volume: self._servers.serve(name, self._servers.get(server), volume, progress),
            remove=lambda volume: self._volumes.remove(volume, progress),
        )

    def _reverter(self, record: InstanceRecord, server_id: str, progress: Progress) -> Reverter:
        return Reverter(
            store=self._store,
            name=self._volumes.name(record.id),
            make=lambda name, size, source: self._volumes.make(
                record, name, size, record.volume_type, progress, source
            ),
            find=self._volumes.find,
            tell=lambda: self._servers.converge(self._servers.get(server_id), progress),
            attach=lambda volume_id: self._instances.attach_volume(server_id, volume_id, progress),
            serve=lambda volume_id: self._servers.serve(record.id, self._servers.get(server_id), volume_id, progress),
            retired=self._retired,
            usage=share_usage,
        )

    def _shrinker(self, record: InstanceRecord, server_id: str | None, progress: Progress) -> Shrinker:
        def look(seconds: float) -> ShareState:
            return share_state(
                record.id, self._servers.converge(self._servers.get(server_id or ""), progress, more=seconds)
            )

        return Shrinker(
            store=self._store,
            cloud=self._cloud,
            stall_seconds=self._settings.shrink_stall_seconds,
            open_seconds=self._settings.shrink_open_files_seconds,
            look=look,
            make=lambda name, size: self._volumes.make(record, name, size, record.volume_type, progress),
            attach=lambda volume_id: self._instances.attach_volume(server_id or "", volume_id, progress),
            retired=self._retired,
            find=self._volumes.find,
            name=lambda move: f"{self._volumes.name(record.id)}-{move.id[:8]}",
        )


GENERIC = DriverKind(make=GenericDriver.of_parts, client_ports=(2049, SMB_PORT), takes_named_servers=True)
