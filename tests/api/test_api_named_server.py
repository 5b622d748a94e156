"""Shares of a backend with driver_handles_share_servers = false: what users and administrators see of them."""

from __future__ import annotations

from typing import Any

import pytest
from site_for_tests import Site
from sqlalchemy import select

from sharewright.store.tables import share_servers


@pytest.fixture
def site(mixed_site: Site) -> Site:
    return mixed_site


def create(site: Site, status: int = 200, **values: Any) -> Any:
    share = {"size": 1, "share_proto": "NFS", "share_type": "plain", **values}
    return site.expect(status, "POST", "/v2/shares", {"share": share})


def test_a_share_has_no_network_and_no_server(site: Site) -> None:
    identifier = create(site)["share"]["id"]
    path = f"/v2/shares/{identifier}"
    site.wait(path, "share", "status", "available")
    share = site.expect(200, "GET", path, user="root")["share"]
    assert (share["share_network_id"], share["share_server_id"]) == (None, None)
    assert share["host"] == "node1@common#common"
    (instance,) = site.expect(200, "GET", f"{path}/instances", user="root")["share_instances"]
    assert (instance["share_network_id"], instance["share_server_id"]) == (None, None)
    (location,) = site.expect(200, "GET", f"{path}/export_locations")["export_locations"]
    assert location["path"] == f"192.0.2.2:/shares/share-{instance['id']}"
    snapshot = site.expect(202, "POST", "/v2/snapshots", {"snapshot": {"share_id": identifier}})["snapshot"]
    site.wait(f"/v2/snapshots/{snapshot['id']}", "snapshot", "status", "available")
    site.expect(202, "DELETE", f"/v2/snapshots/{snapshot['id']}")
    site.wait_gone(f"/v2/snapshots/{snapshot['id']}")
    site.expect(202, "POST", f"{path}/action", {"extend": {"new_size": 2}})
    site.wait(path, "share", "status", "available")
    site.expect(202, "DELETE", path)
    site.wait_gone(path)


def test_a_share_network_is_refused_as_manila_refuses_it(site: Site) -> None:
    refused = create(site, 400, share_network_id=site.network()["id"])
    assert "must not be set" in refused["badRequest"]["message"]
    refused = create(site, 400, share_type="servers")
    assert "must be set" in refused["badRequest"]["message"]


def test_no_share_server_is_to_be_seen(site: Site) -> None:
    identifier = create(site)["share"]["id"]
    site.wait(f"/v2/shares/{identifier}", "share", "status", "available")
    lasting = select(share_servers.c.id, share_servers.c.host, share_servers.c.status, share_servers.c.created_at)
    with site.store.read() as tx:
        (row,) = tx.execute(lasting).all()
    assert site.expect(200, "GET", "/v2/share-servers", user="root")["share_servers"] == []
    for query in (f"?identifier={row.id}", f"?host={row.host}", "?status=active"):
        assert site.expect(200, "GET", f"/v2/share-servers{query}", user="root")["share_servers"] == []
    path = f"/v2/share-servers/{row.id}"
    site.expect(404, "GET", path, user="root")
    site.expect(404, "GET", f"{path}/details", user="root")
    site.expect(404, "DELETE", path, user="root")
    site.expect(404, "POST", f"{path}/action", {"reset_status": {"status": "error"}}, user="root")
    site.expect(404, "POST", f"{path}/action", {"unmanage": None}, user="root")
    wanted = {"host": row.host, "identifier": row.id, "share_network_id": site.network()["id"]}
    made = site.expect(202, "POST", "/v2/share-servers/manage", {"share_server": wanted}, user="root")["share_server"]
    assert made["id"] != row.id
    site.wait(f"/v2/share-servers/{made['id']}", "share_server", "status", "manage_error", user="root")
    with site.store.read() as tx:
        assert tx.execute(lasting.where(share_servers.c.named)).all() == [row]
    share = {"service_host": "node1@common#common", "protocol": "NFS", "export_path": "192.0.2.2:/x"}
    share |= {"share_type": "servers", "share_server_id": row.id}
    refused = site.expect(400, "POST", "/v2/shares/manage", {"share": share}, user="root")
    assert "was not found" in refused["badRequest"]["message"]
    found = site.expect(200, "GET", f"/v2/shares?share_server_id={row.id}&all_tenants=1", user="root")["shares"]
    assert found == []


def test_pools_tell_which_backend_it_is(site: Site) -> None:
    create(site)
    pools = site.expect(200, "GET", "/v2/scheduler-stats/pools/detail", user="root")["pools"]
    handles = {pool["capabilities"]["share_backend_name"]: pool for pool in pools}
    assert {name: pool["capabilities"]["driver_handles_share_servers"] for name, pool in handles.items()} == {
        "one": True,
        "common": False,
    }


def test_types_go_to_their_backend(site: Site) -> None:
    """Neither kind of type ever lands on the other kind of backend."""
    plain = [create(site)["share"] for _ in range(3)]
    network = site.real_network()
    served = create(site, share_type="servers", share_network_id=network)["share"]
    assert {site.host_of(share) for share in plain} == {"node1@common#common"}
    assert site.host_of(served) == "node1@one#one"
    servers = site.expect(200, "GET", "/v2/share-servers", user="root")["share_servers"]
    assert [server["host"] for server in servers] == ["node1@one"]


def test_a_share_from_a_snapshot_is_there_too(site: Site) -> None:
    body = {"extra_specs": {"create_share_from_snapshot_support": "True"}}
    types = {each["name"]: each["id"] for each in site.expect(200, "GET", "/v2/types", user="root")["share_types"]}
    site.expect(200, "POST", f"/v2/types/{types['plain']}/extra_specs", body, user="root")
    parent = create(site)["share"]["id"]
    site.wait(f"/v2/shares/{parent}", "share", "status", "available")
    snapshot = site.expect(202, "POST", "/v2/snapshots", {"snapshot": {"share_id": parent}})["snapshot"]["id"]
    site.wait(f"/v2/snapshots/{snapshot}", "snapshot", "status", "available")
    share = create(site, snapshot_id=snapshot)["share"]
    assert site.host_of(share) == "node1@common#common"
    refused = create(site, 400, snapshot_id=snapshot, share_network_id=site.network()["id"])
    assert "Share network" in refused["badRequest"]["message"]


def test_groups_of_such_shares(site: Site) -> None:
    types = {each["name"]: each["id"] for each in site.expect(200, "GET", "/v2/types", user="root")["share_types"]}
    body = {"share_group_type": {"name": "together", "share_types": [types["plain"]]}}
    site.expect(200, "POST", "/v2/share-group-types", body, user="root")
    group = {"share_group_type_id": None, "share_types": [types["plain"]]}
    kinds = site.expect(200, "GET", "/v2/share-group-types", user="root")["share_group_types"]
    group["share_group_type_id"] = kinds[0]["id"]
    refused = {**group, "share_network_id": site.network()["id"]}
    site.expect(400, "POST", "/v2/share-groups", {"share_group": refused})
    made = site.expect(202, "POST", "/v2/share-groups", {"share_group": group})["share_group"]
    share = create(site, share_group_id=made["id"])["share"]
    assert site.host_of(share) == "node1@common#common"
