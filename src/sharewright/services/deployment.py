"""What every service works with: the store, the settings, and a way to wake workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from sqlalchemy import Connection, Executable

from sharewright.settings import Settings
from sharewright.store.database import Store

Record: TypeAlias = Mapping[str, Any]


def _nobody() -> None:
    """Nobody to wake: workers in other processes look for themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One Sharewright as its services see it. ``wake`` is called after a commit that enqueued work."""

    store: Store
    settings: Settings
    wake: Callable[[], None] = _nobody


def fetch(tx: Connection, statement: Executable, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """All rows as plain dictionaries."""
    result = tx.execute(statement, parameters)
    keys = tuple(result.keys())
    return [dict(zip(keys, row, strict=True)) for row in result.all()]


def fetch_one(
    tx: Connection, statement: Executable, parameters: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """The first row as a dictionary, or None."""
    result = tx.execute(statement, parameters)
    row = result.first()
    return None if row is None else dict(zip(result.keys(), row, strict=True))


def group(rows: Iterable[Mapping[str, Any]], by: str) -> dict[Any, list[Mapping[str, Any]]]:
    """Rows by the value of one key, in their order."""
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row[by], []).append(row)
    return groups
