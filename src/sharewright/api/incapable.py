"""What no backend can do: backups, and moving share servers. There are none, so lists are empty and nothing
is found; what would make one is refused, as in Manila with a driver that reports the capability as false."""

from __future__ import annotations

from typing import Any, Final

from sharewright.api.resource import Field, Filter, Flag, Identifier, Name, Resource, StringMap, Values, convert, unwrap
from sharewright.api.routing import Call, Route
from sharewright.api.shapes import absent, anything, contract, given, parameters, shown, under
from sharewright.errors import InvalidInput, NotFound
from sharewright.services import incapable as service

_NOTHING: Final = Resource(
    name="", plural="", collection="", fields=(), sort_keys={"id": "id", "created_at": "created_at"}
)

_MIGRATION: Final = (
    Field("host", Identifier, required=True),
    Field("writable", Flag),
    Field("nondisruptive", Flag),
    Field("preserve_snapshots", Flag),
    Field("new_share_network_id", Identifier | None),
)


# ---- backups ----


@contract(gives=absent("share_backups"), query=parameters(_NOTHING, paged=True, more=(Filter("share_id"),)))
def list_backups(call: Call) -> Any:
    call.page(_NOTHING)
    service.list_backups(call.deployment, call.context, call.query.get("share_id"))
    return {"share_backups": []}


@contract(
    takes=under(
        "share_backup",
        given(
            Field("share_id", Identifier, required=True),
            Field("name", Name),
            Field("description", Name),
            Field("backup_options", StringMap | None),
        ),
    )
)
def create_backup(call: Call) -> None:
    share_id = unwrap(call.body, "share_backup").get("share_id")
    if not share_id:
        raise InvalidInput("'share_id' is missing from the request body.")
    service.create_backup(call.deployment, call.context, convert(share_id, Identifier, "share_backup.share_id"))


@contract(takes=anything)
def no_backup(call: Call, share_backup_id: str) -> None:
    service.check(call.context, _rule(call, "share_backup", _BACKUP_ACTIONS))
    raise NotFound(f"No backup exists with ID {share_backup_id[:64]}.")


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


def _rule(call: Call, resource: str, actions: dict[str, str]) -> str:
    """The policy rule of a request to something that is not there."""
    if call.request.method == "POST" and call.request.path.endswith("/action"):
        return f"{resource}:{actions[next(iter(call.body))]}"
    if "/export-locations" in call.request.path:
        return f"share_replica_export_location:{'index' if call.request.path.endswith('/export-locations') else 'show'}"
    named = {"DELETE": "delete", "PUT": "update"}.get(call.request.method)
    return f"{resource}:{named or ('show' if resource == 'share_replica' else 'get')}"


_BACKUP_ACTIONS: Final = {"restore": "restore", "reset_status": "reset_status"}


_BACKUP = "/share-backups/{share_backup_id}"
_SERVER = "/share-servers/{share_server_id}/action"
ROUTES: Final = (
    Route("GET", "/share-backups", list_backups, since=80, experimental=True),
    Route("GET", "/share-backups/detail", list_backups, since=80, experimental=True),
    Route("POST", "/share-backups", create_backup, since=80, status=202, experimental=True),
    *(Route(method, _BACKUP, no_backup, since=80, experimental=True) for method in ("GET", "PUT", "DELETE")),
    *(
        Route("POST", f"{_BACKUP}/action", no_backup, since=80, action=action, experimental=True)
        for action in _BACKUP_ACTIONS
    ),
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
