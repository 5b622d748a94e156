"""encryption of SMB shares, from their type"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("share_instances", schema=None) as batch_op:
        batch_op.add_column(sa.Column("smb_encryption", sa.String(length=16), nullable=True))
