"""shares and snapshots that are taken over"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("share_instances", "share_snapshot_instances", "share_servers"):
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.add_column(sa.Column("taken_over", sa.Boolean(), server_default=sa.true(), nullable=False))
    # Until now the status was all that said it; where it leaves a doubt, nothing is deleted.
    op.execute(
        "UPDATE share_snapshot_instances SET taken_over = false"
        " WHERE status IN ('manage_starting', 'manage_error', 'unmanage_starting')"
    )
