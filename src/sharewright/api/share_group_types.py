"""Share group types, their group specs and the projects that may use them: /share-group-types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sharewright.api.resource import Field, Filter, Flag, Identifier, Name, Resource, StringMap, parse_map, unwrap
from sharewright.api.routing import Call, Route
from sharewright.api.shapes import body, contract, given, listing, mapping, one, several, shown, under
from sharewright.api.share_types import one_spec, project_of, visibility
from sharewright.errors import InvalidInput, NotFound
from sharewright.services import share_group_types as service

SINCE: Final = 31  # share groups, of all kinds, are experimental
FINAL: Final = 55

SHARE_GROUP_TYPE: Final = Resource(
    name="share_group_type",
    plural="share_group_types",
    collection="share-group-types",
    fields=(
        Field("id", Identifier),
        Field("name", Name, create=True),
        Field("is_public", Flag, create=True),
        Field("share_types", list[Identifier], create=True, required=True),
        Field("group_specs", StringMap, create=True, accepts=StringMap | None),
        Field("is_default", Flag, since=46),
    ),
    sort_keys={name: name for name in service.COLUMNS},
)
_FILTERS: Final = (Filter("group_specs", kind="map", since=66), Filter("is_public"))


@listing(SHARE_GROUP_TYPE, more=_FILTERS)
def list_all(call: Call) -> Any:
    page = call.page(SHARE_GROUP_TYPE)
    specs = None
    if "group_specs" in call.query:
        if call.version < 66:
            raise InvalidInput("Filter by 'group_specs' is not supported by this microversion. Use 2.66 or greater.")
        specs = parse_map(call.query["group_specs"], "group_specs")
    records = service.list_types(call.deployment, call.context, page, is_public=visibility(call), group_specs=specs)
    return SHARE_GROUP_TYPE.show_all(records, call) | call.next_page(SHARE_GROUP_TYPE, records, page)


@contract(gives=one(SHARE_GROUP_TYPE))
def show(call: Call, share_group_type_id: str) -> Any:
    return SHARE_GROUP_TYPE.show(service.show(call.deployment, call.context, share_group_type_id), call)


@contract(gives=one(SHARE_GROUP_TYPE))
def show_default(call: Call) -> Any:
    return SHARE_GROUP_TYPE.show(service.show_default(call.deployment, call.context), call)


@contract(takes=body(SHARE_GROUP_TYPE, "create"), gives=one(SHARE_GROUP_TYPE))
def create(call: Call) -> Any:
    values = SHARE_GROUP_TYPE.parse(call.body, call.version, "create")
    return SHARE_GROUP_TYPE.show(service.create(call.deployment, call.context, values), call)


@contract()
def delete(call: Call, share_group_type_id: str) -> None:
    service.remove(call.deployment, call.context, share_group_type_id)


# ---- group specs -----------------------------------------------------------------------------------------------------


@contract(gives=under("group_specs", mapping()))
def list_specs(call: Call, share_group_type_id: str) -> Any:
    return {"group_specs": service.read_specs(call.deployment, call.context, share_group_type_id)}


@contract(takes=under("group_specs", mapping()), gives=under("group_specs", mapping()))
def create_specs(call: Call, share_group_type_id: str) -> Any:
    specs = unwrap(call.body, "group_specs")
    return {"group_specs": service.write_specs(call.deployment, call.context, share_group_type_id, specs)}


@contract(gives=mapping(items=1))
def show_spec(call: Call, share_group_type_id: str, key: str) -> Any:
    specs = service.read_specs(call.deployment, call.context, share_group_type_id, rule="show")
    if key not in specs:
        raise NotFound(f"Share group type {share_group_type_id} has no group spec {key[:64]}.")
    return {key: specs[key]}


@contract(takes=mapping(items=1), gives=mapping(items=1))
def update_spec(call: Call, share_group_type_id: str, key: str) -> Any:
    spec = one_spec(call, key)
    return service.write_specs(call.deployment, call.context, share_group_type_id, spec, rule="update")


@contract()
def delete_spec(call: Call, share_group_type_id: str, key: str) -> None:
    service.delete_spec(call.deployment, call.context, share_group_type_id, key)


# ---- access of projects ----------------------------------------------------------------------------------------------


@contract(
    gives=under(
        "share_group_type_access",
        several(shown(Field("share_group_type_id", Identifier), Field("project_id", Identifier))),
    )
)
def list_access(call: Call, share_group_type_id: str) -> Any:
    return {"share_group_type_access": service.list_projects(call.deployment, call.context, share_group_type_id)}


@contract(takes=given(Field("project", Identifier, required=True)))
def add_access(call: Call, share_group_type_id: str) -> None:
    project = project_of(call, "addProjectAccess")
    service.add_project(call.deployment, call.context, share_group_type_id, project)


@contract(takes=given(Field("project", Identifier, required=True)))
def remove_access(call: Call, share_group_type_id: str) -> None:
    project = project_of(call, "removeProjectAccess")
    service.remove_project(call.deployment, call.context, share_group_type_id, project)


def routes_of_groups(
    method: str, path: str, handler: Callable[..., Any], *, status: int = 200, action: str = ""
) -> tuple[Route, Route]:
    """An operation on share groups, their types or snapshots: experimental before 2.55."""
    return (
        Route(method, path, handler, SINCE, FINAL - 1, status, action, experimental=True),
        Route(method, path, handler, since=FINAL, status=status, action=action),
    )


_ONE: Final = "/share-group-types/{share_group_type_id}"
ROUTES: Final = (
    *routes_of_groups("GET", "/share-group-types", list_all),
    *routes_of_groups("POST", "/share-group-types", create),
    *routes_of_groups("GET", "/share-group-types/default", show_default),
    *routes_of_groups("GET", _ONE, show),
    *routes_of_groups("DELETE", _ONE, delete, status=204),
    *routes_of_groups("GET", f"{_ONE}/access", list_access),
    *routes_of_groups("POST", f"{_ONE}/action", add_access, status=202, action="addProjectAccess"),
    *routes_of_groups("POST", f"{_ONE}/action", remove_access, status=202, action="removeProjectAccess"),
    *routes_of_groups("GET", f"{_ONE}/group-specs", list_specs),
    *routes_of_groups("POST", f"{_ONE}/group-specs", create_specs),
    *routes_of_groups("GET", f"{_ONE}/group-specs/{{key}}", show_spec),
    *routes_of_groups("PUT", f"{_ONE}/group-specs/{{key}}", update_spec),
    *routes_of_groups("DELETE", f"{_ONE}/group-specs/{{key}}", delete_spec, status=204),
)
