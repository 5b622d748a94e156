"""task states of share servers, and identifiers that were named"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("share_servers", schema=None) as batch_op:
        batch_op.add_column(sa.Column("task_state", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("identifier", sa.String(length=255), nullable=True))
