"""Shares: /shares and the actions on one."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from sharewright.api.lists import list_counted
from sharewright.api.resource import (
    Field,
    Filter,
    Flag,
    Identifier,
    Name,
    PositiveInteger,
    Record,
    Resource,
    StringMap,
    Timestamp,
    Viewer,
    constant,
    timestamp,
    unwrap,
)
from sharewright.api.routing import Call, Route
from sharewright.api.shapes import anything, body, contract, given, listing, one, parameters
from sharewright.errors import InvalidInput
from sharewright.services import new_shares
from sharewright.services import shares as service
from sharewright.states import ShareStatus

TYPE_ZONES_SINCE: Final = 48  # before, a share type's extra spec availability_zones had no effect on new shares
_LAST_WITH_PATHS: Final = 8  # microversion; later ones have a resource of its own for export locations


def _paths(record: Record, viewer: Viewer) -> list[str]:
    return [record["export_location"]] if record["export_location"] else []


def _size(record: Record, viewer: Viewer) -> int:
    """0 of one that is not taken over, as in Manila: its size is not known, or not counted."""
    unknown = record["status"] in (ShareStatus.MANAGE_STARTING, ShareStatus.MANAGE_ERROR)
    return 0 if unknown else int(record["size"])


def _old_rules_status(record: Record, viewer: Viewer) -> str:
    """Before 2.28 "syncing" was out_of_sync."""
    status = str(record["access_rules_status"])
    return "out_of_sync" if status == "syncing" else status


SHARE: Final = Resource(
    name="share",
    plural="shares",
    collection="shares",
    linked=True,
    fields=(
        Field("id", Identifier, summary=True),
        Field("name", Name, summary=True, create=True, update=True, aliases=("display_name",)),
        Field("description", str | None, create=True, update=True, aliases=("display_description",), accepts=Name),
        Field("size", int, source=_size, create=True, accepts=PositiveInteger | None),
        Field("share_proto", Identifier, source="protocol", key="protocol", create=True, required=True),
        Field("status", str),
        Field("created_at", Timestamp, source=timestamp("created_at")),
        Field("availability_zone", Name, shown=False, since=1, create=True),
        Field("availability_zone", Name),
        Field("project_id", str),
        Field("user_id", str, since=16),
        Field("host", Name, admin=True),
        Field("share_server_id", Name, admin=True),
        Field("share_network_id", Identifier | None, create=True),
        Field("metadata", StringMap, create=True, accepts=StringMap | None),
        Field("is_public", Flag, create=True, update=True),
        # The type's name stood where its id stands from 2.6 on; a request may use either.
        Field("share_type", Name, source="share_type_name", until=5, create=True, aliases=("volume_type",)),
        Field("volume_type", Name, source="share_type_name", until=5),
        Field("share_type", Name, source="share_type_id", since=6, create=True, aliases=("volume_type",)),
        Field("volume_type", Name, source="share_type_id", since=6),
        Field("share_type_name", Name, since=6),
        Field("export_location", Name, until=_LAST_WITH_PATHS),
        Field("export_locations", list[str], source=_paths, until=_LAST_WITH_PATHS),
        Field("snapshot_id", Name, create=True),
        Field("snapshot_support", Flag, since=2),
        Field(
            "consistency_group_id", Name, source=constant(None), since=4, until=30, key="share_group_id", create=True
        ),
        Field("source_cgsnapshot_member_id", Name, source=constant(None), since=4, until=30),
        Field("task_state", Name, since=5),
        Field("access_rules_status", str, source=_old_rules_status, since=10, until=27),
        Field("access_rules_status", str, since=28),
        Field("replication_type", Name, since=11),
        Field("has_replicas", Flag, since=11),
        Field("create_share_from_snapshot_support", Flag, since=24),
        Field("revert_to_snapshot_support", Flag, since=27),
        Field("share_group_id", Name, since=31, create=True),
        Field("source_share_group_snapshot_member_id", Name, since=31),
        Field("mount_snapshot_support", Flag, since=32),
        Field("progress", Name, since=54),
        Field("scheduler_hints", StringMap | None, since=65, shown=False, create=True),
        Field("is_soft_deleted", Flag, since=69),
        Field("scheduled_to_be_deleted_at", Timestamp | None, source=timestamp("scheduled_to_be_deleted_at"), since=69),
        Field("source_backup_id", Name, since=80),
        # What no backend has the capability for: a request that sets them is refused.
        Field("mount_point_name", Name, since=84, shown=False, create=True),
        Field("encryption_key_ref", Name, source=constant(None), since=90, create=True),
        Field("snapshot_inherit_share_access_support", Flag, source=constant(False), since=99),
    ),
    filters=(
        Filter("name", kind="like"),
        Filter("display_name", key="name"),
        Filter("description", kind="like"),
        Filter("display_description", key="description"),
        Filter("status"),
        Filter("share_type_id"),
        Filter("volume_type_id", key="share_type_id"),
        Filter("share_network_id"),
        Filter("share_server_id"),  # refused to all but admins, not ignored
        Filter("host"),  # so is this one
        Filter("snapshot_id"),
        Filter("is_public", kind="flag"),
        Filter("metadata", kind="map"),
        Filter("extra_specs", kind="map"),
        Filter("consistency_group_id", key="share_group_id", since=4, until=30),
        Filter("share_group_id", since=31),
        Filter("export_location_id", since=35),
        Filter("export_location_path", kind="like", since=35),
        Filter("is_soft_deleted", kind="flag", since=69),
        Filter("mount_point_name", since=84),
        Filter("availability_zone", since=97),
        Filter("project_id", admin=True),
    ),
    sort_keys={
        name: name
        for name in (
            "id", "name", "status", "size", "host", "availability_zone", "user_id", "project_id", "created_at",
            "updated_at", "share_type_id", "share_network_id",
        )
    }
    | {
        "display_name": "name",
        "share_proto": "protocol",
        "share_type": "share_type_id",
        "volume_type_id": "share_type_id",
        "share_network": "share_network_id",
    },
)  # fmt: skip


@listing(SHARE, summary=True, counted=42, projects=True)
def list_summaries(call: Call) -> Any:
    return list_counted(call, SHARE, service.list_shares, detail=False, first_version=42)


@listing(SHARE, counted=42, projects=True)
def list_details(call: Call) -> Any:
    find = partial(service.list_shares, paths=call.version <= _LAST_WITH_PATHS)
    return list_counted(call, SHARE, find, detail=True, first_version=42)


@contract(takes=body(SHARE, "create"), gives=one(SHARE))
def create(call: Call) -> Any:
    values = SHARE.parse(call.body, call.version, "create")
    in_any_zone = call.version < TYPE_ZONES_SINCE
    return SHARE.show(new_shares.create(call.deployment, call.context, values, in_any_zone=in_any_zone), call)


@contract(gives=one(SHARE))
def show(call: Call, share_id: str) -> Any:
    paths = call.version <= _LAST_WITH_PATHS
    return SHARE.show(service.show(call.deployment, call.context, share_id, paths=paths), call)


@contract(takes=body(SHARE, "update"), gives=one(SHARE))
def update(call: Call, share_id: str) -> Any:
    values = SHARE.parse(call.body, call.version, "update")
    return SHARE.show(service.change(call.deployment, call.context, share_id, values), call)


@contract(
    query=parameters(more=(Filter("share_group_id", since=31), Filter("consistency_group_id", since=4, until=30)))
)
def delete(call: Call, share_id: str) -> None:
    named = call.query.get("share_group_id") or call.query.get("consistency_group_id")
    service.delete(call.deployment, call.context, share_id, named_group=named)


@contract(takes=anything)
def force_delete(call: Call, share_id: str) -> None:
    service.delete(call.deployment, call.context, share_id, force=True)


@contract(takes=given(Field("status", str, required=True)))
def reset_status(call: Call, share_id: str) -> None:
    service.reset_status(call.deployment, call.context, share_id, wanted_status(call))


def wanted_status(call: Call) -> str:
    """The status in a reset_status action, under its new or old name."""
    values = unwrap(call.body, "reset_status", "os-reset_status")
    status = values.get("status")
    if not isinstance(status, str) or len(values) != 1:
        raise InvalidInput("Must specify a valid status, and nothing else.")
    return status


_ACTION: Final = "/shares/{share_id}/action"
ROUTES: Final = (
    Route("GET", "/shares", list_summaries),
    Route("POST", "/shares", create),
    Route("GET", "/shares/detail", list_details),
    Route("GET", "/shares/{share_id}", show),
    Route("PUT", "/shares/{share_id}", update),
    Route("DELETE", "/shares/{share_id}", delete, status=202),
    Route("POST", _ACTION, reset_status, until=6, status=202, action="os-reset_status", rule="share:reset_status"),
    Route("POST", _ACTION, reset_status, since=7, status=202, action="reset_status", rule="share:reset_status"),
    Route("POST", _ACTION, force_delete, until=6, status=202, action="os-force_delete", rule="share:force_delete"),
    Route("POST", _ACTION, force_delete, since=7, status=202, action="force_delete", rule="share:force_delete"),
)  # fmt: skip
