"""resource locks"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "resource_locks",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("user_id", sa.String(length=255), nullable=False),
        sa.Column("project_id", sa.String(length=255), nullable=False),
        sa.Column("lock_context", sa.String(length=16), nullable=False),
        sa.Column("resource_type", sa.String(length=32), nullable=False),
        sa.Column("resource_id", sa.String(length=36), nullable=False),
        sa.Column("resource_action", sa.String(length=16), nullable=False),
        sa.Column("lock_reason", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("updated_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_resource_locks")),
    )
    with op.batch_alter_table("resource_locks", schema=None) as batch_op:
        batch_op.create_index(
            "ix_resource_locks_project_id_created_at_id", ["project_id", "created_at", "id"], unique=False
        )
        batch_op.create_index(batch_op.f("ix_resource_locks_resource_id"), ["resource_id"], unique=False)
