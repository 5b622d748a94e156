"""Metadata of shares: /shares/{id}/metadata."""

from __future__ import annotations

from typing import Any, Final

from sharewright.api.metadata import all_items, one_item, pick
from sharewright.api.routing import Call, Route
from sharewright.api.shapes import META, METADATA, TAKES_META, TAKES_METADATA, contract
from sharewright.services import shares as service


@contract(gives=METADATA)
def show_all(call: Call, share_id: str) -> Any:
    return {"metadata": service.read_metadata(call.deployment, call.context, share_id)}


@contract(takes=TAKES_METADATA, gives=METADATA)
def merge(call: Call, share_id: str) -> Any:
    items = all_items(call)
    return {"metadata": service.write_metadata(call.deployment, call.context, share_id, items, replace=False)}


@contract(takes=TAKES_METADATA, gives=METADATA)
def replace(call: Call, share_id: str) -> Any:
    items = all_items(call)
    return {"metadata": service.write_metadata(call.deployment, call.context, share_id, items, replace=True)}


@contract(gives=META)
def show(call: Call, share_id: str, key: str) -> Any:
    return {"meta": pick(service.read_metadata(call.deployment, call.context, share_id), key)}


@contract(takes=TAKES_META, gives=META)
def write(call: Call, share_id: str, key: str) -> Any:
    item = one_item(call, key)
    return {"meta": pick(service.write_metadata(call.deployment, call.context, share_id, item, replace=False), key)}


@contract()
def delete(call: Call, share_id: str, key: str) -> None:
    service.delete_metadata(call.deployment, call.context, share_id, key)


ROUTES: Final = (
    Route("GET", "/shares/{share_id}/metadata", show_all),
    Route("POST", "/shares/{share_id}/metadata", merge),
    Route("PUT", "/shares/{share_id}/metadata", replace),
    Route("GET", "/shares/{share_id}/metadata/{key}", show),
    Route("POST", "/shares/{share_id}/metadata/{key}", write),
    Route("PUT", "/shares/{share_id}/metadata/{key}", write),
    Route("DELETE", "/shares/{share_id}/metadata/{key}", delete),
)
