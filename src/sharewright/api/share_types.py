"""Share types, their extra specs and the projects that may use them: /types."""

from __future__ import annotations

from typing import Any, Final

from sharewright.api.resource import (
    Field,
    Filter,
    Flag,
    Identifier,
    Name,
    Record,
    Resource,
    StringMap,
    Viewer,
    parse_flag,
    parse_map,
    unwrap,
)
from sharewright.api.routing import Call, Route
from sharewright.api.shapes import body, contract, given, many, mapping, one, parameters, several, shown, under
from sharewright.errors import InvalidInput, NotFound
from sharewright.services import share_types as service


def _required_specs(record: Record, viewer: Viewer) -> dict[str, str]:
    """Those that every type must have; before 2.24 snapshot_support was one."""
    names = (service.REQUIRED_SPEC,) if viewer.version >= 24 else (service.REQUIRED_SPEC, "snapshot_support")
    return {name: record["extra_specs"][name] for name in names if name in record["extra_specs"]}


def _specs(record: Record, viewer: Viewer) -> dict[str, Any]:
    """Administrators see what is set; others what they may see, and from 2.24 on also what is so when it is not set."""
    if viewer.is_admin:
        return dict(record["extra_specs"])
    shown = {key: value for key, value in record["extra_specs"].items() if key in service.TENANT_VISIBLE}
    implied = dict.fromkeys(service.IMPLIED_FALSE, False) if viewer.version >= 24 else {}
    return implied | shown


SHARE_TYPE: Final = Resource(
    name="share_type",
    plural="share_types",
    collection="types",
    fields=(
        Field("id", Identifier),
        Field("name", Name, create=True, update=True),
        Field("description", Name, since=41, create=True, update=True),
        Field(
            "os-share-type-access:is_public", Flag, source="is_public", until=6, create=True, update=True,
            key="is_public",
        ),
        Field(
            "share_type_access:is_public", Flag, source="is_public", since=7, create=True, update=True,
            key="is_public",
        ),
        Field("extra_specs", dict[str, str | bool], source=_specs, create=True, accepts=StringMap | None),
        Field("required_extra_specs", dict[str, str | bool], source=_required_specs),
        Field("is_default", Flag, since=46),
    ),
    sort_keys={name: name for name in service.COLUMNS},
)  # fmt: skip


DESCRIPTION_SINCE: Final = 41
_FILTERS: Final = (Filter("extra_specs", kind="map", since=43), Filter("is_public"))


@contract(
    gives=many(SHARE_TYPE, paged=True, aliases=("volume_types",)),
    query=parameters(SHARE_TYPE, paged=True, more=_FILTERS),
)
def list_all(call: Call) -> Any:
    page = call.page(SHARE_TYPE)
    extra_specs = parse_map(call.query["extra_specs"], "extra_specs") if _filters_specs(call) else None
    records = service.list_types(
        call.deployment, call.context, page, is_public=visibility(call), extra_specs=extra_specs
    )
    view = SHARE_TYPE.view(call)
    shown = [view(record, call) for record in records]
    return {"share_types": shown, "volume_types": shown} | call.next_page(SHARE_TYPE, records, page)


def _filters_specs(call: Call) -> bool:
    return call.version >= 43 and "extra_specs" in call.query


def visibility(call: Call) -> bool | None:
    """Which types an admin asks for: by default the public ones, "none" or "all" for all."""
    if not call.is_admin:
        return None
    text = call.query.get("is_public", "true")
    return None if text.lower() in ("none", "all") else parse_flag(text, "is_public")


def _both(record: Record, call: Call) -> Any:
    shown = SHARE_TYPE.view(call)(record, call)
    return {"share_type": shown, "volume_type": shown}


@contract(gives=one(SHARE_TYPE, aliases=("volume_type",)))
def show(call: Call, share_type_id: str) -> Any:
    return _both(service.show(call.deployment, call.context, share_type_id), call)


@contract(gives=one(SHARE_TYPE, aliases=("volume_type",)))
def show_default(call: Call) -> Any:
    return _both(service.show_default(call.deployment, call.context), call)


@contract(takes=body(SHARE_TYPE, "create", aliases=("volume_type",)), gives=one(SHARE_TYPE, aliases=("volume_type",)))
def create(call: Call) -> Any:
    body = unwrap(call.body, "share_type", "volume_type")
    if call.version < DESCRIPTION_SINCE and body.get("description"):
        raise InvalidInput("'description' key is not supported by this microversion. Use 2.41 or greater.")
    values = SHARE_TYPE.parse_values(body, call.version, "create")
    implied = call.version < 24
    made = _both(service.create(call.deployment, call.context, values, implied_snapshots=implied), call)
    # As in Manila, the answer repeats a required spec as the request had it: clients compare it with what they sent.
    sent, required = body.get("extra_specs") or {}, made["share_type"]["required_extra_specs"]
    required.update({name: sent[name] for name in required if isinstance(sent.get(name), bool)})
    return made


