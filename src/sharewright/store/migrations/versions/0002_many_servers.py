"""indexes and turns for many servers"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("operations", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_operations_state_not_before"))
        batch_op.create_index(
            "ix_operations_routine",
            ["finished_at"],
            unique=False,
            sqlite_where=sa.text("kind = 'heal_server' AND state = 'succeeded'"),
            postgresql_where=sa.text("kind = 'heal_server' AND state = 'succeeded'"),
        )
        batch_op.create_index(
            "ix_operations_queue",
            [sa.text("priority DESC"), "sequence", "id"],
            unique=False,
            sqlite_where=sa.text("state = 'queued'"),
            postgresql_where=sa.text("state = 'queued'"),
        )
        batch_op.create_index(
            "ix_operations_running",
            ["lease_expires"],
            unique=False,
            sqlite_where=sa.text("state = 'running'"),
            postgresql_where=sa.text("state = 'running'"),
        )

        batch_op.create_index(
            "ix_operations_waiting",
            ["waits_for"],
            unique=False,
            sqlite_where=sa.text("state = 'queued'"),
            postgresql_where=sa.text("state = 'queued'"),
        )

    with op.batch_alter_table("share_access_rules", schema=None) as batch_op:
        batch_op.create_index(
            "ix_share_access_rules_unsettled",
            ["share_id"],
            unique=False,
            sqlite_where=sa.text("state <> 'active'"),
            postgresql_where=sa.text("state <> 'active'"),
        )

    with op.batch_alter_table("share_instances", schema=None) as batch_op:
        batch_op.create_index("ix_share_instances_host_created_at", ["host", "created_at"], unique=False)
        batch_op.create_index(
            "ix_share_instances_without_volume",
            ["host"],
            unique=False,
            sqlite_where=sa.text("volume_id IS NULL"),
            postgresql_where=sa.text("volume_id IS NULL"),
        )

    with op.batch_alter_table("share_servers", schema=None) as batch_op:
        batch_op.add_column(sa.Column("looked_at", sa.DateTime(), server_default="1970-01-01 00:00:00", nullable=False))
        batch_op.create_index("ix_share_servers_created_at_id", ["created_at", "id"], unique=False)
        batch_op.create_index("ix_share_servers_looked_at", ["looked_at"], unique=False)
        batch_op.create_index(
            "ix_share_servers_suspect",
            ["looked_at"],
            unique=False,
            sqlite_where=sa.text("healthy = false"),
            postgresql_where=sa.text("healthy = false"),
        )
        batch_op.create_index(
            "ix_share_servers_unsettled",
            ["status"],
            unique=False,
            sqlite_where=sa.text("status <> 'active'"),
            postgresql_where=sa.text("status <> 'active'"),
        )
        batch_op.create_index(
            "ix_share_servers_unused",
            ["unused_since"],
            unique=False,
            sqlite_where=sa.text("unused_since IS NOT NULL"),
            postgresql_where=sa.text("unused_since IS NOT NULL"),
        )

    with op.batch_alter_table("shares", schema=None) as batch_op:
        batch_op.create_index(
            "ix_shares_unsettled",
            ["status"],
            unique=False,
            sqlite_where=sa.text("status <> 'available'"),
            postgresql_where=sa.text("status <> 'available'"),
        )
