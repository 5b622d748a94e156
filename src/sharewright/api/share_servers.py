"""Share servers, for administrators: /share-servers."""

from __future__ import annotations

from typing import Any, Final

from sharewright.api.lists import names_unknown
from sharewright.api.resource import (
    Field,
    Filter,
    Flag,
    Identifier,
    Name,
    Record,
    Resource,
    StringMap,
    Timestamp,
    Viewer,
    constant,
    convert,
    timestamp,
    unwrap,
)
from sharewright.api.routing import Call, Route
from sharewright.api.shapes import contract, given, listing, mapping, one, under
from sharewright.api.shares import wanted_status
from sharewright.errors import InvalidInput, Unprocessable
from sharewright.services import managed_share_servers as managed
from sharewright.services import share_servers as service
from sharewright.services.share_network_subnets import takes_further_subnets


def _identifier(record: Record, viewer: Viewer) -> str:
    return str(record["identifier"] or record["id"])


def _takes_subnets(record: Record, viewer: Viewer) -> bool:
    return takes_further_subnets(record["layout"])


SHARE_SERVER: Final = Resource(
    name="share_server",
    plural="share_servers",
    collection="share-servers",
    fields=(
        Field("id", Identifier, summary=True),
        Field("project_id", str, summary=True),
        Field("status", str, summary=True),
        Field("host", str, summary=True),
        Field("share_network_id", Name, summary=True),
        Field("share_network_name", Name, summary=True),
        Field("updated_at", Timestamp | None, source=timestamp("updated_at"), summary=True),
        Field("created_at", Timestamp, source=timestamp("created_at")),
        Field("backend_details", StringMap),
        Field("is_auto_deletable", Flag, since=49),
        Field("identifier", str, source=_identifier, since=49),
        Field("share_network_subnet_id", Name, since=51, until=69),
        Field("task_state", Name, since=57, summary=True),
        Field("source_share_server_id", Name, since=57, summary=True),
        Field("security_service_update_support", Flag, source=constant(False), since=63),
        Field("share_network_subnet_ids", list[str], source="subnet_ids", since=70),
        Field("network_allocation_update_support", Flag, source=_takes_subnets, since=70),
    ),
    filters=(
        Filter("host"),
        Filter("status"),
        Filter("project_id"),
        Filter("share_network_id"),
        Filter("share_network", key="share_network_id"),
        Filter("share_network_subnet_id", since=51),
        Filter("identifier", since=49),
        Filter("source_share_server_id", since=57),
    ),
    sort_keys={name: name for name in service.COLUMNS},
)
MANAGED: Final = (
    Field("host", Identifier, required=True),
    Field("share_network_id", Identifier, required=True),
    Field("identifier", Identifier, required=True),
    Field("driver_options", StringMap | None),
    Field("share_network_subnet_id", Identifier | None, since=51),
)


@listing(SHARE_SERVER, summary=True)
def list_all(call: Call) -> Any:
    page = call.page(SHARE_SERVER)
    if names_unknown(call, SHARE_SERVER):
        return SHARE_SERVER.show_all([], call)
    records = service.list_servers(call.deployment, call.context, call.filters(SHARE_SERVER), page)
    return SHARE_SERVER.show_all(records, call, summary=True) | call.next_page(SHARE_SERVER, records, page)


@contract(gives=one(SHARE_SERVER))
def show(call: Call, share_server_id: str) -> Any:
    return SHARE_SERVER.show(service.show(call.deployment, call.context, share_server_id), call)


@contract(gives=under("details", mapping()))
def details(call: Call, share_server_id: str) -> Any:
    return {"details": service.details(call.deployment, call.context, share_server_id)}


@contract()
def delete(call: Call, share_server_id: str) -> None:
    service.remove(call.deployment, call.context, share_server_id)


@contract(takes=given(Field("status", str, required=True)))
def reset_status(call: Call, share_server_id: str) -> None:
    service.reset_status(call.deployment, call.context, share_server_id, wanted_status(call))


@contract(takes=given(Field("task_state", str | None, required=True)))
def reset_task_state(call: Call, share_server_id: str) -> None:
    values = unwrap(call.body, "reset_task_state")
    if set(values) != {"task_state"} or not isinstance(values["task_state"], str | None):
        raise InvalidInput("Must specify a valid task_state, and nothing else.")
    service.reset_task_state(call.deployment, call.context, share_server_id, values["task_state"])


@contract(takes=under("share_server", given(*MANAGED)), gives=one(SHARE_SERVER))
def manage(call: Call) -> Any:
    """Manila's statuses: 422 without the object, 400 for what it lacks or what is wrong."""
    if not isinstance(call.body.get("share_server"), dict):
        raise Unprocessable("Share Server entity not found in request body.")
    body = unwrap(call.body, "share_server")
    values = {name: convert(body.get(name), Identifier, f"share_server.{name}") for name in _REQUIRED}
    if "#" in values["host"]:
        raise InvalidInput("Host parameter should not contain pool.")
    options = body.get("driver_options")
    if options is not None and not isinstance(options, dict):
        raise InvalidInput("Driver options must be an object; none of them has an effect here.")
    if call.version >= 51 and body.get("share_network_subnet_id") is not None:
        values["share_network_subnet_id"] = convert(
            body["share_network_subnet_id"], Identifier, "share_server.share_network_subnet_id"
        )
    return SHARE_SERVER.show(managed.manage(call.deployment, call.context, values), call)


@contract(takes=given(Field("force", Flag)))
def unmanage(call: Call, share_server_id: str) -> None:
    """``force`` is for drivers that cannot, so it has no effect."""
    managed.unmanage(call.deployment, call.context, share_server_id)


_REQUIRED: Final = ("host", "share_network_id", "identifier")
_ONE = "/share-servers/{share_server_id}"
ROUTES: Final = (
    Route("GET", "/share-servers", list_all),
    Route("POST", "/share-servers/manage", manage, since=49, status=202, rule="share_server:manage_share_server"),
    Route(
        "POST",
        f"{_ONE}/action",
        unmanage,
        since=49,
        status=202,
        action="unmanage",
        rule="share_server:unmanage_share_server",
    ),
    Route("GET", _ONE, show),
    Route("DELETE", _ONE, delete, status=202),
    Route("GET", f"{_ONE}/details", details),
    Route(
        "POST",
        f"{_ONE}/action",
        reset_status,
        since=49,
        status=202,
        action="reset_status",
        rule="share_server:reset_status",
    ),
    Route(
        "POST", f"{_ONE}/action", reset_task_state, since=57, status=202, action="reset_task_state", experimental=True,
        rule="share_server:share_server_reset_task_state",
    ),
)  # fmt: skip
