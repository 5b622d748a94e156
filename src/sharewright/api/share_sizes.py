"""The size of a share: the actions extend and shrink, and what they were called before 2.7."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sharewright.api.resource import Field, Flag, PositiveInteger, convert, parse_flag, unwrap
from sharewright.api.routing import Call, Route
from sharewright.api.shapes import contract, given
from sharewright.errors import InvalidInput
from sharewright.services import share_sizes as service

LARGEST: Final = 2**31 - 1  # GiB


@contract(takes=given(Field("new_size", PositiveInteger, required=True), Field("force", Flag, since=64)))
def extend(call: Call, share_id: str) -> None:
    values = unwrap(call.body, "extend", "os-extend")
    size = _new_size(values)
    # Before 2.64 the key meant nothing and was ignored.
    force = _flag(values.get("force", False)) if call.version >= 64 else False
    service.extend(call.deployment, call.context, share_id, size, force=force)


@contract(takes=given(Field("new_size", PositiveInteger, required=True)))
def shrink(call: Call, share_id: str) -> None:
    size = _new_size(unwrap(call.body, "shrink", "os-shrink"))
    service.shrink(call.deployment, call.context, share_id, size)


def _new_size(values: Mapping[str, Any]) -> int:
    try:
        size = int(convert(values["new_size"], int, "new_size"))
    except (KeyError, InvalidInput):
        raise InvalidInput("New share size must be specified as an integer.") from None
    if size > LARGEST:
        raise InvalidInput(f"Invalid input for new_size: expected at most {LARGEST} GiB.")
    return size


def _flag(value: Any) -> bool:
    return value if isinstance(value, bool) else parse_flag(str(value), "force")


ROUTES: Final = (
    Route("POST", "/shares/{share_id}/action", extend, until=6, status=202, action="os-extend"),
    Route("POST", "/shares/{share_id}/action", extend, since=7, status=202, action="extend"),
    Route("POST", "/shares/{share_id}/action", shrink, until=6, status=202, action="os-shrink"),
    Route("POST", "/shares/{share_id}/action", shrink, since=7, status=202, action="shrink"),
)
