"""Taking over shares that exist already, and giving them away: /shares/manage, the action unmanage, and the extensions
that these were before 2.7."""

from __future__ import annotations

from typing import Any, Final

from sharewright.api.resource import Field, Flag, Identifier, Name, StringMap, convert, unwrap
from sharewright.api.routing import Call, Route
from sharewright.api.shapes import anything, contract, given, one, under
from sharewright.api.shares import SHARE
from sharewright.errors import InvalidInput, Unprocessable
from sharewright.services import managed_shares as service

_REQUIRED: Final = ("export_path", "service_host", "protocol")
# Field → the service's name and its type. Others are without an effect, as in Manila.
_OPTIONAL: Final = {
    "name": ("name", Name),
    "display_name": ("name", Name),
    "description": ("description", Name),
    "display_description": ("description", Name),
    "share_type": ("share_type", Name),
    "is_public": ("is_public", Flag),
    "share_server_id": ("share_server_id", Name),
}
_SINCE: Final = {"is_public": 8, "share_server_id": 49}
MANAGED: Final = (
    Field("export_path", Identifier, required=True),
    Field("service_host", Identifier, required=True),
    Field("protocol", Identifier, required=True),
    Field("name", Name, aliases=("display_name",)),
    Field("description", Name, aliases=("display_description",)),
    Field("share_type", Name),
    Field("driver_options", StringMap | None),
    Field("is_public", Flag, since=8),
    Field("share_server_id", Name, since=49),
)


@contract(takes=under("share", given(*MANAGED)), gives=one(SHARE))
def manage(call: Call) -> Any:
    if not isinstance(call.body, dict) or not isinstance(call.body.get("share"), dict):
        raise Unprocessable("Share entity not found in request body.")
    return SHARE.show(service.manage(call.deployment, call.context, _values(call)), call)


@contract(takes=anything)
def unmanage(call: Call, share_id: str) -> None:
    service.unmanage(call.deployment, call.context, share_id, servers=call.version >= 49)


def _values(call: Call) -> dict[str, Any]:
    """Manila's statuses: 422 for what is missing, 400 for what is wrong."""
    body = dict(unwrap(call.body, "share"))
    for name in _REQUIRED:
        if not body.get(name):
            raise Unprocessable(f"Required parameter {name} {'is empty' if name in body else 'not found'}.")
    path = body["export_path"]
    if isinstance(path, dict):
        if not path.get("path"):
            raise Unprocessable("Export path must be a string, or an object with a path.")
        path = path["path"]
    host = convert(body["service_host"], Identifier, "share.service_host")
    if not host.partition("#")[2]:
        raise InvalidInput("service_host must name a pool: NODE@BACKEND#POOL.")
    options = body.get("driver_options")
    if options is not None and not isinstance(options, dict):
        raise InvalidInput("driver_options must be an object.")
    values: dict[str, Any] = {
        "export_path": convert(path, Identifier, "share.export_path"),
        "host": host,
        "protocol": convert(body["protocol"], Identifier, "share.protocol"),
        "driver_options": options,
    }
    for name, (key, kind) in _OPTIONAL.items():
        if body.get(name) is not None and call.version >= _SINCE.get(name, 0):
            values[key] = convert(body[name], kind, f"share.{name}")
    return values


ROUTES: Final = (
    Route("POST", "/shares/manage", manage, since=7, rule="share:manage"),
    Route("POST", "/shares/{share_id}/action", unmanage, since=7, status=202, action="unmanage", rule="share:unmanage"),
    Route("POST", "/os-share-manage", manage, until=6, rule="share:manage"),
    Route("POST", "/os-share-unmanage/{share_id}/unmanage", unmanage, until=6, status=202, rule="share:unmanage"),
)
