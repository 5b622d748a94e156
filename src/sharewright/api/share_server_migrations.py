"""Migration of share servers: experimental actions on a share server, for administrators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sharewright.api.resource import Field, Flag, Identifier, Name, Values, convert, unwrap
from sharewright.api.routing import Call, Handler, Route
from sharewright.api.shapes import anything, contract, given, shown
from sharewright.errors import InvalidInput
from sharewright.services import share_server_migrations as service
from sharewright.services.validation import parse_boolean_spec

ASKED: Final = (
    Field("host", Identifier, required=True),
    *(Field(name, Flag, required=True) for name in service.WISHES),
    Field("new_share_network_id", Identifier | None),
)


@contract(
    takes=given(*ASKED),
    gives=shown(
        Field("compatible", Flag), Field("requested_capabilities", Values), Field("supported_capabilities", Values)
    ),
)
def check(call: Call, share_server_id: str) -> Any:
    values = _values(call, "migration_check")
    found = dict(service.check(call.deployment, call.context, share_server_id, values))
    return {
        "compatible": found.pop("compatible"),
        "requested_capabilities": {
            **{name: values[name] for name in service.WISHES},
            "share_network_id": values["new_share_network_id"],
            "host": values["host"],
        },
        "supported_capabilities": found,
    }


@contract(takes=given(*ASKED))
def start(call: Call, share_server_id: str) -> None:
    service.start(call.deployment, call.context, share_server_id, _values(call, "migration_start"))


@contract(takes=anything, gives=shown(Field("destination_share_server_id", Name)))
def complete(call: Call, share_server_id: str) -> Any:
    return {"destination_share_server_id": service.complete(call.deployment, call.context, share_server_id)}


@contract(takes=anything)
def cancel(call: Call, share_server_id: str) -> None:
    service.cancel(call.deployment, call.context, share_server_id)


@contract(
    takes=anything,
    gives=shown(Field("total_progress", int), Field("task_state", Name), Field("destination_share_server_id", Name)),
)
def progress(call: Call, share_server_id: str) -> Any:
    return service.progress(call.deployment, call.context, share_server_id)


def _values(call: Call, action: str) -> Mapping[str, Any]:
    body = unwrap(call.body, action)
    missing = [name for name in ("host", *service.WISHES) if name not in body]
    if missing:
        raise InvalidInput(f"Migration needs {', '.join(missing)}.")
    values: dict[str, Any] = {name: parse_boolean_spec(name, body[name]) for name in service.WISHES}
    for name, kind in (("host", Identifier), ("new_share_network_id", Identifier | None)):
        values[name] = convert(body.get(name), kind, f"{action}.{name}")
    if "#" in values["host"]:
        raise InvalidInput("The destination host can not contain pool information.")
    return values


def _action(name: str, handler: Handler, status: int) -> Route:
    return Route(
        "POST",
        "/share-servers/{share_server_id}/action",
        handler,
        since=57,
        status=status,
        action=name,
        experimental=True,
        rule=f"share_server:share_server_{name}",
    )


ROUTES: Final = (
    _action("migration_check", check, 200),
    _action("migration_start", start, 202),
    _action("migration_complete", complete, 200),
    _action("migration_cancel", cancel, 202),
    _action("migration_get_progress", progress, 200),
)
