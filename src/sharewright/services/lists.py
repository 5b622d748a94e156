"""Lists: limit, offset, marker and order, as SQL and with Manila's refusals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Select,
    and_,
    func,
    literal,
    literal_column,
    or_,
    select,
    tuple_,
)
from sqlalchemy.sql.elements import KeyedColumnElement
from sqlalchemy.sql.functions import coalesce

from sharewright.errors import InvalidInput
from sharewright.services.deployment import fetch


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Which part of a list. ``order`` names a sort key of the list; ``descending`` is Manila's default."""

    limit: int = 1000
    offset: int = 0
    marker: str = ""
    order: str = ""
    descending: bool = True


EVERYTHING = Page(limit=2**31 - 1)


def parse_page(query: Mapping[str, str], sort_keys: Mapping[str, str], maximum: int) -> Page:
    """The page that a query asks for. A limit of 0 or above the maximum means the maximum. Raises InvalidInput."""
    limit = _whole_number(query, "limit")
    order = query.get("sort_key", "")
    direction = query.get("sort_dir", "desc")
    if order and order not in sort_keys:
        raise InvalidInput(f"Invalid input received: Wrong sorting key provided - '{order[:64]}'.")
    if direction.lower() not in ("asc", "desc"):
        raise InvalidInput(f"Invalid input received: Wrong sorting direction provided - '{direction[:64]}'.")
    return Page(
        limit=min(limit or maximum, maximum),
        offset=_whole_number(query, "offset"),
        marker=query.get("marker", ""),
        order=sort_keys.get(order, ""),
        descending=direction.lower() == "desc",
    )


def fetch_page(
    tx: Connection,
    statement: Select[Any],
    page: Page,
    *,
    columns: Mapping[str, ColumnElement[Any]],
    identifier: KeyedColumnElement[Any],
    default: str = "created_at",
    few: bool = False,
) -> list[dict[str, Any]]:
    """The rows of one page. ``columns``: sort key → column; equal values are ordered by ``identifier``. ``few``: the
    statement finds so few rows that they are to be sorted, and not to be looked for in an index of their order."""
    column = columns[page.order or default]
    if page.marker:
        found = tx.execute(
            statement.with_only_columns(column.label("position")).where(identifier == page.marker).order_by(None)
        ).first()
        if found is None:
            raise InvalidInput(f"The marker {page.marker[:64]} is not in this list.")
        statement = statement.where(_behind(column, identifier, found.position, page))
    value = func.coalesce(column, column) if few else column  # an expression that no index has
    if _never_null(column):  # then an index gives this order by itself
        ordering = [value.desc(), identifier.desc()] if page.descending else [value.asc(), identifier.asc()]
    elif page.descending:
        ordering = [value.desc().nulls_last(), identifier.desc()]
    else:
        ordering = [value.asc().nulls_first(), identifier.asc()]
    return fetch(tx, statement.order_by(*ordering).limit(page.limit).offset(page.offset or None))


def count(tx: Connection, statement: Select[Any]) -> int:
    """How many rows the statement has in all."""
    rows = statement.with_only_columns(literal(1)).order_by(None).subquery()
    return int(tx.execute(select(func.count()).select_from(rows)).scalar_one())


def without_paging(page: Page) -> Page:
    return replace(page, limit=EVERYTHING.limit, offset=0, marker="")


def slice_page(records: Sequence[Mapping[str, Any]], page: Page) -> list[Mapping[str, Any]]:
    """The page of a short list that is in memory whole, in its own order."""
    start = page.offset
    if page.marker:
        position = next((index for index, record in enumerate(records) if record["id"] == page.marker), None)
        if position is None:
            raise InvalidInput(f"The marker {page.marker[:64]} is not in this list.")
        start += position + 1
    return list(records[start : start + page.limit])


def contains(column: ColumnElement[Any], text: str) -> ColumnElement[bool]:
    """Whether the column holds the text, whose wildcards mean themselves."""
    return column.contains(text, autoescape=True)


def _behind(
    column: ColumnElement[Any], identifier: ColumnElement[Any], position: Any, page: Page
) -> ColumnElement[bool]:
    """Rows that come after the marker's. NULL sorts lowest in both directions."""
    if _never_null(column):  # one comparison, from which an index can start
        here, there = tuple_(column, identifier), tuple_(literal(position, column.type), literal(page.marker))
        return here < there if page.descending else here > there
    later = identifier < page.marker if page.descending else identifier > page.marker
    if position is None:
        same = and_(column.is_(None), later)
        return same if page.descending else or_(same, column.is_not(None))
    beyond = column < position if page.descending else column > position
    if page.descending:
        beyond = or_(beyond, column.is_(None))
    return or_(beyond, and_(column == position, later))


def or_empty(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """A text column to sort by, with an empty text for NULL, as indexes may have it: with a literal, because with a
    parameter no plan could use them."""
    return func.coalesce(column, literal_column("''"))


def _never_null(column: ColumnElement[Any]) -> bool:
    return isinstance(column, coalesce) or (isinstance(column, Column) and not column.nullable)


def _whole_number(query: Mapping[str, str], name: str) -> int:
    text = query.get(name, "")
    if not text:
        return 0
    try:
        value = int(text)
    except ValueError:
        raise InvalidInput(f"{name} param must be an integer") from None
    if value < 0:
        raise InvalidInput(f"{name} param must be positive")
    return min(value, 2**31 - 1)
