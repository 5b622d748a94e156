"""Snapshots of shares: /snapshots, the actions on one, and its metadata."""

from __future__ import annotations

from typing import Any, Final

from sharewright.api.lists import list_counted
from sharewright.api.metadata import all_items, one_item, pick
from sharewright.api.resource import (
    Field,
    Filter,
    Flag,
    Identifier,
    Name,
    PositiveInteger,
    Resource,
    StringMap,
    Timestamp,
    convert,
    timestamp,
    unwrap,
)
from sharewright.api.routing import Call, Route
from sharewright.api.shapes import (
    META,
    METADATA,
    TAKES_META,
    TAKES_METADATA,
    anything,
    body,
    contract,
    given,
    listing,
    one,
    under,
)
from sharewright.api.shares import wanted_status
from sharewright.errors import InvalidInput
from sharewright.services import snapshots as service

SNAPSHOT: Final = Resource(
    name="snapshot",
    plural="snapshots",
    collection="snapshots",
    linked=True,
    fields=(
        Field("id", Identifier, summary=True),
        Field("name", Name, summary=True, create=True, update=True, aliases=("display_name",)),
        Field("description", Name, create=True, update=True, aliases=("display_description",)),
        Field("share_id", Identifier, create=True, required=True),
        Field("share_size", PositiveInteger, source="size"),
        Field("size", PositiveInteger),
        Field("share_proto", Identifier, source="protocol"),
        Field("status", str),
        Field("created_at", Timestamp, source=timestamp("created_at")),
        # Of no effect, as in Manila: a share that is busy has no moment at which it is as it should be.
        Field("force", Flag, shown=False, create=True),
        Field("provider_location", Name, since=12, admin=True),
        Field("project_id", str, since=17),
        Field("user_id", str, since=17),
        Field("metadata", StringMap, since=73, create=True, accepts=StringMap | None),
    ),
    filters=(
        Filter("name", kind="like"),
        Filter("display_name", key="name"),
        Filter("description", kind="like"),
        Filter("display_description", key="description"),
        Filter("status"),
        Filter("share_id"),
        Filter("size", kind="integer"),
        Filter("metadata", kind="map", since=73),
        Filter("project_id", admin=True),
    ),
    sort_keys={name: name for name in service.COLUMNS} | {"display_name": "name"},
)
MANAGED: Final = (
    Field("share_id", Identifier, required=True),
    Field("provider_location", Identifier, required=True),
    Field("name", Name, aliases=("display_name",)),
    Field("description", Name, aliases=("display_description",)),
    Field("driver_options", StringMap | None),
)


@listing(SNAPSHOT, summary=True, counted=79, projects=True)
def list_summaries(call: Call) -> Any:
    return list_counted(call, SNAPSHOT, service.list_snapshots, detail=False, first_version=79)


@listing(SNAPSHOT, counted=79, projects=True)
def list_details(call: Call) -> Any:
    return list_counted(call, SNAPSHOT, service.list_snapshots, detail=True, first_version=79)


@contract(takes=body(SNAPSHOT, "create"), gives=one(SNAPSHOT))
def create(call: Call) -> Any:
    values = SNAPSHOT.parse(call.body, call.version, "create")
    return SNAPSHOT.show(service.create(call.deployment, call.context, values), call)


@contract(gives=one(SNAPSHOT))
def show(call: Call, snapshot_id: str) -> Any:
    return SNAPSHOT.show(service.show(call.deployment, call.context, snapshot_id), call)


@contract(takes=body(SNAPSHOT, "update"), gives=one(SNAPSHOT))
def update(call: Call, snapshot_id: str) -> Any:
    values = SNAPSHOT.parse(call.body, call.version, "update")
    return SNAPSHOT.show(service.change(call.deployment, call.context, snapshot_id, values), call)


@contract()
def delete(call: Call, snapshot_id: str) -> None:
    service.delete(call.deployment, call.context, snapshot_id)


@contract(takes=anything)
def force_delete(call: Call, snapshot_id: str) -> None:
    service.delete(call.deployment, call.context, snapshot_id, force=True)


@contract(takes=given(Field("status", str, required=True)))
def reset_status(call: Call, snapshot_id: str) -> None:
    service.reset_status(call.deployment, call.context, snapshot_id, wanted_status(call))


