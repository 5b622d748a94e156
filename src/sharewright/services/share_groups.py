"""Share groups: what a request may do to them.

The shares of a group are on one backend and one share network. Where shares are on share servers a new group gets one,
as in Manila, and is ``creating`` until that is there (operations/create_share_group.py). So is a group that is made of
a group snapshot, until its shares are there (group_sources.py). All else is rows only, and done when it is answered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, func, select, update

from sharewright.context import RequestContext
from sharewright.errors import Conflict, InvalidInput, NotFound
from sharewright.identifiers import new_id, utcnow
from sharewright.operations.messages import Action, Detail, Resource, write_message
from sharewright.operations.share_groups import CONSISTENT_SNAPSHOTS, consistent_snapshots
from sharewright.operations.share_rows import leave_server
from sharewright.services import share_group_types, share_types
from sharewright.services.deployment import Deployment, Record, fetch, group
from sharewright.services.group_sources import read_group_source
from sharewright.services.group_zones import group_zone
from sharewright.services.lists import Page, fetch_page
from sharewright.services.policy import authorize
from sharewright.services.share_places import choose_network, choose_zone
from sharewright.services.transitions import SHARE_GROUP
from sharewright.services.validation import parse_boolean_spec
from sharewright.services.visible import by_columns, find_visible, of_projects
from sharewright.services.work import submit
from sharewright.states import ShareGroupStatus
from sharewright.store.quotas import release, reserve
from sharewright.store.tables import pools, share_group_share_types, share_group_snapshots, share_groups, shares

COLUMNS: Final[Mapping[str, ColumnElement[Any]]] = {
    name: share_groups.c[name]
    for name in (
        "id",
        "name",
        "status",
        "project_id",
        "user_id",
        "share_group_type_id",
        "share_network_id",
        "created_at",
    )
}
_EXACT: Final = ("name", "description", "status", "share_group_type_id", "share_network_id")
_HOST: Final = (
    select(func.min(shares.c.host)).where(shares.c.share_group_id == share_groups.c.id).scalar_subquery().label("host")
)


def find(
    tx: Connection, context: RequestContext, identifier: str, rule: str = "share_group:get", *, lock: bool = False
) -> dict[str, Any]:
    """A group's row. NotFound when it is not there for this caller. ``lock`` holds it until the transaction ends."""
    statement = select(share_groups, _HOST)
    return find_visible(
        tx, context, statement, of=share_groups, identifier=identifier, rule=rule, what="Share group", lock=lock
    )


def show(deployment: Deployment, context: RequestContext, identifier: str) -> Record:
    """One group, with its share types."""
    with deployment.store.read() as tx:
        return _complete(tx, [find(tx, context, identifier)])[0]


def list_groups(
    deployment: Deployment,
    context: RequestContext,
    filters: Mapping[str, Any],
    page: Page,
    *,
    all_projects: bool = False,
) -> list[dict[str, Any]]:
    """The groups of one page. Two statements."""
    authorize(context, "share_group:get_all")
    columns, rule = share_groups.c, "share_group:list_all_projects"
    statement = select(share_groups, _HOST).where(
        *of_projects(context, columns.project_id, filters, rule=rule, all_projects=all_projects),
        *by_columns(share_groups, _EXACT, filters),
    )
    with deployment.store.read() as tx:
        return _complete(tx, fetch_page(tx, statement, page, columns=COLUMNS, identifier=columns.id))


def create(deployment: Deployment, context: RequestContext, values: Mapping[str, Any]) -> Record:
    """A new group: name, description, share_group_type_id, share_types (ids; the default one when none is given),
    share_network_id, availability_zone; or source_share_group_snapshot_id, which says all but the first three.

    When no backend has the consistent snapshots that the type asks for, the group is in ``error`` as in Manila, with a
    user message.
    """
    authorize(context, "share_group:create")
    identifier = new_id()
    with deployment.store.begin() as tx:
        source = read_group_source(tx, context, values)
        if source is not None:
            values = source.values
        with _of_the_body():
            group_type = share_group_types.choose(tx, deployment, context, values.get("share_group_type_id"))
            chosen = _choose_share_types(tx, deployment, context, values.get("share_types") or (), group_type)
        zone: str | None = values.get("availability_zone")
        network_id: str | None = values.get("share_network_id")
        for share_type in chosen:
            zone = choose_zone(tx, share_type["extra_specs"], zone)
            with _of_the_body():
                network_id = choose_network(tx, context, share_type["extra_specs"], network_id, zone)
        if zone is None and source is None:
            zone = group_zone(tx, [share_type["extra_specs"] for share_type in chosen], network_id)
        reserve(
            tx,
            deployment.settings.quotas,
            project_id=context.project_id,
            user_id=context.user_id,
            amounts={"share_groups": 1},
        )
        asked = group_type["group_specs"].get(CONSISTENT_SNAPSHOTS)
        if asked is not None and _is_true(asked) is False:
            asked = None
        support = _consistent_snapshots(tx, asked)
        lacking = asked is not None and support is None
        needs_server = source is None and network_id is not None
        being_made = needs_server or source is not None
        status = ShareGroupStatus.CREATING if being_made else ShareGroupStatus.AVAILABLE
        tx.execute(
            share_groups.insert().values(
                id=identifier,
                project_id=context.project_id,
                user_id=context.user_id,
                name=values.get("name"),
                description=values.get("description"),
                status=ShareGroupStatus.ERROR if lacking else status,
                share_group_type_id=group_type["id"],
                share_network_id=network_id,
                share_server_id=source.share_server_id if source is not None else None,
                availability_zone=zone,
                consistent_snapshot_support=support,
                source_share_group_snapshot_id=source.snapshot_id if source is not None else None,
                created_at=utcnow(),
            )
        )
        tx.execute(
            share_group_share_types.insert(),
            [{"share_group_id": identifier, "share_type_id": share_type["id"]} for share_type in chosen],
        )
        if source is not None and not lacking:
            source.create_shares(tx, deployment, context, identifier)
        if needs_server and not lacking:
            submit(tx, deployment, context, "create_share_group", "share_group", identifier, {"server": True})
        if lacking:
            write_message(
                tx,
                None,
                project_id=context.project_id,
                resource_id=identifier,
                resource_type=Resource.SHARE_GROUP,
                action=Action.ALLOCATE_HOST,
                detail=Detail.NO_VALID_HOST,
                error=f"The share group type asks for {CONSISTENT_SNAPSHOTS} = {asked}, which no backend offers.",
            )
        record = _complete(tx, [find(tx, context, identifier)])[0]
    if being_made:
        deployment.wake()
    return record


