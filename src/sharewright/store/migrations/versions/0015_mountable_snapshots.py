"""mountable snapshots"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "share_snapshot_access_rules",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("snapshot_id", sa.String(length=36), nullable=False),
        sa.Column("access_type", sa.String(length=16), nullable=False),
        sa.Column("access_to", sa.String(length=255), nullable=False),
        sa.Column("access_key", sa.String(length=255), nullable=True),
        sa.Column("state", sa.String(length=64), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("updated_at", sa.DateTime(), nullable=True),
        sa.ForeignKeyConstraint(
            ["snapshot_id"],
            ["share_snapshots.id"],
            name=op.f("fk_share_snapshot_access_rules_snapshot_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_share_snapshot_access_rules")),
        sa.UniqueConstraint("snapshot_id", "access_type", "access_to", name="uq_share_snapshot_access_rules_client"),
    )
    with op.batch_alter_table("share_snapshot_access_rules", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_share_snapshot_access_rules_snapshot_id"), ["snapshot_id"], unique=False)
        batch_op.create_index(
            "ix_share_snapshot_access_rules_unsettled",
            ["snapshot_id"],
            unique=False,
            sqlite_where=sa.text("state <> 'active'"),
            postgresql_where=sa.text("state <> 'active'"),
        )

    op.create_table(
        "share_snapshot_export_locations",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("share_snapshot_instance_id", sa.String(length=36), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("is_admin_only", sa.Boolean(), nullable=False),
        sa.Column("preferred", sa.Boolean(), nullable=False),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("updated_at", sa.DateTime(), nullable=True),
        sa.ForeignKeyConstraint(
            ["share_snapshot_instance_id"],
            ["share_snapshot_instances.id"],
            name=op.f("fk_share_snapshot_export_locations_share_snapshot_instance_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_share_snapshot_export_locations")),
    )
    with op.batch_alter_table("share_snapshot_export_locations", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_share_snapshot_export_locations_share_snapshot_instance_id"),
            ["share_snapshot_instance_id"],
            unique=False,
        )

    op.create_table(
        "share_snapshot_mounts",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("share_server_id", sa.String(length=36), nullable=False),
        sa.Column("volume_id", sa.String(length=255), nullable=True),
        sa.Column("volume_serial", sa.String(length=255), nullable=True),
        sa.Column("volume_attached", sa.Boolean(), nullable=False),
        sa.Column("filesystem_ready", sa.Boolean(), nullable=False),
        sa.Column("wanted", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("updated_at", sa.DateTime(), nullable=True),
        sa.ForeignKeyConstraint(
            ["id"], ["share_snapshot_instances.id"], name=op.f("fk_share_snapshot_mounts_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["share_server_id"], ["share_servers.id"], name=op.f("fk_share_snapshot_mounts_share_server_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_share_snapshot_mounts")),
    )
    with op.batch_alter_table("share_snapshot_mounts", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_share_snapshot_mounts_share_server_id"), ["share_server_id"], unique=False)
