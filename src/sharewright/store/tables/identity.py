"""The built-in identity (mode "builtin"); users of the password file are not here."""

from __future__ import annotations

from sqlalchemy import JSON, Boolean, Column, DateTime, String, Table, Text

from sharewright.store.tables.base import NAME, metadata, times

identity_projects = Table(
    "identity_projects",
    metadata,
    Column("id", NAME, primary_key=True),
    Column("name", NAME, nullable=False, unique=True),
    Column("description", Text),
    Column("enabled", Boolean, nullable=False, default=True),
    *times(),
)

identity_users = Table(
    "identity_users",
    metadata,
    Column("id", NAME, primary_key=True),
    Column("name", NAME, nullable=False, unique=True),
    Column("password_hash", Text, nullable=False),  # bcrypt
    Column("default_project_id", NAME),
    Column("enabled", Boolean, nullable=False, default=True),
    *times(),
)

identity_roles = Table(  # which user has which role in which project, given through the API
    "identity_roles",
    metadata,
    Column("user_id", NAME, primary_key=True),
    Column("project_id", NAME, primary_key=True),
    Column("role", NAME, primary_key=True),
)

identity_tokens = Table(
    "identity_tokens",
    metadata,
    Column("digest", String(64), primary_key=True),  # SHA-256 of the token, which is not stored
    Column("user_id", NAME, nullable=False, index=True),
    Column("user_name", NAME, nullable=False),
    Column("project_id", NAME, index=True),  # null: an unscoped token
    Column("project_name", NAME),
    Column("roles", JSON, nullable=False, default=list),
    Column("issued_at", DateTime, nullable=False),
    Column("expires_at", DateTime, nullable=False, index=True),
)