@contract(takes=body(SHARE_TYPE, "update"), gives=one(SHARE_TYPE, aliases=("volume_type",)))
def update(call: Call, share_type_id: str) -> Any:
    values = SHARE_TYPE.parse(call.body, call.version, "update")
    return _both(service.change(call.deployment, call.context, share_type_id, values), call)


@contract()
def delete(call: Call, share_type_id: str) -> None:
    service.remove(call.deployment, call.context, share_type_id)


# ---- extra specs -----------------------------------------------------------------------------------------------------


@contract(gives=under("extra_specs", mapping()))
def list_specs(call: Call, share_type_id: str) -> Any:
    return {"extra_specs": service.read_specs(call.deployment, call.context, share_type_id)}


@contract(takes=under("extra_specs", mapping()), gives=under("extra_specs", mapping()))
def create_specs(call: Call, share_type_id: str) -> Any:
    specs = unwrap(call.body, "extra_specs")
    return {"extra_specs": service.write_specs(call.deployment, call.context, share_type_id, specs)}


@contract(gives=mapping(items=1))
def show_spec(call: Call, share_type_id: str, key: str) -> Any:
    specs = service.read_specs(call.deployment, call.context, share_type_id)
    if key not in specs:
        raise NotFound(f"Share type {share_type_id} has no extra spec {key[:64]}.")
    return {key: specs[key]}


@contract(takes=mapping(items=1), gives=mapping(items=1))
def update_spec(call: Call, share_type_id: str, key: str) -> Any:
    return service.write_specs(call.deployment, call.context, share_type_id, one_spec(call, key), rule="update")


def one_spec(call: Call, key: str) -> Any:
    """The body of a request that sets one spec, ``{key: value}``."""
    if key not in call.body:
        raise InvalidInput("Request body and URI mismatch.")
    if len(call.body) > 1:
        raise InvalidInput("Request body contains too many items.")
    return call.body


@contract()
def delete_spec(call: Call, share_type_id: str, key: str) -> None:
    kept = () if call.version >= 24 else ("snapshot_support",)
    service.delete_spec(call.deployment, call.context, share_type_id, key, kept=kept)


# ---- access of projects ----------------------------------------------------------------------------------------------


@contract(
    gives=under(
        "share_type_access", several(shown(Field("share_type_id", Identifier), Field("project_id", Identifier)))
    )
)
def list_access(call: Call, share_type_id: str) -> Any:
    return {"share_type_access": service.list_projects(call.deployment, call.context, share_type_id)}


@contract(takes=given(Field("project", Identifier, required=True)))
def add_access(call: Call, share_type_id: str) -> None:
    service.add_project(call.deployment, call.context, share_type_id, project_of(call, "addProjectAccess"))


@contract(takes=given(Field("project", Identifier, required=True)))
def remove_access(call: Call, share_type_id: str) -> None:
    service.remove_project(call.deployment, call.context, share_type_id, project_of(call, "removeProjectAccess"))


def project_of(call: Call, action: str) -> str:
    """The project in the body of an action that gives or takes access."""
    project = unwrap(call.body, action).get("project")
    if not isinstance(project, str) or not 1 <= len(project.strip()) <= 255 or "\0" in project:
        raise InvalidInput(f"{action} needs a project.")
    return project


_ONE = "/types/{share_type_id}"
ROUTES: Final = (
    Route("GET", "/types", list_all),
    Route("POST", "/types", create, rule="share_type:create"),
    Route("GET", "/types/default", show_default),
    Route("GET", _ONE, show),
    Route("PUT", _ONE, update, since=50, rule="share_type:update"),
    Route("DELETE", _ONE, delete, status=202),
    Route("GET", f"{_ONE}/extra_specs", list_specs),
    Route("POST", f"{_ONE}/extra_specs", create_specs, rule="share_types_extra_spec:create"),
    Route("GET", f"{_ONE}/extra_specs/{{key}}", show_spec),
    Route("PUT", f"{_ONE}/extra_specs/{{key}}", update_spec, rule="share_types_extra_spec:update"),
    Route("DELETE", f"{_ONE}/extra_specs/{{key}}", delete_spec, status=202),
    Route("GET", f"{_ONE}/os-share-type-access", list_access, until=6),
    Route("GET", f"{_ONE}/share_type_access", list_access, since=7),
    Route(
        "POST",
        f"{_ONE}/action",
        add_access,
        status=202,
        action="addProjectAccess",
        rule="share_type:add_project_access",
    ),
    Route(
        "POST",
        f"{_ONE}/action",
        remove_access,
        status=202,
        action="removeProjectAccess",
        rule="share_type:remove_project_access",
    ),
)
