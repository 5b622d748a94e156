"""Share groups: /share-groups and the actions on one."""

from __future__ import annotations

from typing import Any, Final

from sharewright.api.lists import all_projects
from sharewright.api.resource import Field, Filter, Identifier, Name, Resource, Timestamp, timestamp
from sharewright.api.routing import Call
from sharewright.api.shapes import anything, body, contract, given, listing, one
from sharewright.api.share_group_types import routes_of_groups
from sharewright.api.shares import wanted_status
from sharewright.services import share_groups as service

SHARE_GROUP: Final = Resource(
    name="share_group",
    plural="share_groups",
    collection="share-groups",
    linked=True,
    fields=(
        Field("id", Identifier, summary=True),
        Field("name", Name, summary=True, create=True, update=True),
        Field("description", Name, create=True, update=True),
        Field("status", str),
        Field("created_at", Timestamp, source=timestamp("created_at")),
        Field("project_id", str),
        Field("host", Name),
        Field("share_group_type_id", Identifier | None, create=True),
        Field("share_types", list[Identifier], create=True, accepts=list[Identifier] | None),
        Field("share_network_id", Identifier | None, create=True),
        # Its first one; when that is full, further shares are on others.
        Field("share_server_id", Name, admin=True),
        Field("source_share_group_snapshot_id", Identifier | None, create=True),
        Field("consistent_snapshot_support", Name, since=34),
        Field("availability_zone", Name, until=33, shown=False, create=True),
        Field("availability_zone", Name, since=34, create=True),
    ),
    filters=(
        Filter("name", kind="like"),
        Filter("description", kind="like"),
        Filter("status"),
        Filter("share_group_type_id"),
        Filter("group_type_id", key="share_group_type_id"),
        Filter("share_network_id"),
        Filter("source_share_group_snapshot_id"),
        Filter("project_id", admin=True),
    ),
    sort_keys={name: name for name in service.COLUMNS},
)


@listing(SHARE_GROUP, summary=True, projects=True)
def list_summaries(call: Call) -> Any:
    return _list(call, detail=False)


@listing(SHARE_GROUP, projects=True)
def list_details(call: Call) -> Any:
    return _list(call, detail=True)


def _list(call: Call, *, detail: bool) -> Any:
    page = call.page(SHARE_GROUP)
    records = service.list_groups(
        call.deployment, call.context, call.filters(SHARE_GROUP), page, all_projects=all_projects(call)
    )
    return SHARE_GROUP.show_all(records, call, summary=not detail) | call.next_page(SHARE_GROUP, records, page)


@contract(takes=body(SHARE_GROUP, "create"), gives=one(SHARE_GROUP))
def create(call: Call) -> Any:
    values = SHARE_GROUP.parse(call.body, call.version, "create")
    return SHARE_GROUP.show(service.create(call.deployment, call.context, values), call)


@contract(gives=one(SHARE_GROUP))
def show(call: Call, share_group_id: str) -> Any:
    return SHARE_GROUP.show(service.show(call.deployment, call.context, share_group_id), call)


@contract(takes=body(SHARE_GROUP, "update"), gives=one(SHARE_GROUP))
def update(call: Call, share_group_id: str) -> Any:
    values = SHARE_GROUP.parse(call.body, call.version, "update")
    return SHARE_GROUP.show(service.change(call.deployment, call.context, share_group_id, values), call)


@contract()
def delete(call: Call, share_group_id: str) -> None:
    service.delete(call.deployment, call.context, share_group_id)


@contract(takes=anything)
def force_delete(call: Call, share_group_id: str) -> None:
    service.delete(call.deployment, call.context, share_group_id, force=True)


@contract(takes=given(Field("status", str, required=True)))
def reset_status(call: Call, share_group_id: str) -> None:
    service.reset_status(call.deployment, call.context, share_group_id, wanted_status(call))


_ONE: Final = "/share-groups/{share_group_id}"
ROUTES: Final = (
    *routes_of_groups("GET", "/share-groups", list_summaries),
    *routes_of_groups("POST", "/share-groups", create, status=202),
    *routes_of_groups("GET", "/share-groups/detail", list_details),
    *routes_of_groups("GET", _ONE, show),
    *routes_of_groups("PUT", _ONE, update),
    *routes_of_groups("DELETE", _ONE, delete, status=202),
    *routes_of_groups("POST", f"{_ONE}/action", reset_status, status=202, action="reset_status"),
    *routes_of_groups("POST", f"{_ONE}/action", force_delete, status=202, action="force_delete"),
)
