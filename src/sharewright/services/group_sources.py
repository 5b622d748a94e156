"""What a share group is made from when it is made from a group snapshot: what it takes over, and Manila's refusals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from sharewright.context import RequestContext
from sharewright.errors import Conflict, InvalidInput
from sharewright.identifiers import is_id
from sharewright.services.deployment import Deployment, Record, fetch, fetch_one
from sharewright.services.new_shares import insert
from sharewright.services.policy import authorize, can_see
from sharewright.services.records import read_maps
from sharewright.services.share_sources import COPY_SECONDS, copied_columns, read_parent
from sharewright.services.work import submit
from sharewright.states import ShareGroupSnapshotStatus
from sharewright.store.tables import (
    share_group_share_types,
    share_group_snapshots,
    share_groups,
    share_instances,
    share_snapshot_instances,
    share_type_extra_specs,
)
from sharewright.store.transaction import write_now

# All of them come from the snapshot's group.
_INHERITED = ("share_types", "share_network_id", "availability_zone")


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSource:
    """``values``: the request with what it left out. ``members``: id, size in GiB and share of each. The share server
    is the one of the snapshot's group."""

    snapshot_id: str
    share_server_id: str | None
    values: Record
    members: list[dict[str, Any]]

    def create_shares(
        self, tx: Connection, deployment: Deployment, context: RequestContext, share_group_id: str
    ) -> None:
        """Write a share for each member, with its quota and operation, and the operation that ends with the last."""
        for member in self.members:
            parent = read_parent(tx, member["share_id"])
            type_id = parent["share_type_id"]
            specs = read_maps(tx, share_type_extra_specs, share_type_extra_specs.c.share_type_id, [type_id])[type_id]
            insert(
                tx,
                deployment,
                context,
                {
                    "size": member["size"],
                    "protocol": parent["protocol"],
                    "share_network_id": parent["share_network_id"],
                    "availability_zone": parent["availability_zone"],
                    "share_group_id": share_group_id,
                },
                {"id": type_id, "extra_specs": specs},
                copied_columns(parent),
                {"scheduler_hints": {"only_host": parent["host"]}},  # where its snapshot is
                more_seconds=COPY_SECONDS * member["size"],
                source_share_group_snapshot_member_id=member["id"],
            )
        write_now(tx)  # before the operation that waits for theirs
        payload = {"shares": len(self.members)}
        submit(tx, deployment, context, "create_share_group", "share_group", share_group_id, payload)


def read_group_source(tx: Connection, context: RequestContext, values: Mapping[str, Any]) -> GroupSource | None:
    """The source that a request for a share group names, or None. InvalidInput when it is not there, or the request
    says what the source decides; Conflict when it is not available. The type of the snapshot's group is the new one's,
    too, unless another is named."""
    identifier = values.get("source_share_group_snapshot_id")
    if not identifier:
        return None
    for name in _INHERITED:
        if values.get(name):
            raise InvalidInput(
                f"Cannot supply both '{name}' and 'source_share_group_snapshot_id': it is inherited from the source.",
                hint="Leave it out.",
            )
    snapshot = None
    if is_id(identifier):
        query = select(share_group_snapshots).where(share_group_snapshots.c.id == identifier)
        snapshot = fetch_one(tx, query.with_for_update(read=True))
    if snapshot is None or not can_see(context, snapshot["project_id"]):
        raise InvalidInput(f"Share group snapshot {identifier[:64]} could not be found.")
    authorize(context, "share_group_snapshot:get", snapshot["project_id"])
    if snapshot["status"] != ShareGroupSnapshotStatus.AVAILABLE:
        raise Conflict(f"Share group snapshot {identifier} is in status '{snapshot['status']}'; it must be available.")
    parent = fetch_one(tx, select(share_groups).where(share_groups.c.id == snapshot["share_group_id"])) or {}
    types = select(share_group_share_types.c.share_type_id).where(
        share_group_share_types.c.share_group_id == snapshot["share_group_id"]
    )
    members = share_snapshot_instances.c
    rows = fetch(
        tx,
        select(members.id, members.size, share_instances.c.share_id)
        .join(share_instances, share_instances.c.id == members.share_instance_id)
        .where(members.share_group_snapshot_id == identifier)
        .order_by(members.id),
    )
    return GroupSource(
        snapshot_id=identifier,
        share_server_id=parent["share_server_id"],
        values={
            **values,
            "share_types": list(tx.execute(types).scalars()),
            "share_network_id": parent["share_network_id"],
            "availability_zone": parent["availability_zone"],
            "share_group_type_id": values.get("share_group_type_id") or parent["share_group_type_id"],
        },
        members=rows,
    )