@contract(takes=under("snapshot", given(*MANAGED)), gives=one(SNAPSHOT))
def manage(call: Call) -> Any:
    body = dict(unwrap(call.body, "snapshot"))
    options = body.pop("driver_options", None)
    if options is not None and not isinstance(options, dict):
        raise InvalidInput("driver_options must be an object; none of them has an effect here.")
    reference = convert(body.pop("provider_location", None), Identifier, "snapshot.provider_location")
    values = SNAPSHOT.parse_values(body, call.version, "create")
    record = service.manage(
        call.deployment, call.context, {**values, "provider_location": reference}, servers=call.version >= 49
    )
    return SNAPSHOT.show(record, call)


@contract(takes=anything)
def unmanage(call: Call, snapshot_id: str) -> None:
    service.unmanage(call.deployment, call.context, snapshot_id, servers=call.version >= 49)


@contract(takes=given(Field("snapshot_id", Identifier, required=True)))
def revert(call: Call, share_id: str) -> None:
    snapshot_id = unwrap(call.body, "revert").get("snapshot_id")
    if not isinstance(snapshot_id, str) or not snapshot_id:
        raise InvalidInput("A snapshot_id is required.")
    service.revert(call.deployment, call.context, share_id, snapshot_id)


# ---- metadata --------------------------------------------------------------------------------------------------------


@contract(gives=METADATA)
def show_metadata(call: Call, snapshot_id: str) -> Any:
    return {"metadata": service.read_metadata(call.deployment, call.context, snapshot_id)}


@contract(takes=TAKES_METADATA, gives=METADATA)
def merge_metadata(call: Call, snapshot_id: str) -> Any:
    items = all_items(call)
    return {"metadata": service.write_metadata(call.deployment, call.context, snapshot_id, items, replace=False)}


@contract(takes=TAKES_METADATA, gives=METADATA)
def replace_metadata(call: Call, snapshot_id: str) -> Any:
    items = all_items(call)
    return {"metadata": service.write_metadata(call.deployment, call.context, snapshot_id, items, replace=True)}


@contract(gives=META)
def show_item(call: Call, snapshot_id: str, key: str) -> Any:
    return {"meta": pick(service.read_metadata(call.deployment, call.context, snapshot_id), key)}


@contract(takes=TAKES_META, gives=META)
def write_item(call: Call, snapshot_id: str, key: str) -> Any:
    item = one_item(call, key)
    return {"meta": pick(service.write_metadata(call.deployment, call.context, snapshot_id, item, replace=False), key)}


@contract()
def delete_item(call: Call, snapshot_id: str, key: str) -> None:
    service.delete_metadata(call.deployment, call.context, snapshot_id, key)


_ONE: Final = "/snapshots/{snapshot_id}"
ROUTES: Final = (
    Route("GET", "/snapshots", list_summaries),
    Route("POST", "/snapshots", create, status=202),
    Route("GET", "/snapshots/detail", list_details),
    Route("POST", "/snapshots/manage", manage, since=12, status=202, rule="share_snapshot:manage_snapshot"),
    Route(
        "POST",
        f"{_ONE}/action",
        unmanage,
        since=12,
        status=202,
        action="unmanage",
        rule="share_snapshot:unmanage_snapshot",
    ),
    Route("GET", _ONE, show),
    Route("PUT", _ONE, update),
    Route("DELETE", _ONE, delete, status=202),
    Route(
        "POST",
        f"{_ONE}/action",
        reset_status,
        until=6,
        status=202,
        action="os-reset_status",
        rule="share_snapshot:reset_status",
    ),
    Route(
        "POST",
        f"{_ONE}/action",
        reset_status,
        since=7,
        status=202,
        action="reset_status",
        rule="share_snapshot:reset_status",
    ),
    Route(
        "POST",
        f"{_ONE}/action",
        force_delete,
        until=6,
        status=202,
        action="os-force_delete",
        rule="share_snapshot:force_delete",
    ),
    Route(
        "POST",
        f"{_ONE}/action",
        force_delete,
        since=7,
        status=202,
        action="force_delete",
        rule="share_snapshot:force_delete",
    ),
    Route("POST", "/shares/{share_id}/action", revert, since=27, status=202, action="revert"),
    Route("GET", f"{_ONE}/metadata", show_metadata, since=73),
    Route("POST", f"{_ONE}/metadata", merge_metadata, since=73),
    Route("PUT", f"{_ONE}/metadata", replace_metadata, since=73),
    Route("GET", f"{_ONE}/metadata/{{key}}", show_item, since=73),
    Route("POST", f"{_ONE}/metadata/{{key}}", write_item, since=73),
    Route("PUT", f"{_ONE}/metadata/{{key}}", write_item, since=73),
    Route("DELETE", f"{_ONE}/metadata/{{key}}", delete_item, since=73),
)
