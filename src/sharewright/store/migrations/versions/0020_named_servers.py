"""the machine that a backend's configuration names"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("share_servers", schema=None) as batch_op:
        batch_op.add_column(sa.Column("named", sa.Boolean(), server_default=sa.false(), nullable=False))
        batch_op.create_index(
            "ix_share_servers_named", ["backend"], unique=True, sqlite_where=sa.text("named"),
            postgresql_where=sa.text("named"),
        )  # fmt: skip
