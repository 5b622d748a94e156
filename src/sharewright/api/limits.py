"""Limits of the caller's project: /limits."""

from __future__ import annotations

from typing import Any, Final

from sharewright.api.resource import Field
from sharewright.api.routing import Call, Route
from sharewright.api.shapes import contract, shown, under
from sharewright.services import quotas

# resource, first microversion, name of its limit, name of what is used
ABSOLUTE: Final = (
    ("shares", 0, "maxTotalShares", "totalSharesUsed"),
    ("gigabytes", 0, "maxTotalShareGigabytes", "totalShareGigabytesUsed"),
    ("snapshots", 0, "maxTotalShareSnapshots", "totalShareSnapshotsUsed"),
    ("snapshot_gigabytes", 0, "maxTotalSnapshotGigabytes", "totalSnapshotGigabytesUsed"),
    ("share_networks", 0, "maxTotalShareNetworks", "totalShareNetworksUsed"),
    ("share_replicas", 53, "maxTotalShareReplicas", "totalShareReplicasUsed"),
    ("replica_gigabytes", 53, "maxTotalReplicaGigabytes", "totalReplicaGigabytesUsed"),
    ("share_groups", 58, "maxTotalShareGroups", "totalShareGroupsUsed"),
    ("share_group_snapshots", 58, "maxTotalShareGroupSnapshots", "totalShareGroupSnapshotsUsed"),
    ("backups", 80, "maxTotalShareBackups", "totalShareBackupsUsed"),
    ("backup_gigabytes", 80, "maxTotalBackupGigabytes", "totalBackupGigabytesUsed"),
)


@contract(gives=under("limits", shown(Field("rate", list[int]), Field("absolute", dict[str, int]))))
def show(call: Call) -> Any:
    current = quotas.limits_of_caller(call.deployment, call.context)
    absolute: dict[str, int] = {}
    for resource, since, limit, used in ABSOLUTE:
        if call.version >= since:
            absolute[limit] = current[resource]["limit"]
            absolute[used] = current[resource]["in_use"]
    return {"limits": {"rate": [], "absolute": absolute}}


ROUTES: Final = (Route("GET", "/limits", show),)
