"""Story: bring a share server back to what the store says, and write down how it is."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection

from sharewright.drivers.contract import ShareDriver
from sharewright.identifiers import utcnow
from sharewright.operations.contract import BaseStory, Done, Operation, Outcome
from sharewright.operations.create_share import find_driver
from sharewright.operations.create_share_server import read_backend
from sharewright.progress import Progress
from sharewright.states import ServerStatus
from sharewright.store.database import Store
from sharewright.store.tables import share_servers

HEALED = (ServerStatus.ACTIVE, ServerStatus.ERROR, ServerStatus.MIGRATING)


class HealServer(BaseStory):
    kind = "heal_server"

    def __init__(self, store: Store, drivers: Mapping[str, ShareDriver]) -> None:
        self._store = store
        self._drivers = drivers

    def run(self, operation: Operation, progress: Progress) -> Outcome:
        server_id = operation.resource_id
        backend = read_backend(self._store, server_id, *HEALED)
        if backend is None:
            return Done()
        healthy = find_driver(self._drivers, backend).heal_server(server_id, progress)
        return Done(lambda tx: finish(tx, server_id, healthy))


def finish(tx: Connection, server_id: str, healthy: bool) -> None:
    now = utcnow()
    seen = {"last_seen": now} if healthy else {}
    status = share_servers.c.status
    tx.execute(
        share_servers.update()
        .where(share_servers.c.id == server_id, status.in_(HEALED))
        .values(healthy=healthy, updated_at=now, **seen)
    )
    if healthy:
        recovered = share_servers.update().where(share_servers.c.id == server_id, status == ServerStatus.ERROR)
        tx.execute(recovered.values(status=ServerStatus.ACTIVE))
