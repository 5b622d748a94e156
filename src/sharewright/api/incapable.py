"""What no backend can do: moving share servers. It is refused, as in Manila with a driver that reports the capability
as false."""

from __future__ import annotations

from typing import Any, Final

from sharewright.api.resource import Field, Flag, Identifier, Values, convert, unwrap
from sharewright.api.routing import Call, Route
from sharewright.api.shapes import anything, contract, given, shown
from sharewright.errors import InvalidInput, NotFound
from sharewright.services import incapable as service

_MIGRATION: Final = (
    Field("host", Identifier, required=True),
    Field("writable", Flag),
    Field("nondisruptive", Flag),
    Field("preserve_snapshots", Flag),
    Field("new_share_network_id", Identifier | None),
)


# ---- share servers ----


@contract(
    takes=given(*_MIGRATION),
    gives=shown(
        Field("compatible", Flag),
        Field("requested_capabilities", Values),
        Field("supported_capabilities", Values),
    ),
)
def check_server_migration(call: Call, share_server_id: str) -> Any:
    body = _server_migration(call, "migration_check")
    service.check_server_migration(call.deployment, call.context, share_server_id, body, "migration_check")
    kept = ("writable", "nondisruptive", "preserve_snapshots")
    able = (*kept, "migration_cancel", "migration_get_progress")
    return {
        "compatible": False,
        "requested_capabilities": {
            **{name: bool(body.get(name)) for name in kept},
            "share_network_id": body.get("new_share_network_id"),
            "host": body["host"],
        },
        "supported_capabilities": {**dict.fromkeys(able, False), "share_network_id": None},
    }


@contract(takes=given(*_MIGRATION))
def start_server_migration(call: Call, share_server_id: str) -> None:
    body = _server_migration(call, "migration_start")
    service.check_server_migration(call.deployment, call.context, share_server_id, body, "migration_start")
    service.refuse_server_migration(share_server_id)


@contract(takes=anything)
def complete_server_migration(call: Call, share_server_id: str) -> None:
    service.no_server_migration(call.deployment, call.context, share_server_id, "migration_complete")


@contract(takes=anything)
def cancel_server_migration(call: Call, share_server_id: str) -> None:
    service.no_server_migration(call.deployment, call.context, share_server_id, "migration_cancel")


@contract(takes=anything)
def server_migration_progress(call: Call, share_server_id: str) -> None:
    try:
        service.no_server_migration(call.deployment, call.context, share_server_id, "migration_get_progress")
    except NotFound as error:
        raise InvalidInput(error.message) from None


def _server_migration(call: Call, action: str) -> dict[str, Any]:
    body = dict(unwrap(call.body, action))
    body["host"] = convert(body.get("host"), Identifier, f"{action}.host")
    body["new_share_network_id"] = convert(
        body.get("new_share_network_id"), Identifier | None, f"{action}.new_share_network_id"
    )
    return body


_SERVER = "/share-servers/{share_server_id}/action"
ROUTES: Final = (
    Route(
        "POST",
        _SERVER,
        check_server_migration,
        since=57,
        action="migration_check",
        experimental=True,
        rule="share_server:share_server_migration_check",
    ),
    Route(
        "POST",
        _SERVER,
        start_server_migration,
        since=57,
        action="migration_start",
        experimental=True,
        rule="share_server:share_server_migration_start",
    ),
    Route("POST", _SERVER, complete_server_migration, since=57, action="migration_complete", experimental=True),
    Route("POST", _SERVER, cancel_server_migration, since=57, action="migration_cancel", experimental=True),
    Route("POST", _SERVER, server_migration_progress, since=57, action="migration_get_progress", experimental=True),
)
