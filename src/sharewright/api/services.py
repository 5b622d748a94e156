"""Services, the processes that report: /services, before 2.7 /os-services."""

from __future__ import annotations

from typing import Any, Final

from sharewright.api.resource import Field, Filter, Flag, Name, Resource, Timestamp, convert, timestamp, unwrap
from sharewright.api.routing import Call, Route
from sharewright.api.shapes import contract, given, many, parameters, shown, under
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
        Field("ensuring", Flag, since=86),
    ),
    filters=(
        Filter("host"),
        Filter("binary"),
        Filter("zone"),
        Filter("state"),
        Filter("status"),
        Filter("ensuring", kind="flag", since=93),
    ),
)


REASON_SINCE: Final = 83
CHANGE: Final = (
    Field("host", Text255, required=True),
    Field("binary", Text255, required=True),
    Field("disabled_reason", Name, since=83),
)
CHANGED: Final = (
    Field("host", Text255),
    Field("binary", Text255),
    Field("disabled", Flag, until=82),
    Field("status", str, since=83),
    Field("disabled_reason", Name, since=83),
)


@contract(gives=many(SERVICE), query=parameters(SERVICE))
def list_all(call: Call) -> Any:
    records = system.list_services(call.deployment, call.context, call.filters(SERVICE))
    return SERVICE.show_all(records, call)


@contract(takes=given(*CHANGE), gives=shown(*CHANGED))
def update(call: Call, change: str) -> Any:
    if change not in ("enable", "disable"):
        raise NotFound("Unknown action")
    unknown = set(call.body) - {"host", "binary", "disabled_reason"}
    if unknown or "host" not in call.body or "binary" not in call.body:
        raise InvalidInput("The body needs host and binary, and nothing else.")
    host = convert(call.body["host"], Text255, "host")
    binary = convert(call.body["binary"], Text255, "binary")
    reason = convert(call.body.get("disabled_reason"), Name, "disabled_reason")
    if reason and call.version < REASON_SINCE:
        raise InvalidInput("'disabled_reason' is not supported by this microversion. Use 2.83 or greater.")
    reason = reason.strip() or None if reason else None
    enabled = change == "enable"
    system.enable_service(call.deployment, call.context, host=host, binary=binary, enabled=enabled, reason=reason)
    shown: dict[str, Any] = {"host": host, "binary": binary}
    if call.version < REASON_SINCE:
        return shown | {"disabled": not enabled}
    return shown | {"status": "enabled" if enabled else "disabled", "disabled_reason": None if enabled else reason}


@contract(takes=under("ensure_shares", given(Field("host", Text255, required=True))))
def ensure_shares(call: Call) -> None:
    host = convert(unwrap(call.body, "ensure_shares").get("host"), Text255, "ensure_shares.host")
    system.ensure_shares(call.deployment, call.context, host)


ROUTES: Final = (
    Route("GET", "/os-services", list_all, until=6),
    Route("PUT", "/os-services/{change}", update, until=6, rule="service:update"),
    Route("GET", "/services", list_all, since=7),
    Route("PUT", "/services/{change}", update, since=7, rule="service:update"),
    Route("POST", "/services/ensure-shares", ensure_shares, since=86, status=202, rule="service:ensure_shares"),
)
