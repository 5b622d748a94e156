"""What the API writes for migrations of shares and of share servers, for tests of their stories in a small world."""

from __future__ import annotations

from typing import Any

from sharewright.context import RequestContext
from sharewright.services import share_migrations, share_server_migrations
from sharewright.services.deployment import Deployment
from sharewright.store.tables import share_instances, share_servers, shares
from story_world import PROJECT, SECOND_BACKEND, USER, World


def deployment(world: World) -> Deployment:
    return Deployment(store=world.store, settings=world.settings)


def administrator() -> RequestContext:
    return RequestContext(project_id=PROJECT, user_id=USER, roles=frozenset({"admin", "member", "reader"}))


def pool_of(world: World, backend: str = SECOND_BACKEND) -> str:
    return f"{world.settings.node}@{backend}#{backend}"


def a_share(world: World, *, size: int = 1, share_type_id: str | None = None) -> str:
    """One in service on the first backend, with a rule, and a second backend that is known."""
    type_id = share_type_id or world.share_type_id
    pool = pool_of(world, "alpha")
    share = world.request_share(size, share_type_id=type_id, hints={"only_host": pool}, snapshot_support=True)
    world.request_rule(share, "10.20.0.99")
    world.run()
    return share


def start(world: World, share: str, **values: Any) -> None:
    """An accepted migration_start, to the second backend."""
    wanted = {"host": pool_of(world), **values}
    assert share_migrations.start(deployment(world), administrator(), share, wanted)


def complete(world: World, share: str) -> None:
    share_migrations.complete(deployment(world), administrator(), share)


def cancel(world: World, share: str) -> None:
    share_migrations.cancel(deployment(world), administrator(), share)


def reset_task_state(world: World, share: str, state: str | None = "migration_driver_phase1_done") -> None:
    share_migrations.reset_task_state(deployment(world), administrator(), share, state)


def main_of(world: World, share: str) -> Any:
    """The share's main instance; the share's own row says the same of it."""
    (row,) = [each for each in world.rows(share_instances, share_id=share) if each.is_main]
    (mirror,) = world.rows(shares, id=share)
    assert (mirror.status, mirror.host, mirror.share_server_id) == (row.status, row.host, row.share_server_id)
    return row


def others_of(world: World, share: str) -> list[Any]:
    return [each for each in world.rows(share_instances, share_id=share) if not each.is_main]


# ---- share servers ----


def server_of(world: World, server: str) -> Any:
    (row,) = world.rows(share_servers, id=server)
    return row


def made_for(world: World, server: str) -> Any:
    """The newest server that was made for the shares of another."""
    return max(world.rows(share_servers, source_share_server_id=server), key=lambda row: row.created_at)


def start_server(world: World, server: str, **values: Any) -> None:
    """An accepted migration_start of a share server, to the second backend."""
    wanted = {"host": f"{world.settings.node}@{SECOND_BACKEND}", **values}
    share_server_migrations.start(deployment(world), administrator(), server, wanted)


def complete_server(world: World, server: str) -> str:
    return share_server_migrations.complete(deployment(world), administrator(), server)


def cancel_server(world: World, server: str) -> None:
    share_server_migrations.cancel(deployment(world), administrator(), server)
