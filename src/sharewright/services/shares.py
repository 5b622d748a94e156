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
from sharewright.identifiers import is_id, new_id, utcnow
from sharewright.operations.affinities import ADMIN_METADATA, keep_affinities
from sharewright.operations.type_specs import check_protocol_specs, check_size, instance_columns
from sharewright.services import share_types as types
from sharewright.services.deployment import Deployment, Record, fetch_one
from sharewright.services.group_members import check_group_has_type, check_named_group, join_group
from sharewright.services.lists import Page, count, fetch_page, or_empty
from sharewright.services.locks import refuse_locked_share
from sharewright.services.policy import allows, authorize, can_see
from sharewright.services.qos_types import check_qos
from sharewright.services.records import attach, delete_item, read_maps, write_map
from sharewright.services.share_filters import conditions, narrowed, whose
from sharewright.services.share_places import choose_network, choose_zone, is_true, parse_hints
from sharewright.services.share_sources import read_source
from sharewright.services.transitions import SHARE
from sharewright.services.validation import check_metadata, check_protocol
from sharewright.services.work import submit
from sharewright.states import ReplicaState, ShareStatus
from sharewright.store.kept import add_row, change_row, whole_row
from sharewright.store.lookups import among, map_of
from sharewright.store.quotas import check_share_size, read_limits, reserve_at_end, share_amounts
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
from sharewright.store.transaction import add_row_at_end, once

COLUMNS: Final[Mapping[str, ColumnElement[Any]]] = {
    name: shares.c[name]
    for name in (
        "id", "status", "size", "host", "protocol", "availability_zone", "user_id", "project_id", "created_at",
        "updated_at", "share_type_id", "share_network_id",
    )
} | {"name": or_empty(shares.c.name)}  # fmt: skip
COPY_SECONDS: Final = 20.0  # for each GiB of a share that is made from a snapshot: some clouds copy all of it
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
# What a new share may ask for only of backends with a capability that none of ours has.
_INCAPABLE: Final = {"mount_point_name": "mount_point_name_support", "encryption_key_ref": "encryption_support"}
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
REPLICATION_SPEC: Final = "replication_type"
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
        total = count(tx, _COUNTED.where(*wanted, *narrow)) if with_count else None
        records = fetch_page(tx, statement, page, columns=COLUMNS, identifier=shares.c.id, few=few)
        return (_complete(tx, records, paths=paths) if detail else records), total


def create(
    deployment: Deployment, context: RequestContext, values: Mapping[str, Any], *, in_any_zone: bool = False
) -> Record:
    """Accept a new share: its rows, the quota and the operation in one transaction. ``in_any_zone``: also where its
    type's extra spec availability_zones does not name the zone.

    ``values``: size (GiB) and protocol; name, description, share_type (id or name), share_network_id,
    availability_zone, is_public, metadata, scheduler_hints (which the operation honours). With snapshot_id the share is
    made from that, with share_group_id it is in that group, and takes over what is not given.
    """
    authorize(context, "share:create")
    if values.get("is_public"):
        authorize(context, "share:create_public_share")
    protocol = check_protocol(values["protocol"], deployment.settings.enabled_share_protocols)
    metadata = check_metadata(values.get("metadata") or {})
    check_admin_metadata(context, metadata)
    for name, capability in _INCAPABLE.items():
        if values.get(name) is not None:
            raise InvalidInput(f"{name} is not supported by the share type used: it needs {capability}.")
    hints = parse_hints(values.get("scheduler_hints") or {})
    if "only_host" in hints:
        authorize(context, "share:create_on_host")
    is_plain = not (metadata or hints or any(values.get(name) for name in _NOT_PLAIN))

    def accept(tx: Connection) -> Record:
        source = read_source(tx, context, values)
        wanted = values if source is None else source.values
        wanted = join_group(tx, context, wanted)
        named = wanted.get("share_type")
        caller = (context.user_id, context.roles)  # not everybody may use every type
        share_type = once(tx, ("type", named, caller), lambda: types.choose(tx, deployment, context, named))
        if source is not None:
            source.check_type(share_type["id"])
        check_group_has_type(tx, wanted.get("share_group_id"), share_type["id"])
        specs = share_type["extra_specs"]
        check_size(specs, wanted["size"])
        check_protocol_specs(specs, protocol)
        check_qos(tx, specs)
        for share_id in (*hints.get("same_host", ()), *hints.get("different_host", ())):
            find(tx, context, share_id)  # of what the caller cannot see, the place is none of the caller's business
        zone = choose_zone(tx, {} if in_any_zone else specs, wanted.get("availability_zone"))
        network_id = choose_network(tx, context, specs, wanted.get("share_network_id"), zone)
        seconds = 0.0
        scheduling: dict[str, Any] = {"scheduler_hints": hints} if hints else {}
        if source is not None:
            seconds = COPY_SECONDS * wanted["size"]
            # Where its snapshot is.
            scheduling = {"scheduler_hints": {**hints, "only_host": source.host}}
        record: Record = insert(
            tx,
            deployment,
            context,
            {**wanted, "protocol": protocol, "availability_zone": zone, "share_network_id": network_id},
            share_type,
            source.instance if source is not None else instance_columns(specs),
            scheduling | ({"in_any_zone": True} if in_any_zone else {}),
            snapshot_id=source.snapshot_id if source is not None else None,
            more_seconds=seconds,
            at_end=is_plain,
        )
        if not is_plain:
            write_map(tx, share_metadata, share_metadata.c.share_id, record["id"], metadata, replace=False)
            keep_affinities(tx, record["id"], hints)
        if hints:  # some of them are metadata now
            record = read(tx, context, record["id"], paths=False)
        else:
            told = {"share_type_name": share_type["name"], "has_replicas": False}
            record = {**record, **told, "metadata": dict(sorted(metadata.items()))}
        return {**record, "export_location": None}

    # Those of one project that come at once are accepted in one transaction, but for those that look at more rows.
    group = ("create_share", context.project_id) if is_plain else None
    record = deployment.store.together(group, accept)
    deployment.wake()
    return record


