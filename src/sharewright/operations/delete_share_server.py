"""Story: delete a share server that no share lives on, from every state, with any part of it missing. The VM of
one that was to be managed and is not stays."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, select

from sharewright.drivers.contract import ShareDriver
from sharewright.errors import Conflict, SharewrightError
from sharewright.identifiers import utcnow
from sharewright.operations.contract import BaseStory, Done, Operation, Outcome
from sharewright.operations.create_share import find_driver
from sharewright.operations.create_share_server import remove_server
from sharewright.operations.share_rows import has_groups
from sharewright.operations.share_servers import give_back_server
from sharewright.progress import Progress
from sharewright.states import ServerStatus
from sharewright.store.database import Store
from sharewright.store.tables import share_instances, share_network_subnets, share_servers


class DeleteShareServer(BaseStory):
    kind = "delete_share_server"

    def __init__(self, store: Store, drivers: Mapping[str, ShareDriver]) -> None:
        self._store = store
        self._drivers = drivers

    def run(self, operation: Operation, progress: Progress) -> Outcome:
        server_id = operation.resource_id
        with self._store.begin() as tx:
            progress.fence(tx)
            backend = begin_deletion(tx, server_id)
            owned = tx.execute(select(share_servers.c.taken_over).where(share_servers.c.id == server_id)).scalar()
        if backend is None:
            return Done()
        if not owned:
            return Done(lambda tx: give_back_server(tx, server_id))
        find_driver(self._drivers, backend).delete_server(server_id, progress)
        return Done(lambda tx: remove_server(tx, server_id))

    def fail(self, tx: Connection, operation: Operation, error: SharewrightError) -> None:
        """A server with shares stays in service; any other is in error, and may be deleted again."""
        server_id = operation.resource_id
        status = ServerStatus.ACTIVE if isinstance(error, Conflict) else ServerStatus.ERROR
        tx.execute(
            share_servers.update()
            .where(share_servers.c.id == server_id, share_servers.c.status == ServerStatus.DELETING)
            .values(status=status, updated_at=utcnow())
        )


def begin_deletion(tx: Connection, server_id: str) -> str | None:
    """Mark the server as deleting and return its backend; None when it is gone. Conflict while shares live on it,
    or share groups have it.

    The lock on its share network subnet keeps new shares from choosing it in between (share_servers.place).
    """
    server = tx.execute(
        select(share_servers.c.backend, share_servers.c.share_network_subnet_id).where(share_servers.c.id == server_id)
    ).one_or_none()
    if server is None:
        return None
    tx.execute(
        select(share_network_subnets.c.id)
        .where(share_network_subnets.c.id == server.share_network_subnet_id)
        .with_for_update()
    )
    if tx.execute(select(share_instances.c.id).where(share_instances.c.share_server_id == server_id).limit(1)).first():
        raise Conflict(f"Share server {server_id} has shares.", hint="Delete them first.")
    if has_groups(tx, server_id):
        raise Conflict(f"Share server {server_id} has share groups.", hint="Delete them first.")
    tx.execute(
        share_servers.update()
        .where(share_servers.c.id == server_id)
        .values(status=ServerStatus.DELETING, updated_at=utcnow())
    )
    return str(server.backend)
