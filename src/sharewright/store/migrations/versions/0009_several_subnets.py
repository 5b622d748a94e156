"""share servers on several subnets of a tenant's"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("service_instances", schema=None) as batch_op:
        batch_op.add_column(sa.Column("further_subnets", sa.JSON(), server_default="[]", nullable=False))
        batch_op.add_column(sa.Column("network_data", sa.JSON(), nullable=True))
