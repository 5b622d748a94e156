"""usage of shares and servers"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("share_instances", schema=None) as batch_op:
        batch_op.add_column(sa.Column("bytes_total", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("inodes_total", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("inodes_used", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("bytes_read", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("bytes_written", sa.BigInteger(), nullable=True))

    with op.batch_alter_table("share_servers", schema=None) as batch_op:
        batch_op.add_column(sa.Column("usage", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("usage_at", sa.DateTime(), nullable=True))
