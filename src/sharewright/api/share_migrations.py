"""Migration of shares: actions on a share, experimental until 2.95, and its progress."""

from __future__ import annotations

from typing import Any, Final

from sharewright.api.resource import Field, Flag, Identifier, Name, StringMap, convert, unwrap
from sharewright.api.routing import Call, Handler, Route
from sharewright.api.shapes import anything, contract, given, shown
from sharewright.errors import InvalidInput
from sharewright.services import share_migrations as service
from sharewright.services.validation import parse_boolean_spec

_FLAGS: Final = (
    "force_host_assisted_migration", "preserve_metadata", "writable", "nondisruptive", "preserve_snapshots",
)  # fmt: skip
_REQUIRED: Final = _FLAGS[1:]
STARTED: Final = (
    Field("host", Identifier, required=True),
    Field("force_host_assisted_migration", Flag),
    *(Field(name, Flag, required=True) for name in _REQUIRED),
    Field("new_share_network_id", Identifier | None),
    Field("new_share_type_id", Identifier | None),
)


@contract(takes=given(*STARTED), also=(200,))
def start(call: Call, share_id: str) -> None:
    body = unwrap(call.body, "migration_start")
    values: dict[str, Any] = {"host": convert(body.get("host"), Identifier, "migration_start.host")}
    missing = [name for name in _REQUIRED if name not in body]
    if missing:
        raise InvalidInput(f"Migration needs {', '.join(missing)}.")
    values |= {name: parse_boolean_spec(name, body.get(name, False)) for name in _FLAGS}
    for name in ("new_share_network_id", "new_share_type_id"):
        values[name] = convert(body.get(name), Identifier | None, f"migration_start.{name}")
    if not service.start(call.deployment, call.context, share_id, values):
        call.status = 200


@contract(takes=anything)
def complete(call: Call, share_id: str) -> None:
    service.complete(call.deployment, call.context, share_id)


@contract(takes=anything)
def cancel(call: Call, share_id: str) -> None:
    service.cancel(call.deployment, call.context, share_id)


@contract(
    takes=anything,
    gives=shown(Field("total_progress", int), Field("task_state", Name), Field("details", StringMap, since=59)),
)
def progress(call: Call, share_id: str) -> Any:
    shown = service.progress(call.deployment, call.context, share_id)
    return {**shown, "details": {}} if call.version >= 59 else shown


@contract(takes=given(Field("task_state", str | None, required=True)))
def reset_task_state(call: Call, share_id: str) -> None:
    values = unwrap(call.body, "reset_task_state")
    if set(values) != {"task_state"} or not isinstance(values["task_state"], str | None):
        raise InvalidInput("Must specify a valid task_state, and nothing else.")
    service.reset_task_state(call.deployment, call.context, share_id, values["task_state"])


def _both(handler: Handler, action: str, since: int, *, until: int = 10_000, status: int = 202) -> tuple[Route, ...]:
    """An action that is final from 2.96 on."""
    path, rule = "/shares/{share_id}/action", f"share:{action}"
    return (
        Route("POST", path, handler, since, 95, status=status, action=action, experimental=True, rule=rule),
        Route("POST", path, handler, 96, until, status=status, action=action, rule=rule),
    )


ROUTES: Final = (
    *_both(start, "migration_start", 29),
    *_both(complete, "migration_complete", 22),
    *_both(cancel, "migration_cancel", 22),
    *_both(progress, "migration_get_progress", 22, until=97, status=200),
    *_both(reset_task_state, "reset_task_state", 22),
    Route("GET", "/shares/{share_id}/migration-progress", progress, since=98),
)
