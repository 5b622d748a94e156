"""shares and share servers that are migrated: the other type of a share, and whose shares a server gets"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("share_instances", sa.Column("share_type_id", sa.String(length=36), nullable=True))
    op.create_index(
        "ix_share_instances_other_type",
        "share_instances",
        ["share_type_id"],
        unique=False,
        sqlite_where=sa.text("share_type_id IS NOT NULL"),
        postgresql_where=sa.text("share_type_id IS NOT NULL"),
    )
    op.add_column("share_servers", sa.Column("source_share_server_id", sa.String(length=36), nullable=True))
    op.create_index(
        op.f("ix_share_servers_source_share_server_id"), "share_servers", ["source_share_server_id"], unique=False
    )
