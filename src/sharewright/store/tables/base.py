"""What all tables share: the metadata with its naming convention, column types, and parts that many have."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Column, DateTime, Index, MetaData, String, text

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    },
)

ID = String(36)
NAME = String(255)
STATE = String(64)
NEVER = datetime(1970, 1, 1)


def times() -> list[Column[object]]:
    return [Column("created_at", DateTime, nullable=False), Column("updated_at", DateTime)]


def partial_index(name: str, column: str, *, where: str) -> Index:
    """An index of few rows. A query uses it only where it says the same with literals, not with parameters."""
    return Index(name, column, sqlite_where=text(where), postgresql_where=text(where))
