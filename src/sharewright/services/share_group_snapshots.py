"""Share group snapshots: what a request may do to them.

A member is the snapshot of one share of the group. As in Manila it is no snapshot of its own: the lists of snapshots do
not show it, it is deleted with its group snapshot only, and of the quotas it counts in that of group snapshots.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, select, update

from sharewright.context import RequestContext
from sharewright.errors import Conflict, InvalidInput, NotFound
from sharewright.identifiers import new_id, utcnow
from sharewright.services import share_groups as groups
from sharewright.services.deployment import Deployment, Record, fetch, group
from sharewright.services.lists import Page, fetch_page
from sharewright.services.policy import authorize
from sharewright.services.transitions import SHARE_GROUP_SNAPSHOT
from sharewright.services.visible import by_columns, find_visible, of_projects
from sharewright.services.work import submit
from sharewright.states import ShareGroupSnapshotStatus, ShareGroupStatus, ShareStatus
from sharewright.store.quotas import reserve
from sharewright.store.tables import share_group_snapshots, share_instances, share_snapshot_instances, shares

COLUMNS: Final[Mapping[str, ColumnElement[Any]]] = {
    name: share_group_snapshots.c[name]
    for name in ("id", "name", "status", "project_id", "user_id", "share_group_id", "created_at", "updated_at")
}
MEMBER_COLUMNS: Final[Mapping[str, ColumnElement[Any]]] = {
    name: share_snapshot_instances.c[name] for name in ("id", "created_at", "size")
}
_EXACT: Final = ("id", "name", "description", "status", "share_group_id")


def find(
    tx: Connection,
    context: RequestContext,
    identifier: str,
    rule: str = "share_group_snapshot:get",
    *,
    lock: bool = False,
) -> dict[str, Any]:
    """A group snapshot's row. NotFound when it is not there for this caller. ``lock`` holds it until the transaction
    ends."""
    table = share_group_snapshots
    return find_visible(
        tx, context, select(table), of=table, identifier=identifier, rule=rule, what="Share group snapshot", lock=lock
    )


def show(deployment: Deployment, context: RequestContext, identifier: str) -> Record:
    """One group snapshot, with its members."""
    with deployment.store.read() as tx:
        return _complete(tx, [find(tx, context, identifier)])[0]


def list_snapshots(
    deployment: Deployment,
    context: RequestContext,
    filters: Mapping[str, Any],
    page: Page,
    *,
    all_projects: bool = False,
) -> list[dict[str, Any]]:
    """The group snapshots of one page. Two statements."""
    authorize(context, "share_group_snapshot:get_all")
    columns, rule = share_group_snapshots.c, "share_group_snapshot:list_all_projects"
    statement = select(share_group_snapshots).where(
        *of_projects(context, columns.project_id, filters, rule=rule, all_projects=all_projects),
        *by_columns(share_group_snapshots, _EXACT, filters),
    )
    with deployment.store.read() as tx:
        return _complete(tx, fetch_page(tx, statement, page, columns=COLUMNS, identifier=columns.id))


def list_members(deployment: Deployment, context: RequestContext, identifier: str, page: Page) -> list[dict[str, Any]]:
    with deployment.store.read() as tx:
        found = find(tx, context, identifier)
        columns = share_snapshot_instances.c
        statement = (
            select(
                columns.id,
                columns.size,
                columns.created_at,
                columns.share_group_snapshot_id,
                share_instances.c.share_id,
                shares.c.protocol,
            )
            .join(share_instances, share_instances.c.id == columns.share_instance_id)
            .join(shares, shares.c.id == share_instances.c.share_id)
            .where(columns.share_group_snapshot_id == identifier)
        )
        members = fetch_page(tx, statement, page, columns=MEMBER_COLUMNS, identifier=columns.id)
    return [{**member, "project_id": found["project_id"]} for member in members]


def create(deployment: Deployment, context: RequestContext, values: Mapping[str, Any]) -> Record:
    """Accept a snapshot of a group (share_group_id; name, description): its row, a member for each share, the quota and
    the operation in one transaction.

    Manila's refusals: 400 for a group that is not there, 409 for one that is not available or has a share that is not,
    413 for the quota.
    """
    authorize(context, "share_group_snapshot:create")
    identifier, now = new_id(), utcnow()
    with deployment.store.begin() as tx:
        found = _find_group(tx, context, values["share_group_id"])
        if found["status"] != ShareGroupStatus.AVAILABLE:
            raise Conflict(f"Share group {found['id']} is in status '{found['status']}'; it must be available.")
        members = _shares_of(tx, found["id"])
        for member in members:
            if member["status"] != ShareStatus.AVAILABLE:
                raise Conflict(
                    f"Share {member['share_id']} of the share group is in status '{member['status']}'; it must be "
                    "available for a snapshot of the group.",
                    hint="Wait until it is, or delete it when it is in error.",
                )
        reserve(
            tx,
            deployment.settings.quotas,
            project_id=context.project_id,
            user_id=context.user_id,
            amounts={"share_group_snapshots": 1},
        )
        tx.execute(
            share_group_snapshots.insert().values(
                id=identifier,
                share_group_id=found["id"],
                project_id=context.project_id,
                user_id=context.user_id,
                name=values.get("name"),
                description=values.get("description"),
                status=ShareGroupSnapshotStatus.CREATING,
                created_at=now,
            )
        )
        for member in members:
            tx.execute(
                share_snapshot_instances.insert().values(
                    id=new_id(),
                    share_group_snapshot_id=identifier,
                    share_instance_id=member["id"],
                    size=member["size"],
                    status=ShareGroupSnapshotStatus.CREATING,
                    created_at=now,
                )
            )
        submit(tx, deployment, context, "create_group_snapshot", "share_group_snapshot", identifier)
        record = _complete(tx, [find(tx, context, identifier)])[0]
    deployment.wake()
    return record


def change(deployment: Deployment, context: RequestContext, identifier: str, values: Mapping[str, Any]) -> Record:
    """Change name or description."""
    columns = share_group_snapshots.c
    with deployment.store.begin() as tx:
        find(tx, context, identifier, "share_group_snapshot:update", lock=True)
        changed = {key: values[key] for key in ("name", "description") if key in values}
        if changed:
            tx.execute(
                update(share_group_snapshots).where(columns.id == identifier).values(**changed, updated_at=utcnow())
            )
        return _complete(tx, [find(tx, context, identifier)])[0]


def delete(deployment: Deployment, context: RequestContext, identifier: str, *, force: bool = False) -> None:
    """Accept a deletion; ``force`` (admin) from every state. What was made from it lives on."""
    action = "force_delete" if force else "delete"
    with deployment.store.begin() as tx:
        found = find(tx, context, identifier, f"share_group_snapshot:{action}", lock=True)
        SHARE_GROUP_SNAPSHOT[action].check("Share group snapshot", identifier, found["status"])
        _write_status(tx, identifier, ShareGroupSnapshotStatus.DELETING)
        submit(tx, deployment, context, "delete_group_snapshot", "share_group_snapshot", identifier)
    deployment.wake()


def reset_status(deployment: Deployment, context: RequestContext, identifier: str, status: str) -> None:
    """Set the status of a group snapshot and its members (admin). Nothing else happens."""
    if status not in ShareGroupSnapshotStatus.ALL:
        raise InvalidInput(f"Invalid status '{status[:64]}'. Use one of: {', '.join(ShareGroupSnapshotStatus.ALL)}.")
    with deployment.store.begin() as tx:
        find(tx, context, identifier, "share_group_snapshot:reset_status", lock=True)
        _write_status(tx, identifier, status)


# ---- parts -----------------------------------------------------------------------------------------------------------


def _find_group(tx: Connection, context: RequestContext, identifier: str) -> Record:
    """The group that a body names, held until the transaction ends, so that no share joins or leaves it meanwhile."""
    try:
        return groups.find(tx, context, identifier, lock=True)
    except NotFound as error:
        raise InvalidInput(error.message) from None


def _shares_of(tx: Connection, share_group_id: str) -> list[dict[str, Any]]:
    """The instances of a group's shares, held until the transaction ends."""
    return fetch(
        tx,
        select(share_instances.c.id, shares.c.id.label("share_id"), shares.c.status, shares.c.size)
        .join(share_instances, share_instances.c.share_id == shares.c.id)
        .where(shares.c.share_group_id == share_group_id)
        .order_by(shares.c.id)
        .with_for_update(of=shares),
    )


def _write_status(tx: Connection, identifier: str, status: str) -> None:
    now = utcnow()
    for table, column in (
        (share_group_snapshots, share_group_snapshots.c.id),
        (share_snapshot_instances, share_snapshot_instances.c.share_group_snapshot_id),
    ):
        tx.execute(update(table).where(column == identifier).values(status=status, updated_at=now))


def _complete(tx: Connection, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    columns = share_snapshot_instances.c
    identifiers = [record["id"] for record in records]
    rows = fetch(
        tx,
        select(columns.id, columns.size, columns.share_group_snapshot_id, share_instances.c.share_id)
        .join(share_instances, share_instances.c.id == columns.share_instance_id)
        .where(columns.share_group_snapshot_id.in_(identifiers))
        .order_by(columns.created_at, columns.id),
    )
    by_snapshot = group(rows, "share_group_snapshot_id")
    for record in records:
        record["members"] = [
            {name: row[name] for name in ("id", "size", "share_id")} for row in by_snapshot.get(record["id"], ())
        ]
    return records
