"""Every table. Times are UTC without zone, ids UUID strings, sizes GiB; JSON columns hold plain JSON values.

Rows of deleted resources are deleted; what happened to them stays in ``operations`` until the retention time is over.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
    true,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    },
)

ID = String(36)
NAME = String(255)
STATE = String(64)
NEVER = datetime(1970, 1, 1)


def _times() -> list[Column[object]]:
    return [Column("created_at", DateTime, nullable=False), Column("updated_at", DateTime)]


def _partial(name: str, column: str, *, where: str) -> Index:
    """An index of few rows. A query uses it only where it says the same with literals, not with parameters."""
    return Index(name, column, sqlite_where=text(where), postgresql_where=text(where))


# ---- what tenants see ------------------------------------------------------------------------------------------------

share_types = Table(
    "share_types",
    metadata,
    Column("id", ID, primary_key=True),
    Column("name", NAME, nullable=False, unique=True),
    Column("description", Text),
    Column("is_public", Boolean, nullable=False, default=True),
    *_times(),
)

share_type_extra_specs = Table(
    "share_type_extra_specs",
    metadata,
    Column("share_type_id", ID, ForeignKey("share_types.id", ondelete="CASCADE"), primary_key=True),
    Column("key", NAME, primary_key=True),
    Column("value", Text, nullable=False),
)

share_type_projects = Table(
    "share_type_projects",
    metadata,
    Column("share_type_id", ID, ForeignKey("share_types.id", ondelete="CASCADE"), primary_key=True),
    Column("project_id", NAME, primary_key=True),
)

share_group_types = Table(
    "share_group_types",
    metadata,
    Column("id", ID, primary_key=True),
    Column("name", NAME, nullable=False, unique=True),
    Column("is_public", Boolean, nullable=False, default=True),
    *_times(),
)

share_group_type_specs = Table(
    "share_group_type_specs",
    metadata,
    Column("share_group_type_id", ID, ForeignKey("share_group_types.id", ondelete="CASCADE"), primary_key=True),
    Column("key", NAME, primary_key=True),
    Column("value", Text, nullable=False),
)

share_group_type_share_types = Table(
    "share_group_type_share_types",
    metadata,
    Column("share_group_type_id", ID, ForeignKey("share_group_types.id", ondelete="CASCADE"), primary_key=True),
    Column("share_type_id", ID, ForeignKey("share_types.id"), primary_key=True),
)

share_group_type_projects = Table(
    "share_group_type_projects",
    metadata,
    Column("share_group_type_id", ID, ForeignKey("share_group_types.id", ondelete="CASCADE"), primary_key=True),
    Column("project_id", NAME, primary_key=True),
)

qos_types = Table(
    "qos_types",
    metadata,
    Column("id", ID, primary_key=True),
    Column("name", NAME, nullable=False, unique=True),
    Column("description", NAME),
    *_times(),
)

qos_type_specs = Table(
    "qos_type_specs",
    metadata,
    Column("qos_type_id", ID, ForeignKey("qos_types.id", ondelete="CASCADE"), primary_key=True),
    Column("key", NAME, primary_key=True),
    Column("value", Text, nullable=False),
)

share_networks = Table(
    "share_networks",
    metadata,
    Column("id", ID, primary_key=True),
    Column("project_id", NAME, nullable=False, index=True),
    Column("user_id", NAME, nullable=False),
    Column("name", NAME),
    Column("description", Text),
    Column("status", STATE, nullable=False, default="active"),
    *_times(),
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
    *_times(),
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
    *_times(),
)

share_network_security_services = Table(
    "share_network_security_services",
    metadata,
    Column("share_network_id", ID, ForeignKey("share_networks.id", ondelete="CASCADE"), primary_key=True),
    Column("security_service_id", ID, ForeignKey("security_services.id"), primary_key=True, index=True),
)

share_groups = Table(
    "share_groups",
    metadata,
    Column("id", ID, primary_key=True),
    Column("project_id", NAME, nullable=False),
    Column("user_id", NAME, nullable=False),
    Column("name", NAME),
    Column("description", Text),
    Column("status", STATE, nullable=False),
    Column("share_group_type_id", ID, ForeignKey("share_group_types.id"), nullable=False, index=True),
    Column("share_network_id", ID, ForeignKey("share_networks.id"), index=True),
    Column("availability_zone", NAME),  # null: its shares' own
    Column("consistent_snapshot_support", String(16)),  # only pools that report the same take its shares
    Column("source_share_group_snapshot_id", ID),  # that it was made from; the snapshot may be gone
    *_times(),
    Index("ix_share_groups_project_id_created_at_id", "project_id", "created_at", "id"),
    Index("ix_share_groups_created_at_id", "created_at", "id"),
    _partial("ix_share_groups_unsettled", "status", where="status <> 'available'"),
)

share_group_share_types = Table(
    "share_group_share_types",
    metadata,
    Column("share_group_id", ID, ForeignKey("share_groups.id", ondelete="CASCADE"), primary_key=True),
    Column("share_type_id", ID, ForeignKey("share_types.id"), primary_key=True),
)

shares = Table(
    "shares",
    metadata,
    Column("id", ID, primary_key=True),
    Column("project_id", NAME, nullable=False),
    Column("user_id", NAME, nullable=False),
    Column("name", NAME),
    Column("description", Text),
    Column("size", Integer, nullable=False),
    Column("protocol", String(16), nullable=False),
    Column("is_public", Boolean, nullable=False, default=False),
    Column("share_type_id", ID, ForeignKey("share_types.id"), nullable=False, index=True),
    # Mirrors of the active instance, so that a list of shares is one statement.
    Column("status", STATE, nullable=False),
    Column("task_state", STATE),  # of a migration: only the outcome of the last one, until somebody resets it
    Column("progress", String(8)),
    # In the recycle bin, until when.
    Column("is_soft_deleted", Boolean, nullable=False, default=False, server_default=false()),
    Column("scheduled_to_be_deleted_at", DateTime),
    Column("host", NAME),  # "<node>@<backend>#<pool>"
    Column("availability_zone", NAME),
    Column("share_network_id", ID, ForeignKey("share_networks.id"), index=True),
    Column("share_server_id", ID, index=True),
    Column("snapshot_id", ID, index=True),  # that it was made from; the snapshot may be gone
    Column("share_group_id", ID, index=True),  # a group with shares stays
    Column("source_share_group_snapshot_member_id", ID),  # that it was made from; the member may be gone
    Column("access_rules_status", STATE, nullable=False, default="active"),
    # From the share type at creation: a type that changes later does not change the share.
    Column("snapshot_support", Boolean, nullable=False, default=False),
    Column("create_share_from_snapshot_support", Boolean, nullable=False, default=False),
    Column("revert_to_snapshot_support", Boolean, nullable=False, default=False),
    Column("mount_snapshot_support", Boolean, nullable=False, default=False),
    *_times(),
    CheckConstraint("size > 0", name="size_positive"),
    Index("ix_shares_project_id_created_at_id", "project_id", "created_at", "id"),
    Index("ix_shares_created_at_id", "created_at", "id"),
    # Few of many: what the reconciler looks for in every round.
    _partial("ix_shares_unsettled", "status", where="status <> 'available'"),
    _partial("ix_shares_soft_deleted", "scheduled_to_be_deleted_at", where="scheduled_to_be_deleted_at IS NOT NULL"),
)

share_transfers = Table(
    "share_transfers",
    metadata,
    Column("id", ID, primary_key=True),
    Column("name", NAME),
    Column("resource_type", String(32), nullable=False),
    Column("resource_id", ID, ForeignKey("shares.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("source_project_id", NAME, nullable=False),
    Column("salt", String(32), nullable=False),
    Column("key_digest", String(64), nullable=False),  # HMAC-SHA-256; the key itself is not kept
    Column("expires_at", DateTime),
    *_times(),
    Index("ix_share_transfers_source_project_id_created_at_id", "source_project_id", "created_at", "id"),
)

share_metadata = Table(
    "share_metadata",
    metadata,
    Column("share_id", ID, ForeignKey("shares.id", ondelete="CASCADE"), primary_key=True),
    Column("key", NAME, primary_key=True),
    Column("value", Text, nullable=False),
)

share_instances = Table(
    "share_instances",
    metadata,
    Column("id", ID, primary_key=True),
    Column("share_id", ID, ForeignKey("shares.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("status", STATE, nullable=False),
    Column("host", NAME),
    Column("backend", NAME),
    Column("availability_zone", NAME),
    Column("share_network_id", ID),
    Column("share_server_id", ID, ForeignKey("share_servers.id"), index=True),
    Column("size", Integer, nullable=False),
    # From the share type's extra specs, for good; null: the backend's own (operations/type_specs.py).
    Column("volume_type", NAME),
    # By default as Manila's generic driver: root on an allowed client owns the share.
    Column("smb_encryption", String(16)),  # null: as the client likes
    Column("squash", String(16), nullable=False, default="no_root_squash", server_default="no_root_squash"),
    Column("server_flavor", NAME),
    Column("filesystem_type", String(16)),
    # The generic driver's memory of the instance; each is written the moment it is known.
    Column("volume_id", String(255)),
    Column("volume_serial", String(255)),
    Column("volume_attached", Boolean, nullable=False, default=False),
    Column("filesystem_uuid", ID),
    Column("filesystem_ready", Boolean, nullable=False, default=False),  # false: the volume is new, may be formatted
    # What it had before a revert, until that is over; the guest has to let go of it.
    Column("old_volume_id", String(255)),
    Column("old_volume_serial", String(255)),
    Column("clone_of", ID),  # the volume began as a copy of this file system: never to be formatted
    # False: from a request to manage it until that is done. The volume is somebody else's: given back, never deleted.
    Column("taken_over", Boolean, nullable=False, default=True, server_default=true()),
    Column("wanted", Boolean, nullable=False, default=True),  # false: the guest must let go of it (delete)
    # What the guest said last (guest/document.py, ShareState); null: it does not know.
    Column("bytes_total", BigInteger),
    Column("bytes_used", BigInteger),
    Column("inodes_total", BigInteger),
    Column("inodes_used", BigInteger),
    Column("bytes_read", BigInteger),
    Column("bytes_written", BigInteger),
    *_times(),
    # What the scheduler adds up for each pool: promised since its report, or without a volume so far.
    Index("ix_share_instances_host_created_at", "host", "created_at"),
    _partial("ix_share_instances_without_volume", "host", where="volume_id IS NULL"),
)

share_group_snapshots = Table(
    "share_group_snapshots",
    metadata,
    Column("id", ID, primary_key=True),
    # A group with snapshots stays.
    Column("share_group_id", ID, ForeignKey("share_groups.id"), nullable=False, index=True),
    Column("project_id", NAME, nullable=False),
    Column("user_id", NAME, nullable=False),
    Column("name", NAME),
    Column("description", Text),
    Column("status", STATE, nullable=False),
    *_times(),
    Index("ix_share_group_snapshots_project_id_created_at_id", "project_id", "created_at", "id"),
    Index("ix_share_group_snapshots_created_at_id", "created_at", "id"),
    _partial("ix_share_group_snapshots_unsettled", "status", where="status <> 'available'"),
)

share_snapshots = Table(
    "share_snapshots",
    metadata,
    Column("id", ID, primary_key=True),
    Column("share_id", ID, ForeignKey("shares.id"), nullable=False, index=True),  # a share with snapshots stays
    Column("project_id", NAME, nullable=False),
    Column("user_id", NAME, nullable=False),
    Column("name", NAME),
    Column("description", Text),
    Column("size", Integer, nullable=False),  # of the share at that moment; the quota's snapshot_gigabytes
    Column("protocol", String(16), nullable=False),
    Column("status", STATE, nullable=False),  # mirrors the instance's
    Column("progress", String(8)),
    *_times(),
    Index("ix_share_snapshots_project_id_created_at_id", "project_id", "created_at", "id"),
    Index("ix_share_snapshots_created_at_id", "created_at", "id"),
    _partial("ix_share_snapshots_unsettled", "status", where="status <> 'available'"),
)

share_snapshot_metadata = Table(
    "share_snapshot_metadata",
    metadata,
    Column("snapshot_id", ID, ForeignKey("share_snapshots.id", ondelete="CASCADE"), primary_key=True),
    Column("key", NAME, primary_key=True),
    Column("value", Text, nullable=False),
)

share_snapshot_instances = Table(  # of a snapshot, or a member of a share group snapshot, as in Manila
    "share_snapshot_instances",
    metadata,
    Column("id", ID, primary_key=True),
    Column("snapshot_id", ID, ForeignKey("share_snapshots.id", ondelete="CASCADE"), index=True),
    Column("share_group_snapshot_id", ID, ForeignKey("share_group_snapshots.id", ondelete="CASCADE"), index=True),
    Column("size", Integer),  # a member's: that of its share at that moment
    Column("share_instance_id", ID, ForeignKey("share_instances.id"), nullable=False, index=True),
    Column("status", STATE, nullable=False),
    # The driver's memory of it; each is written the moment it is known.
    Column("provider_location", String(255)),  # the cloud's snapshot
    Column("taken_over", Boolean, nullable=False, default=True, server_default=true()),  # as in share_instances
    Column("consistent", Boolean, nullable=False, default=False),  # false: its moment may not be one of a frozen share
    Column("volume_id", String(255)),  # of which it is a snapshot; the share may have another by now
    Column("volume_size", Integer),  # of that volume at that moment
    Column("filesystem_type", String(16)),
    Column("filesystem_uuid", ID),
    *_times(),
    CheckConstraint("(snapshot_id IS NULL) <> (share_group_snapshot_id IS NULL)", name="of_one_thing"),
    _partial("ix_share_snapshot_instances_unsettled", "status", where="status <> 'available'"),
)

# The generic driver's memory of a snapshot that clients mount (drivers/generic/mounting.py): a volume made from it, on
# its share's server, for as long as it has rules.
share_snapshot_mounts = Table(
    "share_snapshot_mounts",
    metadata,
    Column("id", ID, ForeignKey("share_snapshot_instances.id", ondelete="CASCADE"), primary_key=True),
    Column("share_server_id", ID, ForeignKey("share_servers.id"), nullable=False, index=True),
    Column("volume_id", String(255)),
    Column("volume_serial", String(255)),
    Column("volume_attached", Boolean, nullable=False, default=False),
    Column("filesystem_ready", Boolean, nullable=False, default=False),  # false: it may carry its share's UUID still
    Column("wanted", Boolean, nullable=False, default=True),  # false: the guest must let go of it
    *_times(),
)

share_snapshot_export_locations = Table(
    "share_snapshot_export_locations",
    metadata,
    Column("id", ID, primary_key=True),
    Column(
        "share_snapshot_instance_id",
        ID,
        ForeignKey("share_snapshot_instances.id", ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
    Column("path", Text, nullable=False),
    Column("is_admin_only", Boolean, nullable=False, default=False),
    Column("preferred", Boolean, nullable=False, default=False),
    Column("metadata", JSON, nullable=False, default=dict),
    *_times(),
)

share_snapshot_access_rules = Table(  # who may mount a snapshot: never to write
    "share_snapshot_access_rules",
    metadata,
    Column("id", ID, primary_key=True),
    Column("snapshot_id", ID, ForeignKey("share_snapshots.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("access_type", String(16), nullable=False),
    Column("access_to", String(255), nullable=False),  # canonical form
    Column("access_key", String(255)),
    Column("state", STATE, nullable=False),
    Column("error", Text),
    *_times(),
    UniqueConstraint("snapshot_id", "access_type", "access_to", name="uq_share_snapshot_access_rules_client"),
    _partial("ix_share_snapshot_access_rules_unsettled", "snapshot_id", where="state <> 'active'"),
)

# The generic driver's memory of a second volume of an instance (drivers/generic/moves.py); one at a time.
share_instance_moves = Table(
    "share_instance_moves",
    metadata,
    Column("share_instance_id", ID, ForeignKey("share_instances.id", ondelete="CASCADE"), primary_key=True),
    Column("id", ID, nullable=False),
    Column("size", Integer, nullable=False),
    Column("stall_seconds", Float, nullable=False),
    Column("step", String(16), nullable=False),
    Column("tries", Integer, nullable=False, default=0),
    Column("volume_id", String(255)),
    Column("volume_serial", String(255)),
    Column("volume_attached", Boolean, nullable=False, default=False),
)

# Volumes that are no share's any more and are still to be deleted (drivers/generic/retired.py); they outlive the share.
retired_volumes = Table(
    "retired_volumes",
    metadata,
    Column("volume_id", String(255), primary_key=True),
    Column("backend", NAME, primary_key=True),
    Column("share_instance_id", ID, nullable=False, index=True),  # whose it was
    Column("reason", Text),  # why the last attempt to delete it failed
    Column("created_at", DateTime, nullable=False),
)

share_export_locations = Table(
    "share_export_locations",
    metadata,
    Column("id", ID, primary_key=True),
    Column("share_instance_id", ID, ForeignKey("share_instances.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("path", Text, nullable=False),
    Column("is_admin_only", Boolean, nullable=False, default=False),
    Column("preferred", Boolean, nullable=False, default=False),
    Column("metadata", JSON, nullable=False, default=dict),
    *_times(),
)

share_access_rules = Table(
    "share_access_rules",
    metadata,
    Column("id", ID, primary_key=True),
    Column("share_id", ID, ForeignKey("shares.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("access_type", String(16), nullable=False),
    Column("access_to", String(255), nullable=False),  # canonical form
    Column("access_level", String(2), nullable=False),
    Column("access_key", String(255)),
    Column("state", STATE, nullable=False),
    Column("error", Text),
    *_times(),
    UniqueConstraint("share_id", "access_type", "access_to"),
    _partial("ix_share_access_rules_unsettled", "share_id", where="state <> 'active'"),
)

share_access_metadata = Table(
    "share_access_metadata",
    metadata,
    Column("access_id", ID, ForeignKey("share_access_rules.id", ondelete="CASCADE"), primary_key=True),
    Column("key", NAME, primary_key=True),
    Column("value", Text, nullable=False),
)

resource_locks = Table(
    "resource_locks",
    metadata,
    Column("id", ID, primary_key=True),
    Column("user_id", NAME, nullable=False),
    Column("project_id", NAME, nullable=False),
    Column("lock_context", String(16), nullable=False),  # user, admin or service: who may take it away
    Column("resource_type", String(32), nullable=False),
    Column("resource_id", ID, nullable=False, index=True),
    Column("resource_action", String(16), nullable=False),
    Column("lock_reason", Text),
    *_times(),
    Index("ix_resource_locks_project_id_created_at_id", "project_id", "created_at", "id"),
)

messages = Table(
    "messages",
    metadata,
    Column("id", ID, primary_key=True),
    Column("project_id", NAME, nullable=False, index=True),
    Column("request_id", NAME),
    Column("resource_type", String(64)),
    Column("resource_id", ID, index=True),
    Column("action_id", String(10), nullable=False),
    Column("detail_id", String(10)),
    Column("message_level", String(16), nullable=False),
    Column("detail", Text),  # appended to the detail's standard text: the real reason
    Column("created_at", DateTime, nullable=False, index=True),
    Column("expires_at", DateTime, nullable=False),
)

quotas = Table(  # limits that differ from the defaults; user_id "" or share_type_id "" where not applicable
    "quotas",
    metadata,
    Column("scope", String(16), primary_key=True),  # project, user, share_type, class
    Column("scope_id", NAME, primary_key=True),  # project id, or the class name
    Column("user_id", NAME, primary_key=True, default=""),
    Column("share_type_id", NAME, primary_key=True, default=""),
    Column("resource", String(64), primary_key=True),
    Column("hard_limit", Integer, nullable=False),
)

quota_usages = Table(
    "quota_usages",
    metadata,
    Column("project_id", NAME, primary_key=True),
    Column("user_id", NAME, primary_key=True, default=""),
    Column("share_type_id", NAME, primary_key=True, default=""),
    Column("resource", String(64), primary_key=True),
    Column("in_use", Integer, nullable=False, default=0),
)

# ---- share servers ---------------------------------------------------------------------------------------------------

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
    Column("flavor", NAME),  # null: the backend's default one; only shares that ask for the same live on it
    Column("is_auto_deletable", Boolean, nullable=False, default=True),
    # False: from when it is unmanaged until it has been managed again; its VM is kept, and given back after a failure.
    Column("taken_over", Boolean, nullable=False, default=True, server_default=true()),
    Column("generation", BigInteger, nullable=False, default=0),  # of the last document built; see guest/document.py
    Column("unused_since", DateTime),  # null while a share lives on it
    Column("healthy", Boolean),  # null: not looked at yet
    Column("last_seen", DateTime),
    Column("usage", JSON),  # what the guest said last (guest/document.py, Usage), with named operations
    Column("usage_at", DateTime),  # when: also of what its shares have in use
    # When a look at it was last asked for; the longest ago has its turn next.
    Column("looked_at", DateTime, nullable=False, default=NEVER, server_default=NEVER.isoformat(" ")),
    *_times(),
    Index("ix_share_servers_created_at_id", "created_at", "id"),
    Index("ix_share_servers_looked_at", "looked_at"),
    _partial("ix_share_servers_suspect", "looked_at", where="healthy = false"),
    _partial("ix_share_servers_unused", "unused_since", where="unused_since IS NOT NULL"),
    _partial("ix_share_servers_unsettled", "status", where="status <> 'active'"),
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
    *_times(),
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
    *_times(),
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

# ---- operations ------------------------------------------------------------------------------------------------------

operations = Table(
    "operations",
    metadata,
    Column("id", ID, primary_key=True),
    Column("kind", String(64), nullable=False),  # names a story in operations/
    Column("resource_type", String(64), nullable=False),
    Column("resource_id", ID, nullable=False, index=True),
    Column("key", NAME, nullable=False),  # one running operation per key, in order of sequence
    Column("sequence", BigInteger, nullable=False),  # grows; queue order within a key
    Column("priority", Integer, nullable=False, default=0),  # higher first
    Column("state", STATE, nullable=False),
    Column("waits_for", ID),  # another operation that must be finished first
    Column("not_before", DateTime, nullable=False),
    Column("deadline", DateTime, nullable=False),
    Column("attempts", Integer, nullable=False, default=0),  # claims
    Column("retries", Integer, nullable=False, default=0),  # passing faults in a row, for the back-off
    Column("crashes", Integer, nullable=False, default=0),  # leases that ran out: the worker died or lost the database
    Column("epoch", BigInteger, nullable=False, default=0),  # fencing number: grows with every claim
    Column("worker_id", NAME),
    Column("lease_expires", DateTime),
    Column("project_id", NAME),
    Column("user_id", NAME),
    Column("request_id", NAME),
    Column("payload", JSON, nullable=False, default=dict),
    Column("facts", JSON, nullable=False, default=dict),  # Progress.record
    Column("failure", JSON(none_as_null=True)),  # once it is final: {"type", "message", "hint", "tries"}
    Column("error", Text),
    # Sums over all attempts, written when an attempt ends.
    Column("cloud_calls", Integer),
    Column("guest_round_trips", Integer),
    Column("sql_statements", Integer),
    Column("seconds", Float),
    *_times(),
    Column("finished_at", DateTime),
    # Who may have died; see ix_operations_queue below, too: both hold only what is open, however long the history.
    _partial("ix_operations_running", "lease_expires", where="state = 'running'"),
    _partial("ix_operations_waiting", "waits_for", where="state = 'queued'"),
    Index("ix_operations_key_state", "key", "state"),
    Index("ix_operations_sequence", "sequence"),
    Index("ix_operations_finished_at", "finished_at"),
    # What is purged early.
    _partial("ix_operations_routine", "finished_at", where="kind = 'heal_server' AND state = 'succeeded'"),
    # The claim query already gives each key one running operation; this makes it true under every interleaving.
    Index(
        "uq_operations_running_key",
        "key",
        unique=True,
        sqlite_where=text("state = 'running'"),
        postgresql_where=text("state = 'running'"),
    ),
)

Index(  # the queue in the order of claiming
    "ix_operations_queue",
    operations.c.priority.desc(),
    operations.c.sequence,
    operations.c.id,
    sqlite_where=text("state = 'queued'"),
    postgresql_where=text("state = 'queued'"),
)

operation_steps = Table(
    "operation_steps",
    metadata,
    Column("operation_id", ID, ForeignKey("operations.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),  # order of starting, over all attempts
    Column("name", String(64), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("started_at", DateTime, nullable=False),
    Column("finished_at", DateTime),
    Column("seconds", Float),
)

leases = Table(  # work that one process at a time does, besides operations
    "leases",
    metadata,
    Column("name", NAME, primary_key=True),
    Column("holder", NAME, nullable=False),
    Column("expires", DateTime, nullable=False),
)

workers = Table(  # the API's "services": every process that beats
    "workers",
    metadata,
    Column("id", NAME, primary_key=True),
    Column("number", Integer, nullable=False, unique=True),  # Manila's services have integer ids
    Column("binary", String(64), nullable=False),  # manila-share, manila-scheduler, manila-api: Manila's names
    Column("host", NAME, nullable=False),
    Column("availability_zone", NAME, nullable=False),
    Column("disabled", Boolean, nullable=False, default=False),
    Column("disabled_reason", NAME),
    Column("heartbeat_at", DateTime, nullable=False, index=True),
    Column("started_at", DateTime, nullable=False),
)

pools = Table(  # the last stats each backend reported, for the scheduler and the API in any process
    "pools",
    metadata,
    Column("host", NAME, primary_key=True),  # "<node>@<backend>#<pool>"
    Column("backend", NAME, nullable=False, index=True),
    Column("availability_zone", NAME, nullable=False),
    Column("total_capacity", Float),
    Column("free_capacity", Float),
    Column("provisioned_capacity", Float, nullable=False, default=0),
    Column("reserved_percentage", Integer, nullable=False, default=0),
    Column("capabilities", JSON, nullable=False, default=dict),
    Column("reported_at", DateTime, nullable=False),
)

availability_zones = Table(
    "availability_zones",
    metadata,
    Column("id", ID, primary_key=True),
    Column("name", NAME, nullable=False, unique=True),
    *_times(),
)

# ---- the built-in identity (mode "builtin"; users of the password file are not here) ---------------------------------

identity_projects = Table(
    "identity_projects",
    metadata,
    Column("id", NAME, primary_key=True),
    Column("name", NAME, nullable=False, unique=True),
    Column("description", Text),
    Column("enabled", Boolean, nullable=False, default=True),
    *_times(),
)

identity_users = Table(
    "identity_users",
    metadata,
    Column("id", NAME, primary_key=True),
    Column("name", NAME, nullable=False, unique=True),
    Column("password_hash", Text, nullable=False),  # bcrypt
    Column("default_project_id", NAME),
    Column("enabled", Boolean, nullable=False, default=True),
    *_times(),
)

identity_roles = Table(  # which user has which role in which project, given through the API
    "identity_roles",
    metadata,
    Column("user_id", NAME, primary_key=True),
    Column("project_id", NAME, primary_key=True),
    Column("role", NAME, primary_key=True),
)

identity_tokens = Table(
    "identity_tokens",
    metadata,
    Column("digest", String(64), primary_key=True),  # SHA-256 of the token, which is not stored
    Column("user_id", NAME, nullable=False, index=True),
    Column("user_name", NAME, nullable=False),
    Column("project_id", NAME, index=True),  # null: an unscoped token
    Column("project_name", NAME),
    Column("roles", JSON, nullable=False, default=list),
    Column("issued_at", DateTime, nullable=False),
    Column("expires_at", DateTime, nullable=False, index=True),
)
