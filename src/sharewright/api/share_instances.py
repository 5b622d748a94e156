"""Share instances, for administrators: /share_instances and /shares/{id}/instances."""

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
    Timestamp,
    Viewer,
    timestamp,
)
from sharewright.api.routing import Call, Route
from sharewright.api.shapes import anything, contract, given, listing, many, one
from sharewright.api.shares import wanted_status
from sharewright.services import share_instances as service
from sharewright.states import WRITABLE


def _paths(record: Record, viewer: Viewer) -> list[str]:
    return [record["export_location"]] if record["export_location"] else []


def _old_rules_status(record: Record, viewer: Viewer) -> str:
    status = str(record["access_rules_status"])
    return "out_of_sync" if status == "syncing" else status


def readonly(record: Record, viewer: Viewer) -> bool:
    """Clients may only read a replica that is not an active one, whatever their rules say."""
    return record["replication_type"] not in (None, WRITABLE) and not record["is_main"]


SHARE_INSTANCE: Final = Resource(
    name="share_instance",
    plural="share_instances",
    collection="share_instances",
    fields=(
        Field("id", Identifier),
        Field("share_id", Identifier),
        Field("status", str),
        Field("host", Name),
        Field("availability_zone", Name),
        Field("share_network_id", Name),
        Field("share_server_id", Name),
        Field("created_at", Timestamp, source=timestamp("created_at")),
        Field("export_location", Name, until=8),
        Field("export_locations", list[str], source=_paths, until=8),
        Field("access_rules_status", str, source=_old_rules_status, since=10, until=27),
        Field("access_rules_status", str, since=28),
        Field("replica_state", Name, since=11),
        Field("share_type_id", Identifier, since=22),
        Field("cast_rules_to_readonly", Flag, source=readonly, since=30),
        Field("progress", Name, since=54),
        Field("updated_at", Timestamp | None, source=timestamp("updated_at"), since=71),
    ),
    filters=(Filter("export_location_id", since=35), Filter("export_location_path", kind="like", since=35)),
    sort_keys={name: name for name in service.COLUMNS},
)


@listing(SHARE_INSTANCE)
def list_all(call: Call) -> Any:
    page = call.page(SHARE_INSTANCE)
    records = service.list_instances(call.deployment, call.context, call.filters(SHARE_INSTANCE), page)
    return SHARE_INSTANCE.show_all(records, call) | call.next_page(SHARE_INSTANCE, records, page)


@contract(gives=many(SHARE_INSTANCE))
def list_of_share(call: Call, share_id: str) -> Any:
    return SHARE_INSTANCE.show_all(service.of_share(call.deployment, call.context, share_id), call)


@contract(gives=one(SHARE_INSTANCE))
def show(call: Call, share_instance_id: str) -> Any:
    return SHARE_INSTANCE.show(service.show(call.deployment, call.context, share_instance_id), call)


@contract(takes=given(Field("status", str, required=True)))
def reset_status(call: Call, share_instance_id: str) -> None:
    service.reset_status(call.deployment, call.context, share_instance_id, wanted_status(call))


@contract(takes=anything)
def force_delete(call: Call, share_instance_id: str) -> None:
    service.force_delete(call.deployment, call.context, share_instance_id)


_ACTION = "/share_instances/{share_instance_id}/action"
ROUTES: Final = (
    Route("GET", "/share_instances", list_all, since=3),
    Route("GET", "/share_instances/{share_instance_id}", show, since=3),
    Route("GET", "/shares/{share_id}/instances", list_of_share, since=3),
    Route(
        "POST",
        _ACTION,
        reset_status,
        since=3,
        until=6,
        status=202,
        action="os-reset_status",
        rule="share_instance:reset_status",
    ),
    Route(
        "POST", _ACTION, reset_status, since=7, status=202, action="reset_status", rule="share_instance:reset_status"
    ),
    Route(
        "POST",
        _ACTION,
        force_delete,
        since=3,
        until=6,
        status=202,
        action="os-force_delete",
        rule="share_instance:force_delete",
    ),
    Route(
        "POST", _ACTION, force_delete, since=7, status=202, action="force_delete", rule="share_instance:force_delete"
    ),
)
