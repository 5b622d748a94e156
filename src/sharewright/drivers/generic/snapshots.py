"""Snapshots of shares' volumes, taken while their file systems stand still: of one share, or of several at one moment.

Several are one moment when the shares all stand still from before the first snapshot until after the last, on however
many servers they live. Each server's freeze ends by itself after ``freeze_seconds``, which so bounds all that happens
in between, whatever the number of shares; whether it has held to the end is asked of every server. One that has not
makes all the snapshots worthless: they are removed and taken again, a few times.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, select

from sharewright.clouds.contract import TAG_BACKEND, TAG_OWNER, Cloud, SnapshotSpec, Tags, VolumeSnapshot
from sharewright.drivers.generic.moves import TOLD, find_move
from sharewright.drivers.generic.records import InstanceRecord, read_instance
from sharewright.drivers.generic.retired import RetiredVolumes, has_snapshots, is_used
from sharewright.errors import CloudError, CloudObjectMissing, CloudUnavailable, DeadlineExceeded, NotFound
from sharewright.guest.contract import Freeze
from sharewright.identifiers import utcnow
from sharewright.progress import Progress
from sharewright.service_instance.contract import ServiceInstances
from sharewright.store.database import Store
from sharewright.store.tables import share_instances, share_snapshot_instances

LOOK_SECONDS = 1.0  # at a snapshot that is being copied
MOST_LOST = 5  # freezes that ended too early; clients wait during each


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRecord:
    """The driver's memory of one snapshot instance: the columns of that name."""

    id: str
    snapshot_id: str
    share_instance_id: str
    provider_location: str | None
    consistent: bool
    volume_id: str | None
    volume_size: int | None
    filesystem_type: str | None
    filesystem_uuid: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a share is made from: the cloud's snapshot, the size of its volume in GiB, and the file system in it."""

    snapshot_id: str
    size: int
    filesystem_type: str
    filesystem_uuid: str


