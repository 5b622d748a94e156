"""Share group snapshots: /share-group-snapshots, the actions on one, and its members."""

from __future__ import annotations

from typing import Any, Final

from sharewright.api.lists import all_projects
from sharewright.api.resource import Field, Filter, Identifier, Name, PositiveInteger, Resource, Timestamp, timestamp
from sharewright.api.routing import Call
from sharewright.api.shapes import anything, body, contract, given, listing, one
from sharewright.api.share_group_types import routes_of_groups
from sharewright.api.shares import wanted_status
from sharewright.services import share_group_snapshots as service

MEMBER: Final = Resource(
    name="share_group_snapshot_member",
    plural="share_group_snapshot_members",
    collection="share-group-snapshots",
    fields=(
        Field("id", Identifier, summary=True),
        Field("created_at", Timestamp, source=timestamp("created_at")),
        Field("size", PositiveInteger, summary=True),
        Field("share_protocol", Identifier, source="protocol"),
        Field("project_id", str),
        Field("share_group_snapshot_id", Identifier),
        Field("share_id", Identifier, summary=True),
    ),
    sort_keys={name: name for name in service.MEMBER_COLUMNS},
)
SHARE_GROUP_SNAPSHOT: Final = Resource(
    name="share_group_snapshot",
    plural="share_group_snapshots",
    collection="share-group-snapshots",
    linked=True,
    fields=(
        Field("id", Identifier, summary=True),
        Field("name", Name, summary=True, create=True, update=True),
        Field("description", Name, create=True, update=True),
        Field("status", str),
        Field("created_at", Timestamp, source=timestamp("created_at")),
        Field("project_id", str),
        Field("share_group_id", Identifier, create=True, required=True),
        Field("members", list[dict[str, Any]], items=MEMBER),
    ),
    filters=(
        Filter("name", kind="like"),
        Filter("description", kind="like"),
        Filter("status"),
        Filter("share_group_id"),
        Filter("id"),
        Filter("project_id", admin=True),
    ),
    sort_keys={name: name for name in service.COLUMNS},
)


@listing(SHARE_GROUP_SNAPSHOT, summary=True, projects=True)
def list_summaries(call: Call) -> Any:
    return _list(call, detail=False)


@listing(SHARE_GROUP_SNAPSHOT, projects=True)
def list_details(call: Call) -> Any:
    return _list(call, detail=True)


def _list(call: Call, *, detail: bool) -> Any:
    page = call.page(SHARE_GROUP_SNAPSHOT)
    records = service.list_snapshots(
        call.deployment, call.context, call.filters(SHARE_GROUP_SNAPSHOT), page, all_projects=all_projects(call)
    )
    answer = SHARE_GROUP_SNAPSHOT.show_all(records, call, summary=not detail)
    return answer | call.next_page(SHARE_GROUP_SNAPSHOT, records, page)


@contract(takes=body(SHARE_GROUP_SNAPSHOT, "create"), gives=one(SHARE_GROUP_SNAPSHOT))
def create(call: Call) -> Any:
    values = SHARE_GROUP_SNAPSHOT.parse(call.body, call.version, "create")
    return SHARE_GROUP_SNAPSHOT.show(service.create(call.deployment, call.context, values), call)


@contract(gives=one(SHARE_GROUP_SNAPSHOT))
def show(call: Call, share_group_snapshot_id: str) -> Any:
    return SHARE_GROUP_SNAPSHOT.show(service.show(call.deployment, call.context, share_group_snapshot_id), call)


@listing(MEMBER)
def list_members(call: Call, share_group_snapshot_id: str) -> Any:
    page = call.page(MEMBER)
    records = service.list_members(call.deployment, call.context, share_group_snapshot_id, page)
    return MEMBER.show_all(records, call) | call.next_page(MEMBER, records, page)


@contract(takes=body(SHARE_GROUP_SNAPSHOT, "update"), gives=one(SHARE_GROUP_SNAPSHOT))
def update(call: Call, share_group_snapshot_id: str) -> Any:
    values = SHARE_GROUP_SNAPSHOT.parse(call.body, call.version, "update")
    record = service.change(call.deployment, call.context, share_group_snapshot_id, values)
    return SHARE_GROUP_SNAPSHOT.show(record, call)


@contract()
def delete(call: Call, share_group_snapshot_id: str) -> None:
    service.delete(call.deployment, call.context, share_group_snapshot_id)


@contract(takes=anything)
def force_delete(call: Call, share_group_snapshot_id: str) -> None:
    service.delete(call.deployment, call.context, share_group_snapshot_id, force=True)


@contract(takes=given(Field("status", str, required=True)))
def reset_status(call: Call, share_group_snapshot_id: str) -> None:
    service.reset_status(call.deployment, call.context, share_group_snapshot_id, wanted_status(call))


_ONE: Final = "/share-group-snapshots/{share_group_snapshot_id}"
ROUTES: Final = (
    *routes_of_groups("GET", "/share-group-snapshots", list_summaries),
    *routes_of_groups("POST", "/share-group-snapshots", create, status=202),
    *routes_of_groups("GET", "/share-group-snapshots/detail", list_details),
    *routes_of_groups("GET", _ONE, show),
    *routes_of_groups("PUT", _ONE, update),
    *routes_of_groups("DELETE", _ONE, delete, status=202),
    *routes_of_groups("GET", f"{_ONE}/members", list_members),
    *routes_of_groups("POST", f"{_ONE}/action", reset_status, status=202, action="reset_status"),
    *routes_of_groups("POST", f"{_ONE}/action", force_delete, status=202, action="force_delete"),
)
