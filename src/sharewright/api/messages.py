"""User messages: /messages, from 2.37 on."""

from __future__ import annotations

from typing import Any, Final

from sharewright.api.resource import Field, Filter, Identifier, Name, Resource, Timestamp, timestamp
from sharewright.api.routing import Call, Route
from sharewright.api.shapes import contract, listing, one
from sharewright.services import messages as service

MESSAGE: Final = Resource(
    name="message",
    plural="messages",
    collection="messages",
    linked=True,
    fields=(
        Field("id", Identifier),
        Field("project_id", str),
        Field("action_id", str),
        Field("detail_id", Name),
        Field("message_level", str),
        Field("request_id", Name),
        Field("resource_type", Name),
        Field("resource_id", Name),
        Field("user_message", str),
        Field("created_at", Timestamp, source=timestamp("created_at")),
        Field("expires_at", Timestamp, source=timestamp("expires_at")),
    ),
    filters=(
        Filter("message_id", key="id"),
        Filter("action_id"),
        Filter("detail_id"),
        Filter("message_level"),
        Filter("request_id"),
        Filter("resource_id"),
        Filter("resource_type"),
        Filter("created_since", since=52),
        Filter("created_before", since=52),
    ),
    sort_keys={name: name for name in service.COLUMNS},
)


@listing(MESSAGE)
def list_all(call: Call) -> Any:
    page = call.page(MESSAGE)
    records = service.list_messages(call.deployment, call.context, call.filters(MESSAGE), page)
    return MESSAGE.show_all(records, call) | call.next_page(MESSAGE, records, page)


@contract(gives=one(MESSAGE))
def show(call: Call, message_id: str) -> Any:
    return MESSAGE.show(service.show(call.deployment, call.context, message_id), call)


@contract()
def delete(call: Call, message_id: str) -> None:
    service.remove(call.deployment, call.context, message_id)


ROUTES: Final = (
    Route("GET", "/messages", list_all, since=37),
    Route("GET", "/messages/{message_id}", show, since=37),
    Route("DELETE", "/messages/{message_id}", delete, since=37, status=204),
)
