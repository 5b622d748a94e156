"""recycle bin, transfers, task states, QoS types"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("shares", schema=None) as batch_op:
        batch_op.add_column(sa.Column("task_state", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("is_soft_deleted", sa.Boolean(), server_default=sa.false(), nullable=False))
        batch_op.add_column(sa.Column("scheduled_to_be_deleted_at", sa.DateTime(), nullable=True))
        batch_op.create_index(
            "ix_shares_soft_deleted",
            ["scheduled_to_be_deleted_at"],
            unique=False,
            sqlite_where=sa.text("scheduled_to_be_deleted_at IS NOT NULL"),
            postgresql_where=sa.text("scheduled_to_be_deleted_at IS NOT NULL"),
        )
    op.create_table(
        "share_transfers",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=True),
        sa.Column("resource_type", sa.String(length=32), nullable=False),
        sa.Column("resource_id", sa.String(length=36), nullable=False),
        sa.Column("source_project_id", sa.String(length=255), nullable=False),
        sa.Column("salt", sa.String(length=32), nullable=False),
        sa.Column("key_digest", sa.String(length=64), nullable=False),
        sa.Column("expires_at", sa.DateTime(), nullable=True),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("updated_at", sa.DateTime(), nullable=True),
        sa.ForeignKeyConstraint(
            ["resource_id"], ["shares.id"], name=op.f("fk_share_transfers_resource_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_share_transfers")),
    )
    with op.batch_alter_table("share_transfers", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_share_transfers_resource_id"), ["resource_id"], unique=False)
        batch_op.create_index(
            "ix_share_transfers_source_project_id_created_at_id",
            ["source_project_id", "created_at", "id"],
            unique=False,
        )
    op.create_table(
        "qos_types",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("description", sa.String(length=255), nullable=True),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("updated_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_qos_types")),
        sa.UniqueConstraint("name", name=op.f("uq_qos_types_name")),
    )
    op.create_table(
        "qos_type_specs",
        sa.Column("qos_type_id", sa.String(length=36), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["qos_type_id"], ["qos_types.id"], name=op.f("fk_qos_type_specs_qos_type_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("qos_type_id", "key", name=op.f("pk_qos_type_specs")),
    )
