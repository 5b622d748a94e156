"""share group snapshots"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "share_group_snapshots",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("share_group_id", sa.String(length=36), nullable=False),
        sa.Column("project_id", sa.String(length=255), nullable=False),
        sa.Column("user_id", sa.String(length=255), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("status", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("updated_at", sa.DateTime(), nullable=True),
        sa.ForeignKeyConstraint(
            ["share_group_id"], ["share_groups.id"], name=op.f("fk_share_group_snapshots_share_group_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_share_group_snapshots")),
    )
    with op.batch_alter_table("share_group_snapshots", schema=None) as batch_op:
        batch_op.create_index("ix_share_group_snapshots_created_at_id", ["created_at", "id"], unique=False)
        batch_op.create_index(
            "ix_share_group_snapshots_project_id_created_at_id", ["project_id", "created_at", "id"], unique=False
        )
        batch_op.create_index(batch_op.f("ix_share_group_snapshots_share_group_id"), ["share_group_id"], unique=False)
        batch_op.create_index(
            "ix_share_group_snapshots_unsettled",
            ["status"],
            unique=False,
            sqlite_where=sa.text("status <> 'available'"),
            postgresql_where=sa.text("status <> 'available'"),
        )

    with op.batch_alter_table("share_snapshot_instances", schema=None) as batch_op:
        batch_op.alter_column("snapshot_id", existing_type=sa.String(length=36), nullable=True)
        batch_op.add_column(sa.Column("share_group_snapshot_id", sa.String(length=36), nullable=True))
        batch_op.add_column(sa.Column("size", sa.Integer(), nullable=True))
        batch_op.create_foreign_key(
            batch_op.f("fk_share_snapshot_instances_share_group_snapshot_id"),
            "share_group_snapshots",
            ["share_group_snapshot_id"],
            ["id"],
            ondelete="CASCADE",
        )
        batch_op.create_check_constraint(
            batch_op.f("ck_share_snapshot_instances_of_one_thing"),
            "(snapshot_id IS NULL) <> (share_group_snapshot_id IS NULL)",
        )
        batch_op.create_index(
            batch_op.f("ix_share_snapshot_instances_share_group_snapshot_id"), ["share_group_snapshot_id"], unique=False
        )

    with op.batch_alter_table("share_groups", schema=None) as batch_op:
        batch_op.add_column(sa.Column("consistent_snapshot_support", sa.String(length=16), nullable=True))
        batch_op.add_column(sa.Column("source_share_group_snapshot_id", sa.String(length=36), nullable=True))
        batch_op.create_index(
            "ix_share_groups_unsettled",
            ["status"],
            unique=False,
            sqlite_where=sa.text("status <> 'available'"),
            postgresql_where=sa.text("status <> 'available'"),
        )
    with op.batch_alter_table("shares", schema=None) as batch_op:
        batch_op.add_column(sa.Column("source_share_group_snapshot_member_id", sa.String(length=36), nullable=True))
