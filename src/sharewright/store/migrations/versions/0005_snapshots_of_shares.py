"""snapshots of shares"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "share_snapshots",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("share_id", sa.String(length=36), nullable=False),
        sa.Column("project_id", sa.String(length=255), nullable=False),
        sa.Column("user_id", sa.String(length=255), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("protocol", sa.String(length=16), nullable=False),
        sa.Column("status", sa.String(length=64), nullable=False),
        sa.Column("progress", sa.String(length=8), nullable=True),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("updated_at", sa.DateTime(), nullable=True),
        sa.ForeignKeyConstraint(["share_id"], ["shares.id"], name=op.f("fk_share_snapshots_share_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_share_snapshots")),
    )
    with op.batch_alter_table("share_snapshots", schema=None) as batch_op:
        batch_op.create_index("ix_share_snapshots_created_at_id", ["created_at", "id"], unique=False)
        batch_op.create_index(
            "ix_share_snapshots_project_id_created_at_id", ["project_id", "created_at", "id"], unique=False
        )
        batch_op.create_index(batch_op.f("ix_share_snapshots_share_id"), ["share_id"], unique=False)
        batch_op.create_index(
            "ix_share_snapshots_unsettled",
            ["status"],
            unique=False,
            sqlite_where=sa.text("status <> 'available'"),
            postgresql_where=sa.text("status <> 'available'"),
        )

    op.create_table(
        "share_snapshot_metadata",
        sa.Column("snapshot_id", sa.String(length=36), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["snapshot_id"],
            ["share_snapshots.id"],
            name=op.f("fk_share_snapshot_metadata_snapshot_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("snapshot_id", "key", name=op.f("pk_share_snapshot_metadata")),
    )
    op.create_table(
        "share_snapshot_instances",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("snapshot_id", sa.String(length=36), nullable=False),
        sa.Column("share_instance_id", sa.String(length=36), nullable=False),
        sa.Column("status", sa.String(length=64), nullable=False),
        sa.Column("provider_location", sa.String(length=255), nullable=True),
        sa.Column("consistent", sa.Boolean(), nullable=False),
        sa.Column("volume_id", sa.String(length=255), nullable=True),
        sa.Column("volume_size", sa.Integer(), nullable=True),
        sa.Column("filesystem_type", sa.String(length=16), nullable=True),
        sa.Column("filesystem_uuid", sa.String(length=36), nullable=True),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("updated_at", sa.DateTime(), nullable=True),
        sa.ForeignKeyConstraint(
            ["share_instance_id"], ["share_instances.id"], name=op.f("fk_share_snapshot_instances_share_instance_id")
        ),
        sa.ForeignKeyConstraint(
            ["snapshot_id"],
            ["share_snapshots.id"],
            name=op.f("fk_share_snapshot_instances_snapshot_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_share_snapshot_instances")),
    )
    with op.batch_alter_table("share_snapshot_instances", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_share_snapshot_instances_share_instance_id"), ["share_instance_id"], unique=False
        )
        batch_op.create_index(batch_op.f("ix_share_snapshot_instances_snapshot_id"), ["snapshot_id"], unique=False)
        batch_op.create_index(
            "ix_share_snapshot_instances_unsettled",
            ["status"],
            unique=False,
            sqlite_where=sa.text("status <> 'available'"),
            postgresql_where=sa.text("status <> 'available'"),
        )

    with op.batch_alter_table("shares", schema=None) as batch_op:
        batch_op.add_column(sa.Column("snapshot_id", sa.String(length=36), nullable=True))
        batch_op.create_index(batch_op.f("ix_shares_snapshot_id"), ["snapshot_id"], unique=False)
