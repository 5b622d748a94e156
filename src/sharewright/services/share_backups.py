"""Backups of shares: what a request may do to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, select, update

from sharewright.context import RequestContext
from sharewright.drivers.contract import BACKUP_SUPPORT
from sharewright.errors import Forbidden, InvalidInput, NotFound
from sharewright.identifiers import new_id, utcnow
from sharewright.operations.backup_rows import RESOURCE
from sharewright.operations.queue import enqueue
from sharewright.operations.replica_rows import key_of
from sharewright.services import shares as share_service
from sharewright.services.deployment import Deployment, Record, fetch_one
from sharewright.services.lists import Page, fetch_page
from sharewright.services.policy import authorize
from sharewright.services.share_migrations import check_idle
from sharewright.services.share_sources import COPY_SECONDS
from sharewright.services.transitions import BACKUP, SHARE
from sharewright.services.visible import by_columns, find_visible, of_projects
from sharewright.states import BackupStatus, ShareStatus
from sharewright.store.quotas import backup_amounts, reserve
from sharewright.store.tables import pools, share_backups, share_snapshots, shares

COLUMNS: Final[Mapping[str, ColumnElement[Any]]] = {
    name: share_backups.c[name]
    for name in ("id", "name", "status", "size", "share_id", "project_id", "created_at", "updated_at")
}
_EXACT: Final = ("name", "description", "status", "share_id")
TYPE: Final = "backup_type"  # the option by which backups of a share are of one kind, as in Manila
_MOST_OPTIONS = 32


def find(
    tx: Connection, context: RequestContext, identifier: str, rule: str = "share_backup:get", *, lock: bool = False
) -> dict[str, Any]:
    """A backup's row. NotFound when it is not there for this caller. ``lock`` holds it until the transaction ends."""
    table = share_backups
    return find_visible(
        tx, context, select(table), of=table, identifier=identifier, rule=rule, what="Backup", lock=lock
    )


def show(deployment: Deployment, context: RequestContext, identifier: str) -> Record:
    with deployment.store.read() as tx:
        return find(tx, context, identifier)


def list_backups(
    deployment: Deployment,
    context: RequestContext,
    filters: Mapping[str, Any],
    page: Page,
    *,
    all_projects: bool = False,
) -> list[dict[str, Any]]:
    """The backups of a project (an administrator: of all). InvalidInput for a share that is not there."""
    authorize(context, "share_backup:get_all")
    owner, rule = share_backups.c.project_id, "share_backup:get_all_project"
    statement = select(share_backups).where(
        *of_projects(context, owner, filters, rule=rule, all_projects=all_projects),
        *by_columns(share_backups, _EXACT, filters),
    )
    with deployment.store.read() as tx:
        if filters.get("share_id"):
            _find_share(tx, context, filters["share_id"], "share:get", lock=False)
        return fetch_page(tx, statement, page, columns=COLUMNS, identifier=share_backups.c.id)


