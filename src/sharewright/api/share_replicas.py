"""Replicas of shares: /share-replicas, experimental before 2.56, and their export locations from 2.47 on."""

from __future__ import annotations

from typing import Any, Final

from sharewright.api.export_locations import changed_at
from sharewright.api.metadata import all_items, one_item, pick
from sharewright.api.resource import (
    Field,
    Filter,
    Flag,
    Identifier,
    Name,
    Resource,
    StringMap,
    Timestamp,
    convert,
    timestamp,
    unwrap,
)
from sharewright.api.routing import Call, Handler, Route
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
    many,
    one,
)
from sharewright.api.share_instances import readonly
from sharewright.api.shares import wanted_status
from sharewright.errors import InvalidInput
from sharewright.services import export_locations
from sharewright.services import share_replicas as service

SHARE_REPLICA: Final = Resource(
    name="share_replica",
    plural="share_replicas",
    collection="share-replicas",
    fields=(
        Field("id", Identifier, summary=True),
        Field("share_id", Identifier, summary=True, create=True, required=True),
        Field("status", str, summary=True),
        Field("replica_state", str, summary=True),
        Field("availability_zone", Name, create=True),
        Field("created_at", Timestamp, source=timestamp("created_at")),
        Field("updated_at", Timestamp | None, source=timestamp("updated_at")),
        Field("share_network_id", Name),
        Field("share_network_id", Identifier | None, since=72, shown=False, create=True),
        Field("scheduler_hints", StringMap | None, since=67, shown=False, create=True),
        Field("host", Name, admin=True),
        Field("share_server_id", Name, admin=True),
        Field("cast_rules_to_readonly", Flag, source=readonly, admin=True, since=30),
        Field("metadata", StringMap, since=95, create=True, accepts=StringMap | None),
    ),
    sort_keys={name: name for name in service.COLUMNS},
)
REPLICA_LOCATION: Final = Resource(
    name="export_location",
    plural="export_locations",
    collection="export_locations",
    fields=(
        Field("id", Identifier, summary=True),
        Field("path", str, summary=True),
        Field("preferred", Flag, summary=True),
        Field("replica_state", str, summary=True),
        Field("availability_zone", Name, summary=True),
        Field("share_instance_id", Identifier, admin=True, summary=True),
        Field("is_admin_only", Flag, admin=True, summary=True),
        Field("created_at", Timestamp, source=timestamp("created_at")),
        Field("updated_at", Timestamp, source=changed_at),
        Field("metadata", StringMap, since=87, summary=True),
    ),
)


@listing(SHARE_REPLICA, summary=True, more=(Filter("share_id"),))
def list_summaries(call: Call) -> Any:
    return _list(call, summary=True)


@listing(SHARE_REPLICA, more=(Filter("share_id"),))
def list_details(call: Call) -> Any:
    return _list(call, summary=False)


def _list(call: Call, *, summary: bool) -> Any:
    page = call.page(SHARE_REPLICA)
    records = service.list_replicas(call.deployment, call.context, call.query.get("share_id"), page)
    return SHARE_REPLICA.show_all(records, call, summary=summary) | call.next_page(SHARE_REPLICA, records, page)


@contract(takes=body(SHARE_REPLICA, "create"), gives=one(SHARE_REPLICA))
def create(call: Call) -> Any:
    if not unwrap(call.body, "share_replica").get("share_id"):
        raise InvalidInput("Must provide Share ID to add replica.")
    values = SHARE_REPLICA.parse(call.body, call.version, "create")
    return SHARE_REPLICA.show(service.create(call.deployment, call.context, values), call)


@contract(gives=one(SHARE_REPLICA))
def show(call: Call, share_replica_id: str) -> Any:
    return SHARE_REPLICA.show(service.show(call.deployment, call.context, share_replica_id), call)


@contract()
def delete(call: Call, share_replica_id: str) -> None:
    service.delete(call.deployment, call.context, share_replica_id)


@contract(takes=anything)
def force_delete(call: Call, share_replica_id: str) -> None:
    service.delete(call.deployment, call.context, share_replica_id, force=True)


@contract(takes=anything, gives=one(SHARE_REPLICA), also=(200,))
def promote(call: Call, share_replica_id: str) -> Any:
    record, begun = service.promote(call.deployment, call.context, share_replica_id)
    if not begun:
        call.status = 200
    return SHARE_REPLICA.show(record, call)


@contract(takes=anything)
def resync(call: Call, share_replica_id: str) -> None:
    service.resync(call.deployment, call.context, share_replica_id)


