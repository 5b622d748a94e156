"""The generic driver's memory of shares that move to another volume: rows of ``share_instance_moves``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, bindparam, select

from sharewright.drivers.generic.records import InstanceRecord
from sharewright.guest.document import Successor
from sharewright.identifiers import derived_id, new_id, utcnow
from sharewright.progress import Progress
from sharewright.store.database import Store
from sharewright.store.tables import share_instance_moves, share_instances

GIBIBYTE: Final = 2**30
COPY: Final = "copy"  # the guest copies; no switch was ever asked for
SWITCH: Final = "switch"  # the guest may have switched, or may do it any moment
CANCEL: Final = "cancel"  # it may have switched before, and does not any more
CLEAN: Final = "clean"  # the row's volume is no part of the share: let go of it and delete it
TOLD: Final = (COPY, SWITCH, CANCEL)  # steps of which the guest hears


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """``id`` gives the new volume its name and its two identities. ``size`` in GiB. ``tries``: switches that failed."""

    id: str
    size: int
    stall_seconds: float
    step: str
    tries: int = 0
    volume_id: str | None = None
    volume_serial: str | None = None
    volume_attached: bool = False

    @property
    def filesystem_uuid(self) -> str:
        return derived_id("filesystem", self.id)

    @property
    def successor(self) -> Successor | None:
        """What the server's document says about it; None while, or when, it is nothing to the guest."""
        if self.step == CLEAN or not self.volume_attached or self.volume_serial is None:
            return None
        return Successor(
            serial=self.volume_serial,
            uuid=self.filesystem_uuid,
            copy_uuid=derived_id("copy", self.id),
            size=self.size * GIBIBYTE,
            step=self.step,  # type: ignore[arg-type]
            stall=self.stall_seconds,
        )


_COLUMNS: Final = [column for column in share_instance_moves.c if column.name != "share_instance_id"]

_ONE: Final = select(*_COLUMNS).where(share_instance_moves.c.share_instance_id == bindparam("instance"))
_ON_SERVER: Final = (
    select(share_instance_moves.c.share_instance_id, *_COLUMNS)
    .join(share_instances, share_instances.c.id == share_instance_moves.c.share_instance_id)
    .where(
        share_instances.c.share_server_id == bindparam("server"),
        share_instance_moves.c.step.in_(TOLD),
        share_instance_moves.c.volume_attached.is_(True),
    )
)


def find_move(store: Store, share_instance_id: str) -> Move | None:
    with store.read() as tx:
        row = tx.execute(_ONE, {"instance": share_instance_id}).one_or_none()
    return None if row is None else Move(**row._mapping)


def moves_on(tx: Connection, server_id: str) -> dict[str, Move]:
    """Share instance → its move, of those on a server whose new volume is attached."""
    rows = tx.execute(_ON_SERVER, {"server": server_id})
    return {values.pop("share_instance_id"): Move(**values) for row in rows if (values := dict(row._mapping))}


def begin_move(store: Store, progress: Progress, share_instance_id: str, size: int, stall_seconds: float) -> Move:
    """Remember that an instance moves to a volume of ``size`` GiB, before that is made."""
    move = Move(id=new_id(), size=size, stall_seconds=stall_seconds, step=COPY)
    with store.begin() as tx:
        progress.fence(tx)
        tx.execute(
            share_instance_moves.insert().values(
                share_instance_id=share_instance_id,
                id=move.id,
                size=size,
                stall_seconds=stall_seconds,
                step=COPY,
                tries=0,
                volume_attached=False,
            )
        )
    return move


def remember_move(store: Store, progress: Progress, share_instance_id: str, **values: object) -> None:
    with store.begin() as tx:
        progress.fence(tx)
        mine = share_instance_moves.c.share_instance_id == share_instance_id
        tx.execute(share_instance_moves.update().where(mine).values(**values))


def swap_volumes(store: Store, progress: Progress, record: InstanceRecord, move: Move) -> None:
    """The new volume is the instance's; the old one takes its place in the row, to be cleaned away."""
    with store.begin() as tx:
        progress.fence(tx)
        tx.execute(
            share_instances.update()
            .where(share_instances.c.id == record.id)
            .values(
                volume_id=move.volume_id,
                volume_serial=move.volume_serial,
                filesystem_uuid=move.filesystem_uuid,
                size=move.size,
                updated_at=utcnow(),
            )
        )
        tx.execute(
            share_instance_moves.update()
            .where(share_instance_moves.c.share_instance_id == record.id)
            .values(step=CLEAN, volume_id=record.volume_id, volume_serial=record.volume_serial)
        )


def end_move(
    store: Store, progress: Progress, share_instance_id: str, *, leave: Callable[[Connection], None] | None
) -> None:
    """``leave`` writes in the same transaction what becomes of the volume that is no part of the share."""
    with store.begin() as tx:
        progress.fence(tx)
        mine = share_instance_moves.c.share_instance_id == share_instance_id
        tx.execute(share_instance_moves.delete().where(mine))
        if leave is not None:
            leave(tx)
