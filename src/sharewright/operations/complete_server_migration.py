"""Story: the second phase of moving a share server ("migration_complete").

nothing else is under way with its shares → it lets go of all of them → their rows say, in one transaction, that they
live on the other server → that one serves them, with other export locations → ``available``; the server is ``inactive``
and is removed.

A failure before that transaction lets the server serve its shares again: they are ``available``, the task state is
``migration_error``, and the other server is removed. A failure after it, or when they cannot be served again, leaves
the shares and both servers in ``error``; an administrator resets the task state to ``migration_driver_phase1_done`` and
completes it again. Both leave a user message.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, select

from sharewright.drivers.contract import ShareDriver
from sharewright.drivers.locations import write_locations
from sharewright.drivers.migration import ServerMigrationDriver
from sharewright.errors import SharewrightError
from sharewright.identifiers import utcnow
from sharewright.operations.contract import BaseStory, Done, Operation, Outcome, RetryLater
from sharewright.operations.migration_places import Places
from sharewright.operations.pool_rows import Pool
from sharewright.operations.server_migration_rows import (
    fail_server,
    find_server_driver,
    instances_of,
    is_worked_on,
    read_migrating_server,
    remove_later,
    write_server,
    write_statuses,
)
from sharewright.progress import Progress
from sharewright.settings import Settings
from sharewright.states import ServerStatus, ShareStatus, TaskState
from sharewright.store.database import Store
from sharewright.store.tables import operations, share_instances, share_servers, shares

LOOK_SECONDS = 1.0
RESTORED = "restored"  # the fact that all shares are served where they were


class CompleteServerMigration(BaseStory):
    kind = "complete_server_migration"

    def __init__(self, store: Store, drivers: Mapping[str, ShareDriver], settings: Settings) -> None:
        self._store = store
        self._drivers = drivers
        self._places = Places(store, drivers, settings)

    def run(self, operation: Operation, progress: Progress) -> Outcome:
        with self._store.begin() as tx:
            progress.fence(tx)
            found = read_migrating_server(tx, operation.resource_id, lock=True)
            if found is None or found.server.task_state != TaskState.COMPLETING:
                return Done()
            server, other = found.server, found.other
            if other is None:
                raise SharewrightError("There is no other share server for the shares of this one.")
            if other.task_state != TaskState.COMPLETING:
                waiting = is_worked_on(tx, server.id, other.id)
                if waiting:
                    return RetryLater(waiting, seconds=LOOK_SECONDS)
                write_server(tx, other.id, task_state=TaskState.COMPLETING)  # from here on deletions wait
        source = find_server_driver(self._drivers, server.backend)
        destination = find_server_driver(self._drivers, other.backend)
        with self._store.read() as tx:
            staying = instances_of(tx, server.id)
        if staying:
            self._release(staying, source, other, progress)
        with self._store.read() as tx:
            moved = instances_of(tx, other.id)
        for each in moved:
            self._serve(each, destination, other.id, progress)
        return Done(lambda tx: _finish(tx, operation))

    def compensate(self, operation: Operation, progress: Progress, error: SharewrightError) -> None:
        """Serve the shares where they were, unless they live on the other server already."""
        with self._store.read() as tx:
            found = read_migrating_server(tx, operation.resource_id)
            staying = instances_of(tx, operation.resource_id)
        if found is None or not staying:
            return
        source = find_server_driver(self._drivers, found.server.backend)
        for each in staying:
            self._serve(each, source, found.server.id, progress)
        progress.record(**{RESTORED: True})

    def fail(self, tx: Connection, operation: Operation, error: SharewrightError) -> None:
        found = read_migrating_server(tx, operation.resource_id, lock=True)
        if found is None:
            return
        server, other = found.server, found.other
        facts = tx.execute(select(operations.c.facts).where(operations.c.id == operation.id)).scalar() or {}
        restored = bool(facts.get(RESTORED))
        others = (other.id,) if other is not None else ()
        write_statuses(tx, operation, (server.id, *others), ShareStatus.AVAILABLE if restored else ShareStatus.ERROR)
        status = ServerStatus.ACTIVE if restored else ServerStatus.ERROR
        write_server(tx, server.id, status=status, task_state=TaskState.ERROR)
        if other is not None:
            write_server(tx, other.id, status=ServerStatus.ERROR, task_state=TaskState.ERROR)
            if restored:
                remove_later(tx, operation, other.id)
        fail_server(tx, operation, server, error)

    # ---- parts ----

    def _release(
        self, staying: list[Row[Any]], source: ServerMigrationDriver, other: Row[Any], progress: Progress
    ) -> None:
        """Let the server go of its shares; from then on they live on the other one."""
        places = {
            each.id: self._places.choose(
                each.share_id,
                other.backend,
                share_type_id=each.share_type_id,
                share_network_id=other.share_network_id,
            )
            for each in staying
        }
        for each in staying:
            source.release_share(each.id, progress)
        with self._store.begin() as tx:
            progress.fence(tx)
            switch(tx, places, other)

    def _serve(self, instance: Row[Any], driver: ServerMigrationDriver, server_id: str, progress: Progress) -> None:
        driver.take_over_share(instance.id, progress)
        locations = driver.create_share(instance.id, server_id, progress)
        with self._store.begin() as tx:
            progress.fence(tx)
            write_locations(tx, instance.id, locations)


def switch(tx: Connection, places: Mapping[str, Pool], other: Row[Any]) -> None:
    """Write that share instances live on the other server. ``places``: the pool of each."""
    columns, now = share_instances.c, utcnow()
    for instance_id, pool in places.items():
        values = {
            "host": pool.host,
            "availability_zone": pool.availability_zone,
            "share_network_id": other.share_network_id,
            "share_server_id": other.id,
        }
        mine = columns.id == instance_id
        tx.execute(share_instances.update().where(mine).values(backend=other.backend, **values, updated_at=now))
        share = select(columns.share_id).where(mine, columns.is_main.is_(True)).scalar_subquery()
        tx.execute(shares.update().where(shares.c.id == share).values(**values, updated_at=now))
    tx.execute(share_servers.update().where(share_servers.c.id == other.id).values(unused_since=None))


def _finish(tx: Connection, operation: Operation) -> None:
    found = read_migrating_server(tx, operation.resource_id, lock=True)
    if found is None or found.other is None:
        return
    server, other = found.server, found.other
    # In error: from an earlier try.
    write_statuses(tx, operation, (other.id,), ShareStatus.AVAILABLE, also=(ShareStatus.ERROR,))
    write_server(
        tx,
        other.id,
        status=ServerStatus.ACTIVE,
        task_state=TaskState.SUCCESS,
        is_auto_deletable=server.is_auto_deletable,
        unused_since=None if instances_of(tx, other.id) else utcnow(),
    )
    write_server(tx, server.id, status=ServerStatus.INACTIVE, task_state=TaskState.SUCCESS)
    remove_later(tx, operation, server.id)
