"""what a share is made of, from its type; flavors of share servers"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("share_instances", schema=None) as batch_op:
        batch_op.add_column(sa.Column("volume_type", sa.String(length=255), nullable=True))
        batch_op.add_column(sa.Column("squash", sa.String(length=16), server_default="no_root_squash", nullable=False))
        batch_op.add_column(sa.Column("server_flavor", sa.String(length=255), nullable=True))

    with op.batch_alter_table("share_servers", schema=None) as batch_op:
        batch_op.add_column(sa.Column("flavor", sa.String(length=255), nullable=True))