@contract(takes=given(Field("status", str, required=True)))
def reset_status(call: Call, share_replica_id: str) -> None:
    service.reset_status(call.deployment, call.context, share_replica_id, wanted_status(call))


@contract(takes=given(Field("replica_state", str, required=True)))
def reset_replica_state(call: Call, share_replica_id: str) -> None:
    values = unwrap(call.body, "reset_replica_state")
    state = convert(values.get("replica_state"), Identifier, "reset_replica_state.replica_state")
    service.reset_replica_state(call.deployment, call.context, share_replica_id, state)


@contract(gives=many(REPLICA_LOCATION, summary=True))
def list_locations(call: Call, share_replica_id: str) -> Any:
    records = export_locations.of_replica(call.deployment, call.context, share_replica_id)
    return REPLICA_LOCATION.show_all(records, call, summary=True)


@contract(gives=one(REPLICA_LOCATION))
def show_location(call: Call, share_replica_id: str, export_location_id: str) -> Any:
    record = export_locations.show_of_replica(call.deployment, call.context, share_replica_id, export_location_id)
    return REPLICA_LOCATION.show(record, call)


@contract(gives=METADATA)
def read_metadata(call: Call, share_replica_id: str) -> Any:
    return {"metadata": service.read_metadata(call.deployment, call.context, share_replica_id)}


@contract(takes=TAKES_METADATA, gives=METADATA)
def add_metadata(call: Call, share_replica_id: str) -> Any:
    return _write(call, share_replica_id, all_items(call), replace=False)


@contract(takes=TAKES_METADATA, gives=METADATA)
def replace_metadata(call: Call, share_replica_id: str) -> Any:
    return _write(call, share_replica_id, all_items(call), replace=True)


@contract(gives=META)
def read_one(call: Call, share_replica_id: str, key: str) -> Any:
    return {"meta": pick(service.read_metadata(call.deployment, call.context, share_replica_id), key)}


@contract(takes=TAKES_META, gives=META)
def write_one(call: Call, share_replica_id: str, key: str) -> Any:
    item = one_item(call, key)
    service.write_metadata(call.deployment, call.context, share_replica_id, item, replace=False)
    return {"meta": item}


@contract()
def delete_one(call: Call, share_replica_id: str, key: str) -> None:
    service.delete_metadata(call.deployment, call.context, share_replica_id, key)


def _write(call: Call, identifier: str, items: Any, *, replace: bool) -> Any:
    return {"metadata": service.write_metadata(call.deployment, call.context, identifier, items, replace=replace)}


_ONE: Final = "/share-replicas/{share_replica_id}"


def _routes(since: int, until: int, *, experimental: bool) -> tuple[Route, ...]:
    locations = f"{_ONE}/export-locations"

    def route(
        method: str, path: str, handler: Handler, *, status: int = 200, action: str = "", first: int = 0
    ) -> Route:
        return Route(method, path, handler, max(since, first), until, status, action, experimental)

    return (
        route("GET", "/share-replicas", list_summaries),
        route("GET", "/share-replicas/detail", list_details),
        route("POST", "/share-replicas", create, status=202),
        route("GET", _ONE, show),
        route("DELETE", _ONE, delete, status=202),
        route("POST", f"{_ONE}/action", promote, status=202, action="promote"),
        route("POST", f"{_ONE}/action", resync, status=202, action="resync"),
        route("POST", f"{_ONE}/action", force_delete, status=202, action="force_delete"),
        route("POST", f"{_ONE}/action", reset_status, status=202, action="reset_status"),
        route("POST", f"{_ONE}/action", reset_replica_state, status=202, action="reset_replica_state"),
        route("GET", locations, list_locations, first=47),
        route("GET", f"{locations}/{{export_location_id}}", show_location, first=47),
    )


ROUTES: Final = (
    *_routes(11, 55, experimental=True),
    *_routes(56, 10_000, experimental=False),
    Route("GET", f"{_ONE}/metadata", read_metadata, since=95),
    Route("POST", f"{_ONE}/metadata", add_metadata, since=95),
    Route("PUT", f"{_ONE}/metadata", replace_metadata, since=95),
    Route("GET", f"{_ONE}/metadata/{{key}}", read_one, since=95),
    Route("POST", f"{_ONE}/metadata/{{key}}", write_one, since=95),
    Route("PUT", f"{_ONE}/metadata/{{key}}", write_one, since=95),
    Route("DELETE", f"{_ONE}/metadata/{{key}}", delete_one, since=95),
)
