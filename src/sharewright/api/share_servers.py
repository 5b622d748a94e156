"""Share servers, for administrators: /share-servers."""

from __future__ import annotations

from typing import Any, Final

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
    timestamp,
)
from sharewright.api.routing import Call, Route
from sharewright.api.shares import wanted_status
from sharewright.services import share_servers as service
from sharewright.services.share_network_subnets import takes_further_subnets


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
        Field("identifier", str, source="id", since=49),
        Field("share_network_subnet_id", Name, since=51, until=69),
        Field("task_state", Name, source=constant(None), since=57, summary=True),
        Field("source_share_server_id", Name, source=constant(None), since=57, summary=True),
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


def list_all(call: Call) -> Any:
    page = call.page(SHARE_SERVER)
    records = service.list_servers(call.deployment, call.context, call.filters(SHARE_SERVER), page)
    return SHARE_SERVER.show_all(records, call, summary=True) | call.next_page(SHARE_SERVER, records, page)


def show(call: Call, share_server_id: str) -> Any:
    return SHARE_SERVER.show(service.show(call.deployment, call.context, share_server_id), call)


def details(call: Call, share_server_id: str) -> Any:
    return {"details": service.details(call.deployment, call.context, share_server_id)}


def delete(call: Call, share_server_id: str) -> None:
    service.remove(call.deployment, call.context, share_server_id)


def reset_status(call: Call, share_server_id: str) -> None:
    service.reset_status(call.deployment, call.context, share_server_id, wanted_status(call))


_ONE = "/share-servers/{share_server_id}"
ROUTES: Final = (
    Route("GET", "/share-servers", list_all),
    Route("GET", _ONE, show),
    Route("DELETE", _ONE, delete, status=202),
    Route("GET", f"{_ONE}/details", details),
    Route("POST", f"{_ONE}/action", reset_status, since=49, status=202, action="reset_status"),
)
