"""Snapshots that clients mount: a volume made from the cloud's snapshot, on its share's server, for as long as there
are rules that let anybody in.

The volume is a copy, so nothing that happens to it touches the snapshot. The guest gives its file system another UUID
before it is mounted, so that a server that boots finds it, and not its share, by it; what the log of one that was not
frozen holds is replayed by the way. Then it is mounted and exported for reading only. It holds nothing that is not in
the snapshot: with the last rule it is thrown away, and with the next one made again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sharewright.clouds.contract import TAG_OWNER, Cloud, Volume
from sharewright.drivers.contract import RuleOutcome
from sharewright.drivers.generic.mounts import (
    Mount,
    begin_mount,
    end_mount,
    find_mount,
    remember_mount,
    rules_in_force,
)
from sharewright.drivers.generic.release import release_volume
from sharewright.drivers.generic.snapshots import SnapshotRecord, Source, VolumeSnapshots
from sharewright.guest.document import ShareState, State
from sharewright.progress import Progress
from sharewright.service_instance.contract import ServiceInstance, ServiceInstances
from sharewright.store.database import Store
from sharewright.store.tables import share_snapshot_access_rules

OWNER = "share_snapshot_mount"  # of its volume, with the snapshot instance's id; see the sweeper


@dataclass(frozen=True, slots=True, kw_only=True)
class Mounter:
    """What mounting needs of the driver. ``make`` ensures the volume from a source, ``tell`` brings a server its
    document, ``serve`` does so with its answer about one volume in it, ``remove`` detaches and deletes a volume.
    ``max_shares`` and ``max_size`` (GiB) of a server; -1: no limit."""

    store: Store
    cloud: Cloud
    instances: ServiceInstances
    snapshots: VolumeSnapshots
    max_shares: int
    max_size: int
    make: Callable[[SnapshotRecord, Source], Volume]
    tell: Callable[[ServiceInstance], State]
    serve: Callable[[str, str, str], ShareState]
    remove: Callable[[Volume | None], None]

    def update(self, snapshot_instance_id: str, server_id: str, progress: Progress) -> Sequence[RuleOutcome]:
        """MountDriver.update_snapshot_access."""
        record = self.snapshots.read(snapshot_instance_id)
        with self.store.read() as tx:
            rules = rules_in_force(tx, share_snapshot_access_rules.c.snapshot_id == record.snapshot_id)
        if not rules:
            self.release(snapshot_instance_id, progress)
            return []
        state = self._serve(record, server_id, progress)
        return [RuleOutcome(rule_id=rule.id, error=state.rule_errors.get(rule.id, "")) for rule in rules]

    def release(self, snapshot_instance_id: str, progress: Progress, *, force: bool = False) -> None:
        """Take away what there is of it; from every state, without the server too. ``force``: do not insist that the
        guest unmounts it, from which nobody loses anything but what he reads just now."""
        mount = find_mount(self.store, snapshot_instance_id)
        if mount is None:
            return
        volume = self._volume_of(mount)
        if mount.wanted:
            remember_mount(self.store, progress, mount.id, wanted=False)
        server = self.instances.find(mount.server_id)
        if server is not None and (mount.volume_attached or (volume is not None and volume.instance_id)):
            with progress.step("release"):
                release_volume(
                    server,
                    mount.id,
                    look=lambda: self.instances.look(server.id),
                    converge=lambda: self.tell(server),
                    force=force,
                    progress=progress,
                )
        self.remove(volume)
        end_mount(self.store, progress, mount.id)

    def _serve(self, record: SnapshotRecord, server_id: str, progress: Progress) -> ShareState:
        mount = find_mount(self.store, record.id)
        if mount is not None and not mount.wanted:  # of a release that did not come to its end
            self.release(record.id, progress)
            mount = None
        if mount is None:
            limits = {"max_shares": self.max_shares, "max_size": self.max_size}
            begin_mount(self.store, progress, record.id, server_id, **limits)
        volume_id = mount.volume_id if mount is not None else None
        if volume_id is None:
            with progress.step("volume"):
                volume = self.make(record, self.snapshots.source(record.snapshot_id))
                volume_id = volume.id
                remember_mount(self.store, progress, record.id, volume_id=volume.id, volume_serial=volume.serial)
        if mount is None or not mount.volume_attached:
            with progress.step("parent"):  # from here on a boot cannot take the copy for its share
                server = self.instances.find(server_id)
                if server is not None:
                    self.tell(server)
            with progress.step("attach"):
                self.instances.attach_volume(server_id, volume_id, progress)
                # From here on every document of the server holds it.
                remember_mount(self.store, progress, record.id, volume_attached=True)
        with progress.step("guest"):
            state = self.serve(record.id, server_id, volume_id)
            if mount is None or not mount.filesystem_ready:
                remember_mount(self.store, progress, record.id, filesystem_ready=True)
        return state

    def _volume_of(self, mount: Mount) -> Volume | None:
        """The volume as the cloud knows it. One that was made and not yet recorded is found by its owner tag."""
        if mount.volume_id is not None:
            return self.cloud.volumes.find_volume(mount.volume_id)
        owner = f"{OWNER}:{mount.id}"
        return next((each for each in self.cloud.volumes.list_volumes() if each.tags.get(TAG_OWNER) == owner), None)
