"""indexes for pages of shares by name, size, status and metadata"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_shares_project_id_name_id", "shares", ["project_id", sa.text("coalesce(name, '')"), "id"])
    op.create_index("ix_shares_project_id_size_id", "shares", ["project_id", "size", "id"])
    op.create_index("ix_shares_project_id_status_created_at_id", "shares", ["project_id", "status", "created_at", "id"])
    op.create_index("ix_share_metadata_key_value", "share_metadata", ["key", sa.text("substr(value, 1, 64)")])
