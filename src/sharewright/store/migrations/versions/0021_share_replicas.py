"""share replicas"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Not in a batch: on SQLite that would make the tables anew for the default, and drop the old ones, to whose rows
    # others refer.
    op.add_column("shares", sa.Column("replication_type", sa.String(length=255), nullable=True))
    op.add_column("share_instances", sa.Column("is_main", sa.Boolean(), server_default=sa.true(), nullable=False))
    op.add_column("share_instances", sa.Column("replica_state", sa.String(length=16), nullable=True))
    op.create_index(
        "ix_share_instances_replicas",
        "share_instances",
        ["status"],
        unique=False,
        sqlite_where=sa.text("replica_state IS NOT NULL"),
        postgresql_where=sa.text("replica_state IS NOT NULL"),
    )
    op.create_table(
        "share_replica_metadata",
        sa.Column("share_instance_id", sa.String(length=36), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["share_instance_id"],
            ["share_instances.id"],
            name=op.f("fk_share_replica_metadata_share_instance_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("share_instance_id", "key", name=op.f("pk_share_replica_metadata")),
    )
