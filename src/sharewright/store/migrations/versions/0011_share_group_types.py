"""share group types"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "share_group_types",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("is_public", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("updated_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_share_group_types")),
        sa.UniqueConstraint("name", name=op.f("uq_share_group_types_name")),
    )
    op.create_table(
        "share_group_type_specs",
        _group_type(),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        _belongs("share_group_type_specs"),
        sa.PrimaryKeyConstraint("share_group_type_id", "key", name=op.f("pk_share_group_type_specs")),
    )
    op.create_table(
        "share_group_type_share_types",
        _group_type(),
        sa.Column("share_type_id", sa.String(length=36), nullable=False),
        _belongs("share_group_type_share_types"),
        sa.ForeignKeyConstraint(
            ["share_type_id"], ["share_types.id"], name=op.f("fk_share_group_type_share_types_share_type_id")
        ),
        sa.PrimaryKeyConstraint("share_group_type_id", "share_type_id", name=op.f("pk_share_group_type_share_types")),
    )
    op.create_table(
        "share_group_type_projects",
        _group_type(),
        sa.Column("project_id", sa.String(length=255), nullable=False),
        _belongs("share_group_type_projects"),
        sa.PrimaryKeyConstraint("share_group_type_id", "project_id", name=op.f("pk_share_group_type_projects")),
    )


def _group_type() -> sa.Column[str]:
    return sa.Column("share_group_type_id", sa.String(length=36), nullable=False)


def _belongs(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["share_group_type_id"],
        ["share_group_types.id"],
        name=op.f(f"fk_{table}_share_group_type_id"),
        ondelete="CASCADE",
    )
