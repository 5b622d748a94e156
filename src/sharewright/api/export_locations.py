"""Export locations of shares and of share instances."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from sharewright.api.resource import Field, Flag, Identifier, Record, Resource, StringMap, Timestamp, Viewer, timestamp
from sharewright.api.routing import Call, Route
from sharewright.api.shapes import contract, many, one
from sharewright.services import export_locations as service


def changed_at(record: Record, viewer: Viewer) -> str:
    """Clients expect a time here, also of one that never changed."""
    value: datetime = record["updated_at"] or record["created_at"]
    return value.isoformat(timespec="microseconds")


EXPORT_LOCATION: Final = Resource(
    name="export_location",
    plural="export_locations",
    collection="export_locations",
    fields=(
        Field("id", Identifier, summary=True),
        Field("path", str, summary=True),
        Field("preferred", Flag, since=14, summary=True),
        Field("share_instance_id", Identifier, admin=True, summary=True),
        Field("is_admin_only", Flag, admin=True, summary=True),
        Field("created_at", Timestamp, source=timestamp("created_at")),
        Field("updated_at", Timestamp, source=changed_at),
        Field("metadata", StringMap, since=87, summary=True),
    ),
)

ONLY_ACTIVE: Final = 47  # the microversion from which on a share has no locations of replicas that cannot be written to


@contract(gives=many(EXPORT_LOCATION, summary=True))
def list_of_share(call: Call, share_id: str) -> Any:
    records = service.of_share(call.deployment, call.context, share_id, replicas=call.version < ONLY_ACTIVE)
    return EXPORT_LOCATION.show_all(records, call, summary=True)


@contract(gives=one(EXPORT_LOCATION))
def show_of_share(call: Call, share_id: str, export_location_id: str) -> Any:
    record = service.show_of_share(
        call.deployment, call.context, share_id, export_location_id, replicas=call.version < ONLY_ACTIVE
    )
    return EXPORT_LOCATION.show(record, call)


@contract(gives=many(EXPORT_LOCATION, summary=True))
def list_of_instance(call: Call, share_instance_id: str) -> Any:
    records = service.of_instance(call.deployment, call.context, share_instance_id)
    return EXPORT_LOCATION.show_all(records, call, summary=True)


@contract(gives=one(EXPORT_LOCATION))
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
