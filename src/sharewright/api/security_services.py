"""Security services: /security-services, and the actions that give them to share networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sharewright.api.lists import all_projects, names_unknown
from sharewright.api.resource import (
    Field,
    Filter,
    Flag,
    Identifier,
    Name,
    Resource,
    Timestamp,
    timestamp,
    unwrap,
)
from sharewright.api.routing import Call, Route
from sharewright.api.shapes import body, contract, given, listing, one, shown
from sharewright.api.share_networks import SHARE_NETWORK
from sharewright.errors import InvalidInput
from sharewright.services import security_services as service

SECURITY_SERVICE: Final = Resource(
    name="security_service",
    plural="security_services",
    collection="security-services",
    lenient=True,
    fields=(
        Field("id", Identifier, summary=True),
        Field("name", Name, summary=True, create=True, update=True),
        Field("type", str, summary=True, create=True, update=True, required=True),
        Field("status", str, summary=True),
        Field("project_id", str),
        Field("created_at", Timestamp, source=timestamp("created_at")),
        Field("updated_at", Timestamp | None, source=timestamp("updated_at")),
        Field("description", Name, create=True, update=True),
        Field("dns_ip", Name, create=True, update=True),
        Field("server", Name, create=True, update=True),
        Field("domain", Name, create=True, update=True),
        Field("user", Name, create=True, update=True, aliases=("sid",)),
        Field("password", Name, create=True, update=True),
        Field("share_networks", list[str]),
        Field("ou", Name, since=44, create=True, update=True),
        Field("default_ad_site", Name, since=76, create=True, update=True),
    ),
    filters=(
        Filter("id"),
        Filter("name", kind="like"),
        Filter("description", kind="like"),
        Filter("type"),
        Filter("status"),
        Filter("dns_ip"),
        Filter("server"),
        Filter("domain"),
        Filter("user"),
        Filter("ou", since=44),
        Filter("default_ad_site", since=76),
        Filter("share_network_id"),
        Filter("project_id", admin=True),
    ),
    sort_keys={name: name for name in service.COLUMNS},
)
SERVERS_SINCE: Final = 63  # share servers may take a security service while they are in use
COMPATIBLE: Final = (
    Field("compatible", Flag),
    Field("requested_operation", dict[str, str | None]),
    Field("hosts_check_result", dict[str, bool], admin=True),
)


@listing(SECURITY_SERVICE, summary=True, projects=True)
def list_summaries(call: Call) -> Any:
    return _list(call, summary=True)


@listing(SECURITY_SERVICE, projects=True)
def list_details(call: Call) -> Any:
    return _list(call, summary=False)


def _list(call: Call, *, summary: bool) -> Any:
    page = call.page(SECURITY_SERVICE)
    if names_unknown(call, SECURITY_SERVICE):
        return SECURITY_SERVICE.show_all([], call)
    records = service.list_services(
        call.deployment, call.context, call.filters(SECURITY_SERVICE), page, all_projects=all_projects(call)
    )
    return SECURITY_SERVICE.show_all(records, call, summary=summary) | call.next_page(SECURITY_SERVICE, records, page)


@contract(gives=one(SECURITY_SERVICE))
def show(call: Call, security_service_id: str) -> Any:
    return SECURITY_SERVICE.show(service.show(call.deployment, call.context, security_service_id), call)


@contract(takes=body(SECURITY_SERVICE, "create"), gives=one(SECURITY_SERVICE))
def create(call: Call) -> Any:
    values = SECURITY_SERVICE.parse(call.body, call.version, "create")
    return SECURITY_SERVICE.show(service.create(call.deployment, call.context, values), call)


@contract(takes=body(SECURITY_SERVICE, "update"), gives=one(SECURITY_SERVICE))
def update(call: Call, security_service_id: str) -> Any:
    values = SECURITY_SERVICE.parse(call.body, call.version, "update")
    return SECURITY_SERVICE.show(service.change(call.deployment, call.context, security_service_id, values), call)


@contract()
def delete(call: Call, security_service_id: str) -> None:
    service.remove(call.deployment, call.context, security_service_id)


# ---- of a share network ----


@contract(takes=given(Field("security_service_id", str, required=True)), gives=one(SHARE_NETWORK))
def add_to_network(call: Call, share_network_id: str) -> Any:
    identifier = _identifier(unwrap(call.body, "add_security_service"), "security_service_id")
    record = service.add_to_network(
        call.deployment, call.context, share_network_id, identifier, to_servers=call.version >= SERVERS_SINCE
    )
    return SHARE_NETWORK.show(record, call)


@contract(takes=given(Field("security_service_id", str, required=True)), gives=shown(*COMPATIBLE))
def check_addition(call: Call, share_network_id: str) -> Any:
    identifier = _identifier(unwrap(call.body, "add_security_service_check"), "security_service_id")
    service.check_addition(call.deployment, call.context, share_network_id, identifier)
    return _compatible(call, "add_security_service", None, identifier)


@contract(
    takes=given(Field("current_service_id", str, required=True), Field("new_service_id", str, required=True)),
    gives=one(SHARE_NETWORK),
)
def replace_on_network(call: Call, share_network_id: str) -> Any:
    values = unwrap(call.body, "update_security_service")
    current, new = _identifier(values, "current_service_id"), _identifier(values, "new_service_id")
    record = service.replace_on_network(call.deployment, call.context, share_network_id, current, new)
    return SHARE_NETWORK.show(record, call)


@contract(
    takes=given(Field("current_service_id", str, required=True), Field("new_service_id", str, required=True)),
    gives=shown(*COMPATIBLE),
)
def check_replacement(call: Call, share_network_id: str) -> Any:
    values = unwrap(call.body, "update_security_service_check")
    current, new = _identifier(values, "current_service_id"), _identifier(values, "new_service_id")
    service.check_replacement(call.deployment, call.context, share_network_id, current, new)
    return _compatible(call, "update_security_service", current, new)


@contract(takes=given(Field("security_service_id", str, required=True)), gives=one(SHARE_NETWORK))
def remove_from_network(call: Call, share_network_id: str) -> Any:
    identifier = _identifier(unwrap(call.body, "remove_security_service"), "security_service_id")
    record = service.remove_from_network(call.deployment, call.context, share_network_id, identifier)
    return SHARE_NETWORK.show(record, call)


def _compatible(call: Call, operation: str, current: str | None, new: str) -> dict[str, Any]:
    """The answer of a check that raised nothing: without share servers no host has to be asked."""
    requested = {"operation": operation, "current_security_service": current, "new_security_service": new}
    answer: dict[str, Any] = {"compatible": True, "requested_operation": requested}
    return answer | ({"hosts_check_result": {}} if call.is_admin else {})


def _identifier(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key)
    if not isinstance(value, str):
        raise InvalidInput(f"Malformed request body: {key} is required.")
    return value


_ONE = "/security-services/{security_service_id}"
_OF_NETWORK = "/share-networks/{share_network_id}/action"
ROUTES: Final = (
    Route("GET", "/security-services", list_summaries),
    Route("POST", "/security-services", create),
    Route("GET", "/security-services/detail", list_details),
    Route("GET", _ONE, show),
    Route("PUT", _ONE, update),
    Route("DELETE", _ONE, delete, status=202),
    Route("POST", _OF_NETWORK, add_to_network, action="add_security_service"),
    Route("POST", _OF_NETWORK, remove_from_network, action="remove_security_service"),
    Route("POST", _OF_NETWORK, replace_on_network, since=63, status=202, action="update_security_service"),
    Route("POST", _OF_NETWORK, check_addition, since=63, status=202, action="add_security_service_check"),
    Route("POST", _OF_NETWORK, check_replacement, since=63, status=202, action="update_security_service_check"),
)
