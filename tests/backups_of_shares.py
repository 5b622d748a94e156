"""What the API writes for backups of shares, for tests of their stories in a small world (story_world)."""

from __future__ import annotations

from typing import Any

from sharewright.clouds.contract import TAG_OWNER
from sharewright.identifiers import utcnow
from sharewright.services import share_backups
from sharewright.services.deployment import Deployment
from sharewright.store.quotas import read_usage
from sharewright.store.tables import pools
from sharewright.store.tables import share_backups as backups_table
from story_world import PROJECT, World


def deployment(world: World) -> Deployment:
    return Deployment(store=world.store, settings=world.settings)


def a_share(world: World, size: int = 1) -> str:
    """One in service, with a rule, in a pool that says that it makes backups."""
    share = world.request_share(size)
    world.request_rule(share, "10.20.0.99")
    world.run()
    report(world, share)
    return share


def report(world: World, share: str) -> None:
    """What a worker writes of the pool of a share."""
    host, backend = world.share(share).host, world.instance(share).backend
    (pool,) = world.assembly.drivers[backend].pools()
    with world.store.begin() as tx:
        tx.execute(pools.delete().where(pools.c.host == host))
        tx.execute(
            pools.insert().values(
                host=host,
                backend=backend,
                availability_zone="nova",
                capabilities=dict(pool.capabilities),
                reported_at=utcnow(),
            )
        )


def back_up(world: World, share: str, **options: str) -> str:
    """An accepted POST /share-backups. Returns the backup's id."""
    values = {"share_id": share, "backup_options": options or {"dummy": "True"}}
    return str(share_backups.create(deployment(world), world.context(), values)["id"])


def a_backup(world: World, share: str) -> str:
    backup = back_up(world, share)
    world.run()
    assert row(world, backup).status == "available"
    return backup


def restore(world: World, backup: str, target: str | None = None) -> None:
    """An accepted restore."""
    share_backups.restore(deployment(world), world.context(), backup, target)


def delete(world: World, backup: str) -> None:
    """An accepted DELETE."""
    share_backups.delete(deployment(world), world.context(), backup)


def row(world: World, backup: str) -> Any:
    (found,) = world.rows(backups_table, id=backup)
    return found


def kept(world: World, backup: str) -> list[str]:
    """What the cloud has of a backup."""
    owner = f"share_backup:{backup}"
    volumes = world.cloud.volumes
    return [each.id for each in (*volumes.list_volumes(), *volumes.list_snapshots()) if each.tags[TAG_OWNER] == owner]


def usage(world: World) -> tuple[int, int]:
    """(backups, backup_gigabytes) in use by the project."""
    with world.store.read() as tx:
        used = read_usage(tx, PROJECT)
    return used["backups"], used["backup_gigabytes"]


def check(world: World) -> None:
    """The cloud holds what the rows of backups say, once; the quota is what they say."""
    backups = world.rows(backups_table)
    for each in backups:
        if each.status in ("available", "restoring"):
            assert each.volume_id in kept(world, each.id)
        if each.status in ("available", "error"):
            assert kept(world, each.id) == ([each.volume_id] if each.volume_id else [])
    known = {f"share_backup:{each.id}" for each in backups}
    for each in (*world.cloud.volumes.list_volumes(), *world.cloud.volumes.list_snapshots()):
        owner = each.tags[TAG_OWNER]
        assert not owner.startswith("share_backup:") or owner in known, "a part of a backup is left over"
    assert usage(world) == (len(backups), sum(each.size for each in backups))
