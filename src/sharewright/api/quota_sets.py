"""Quota sets and quota classes; before 2.7 with "os-" names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from sharewright.api.resource import Field, Filter, Flag, Resource, printable, unwrap
from sharewright.api.routing import Call, Route
from sharewright.api.shapes import contract, given, inputs, parameters, shown, under
from sharewright.errors import InvalidInput
from sharewright.services import quotas as service
from sharewright.services.validation import parse_boolean_spec
from sharewright.store.quotas import NOT_BY_SHARE_TYPE

QUOTA_SET: Final = Resource(
    name="quota_set",
    plural="quota_sets",
    collection="quota-sets",
    fields=(
        Field("shares", int, update=True),
        Field("gigabytes", int, update=True),
        Field("snapshots", int, update=True),
        Field("snapshot_gigabytes", int, update=True),
        Field("share_networks", int, update=True),
        Field("share_groups", int, since=40, update=True),
        Field("share_group_snapshots", int, since=40, update=True),
        Field("share_replicas", int, since=53, update=True),
        Field("replica_gigabytes", int, since=53, update=True),
        Field("per_share_gigabytes", int, since=62, update=True),
        Field("backups", int, since=80, update=True),
        Field("backup_gigabytes", int, since=80, update=True),
        Field("encryption_keys", int, since=90, update=True),
    ),
)
_ID: Final = Field("id", str)
# A share type's quotas are fewer, so none of them has to be there.
_LIMITS: Final = tuple(replace(field, admin=False) for field in QUOTA_SET.fields)
_USED: Final = tuple(replace(field, type=dict[str, int]) for field in QUOTA_SET.fields)
_CHANGES: Final = (
    *(replace(field, accepts=int) for field in QUOTA_SET.fields),
    Field("force", Flag),
    Field("tenant_id", str),
    Field("project_id", str),
)
_SCOPE: Final = (Filter("user_id"), Filter("share_type", since=39))


@contract(gives=under("quota_set", shown(_ID, *_LIMITS)), query=parameters(more=_SCOPE))
def show(call: Call, project_id: str) -> Any:
    user_id, share_type = _scope(call)
    values = service.show(call.deployment, call.context, project_id, user_id=user_id, share_type=share_type)
    return _quota_set(call, project_id, {name: value["limit"] for name, value in values.items()}, share_type)


@contract(gives=under("quota_set", shown(_ID, *_USED)), query=parameters(more=_SCOPE))
def show_detail(call: Call, project_id: str) -> Any:
    user_id, share_type = _scope(call)
    values = service.show(call.deployment, call.context, project_id, user_id=user_id, share_type=share_type)
    return _quota_set(call, project_id, values, share_type)


@contract(gives=under("quota_set", shown(_ID, *_LIMITS)))
def show_defaults(call: Call, project_id: str) -> Any:
    return _quota_set(call, project_id, service.show_defaults(call.deployment, call.context, project_id), "")


@contract(
    takes=under("quota_set", given(*_CHANGES)), gives=under("quota_set", shown(*_LIMITS)), query=parameters(more=_SCOPE)
)
def update(call: Call, project_id: str) -> Any:
    user_id, share_type = _scope(call)
    body = dict(unwrap(call.body, "quota_set"))
    force = body.pop("force", False)
    body.pop("tenant_id", None)
    body.pop("project_id", None)
    values = service.change(
        call.deployment,
        call.context,
        project_id,
        _checked(call, body),
        user_id=user_id,
        share_type=share_type,
        force=parse_boolean_spec("force", force),
    )
    shown = _quota_set(call, project_id, {name: value["limit"] for name, value in values.items()}, share_type)
    del shown["quota_set"]["id"]
    return shown


@contract(query=parameters(more=_SCOPE))
def delete(call: Call, project_id: str) -> None:
    user_id, share_type = _scope(call)
    service.remove(call.deployment, call.context, project_id, user_id=user_id, share_type=share_type)


@contract(gives=under("quota_class_set", shown(_ID, *QUOTA_SET.fields)))
def show_class(call: Call, class_name: str) -> Any:
    values = service.show_class(call.deployment, call.context, class_name)
    return {"quota_class_set": {"id": class_name, **_known(call, values)}}


@contract(
    takes=under("quota_class_set", inputs(QUOTA_SET, "update")),
    gives=under("quota_class_set", shown(*QUOTA_SET.fields)),
)
def update_class(call: Call, class_name: str) -> Any:
    body = dict(unwrap(call.body, "quota_class_set"))
    body.pop("class_name", None)
    values = service.change_class(call.deployment, call.context, class_name, _checked(call, body))
    return {"quota_class_set": _known(call, values)}


def _scope(call: Call) -> tuple[str, str]:
    """The user and share type in the query; a share type from 2.39 on."""
    share_type = call.query.get("share_type", "")
    if share_type and call.version < 39:
        raise InvalidInput("'share_type' key is not supported by this microversion. Use 2.39 or greater.")
    return call.query.get("user_id", ""), share_type


def _checked(call: Call, body: Mapping[str, Any]) -> dict[str, Any]:
    """The body's quotas; keys that no microversion up to this one has are refused."""
    names = {field.name for field in QUOTA_SET.fields if field.exists_at(call.version)}
    unknown = sorted(set(body) - names)
    if unknown:
        raise InvalidInput(f"Bad key(s) in quota set: {', '.join(printable(key) for key in unknown[:5])}.")
    return dict(body)


def _known(call: Call, values: Mapping[str, Any]) -> dict[str, Any]:
    names = [field.name for field in QUOTA_SET.fields if field.exists_at(call.version)]
    return {name: values[name] for name in names if name in values}


def _quota_set(call: Call, project_id: str, values: Mapping[str, Any], share_type: str) -> dict[str, Any]:
    shown = _known(call, values)
    if share_type:
        shown = {name: value for name, value in shown.items() if name not in NOT_BY_SHARE_TYPE}
    return {"quota_set": {"id": project_id, **shown}}


def _routes(sets: str, classes: str, since: int, until: int) -> tuple[Route, ...]:
    one, of_class = f"/{sets}/{{project_id}}", f"/{classes}/{{class_name}}"
    return (
        Route("GET", one, show, since, until),
        Route("PUT", one, update, since, until, rule="quota_set:update"),
        Route("DELETE", one, delete, since, until, status=202),
        Route("GET", f"{one}/defaults", show_defaults, since, until),
        Route("GET", of_class, show_class, since, until),
        Route("PUT", of_class, update_class, since, until, rule="quota_class_set:update"),
    )


ROUTES: Final = (
    *_routes("os-quota-sets", "os-quota-class-sets", 0, 6),
    *_routes("quota-sets", "quota-class-sets", 7, 10_000),
    Route("GET", "/quota-sets/{project_id}/detail", show_detail, since=25),
)
