"""Backups of shares."""

from __future__ import annotations

from sqlalchemy import JSON, Boolean, Column, ForeignKey, Index, Integer, String, Table, Text

from sharewright.store.tables.base import ID, NAME, STATE, metadata, partial_index, times

share_backups = Table(
    "share_backups",
    metadata,
    Column("id", ID, primary_key=True),
    Column("share_id", ID, ForeignKey("shares.id"), nullable=False, index=True),  # a share with backups stays
    Column("project_id", NAME, nullable=False),
    Column("user_id", NAME, nullable=False),
    Column("name", NAME),
    Column("description", Text),
    Column("size", Integer, nullable=False),  # of the share at that moment; the quota's backup_gigabytes
    Column("status", STATE, nullable=False),
    Column("progress", String(8), nullable=False),  # per cent
    Column("restore_progress", String(8), nullable=False),
    Column("availability_zone", NAME),
    Column("host", NAME),  # of the backend that keeps it: "<node>@<backend>"
    Column("backend", NAME, nullable=False),
    Column("backup_type", String(32)),
    Column("options", JSON, nullable=False, default=dict),  # "backup_options" of the request, for the driver
    # The driver's memory of it; each is written the moment it is known.
    Column("consistent", Boolean, nullable=False, default=False),  # false: it may not be one of a frozen share
    Column("snapshot_id", String(255)),  # only while it is copied
    Column("volume_id", String(255)),
    Column("filesystem_type", String(16)),
    Column("filesystem_uuid", ID),
    *times(),
    Index("ix_share_backups_project_id_created_at_id", "project_id", "created_at", "id"),
    Index("ix_share_backups_created_at_id", "created_at", "id"),
    partial_index("ix_share_backups_unsettled", "status", where="status <> 'available'"),
)
