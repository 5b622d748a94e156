"""share backups"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("shares", sa.Column("source_backup_id", sa.String(length=36), nullable=True))
    op.create_table(
        "share_backups",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("share_id", sa.String(length=36), nullable=False),
        sa.Column("project_id", sa.String(length=255), nullable=False),
        sa.Column("user_id", sa.String(length=255), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(length=64), nullable=False),
        sa.Column("progress", sa.String(length=8), nullable=False),
        sa.Column("restore_progress", sa.String(length=8), nullable=False),
        sa.Column("availability_zone", sa.String(length=255), nullable=True),
        sa.Column("host", sa.String(length=255), nullable=True),
        sa.Column("backend", sa.String(length=255), nullable=False),
        sa.Column("backup_type", sa.String(length=32), nullable=True),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.Column("consistent", sa.Boolean(), nullable=False),
        sa.Column("snapshot_id", sa.String(length=255), nullable=True),
        sa.Column("volume_id", sa.String(length=255), nullable=True),
        sa.Column("filesystem_type", sa.String(length=16), nullable=True),
        sa.Column("filesystem_uuid", sa.String(length=36), nullable=True),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("updated_at", sa.DateTime(), nullable=True),
        sa.ForeignKeyConstraint(["share_id"], ["shares.id"], name=op.f("fk_share_backups_share_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_share_backups")),
    )
    op.create_index("ix_share_backups_share_id", "share_backups", ["share_id"], unique=False)
    op.create_index("ix_share_backups_created_at_id", "share_backups", ["created_at", "id"], unique=False)
    op.create_index(
        "ix_share_backups_project_id_created_at_id", "share_backups", ["project_id", "created_at", "id"], unique=False
    )
    op.create_index(
        "ix_share_backups_unsettled",
        "share_backups",
        ["status"],
        unique=False,
        sqlite_where=sa.text("status <> 'available'"),
        postgresql_where=sa.text("status <> 'available'"),
    )
