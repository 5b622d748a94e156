"""Which rows of projects a request may see: one by its id, and the conditions of a list."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Table

from sharewright.context import RequestContext
from sharewright.errors import NotFound
from sharewright.identifiers import is_id
from sharewright.services.deployment import fetch_one
from sharewright.services.lists import contains
from sharewright.services.policy import allows, authorize, can_see


def find_visible(
    tx: Connection,
    context: RequestContext,
    statement: Select[Any],
    *,
    of: Table,
    identifier: str,
    rule: str,
    what: str,
    lock: bool = False,
) -> dict[str, Any]:
    """The row with that id of the table ``of`` (with an ``id`` and a ``project_id``), as the statement selects it.

    NotFound ("``what`` … could not be found.") when it is not there for this caller, Forbidden when the policy's
    ``rule`` does not allow this. ``lock`` holds it until the transaction ends.
    """
    authorize(context, rule)  # who may do this to none at all learns nothing of this one
    statement = statement.where(of.c.id == identifier)
    if lock:
        statement = statement.with_for_update(of=of)
    found = fetch_one(tx, statement) if is_id(identifier) else None
    if found is None or not can_see(context, found["project_id"]):
        raise NotFound(f"{what} {identifier[:64]} could not be found.")
    authorize(context, rule, found["project_id"])
    return found


def of_projects(
    context: RequestContext,
    column: ColumnElement[Any],
    filters: Mapping[str, Any],
    *,
    rule: str,
    all_projects: bool,
) -> list[ColumnElement[bool]]:
    """Whose rows a list shows: the caller's project's; all, or those of the filter ``project_id``, when all are asked
    for by somebody whom ``rule`` allows it."""
    if not (all_projects and allows(context, rule)):
        return [column == context.project_id]
    return [column == filters["project_id"]] if "project_id" in filters else []


def by_columns(table: Table, names: Iterable[str], filters: Mapping[str, Any]) -> list[ColumnElement[bool]]:
    """The filters that name columns: ``name`` equals, ``name~`` contains."""
    columns = table.c
    return [
        *(columns[name] == filters[name] for name in names if name in filters),
        *(contains(columns[name], filters[f"{name}~"]) for name in names if f"{name}~" in filters),
    ]
