"""Which shares a list shows: the conditions of its filters, in words that indexes serve. And how many they are, where
that is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Select,
    Table,
    and_,
    bindparam,
    exists,
    false,
    func,
    literal_column,
    or_,
    select,
)

from sharewright.context import RequestContext
from sharewright.services.lists import contains, or_empty
from sharewright.services.policy import allows
from sharewright.services.visible import by_columns, of_projects
from sharewright.store.lookups import among
from sharewright.store.tables import (
    share_counts,
    share_export_locations,
    share_instances,
    share_metadata,
    share_type_extra_specs,
    shares,
)

# What the index has of a value, since a whole one may be longer than an index of PostgreSQL can hold. With literals: an
# index is not found by an expression with parameters.
_LONGEST: Final = 64
_BEGINNING: Final = func.substr(share_metadata.c.value, literal_column("1"), literal_column(str(_LONGEST)))
_EVERYBODYS: Final = "share:list_all_projects"  # the rule
_OF_ALL: Final = frozenset({"project_id", "is_public", "is_soft_deleted"})  # any other filter narrows a list
_EXACT: Final = (
    "name", "description", "status", "share_type_id", "share_network_id", "share_server_id", "host", "snapshot_id",
    "share_group_id",
)  # fmt: skip
FEW: Final = 100  # shares with one name or some metadata: so many are looked up one by one
_NAMED: Final = (
    select(shares.c.id)
    .where(shares.c.project_id == bindparam("project"), or_empty(shares.c.name) == bindparam("name"))
    .limit(bindparam("number", type_=Integer))
)
_WITH_METADATA: Final = (
    select(share_metadata.c.share_id)
    .where(
        share_metadata.c.key == bindparam("key"),
        bindparam("beginning") == _BEGINNING,
        # Not the bare column: SQLite would put the parameter into the line above, and not know the index again.
        or_empty(share_metadata.c.value) == bindparam("value"),
    )
    .limit(bindparam("number", type_=Integer))
)


def whose(context: RequestContext, filters: Mapping[str, Any], all_projects: bool) -> list[ColumnElement[bool]]:
    """Whose shares a list shows, and whether those in the recycle bin."""
    wanted = _of_projects(shares, context, filters, all_projects)
    if _shows_public(context, filters, all_projects):
        wanted = [or_(*wanted, shares.c.is_public.is_(True))]
    return [*wanted, _in_bin(shares, filters)]


def total(tx: Connection, context: RequestContext, filters: Mapping[str, Any], all_projects: bool) -> int | None:
    """How many shares there are in the list, where that is kept: of all that a project has, or everybody. Else None."""
    if filters.keys() - _OF_ALL or _shows_public(context, filters, all_projects):
        return None
    query = select(func.coalesce(func.sum(share_counts.c.number), 0)).where(
        *_of_projects(share_counts, context, filters, all_projects), _in_bin(share_counts, filters)
    )
    return int(tx.execute(query).scalar_one())


def _of_projects(
    table: Table, context: RequestContext, filters: Mapping[str, Any], all_projects: bool
) -> list[ColumnElement[bool]]:
    return of_projects(context, table.c.project_id, filters, rule=_EVERYBODYS, all_projects=all_projects)


def _shows_public(context: RequestContext, filters: Mapping[str, Any], all_projects: bool) -> bool:
    """``is_public`` widens a project's list and is no filter: clients look for a share by name with all_tenants=1 and
    is_public=True, and mean every share."""
    return bool(filters.get("is_public")) and not (all_projects and allows(context, _EVERYBODYS))


def _in_bin(table: Table, filters: Mapping[str, Any]) -> ColumnElement[bool]:
    return table.c.is_soft_deleted.is_(bool(filters.get("is_soft_deleted")))


def conditions(filters: Mapping[str, Any]) -> list[ColumnElement[bool]]:
    wanted = by_columns(shares, _EXACT, filters)
    for key, value in filters.get("extra_specs", {}).items():
        spec = share_type_extra_specs
        wanted.append(
            exists().where(spec.c.share_type_id == shares.c.share_type_id, spec.c.key == key, spec.c.value == value)
        )
    locations: list[ColumnElement[bool]] = []
    if filters.get("mount_point_name"):
        wanted.append(false())  # no share has one
    if "availability_zone" in filters:
        wanted.append(shares.c.availability_zone == filters["availability_zone"])
    if "export_location_id" in filters:
        locations.append(share_export_locations.c.id == filters["export_location_id"])
    if "export_location_path" in filters:
        locations.append(share_export_locations.c.path == filters["export_location_path"])
    if "export_location_path~" in filters:
        locations.append(contains(share_export_locations.c.path, filters["export_location_path~"]))
    if locations:
        wanted.append(
            shares.c.id.in_(
                select(share_instances.c.share_id)
                .join(share_export_locations, share_export_locations.c.share_instance_id == share_instances.c.id)
                .where(and_(*locations))
            )
        )
    return wanted


def narrowed(
    tx: Connection, project_id: str, name: str | None, metadata: Mapping[str, str]
) -> tuple[list[ColumnElement[bool]], bool]:
    """The conditions that a share of the project has this name, if one is given, and has these metadata; and whether
    few have. Those few are named, so that not all shares are looked through; where many have it, the first shares that
    are looked at will do. One statement for each."""
    wanted: list[ColumnElement[bool]] = []
    looks: list[tuple[Select[Any], dict[str, str], ColumnElement[bool] | None]] = []
    if name:
        looks.append((_NAMED, {"project": project_id, "name": name}, None))
    for key, value in metadata.items():
        item = share_metadata.c
        many = exists().where(item.share_id == shares.c.id, item.key == key, item.value == value)
        looks.append((_WITH_METADATA, {"key": key, "value": value, "beginning": value[:_LONGEST]}, many))
    is_few = False
    for query, parameters, otherwise in looks:
        found = tx.scalars(query, {**parameters, "number": FEW + 1}).all()
        if len(found) <= FEW:
            wanted.append(among(tx, shares.c.id, found))
            is_few = True
        elif otherwise is not None:
            wanted.append(otherwise)
    return wanted, is_few
