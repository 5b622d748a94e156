"""Availability zones: /availability-zones, before 2.7 /os-availability-zone."""

from __future__ import annotations

from typing import Any, Final

from sharewright.api.resource import Field, Identifier, Resource, Timestamp, timestamp
from sharewright.api.routing import Call, Route
from sharewright.api.shapes import contract, many
from sharewright.services import system

AVAILABILITY_ZONE: Final = Resource(
    name="availability_zone",
    plural="availability_zones",
    collection="availability-zones",
    fields=(
        Field("id", Identifier),
        Field("name", str),
        Field("created_at", Timestamp, source=timestamp("created_at")),
        Field("updated_at", Timestamp | None, source=timestamp("updated_at")),
    ),
)


@contract(gives=many(AVAILABILITY_ZONE))
def list_all(call: Call) -> Any:
    return AVAILABILITY_ZONE.show_all(system.list_zones(call.deployment, call.context), call)


ROUTES: Final = (
    Route("GET", "/os-availability-zone", list_all, until=6),
    Route("GET", "/availability-zones", list_all, since=7),
)
