"""Share groups and their snapshots."""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, Index, String, Table, Text

from sharewright.store.tables.base import ID, NAME, STATE, metadata, partial_index, times

share_groups = Table(
    "share_groups",
    metadata,
    Column("id", ID, primary_key=True),
    Column("project_id", NAME, nullable=False),
    Column("user_id", NAME, nullable=False),
    Column("name", NAME),
    Column("description", Text),
    Column("status", STATE, nullable=False),
    Column("share_group_type_id", ID, ForeignKey("share_group_types.id"), nullable=False, index=True),
    Column("share_network_id", ID, ForeignKey("share_networks.id"), index=True),
    # Which its shares go to, as long as there is room. Null: they make no servers, or that one is gone.
    Column("share_server_id", ID, index=True),
    Column("availability_zone", NAME),  # null: its shares' own
    Column("consistent_snapshot_support", String(16)),  # only pools that report the same take its shares
    Column("source_share_group_snapshot_id", ID),  # that it was made from; the snapshot may be gone
    *times(),
    Index("ix_share_groups_project_id_created_at_id", "project_id", "created_at", "id"),
    Index("ix_share_groups_created_at_id", "created_at", "id"),
    partial_index("ix_share_groups_unsettled", "status", where="status <> 'available'"),
)

share_group_share_types = Table(
    "share_group_share_types",
    metadata,
    Column("share_group_id", ID, ForeignKey("share_groups.id", ondelete="CASCADE"), primary_key=True),
    Column("share_type_id", ID, ForeignKey("share_types.id"), primary_key=True),
)

share_group_snapshots = Table(
    "share_group_snapshots",
    metadata,
    Column("id", ID, primary_key=True),
    # A group with snapshots stays.
    Column("share_group_id", ID, ForeignKey("share_groups.id"), nullable=False, index=True),
    Column("project_id", NAME, nullable=False),
    Column("user_id", NAME, nullable=False),
    Column("name", NAME),
    Column("description", Text),
    Column("status", STATE, nullable=False),
    *times(),
    Index("ix_share_group_snapshots_project_id_created_at_id", "project_id", "created_at", "id"),
    Index("ix_share_group_snapshots_created_at_id", "created_at", "id"),
    partial_index("ix_share_group_snapshots_unsettled", "status", where="status <> 'available'"),
)