def create(deployment: Deployment, context: RequestContext, values: Mapping[str, Any]) -> Record:
    """Accept a backup of a share: its row, the share's status, the quota and the operation in one transaction.

    ``values``: share_id; name, description, backup_options. Manila's refusals: 400 for a share that is not there, is
    not available, or has snapshots or replicas; 403 for one in the recycle bin, 409 for one that is migrated, 413 for
    the quotas. Without backup_options Manila's data service would copy, which we do not have (400).
    """
    options = _check_options(values.get("backup_options"))
    identifier, now = new_id(), utcnow()
    with deployment.store.begin() as tx:
        share = _find_share(tx, context, values["share_id"], "share_backup:create")
        if share["is_soft_deleted"]:
            raise Forbidden(f"Backup can not be created for share '{share['id']}' since it has been soft deleted.")
        check_idle(share)
        SHARE["backup"].check("Share", share["id"], share["status"])
        _check_nothing_beside(tx, share)
        _check_able(tx, share, options)
        kind = str(options[TYPE]) if TYPE in options else None
        _check_type(tx, share, kind)
        reserve(
            tx,
            deployment.settings.quotas,
            project_id=context.project_id,
            user_id=context.user_id,
            amounts=backup_amounts(share["size"]),
        )
        host = share["host"].partition("#")[0]
        tx.execute(
            share_backups.insert().values(
                id=identifier,
                share_id=share["id"],
                project_id=context.project_id,
                user_id=context.user_id,
                name=values.get("name"),
                description=values.get("description"),
                size=share["size"],
                status=BackupStatus.CREATING,
                progress="0",
                restore_progress="0",
                availability_zone=share["availability_zone"],
                host=host,
                backend=host.partition("@")[2],
                backup_type=kind,
                options=options,
                consistent=False,
                created_at=now,
            )
        )
        share_service.write_status(tx, share["id"], ShareStatus.BACKUP_CREATING)
        _submit(tx, deployment, context, "create_backup", identifier, share)
        record = find(tx, context, identifier)
    deployment.wake()
    return record


def change(deployment: Deployment, context: RequestContext, identifier: str, values: Mapping[str, Any]) -> Record:
    """Change name or description."""
    with deployment.store.begin() as tx:
        find(tx, context, identifier, "share_backup:update", lock=True)
        changed = {key: values[key] for key in ("name", "description") if key in values}
        if changed:
            tx.execute(
                update(share_backups).where(share_backups.c.id == identifier).values(**changed, updated_at=utcnow())
            )
        return find(tx, context, identifier)


def delete(deployment: Deployment, context: RequestContext, identifier: str) -> None:
    """Accept a deletion. What was restored from it lives on."""
    with deployment.store.begin() as tx:
        backup = find(tx, context, identifier, "share_backup:delete", lock=True)
        BACKUP["delete"].check("Backup", identifier, backup["status"])
        _write(tx, identifier, status=BackupStatus.DELETING)
        enqueue(
            tx,
            "delete_backup",
            resource_type=RESOURCE,
            resource_id=identifier,
            context=context,
            seconds=deployment.settings.worker.operation_seconds,
        )
    deployment.wake()


def restore(
    deployment: Deployment, context: RequestContext, identifier: str, target_id: str | None = None
) -> dict[str, str]:
    """Accept that a share (None: the backup's own) is to hold what the backup holds. What it holds now is lost.

    Manila's refusals: 400 for the statuses and for a share that is smaller than the backup, 404 for one that is not
    there.
    """
    with deployment.store.begin() as tx:
        backup = find(tx, context, identifier, "share_backup:restore")
        share = share_service.find(tx, context, target_id or backup["share_id"], "share_backup:restore", lock=True)
        backup = find(tx, context, identifier, "share_backup:restore", lock=True)
        BACKUP["restore"].check("Backup", identifier, backup["status"])
        SHARE["restore_backup"].check("Share", share["id"], share["status"])
        if share["is_soft_deleted"]:
            raise InvalidInput(f"Share {share['id']} has been soft deleted.", hint="Take it out of the recycle bin.")
        check_idle(share)
        if share["has_replicas"]:
            raise InvalidInput(f"Share {share['id']} has replicas, so no backup can be restored to it.")
        if backup["size"] > share["size"]:
            raise InvalidInput(
                f"Share size {share['size']} is too small to restore a backup of size {backup['size']}.",
                hint="Extend the share first.",
            )
        _write(tx, identifier, status=BackupStatus.RESTORING, restore_progress="0")
        share_service.write_status(tx, share["id"], ShareStatus.BACKUP_RESTORING)
        tx.execute(update(shares).where(shares.c.id == share["id"]).values(source_backup_id=identifier))
        _submit(tx, deployment, context, "restore_backup", identifier, share)
    deployment.wake()
    return {"backup_id": identifier, "share_id": str(share["id"])}


