"""share groups have a share server, which their shares go to; those that there are have that of their first share"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("share_groups", sa.Column("share_server_id", sa.String(length=36), nullable=True))
    op.create_index(op.f("ix_share_groups_share_server_id"), "share_groups", ["share_server_id"], unique=False)
    op.execute(
        """
        UPDATE share_groups SET share_server_id = (
            SELECT shares.share_server_id FROM shares
            WHERE shares.share_group_id = share_groups.id AND shares.share_server_id IS NOT NULL
            ORDER BY shares.created_at, shares.id LIMIT 1
        )
        """
    )
