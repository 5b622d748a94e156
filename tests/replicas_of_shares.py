"""What the API writes for replicas of shares, for tests of their stories in a small world (story_world)."""

from __future__ import annotations

from typing import Any

from sharewright.services import share_replicas, snapshots
from sharewright.services.deployment import Deployment
from sharewright.store.quotas import read_usage
from sharewright.store.tables import share_instances, share_snapshot_instances, shares
from story_world import PROJECT, World


def deployment(world: World) -> Deployment:
    return Deployment(store=world.store, settings=world.settings)


def a_share(world: World, *, size: int = 1, kind: str = "readable") -> str:
    """One that may have replicas of a replication type, in service, with a rule."""
    named = not world.share_network_id  # its backends make no share servers
    share_type = world.add_share_type("replicated", replication_type=kind, driver_handles_share_servers=str(not named))
    able = ("snapshot_support", "revert_to_snapshot_support", "mount_snapshot_support")
    share = world.request_share(size, share_type_id=share_type, replication_type=kind, **dict.fromkeys(able, True))
    with world.store.begin() as tx:
        mine = share_instances.c.share_id == share
        tx.execute(share_instances.update().where(mine).values(replica_state="active"))
    world.request_rule(share, "10.20.0.99")
    world.run()
    return share


def add(world: World, share: str) -> str:
    """An accepted POST /share-replicas. Returns the replica's id."""
    return str(share_replicas.create(deployment(world), world.context(), {"share_id": share})["id"])


def a_replicated_share(world: World) -> str:
    share = a_share(world)
    add(world, share)
    world.run()
    return share


def main_of(world: World, share: str) -> Any:
    """The share's main instance; the share's own row says the same of it."""
    (row,) = [each for each in world.rows(share_instances, share_id=share) if each.is_main]
    (mirror,) = world.rows(shares, id=share)
    assert (mirror.status, mirror.host, mirror.share_server_id) == (row.status, row.host, row.share_server_id)
    return row


def other_of(world: World, share: str) -> Any:
    (row,) = [each for each in world.rows(share_instances, share_id=share) if not each.is_main]
    return row


def promote(world: World, replica: str) -> None:
    """An accepted promotion."""
    share_replicas.promote(deployment(world), world.context(), replica)


def delete(world: World, replica: str) -> None:
    """An accepted DELETE."""
    share_replicas.delete(deployment(world), world.context(), replica)


def take(world: World, share: str) -> str:
    """An accepted POST /snapshots. Returns the snapshot's id."""
    return str(snapshots.create(deployment(world), world.context(), {"share_id": share})["id"])


def revert(world: World, share: str, snapshot: str) -> None:
    """An accepted revert."""
    snapshots.revert(deployment(world), world.context(), share, snapshot)


def snapshot_on(world: World, snapshot: str, instance: str) -> Any:
    """The instance of a snapshot on a share instance."""
    (row,) = world.rows(share_snapshot_instances, snapshot_id=snapshot, share_instance_id=instance)
    return row


def replica_usage(world: World) -> tuple[int, int]:
    """(share_replicas, replica_gigabytes) in use by the project."""
    with world.store.read() as tx:
        usage = read_usage(tx, PROJECT)
    return usage["share_replicas"], usage["replica_gigabytes"]
