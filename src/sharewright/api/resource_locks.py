"""Resource locks: /resource-locks, from 2.81 on."""

from __future__ import annotations

from typing import Any, Final

from sharewright.api.lists import list_counted
from sharewright.api.resource import Field, Filter, Identifier, Name, Resource, Timestamp, timestamp
from sharewright.api.routing import Call, Route
from sharewright.api.shapes import body, contract, listing, one
from sharewright.services import resource_locks as service

RESOURCE_LOCK: Final = Resource(
    name="resource_lock",
    plural="resource_locks",
    collection="resource-locks",
    linked=True,
    fields=(
        Field("id", Identifier),
        Field("user_id", str),
        Field("project_id", str),
        Field("lock_context", str),
        Field("resource_type", Name, create=True),
        Field("resource_id", Identifier, create=True, required=True),
        Field("resource_action", Name, create=True, update=True),
        Field("lock_reason", str | None, create=True, update=True),
        Field("created_at", Timestamp, source=timestamp("created_at")),
        Field("updated_at", Timestamp | None, source=timestamp("updated_at")),
    ),
    filters=(
        Filter("id"),
        Filter("user_id"),
        Filter("project_id"),
        Filter("resource_id"),
        Filter("resource_type"),
        Filter("resource_action"),
        Filter("lock_context"),
        Filter("lock_reason", kind="like"),
        Filter("created_since"),
        Filter("created_before"),
    ),
    sort_keys={name: name for name in service.COLUMNS},
)


@listing(RESOURCE_LOCK, counted=81, projects=True)
def list_all(call: Call) -> Any:
    return list_counted(call, RESOURCE_LOCK, service.list_locks, detail=True, first_version=81)


@contract(gives=one(RESOURCE_LOCK))
def show(call: Call, resource_lock_id: str) -> Any:
    return RESOURCE_LOCK.show(service.show(call.deployment, call.context, resource_lock_id), call)


@contract(takes=body(RESOURCE_LOCK, "create"), gives=one(RESOURCE_LOCK))
def create(call: Call) -> Any:
    values = RESOURCE_LOCK.parse(call.body, call.version, "create")
    return RESOURCE_LOCK.show(service.create(call.deployment, call.context, values), call)


@contract(takes=body(RESOURCE_LOCK, "update"), gives=one(RESOURCE_LOCK))
def update(call: Call, resource_lock_id: str) -> Any:
    values = RESOURCE_LOCK.parse(call.body, call.version, "update")
    return RESOURCE_LOCK.show(service.change(call.deployment, call.context, resource_lock_id, values), call)


@contract()
def delete(call: Call, resource_lock_id: str) -> None:
    service.remove(call.deployment, call.context, resource_lock_id)


_ONE = "/resource-locks/{resource_lock_id}"
ROUTES: Final = (
    Route("GET", "/resource-locks", list_all, since=81),
    Route("POST", "/resource-locks", create, since=81),
    Route("GET", _ONE, show, since=81),
    Route("PUT", _ONE, update, since=81),
    Route("DELETE", _ONE, delete, since=81, status=204),
)
