"""Rows that the stories of backups read and write in the same way, and the drivers that make backups.

Making one and restoring one have the key of the share that they are of: nothing else is done to it meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, select

from sharewright.drivers.contract import BackupDriver, ShareDriver
from sharewright.errors import SharewrightError, Unsupported
from sharewright.identifiers import utcnow
from sharewright.operations.contract import Operation
from sharewright.operations.create_share import find_driver
from sharewright.operations.messages import Action, Detail, Resource, write_message
from sharewright.operations.share_rows import write_status
from sharewright.states import BackupStatus, ShareStatus
from sharewright.store.database import Store
from sharewright.store.tables import share_backups, shares

RESOURCE = "share_backup"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupRow:
    """``backend`` keeps it, ``size`` is in GiB."""

    id: str
    share_id: str
    project_id: str
    user_id: str
    size: int
    status: str
    backend: str


def read_backup(tx: Connection, backup_id: str) -> BackupRow | None:
    fields = [share_backups.c[name] for name in BackupRow.__dataclass_fields__]
    row = tx.execute(select(*fields).where(share_backups.c.id == backup_id)).one_or_none()
    return None if row is None else BackupRow(**row._mapping)


def write_backup(tx: Connection, backup_id: str, **values: object) -> None:
    """Set columns of a backup, except the status of one that is being deleted."""
    spared = (BackupStatus.DELETING,) if "status" in values else ()
    if values.get("status") in (BackupStatus.DELETING, BackupStatus.ERROR_DELETING):
        spared = ()
    tx.execute(
        share_backups.update()
        .where(share_backups.c.id == backup_id, share_backups.c.status.not_in(spared))
        .values(**values, updated_at=utcnow())
    )


def free_share(tx: Connection, share_id: str, busy: str, status: str = ShareStatus.AVAILABLE, **values: object) -> None:
    """The share's part in it is over; a status that somebody has set meanwhile stays."""
    query = select(shares.c.status).where(shares.c.id == share_id).with_for_update()
    if tx.execute(query).scalar_one_or_none() == busy:
        write_status(tx, share_id, status, **values)


def find_backup_driver(drivers: Mapping[str, ShareDriver], backend: str) -> BackupDriver:
    """The backend's driver. Unsupported when it makes no backups, SharewrightError when there is none."""
    driver = find_driver(drivers, backend)
    if not isinstance(driver, BackupDriver):
        raise Unsupported(f"The driver of backend {backend} makes no backups.")
    return driver


def tell_of_backup(
    tx: Connection, operation: Operation, backup: BackupRow, error: SharewrightError, *, action: Action
) -> None:
    """The message that says why."""
    write_message(
        tx,
        operation,
        project_id=backup.project_id,
        resource_id=backup.id,
        resource_type=Resource.SHARE_BACKUP,
        action=action,
        detail=Detail.UNKNOWN_ERROR,
        error=error,
    )


class BackupStories:
    """What they all have."""

    def __init__(self, store: Store, drivers: Mapping[str, ShareDriver]) -> None:
        self._store = store
        self._drivers = drivers
