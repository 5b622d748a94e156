"""What a share is made from when it is made from a snapshot: what it takes over, and Manila's refusals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, select

from sharewright.context import RequestContext
from sharewright.errors import InvalidInput, NotFound
from sharewright.identifiers import is_id
from sharewright.operations.type_specs import TYPE_SPECS
from sharewright.services.deployment import Record, fetch_one
from sharewright.services.policy import authorize, can_see
from sharewright.states import SnapshotStatus
from sharewright.store.tables import share_instances, share_snapshots, shares

COPY_SECONDS: Final = 20.0  # for each GiB of what is made from a snapshot: some clouds copy all of it
# All that the type said when the parent was requested. The file system is the snapshot's own.
_COPIED: Final = tuple(
    spec.column for spec in TYPE_SPECS.values() if spec.column is not None and spec.column != "filesystem_type"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareSource:
    """``values``: the request with what it left out. ``instance``: columns of the new instance. ``host``: the pool in
    which the snapshot is, and the share must be."""

    snapshot_id: str
    values: Record
    share_type_id: str
    instance: Record
    host: str

    def check_type(self, share_type_id: str) -> None:
        """InvalidInput when another type than the parent's was asked for."""
        if share_type_id != self.share_type_id:
            raise InvalidInput(
                "Invalid share type specified: the requested share type must match the type of the source share."
            )


def read_source(tx: Connection, context: RequestContext, values: Mapping[str, Any]) -> ShareSource | None:
    """The source that a request for a share names, or None. Size, type, network and zone are the parent's unless given;
    a smaller size, another type, network or protocol is refused (400), as is a parent whose type does not allow it."""
    snapshot_id = values.get("snapshot_id")
    if not snapshot_id:
        if values.get("size") is None:
            raise InvalidInput("share.size is required.")
        return None
    snapshot = None
    if is_id(snapshot_id):
        query = select(share_snapshots).where(share_snapshots.c.id == snapshot_id).with_for_update(read=True)
        snapshot = fetch_one(tx, query)
    if snapshot is None or not can_see(context, snapshot["project_id"]):
        raise NotFound(f"Snapshot {str(snapshot_id)[:64]} could not be found.")
    authorize(context, "share_snapshot:get_snapshot", snapshot["project_id"])
    if snapshot["status"] != SnapshotStatus.AVAILABLE:
        raise InvalidInput(f"Snapshot {snapshot_id} is in status '{snapshot['status']}'; it must be available.")
    parent = read_parent(tx, snapshot["share_id"])
    if not parent["create_share_from_snapshot_support"]:
        raise InvalidInput(
            f"A new share may not be created from snapshot '{snapshot_id}', because the snapshot's parent share does "
            "not have that capability.",
            hint="Its share type needs the extra spec create_share_from_snapshot_support = True when it is created.",
        )
    size = values.get("size") or snapshot["size"]
    if size < snapshot["size"]:
        raise InvalidInput(
            f"Share size {size} must be equal to or greater than the snapshot's ({snapshot['size']} GiB)."
        )
    if values["protocol"].upper() != parent["protocol"]:
        raise InvalidInput(f"Share protocol must be the snapshot's, which is {parent['protocol']}.")
    network = values.get("share_network_id")
    if network and network != parent["share_network_id"]:
        raise InvalidInput("Share network ID should be the same as snapshot's parent share's or empty.")
    return ShareSource(
        snapshot_id=snapshot_id,
        values={
            **values,
            "size": size,
            "share_network_id": parent["share_network_id"],
            "availability_zone": parent["availability_zone"],
            "share_type": values.get("share_type") or parent["share_type_id"],
        },
        share_type_id=parent["share_type_id"],
        instance=copied_columns(parent),
        host=parent["host"],
    )


def copied_columns(parent: Record) -> dict[str, Any]:
    """What the instance of a share takes over from its parent's."""
    return {name: parent[name] for name in _COPIED}


def read_parent(tx: Connection, share_id: str) -> dict[str, Any]:
    """Raises NotFound."""
    row = fetch_one(
        tx,
        select(
            shares.c.id,
            shares.c.protocol,
            shares.c.share_type_id,
            shares.c.share_network_id,
            shares.c.availability_zone,
            shares.c.host,
            shares.c.create_share_from_snapshot_support,
            *(share_instances.c[name] for name in _COPIED),
        )
        .join(share_instances, share_instances.c.share_id == shares.c.id)
        .where(shares.c.id == share_id, share_instances.c.is_main.is_(True)),
    )
    if row is None:
        raise NotFound(f"Share {share_id} could not be found.")
    return row
