"""The generic driver's memory of snapshots that clients mount: rows of ``share_snapshot_mounts``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, bindparam, func, select

from sharewright.errors import SharewrightError
from sharewright.identifiers import derived_id, utcnow
from sharewright.progress import Progress
from sharewright.states import AccessState
from sharewright.store.database import Store
from sharewright.store.growth import pending_growth, present_sizes
from sharewright.store.tables import (
    share_instances,
    share_servers,
    share_snapshot_access_rules,
    share_snapshot_instances,
    share_snapshot_mounts,
    share_snapshots,
    shares,
)

IN_FORCE: Final = (AccessState.QUEUED_TO_APPLY, AccessState.APPLYING, AccessState.ACTIVE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """``id`` is the snapshot instance's, and what the guest and clients know it by. ``parent_uuid`` is the file
    system's of which it is a copy, ``filesystem_uuid`` its own; both are for life, so handles outlive its volume."""

    id: str
    snapshot_id: str
    server_id: str
    volume_id: str | None
    volume_serial: str | None
    volume_attached: bool
    filesystem_ready: bool
    wanted: bool
    filesystem_type: str
    parent_uuid: str
    protocol: str
    squash: str
    smb_encryption: str | None

    @property
    def filesystem_uuid(self) -> str:
        return derived_id("filesystem", self.id)

    @property
    def is_served(self) -> bool:
        """Whether the server's document has it."""
        return self.wanted and self.volume_attached and self.volume_serial is not None


def _query() -> Select[Any]:
    columns, snapshots = share_snapshot_mounts.c, share_snapshot_instances.c
    return (
        select(
            columns.id,
            snapshots.snapshot_id,
            columns.share_server_id.label("server_id"),
            columns.volume_id,
            columns.volume_serial,
            columns.volume_attached,
            columns.filesystem_ready,
            columns.wanted,
            snapshots.filesystem_type,
            snapshots.filesystem_uuid.label("parent_uuid"),
            shares.c.protocol,
            share_instances.c.squash,
            share_instances.c.smb_encryption,
        )
        .join(share_snapshot_instances, snapshots.id == columns.id)
        .join(share_instances, share_instances.c.id == snapshots.share_instance_id)
        .join(shares, shares.c.id == share_instances.c.share_id)
    )


_ONE: Final = _query().where(share_snapshot_mounts.c.id == bindparam("mount"))
_ON_SERVER: Final = (
    _query().where(share_snapshot_mounts.c.share_server_id == bindparam("server")).order_by(share_snapshot_mounts.c.id)
)


def find_mount(store: Store, snapshot_instance_id: str) -> Mount | None:
    with store.read() as tx:
        row = tx.execute(_ONE, {"mount": snapshot_instance_id}).one_or_none()
    return None if row is None else Mount(**row._mapping)


def mounts_on(tx: Connection, server_id: str) -> list[Mount]:
    return [Mount(**row._mapping) for row in tx.execute(_ON_SERVER, {"server": server_id})]


def rules_in_force(tx: Connection, which: ColumnElement[bool]) -> list[Any]:
    """Rows of rules that should let clients in, the oldest first."""
    rules = share_snapshot_access_rules
    query = select(rules).where(which, rules.c.state.in_(IN_FORCE)).order_by(rules.c.created_at, rules.c.id)
    return list(tx.execute(query).all())


def begin_mount(
    store: Store, progress: Progress, snapshot_instance_id: str, server_id: str, *, max_shares: int, max_size: int
) -> None:
    """Remember that a snapshot is going to have a volume on a server, before that is made. SharewrightError when the
    server has all that it may have: a mounted snapshot counts as a share of its size
    (``max_shares``, ``max_size`` in GiB; -1: no limit)."""
    with store.begin() as tx:
        progress.fence(tx)
        tx.execute(select(share_servers.c.id).where(share_servers.c.id == server_id).with_for_update())
        present = sum(
            tx.execute(select(func.count()).where(column == server_id)).scalar_one()
            for column in (share_instances.c.share_server_id, share_snapshot_mounts.c.share_server_id)
        )
        if 0 <= max_shares <= present:
            raise SharewrightError(
                f"The share server has {present} shares and mounted snapshots, and may not have more.",
                hint="Deny all access to another snapshot on it, or have max_shares_per_share_server raised.",
            )
        if max_size >= 0:
            total = present_sizes(tx, server_id) + pending_growth(tx, [server_id]).get(server_id, 0)
            size = tx.execute(
                select(share_snapshots.c.size)
                .join(share_snapshot_instances, share_snapshot_instances.c.snapshot_id == share_snapshots.c.id)
                .where(share_snapshot_instances.c.id == snapshot_instance_id)
            ).scalar_one()
            if total + size > max_size:
                raise SharewrightError(
                    f"The share server has {total} GiB of shares and mounted snapshots and may have {max_size}; the "
                    f"snapshot has {size}.",
                    hint="Deny all access to another snapshot on it, create a share from the snapshot instead, or have "
                    "max_share_server_size raised.",
                )
        tx.execute(
            share_snapshot_mounts.insert().values(
                id=snapshot_instance_id,
                share_server_id=server_id,
                volume_attached=False,
                filesystem_ready=False,
                wanted=True,
                created_at=utcnow(),
            )
        )


def remember_mount(store: Store, progress: Progress, snapshot_instance_id: str, **values: object) -> None:
    """Write what was learned, at once, if the work is still ours."""
    table = share_snapshot_mounts
    with store.begin() as tx:
        progress.fence(tx)
        tx.execute(table.update().where(table.c.id == snapshot_instance_id).values(**values, updated_at=utcnow()))


def end_mount(store: Store, progress: Progress, snapshot_instance_id: str) -> None:
    with store.begin() as tx:
        progress.fence(tx)
        tx.execute(share_snapshot_mounts.delete().where(share_snapshot_mounts.c.id == snapshot_instance_id))
