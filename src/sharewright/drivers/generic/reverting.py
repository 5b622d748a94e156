"""Revert: a share gets a new volume, made from a snapshot, in the place of the one it has.

The old volume is detached only when the new one serves, and whatever fails before that is undone: then the old one
serves again. One that has snapshots, at least the one that was reverted to, is kept until its last snapshot goes
(retired.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sharewright.clouds.contract import Volume
from sharewright.drivers.generic.records import InstanceRecord, read_instance, remember
from sharewright.drivers.generic.retired import RetiredVolumes
from sharewright.drivers.generic.snapshots import Source
from sharewright.guest.document import ShareState
from sharewright.identifiers import derived_id, new_id, utcnow
from sharewright.progress import Progress
from sharewright.store.database import Store
from sharewright.store.tables import share_instances


@dataclass(frozen=True, slots=True, kw_only=True)
class Reverter:
    """What reverting needs of the driver. ``make`` ensures a volume of that name and size from a source, ``find`` finds
    one by name, ``tell`` brings the server its document, ``serve`` also returns the share's state in it, given its
    volume; ``retired`` takes away those that are no part of the share."""

    store: Store
    name: str
    make: Callable[[str, int, Source], Volume]
    find: Callable[[str], Volume | None]
    tell: Callable[[], object]
    attach: Callable[[str], object]
    serve: Callable[[str], ShareState]
    retired: RetiredVolumes
    usage: Callable[[ShareState], dict[str, Any]]

    def revert(self, record: InstanceRecord, source: Callable[[], Source], size: int, progress: Progress) -> None:
        """RevertDriver.revert_to_snapshot, to what ``source`` finds; it is asked only while that is needed."""
        if _is_swapped(record, progress):
            volume_id = str(record.volume_id)
        else:
            if record.old_volume_id is not None:  # of an earlier one, which could not take it away
                self.drop_old(record, progress)
            volume_id = self._prepare(read_instance(self.store, record.id), source(), size, progress)
        with progress.step("guest"):
            state = self.serve(volume_id)
            remember(self.store, progress, record.id, filesystem_ready=True, clone_of=None, **self.usage(state))
            progress.record(served=True)
        self.drop_old(read_instance(self.store, record.id), progress)

    def undo(self, record: InstanceRecord, progress: Progress) -> None:
        """SnapshotDriver.cancel_revert."""
        if progress.recall("served"):
            return
        if _is_swapped(record, progress):
            remember(
                self.store,
                progress,
                record.id,
                **progress.recall("old"),
                filesystem_ready=True,
                clone_of=None,
                old_volume_id=record.volume_id,
                old_volume_serial=record.volume_serial,
            )
            record = read_instance(self.store, record.id)
        if record.old_volume_id is not None and progress.recall("old") is not None:
            with progress.step("guest"):
                self.serve(str(record.volume_id))
            self.drop_old(record, progress)
        elif (token := progress.recall("token")) is not None:
            volume = self.find(self._name(token))
            if volume is not None:
                with self.store.begin() as tx:
                    progress.fence(tx)
                    self.retired.add(tx, record.id, volume.id)
            with progress.step("remove volume"):
                self.retired.take_away(record.id, progress)

    def drop_old(self, record: InstanceRecord, progress: Progress) -> None:
        """Take away the volume that the share had before; keep one that has snapshots, detached."""
        if record.old_volume_id is not None:
            with self.store.begin() as tx:
                progress.fence(tx)
                self.retired.add(tx, record.id, record.old_volume_id)
                mine = share_instances.c.id == record.id
                values = {"old_volume_id": None, "old_volume_serial": None, "updated_at": utcnow()}
                tx.execute(share_instances.update().where(mine).values(values))
        if self.retired.has_some(record.id):
            with progress.step("old volume"):
                self.retired.take_away(record.id, progress)

    def _prepare(self, record: InstanceRecord, source: Source, size: int, progress: Progress) -> str:
        """The new volume, attached and in the rows; the old one is there still."""
        token = progress.recall("token")
        if token is None:  # never the name of a volume that the share has or had
            token = new_id()
            progress.record(token=token)
        with progress.step("volume"):
            volume = self.make(self._name(token), max(size, source.size), source)
        with progress.step("parent"):  # from here on a boot cannot take the one volume for the other
            self.tell()
        with progress.step("attach"):
            self.attach(volume.id)
        progress.record(
            old={
                "volume_id": record.volume_id,
                "volume_serial": record.volume_serial,
                "filesystem_type": record.filesystem_type,
                "filesystem_uuid": record.filesystem_uuid,
                "size": record.size,
            }
        )
        remember(
            self.store,
            progress,
            record.id,
            volume_id=volume.id,
            volume_serial=volume.serial,
            filesystem_type=source.filesystem_type,
            filesystem_uuid=derived_id("filesystem", token),
            filesystem_ready=False,
            clone_of=source.filesystem_uuid,
            size=size,
            old_volume_id=record.volume_id,
            old_volume_serial=record.volume_serial,
        )
        return volume.id

    def _name(self, token: str) -> str:
        return f"{self.name}-{token[:8]}"


def _is_swapped(record: InstanceRecord, progress: Progress) -> bool:
    """Whether this operation has made the new volume the share's: the row itself says so."""
    old = progress.recall("old")
    return old is not None and record.volume_id != old["volume_id"]
