"""User messages: reading and deleting them. They are written by operations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, delete, select

from sharewright.context import RequestContext
from sharewright.errors import NotFound
from sharewright.identifiers import is_id
from sharewright.operations.messages import user_message
from sharewright.services.deployment import Deployment, Record, fetch_one
from sharewright.services.lists import Page, fetch_page
from sharewright.services.policy import authorize, can_see
from sharewright.services.validation import parse_moment
from sharewright.store.tables import messages

COLUMNS: Final[Mapping[str, ColumnElement[Any]]] = {
    name: messages.c[name]
    for name in (
        "id", "project_id", "request_id", "resource_type", "resource_id", "action_id", "detail_id", "message_level",
        "created_at", "expires_at",
    )
}  # fmt: skip
_EXACT: Final = ("action_id", "detail_id", "message_level", "request_id", "resource_id", "resource_type", "id")


def list_messages(
    deployment: Deployment, context: RequestContext, filters: Mapping[str, Any], page: Page
) -> list[dict[str, Any]]:
    """The project's messages (an admin: all). One statement."""
    authorize(context, "message:get_all")
    statement = select(messages)
    if not context.is_admin:
        statement = statement.where(messages.c.project_id == context.project_id)
    for name in _EXACT:
        if name in filters:
            statement = statement.where(messages.c[name] == filters[name])
    if "created_since" in filters:
        statement = statement.where(messages.c.created_at >= parse_moment(filters["created_since"], "created_since"))
    if "created_before" in filters:
        statement = statement.where(messages.c.created_at <= parse_moment(filters["created_before"], "created_before"))
    with deployment.store.read() as tx:
        rows = fetch_page(tx, statement, page, columns=COLUMNS, identifier=messages.c.id)
    return [_complete(row) for row in rows]


def show(deployment: Deployment, context: RequestContext, identifier: str) -> Record:
    with deployment.store.read() as tx:
        return _complete(_find(tx, context, identifier, "message:get"))


def remove(deployment: Deployment, context: RequestContext, identifier: str) -> None:
    with deployment.store.begin() as tx:
        _find(tx, context, identifier, "message:delete")
        tx.execute(delete(messages).where(messages.c.id == identifier))


def _find(tx: Connection, context: RequestContext, identifier: str, rule: str) -> dict[str, Any]:
    authorize(context, rule)
    row = fetch_one(tx, select(messages).where(messages.c.id == identifier)) if is_id(identifier) else None
    if row is None or not can_see(context, row["project_id"]):
        raise NotFound(f"Message {identifier[:64]} could not be found.")
    authorize(context, rule, row["project_id"])
    return row


def _complete(row: dict[str, Any]) -> dict[str, Any]:
    row["user_message"] = user_message(row["action_id"], row["detail_id"], row["detail"])
    return row
