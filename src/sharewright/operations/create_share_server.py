"""Story: make a share server. Shares wait for it; when it fails, its debris is removed and they learn the reason."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, select

from sharewright.drivers.contract import ShareDriver
from sharewright.errors import SharewrightError
from sharewright.identifiers import utcnow
from sharewright.operations.contract import BaseStory, Done, Operation, Outcome
from sharewright.operations.create_share import find_driver
from sharewright.operations.share_rows import clean_up_server, leave_server
from sharewright.progress import Progress
from sharewright.settings import Settings
from sharewright.states import ServerStatus
from sharewright.store.database import Store
from sharewright.store.tables import share_groups, share_instances, share_servers, shares


class CreateShareServer(BaseStory):
    kind = "create_share_server"

    def __init__(self, store: Store, drivers: Mapping[str, ShareDriver], settings: Settings) -> None:
        self._store = store
        self._drivers = drivers
        self._settings = settings

    def run(self, operation: Operation, progress: Progress) -> Outcome:
        server_id = operation.resource_id
        backend = read_backend(self._store, server_id, ServerStatus.CREATING)
        if backend is None:
            return Done()
        find_driver(self._drivers, backend).create_server(server_id, progress)
        return Done(lambda tx: finish(tx, server_id))

    def compensate(self, operation: Operation, progress: Progress, error: SharewrightError) -> None:
        """Remove the server; the next share on this network gets a new one."""
        server_id = operation.resource_id
        backend = read_backend(self._store, server_id, ServerStatus.CREATING)
        if backend is None:
            return
        find_driver(self._drivers, backend).delete_server(server_id, progress)
        with self._store.begin() as tx:
            progress.fence(tx)
            remove_server(tx, server_id)

    def fail(self, tx: Connection, operation: Operation, error: SharewrightError) -> None:
        """The row is still there only when the compensation failed: then somebody has to come back for it."""
        if tx.execute(select(share_servers.c.id).where(share_servers.c.id == operation.resource_id)).first():
            clean_up_server(tx, operation.resource_id, seconds=self._settings.worker.operation_seconds)


def read_backend(store: Store, server_id: str, *statuses: str) -> str | None:
    """The backend of a server that has one of these statuses."""
    with store.read() as tx:
        return tx.execute(
            select(share_servers.c.backend).where(share_servers.c.id == server_id, share_servers.c.status.in_(statuses))
        ).scalar_one_or_none()


def finish(tx: Connection, server_id: str) -> None:
    now = utcnow()
    tx.execute(
        share_servers.update()
        .where(share_servers.c.id == server_id, share_servers.c.status == ServerStatus.CREATING)
        .values(status=ServerStatus.ACTIVE, healthy=True, last_seen=now, updated_at=now)
    )
    leave_server(tx, server_id)  # everybody who wanted it may have given up meanwhile


def remove_server(tx: Connection, server_id: str) -> None:
    """Forget a server that no longer exists; shares that were meant for it are free for another, and so are the further
    ones of its share groups."""
    tx.execute(share_groups.update().where(share_groups.c.share_server_id == server_id).values(share_server_id=None))
    tx.execute(shares.update().where(shares.c.share_server_id == server_id).values(share_server_id=None))
    tx.execute(
        share_instances.update().where(share_instances.c.share_server_id == server_id).values(share_server_id=None)
    )
    tx.execute(share_servers.delete().where(share_servers.c.id == server_id))
