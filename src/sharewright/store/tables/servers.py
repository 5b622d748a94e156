"""Share servers, the service VMs behind them, and the secrets to reach these."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
    true,
)

from sharewright.store.tables.base import ID, NAME, NEVER, STATE, metadata, partial_index, times

share_servers = Table(
    "share_servers",
    metadata,
    Column("id", ID, primary_key=True),
    Column("project_id", NAME, nullable=False, index=True),
    Column("share_network_id", ID, ForeignKey("share_networks.id"), index=True),
    Column("share_network_subnet_id", ID, ForeignKey("share_network_subnets.id"), index=True),
    Column("backend", NAME, nullable=False),
    Column("host", NAME, nullable=False),
    Column("status", STATE, nullable=False),
    Column("task_state", STATE),  # of its migration, or the outcome of the last one
    Column("source_share_server_id", ID, index=True),  # whose shares it got, or is to get; that one may be gone
    Column("identifier", NAME),  # as a request to manage it named it and it was not found; null: its id
    Column("flavor", NAME),  # null: the backend's default one; only shares that ask for the same live on it
    Column("is_auto_deletable", Boolean, nullable=False, default=True),
    # False: from when it is unmanaged until it has been managed again; its VM is kept, and given back after a failure.
    Column("taken_over", Boolean, nullable=False, default=True, server_default=true()),
    # The machine that the backend's configuration names: no API shows it, and nobody makes or deletes it.
    Column("named", Boolean, nullable=False, default=False, server_default=false()),
    Column("generation", BigInteger, nullable=False, default=0),  # of the last document built; see guest/document.py
    Column("unused_since", DateTime),  # null while a share lives on it
    Column("healthy", Boolean),  # null: not looked at yet
    Column("last_seen", DateTime),
    Column("usage", JSON),  # what the guest said last (guest/document.py, Usage), with named operations
    Column("usage_at", DateTime),  # when: also of what its shares have in use
    # When a look at it was last asked for; the longest ago has its turn next.
    Column("looked_at", DateTime, nullable=False, default=NEVER, server_default=NEVER.isoformat(" ")),
    *times(),
    Index("ix_share_servers_created_at_id", "created_at", "id"),
    Index("ix_share_servers_looked_at", "looked_at"),
    Index("ix_share_servers_named", "backend", unique=True, sqlite_where=text("named"), postgresql_where=text("named")),
    partial_index("ix_share_servers_suspect", "looked_at", where="healthy = false"),
    partial_index("ix_share_servers_unused", "unused_since", where="unused_since IS NOT NULL"),
    partial_index("ix_share_servers_unsettled", "status", where="status <> 'active'"),
)

service_instances = Table(  # what service_instance knows of the VM behind a server; same id as the server's
    "service_instances",
    metadata,
    Column("id", ID, primary_key=True),
    Column("backend", NAME, nullable=False),
    Column("layout", String(16), nullable=False),  # "router" (one NIC) or "tenant" (two NICs)
    Column("instance_id", String(255)),
    Column("service_subnet_id", ID, ForeignKey("service_subnets.id")),
    Column("ports", JSON, nullable=False, default=list),  # [{"role", "port_id", "mac", "address"}] in NIC order
    Column("management_address", String(64)),
    Column("export_addresses", JSON, nullable=False, default=list),
    Column("further_subnets", JSON, nullable=False, default=list, server_default="[]"),  # of the tenant's
    Column("network_data", JSON),  # NICs, addresses and routes, as documents carry them
    Column("firewall", JSON),  # guest.document.Firewall, as every document for this server must carry it
    Column("host_key", Text),  # public; pinned
    Column("private_key_secret", ID),  # names the row in secrets
    Column("host_key_secret", ID),
    Column("heal_attempts", Integer, nullable=False, default=0),  # failed looks since the guest last answered
    Column("heal_reboots", Integer, nullable=False, default=0),  # reboots since then, for the back-off
    Column("heal_not_before", DateTime),  # the next reboot may not come earlier
    *times(),
)

service_subnets = Table(
    "service_subnets",
    metadata,
    Column("id", ID, primary_key=True),
    Column("pool", String(64), nullable=False),  # the service network's CIDR it is carved from
    Column("cidr", String(64), nullable=False),
    # Two backends, or two layouts of one, never share a service subnet: it is routed differently or in another cloud.
    Column("backend", NAME, nullable=False),
    Column("layout", String(16), nullable=False),
    Column("tenant_subnet_id", NAME),  # the tenant subnet it serves; null: no server left, being removed
    Column("cloud_subnet_id", NAME),
    Column("cloud_network_id", NAME),
    *times(),
    UniqueConstraint("pool", "cidr"),
    UniqueConstraint("pool", "backend", "layout", "tenant_subnet_id"),
)

secrets = Table(  # private keys, encrypted with the deployment's master key (a file outside the database)
    "secrets",
    metadata,
    Column("id", ID, primary_key=True),
    Column("owner", NAME, nullable=False, index=True),
    Column("ciphertext", Text, nullable=False),
    Column("created_at", DateTime, nullable=False),
)