class VolumeSnapshots:
    """One backend's. ``within`` bounds a number of seconds by the work's deadline; ``freeze_seconds`` is the longest
    that a file system stands still."""

    def __init__(
        self,
        store: Store,
        cloud: Cloud,
        instances: ServiceInstances,
        *,
        tags: Tags,
        name_template: str,
        seconds: float,
        freeze_seconds: float,
        retired: RetiredVolumes,
        within: Callable[[float, Progress], float],
    ) -> None:
        self._store = store
        self._cloud = cloud
        self._instances = instances
        self._tags = tags
        self._name_template = name_template
        self._seconds = seconds
        self._freeze_seconds = freeze_seconds
        self._retired = retired
        self._within = within

    @property
    def tags(self) -> Tags:
        """Of all that this backend has in the cloud."""
        return self._tags

    def create(self, members: Mapping[str, str], progress: Progress) -> bool:
        """Fix the moment, which is one for all; whether the snapshots are whole already. ``members``: the share's
        server, by snapshot instance."""
        records = [self.read(member) for member in members]
        if all(record.consistent for record in records):
            return all(self.is_whole(record.id, progress) for record in records)
        # Those that an earlier attempt took are of another moment.
        self._discard(records, progress)
        return self._take(records, members, progress)

    def is_whole(self, snapshot_instance_id: str, progress: Progress) -> bool:
        record = self.read(snapshot_instance_id)
        found = None
        if record.provider_location is not None and record.consistent:
            found = self._cloud.volumes.find_snapshot(record.provider_location)
        if found is not None and not found.ready:
            # Some clouds find out that copying has ended, or failed, only when somebody waits for it.
            try:
                found = self._cloud.volumes.await_snapshot(found.id, timeout=self._within(LOOK_SECONDS, progress))
            except DeadlineExceeded:
                return False
        if found is None:
            raise CloudObjectMissing(
                f"The cloud has lost snapshot {record.provider_location} of share instance {record.share_instance_id}.",
                hint="Take another one.",
            )
        return found.ready

    def delete(self, snapshot_instance_id: str, progress: Progress) -> None:
        record = self._find(snapshot_instance_id)
        if record is not None:
            self._discard([record], progress, thorough=True)
            self._drop_former(record, progress)

    def manage(self, snapshot_instance_id: str, reference: str, progress: Progress) -> int:
        """Take over a snapshot of the share's volume; its size in GiB."""
        record = self.read(snapshot_instance_id)
        share = read_instance(self._store, record.share_instance_id)
        with progress.step("adopt snapshot"):
            taken = self._cloud.volumes.adopt_snapshot(
                reference,
                self._name_template % record.id,
                {**self._tags, TAG_OWNER: f"share_snapshot_instance:{record.id}"},
                timeout=self._within(self._seconds, progress),
            )
            if taken.volume_id != share.volume_id:
                self._cloud.volumes.disown_snapshot(taken.id, timeout=self._within(self._seconds, progress))
                raise CloudError(
                    f"Snapshot {reference} is of volume {taken.volume_id}, not of the share's, which is "
                    f"{share.volume_id}.",
                    hint="Manage it as one of the share that it is of.",
                )
            # Whoever took it may not have let the share stand still; the journal makes a copy of it whole.
            self._remember(
                progress,
                record.id,
                provider_location=taken.id,
                volume_id=taken.volume_id,
                volume_size=taken.size,
                filesystem_type=share.filesystem_type,
                filesystem_uuid=share.filesystem_uuid,
                consistent=True,
            )
        return taken.size

    def unmanage(self, snapshot_instance_id: str, progress: Progress) -> None:
        record = self._find(snapshot_instance_id)
        location = self._location(record) if record is not None else None
        if record is None or location is None:
            return
        with progress.step("disown snapshot"):
            self._cloud.volumes.disown_snapshot(location, timeout=self._within(self._seconds, progress))
            self._remember(progress, record.id, provider_location=None, consistent=False)

    def source_of(self, record: InstanceRecord) -> Source | None:
        """What a share is to be made from; None: from nothing. Errors as of :meth:`source`."""
        if record.member_id is not None:
            return self._source(share_snapshot_instances.c.id == record.member_id, record.member_id)
        return self.source(record.snapshot_id) if record.snapshot_id is not None else None

    def source(self, snapshot_id: str, share_instance_id: str | None = None) -> Source:
        """The snapshot on a share instance; None: on the one that is its share's main instance, where this backend has
        that. Raises NotFound when a snapshot is gone, or is not to be had."""
        which = share_snapshot_instances.c.snapshot_id == snapshot_id
        if share_instance_id is not None:
            which &= share_snapshot_instances.c.share_instance_id == share_instance_id
        return self._source(which, snapshot_id)

    def _source(self, which: ColumnElement[bool], what: str) -> Source:
        columns = share_snapshot_instances.c
        with self._store.read() as tx:
            row = tx.execute(
                select(
                    columns.provider_location,
                    columns.volume_size,
                    columns.filesystem_type,
                    columns.filesystem_uuid,
                )
                .join(share_instances, share_instances.c.id == columns.share_instance_id)
                .where(which, columns.consistent.is_(True))
                # A share with replicas has one of each on several backends.
                .order_by(
                    (share_instances.c.backend == self._tags[TAG_BACKEND]).desc(), share_instances.c.is_main.desc()
                )
                .limit(1)
            ).one_or_none()
        if row is None or row.provider_location is None:
            raise NotFound(f"Snapshot {what}, of which a volume was to be made, does not exist any more.")
        return Source(
            snapshot_id=row.provider_location,
            size=row.volume_size,
            filesystem_type=row.filesystem_type,
            filesystem_uuid=row.filesystem_uuid,
        )

    # ---- parts ----

    def _take(self, records: Sequence[SnapshotRecord], members: Mapping[str, str], progress: Progress) -> bool:
        if not records:
            return True
        shares = {record.id: self._check_share(record) for record in records}
        specs = [self._spec(record, shares[record.id]) for record in records]
        placed: dict[str, list[str]] = {}  # the shares of each server
        for record in records:
            placed.setdefault(members[record.id], []).append(record.share_instance_id)
        with progress.step("snapshot"):
            # What is begun now may be found later without anybody knowing whether the shares were frozen.
            progress.record(begun=True)
            if len(placed) > 1:  # or the first server would stand still while the last one writes
                for server_id, share_ids in placed.items():
                    self._instances.flush(server_id, share_ids)
            with ExitStack() as stack:
                freezes: list[Freeze] = []
                ends: list[float] = []
                # In one order for everybody, so that no two wait for one another.
                for server_id, share_ids in sorted(placed.items()):
                    frozen = self._instances.frozen(server_id, share_ids, seconds=self._freeze_seconds)
                    freezes.append(stack.enter_context(frozen))
                    ends.append(time.monotonic() + self._freeze_seconds)
                taken = self._snapshot(specs, ends[0] - time.monotonic(), progress)
                # Before the thaw: who looks for unfinished snapshots of these servers must see them from then on.
                self._remember_taken(records, shares, taken, progress)
            if not all(freeze.held for freeze in freezes):
                raise self._lost(len(records), progress)
            progress.record(frozen_seconds=max(freeze.seconds for freeze in freezes))
            self._remember(progress, *(record.id for record in records), consistent=True)
        return all(each.ready for each in taken)

    def _check_share(self, record: SnapshotRecord) -> InstanceRecord:
        share = read_instance(self._store, record.share_instance_id)
        move = find_move(self._store, share.id)
        if move is not None and move.step in TOLD:  # only the guest knows which of the two volumes has the data
            raise CloudError(
                f"Share instance {share.id} has not ended moving to a smaller volume, so no snapshot can be taken.",
                hint="Shrink or extend the share first; that ends what an earlier shrinking has left.",
            )
        if share.volume_id is None or self._cloud.volumes.find_volume(share.volume_id) is None:
            raise CloudObjectMissing(f"The volume of share instance {share.id} does not exist any more.")
        return share

    def _spec(self, record: SnapshotRecord, share: InstanceRecord) -> SnapshotSpec:
        return SnapshotSpec(
            name=self._name_template % record.id,
            volume_id=str(share.volume_id),
            tags={**self._tags, TAG_OWNER: f"share_snapshot_instance:{record.id}"},
        )

    def _snapshot(self, specs: Sequence[SnapshotSpec], seconds: float, progress: Progress) -> Sequence[VolumeSnapshot]:
        """The cloud's, within what is left of the time for which the shares stand still."""
        if seconds <= 0:
            raise self._lost(len(specs), progress)
        timeout = self._within(seconds, progress)
        try:
            if len(specs) == 1:
                return [self._cloud.volumes.ensure_snapshot(specs[0], timeout=timeout)]
            return self._cloud.volumes.ensure_snapshots(specs, timeout=timeout)
        except DeadlineExceeded as error:
            if progress.remaining <= 0:
                raise
            raise self._lost(len(specs), progress) from error

    def _lost(self, number: int, progress: Progress) -> CloudError:
        """The error after a freeze that did not last: to be tried again, but not for ever."""
        lost = int(progress.recall("lost") or 0) + 1
        progress.record(lost=lost)
        what = "the snapshot" if number == 1 else f"the snapshots of {number} shares"
        message = (
            f"The cloud needed longer than {self._freeze_seconds:g} s to fix the moment of {what}, "
            "so that clients went on before"
        )
        if lost < MOST_LOST:
            return CloudUnavailable(
                f"{message}.", hint="It is tried again. The backend's snapshot_freeze_seconds can be raised."
            )
        return CloudError(
            f"{message}, {lost} times.", hint="The backend's snapshot_freeze_seconds can be raised by the operator."
        )

    def _remember_taken(
        self,
        records: Sequence[SnapshotRecord],
        shares: Mapping[str, InstanceRecord],
        taken: Sequence[VolumeSnapshot],
        progress: Progress,
    ) -> None:
        for record, snapshot in zip(records, taken, strict=True):
            share = shares[record.id]
            self._remember(
                progress,
                record.id,
                provider_location=snapshot.id,
                volume_id=share.volume_id,
                volume_size=snapshot.size,
                filesystem_type=share.filesystem_type,
                filesystem_uuid=share.filesystem_uuid,
            )

    def _drop_former(self, record: SnapshotRecord, progress: Progress) -> None:
        """Delete the volume that the share had when the snapshot was taken, if it has another now and this was the last
        snapshot of the former. One that the share is leaving just now is retired by whoever does that; if he saw this
        snapshot still, it is taken away later."""
        if record.volume_id is None:
            return
        with self._store.begin() as tx:
            progress.fence(tx)
            mine = record.share_instance_id, record.volume_id
            if has_snapshots(tx, *mine, besides=record.id) or is_used(tx, *mine):
                return
            self._retired.add(tx, record.share_instance_id, record.volume_id)
        with progress.step("former volume"):
            self._retired.take_away(record.share_instance_id, progress, besides=record.id)

    def _discard(self, records: Sequence[SnapshotRecord], progress: Progress, *, thorough: bool = False) -> None:
        """Remove the cloud's snapshots. One that was made and not yet recorded is found by its owner tag; ``thorough``
        looks for it in any case."""
        known = {record.id: record.provider_location for record in records}
        if (thorough or progress.recall("begun")) and None in known.values():
            owners = {
                f"share_snapshot_instance:{member}": member for member, location in known.items() if location is None
            }
            for each in self._cloud.volumes.list_snapshots():
                if (member := owners.get(each.tags.get(TAG_OWNER, ""))) is not None:
                    known[member] = each.id
        for member, location in known.items():
            if location is not None:
                with progress.step("delete snapshot"):
                    self._cloud.volumes.delete_snapshot(location, timeout=self._within(self._seconds, progress))
                    self._remember(progress, member, provider_location=None, consistent=False)

    def _location(self, record: SnapshotRecord) -> str | None:
        """The cloud's snapshot. One that was made and not yet recorded is found by its owner tag."""
        owner = f"share_snapshot_instance:{record.id}"
        return record.provider_location or next(
            (each.id for each in self._cloud.volumes.list_snapshots() if each.tags.get(TAG_OWNER) == owner), None
        )

    def read(self, snapshot_instance_id: str) -> SnapshotRecord:
        """Raises NotFound."""
        record = self._find(snapshot_instance_id)
        if record is None:
            raise NotFound(f"Snapshot instance {snapshot_instance_id} does not exist any more.")
        return record

    def _find(self, snapshot_instance_id: str) -> SnapshotRecord | None:
        columns = share_snapshot_instances.c
        fields = [columns[name] for name in SnapshotRecord.__dataclass_fields__]
        with self._store.read() as tx:
            row = tx.execute(select(*fields).where(columns.id == snapshot_instance_id)).one_or_none()
        return None if row is None else SnapshotRecord(**row._mapping)

    def _remember(self, progress: Progress, *snapshot_instance_ids: str, **values: Any) -> None:
        """The same of several, in one transaction."""
        with self._store.begin() as tx:
            progress.fence(tx)
            tx.execute(
                share_snapshot_instances.update()
                .where(share_snapshot_instances.c.id.in_(snapshot_instance_ids))
                .values(**values, updated_at=utcnow())
            )
