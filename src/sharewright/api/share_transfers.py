"""Transfers of shares between projects: /share-transfers, from 2.77 on."""

from __future__ import annotations

from typing import Any, Final

from sharewright.api.lists import all_projects
from sharewright.api.resource import (
    Field,
    Filter,
    Flag,
    Identifier,
    Name,
    Resource,
    Timestamp,
    constant,
    convert,
    timestamp,
    unwrap,
)
from sharewright.api.routing import Call, Route
from sharewright.api.shapes import contract, given, listing, one, under
from sharewright.errors import InvalidInput
from sharewright.identifiers import is_id
from sharewright.services import share_transfers as service
from sharewright.services.validation import parse_boolean_spec

TRANSFER: Final = Resource(
    name="transfer",
    plural="transfers",
    collection="share-transfers",
    linked=True,
    lenient=True,
    fields=(
        Field("id", Identifier, summary=True),
        Field("name", Name, summary=True, create=True),
        Field("resource_type", str, summary=True),
        Field("resource_id", Identifier, summary=True),
        Field("created_at", Timestamp, source=timestamp("created_at")),
        Field("source_project_id", str),
        Field("destination_project_id", Name, source=constant(None)),
        Field("accepted", Flag, source=constant(False)),  # an accepted one is over
        Field("expires_at", Timestamp | None, source=timestamp("expires_at")),
    ),
    filters=(
        Filter("id"),
        Filter("name", kind="like"),
        Filter("resource_type"),
        Filter("resource_id"),
        Filter("source_project_id"),
    ),
    sort_keys={name: name for name in service.COLUMNS},
)


@listing(TRANSFER, summary=True, projects=True)
def list_summaries(call: Call) -> Any:
    return _list(call, summary=True)


@listing(TRANSFER, projects=True)
def list_details(call: Call) -> Any:
    return _list(call, summary=False)


def _list(call: Call, *, summary: bool) -> Any:
    page = call.page(TRANSFER)
    records = service.list_transfers(
        call.deployment, call.context, call.filters(TRANSFER), page, all_projects=all_projects(call)
    )
    return TRANSFER.show_all(records, call, summary=summary) | call.next_page(TRANSFER, records, page)


@contract(gives=one(TRANSFER))
def show(call: Call, share_transfer_id: str) -> Any:
    return TRANSFER.show(service.show(call.deployment, call.context, share_transfer_id), call)


@contract(
    takes=under("transfer", given(Field("share_id", Identifier, required=True), Field("name", Name))),
    gives=one(TRANSFER, Field("auth_key", str)),
)
def create(call: Call) -> Any:
    body = unwrap(call.body, "transfer")
    share_id = body.get("share_id")
    if not is_id(share_id):
        raise InvalidInput("The 'share_id' attribute must be a uuid.")
    name = TRANSFER.parse_values(body, call.version, "create").get("name")
    record = service.create(call.deployment, call.context, str(share_id), name.strip() if name else None)
    shown = TRANSFER.show(record, call)
    shown["transfer"]["auth_key"] = record["auth_key"]
    return shown


@contract(takes=under("accept", given(Field("auth_key", Identifier, required=True), Field("clear_access_rules", Flag))))
def accept(call: Call, share_transfer_id: str) -> None:
    body = unwrap(call.body, "accept")
    if not body.get("auth_key"):
        raise InvalidInput("Must supply 'auth_key' while accepting a share transfer.")
    key = convert(body["auth_key"], Identifier, "accept.auth_key")
    clear = parse_boolean_spec("clear_access_rules", body.get("clear_access_rules") or False)
    service.accept(call.deployment, call.context, share_transfer_id, key, clear_access_rules=clear)


@contract()
def delete(call: Call, share_transfer_id: str) -> None:
    service.remove(call.deployment, call.context, share_transfer_id)


_ONE = "/share-transfers/{share_transfer_id}"
ROUTES: Final = (
    Route("GET", "/share-transfers", list_summaries, since=77),
    Route("POST", "/share-transfers", create, since=77, status=202),
    Route("GET", "/share-transfers/detail", list_details, since=77),
    Route("GET", _ONE, show, since=77),
    Route("DELETE", _ONE, delete, since=77),
    Route("POST", f"{_ONE}/accept", accept, since=77, status=202),
)
