"""Stories: the first phase of moving a share server to another backend or share network ("migration_start"), which no
client notices, and giving that up ("migration_cancel").

``start_server_migration``: nothing else is under way with its shares → the driver and the scheduler say that every one
of them can go there → a server there, made for them → ``migration_driver_phase1_done``; the server and its shares stay
``server_migrating`` until an administrator completes (complete_server_migration.py) or cancels it. A failure leaves all
as it was, with the task state ``migration_error`` and a user message; the other server is removed.

``cancel_server_migration``: the shares are ``available`` where they are, the other server is removed.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, select

from sharewright.drivers.contract import ShareDriver
from sharewright.errors import SharewrightError, Unsupported
from sharewright.identifiers import derived_id, utcnow
from sharewright.operations.contract import BaseStory, Done, Operation, Outcome, RetryLater, WaitFor
from sharewright.operations.create_share import check_server_creation
from sharewright.operations.migration_places import Places
from sharewright.operations.server_migration_rows import (
    MigratingServer,
    fail_server,
    find_server_driver,
    instances_of,
    is_worked_on,
    read_migrating_server,
    remove_later,
    write_server,
    write_statuses,
)
from sharewright.operations.share_rows import is_delete_queued
from sharewright.operations.share_servers import creation, lock_subnet
from sharewright.progress import Progress
from sharewright.settings import Settings
from sharewright.states import ServerStatus, ShareStatus, TaskState
from sharewright.store.database import Store
from sharewright.store.tables import share_servers

CANCEL = "cancel_server_migration"
LOOK_SECONDS = 1.0


class StartServerMigration(BaseStory):
    """Payload: ``host`` ("<node>@<backend>"), ``share_network_id``, and whether ``nondisruptive`` is wanted."""

    kind = "start_server_migration"

    def __init__(self, store: Store, drivers: Mapping[str, ShareDriver], settings: Settings) -> None:
        self._store = store
        self._drivers = drivers
        self._settings = settings
        self._places = Places(store, drivers, settings)

    def run(self, operation: Operation, progress: Progress) -> Outcome:
        check_server_creation(operation)
        other_id = derived_id("server_migration", operation.id)
        with self._store.begin() as tx:
            progress.fence(tx)
            found = read_migrating_server(tx, operation.resource_id, lock=True)
            if found is None or found.server.task_state not in TaskState.FIRST_PHASE:
                return Done()
            if is_delete_queued(tx, found.server.id, CANCEL):  # which sees to the rest
                return Done()
            waiting = is_worked_on(tx, found.server.id)
            if not waiting and found.server.task_state == TaskState.STARTING:
                write_server(tx, found.server.id, task_state=TaskState.IN_PROGRESS)
        if waiting:
            return RetryLater(waiting, seconds=LOOK_SECONDS)
        if found.other is None or found.other.id != other_id:
            self._check(operation, found, progress)
        with self._store.begin() as tx:
            progress.fence(tx)
            waits_for = self._make_other(tx, operation, found, other_id)
        if waits_for is not None:
            return WaitFor(waits_for)
        return Done(lambda tx: _finish(tx, operation.resource_id, other_id))

    def fail(self, tx: Connection, operation: Operation, error: SharewrightError) -> None:
        found = read_migrating_server(tx, operation.resource_id, lock=True)
        if found is None:
            return
        if found.other is not None:
            write_server(tx, found.other.id, status=ServerStatus.ERROR, task_state=TaskState.ERROR)
            remove_later(tx, operation, found.other.id)
        write_statuses(tx, operation, (found.server.id,), ShareStatus.AVAILABLE)
        write_server(tx, found.server.id, status=ServerStatus.ACTIVE, task_state=TaskState.ERROR)
        fail_server(tx, operation, found.server, error)

    # ---- parts ----

    def _check(self, operation: Operation, found: MigratingServer, progress: Progress) -> None:
        backend, network_id = str(operation.payload["backend"]), str(operation.payload["share_network_id"])
        source, destination = (
            find_server_driver(self._drivers, found.server.backend),
            find_server_driver(self._drivers, backend),
        )
        if operation.payload.get("nondisruptive"):
            raise Unsupported(
                f"The driver of backend {source.backend} cannot move share servers without disrupting their clients.",
                hint="Ask for the migration without nondisruptive.",
            )
        with self._store.read() as tx:
            instances = instances_of(tx, found.server.id)
        with progress.step("check"):
            for each in instances:
                self._places.choose(
                    each.share_id, backend, share_type_id=each.share_type_id, share_network_id=network_id
                )
                compatibility = source.check_server_migration(each.id, destination)
                if not compatibility.compatible:
                    raise Unsupported(
                        f"Share {each.share_id} cannot be moved to backend {backend}: {compatibility.reason}.",
                        hint="Choose another backend.",
                    )

    def _make_other(self, tx: Connection, operation: Operation, found: MigratingServer, other_id: str) -> str | None:
        """The operation that makes the other server, if there is something to make still; it is asked for only once."""
        columns, server = share_servers.c, found.server
        status = tx.execute(select(columns.status).where(columns.id == other_id)).scalar_one_or_none()
        if status is not None and status != ServerStatus.CREATING:
            return None
        if status is None:
            backend = str(operation.payload["backend"])
            zone = self._settings.backends[backend].availability_zone
            network_id = str(operation.payload["share_network_id"])
            tx.execute(
                share_servers.insert().values(
                    id=other_id,
                    project_id=server.project_id,
                    share_network_id=network_id,
                    share_network_subnet_id=lock_subnet(tx, network_id, zone),
                    backend=backend,
                    host=operation.payload["host"],
                    status=ServerStatus.CREATING,
                    task_state=TaskState.IN_PROGRESS,
                    source_share_server_id=server.id,
                    flavor=server.flavor,
                    is_auto_deletable=False,  # nobody lives on it, and yet it stays
                    created_at=utcnow(),
                )
            )
        seconds = self._settings.worker.operation_seconds
        return creation(tx, other_id, seconds=seconds, context=operation.context)


class CancelServerMigration(BaseStory):
    kind = CANCEL

    def __init__(self, store: Store) -> None:
        self._store = store

    def run(self, operation: Operation, progress: Progress) -> Outcome:
        return Done(lambda tx: _cancel(tx, operation))


def _finish(tx: Connection, server_id: str, other_id: str) -> None:
    found = read_migrating_server(tx, server_id, lock=True)
    if found is None or found.server.task_state not in TaskState.FIRST_PHASE:
        return
    write_server(tx, server_id, task_state=TaskState.PHASE1_DONE)
    write_server(tx, other_id, status=ServerStatus.MIGRATING_TO, task_state=TaskState.PHASE1_DONE, unused_since=None)


def _cancel(tx: Connection, operation: Operation) -> None:
    found = read_migrating_server(tx, operation.resource_id, lock=True)
    if found is None or found.server.task_state != TaskState.CANCELLING:
        return
    if found.other is not None:
        write_server(tx, found.other.id, status=ServerStatus.INACTIVE, task_state=TaskState.CANCELLED)
        remove_later(tx, operation, found.other.id)
    write_statuses(tx, operation, (found.server.id,), ShareStatus.AVAILABLE)
    write_server(tx, found.server.id, status=ServerStatus.ACTIVE, task_state=TaskState.CANCELLED)
