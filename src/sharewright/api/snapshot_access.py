"""Snapshots that clients mount: access rules and export locations of snapshots, and of their instances."""

from __future__ import annotations

from typing import Any, Final

from sharewright.api.access_rules import IPV6_SINCE
from sharewright.api.resource import Field, Flag, Identifier, Name, Resource, Timestamp, timestamp, unwrap
from sharewright.api.routing import Call, Route
from sharewright.api.shapes import contract, given, inputs, many, one
from sharewright.errors import InvalidInput
from sharewright.services import snapshot_access as rules
from sharewright.services import snapshot_locations as locations

SNAPSHOT_ACCESS: Final = Resource(
    name="snapshot_access",
    plural="snapshot_access_list",
    collection="snapshot-access-rules",
    fields=(
        Field("id", Identifier, summary=True),
        Field("access_type", Identifier, summary=True, create=True, required=True),
        Field("access_to", Identifier, summary=True, create=True, required=True),
        Field("state", str, summary=True),
        # Not Manila's, which has no passwords for users of a snapshot.
        Field("access_key", Name, summary=True),
    ),
)
SNAPSHOT_EXPORT_LOCATION: Final = Resource(
    name="share_snapshot_export_location",
    plural="share_snapshot_export_locations",
    collection="share_snapshot_export_locations",
    linked=True,
    fields=(
        Field("id", Identifier, summary=True),
        Field("path", str, summary=True),
        Field("share_snapshot_instance_id", Identifier, admin=True, summary=True),
        Field("is_admin_only", Flag, admin=True, summary=True),
        Field("created_at", Timestamp, source=timestamp("created_at")),
        Field("updated_at", Timestamp | None, source=timestamp("updated_at")),
    ),
)


@contract(takes=inputs(SNAPSHOT_ACCESS, "create"), gives=one(SNAPSHOT_ACCESS))
def allow(call: Call, snapshot_id: str) -> Any:
    values = SNAPSHOT_ACCESS.parse_values(unwrap(call.body, "allow_access"), call.version, "create")
    ipv6 = call.version >= IPV6_SINCE
    record = rules.allow(call.deployment, call.context, snapshot_id, values, ipv6=ipv6)
    return SNAPSHOT_ACCESS.show(record, call)


@contract(takes=given(Field("access_id", Identifier, required=True)))
def deny(call: Call, snapshot_id: str) -> None:
    access_id = unwrap(call.body, "deny_access").get("access_id")
    if not isinstance(access_id, str) or not access_id:
        raise InvalidInput("access_id is required.")
    rules.deny(call.deployment, call.context, snapshot_id, access_id)


@contract(gives=many(SNAPSHOT_ACCESS, summary=True))
def list_rules(call: Call, snapshot_id: str) -> Any:
    records = rules.list_rules(call.deployment, call.context, snapshot_id)
    return SNAPSHOT_ACCESS.show_all(records, call, summary=True)


@contract(gives=many(SNAPSHOT_EXPORT_LOCATION, summary=True))
def list_of_snapshot(call: Call, snapshot_id: str) -> Any:
    records = locations.of_snapshot(call.deployment, call.context, snapshot_id)
    return SNAPSHOT_EXPORT_LOCATION.show_all(records, call, summary=True)


@contract(gives=one(SNAPSHOT_EXPORT_LOCATION))
def show_of_snapshot(call: Call, snapshot_id: str, export_location_id: str) -> Any:
    record = locations.show_of_snapshot(call.deployment, call.context, snapshot_id, export_location_id)
    return SNAPSHOT_EXPORT_LOCATION.show(record, call)


@contract(gives=many(SNAPSHOT_EXPORT_LOCATION, summary=True))
def list_of_instance(call: Call, snapshot_instance_id: str) -> Any:
    records = locations.of_instance(call.deployment, call.context, snapshot_instance_id)
    return SNAPSHOT_EXPORT_LOCATION.show_all(records, call, summary=True)


@contract(gives=one(SNAPSHOT_EXPORT_LOCATION))
def show_of_instance(call: Call, snapshot_instance_id: str, export_location_id: str) -> Any:
    record = locations.show_of_instance(call.deployment, call.context, snapshot_instance_id, export_location_id)
    return SNAPSHOT_EXPORT_LOCATION.show(record, call)


_ONE: Final = "/snapshots/{snapshot_id}"
_INSTANCE: Final = "/snapshot-instances/{snapshot_instance_id}/export-locations"
ROUTES: Final = (
    Route("POST", f"{_ONE}/action", allow, since=32, status=202, action="allow_access"),
    Route("POST", f"{_ONE}/action", deny, since=32, status=202, action="deny_access"),
    Route("GET", f"{_ONE}/access-list", list_rules, since=32),
    Route("GET", f"{_ONE}/export-locations", list_of_snapshot, since=32),
    Route("GET", f"{_ONE}/export-locations/{{export_location_id}}", show_of_snapshot, since=32),
    Route("GET", _INSTANCE, list_of_instance, since=32),
    Route("GET", f"{_INSTANCE}/{{export_location_id}}", show_of_instance, since=32),
)
