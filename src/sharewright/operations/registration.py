"""The rows behind the API's "services": which backends have a living worker."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from sqlalchemy import Connection, func, select, update
from sqlalchemy.exc import IntegrityError

from sharewright.errors import SharewrightError
from sharewright.identifiers import utcnow
from sharewright.settings import Settings
from sharewright.store.database import Store
from sharewright.store.tables import workers

SHARE: Final = "manila-share"  # Manila's names: clients look for them
SCHEDULER: Final = "manila-scheduler"
DATA: Final = "manila-data"
DOWN_AFTER: Final = timedelta(seconds=60)  # without a heartbeat a service counts as down


def register(store: Store, binary: str, host: str, availability_zone: str) -> str:
    """Make sure that the service has a row, say that it lives, and return the row's id.

    The row is the host's, not the process's: several workers of one node share it, a restart keeps its number and
    whether an administrator disabled it.
    """
    identifier = f"{binary}@{host}"
    now = utcnow()
    for _ in range(20):  # another process may take the same number at the same moment
        try:
            with store.begin() as tx:
                if not _update(tx, identifier, availability_zone):
                    number = select(func.coalesce(func.max(workers.c.number), 0) + 1).scalar_subquery()
                    tx.execute(
                        workers.insert().values(
                            id=identifier, number=number, binary=binary, host=host, disabled=False,
                            availability_zone=availability_zone, heartbeat_at=now, started_at=now,
                        )
                    )  # fmt: skip
            return identifier
        except IntegrityError:
            continue
    raise SharewrightError(f"The service {identifier} could not be registered.", hint="Start it again.")


def _update(tx: Connection, identifier: str, availability_zone: str) -> bool:
    now = utcnow()
    updated = tx.execute(
        update(workers)
        .where(workers.c.id == identifier)
        .values(availability_zone=availability_zone, heartbeat_at=now, started_at=now)
    )
    return bool(updated.rowcount)


def register_worker(store: Store, settings: Settings) -> Sequence[str]:
    """The services of one worker process: a share service per backend ("<node>@<backend>"), and those that Manila has
    further processes for: a worker schedules, copies, and makes backups itself. That these are disabled is kept and has
    no effect, as in Manila."""
    identifiers = [
        register(store, SHARE, f"{settings.node}@{name}", backend.availability_zone)
        for name, backend in settings.backends.items()
    ]
    zone = next((backend.availability_zone for backend in settings.backends.values()), "nova")
    return [*identifiers, *(register(store, binary, settings.node, zone) for binary in (SCHEDULER, DATA))]


def beat(store: Store, identifiers: Sequence[str]) -> None:
    """Say that these services live."""
    if identifiers:
        with store.begin() as tx:
            tx.execute(update(workers).where(workers.c.id.in_(identifiers)).values(heartbeat_at=utcnow()))
