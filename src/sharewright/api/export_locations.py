"""Export locations of shares and of share instances."""

from __future__ import annotations

from typing import Any, Final

from sharewright.api.resource import Field, Flag, Identifier, Resource, StringMap, Timestamp, timestamp
from sharewright.api.routing import Call, Route
from sharewright.services import export_locations as service

EXPORT_LOCATION: Final = Resource(
    name="export_location",
    plural="export_locations",
    collection="export_locations",
    fields=(
        # Until 2.13 the id was "uuid", and lists had the times too.
        Field("uuid", Identifier, source="id", until=13, summary=True),
        Field("id", Identifier, since=14, summary=True),
        Field("path", str, summary=True),
        Field("created_at", Timestamp, source=timestamp("created_at"), until=13, summary=True),
        Field("updated_at", Timestamp | None, source=timestamp("updated_at"), until=13, summary=True),
        Field("preferred", Flag, since=14, summary=True),
        Field("share_instance_id", Identifier, admin=True, summary=True),
        Field("is_admin_only", Flag, admin=True, summary=True),
        Field("created_at", Timestamp, source=timestamp("created_at"), since=14),
        Field("updated_at", Timestamp | None, source=timestamp("updated_at"), since=14),
        Field("metadata", StringMap, since=87, summary=True),
    ),
)


def list_of_share(call: Call, share_id: str) -> Any:
    records = service.of_share(call.deployment, call.context, share_id)
    return EXPORT_LOCATION.show_all(records, call, summary=True)


def show_of_share(call: Call, share_id: str, export_location_id: str) -> Any:
    record = service.show_of_share(call.deployment, call.context, share_id, export_location_id)
    return EXPORT_LOCATION.show(record, call)


def list_of_instance(call: Call, share_instance_id: str) -> Any:
    records = service.of_instance(call.deployment, call.context, share_instance_id)
    return EXPORT_LOCATION.show_all(records, call, summary=True)


def show_of_instance(call: Call, share_instance_id: str, export_location_id: str) -> Any:
    record = service.show_of_instance(call.deployment, call.context, share_instance_id, export_location_id)
    return EXPORT_LOCATION.show(record, call)


ROUTES: Final = (
    Route("GET", "/shares/{share_id}/export_locations", list_of_share, since=9),
    Route("GET", "/shares/{share_id}/export_locations/{export_location_id}", show_of_share, since=9),
    Route("GET", "/share_instances/{share_instance_id}/export_locations", list_of_instance, since=9),
    Route(
        "GET", "/share_instances/{share_instance_id}/export_locations/{export_location_id}", show_of_instance, since=9
    ),
)
