"""Share group types: which share types a group may hold, their group specs, and which projects may use private ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, delete, exists, select
from sqlalchemy.exc import IntegrityError

from sharewright.context import RequestContext
from sharewright.errors import Conflict, InvalidInput, NotFound
from sharewright.identifiers import new_id, utcnow
from sharewright.services import share_types
from sharewright.services.deployment import Deployment, Record, fetch, group
from sharewright.services.lists import Page, fetch_page
from sharewright.services.policy import authorize
from sharewright.services.records import attach, read_maps, write_map
from sharewright.services.type_projects import TypeProjects
from sharewright.services.validation import check_extra_specs
from sharewright.store.tables import (
    share_group_type_projects,
    share_group_type_share_types,
    share_group_type_specs,
    share_group_types,
)

COLUMNS: Final[Mapping[str, ColumnElement[Any]]] = {
    name: share_group_types.c[name] for name in ("id", "name", "created_at", "updated_at")
}
_OWNER = share_group_type_specs.c.share_group_type_id
_PROJECTS: Final = TypeProjects(
    types=share_group_types,
    table=share_group_type_projects,
    owner=share_group_type_projects.c.share_group_type_id,
    what="share group type",
)


def show(deployment: Deployment, context: RequestContext, identifier: str) -> Record:
    authorize(context, "share_group_type:show")
    with deployment.store.read() as tx:
        return find(tx, deployment, context, identifier)


def show_default(deployment: Deployment, context: RequestContext) -> Record:
    """The type that ``default_share_group_type`` names."""
    authorize(context, "share_group_type:default")
    with deployment.store.read() as tx:
        try:
            return find(tx, deployment, context, deployment.settings.default_share_group_type)
        except NotFound:
            raise NotFound("Default share group type not found.") from None


def list_types(
    deployment: Deployment,
    context: RequestContext,
    page: Page,
    *,
    is_public: bool | None = None,
    group_specs: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """The types the caller may use; ``is_public`` and ``group_specs`` choose among them. Three statements."""
    authorize(context, "share_group_type:index")
    statement = select(share_group_types).where(*_PROJECTS.listed(context, is_public=is_public))
    spec = share_group_type_specs.c
    for key, value in (group_specs or {}).items():
        statement = statement.where(
            exists().where(spec.share_group_type_id == share_group_types.c.id, spec.key == key, spec.value == value)
        )
    with deployment.store.read() as tx:
        records = fetch_page(tx, statement, page, columns=COLUMNS, identifier=share_group_types.c.id)
        return _complete(tx, deployment, records)


def create(deployment: Deployment, context: RequestContext, values: Mapping[str, Any]) -> Record:
    """A new type: name, is_public, group_specs, share_types (ids or names, at least one)."""
    authorize(context, "share_group_type:create")
    name = share_types.check_name(values.get("name"), "share group type")
    specs = check_extra_specs(values.get("group_specs") or {}, what="Group spec")
    identifier = new_id()
    try:
        with deployment.store.begin() as tx:
            chosen = choose_share_types(tx, deployment, context, values.get("share_types") or ())
            tx.execute(
                share_group_types.insert().values(
                    id=identifier, name=name, is_public=values.get("is_public", True), created_at=utcnow()
                )
            )
            tx.execute(
                share_group_type_share_types.insert(),
                [{"share_group_type_id": identifier, "share_type_id": share_type} for share_type in chosen],
            )
            write_map(tx, share_group_type_specs, _OWNER, identifier, specs, replace=False)
            return find(tx, deployment, context, identifier)
    except IntegrityError:
        raise Conflict(f"Share group type {name} already exists.") from None


def remove(deployment: Deployment, context: RequestContext, identifier: str) -> None:
    """Delete a type that no share group has."""
    authorize(context, "share_group_type:delete")
    try:
        with deployment.store.begin() as tx:
            find(tx, deployment, context, identifier, by_name=False)
            tx.execute(delete(share_group_types).where(share_group_types.c.id == identifier))
    except IntegrityError:
        raise InvalidInput(f"Target share group type with id {identifier} is still in use.") from None


def choose(tx: Connection, deployment: Deployment, context: RequestContext, name_or_id: str | None) -> dict[str, Any]:
    """The type for a new share group: the one named, or the default. Raises NotFound or InvalidInput."""
    if name_or_id:
        return find(tx, deployment, context, name_or_id)
    try:
        return find(tx, deployment, context, deployment.settings.default_share_group_type)
    except NotFound:
        raise InvalidInput(
            "A share group type must be specified: there is no default share group type.",
            hint="An administrator can set default_share_group_type to an existing one.",
        ) from None


def choose_share_types(
    tx: Connection, deployment: Deployment, context: RequestContext, named: Sequence[str]
) -> list[str]:
    """The ids of the share types named (by id or name), each once. InvalidInput for none, NotFound for one unknown."""
    if not named:
        raise InvalidInput("Share types must be specified.", hint="Name at least one share type, by id or name.")
    chosen = [share_types.choose(tx, deployment, context, name)["id"] for name in named]
    return list(dict.fromkeys(chosen))


# ---- group specs -----------------------------------------------------------------------------------------------------


def read_specs(deployment: Deployment, context: RequestContext, identifier: str, *, rule: str = "index") -> Record:
    authorize(context, f"share_group_types_spec:{rule}")
    with deployment.store.read() as tx:
        return dict(find(tx, deployment, context, identifier, by_name=False)["group_specs"])


def write_specs(
    deployment: Deployment, context: RequestContext, identifier: str, values: Any, *, rule: str = "create"
) -> dict[str, str]:
    """Set group specs; returns those that were set."""
    authorize(context, f"share_group_types_spec:{rule}")
    specs = check_extra_specs(values, what="Group spec")
    with deployment.store.begin() as tx:
        find(tx, deployment, context, identifier, by_name=False)
        write_map(tx, share_group_type_specs, _OWNER, identifier, specs, replace=False)
    return specs


def delete_spec(deployment: Deployment, context: RequestContext, identifier: str, key: str) -> None:
    authorize(context, "share_group_types_spec:delete")
    with deployment.store.begin() as tx:
        find(tx, deployment, context, identifier, by_name=False)
        spec = share_group_type_specs.c
        removed = tx.execute(
            delete(share_group_type_specs).where(spec.share_group_type_id == identifier, spec.key == key)
        )
        if not removed.rowcount:
            raise NotFound(f"Share group type {identifier} has no group spec {key[:64]}.")


# ---- access of projects ----------------------------------------------------------------------------------------------


def list_projects(deployment: Deployment, context: RequestContext, identifier: str) -> list[dict[str, Any]]:
    """The projects that may use a private type."""
    authorize(context, "share_group_type:list_project_access")
    with deployment.store.read() as tx:
        return _PROJECTS.read(tx, find(tx, deployment, context, identifier, by_name=False))


def add_project(deployment: Deployment, context: RequestContext, identifier: str, project_id: str) -> None:
    authorize(context, "share_group_type:add_project_access")
    with deployment.store.begin() as tx:
        _PROJECTS.add(tx, find(tx, deployment, context, identifier, by_name=False), project_id)


def remove_project(deployment: Deployment, context: RequestContext, identifier: str, project_id: str) -> None:
    authorize(context, "share_group_type:remove_project_access")
    with deployment.store.begin() as tx:
        _PROJECTS.remove(tx, find(tx, deployment, context, identifier, by_name=False), project_id)


# ---- parts -----------------------------------------------------------------------------------------------------------


def find(
    tx: Connection, deployment: Deployment, context: RequestContext, name_or_id: str, *, by_name: bool = True
) -> dict[str, Any]:
    """A type the caller may use; by id before by name."""
    return _complete(tx, deployment, [_PROJECTS.find(tx, context, name_or_id, by_name=by_name)])[0]


def _complete(tx: Connection, deployment: Deployment, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    identifiers = [record["id"] for record in records]
    attach(records, "group_specs", read_maps(tx, share_group_type_specs, _OWNER, identifiers))
    members = share_group_type_share_types
    rows = fetch(
        tx,
        select(members).where(members.c.share_group_type_id.in_(identifiers)).order_by(members.c.share_type_id),
    )
    by_type = group(rows, "share_group_type_id")
    for record in records:
        record["share_types"] = [row["share_type_id"] for row in by_type.get(record["id"], ())]
        record["is_default"] = record["name"] == deployment.settings.default_share_group_type
    return records
