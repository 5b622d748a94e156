"""Shares: what a request may do to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    bindparam,
    exists,
    func,
    literal,
    or_,
    select,
    update,
)

from sharewright.context import RequestContext
from sharewright.errors import Conflict, Forbidden, InvalidInput, NotFound
from sharewright.identifiers import is_id, utcnow
from sharewright.operations.affinities import ADMIN_METADATA
from sharewright.services.deployment import Deployment, Record, fetch_one
from sharewright.services.group_members import check_named_group
from sharewright.services.lists import Page, count, fetch_page, or_empty
from sharewright.services.locks import refuse_locked_share
from sharewright.services.policy import allows, authorize, can_see
from sharewright.services.records import attach, delete_item, read_maps, write_map
from sharewright.services.share_filters import conditions, narrowed, total, whose
from sharewright.services.transitions import SHARE
from sharewright.services.validation import check_metadata
from sharewright.services.work import submit
from sharewright.states import ShareStatus
from sharewright.store.kept import change_row
from sharewright.store.lookups import among, map_of
from sharewright.store.tables import (
    resource_locks,
    share_backups,
    share_export_locations,
    share_instances,
    share_metadata,
    share_snapshot_instances,
    share_snapshots,
    share_types,
    shares,
)

COLUMNS: Final[Mapping[str, ColumnElement[Any]]] = {
    name: shares.c[name]
    for name in (
        "id", "status", "size", "host", "protocol", "availability_zone", "user_id", "project_id", "created_at",
        "updated_at", "share_type_id", "share_network_id",
    )
} | {"name": or_empty(shares.c.name)}  # fmt: skip
_PUBLIC_RULES: Final = frozenset(
    {"share:get", "share:get_share_metadata", "share_export_location:index", "share_export_location:show"}
)
_NOT_IN_BIN: Final = frozenset(
    {
        "share:update", "share:allow_access", "share:deny_access", "share:extend", "share:force_extend", "share:shrink",
        "share:create_snapshot", "share:revert_to_snapshot", "share_transfer:create", "share:migration_start",
        "share:unmanage",
    }
)  # fmt: skip
FIRST_PATH: Final = (
    select(share_export_locations.c.path)
    .join(share_instances, share_instances.c.id == share_export_locations.c.share_instance_id)
    .where(
        share_instances.c.share_id == shares.c.id,
        share_instances.c.is_main.is_(True),
        share_export_locations.c.is_admin_only.is_(False),
    )
    .order_by(share_export_locations.c.preferred.desc(), share_export_locations.c.path)
    .limit(1)
    .correlate(shares)
    .scalar_subquery()
)
# One look into an index for each share of a page; for an EXISTS PostgreSQL would read the whole table first.
_HAS_REPLICAS: Final = (
    select(share_instances.c.id)
    .where(
        share_instances.c.share_id == shares.c.id,
        share_instances.c.is_main.is_(False),
        share_instances.c.replica_state.is_not(None),  # not those of a migration
    )
    .limit(1)
    .correlate(shares)
    .scalar_subquery()
    .is_not(None)
)


def find(
    tx: Connection, context: RequestContext, identifier: str, rule: str = "share:get", *, lock: bool = False
) -> dict[str, Any]:
    """A share's row with its type's name. NotFound when it is not there for this caller, Forbidden when the caller may
    see it (a public share) but not do this. ``lock`` holds the row until the transaction ends."""
    return _find(tx, context, identifier, rule, _ONE_LOCKED if lock else _ONE)


def _find(
    tx: Connection, context: RequestContext, identifier: str, rule: str, statement: Select[Any]
) -> dict[str, Any]:
    authorize(context, rule)  # who may do this to no share at all learns nothing of this one
    share = fetch_one(tx, statement, {"share_id": identifier}) if is_id(identifier) else None
    if share is None or not (share["is_public"] or can_see(context, share["project_id"])):
        raise NotFound(f"Share {identifier[:64]} could not be found.")
    # A public share may be read by every project; its rules, and changes, are its own project's business.
    authorize(context, rule, None if rule in _PUBLIC_RULES else share["project_id"])
    if share["is_soft_deleted"] and rule in _NOT_IN_BIN:
        raise Forbidden(f"Share {identifier} has been soft deleted.", hint="Restore it first.")
    return share


def show(deployment: Deployment, context: RequestContext, identifier: str, *, paths: bool = True) -> Record:
    """One share, with its metadata. ``paths``: also with its first export location, which only old views show."""
    with deployment.store.read() as tx:
        return read(tx, context, identifier, paths=paths)


def read(tx: Connection, context: RequestContext, identifier: str, *, paths: bool = True) -> Record:
    """The same in a transaction."""
    return _complete(tx, [_find(tx, context, identifier, "share:get", _SHOWN)], paths=paths)[0]


def list_shares(
    deployment: Deployment,
    context: RequestContext,
    filters: Mapping[str, Any],
    page: Page,
    *,
    all_projects: bool = False,
    detail: bool = False,
    with_count: bool = False,
    paths: bool = True,
) -> tuple[list[dict[str, Any]], int | None]:
    """The shares of one page, and how many there are in all when asked; without ``detail`` only their ids and names.
    One statement however many they are, and one more each for a count, a marker, ``paths``, and a name or a key of
    metadata that they are filtered by."""
    authorize(context, "share:get_all")
    if "share_server_id" in filters:
        authorize(context, "share:list_by_share_server_id")
    if "host" in filters:
        authorize(context, "share:list_by_host")
    wanted = [*whose(context, filters, all_projects), *conditions(filters)]
    with deployment.store.read() as tx:
        named = None if all_projects or filters.get("is_public") else filters.get("name")
        narrow, few = narrowed(tx, context.project_id, named, filters.get("metadata", {}))
        statement = (_DETAILED if detail else _NAMED).where(*wanted, *narrow)
        number = None
        if with_count:
            number = total(tx, context, filters, all_projects)
            if number is None:
                number = count(tx, _COUNTED.where(*wanted, *narrow))
        records = fetch_page(tx, statement, page, columns=COLUMNS, identifier=shares.c.id, few=few)
        return (_complete(tx, records, paths=paths) if detail else records), number


def change(deployment: Deployment, context: RequestContext, identifier: str, values: Mapping[str, Any]) -> Record:
    """Change name, description or is_public."""
    with deployment.store.begin() as tx:
        share = find(tx, context, identifier, "share:update", lock=True)
        if "is_public" in values and values["is_public"] != share["is_public"]:
            authorize(context, "share:set_public_share", share["project_id"])
        changed = {key: values[key] for key in ("name", "description", "is_public") if key in values}
        if changed:
            tx.execute(update(shares).where(shares.c.id == identifier).values(**changed, updated_at=utcnow()))
        return read(tx, context, identifier)


def delete(
    deployment: Deployment,
    context: RequestContext,
    identifier: str,
    *,
    force: bool = False,
    named_group: str | None = None,
) -> None:
    """Accept a deletion; ``force`` (admin) from every state, whatever is left of the share. ``named_group``: a share
    that is in a group is only deleted where the request says which."""
    action = "force_delete" if force else "delete"
    with deployment.store.begin() as tx:
        share = find(tx, context, identifier, f"share:{action}", lock=True)
        kept = bool(tx.execute(_IS_KEPT, {"share": identifier}).scalar_one())  # by what is none of that, mostly
        if kept:
            refuse_locked_share(tx, identifier)
        SHARE[action].check("Share", identifier, share["status"])
        if not force:
            check_named_group(share, named_group)
        refuse_with_replicas(share, "delete it")
        if kept:
            refuse_with_snapshots(tx, identifier)
            refuse_with_backups(tx, identifier)
        write_status(tx, identifier, ShareStatus.DELETING)
        submit(tx, deployment, context, "delete_share", "share", identifier, {"force": force})
    deployment.wake()


def reset_status(deployment: Deployment, context: RequestContext, identifier: str, status: str) -> None:
    """Set the status of a share and its main instance (admin). Nothing else happens."""
    if status not in ShareStatus.ALL:
        raise InvalidInput(f"Invalid status '{status[:64]}'. Use one of: {', '.join(ShareStatus.ALL)}.")
    with deployment.store.begin() as tx:
        find(tx, context, identifier, "share:reset_status", lock=True)
        write_status(tx, identifier, status)


def write_status(tx: Connection, identifier: str, status: str) -> None:
    """Write the status of a share and of its main instance."""
    now = utcnow()
    change_row(tx, shares, identifier, status=status, updated_at=now)
    tx.execute(_WRITE_MAIN, {"share": identifier, "status": status, "updated_at": now})


def refuse_with_replicas(share: Record, what: str) -> None:
    """Conflict for a share (as :func:`find` reads it) that has other replicas than its active one."""
    if share["has_replicas"]:
        raise Conflict(f"Share {share['id']} has replicas.", hint=f"Delete them before you {what}.")


def refuse_with_backups(tx: Connection, identifier: str) -> None:
    """Forbidden for a share that has backups, in whatever state. Its row must be locked."""
    number = tx.execute(_BACKUPS, {"share": identifier}).scalar_one()
    if number:
        raise Forbidden(f"Share still has {number} dependent backups.", hint="Delete them first.")


def refuse_with_snapshots(tx: Connection, identifier: str) -> None:
    """Forbidden for a share that has snapshots, in whatever state. Its row must be locked."""
    number = tx.execute(_SNAPSHOTS, {"share": identifier}).scalar_one()
    if number:
        raise Forbidden(f"Share still has {number} dependent snapshots.", hint="Delete them first.")
    number = tx.execute(_MEMBERS, {"share": identifier}).scalar_one()
    if number:
        raise Forbidden(
            f"Share still has {number} dependent share group snapshot members.",
            hint="Delete the share group snapshots first.",
        )


# ---- metadata --------------------------------------------------------------------------------------------------------


def read_metadata(deployment: Deployment, context: RequestContext, identifier: str) -> dict[str, str]:
    with deployment.store.read() as tx:
        find(tx, context, identifier, "share:get_share_metadata")
        return read_maps(tx, share_metadata, share_metadata.c.share_id, [identifier])[identifier]


def write_metadata(
    deployment: Deployment, context: RequestContext, identifier: str, values: Any, *, replace: bool
) -> dict[str, str]:
    """Set keys (``replace``: and remove the others, except those that only admins may touch). Returns all."""
    checked = check_metadata(values)
    with deployment.store.begin() as tx:
        find(tx, context, identifier, "share:update_share_metadata", lock=True)
        check_admin_metadata(context, checked)
        owner = share_metadata.c.share_id
        if replace and not allows(context, "share:update_admin_only_metadata"):
            present = read_maps(tx, share_metadata, owner, [identifier])[identifier]
            checked = {key: present[key] for key in ADMIN_METADATA if key in present} | checked
        write_map(tx, share_metadata, owner, identifier, checked, replace=replace)
        return read_maps(tx, share_metadata, owner, [identifier])[identifier]


def delete_metadata(deployment: Deployment, context: RequestContext, identifier: str, key: str) -> None:
    with deployment.store.begin() as tx:
        find(tx, context, identifier, "share:delete_share_metadata", lock=True)
        check_admin_metadata(context, {key: ""})
        delete_item(tx, share_metadata, share_metadata.c.share_id, identifier, key)


def check_admin_metadata(context: RequestContext, values: Mapping[str, Any]) -> None:
    if any(key in ADMIN_METADATA for key in values) and not allows(context, "share:update_admin_only_metadata"):
        raise Forbidden(f"Only administrators may change the metadata {', '.join(ADMIN_METADATA)}.")


# ---- parts -----------------------------------------------------------------------------------------------------------

# Kept, because building them takes as long as running them, and nearly every request on a share runs one.
_PLAIN: Final = select(shares, share_types.c.name.label("share_type_name"), _HAS_REPLICAS.label("has_replicas")).join(
    share_types, share_types.c.id == shares.c.share_type_id
)
_DETAILED: Final = _PLAIN.add_columns(map_of(share_metadata, share_metadata.c.share_id, shares.c.id).label("metadata"))
_COUNTED: Final = select(shares.c.id)  # each has a type, which need not be looked up
_NAMED: Final = _PLAIN.with_only_columns(shares.c.id, shares.c.name)
_ONE: Final = _PLAIN.where(shares.c.id == bindparam("share_id"))
_ONE_LOCKED: Final = _ONE.with_for_update(of=shares)
_SHOWN: Final = _DETAILED.where(shares.c.id == bindparam("share_id"))
_WRITE_MAIN: Final = update(share_instances).where(
    share_instances.c.share_id == bindparam("share"), share_instances.c.is_main.is_(True)
)
_SNAPSHOTS: Final = (
    select(func.count()).select_from(share_snapshots).where(share_snapshots.c.share_id == bindparam("share"))
)
_MEMBERS: Final = (
    select(func.count())
    .select_from(share_snapshot_instances)
    .join(share_instances, share_instances.c.id == share_snapshot_instances.c.share_instance_id)
    .where(
        share_instances.c.share_id == bindparam("share"),
        share_snapshot_instances.c.share_group_snapshot_id.is_not(None),
    )
)
_BACKUPS: Final = select(func.count()).select_from(share_backups).where(share_backups.c.share_id == bindparam("share"))
# Whether anything of what forbids to delete a share is there: locks, snapshots, group snapshots, backups.
_IS_KEPT: Final = select(
    or_(
        exists().where(
            resource_locks.c.resource_id == bindparam("share"), resource_locks.c.resource_action == "delete"
        ),
        *(query.with_only_columns(literal(1)).exists() for query in (_SNAPSHOTS, _MEMBERS, _BACKUPS)),
    )
)


def _complete(tx: Connection, records: list[dict[str, Any]], *, paths: bool = True) -> list[dict[str, Any]]:
    for record in records:
        record["metadata"] = dict(sorted((record["metadata"] or {}).items()))
    if paths and records:
        identifiers = [record["id"] for record in records]
        rows = tx.execute(select(shares.c.id, FIRST_PATH).where(among(tx, shares.c.id, identifiers)))
        attach(records, "export_location", {row[0]: row[1] for row in rows})
    return records
