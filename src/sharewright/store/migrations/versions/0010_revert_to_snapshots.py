"""revert to snapshots"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("share_instances", schema=None) as batch_op:
        batch_op.add_column(sa.Column("old_volume_id", sa.String(length=255), nullable=True))
        batch_op.add_column(sa.Column("old_volume_serial", sa.String(length=255), nullable=True))
