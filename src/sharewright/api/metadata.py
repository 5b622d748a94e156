"""The bodies of metadata requests, the same for everything that has metadata."""

from __future__ import annotations

from typing import Any

from sharewright.api.resource import unwrap
from sharewright.api.routing import Call
from sharewright.errors import InvalidInput, NotFound


def all_items(call: Call) -> Any:
    """The ``metadata`` of a body."""
    return unwrap(call.body, "metadata")


def one_item(call: Call, key: str) -> dict[str, Any]:
    """The one key of a ``meta`` body, which must be the URL's."""
    item = unwrap(call.body, "meta", "metadata")
    if key not in item:
        raise InvalidInput("Request body and URI mismatch.")
    if len(item) > 1:
        raise InvalidInput("Request body contains too many items.")
    return dict(item)


def pick(items: dict[str, str], key: str) -> dict[str, str]:
    if key not in items:
        raise NotFound(f"Metadata item {key[:64]} could not be found.")
    return {key: items[key]}
