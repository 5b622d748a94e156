"""Shares, their instances on backends, where they are exported, and who may mount them."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
    true,
)

from sharewright.store.tables.base import ID, NAME, STATE, metadata, partial_index, times

# It has triggers (migration 0028): a migration that makes the table anew, as batch_alter_table does on SQLite, has to
# make them anew, too.
shares = Table(
    "shares",
    metadata,
    Column("id", ID, primary_key=True),
    Column("project_id", NAME, nullable=False),
    Column("user_id", NAME, nullable=False),
    Column("name", NAME),
    Column("description", Text),
    Column("size", Integer, nullable=False),
    Column("protocol", String(16), nullable=False),
    Column("is_public", Boolean, nullable=False, default=False),
    Column("share_type_id", ID, ForeignKey("share_types.id"), nullable=False, index=True),
    # Mirrors of the main instance, so that a list of shares is one statement.
    Column("status", STATE, nullable=False),
    Column("task_state", STATE),  # of its migration, or the outcome of the last one
    Column("progress", String(8)),
    # In the recycle bin, until when.
    Column("is_soft_deleted", Boolean, nullable=False, default=False, server_default=false()),
    Column("scheduled_to_be_deleted_at", DateTime),
    Column("host", NAME),  # "<node>@<backend>#<pool>"
    Column("availability_zone", NAME),
    Column("share_network_id", ID, ForeignKey("share_networks.id"), index=True),
    Column("share_server_id", ID, index=True),
    Column("snapshot_id", ID, index=True),  # that it was made from; the snapshot may be gone
    Column("share_group_id", ID, index=True),  # a group with shares stays
    Column("source_share_group_snapshot_member_id", ID),  # that it was made from; the member may be gone
    Column("access_rules_status", STATE, nullable=False, default="active"),
    # From the share type at creation: a type that changes later does not change the share.
    Column("snapshot_support", Boolean, nullable=False, default=False),
    Column("create_share_from_snapshot_support", Boolean, nullable=False, default=False),
    Column("revert_to_snapshot_support", Boolean, nullable=False, default=False),
    Column("mount_snapshot_support", Boolean, nullable=False, default=False),
    Column("source_backup_id", ID),  # that was restored to it last; the backup may be gone
    Column("replication_type", NAME),  # null: its instance is no replica, and it gets no others
    *times(),
    CheckConstraint("size > 0", name="size_positive"),
    Index("ix_shares_project_id_created_at_id", "project_id", "created_at", "id"),
    Index("ix_shares_created_at_id", "created_at", "id"),
    # For pages of a project's shares in these orders, or with one of these filters. An expression for the name, because
    # an index with its NULLs first is one database's only.
    Index("ix_shares_project_id_name_id", "project_id", text("coalesce(name, '')"), "id"),
    Index("ix_shares_project_id_size_id", "project_id", "size", "id"),
    Index("ix_shares_project_id_status_created_at_id", "project_id", "status", "created_at", "id"),
    # All that counting them looks at.
    Index("ix_shares_counted", "project_id", "is_soft_deleted", "status"),
    # Few of many: what the reconciler looks for in every round.
    partial_index("ix_shares_unsettled", "status", where="status <> 'available'"),
    partial_index(
        "ix_shares_soft_deleted", "scheduled_to_be_deleted_at", where="scheduled_to_be_deleted_at IS NOT NULL"
    ),
)

# How many shares a project has: the sum of the numbers, of which one may be negative (migration 0028).
share_counts = Table(
    "share_counts",
    metadata,
    Column("project_id", NAME, primary_key=True),
    Column("is_soft_deleted", Boolean, primary_key=True),
    Column("slot", BigInteger, primary_key=True),
    Column("number", BigInteger, nullable=False),
)
shares.add_is_dependent_on(share_counts)  # their triggers write it

share_metadata = Table(
    "share_metadata",
    metadata,
    Column("share_id", ID, ForeignKey("shares.id", ondelete="CASCADE"), primary_key=True),
    Column("key", NAME, primary_key=True),
    Column("value", Text, nullable=False),
    Index("ix_share_metadata_key_value", "key", text("substr(value, 1, 64)")),
)

share_instances = Table(
    "share_instances",
    metadata,
    Column("id", ID, primary_key=True),
    Column("share_id", ID, ForeignKey("shares.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("status", STATE, nullable=False),
    Column("host", NAME),
    Column("backend", NAME),
    Column("availability_zone", NAME),
    Column("share_network_id", ID),
    Column("share_server_id", ID, ForeignKey("share_servers.id"), index=True),
    Column("size", Integer, nullable=False),
    # Exactly one instance of a share is what the share's own columns and clients mean: the replica that was promoted
    # last. ``replica_state`` only says what is shown, as an administrator may set it by hand.
    Column("is_main", Boolean, nullable=False, default=True, server_default=true()),
    Column("replica_state", String(16)),  # active, in_sync, out_of_sync, error; null: no replica
    # Of an instance besides the main one, in a migration to another type: the one that it has, and a quota of its own
    # for that; null: the share's.
    Column("share_type_id", ID),
    # From the share type's extra specs, for good; null: the backend's own (operations/type_specs.py).
    Column("volume_type", NAME),
    # By default as Manila's generic driver: root on an allowed client owns the share.
    Column("smb_encryption", String(16)),  # null: as the client likes
    Column("squash", String(16), nullable=False, default="no_root_squash", server_default="no_root_squash"),
    Column("server_flavor", NAME),
    Column("filesystem_type", String(16)),
    # The generic driver's memory of the instance; each is written the moment it is known.
    Column("volume_id", String(255)),
    Column("volume_serial", String(255)),
    Column("volume_attached", Boolean, nullable=False, default=False),
    Column("filesystem_uuid", ID),
    Column("filesystem_ready", Boolean, nullable=False, default=False),  # false: the volume is new, may be formatted
    # What it had before a revert, until that is over; the guest has to let go of it.
    Column("old_volume_id", String(255)),
    Column("old_volume_serial", String(255)),
    Column("clone_of", ID),  # the volume began as a copy of this file system: never to be formatted
    # False: from a request to manage it until that is done. The volume is somebody else's: given back, never deleted.
    Column("taken_over", Boolean, nullable=False, default=True, server_default=true()),
    Column("wanted", Boolean, nullable=False, default=True),  # false: the guest must let go of it (delete)
    # What the guest said last (guest/document.py, ShareState); null: it does not know.
    Column("bytes_total", BigInteger),
    Column("bytes_used", BigInteger),
    Column("inodes_total", BigInteger),
    Column("inodes_used", BigInteger),
    Column("bytes_read", BigInteger),
    Column("bytes_written", BigInteger),
    *times(),
    # What the scheduler adds up for each pool: promised since its report, or without a volume so far.
    Index("ix_share_instances_host_created_at", "host", "created_at"),
    partial_index("ix_share_instances_without_volume", "host", where="volume_id IS NULL"),
    partial_index("ix_share_instances_replicas", "status", where="replica_state IS NOT NULL"),
    partial_index("ix_share_instances_other_type", "share_type_id", where="share_type_id IS NOT NULL"),
)

share_replica_metadata = Table(
    "share_replica_metadata",
    metadata,
    Column("share_instance_id", ID, ForeignKey("share_instances.id", ondelete="CASCADE"), primary_key=True),
    Column("key", NAME, primary_key=True),
    Column("value", Text, nullable=False),
)

share_export_locations = Table(
    "share_export_locations",
    metadata,
    Column("id", ID, primary_key=True),
    Column("share_instance_id", ID, ForeignKey("share_instances.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("path", Text, nullable=False),
    Column("is_admin_only", Boolean, nullable=False, default=False),
    Column("preferred", Boolean, nullable=False, default=False),
    Column("metadata", JSON, nullable=False, default=dict),
    *times(),
)

share_access_rules = Table(
    "share_access_rules",
    metadata,
    Column("id", ID, primary_key=True),
    Column("share_id", ID, ForeignKey("shares.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("access_type", String(16), nullable=False),
    Column("access_to", String(255), nullable=False),  # an address in canonical form, a user as given
    Column("access_level", String(2), nullable=False),
    Column("access_key", String(255)),
    Column("state", STATE, nullable=False),
    Column("error", Text),
    *times(),
    UniqueConstraint("share_id", "access_type", "access_to"),
    partial_index("ix_share_access_rules_unsettled", "share_id", where="state <> 'active'"),
)

share_access_metadata = Table(
    "share_access_metadata",
    metadata,
    Column("access_id", ID, ForeignKey("share_access_rules.id", ondelete="CASCADE"), primary_key=True),
    Column("key", NAME, primary_key=True),
    Column("value", Text, nullable=False),
)

resource_locks = Table(
    "resource_locks",
    metadata,
    Column("id", ID, primary_key=True),
    Column("user_id", NAME, nullable=False),
    Column("project_id", NAME, nullable=False),
    Column("lock_context", String(16), nullable=False),  # user, admin or service: who may take it away
    Column("resource_type", String(32), nullable=False),
    Column("resource_id", ID, nullable=False, index=True),
    Column("resource_action", String(16), nullable=False),
    Column("lock_reason", Text),
    *times(),
    Index("ix_resource_locks_project_id_created_at_id", "project_id", "created_at", "id"),
)

share_transfers = Table(
    "share_transfers",
    metadata,
    Column("id", ID, primary_key=True),
    Column("name", NAME),
    Column("resource_type", String(32), nullable=False),
    Column("resource_id", ID, ForeignKey("shares.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("source_project_id", NAME, nullable=False),
    Column("salt", String(32), nullable=False),
    Column("key_digest", String(64), nullable=False),  # HMAC-SHA-256; the key itself is not kept
    Column("expires_at", DateTime),
    *times(),
    Index("ix_share_transfers_source_project_id_created_at_id", "source_project_id", "created_at", "id"),
)

# The generic driver's memory of a second volume of an instance (drivers/generic/moves.py); one at a time.
share_instance_moves = Table(
    "share_instance_moves",
    metadata,
    Column("share_instance_id", ID, ForeignKey("share_instances.id", ondelete="CASCADE"), primary_key=True),
    Column("id", ID, nullable=False),
    Column("size", Integer, nullable=False),
    Column("stall_seconds", Float, nullable=False),
    Column("step", String(16), nullable=False),
    Column("tries", Integer, nullable=False, default=0),
    Column("volume_id", String(255)),
    Column("volume_serial", String(255)),
    Column("volume_attached", Boolean, nullable=False, default=False),
)

# Volumes that are no share's any more and are still to be deleted (drivers/generic/retired.py); they outlive the share.
retired_volumes = Table(
    "retired_volumes",
    metadata,
    Column("volume_id", String(255), primary_key=True),
    Column("backend", NAME, primary_key=True),
    Column("share_instance_id", ID, nullable=False, index=True),  # whose it was
    Column("reason", Text),  # why the last attempt to delete it failed
    Column("created_at", DateTime, nullable=False),
)
