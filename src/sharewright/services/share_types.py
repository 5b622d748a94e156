"""Share types with their extra specs, and which projects may use private ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, delete, exists, literal, or_, select, update
from sqlalchemy.exc import IntegrityError

from sharewright.context import RequestContext
from sharewright.errors import Conflict, Forbidden, InvalidInput, NotFound
from sharewright.identifiers import new_id, utcnow
from sharewright.services.deployment import Deployment, Record, fetch_one
from sharewright.services.lists import Page, contains, fetch_page
from sharewright.services.policy import authorize
from sharewright.services.records import attach, read_maps, write_map
from sharewright.services.type_projects import TypeProjects
from sharewright.services.validation import (
    BOOLEAN_SPECS,
    ZONES_SPEC,
    check_extra_specs,
    parse_boolean_spec,
    parse_zones,
)
from sharewright.store.tables import (
    quota_usages,
    quotas,
    share_group_share_types,
    share_group_type_share_types,
    share_instances,
    share_type_extra_specs,
    share_type_projects,
    share_types,
    shares,
)

REQUIRED_SPEC: Final = "driver_handles_share_servers"
# What everybody sees of a type; the other specs are the administrators'.
TENANT_VISIBLE: Final = (
    *BOOLEAN_SPECS, "replication_type", "availability_zones", "mount_point_name_support",
    "provisioning:max_share_size", "provisioning:min_share_size", "provisioning:max_share_extend_size",
)  # fmt: skip
IMPLIED_FALSE: Final = tuple(name for name in BOOLEAN_SPECS if name != REQUIRED_SPEC)
COLUMNS: Final[Mapping[str, ColumnElement[Any]]] = {
    name: share_types.c[name] for name in ("id", "name", "created_at", "updated_at")
}
_OWNER = share_type_extra_specs.c.share_type_id
_PROJECTS: Final = TypeProjects(
    types=share_types, table=share_type_projects, owner=share_type_projects.c.share_type_id, what="share type"
)


def choose(tx: Connection, deployment: Deployment, context: RequestContext, name_or_id: str | None) -> dict[str, Any]:
    """The type for a new share: the one named, or the default. Raises NotFound or InvalidInput."""
    if name_or_id:
        return _find(tx, deployment, context, name_or_id)
    try:
        return _find(tx, deployment, context, deployment.settings.default_share_type)
    except NotFound:
        raise InvalidInput(
            "A share type must be specified: there is no default share type.",
            hint="An administrator can set default_share_type to an existing one.",
        ) from None


def show(deployment: Deployment, context: RequestContext, name_or_id: str) -> Record:
    authorize(context, "share_type:show")
    with deployment.store.read() as tx:
        return _find(tx, deployment, context, name_or_id)


def show_default(deployment: Deployment, context: RequestContext) -> Record:
    authorize(context, "share_type:default")
    with deployment.store.read() as tx:
        try:
            return _find(tx, deployment, context, deployment.settings.default_share_type)
        except NotFound:
            raise NotFound("Default share type not found.") from None


def list_types(
    deployment: Deployment,
    context: RequestContext,
    page: Page,
    *,
    is_public: bool | None = None,
    extra_specs: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """The types the caller may use; an admin sees private ones too unless ``is_public`` chooses. Two statements."""
    authorize(context, "share_type:index")
    statement = select(share_types).where(*_PROJECTS.listed(context, is_public=is_public))
    wanted = dict(extra_specs or {})
    if ZONES_SPEC in wanted:
        statement = statement.where(*(_is_in(zone) for zone in parse_zones(wanted.pop(ZONES_SPEC))))
    for key, value in wanted.items():
        spec = share_type_extra_specs
        statement = statement.where(
            exists().where(spec.c.share_type_id == share_types.c.id, spec.c.key == key, spec.c.value == value)
        )
    with deployment.store.read() as tx:
        return _complete(tx, deployment, fetch_page(tx, statement, page, columns=COLUMNS, identifier=share_types.c.id))


def _is_in(zone: str) -> ColumnElement[bool]:
    """Whether a share type is for the zone: it names it, or none."""
    spec = share_type_extra_specs.c
    named = exists().where(spec.share_type_id == share_types.c.id, spec.key == ZONES_SPEC)
    return or_(~named, named.where(contains(literal(",").concat(spec.value).concat(","), f",{zone},")))


def create(
    deployment: Deployment, context: RequestContext, values: Mapping[str, Any], *, implied_snapshots: bool = False
) -> Record:
    """A new type: name, description, is_public, extra_specs. ``implied_snapshots``: before 2.24 a type without
    snapshot_support has it."""
    authorize(context, "share_type:create")
    specs = check_extra_specs(values.get("extra_specs") or {})
    _check_required(specs)
    if implied_snapshots:
        specs.setdefault("snapshot_support", "True")
    identifier = new_id()
    try:
        with deployment.store.begin() as tx:
            tx.execute(
                share_types.insert().values(
                    id=identifier,
                    name=check_name(values.get("name")),
                    description=values.get("description"),
                    is_public=values.get("is_public", True),
                    created_at=utcnow(),
                )
            )
            write_map(tx, share_type_extra_specs, _OWNER, identifier, specs, replace=False)
            return _find(tx, deployment, context, identifier)
    except IntegrityError:
        raise Conflict(f"Share Type {values['name']} already exists.") from None


def change(deployment: Deployment, context: RequestContext, identifier: str, values: Mapping[str, Any]) -> Record:
    """Change name, description or is_public."""
    authorize(context, "share_type:update")
    if not values:
        raise InvalidInput("Specify share type name, description, share_type_access:is_public or a combination.")
    if "name" in values:
        check_name(values["name"])
    if values.get("description") == "":
        values = {**values, "description": None}
    try:
        with deployment.store.begin() as tx:
            share_type = _find(tx, deployment, context, identifier, by_name=False)
            tx.execute(
                update(share_types).where(share_types.c.id == share_type["id"]).values(**values, updated_at=utcnow())
            )
            return _find(tx, deployment, context, identifier, by_name=False)
    except IntegrityError:
        raise Conflict(f"Share Type {values['name']} already exists.") from None


def remove(deployment: Deployment, context: RequestContext, identifier: str) -> None:
    """Delete a type that no share has and no share group or share group type names, with its quotas."""
    authorize(context, "share_type:delete")
    try:
        with deployment.store.begin() as tx:
            share_type = _find(tx, deployment, context, identifier, by_name=False)
            for table in (shares, share_instances, share_group_type_share_types, share_group_share_types):
                if tx.execute(
                    select(table.c.share_type_id).where(table.c.share_type_id == identifier).limit(1)
                ).first():
                    raise InvalidInput(f"Target share type {share_type['name']} is still in use.")
            tx.execute(delete(share_types).where(share_types.c.id == identifier))
            tx.execute(delete(quotas).where(quotas.c.share_type_id == identifier))
            tx.execute(delete(quota_usages).where(quota_usages.c.share_type_id == identifier))
    except IntegrityError:  # a share took it in this moment
        raise InvalidInput("Target share type is still in use.") from None


# ---- extra specs -----------------------------------------------------------------------------------------------------


def read_specs(deployment: Deployment, context: RequestContext, identifier: str) -> dict[str, str]:
    authorize(context, "share_types_extra_spec:index")
    with deployment.store.read() as tx:
        return dict(_find(tx, deployment, context, identifier, by_name=False)["extra_specs"])


def write_specs(
    deployment: Deployment, context: RequestContext, identifier: str, values: Any, *, rule: str = "create"
) -> dict[str, str]:
    """Set extra specs; shares keep what they were made with. Returns those that were set."""
    authorize(context, f"share_types_extra_spec:{rule}")
    specs = check_extra_specs(values)
    if REQUIRED_SPEC in specs:
        _check_required(specs)
    with deployment.store.begin() as tx:
        _find(tx, deployment, context, identifier, by_name=False)
        write_map(tx, share_type_extra_specs, _OWNER, identifier, specs, replace=False)
    return specs


def delete_spec(
    deployment: Deployment, context: RequestContext, identifier: str, key: str, *, kept: Sequence[str] = ()
) -> None:
    """Remove an extra spec, but not a required one (nor one of ``kept``)."""
    authorize(context, "share_types_extra_spec:delete")
    with deployment.store.begin() as tx:
        specs = _find(tx, deployment, context, identifier, by_name=False)["extra_specs"]
        if key == REQUIRED_SPEC or key in kept:
            raise Forbidden(f"Extra spec '{key}' is required and cannot be deleted.")
        if key not in specs:
            raise NotFound(f"Share type {identifier} has no extra spec {key[:64]}.")
        tx.execute(
            delete(share_type_extra_specs).where(
                share_type_extra_specs.c.share_type_id == identifier, share_type_extra_specs.c.key == key
            )
        )


# ---- access of projects ----------------------------------------------------------------------------------------------


def list_projects(deployment: Deployment, context: RequestContext, identifier: str) -> list[dict[str, Any]]:
    """The projects that may use a private type."""
    authorize(context, "share_type:list_project_access")
    with deployment.store.read() as tx:
        return _PROJECTS.read(tx, _find(tx, deployment, context, identifier, by_name=False))


def add_project(deployment: Deployment, context: RequestContext, identifier: str, project_id: str) -> None:
    authorize(context, "share_type:add_project_access")
    with deployment.store.begin() as tx:
        _PROJECTS.add(tx, _find(tx, deployment, context, identifier, by_name=False), project_id)


def remove_project(deployment: Deployment, context: RequestContext, identifier: str, project_id: str) -> None:
    authorize(context, "share_type:remove_project_access")
    with deployment.store.begin() as tx:
        _PROJECTS.remove(tx, _find(tx, deployment, context, identifier, by_name=False), project_id)


# ---- parts -----------------------------------------------------------------------------------------------------------


def _find(
    tx: Connection, deployment: Deployment, context: RequestContext, name_or_id: str, *, by_name: bool = True
) -> dict[str, Any]:
    """A type the caller may use; by id before by name."""
    record, specs = _PROJECTS.find_with_specs(tx, context, name_or_id, _OWNER, by_name=by_name)
    return {**record, "extra_specs": specs, "is_default": record["name"] == deployment.settings.default_share_type}


def _complete(tx: Connection, deployment: Deployment, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    attach(
        records,
        "extra_specs",
        read_maps(tx, share_type_extra_specs, _OWNER, [record["id"] for record in records]),
    )
    for record in records:
        record["is_default"] = record["name"] == deployment.settings.default_share_type
    return records


def check_name(name: Any, what: str = "share type") -> str:
    """The name of a type, if it is one."""
    if not isinstance(name, str) or not name.strip() or len(name) > 255:
        raise InvalidInput(f"A {what} needs a name of 1 to 255 characters.")
    return name


def _check_required(specs: Mapping[str, str]) -> None:
    if REQUIRED_SPEC not in specs:
        raise InvalidInput(f"Required extra spec {REQUIRED_SPEC} is not set.", hint="Set it to True or False.")
    parse_boolean_spec(REQUIRED_SPEC, specs[REQUIRED_SPEC])


def by_id(tx: Connection, identifier: str) -> dict[str, Any] | None:
    """A type's row, for quotas, whoever asks."""
    statement = select(share_types).where(or_(share_types.c.id == identifier, share_types.c.name == identifier))
    return fetch_one(tx, statement)
