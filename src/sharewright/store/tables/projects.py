"""What belongs to projects: quotas, and messages to users."""

from __future__ import annotations

from sqlalchemy import Column, DateTime, Integer, String, Table, Text

from sharewright.store.tables.base import ID, NAME, metadata

messages = Table(
    "messages",
    metadata,
    Column("id", ID, primary_key=True),
    Column("project_id", NAME, nullable=False, index=True),
    Column("request_id", NAME),
    Column("resource_type", String(64)),
    Column("resource_id", ID, index=True),
    Column("action_id", String(10), nullable=False),
    Column("detail_id", String(10)),
    Column("message_level", String(16), nullable=False),
    Column("detail", Text),  # appended to the detail's standard text: the real reason
    Column("created_at", DateTime, nullable=False, index=True),
    Column("expires_at", DateTime, nullable=False),
)

quotas = Table(  # limits that differ from the defaults; user_id "" or share_type_id "" where not applicable
    "quotas",
    metadata,
    Column("scope", String(16), primary_key=True),  # project, user, share_type, class
    Column("scope_id", NAME, primary_key=True),  # project id, or the class name
    Column("user_id", NAME, primary_key=True, default=""),
    Column("share_type_id", NAME, primary_key=True, default=""),
    Column("resource", String(64), primary_key=True),
    Column("hard_limit", Integer, nullable=False),
)

quota_usages = Table(
    "quota_usages",
    metadata,
    Column("project_id", NAME, primary_key=True),
    Column("user_id", NAME, primary_key=True, default=""),
    Column("share_type_id", NAME, primary_key=True, default=""),
    Column("resource", String(64), primary_key=True),
    Column("in_use", Integer, nullable=False, default=0),
)
