"""share groups"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "share_groups",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("project_id", sa.String(length=255), nullable=False),
        sa.Column("user_id", sa.String(length=255), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("status", sa.String(length=64), nullable=False),
        sa.Column("share_group_type_id", sa.String(length=36), nullable=False),
        sa.Column("share_network_id", sa.String(length=36), nullable=True),
        sa.Column("availability_zone", sa.String(length=255), nullable=True),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("updated_at", sa.DateTime(), nullable=True),
        sa.ForeignKeyConstraint(
            ["share_group_type_id"], ["share_group_types.id"], name=op.f("fk_share_groups_share_group_type_id")
        ),
        sa.ForeignKeyConstraint(
            ["share_network_id"], ["share_networks.id"], name=op.f("fk_share_groups_share_network_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_share_groups")),
    )
    with op.batch_alter_table("share_groups", schema=None) as batch_op:
        batch_op.create_index("ix_share_groups_created_at_id", ["created_at", "id"], unique=False)
        batch_op.create_index(
            "ix_share_groups_project_id_created_at_id", ["project_id", "created_at", "id"], unique=False
        )
        batch_op.create_index(batch_op.f("ix_share_groups_share_group_type_id"), ["share_group_type_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_share_groups_share_network_id"), ["share_network_id"], unique=False)

    op.create_table(
        "share_group_share_types",
        sa.Column("share_group_id", sa.String(length=36), nullable=False),
        sa.Column("share_type_id", sa.String(length=36), nullable=False),
        sa.ForeignKeyConstraint(
            ["share_group_id"],
            ["share_groups.id"],
            name=op.f("fk_share_group_share_types_share_group_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["share_type_id"], ["share_types.id"], name=op.f("fk_share_group_share_types_share_type_id")
        ),
        sa.PrimaryKeyConstraint("share_group_id", "share_type_id", name=op.f("pk_share_group_share_types")),
    )
    with op.batch_alter_table("shares", schema=None) as batch_op:
        batch_op.add_column(sa.Column("share_group_id", sa.String(length=36), nullable=True))
        batch_op.create_index(batch_op.f("ix_shares_share_group_id"), ["share_group_id"], unique=False)