def reset_status(deployment: Deployment, context: RequestContext, identifier: str, status: str) -> None:
    """Set the status of a backup (admin). Nothing else happens."""
    if status not in BackupStatus.ALL:
        raise InvalidInput(f"Invalid status '{status[:64]}'. Use one of: {', '.join(BackupStatus.ALL)}.")
    with deployment.store.begin() as tx:
        find(tx, context, identifier, "share_backup:reset_status", lock=True)
        _write(tx, identifier, status=status)


# ---- parts -----------------------------------------------------------------------------------------------------------


def _find_share(
    tx: Connection, context: RequestContext, identifier: str, rule: str, *, lock: bool = True
) -> dict[str, Any]:
    try:
        return share_service.find(tx, context, identifier, rule, lock=lock)
    except NotFound:
        raise InvalidInput(f"No share exists with ID {identifier[:64]}.") from None


def _check_options(options: Mapping[str, Any] | None) -> dict[str, str]:
    """Texts. Manila does not look at the values, so numbers and truth values are taken for what they are called."""
    checked = {key: value if isinstance(value, str) else str(value) for key, value in (options or {}).items()}
    if any(not isinstance(value, str | bool | int | float) for value in (options or {}).values()):
        raise InvalidInput("backup_options must be an object of strings.")
    if any("\0" in text for pair in checked.items() for text in pair):
        raise InvalidInput("backup_options must not have NUL characters.")
    if len(checked) > _MOST_OPTIONS or any(len(text) > 255 for pair in checked.items() for text in pair):
        raise InvalidInput(f"backup_options may be {_MOST_OPTIONS} of at most 255 characters each.")
    if len(checked.get(TYPE, "")) > 32:
        raise InvalidInput(f"backup_options.{TYPE} may have at most 32 characters.")
    return checked


def _check_nothing_beside(tx: Connection, share: Record) -> None:
    query = select(share_snapshots.c.id).where(share_snapshots.c.share_id == share["id"]).limit(1)
    if tx.execute(query).first() is not None:
        raise InvalidInput(f"Cannot backup share {share['id']} while it has snapshots.", hint="Delete them first.")
    if share["has_replicas"]:
        raise InvalidInput(f"Cannot backup share {share['id']} while it has replicas.", hint="Delete them first.")


def _check_able(tx: Connection, share: Record, options: Mapping[str, str]) -> None:
    if not options:
        raise InvalidInput(
            f"Cannot backup share {share['id']}: there is no data service, which would copy it.",
            hint="Give backup_options, so that the share's backend makes the backup.",
        )
    pool = fetch_one(tx, select(pools.c.capabilities).where(pools.c.host == share["host"]))
    if pool is None or not pool["capabilities"].get(BACKUP_SUPPORT):
        raise InvalidInput(f"Cannot backup share {share['id']}: its backend makes no backups.")


def _check_type(tx: Connection, share: Record, kind: str | None) -> None:
    """All backups of a share are of one type, where one is named."""
    columns = share_backups.c
    query = select(columns.backup_type).where(
        columns.share_id == share["id"], columns.status == BackupStatus.AVAILABLE, columns.backup_type != kind
    )
    other = tx.execute(query.limit(1)).scalar() if kind is not None else None
    if other is not None:
        raise InvalidInput(
            f"Share {share['id']} has backups whose {TYPE} is '{other}'.",
            hint="Use the same one, or delete them first.",
        )


def _write(tx: Connection, identifier: str, **values: Any) -> None:
    tx.execute(update(share_backups).where(share_backups.c.id == identifier).values(**values, updated_at=utcnow()))


def _submit(
    tx: Connection, deployment: Deployment, context: RequestContext, kind: str, identifier: str, share: Record
) -> None:
    enqueue(
        tx,
        kind,
        resource_type=RESOURCE,
        resource_id=identifier,
        key=key_of(share["id"]),
        context=context,
        payload={"share_id": share["id"]},
        seconds=deployment.settings.worker.operation_seconds + COPY_SECONDS * share["size"],
    )
