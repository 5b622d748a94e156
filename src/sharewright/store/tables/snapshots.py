"""Snapshots of shares, their instances on backends, and who may mount them."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
    true,
)

from sharewright.store.tables.base import ID, NAME, STATE, metadata, partial_index, times

share_snapshots = Table(
    "share_snapshots",
    metadata,
    Column("id", ID, primary_key=True),
    Column("share_id", ID, ForeignKey("shares.id"), nullable=False, index=True),  # a share with snapshots stays
    Column("project_id", NAME, nullable=False),
    Column("user_id", NAME, nullable=False),
    Column("name", NAME),
    Column("description", Text),
    Column("size", Integer, nullable=False),  # of the share at that moment; the quota's snapshot_gigabytes
    Column("protocol", String(16), nullable=False),
    Column("status", STATE, nullable=False),  # mirrors the instance's
    Column("progress", String(8)),
    *times(),
    Index("ix_share_snapshots_project_id_created_at_id", "project_id", "created_at", "id"),
    Index("ix_share_snapshots_created_at_id", "created_at", "id"),
    partial_index("ix_share_snapshots_unsettled", "status", where="status <> 'available'"),
)

share_snapshot_metadata = Table(
    "share_snapshot_metadata",
    metadata,
    Column("snapshot_id", ID, ForeignKey("share_snapshots.id", ondelete="CASCADE"), primary_key=True),
    Column("key", NAME, primary_key=True),
    Column("value", Text, nullable=False),
)

share_snapshot_instances = Table(  # of a snapshot, or a member of a share group snapshot, as in Manila
    "share_snapshot_instances",
    metadata,
    Column("id", ID, primary_key=True),
    Column("snapshot_id", ID, ForeignKey("share_snapshots.id", ondelete="CASCADE"), index=True),
    Column("share_group_snapshot_id", ID, ForeignKey("share_group_snapshots.id", ondelete="CASCADE"), index=True),
    Column("size", Integer),  # a member's: that of its share at that moment
    Column("share_instance_id", ID, ForeignKey("share_instances.id"), nullable=False, index=True),
    Column("status", STATE, nullable=False),
    # The driver's memory of it; each is written the moment it is known.
    Column("provider_location", String(255)),  # the cloud's snapshot
    Column("taken_over", Boolean, nullable=False, default=True, server_default=true()),  # as in share_instances
    Column("consistent", Boolean, nullable=False, default=False),  # false: its moment may not be one of a frozen share
    Column("volume_id", String(255)),  # of which it is a snapshot; the share may have another by now
    Column("volume_size", Integer),  # of that volume at that moment
    Column("filesystem_type", String(16)),
    Column("filesystem_uuid", ID),
    *times(),
    CheckConstraint("(snapshot_id IS NULL) <> (share_group_snapshot_id IS NULL)", name="of_one_thing"),
    partial_index("ix_share_snapshot_instances_unsettled", "status", where="status <> 'available'"),
)

# The generic driver's memory of a snapshot that clients mount (drivers/generic/mounting.py): a volume made from it, on
# its share's server, for as long as it has rules.
share_snapshot_mounts = Table(
    "share_snapshot_mounts",
    metadata,
    Column("id", ID, ForeignKey("share_snapshot_instances.id", ondelete="CASCADE"), primary_key=True),
    Column("share_server_id", ID, ForeignKey("share_servers.id"), nullable=False, index=True),
    Column("volume_id", String(255)),
    Column("volume_serial", String(255)),
    Column("volume_attached", Boolean, nullable=False, default=False),
    Column("filesystem_ready", Boolean, nullable=False, default=False),  # false: it may carry its share's UUID still
    Column("wanted", Boolean, nullable=False, default=True),  # false: the guest must let go of it
    *times(),
)

share_snapshot_export_locations = Table(
    "share_snapshot_export_locations",
    metadata,
    Column("id", ID, primary_key=True),
    Column(
        "share_snapshot_instance_id",
        ID,
        ForeignKey("share_snapshot_instances.id", ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
    Column("path", Text, nullable=False),
    Column("is_admin_only", Boolean, nullable=False, default=False),
    Column("preferred", Boolean, nullable=False, default=False),
    Column("metadata", JSON, nullable=False, default=dict),
    *times(),
)

share_snapshot_access_rules = Table(  # who may mount a snapshot: never to write
    "share_snapshot_access_rules",
    metadata,
    Column("id", ID, primary_key=True),
    Column("snapshot_id", ID, ForeignKey("share_snapshots.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("access_type", String(16), nullable=False),
    Column("access_to", String(255), nullable=False),  # an address in canonical form, a user as given
    Column("access_key", String(255)),
    Column("state", STATE, nullable=False),
    Column("error", Text),
    *times(),
    UniqueConstraint("snapshot_id", "access_type", "access_to", name="uq_share_snapshot_access_rules_client"),
    partial_index("ix_share_snapshot_access_rules_unsettled", "snapshot_id", where="state <> 'active'"),
)
