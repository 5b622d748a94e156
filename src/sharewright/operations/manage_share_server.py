"""Stories: give a share server away with its VM ("unmanage"), and take one over again that was given away ("manage").

``unmanage_share_server``: no share lives on it → the API knows it no more; its VM, ports and addresses stay. A hidden
row keeps its keys (sealed, as ever) and says that the VM is somebody's.

``manage_share_server``: the VM is on the subnets of the named share network, and its guest answers with the pinned host
key → ``active``. A failure leaves it as it was and ends in ``manage_error`` with a user message for who asked.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, select

from sharewright.drivers.contract import ShareDriver, ShareServerManager
from sharewright.errors import CloudObjectMissing, Conflict, SharewrightError, Unsupported
from sharewright.identifiers import utcnow
from sharewright.operations.contract import BaseStory, Done, Operation, Outcome
from sharewright.operations.create_share import find_driver
from sharewright.operations.messages import Action, Resource, write_message
from sharewright.operations.share_rows import is_delete_queued
from sharewright.operations.share_servers import give_back_server
from sharewright.progress import Progress
from sharewright.states import ServerStatus
from sharewright.store.database import Store
from sharewright.store.tables import service_instances, share_instances, share_network_subnets, share_servers


class ManageShareServer(BaseStory):
    """Payload: ``identifier`` as the request named the VM."""

    kind = "manage_share_server"

    def __init__(self, store: Store, drivers: Mapping[str, ShareDriver]) -> None:
        self._store = store
        self._drivers = drivers

    def run(self, operation: Operation, progress: Progress) -> Outcome:
        server_id = operation.resource_id
        columns = share_servers.c
        with self._store.read() as tx:
            query = select(columns.backend, columns.taken_over, service_instances.c.id.label("vm"))
            query = query.join(service_instances, service_instances.c.id == columns.id, isouter=True)
            server = tx.execute(query.where(columns.id == server_id)).one_or_none()
        if server is None or server.taken_over:
            return Done()
        manager = find_server_manager(self._drivers, server.backend)
        if server.vm is None:
            raise CloudObjectMissing(
                f"{operation.payload['identifier']} is no share server that was unmanaged here on backend "
                f"{server.backend}, so its keys are not known.",
                hint="Name the VM's id in the cloud, or the id that the share server had.",
            )
        manager.manage_server(server_id, progress)
        return Done(lambda tx: finish(tx, server_id))

    def fail(self, tx: Connection, operation: Operation, error: SharewrightError) -> None:
        _fail(tx, operation, error, status=ServerStatus.MANAGE_ERROR, action=Action.CREATE)


class UnmanageShareServer(BaseStory):
    """Payload: ``status`` after a failure (default ``unmanage_error``)."""

    kind = "unmanage_share_server"

    def __init__(self, store: Store, drivers: Mapping[str, ShareDriver]) -> None:
        self._store = store
        self._drivers = drivers

    def run(self, operation: Operation, progress: Progress) -> Outcome:
        server_id = operation.resource_id
        with self._store.read() as tx:
            columns = share_servers.c
            server = tx.execute(select(columns.backend, columns.status).where(columns.id == server_id)).one_or_none()
        if server is None or server.status == ServerStatus.UNMANAGED:
            return Done()
        find_server_manager(self._drivers, server.backend)
        return Done(lambda tx: let_go(tx, server_id))

    def fail(self, tx: Connection, operation: Operation, error: SharewrightError) -> None:
        status = operation.payload.get("status", ServerStatus.UNMANAGE_ERROR)
        _fail(tx, operation, error, status=status, action=Action.DELETE)


def find_server_manager(drivers: Mapping[str, ShareDriver], backend: str) -> ShareServerManager:
    """The backend's driver. Unsupported when its share servers cannot be managed."""
    driver = find_driver(drivers, backend)
    if not isinstance(driver, ShareServerManager):
        raise Unsupported(f"The driver of backend {backend} does not manage share servers that exist already.")
    return driver


def finish(tx: Connection, server_id: str) -> None:
    """Write that it is ours and in service. It stays until an administrator removes it, as in Manila."""
    tx.execute(select(share_servers.c.id).where(share_servers.c.id == server_id).with_for_update())
    if is_delete_queued(tx, server_id, "delete_share_server"):
        raise SharewrightError("The share server was deleted while it was being managed, so its VM was left.")
    now = utcnow()
    tx.execute(
        share_servers.update()
        .where(share_servers.c.id == server_id)
        .values(status=ServerStatus.ACTIVE, taken_over=True, healthy=True, last_seen=now, updated_at=now)
    )


def let_go(tx: Connection, server_id: str) -> None:
    """Conflict while shares live on it; the lock on its subnet keeps new ones from choosing it in between."""
    subnet = select(share_servers.c.share_network_subnet_id).where(share_servers.c.id == server_id)
    tx.execute(select(share_network_subnets.c.id).where(share_network_subnets.c.id.in_(subnet)).with_for_update())
    if tx.execute(select(share_instances.c.id).where(share_instances.c.share_server_id == server_id).limit(1)).first():
        raise Conflict(f"Share server {server_id} has shares.", hint="Unmanage or delete them first.")
    give_back_server(tx, server_id)


def _fail(tx: Connection, operation: Operation, error: SharewrightError, *, status: str, action: Action) -> None:
    row = tx.execute(
        share_servers.update()
        .where(share_servers.c.id == operation.resource_id, share_servers.c.status != ServerStatus.DELETING)
        .values(status=status, updated_at=utcnow())
        .returning(share_servers.c.project_id)
    ).one_or_none()
    if row is not None:
        write_message(
            tx,
            operation,
            project_id=operation.project_id or row.project_id,
            resource_id=operation.resource_id,
            resource_type=Resource.SHARE_SERVER,
            action=action,
            error=error,
        )
