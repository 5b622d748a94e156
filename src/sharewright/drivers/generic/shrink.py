"""Shrinking: a share moves to a new, smaller volume on the same server while clients use it.

No cloud makes volumes smaller, and inode numbers, which clients' file handles hold, do not survive resize2fs. So the
guest copies the files, numbers and all (guest/program/moving.py), and switches when little is left to copy. What
happened is decided by the new volume itself: whoever asks the guest, whenever, learns whether it has switched.

A switch is asked for only after ``step`` in the store says so, and given up only on the guest's word that it was not
made. So in no order of crashes is a volume deleted that serves, or is there a doubt about which one does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog
from sqlalchemy import func, select

from sharewright.clouds.contract import Cloud, Volume
from sharewright.drivers.generic.failures import share_failure
from sharewright.drivers.generic.moves import (
    CANCEL,
    CLEAN,
    COPY,
    GIBIBYTE,
    SWITCH,
    Move,
    begin_move,
    end_move,
    find_move,
    remember_move,
    swap_volumes,
)
from sharewright.drivers.generic.records import InstanceRecord, read_instance, remember
from sharewright.drivers.generic.retired import RetiredVolumes
from sharewright.drivers.generic.usage import share_usage
from sharewright.errors import GuestError, NotFound, ShrinkRefused
from sharewright.guest.document import ShareState
from sharewright.progress import Progress
from sharewright.states import SnapshotStatus
from sharewright.store.database import Store
from sharewright.store.tables import share_snapshot_instances, shares

MOST_TRIES = 5
PART_SECONDS = 25.0  # that parting SMB clients from their share may take besides
INODE_BYTES = 256
# Inodes that a group of 128 MiB can have at most; the guest keeps as many as there were, up to that.
INODES_PER_GIB = 8 * 32768

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shrinker:
    """What shrinking needs of the driver. ``look`` tells the server its document and returns the share's state in it;
    its argument is how long the answer may take besides. ``make`` ensures a volume of that name and size, ``attach``
    attaches one, ``find`` finds one by name; ``retired`` takes away those that are no part of the share."""

    store: Store
    cloud: Cloud
    stall_seconds: float
    open_seconds: float
    look: Callable[[float], ShareState]
    make: Callable[[str, int], Volume]
    attach: Callable[[str], object]
    retired: RetiredVolumes
    find: Callable[[str], Volume | None]
    name: Callable[[Move], str]

    def shrink(self, record: InstanceRecord, size: int, progress: Progress) -> bool:
        """ShareDriver.shrink_share."""
        move = find_move(self.store, record.id)
        if move is not None and move.step in (CANCEL, CLEAN):  # what an earlier one left
            self.cancel(record.id, progress)
            record, move = read_instance(self.store, record.id), None
        if record.size <= size and move is None:
            self.retired.take_away(record.id, progress)  # where an earlier attempt ended in between
            return True
        if move is None:
            self._check(record, size)
            move = begin_move(self.store, progress, record.id, size, self.stall_seconds)
        move = self._ensure_volume(record, move, progress)
        with progress.step("guest"):
            moved = self._advance(record, move, progress)
        if moved:
            swap_volumes(self.store, progress, record, move)
            self.clean(record.id, progress)
        return moved

    def cancel(self, share_instance_id: str, progress: Progress) -> None:
        """ShareDriver.cancel_shrink."""
        move = find_move(self.store, share_instance_id)
        if move is None:
            return
        if move.step in (SWITCH, CANCEL) or (move.step == COPY and move.tries):
            remember_move(self.store, progress, share_instance_id, step=CANCEL)
            with progress.step("cancel"):
                record = read_instance(self.store, share_instance_id)
                state = self._look(record, replace(move, step=CANCEL), 0.0)
            if state.move == "moved":
                swap_volumes(self.store, progress, record, move)
            elif state.move == "stopped":
                remember_move(self.store, progress, share_instance_id, step=CLEAN)
            else:
                raise GuestError("The share server did not say which of the share's two volumes it serves.")
        elif move.step == COPY:
            remember_move(self.store, progress, share_instance_id, step=CLEAN)
        self.clean(share_instance_id, progress)

    def clean(self, share_instance_id: str, progress: Progress) -> None:
        """Take away the volume that is no part of the share, and with it the move."""
        move = find_move(self.store, share_instance_id)
        if move is None:
            return
        if move.volume_attached:
            with progress.step("let go"):
                try:
                    self.look(0.0)
                except (GuestError, NotFound) as error:  # nothing that is needed is on it
                    log.warning("share server does not let go", share_instance=share_instance_id, reason=error.message)
        self.forget(share_instance_id, progress)

    def forget(self, share_instance_id: str, progress: Progress) -> None:
        """End a move and take its volume away; one that was made and not yet recorded is found by its name."""
        move = find_move(self.store, share_instance_id)
        if move is not None:
            found = self.find(self.name(move)) if move.volume_id is None else None
            volume_id = found.id if found is not None else move.volume_id
            end_move(
                self.store,
                progress,
                share_instance_id,
                leave=(lambda tx: self.retired.add(tx, share_instance_id, volume_id)) if volume_id else None,
            )
        with progress.step("remove volume"):
            self.retired.take_away(share_instance_id, progress)

    def _check(self, record: InstanceRecord, size: int) -> None:
        """Refuse what cannot be, before anything is made."""
        if record.filesystem_type != "ext4":
            raise ShrinkRefused(
                f"The share's file system is {record.filesystem_type}, which cannot become smaller.",
                hint="Create a smaller share and copy the data.",
            )
        with self.store.read() as tx:
            taken = share_snapshot_instances.c
            mine = shares.c.id == record.share_id
            protocol = tx.execute(select(shares.c.protocol).where(mine)).scalar_one()
            copying = tx.execute(
                select(func.coalesce(taken.snapshot_id, taken.share_group_snapshot_id).label("id"))
                .where(taken.share_instance_id == record.id, taken.status == SnapshotStatus.CREATING)
                .limit(1)
            ).first()
        if protocol not in ("NFS", "CIFS"):
            raise ShrinkRefused(
                f"Shares of {protocol} do not shrink.", hint="Create a smaller share and copy the data."
            )
        if copying is not None:
            raise ShrinkRefused(
                f"Snapshot {copying.id} of the share is being taken, from the volume that it would leave.",
                hint="Shrink it when the snapshot is available.",
            )
        state = self.look(0.0)
        failure = share_failure(state)
        if failure is not None:
            raise failure
        if state.bytes_used is None:
            raise GuestError("The share server did not say how much of the share is in use.")
        room = size * GIBIBYTE - min(state.inodes_total or 0, size * INODES_PER_GIB) * INODE_BYTES
        if state.bytes_used > room:
            raise ShrinkRefused(
                f"{state.bytes_used} bytes of the share are in use; with {size} GiB it would have room for {room}.",
                hint="Remove files, or choose a larger size.",
            )

    def _ensure_volume(self, record: InstanceRecord, move: Move, progress: Progress) -> Move:
        if move.volume_id is None:
            with progress.step("volume"):
                volume = self.make(self.name(move), move.size)
                remember_move(self.store, progress, record.id, volume_id=volume.id, volume_serial=volume.serial)
                move = replace(move, volume_id=volume.id, volume_serial=volume.serial)
        if not move.volume_attached:
            with progress.step("attach"):
                self.attach(str(move.volume_id))
                # From here on every document of the server holds the move.
                remember_move(self.store, progress, record.id, volume_attached=True)
                move = replace(move, volume_attached=True)
        return move

    def _advance(self, record: InstanceRecord, move: Move, progress: Progress) -> bool:
        """Whether the share has moved; False: the guest is copying."""
        state = self._look(record, move, move.stall_seconds + PART_SECONDS if move.step == SWITCH else 0.0)
        asked = move.step == SWITCH
        if state.move == "ready" and move.step == COPY:
            remember_move(self.store, progress, record.id, step=SWITCH)
            state, asked = self._look(record, move, move.stall_seconds + PART_SECONDS), True
        if state.move == "in_use" and asked:
            # As below: the answer says that it did not switch.
            remember_move(self.store, progress, record.id, step=COPY)
            self._check_patience(state.move_message, progress)
            return False
        if state.move == "late":
            tries = move.tries + 1
            if tries >= MOST_TRIES:
                raise GuestError(
                    f"The switch to the smaller volume was tried {tries} times: {state.move_message}.",
                    hint="Shrink it again at a time when less is written.",
                )
            # The answer says that it did not switch, and a document that still asks for it is older than the next one.
            remember_move(self.store, progress, record.id, step=COPY, tries=tries)
            state = self._look(record, move, 0.0)
        if state.move == "does_not_fit":
            raise ShrinkRefused(
                f"It does not fit: {state.move_message}.", hint="Remove files, or choose a larger size."
            )
        if state.move == "failed":
            raise GuestError(f"The share could not be copied to a smaller volume: {state.move_message}.")
        if state.move == "moved":
            remember(self.store, progress, record.id, **share_usage(state))
        return state.move == "moved"

    def _check_patience(self, reason: str, progress: Progress) -> None:
        """Clients may close their files until ``open_seconds`` after they were first seen open."""
        now = time.time()
        since = progress.recall("in_use_since")
        if since is None:
            since = now
            progress.record(in_use_since=now)
        if now - float(since) >= self.open_seconds:
            raise ShrinkRefused(
                f"{reason}. They were waited for, {self.open_seconds:g} s long.",
                hint="Close them, or unmount the share on its clients, and shrink it again.",
            )

    def _look(self, record: InstanceRecord, move: Move, seconds: float) -> ShareState:
        """The share's state; both disks are attached again, once, when the guest misses one."""
        state = self.look(seconds)
        if state.error == "device_missing":
            for volume_id in (record.volume_id, move.volume_id):
                if volume_id is not None:
                    self.attach(volume_id)
            state = self.look(seconds)
        failure = share_failure(state)
        if failure is not None:
            raise failure
        return state
