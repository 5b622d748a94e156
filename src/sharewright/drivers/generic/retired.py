"""Volumes that a share has left: the old one of a share that shrank or was reverted, the new one of a move that came to
nothing.

From the moment when one is nothing to its share any more it is a row of ``retired_volumes``, written in the transaction
that makes it so. Then it is taken away: detached at once, and deleted as soon as the cloud allows it, which may be long
after, because snapshots of it, also somebody else's, keep it. The share does not wait for that and is hindered by
nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from sqlalchemy import ColumnElement, Connection, bindparam, exists, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from sharewright.clouds.contract import Cloud, Volume
from sharewright.drivers.generic.release import remove_volume, within
from sharewright.errors import LeaseLost, SharewrightError
from sharewright.identifiers import utcnow
from sharewright.progress import NoProgress, Progress
from sharewright.store.database import Store
from sharewright.store.tables import retired_volumes, share_instance_moves, share_instances, share_snapshot_instances

log = structlog.get_logger()


_OF_BACKEND: Final = (
    select(retired_volumes)
    .where(retired_volumes.c.backend == bindparam("backend"))
    .order_by(retired_volumes.c.created_at)
)
_OF_SHARE: Final = _OF_BACKEND.where(retired_volumes.c.share_instance_id == bindparam("instance"))
_LEFTOVERS: Final = select(
    exists().where(share_instance_moves.c.share_instance_id == bindparam("instance")).label("moves"),
    exists()
    .where(
        retired_volumes.c.backend == bindparam("backend"), retired_volumes.c.share_instance_id == bindparam("instance")
    )
    .label("retired"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetiredVolumes:
    """One backend's. Times are for each call of the cloud."""

    store: Store
    cloud: Cloud
    backend: str
    attach_seconds: float
    volume_seconds: float

    def add(self, tx: Connection, share_instance_id: str, volume_id: str) -> None:
        """From now on a volume is nothing to a share. Again: success."""
        values = {
            "volume_id": volume_id,
            "backend": self.backend,
            "share_instance_id": share_instance_id,
            "created_at": utcnow(),
        }
        insert = sqlite.insert(retired_volumes) if tx.dialect.name == "sqlite" else postgresql.insert(retired_volumes)
        tx.execute(insert.values(values).on_conflict_do_nothing(index_elements=["volume_id", "backend"]))

    def has_some(self, share_instance_id: str) -> bool:
        """Whether there is anything that a share has left and that is not gone yet."""
        with self.store.read() as tx:
            return tx.execute(_OF_SHARE, {"backend": self.backend, "instance": share_instance_id}).first() is not None

    def find_leftovers(self, share_instance_id: str) -> tuple[bool, bool]:
        """Whether a share moves to another volume, and whether it :func:`has_some`; one statement, mostly twice no."""
        with self.store.read() as tx:
            row = tx.execute(_LEFTOVERS, {"backend": self.backend, "instance": share_instance_id}).one()
        return bool(row.moves), bool(row.retired)

    def take_away(self, share_instance_id: str, progress: Progress, *, besides: str = "") -> None:
        """Detach what a share has left, and delete what has no snapshots, that of the instance ``besides`` aside. What
        the cloud does not do now is left for :meth:`tidy`."""
        with self.store.read() as tx:
            rows = tx.execute(_OF_SHARE, {"backend": self.backend, "instance": share_instance_id}).all()
        self._take_away(rows, lambda: progress, besides=besides)

    def tidy(self) -> None:
        """The same for all shares, those that do not exist any more included."""
        with self.store.read() as tx:
            rows = tx.execute(_OF_BACKEND, {"backend": self.backend}).all()
        self._take_away(rows, lambda: NoProgress(self.attach_seconds + self.volume_seconds))

    # ---- parts ----

    def _take_away(self, rows: Sequence[Any], begin: Callable[[], Progress], *, besides: str = "") -> None:
        for row in rows:
            try:
                gone = self._remove(row.volume_id, row.share_instance_id, begin(), besides)
            except LeaseLost:
                raise
            except SharewrightError as error:
                self._note(row.volume_id, row.share_instance_id, str(error), before=row.reason)
                continue
            if gone:
                with self.store.begin() as tx:
                    tx.execute(retired_volumes.delete().where(self._is(row.volume_id)))

    def _remove(self, volume_id: str, share_instance_id: str, progress: Progress, besides: str) -> bool:
        """Whether it is gone; False while it has snapshots of its former share."""
        with self.store.read() as tx:
            used = is_used(tx, share_instance_id, volume_id)
            kept = has_snapshots(tx, share_instance_id, volume_id, besides=besides)
        if used:  # nothing makes it so; but a volume in use must never be deleted
            raise SharewrightError(f"Volume {volume_id} was retired, and a share uses it.", hint="This is a defect.")
        volume = self.cloud.volumes.find_volume(volume_id)
        if kept and volume is not None:
            self.detach(volume, progress)
            return False
        remove_volume(
            self.cloud, volume, progress, attach_seconds=self.attach_seconds, volume_seconds=self.volume_seconds
        )
        return True

    def detach(self, volume: Volume | None, progress: Progress) -> None:
        if volume is not None and volume.instance_id is not None:
            with progress.step("detach"):
                timeout = within(self.attach_seconds, progress)
                self.cloud.compute.detach_volume(volume.instance_id, volume.id, timeout=timeout)

    def _note(self, volume_id: str, share_instance_id: str, reason: str, *, before: str | None) -> None:
        if reason == before:
            return
        log.warning(
            "a volume that a share has left cannot be deleted yet",
            volume=volume_id, share_instance=share_instance_id, reason=reason,
        )  # fmt: skip
        with self.store.begin() as tx:
            tx.execute(retired_volumes.update().where(self._is(volume_id)).values(reason=reason))

    def _is(self, volume_id: str) -> ColumnElement[bool]:
        return (retired_volumes.c.volume_id == volume_id) & (retired_volumes.c.backend == self.backend)


def has_snapshots(tx: Connection, share_instance_id: str, volume_id: str, *, besides: str = "") -> bool:
    """Whether the share has snapshots that are of that volume, other than that of the instance ``besides``."""
    columns = share_snapshot_instances.c
    query = select(columns.id).where(
        columns.share_instance_id == share_instance_id, columns.volume_id == volume_id, columns.id != besides
    )
    return tx.execute(query.limit(1)).first() is not None


def is_used(tx: Connection, share_instance_id: str, volume_id: str) -> bool:
    """Whether a volume is the share's, or a second one of it still."""
    instances, moves = share_instances.c, share_instance_moves.c
    own = instances.id == share_instance_id, or_(instances.volume_id == volume_id, instances.old_volume_id == volume_id)
    second = moves.share_instance_id == share_instance_id, moves.volume_id == volume_id
    return bool(tx.execute(select(or_(exists().where(*own), exists().where(*second)))).scalar_one())
