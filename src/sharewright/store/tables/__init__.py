"""Every table. Times are UTC without zone, ids UUID strings, sizes GiB; JSON columns hold plain JSON values.

Rows of deleted resources are deleted; what happened to them stays in ``operations`` until the retention time is over.
"""

from __future__ import annotations

from sharewright.store.tables.backups import share_backups
from sharewright.store.tables.base import ID, NAME, NEVER, STATE, metadata
from sharewright.store.tables.groups import share_group_share_types, share_group_snapshots, share_groups
from sharewright.store.tables.identity import identity_projects, identity_roles, identity_tokens, identity_users
from sharewright.store.tables.kinds import (
    qos_type_specs,
    qos_types,
    share_group_type_projects,
    share_group_type_share_types,
    share_group_type_specs,
    share_group_types,
    share_type_extra_specs,
    share_type_projects,
    share_types,
)
from sharewright.store.tables.networks import (
    security_services,
    share_network_security_services,
    share_network_subnets,
    share_networks,
)
from sharewright.store.tables.operations import availability_zones, leases, operation_steps, operations, pools, workers
from sharewright.store.tables.projects import messages, quota_usages, quotas
from sharewright.store.tables.servers import secrets, service_instances, service_subnets, share_servers
from sharewright.store.tables.shares import (
    resource_locks,
    retired_volumes,
    share_access_metadata,
    share_access_rules,
    share_counts,
    share_export_locations,
    share_instance_moves,
    share_instances,
    share_metadata,
    share_replica_metadata,
    share_transfers,
    shares,
)
from sharewright.store.tables.snapshots import (
    share_snapshot_access_rules,
    share_snapshot_export_locations,
    share_snapshot_instances,
    share_snapshot_metadata,
    share_snapshot_mounts,
    share_snapshots,
)

__all__ = [
    "ID",
    "NAME",
    "NEVER",
    "STATE",
    "availability_zones",
    "identity_projects",
    "identity_roles",
    "identity_tokens",
    "identity_users",
    "leases",
    "messages",
    "metadata",
    "operation_steps",
    "operations",
    "pools",
    "qos_type_specs",
    "qos_types",
    "quota_usages",
    "quotas",
    "resource_locks",
    "retired_volumes",
    "secrets",
    "security_services",
    "service_instances",
    "service_subnets",
    "share_access_metadata",
    "share_access_rules",
    "share_backups",
    "share_counts",
    "share_export_locations",
    "share_group_share_types",
    "share_group_snapshots",
    "share_group_type_projects",
    "share_group_type_share_types",
    "share_group_type_specs",
    "share_group_types",
    "share_groups",
    "share_instance_moves",
    "share_instances",
    "share_metadata",
    "share_network_security_services",
    "share_network_subnets",
    "share_networks",
    "share_replica_metadata",
    "share_servers",
    "share_snapshot_access_rules",
    "share_snapshot_export_locations",
    "share_snapshot_instances",
    "share_snapshot_metadata",
    "share_snapshot_mounts",
    "share_snapshots",
    "share_transfers",
    "share_type_extra_specs",
    "share_type_projects",
    "share_types",
    "shares",
    "workers",
]
