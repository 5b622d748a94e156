"""Share networks, their subnets and their security services."""

from __future__ import annotations

from sqlalchemy import JSON, Column, ForeignKey, Integer, String, Table, Text

from sharewright.store.tables.base import ID, NAME, STATE, metadata, times

share_networks = Table(
    "share_networks",
    metadata,
    Column("id", ID, primary_key=True),
    Column("project_id", NAME, nullable=False, index=True),
    Column("user_id", NAME, nullable=False),
    Column("name", NAME),
    Column("description", Text),
    Column("status", STATE, nullable=False, default="active"),
    *times(),
)

share_network_subnets = Table(
    "share_network_subnets",
    metadata,
    Column("id", ID, primary_key=True),
    Column("share_network_id", ID, ForeignKey("share_networks.id"), nullable=False, index=True),
    Column("availability_zone", NAME),  # null: the default subnet, for all zones
    Column("neutron_net_id", ID),
    Column("neutron_subnet_id", ID),
    # Learned from the cloud; shown by the API and used by share servers.
    Column("network_type", String(32)),
    Column("segmentation_id", Integer),
    Column("cidr", String(64)),
    Column("gateway", String(64)),
    Column("ip_version", Integer),
    Column("mtu", Integer),
    Column("metadata", JSON, nullable=False, default=dict),
    *times(),
)

security_services = Table(
    "security_services",
    metadata,
    Column("id", ID, primary_key=True),
    Column("project_id", NAME, nullable=False, index=True),
    Column("type", String(32), nullable=False),
    Column("name", NAME),
    Column("description", NAME),
    Column("dns_ip", NAME),
    Column("server", NAME),
    Column("domain", NAME),
    Column("ou", NAME),
    Column("default_ad_site", NAME),
    Column("user", NAME),
    Column("password", Text),  # sealed with the key of access keys
    Column("status", STATE, nullable=False),
    *times(),
)

share_network_security_services = Table(
    "share_network_security_services",
    metadata,
    Column("share_network_id", ID, ForeignKey("share_networks.id", ondelete="CASCADE"), primary_key=True),
    Column("security_service_id", ID, ForeignKey("security_services.id"), primary_key=True, index=True),
)
