"""Share types, share group types and QoS types."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, ForeignKey, Table, Text

from sharewright.store.tables.base import ID, NAME, metadata, times

share_types = Table(
    "share_types",
    metadata,
    Column("id", ID, primary_key=True),
    Column("name", NAME, nullable=False, unique=True),
    Column("description", Text),
    Column("is_public", Boolean, nullable=False, default=True),
    *times(),
)

share_type_extra_specs = Table(
    "share_type_extra_specs",
    metadata,
    Column("share_type_id", ID, ForeignKey("share_types.id", ondelete="CASCADE"), primary_key=True),
    Column("key", NAME, primary_key=True),
    Column("value", Text, nullable=False),
)

share_type_projects = Table(
    "share_type_projects",
    metadata,
    Column("share_type_id", ID, ForeignKey("share_types.id", ondelete="CASCADE"), primary_key=True),
    Column("project_id", NAME, primary_key=True),
)

share_group_types = Table(
    "share_group_types",
    metadata,
    Column("id", ID, primary_key=True),
    Column("name", NAME, nullable=False, unique=True),
    Column("is_public", Boolean, nullable=False, default=True),
    *times(),
)

share_group_type_specs = Table(
    "share_group_type_specs",
    metadata,
    Column("share_group_type_id", ID, ForeignKey("share_group_types.id", ondelete="CASCADE"), primary_key=True),
    Column("key", NAME, primary_key=True),
    Column("value", Text, nullable=False),
)

share_group_type_share_types = Table(
    "share_group_type_share_types",
    metadata,
    Column("share_group_type_id", ID, ForeignKey("share_group_types.id", ondelete="CASCADE"), primary_key=True),
    Column("share_type_id", ID, ForeignKey("share_types.id"), primary_key=True),
)

share_group_type_projects = Table(
    "share_group_type_projects",
    metadata,
    Column("share_group_type_id", ID, ForeignKey("share_group_types.id", ondelete="CASCADE"), primary_key=True),
    Column("project_id", NAME, primary_key=True),
)

qos_types = Table(
    "qos_types",
    metadata,
    Column("id", ID, primary_key=True),
    Column("name", NAME, nullable=False, unique=True),
    Column("description", NAME),
    *times(),
)

qos_type_specs = Table(
    "qos_type_specs",
    metadata,
    Column("qos_type_id", ID, ForeignKey("qos_types.id", ondelete="CASCADE"), primary_key=True),
    Column("key", NAME, primary_key=True),
    Column("value", Text, nullable=False),
)
