"""Shares in the layouts with an admin network: who sees which export location, and that they stay true."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from sharewright.errors import CloudUnavailable
from sharewright.store.database import Store
from sharewright.store.tables import service_instances, share_export_locations, share_servers
from story_world import World, make_world

ADMIN = ip_network("10.2.5.0/24")


@pytest.fixture(params=[True, False], ids=["tenant_admin", "router_admin"])
def world(request: pytest.FixtureRequest, store: Store, tmp_path: Path) -> Iterator[World]:
    with make_world(
        store, tmp_path / "state", admin_network=str(ADMIN), connect_share_server_to_tenant_network=request.param
    ) as world:
        yield world


def a_share(world: World) -> str:
    share = world.request_share()
    world.request_rule(share, "10.20.0.5")
    world.run()
    assert world.share(share).status == "available"
    return share


def locations(world: World, share: str) -> dict[bool, list[str]]:
    """Paths by whether they are for admins only."""
    rows = world.rows(share_export_locations, share_instance_id=world.instance(share).id)
    assert [row.preferred for row in rows if row.is_admin_only] == [False]
    return {flag: [row.path for row in rows if row.is_admin_only is flag] for flag in (False, True)}


def test_a_share_has_an_export_location_for_admins(world: World) -> None:
    share = a_share(world)
    found = locations(world, share)
    (tenants,), (admins,) = found[False], found[True]
    assert ip_address(admins.partition(":")[0]) in ADMIN
    assert ip_address(tenants.partition(":")[0]) not in ADMIN
    assert tenants.partition(":")[2] == admins.partition(":")[2] == f"/shares/share-{world.instance(share).id}"
    world.check_consistent()
    world.request_delete(share)
    world.run()
    (server,) = world.rows(share_servers)
    world.request_server_operation("delete_share_server", server.id)
    world.run()
    world.check_empty()


def test_locations_follow_the_addresses_and_keep_their_ids(world: World) -> None:
    """A cloud may be unable to give an address again; admins' locations follow as tenants' do."""
    share = a_share(world)
    before = {row.id: row.path for row in world.rows(share_export_locations)}
    (server,) = world.rows(share_servers)
    with world.store.begin() as tx:
        for row in world.rows(share_export_locations):
            wrong = "10.9.9.9:" + row.path.partition(":")[2]
            tx.execute(share_export_locations.update().where(share_export_locations.c.id == row.id).values(path=wrong))
    world.request_server_operation("heal_server", server.id)
    world.run()
    assert {row.id: row.path for row in world.rows(share_export_locations)} == before
    assert locations(world, share)


def test_the_cloud_is_away_when_it_is_asked_for_the_admin_network(world: World) -> None:
    world.cloud.fail("find_subnet", CloudUnavailable, times=3)
    a_share(world)
    (row,) = world.rows(service_instances)
    assert {port["role"] for port in row.ports} >= {"admin"}
    world.check_consistent()
