"""Services, the processes that report: /services, before 2.7 /os-services."""

from __future__ import annotations

from typing import Any, Final

from sharewright.api.resource import Field, Filter, Name, Resource, Timestamp, convert, timestamp
from sharewright.api.routing import Call, Route
from sharewright.errors import InvalidInput, NotFound
from sharewright.services import system
from sharewright.services.validation import Text255

SERVICE: Final = Resource(
    name="service",
    plural="services",
    collection="services",
    fields=(
        Field("id", int, source="number"),
        Field("binary", str),
        Field("host", str),
        Field("zone", str),
        Field("status", str),
        Field("state", str),
        Field("updated_at", Timestamp, source=timestamp("heartbeat_at")),
        Field("disabled_reason", Name, since=83),
    ),
    filters=(Filter("host"), Filter("binary"), Filter("zone"), Filter("state"), Filter("status")),
)


def list_all(call: Call) -> Any:
    records = system.list_services(call.deployment, call.context, call.filters(SERVICE))
    return SERVICE.show_all(records, call)


def update(call: Call, change: str) -> Any:
    if change not in ("enable", "disable"):
        raise NotFound("Unknown action")
    unknown = set(call.body) - {"host", "binary", "disabled_reason"}
    if unknown or "host" not in call.body or "binary" not in call.body:
        raise InvalidInput("The body needs host and binary, and nothing else.")
    host = convert(call.body["host"], Text255, "host")
    binary = convert(call.body["binary"], Text255, "binary")
    system.enable_service(call.deployment, call.context, host=host, binary=binary, enabled=change == "enable")
    return {"host": host, "binary": binary, "disabled": change == "disable"}


ROUTES: Final = (
    Route("GET", "/os-services", list_all, until=6),
    Route("PUT", "/os-services/{change}", update, until=6),
    Route("GET", "/services", list_all, since=7),
    Route("PUT", "/services/{change}", update, since=7),
)