def change(deployment: Deployment, context: RequestContext, identifier: str, values: Mapping[str, Any]) -> Record:
    """Change name or description."""
    with deployment.store.begin() as tx:
        find(tx, context, identifier, "share_group:update", lock=True)
        changed = {key: values[key] for key in ("name", "description") if key in values}
        if changed:
            tx.execute(
                update(share_groups).where(share_groups.c.id == identifier).values(**changed, updated_at=utcnow())
            )
        return _complete(tx, [find(tx, context, identifier)])[0]


def delete(deployment: Deployment, context: RequestContext, identifier: str, *, force: bool = False) -> None:
    """Delete a group that has neither shares nor snapshots; ``force`` (admin) from every state."""
    action = "force_delete" if force else "delete"
    with deployment.store.begin() as tx:
        found = find(tx, context, identifier, f"share_group:{action}", lock=True)
        SHARE_GROUP[action].check("Share group", identifier, found["status"])
        query = (
            select(func.count())
            .select_from(share_group_snapshots)
            .where(share_group_snapshots.c.share_group_id == identifier)
        )
        if number := tx.execute(query).scalar_one():
            raise Conflict(
                f"Cannot delete share group {identifier}: it has {number} snapshot(s).", hint="Delete them first."
            )
        query = select(func.count()).select_from(shares).where(shares.c.share_group_id == identifier)
        if number := tx.execute(query).scalar_one():
            raise Conflict(
                f"Cannot delete share group {identifier}: it has {number} share(s).", hint="Delete them first."
            )
        tx.execute(share_groups.delete().where(share_groups.c.id == identifier))
        leave_server(tx, found["share_server_id"])
        release(tx, project_id=found["project_id"], user_id=found["user_id"], amounts={"share_groups": 1})


def reset_status(deployment: Deployment, context: RequestContext, identifier: str, status: str) -> None:
    """Set the status (admin)."""
    if status not in ShareGroupStatus.ALL:
        raise InvalidInput(f"Invalid status '{status[:64]}'. Use one of: {', '.join(ShareGroupStatus.ALL)}.")
    with deployment.store.begin() as tx:
        find(tx, context, identifier, "share_group:reset_status", lock=True)
        tx.execute(
            update(share_groups).where(share_groups.c.id == identifier).values(status=status, updated_at=utcnow())
        )


# ---- parts -----------------------------------------------------------------------------------------------------------


@contextmanager
def _of_the_body() -> Iterator[None]:
    """As Manila: what a body names and is not there is bad input. (A zone that is not there is 404, as there.)"""
    try:
        yield
    except NotFound as error:
        raise InvalidInput(error.message) from None


def _consistent_snapshots(tx: Connection, asked: str | None) -> str | None:
    """What a new group gets of what the backends' pools offer: what its type asks for, else what all of them do. Only
    pools that offer it take its shares. A type may also say that it asks for any, because the ``openstack`` client lets
    nothing but a boolean through."""
    offered = {
        consistent_snapshots(capabilities) for capabilities in tx.execute(select(pools.c.capabilities)).scalars()
    }
    if asked in offered:
        return asked
    if asked is not None:
        offered.discard(None)
    return offered.pop() if len(offered) == 1 and (asked is None or _is_true(asked)) else None


def _is_true(asked: str) -> bool | None:
    """None: it is no boolean."""
    try:
        return parse_boolean_spec(CONSISTENT_SNAPSHOTS, asked)
    except InvalidInput:
        return None


def _choose_share_types(
    tx: Connection, deployment: Deployment, context: RequestContext, named: Sequence[str], group_type: Record
) -> list[dict[str, Any]]:
    """The share types of a new group, which must be among those of its type and agree on who handles share servers."""
    chosen: dict[str, dict[str, Any]] = {}
    for name in named or (None,):
        share_type = share_types.choose(tx, deployment, context, name)
        chosen[share_type["id"]] = share_type
    if not set(chosen) <= set(group_type["share_types"]):
        raise InvalidInput(
            "The specified share types must be a subset of the share types supported by the share group type,"
            f" which are {', '.join(group_type['share_types'])}."
        )
    spec = share_types.REQUIRED_SPEC
    if len({parse_boolean_spec(spec, share_type["extra_specs"][spec]) for share_type in chosen.values()}) > 1:
        raise InvalidInput(f"The specified share types cannot have conflicting values for the {spec} extra spec.")
    return list(chosen.values())


def _complete(tx: Connection, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    members = share_group_share_types
    identifiers = [record["id"] for record in records]
    rows = fetch(tx, select(members).where(members.c.share_group_id.in_(identifiers)).order_by(members.c.share_type_id))
    by_group = group(rows, "share_group_id")
    for record in records:
        record["share_types"] = [row["share_type_id"] for row in by_group.get(record["id"], ())]
    return records
