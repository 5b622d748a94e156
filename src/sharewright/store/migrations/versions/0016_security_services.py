"""security services"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "security_services",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("project_id", sa.String(length=255), nullable=False),
        sa.Column("type", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=True),
        sa.Column("description", sa.String(length=255), nullable=True),
        sa.Column("dns_ip", sa.String(length=255), nullable=True),
        sa.Column("server", sa.String(length=255), nullable=True),
        sa.Column("domain", sa.String(length=255), nullable=True),
        sa.Column("ou", sa.String(length=255), nullable=True),
        sa.Column("default_ad_site", sa.String(length=255), nullable=True),
        sa.Column("user", sa.String(length=255), nullable=True),
        sa.Column("password", sa.Text(), nullable=True),
        sa.Column("status", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("updated_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_security_services")),
    )
    with op.batch_alter_table("security_services", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_security_services_project_id"), ["project_id"], unique=False)

    op.create_table(
        "share_network_security_services",
        sa.Column("share_network_id", sa.String(length=36), nullable=False),
        sa.Column("security_service_id", sa.String(length=36), nullable=False),
        sa.ForeignKeyConstraint(
            ["security_service_id"],
            ["security_services.id"],
            name=op.f("fk_share_network_security_services_security_service_id"),
        ),
        sa.ForeignKeyConstraint(
            ["share_network_id"],
            ["share_networks.id"],
            name=op.f("fk_share_network_security_services_share_network_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint(
            "share_network_id", "security_service_id", name=op.f("pk_share_network_security_services")
        ),
    )
    with op.batch_alter_table("share_network_security_services", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_share_network_security_services_security_service_id"), ["security_service_id"], unique=False
        )
