"""shares that move to another volume"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "share_instance_moves",
        sa.Column("share_instance_id", sa.String(length=36), nullable=False),
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("stall_seconds", sa.Float(), nullable=False),
        sa.Column("step", sa.String(length=16), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("volume_id", sa.String(length=255), nullable=True),
        sa.Column("volume_serial", sa.String(length=255), nullable=True),
        sa.Column("volume_attached", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["share_instance_id"], ["share_instances.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("share_instance_id"),
    )