def insert(
    tx: Connection,
    deployment: Deployment,
    context: RequestContext,
    values: Mapping[str, Any],
    share_type: Record,
    instance: Mapping[str, Any],
    payload: Mapping[str, Any],
    *,
    more_seconds: float = 0.0,
    at_end: bool = False,
    **columns: Any,
) -> dict[str, Any]:
    """Write the rows of a new share with its quota and its operation, ``at_end`` of the transaction or at once, and
    return its own. ``values`` as of :func:`create`, checked; ``columns``: what else its row says, ``instance``: what
    its instance's does."""
    identifier, now = new_id(), utcnow()
    quotas, size = deployment.settings.quotas, values["size"]
    limits = once(tx, ("limits", context.project_id), lambda: read_limits(tx, quotas, context.project_id))
    check_share_size(limits, size, user_id=context.user_id, share_type_id=share_type["id"])
    placed = {name: values.get(name) for name in ("availability_zone", "share_network_id")}
    row = {
        "id": identifier,
        "project_id": context.project_id,
        "user_id": context.user_id,
        "name": values.get("name"),
        "description": values.get("description"),
        "size": size,
        "protocol": values["protocol"],
        "is_public": bool(values.get("is_public")),
        "share_type_id": share_type["id"],
        "status": ShareStatus.CREATING,
        "share_group_id": values.get("share_group_id") or None,
        "replication_type": share_type["extra_specs"].get(REPLICATION_SPEC),
        "created_at": now,
        **placed,
        **{name: is_true(share_type["extra_specs"], name) for name in SUPPORT},
        **columns,
    }
    add = add_row_at_end if at_end else add_row
    share = whole_row(shares, row)
    add(tx, shares, **share)
    add(
        tx,
        share_instances,
        id=new_id(),
        share_id=identifier,
        status=ShareStatus.CREATING,
        size=size,
        replica_state=first_state(share_type["extra_specs"]),
        created_at=now,
        **placed,
        **instance,
    )
    submit(
        tx,
        deployment,
        context,
        "create_share",
        "share",
        identifier,
        payload,
        more_seconds=more_seconds,
        at_end=at_end,
    )
    amounts = share_amounts(size, replicated=REPLICATION_SPEC in share_type["extra_specs"])
    # Last of all: every request of the project waits for these rows.
    reserve_at_end(
        tx,
        quotas,
        project_id=context.project_id,
        user_id=context.user_id,
        share_type_id=share_type["id"],
        amounts=amounts,
        limits=limits,
    )
    return share


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


# What a new share may be made of or in; then its rows are read before the transaction ends.
_NOT_PLAIN: Final = ("snapshot_id", "share_group_id", "source_share_group_snapshot_member_id")

# ---- parts -----------------------------------------------------------------------------------------------------------

SUPPORT: Final = (
    "snapshot_support", "create_share_from_snapshot_support", "revert_to_snapshot_support", "mount_snapshot_support",
)  # fmt: skip


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


def first_state(specs: Mapping[str, str]) -> str | None:
    """The replica_state of a new share's only instance."""
    return ReplicaState.ACTIVE if REPLICATION_SPEC in specs else None
