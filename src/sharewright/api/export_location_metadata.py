"""Metadata of export locations: /shares/{id}/export_locations/{id}/metadata, from 2.87 on."""

from __future__ import annotations

from typing import Any, Final

from sharewright.api.metadata import all_items, one_item, pick
from sharewright.api.routing import Call, Route
from sharewright.api.shapes import META, METADATA, TAKES_META, TAKES_METADATA, contract
from sharewright.services import export_locations as service


@contract(gives=METADATA)
def show_all(call: Call, share_id: str, export_location_id: str) -> Any:
    return {"metadata": service.read_metadata(call.deployment, call.context, share_id, export_location_id)}


@contract(takes=TAKES_METADATA, gives=METADATA)
def merge(call: Call, share_id: str, export_location_id: str) -> Any:
    return {"metadata": _write(call, share_id, export_location_id, all_items(call), replace=False)}


@contract(takes=TAKES_METADATA, gives=METADATA)
def replace(call: Call, share_id: str, export_location_id: str) -> Any:
    return {"metadata": _write(call, share_id, export_location_id, all_items(call), replace=True)}


@contract(gives=META)
def show(call: Call, share_id: str, export_location_id: str, key: str) -> Any:
    items = service.read_metadata(call.deployment, call.context, share_id, export_location_id)
    return {"meta": pick(items, key)}


@contract(takes=TAKES_META, gives=META)
def write(call: Call, share_id: str, export_location_id: str, key: str) -> Any:
    return {"meta": pick(_write(call, share_id, export_location_id, one_item(call, key), replace=False), key)}


@contract()
def delete(call: Call, share_id: str, export_location_id: str, key: str) -> None:
    service.delete_metadata(call.deployment, call.context, share_id, export_location_id, key)


def _write(call: Call, share_id: str, export_location_id: str, items: Any, *, replace: bool) -> dict[str, str]:
    return service.write_metadata(call.deployment, call.context, share_id, export_location_id, items, replace=replace)


_ALL = "/shares/{share_id}/export_locations/{export_location_id}/metadata"
ROUTES: Final = (
    Route("GET", _ALL, show_all, since=87),
    Route("POST", _ALL, merge, since=87),
    Route("PUT", _ALL, replace, since=87),
    Route("GET", f"{_ALL}/{{key}}", show, since=87),
    Route("POST", f"{_ALL}/{{key}}", write, since=87),
    Route("PUT", f"{_ALL}/{{key}}", write, since=87),
    Route("DELETE", f"{_ALL}/{{key}}", delete, since=87),
)
