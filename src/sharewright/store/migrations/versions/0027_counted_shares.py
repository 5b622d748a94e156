"""an index with all that counting a project's shares, or those of one status, looks at"""

from __future__ import annotations

from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_shares_counted", "shares", ["project_id", "is_soft_deleted", "status"])
