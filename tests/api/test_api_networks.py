"""Share networks and their subnets."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
from site_for_tests import Site, make_settings, running_site
from sqlalchemy import select, update

from sharewright.api.versions import MAXIMUM
from sharewright.identifiers import utcnow
from sharewright.store.database import Store
from sharewright.store.tables import (
    operations,
    service_instances,
    share_instances,
    share_network_subnets,
    share_servers,
    shares,
)

NET, SUBNET = str(uuid.uuid4()), str(uuid.uuid4())


def add_server(
    site: Site, network: dict[str, Any], *, share: dict[str, Any] | None = None, status: str = "active"
) -> str:
    """An existing share server on the network's first subnet, as a worker would have made it."""
    identifier = str(uuid.uuid4())
    with site.store.begin() as tx:
        subnet = tx.execute(
            select(share_network_subnets.c.id).where(share_network_subnets.c.share_network_id == network["id"]).limit(1)
        ).scalar_one()
        tx.execute(
            share_servers.insert().values(
                id=identifier, project_id="blue", share_network_id=network["id"], share_network_subnet_id=subnet,
                backend="one", host="node1@one", status=status, created_at=utcnow(),
            )
        )  # fmt: skip
        if share:
            tx.execute(update(shares).where(shares.c.id == share["id"]).values(share_server_id=identifier))
            of_share = share_instances.c.share_id == share["id"]
            tx.execute(update(share_instances).where(of_share).values(share_server_id=identifier))
    return identifier


@pytest.mark.parametrize("version", ["2.26", f"2.{MAXIMUM}"])
def test_the_admin_network_is_no_tenants(sqlite_store: Store, tmp_path: Path, version: str) -> None:
    admin = {"admin_network_id": NET, "admin_subnet_id": SUBNET}
    settings = make_settings(tmp_path, backends={"one": {"cloud": "simulated", **admin}})
    with running_site(sqlite_store, settings) as site:
        theirs = {"neutron_net_id": NET, "neutron_subnet_id": str(uuid.uuid4())}
        answer = site.expect(400, "POST", "/v2/share-networks", {"share_network": theirs}, version=version)
        assert "admin network" in answer["badRequest"]["message"]
        assert site.expect(200, "GET", "/v2/share-networks")["share_networks"] == []
        network = site.network(neutron_net_id=str(uuid.uuid4()), neutron_subnet_id=SUBNET)
        path = f"/v2/share-networks/{network['id']}"
        site.expect(400, "PUT", path, {"share_network": theirs}, version=version)
        zone = {"availability_zone": "zone-1"}
        if version != "2.26":
            site.expect(400, "POST", f"{path}/subnets", {"share-network-subnet": theirs | zone})
        assert site.expect(200, "GET", path)["share_network"]["share_network_subnets"] == [
            network["share_network_subnets"][0]
        ]


def test_a_share_network_has_a_subnet(site: Site) -> None:
    network = site.network(name="net", description="d", neutron_net_id=NET, neutron_subnet_id=SUBNET)
    assert (network["name"], network["project_id"], network["status"]) == ("net", "blue", "active")
    (subnet,) = network["share_network_subnets"]
    assert (subnet["neutron_net_id"], subnet["neutron_subnet_id"]) == (NET, SUBNET)
    assert (subnet["availability_zone"], subnet["cidr"], subnet["metadata"]) == (None, None, {})
    path = f"/v2/share-networks/{network['id']}"
    old = site.expect(200, "GET", path, version="2.17")["share_network"]
    assert set(old) == {
        "id", "name", "description", "project_id", "created_at", "updated_at", "neutron_net_id", "neutron_subnet_id",
        "nova_net_id", "network_type", "segmentation_id", "cidr", "ip_version",
    }  # fmt: skip
    assert (old["neutron_net_id"], old["neutron_subnet_id"]) == (NET, SUBNET)
    assert "gateway" in site.expect(200, "GET", path, version="2.18")["share_network"]
    assert "nova_net_id" not in site.expect(200, "GET", path, version="2.26")["share_network"]
    newer = site.expect(200, "GET", path, version="2.70")["share_network"]
    assert newer["security_service_update_support"] is newer["network_allocation_update_support"] is True


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"neutron_net_id": NET}, "Both neutron_net_id and neutron_subnet_id"),
        ({"neutron_subnet_id": SUBNET}, "Both neutron_net_id and neutron_subnet_id"),
        ({"neutron_net_id": "x" * 37, "neutron_subnet_id": SUBNET}, "not a UUID"),
        ({"neutron_net_id": NET, "neutron_subnet_id": "../etc"}, "not a UUID"),
        ({"neutron_net_id": 5, "neutron_subnet_id": SUBNET}, "neutron_net_id"),
        ({"name": "n" * 256}, "name"),
        ({"availability_zone": "nowhere"}, "nowhere"),
        ({"created_at": "2999-01-01"}, "in the future"),
        ({"created_at": "0001-01-01T00:00:00+14:00"}, "created_at"),
        ({"network_type": "v" * 33}, "network_type"),
        ({"segmentation_id": 2**24}, "segmentation_id"),
        ({"cidr": "10.0.0.0/64"}, "cidr"),
        ({"ip_version": 5}, "ip_version"),
    ],
)
def test_bad_networks_are_refused(site: Site, values: dict[str, Any], part: str) -> None:
    answer = site.expect(400, "POST", "/v2/share-networks", {"share_network": values})
    assert part in answer["badRequest"]["message"]
    assert site.expect(200, "GET", "/v2/share-networks") == {"share_networks": []}
    assert site.expect(200, "GET", "/v2/limits")["limits"]["absolute"]["totalShareNetworksUsed"] == 0


def test_what_a_request_says_of_a_network(site: Site) -> None:
    """It is shown, and found by, until the cloud says what the network is; as in Manila."""
    said = {"network_type": "vlan", "segmentation_id": 1000, "cidr": "10.0.0.0/24", "ip_version": 4}
    site.network(name="other")
    made = site.network(name="old", **said, created_at="2002-02-02", updated_at=None, user_id="mallory", id=NET)
    assert made["id"] != NET
    shown = site.expect(200, "GET", f"/v2/share-networks/{made['id']}", version="2.0")["share_network"]
    assert shown | said == shown
    assert (shown["created_at"], shown["updated_at"]) == ("2002-02-02T00:00:00.000000", None)
    for query, user in (
        ("created_since=2001-01-01&created_before=2002-10-10", "alice"),
        ("cidr=10.0.0.0/24&ip_version=4", "alice"),
        ("network_type=vlan&segmentation_id=1000&all_tenants=1", "root"),
    ):
        found = site.expect(200, "GET", f"/v2/share-networks/detail?{query}", user=user)["share_networks"]
        assert [each["name"] for each in found] == ["old"], query


def test_nova_networks_are_refused(site: Site) -> None:
    site.expect(400, "POST", "/v2/share-networks", {"share_network": {"nova_net_id": "x"}}, version="2.20")


def test_a_network_without_neutron_ids_is_possible(site: Site) -> None:
    network = site.expect(200, "POST", "/v2/share-networks", {"share_network": {}})["share_network"]
    assert network["share_network_subnets"][0]["neutron_net_id"] is None


def test_changing_a_network(site: Site) -> None:
    network = site.network(neutron_net_id=NET, neutron_subnet_id=SUBNET)
    path = f"/v2/share-networks/{network['id']}"
    changed = site.expect(200, "PUT", path, {"share_network": {"name": "new"}})["share_network"]
    assert changed["name"] == "new"
    other = str(uuid.uuid4())
    changed = site.expect(200, "PUT", path, {"share_network": {"neutron_subnet_id": other}})["share_network"]
    assert changed["share_network_subnets"][0]["neutron_subnet_id"] == other
    assert changed["share_network_subnets"][0]["neutron_net_id"] == NET
    add_server(site, network)
    site.expect(403, "PUT", path, {"share_network": {"neutron_subnet_id": SUBNET}})
    site.expect(200, "PUT", path, {"share_network": {"description": "still"}})
    shown = site.expect(200, "GET", path)["share_network"]
    assert (shown["security_service_update_support"], shown["network_allocation_update_support"]) == (False, True)


def test_a_network_with_shares_stays(any_site: Site) -> None:
    network = any_site.network()
    share = any_site.share(network=network["id"])
    server = add_server(any_site, network, share=share)
    path = f"/v2/share-networks/{network['id']}"
    assert "it has 1 share(s)" in any_site.expect(409, "DELETE", path)["conflictingRequest"]["message"]
    with any_site.store.begin() as tx:
        tx.execute(shares.delete())
    any_site.expect(202, "DELETE", path)
    any_site.expect(404, "GET", path)
    assert any_site.expect(200, "GET", "/v2/limits")["limits"]["absolute"]["totalShareNetworksUsed"] == 0
    # Its idle server goes with it, by an operation.
    with any_site.store.read() as tx:
        row = tx.execute(select(share_servers)).mappings().one()
        asked = tx.execute(select(operations).where(operations.c.kind == "delete_share_server")).mappings().one()
    assert (row["id"], row["status"], row["share_network_id"]) == (server, "deleting", None)
    assert (asked["resource_id"], asked["key"]) == (server, f"share_server:{server}")


def test_subnets(any_site: Site) -> None:
    network = any_site.network()
    path = f"/v2/share-networks/{network['id']}/subnets"
    body = {"neutron_net_id": NET, "neutron_subnet_id": SUBNET, "availability_zone": "zone-1"}
    made = any_site.expect(200, "POST", path, {"share-network-subnet": body})["share_network_subnet"]
    assert (made["availability_zone"], made["share_network_id"]) == ("zone-1", network["id"])
    assert len(any_site.expect(200, "GET", path)["share_network_subnets"]) == 2
    shown = any_site.expect(200, "GET", f"{path}/{made['id']}")["share_network_subnet"]
    assert shown == made
    any_site.expect(409, "POST", path, {"share-network-subnet": body}, version="2.69")
    any_site.expect(409, "POST", path, {"share-network-subnet": {}}, version="2.69")
    any_site.expect(400, "POST", path, {"share-network-subnet": {"availability_zone": "nowhere"}})
    any_site.expect(400, "POST", path, {"share-network-subnet": {"neutron_net_id": NET}})
    any_site.expect(404, "GET", path, version="2.50")
    # A subnet with a share stays, the other one may go.
    share = any_site.share(network=network["id"])
    add_server(any_site, network, share=share)
    default = network["share_network_subnets"][0]["id"]
    any_site.expect(409, "DELETE", f"{path}/{default}")
    any_site.expect(202, "DELETE", f"{path}/{made['id']}")
    any_site.expect(404, "GET", f"{path}/{made['id']}")
    other = any_site.network()
    any_site.expect(404, "GET", f"/v2/share-networks/{other['id']}/subnets/{default}")
    any_site.expect(404, "DELETE", f"/v2/share-networks/{other['id']}/subnets/{default}")


CHECK = "share_network_subnet_create_check"


def second_subnet() -> dict[str, str]:
    return {"neutron_net_id": str(uuid.uuid4()), "neutron_subnet_id": str(uuid.uuid4())}


def test_several_subnets_of_a_zone(any_site: Site) -> None:
    network = any_site.network(neutron_net_id=NET, neutron_subnet_id=SUBNET)
    path, body = f"/v2/share-networks/{network['id']}", second_subnet()
    any_site.expect(409, "POST", f"{path}/subnets", {"share-network-subnet": body}, version="2.69")
    made = any_site.expect(200, "POST", f"{path}/subnets", {"share-network-subnet": body})["share_network_subnet"]
    assert any_site.expect(200, "GET", path)["share_network"]["status"] == "active", "no server has to change"
    same = any_site.expect(200, "POST", f"{path}/subnets", {"share-network-subnet": body})["share_network_subnet"]
    any_site.expect(202, "DELETE", f"{path}/subnets/{same['id']}")
    server = add_server(any_site, network)
    first = network["share_network_subnets"][0]["id"]
    shown = any_site.expect(200, "GET", f"/v2/share-servers/{server}", user="root")["share_server"]
    assert shown["share_network_subnet_ids"] == [first, made["id"]]
    assert shown["network_allocation_update_support"] is True
    for subnet in (first, made["id"]):
        query = f"/v2/share-servers?share_network_subnet_id={subnet}"
        listed = any_site.expect(200, "GET", query, user="root")["share_servers"]
        assert [each["id"] for each in listed] == [server]
    query = f"/v2/share-servers?share_network_subnet_id={uuid.uuid4()}"
    assert any_site.expect(200, "GET", query, user="root")["share_servers"] == []
    any_site.expect(202, "DELETE", f"{path}/subnets/{made['id']}")


def test_another_subnet_where_servers_are(any_site: Site) -> None:
    network = any_site.network(neutron_net_id=NET, neutron_subnet_id=SUBNET)
    path, body = f"/v2/share-networks/{network['id']}", second_subnet()
    share = any_site.share(network=network["id"])
    add_server(any_site, network, share=share)
    asked = {CHECK: {**body, "reset_operation": True}}
    assert any_site.expect(202, "POST", f"{path}/action", asked) == {"compatible": True}
    seen_by_admin = any_site.expect(202, "POST", f"{path}/action", asked, user="root")
    assert seen_by_admin == {"compatible": True, "hosts_check_result": {"node1@one": True}}
    assert any_site.expect(200, "GET", path)["share_network"]["status"] == "active", "a check changes nothing"
    any_site.expect(404, "POST", f"{path}/action", asked, version="2.69")
    any_site.expect(403, "POST", f"{path}/action", asked, user="rita")
    any_site.expect(404, "POST", f"{path}/action", asked, user="bob")
    made = any_site.expect(200, "POST", f"{path}/subnets", {"share-network-subnet": body})["share_network_subnet"]
    assert any_site.expect(200, "GET", path)["share_network"]["status"] == "network_change"
    with any_site.store.read() as tx:
        operation = tx.execute(select(operations).where(operations.c.kind == "add_share_network_subnet")).one()
    assert operation.payload == {"subnet_id": made["id"], "availability_zone": None}
    assert operation.key == f"share_network:{network['id']}"
    for status, method, where in (
        (400, "POST", "subnets"),
        (409, "DELETE", f"subnets/{made['id']}"),
        (409, "DELETE", ""),
    ):
        values = {"share-network-subnet": second_subnet()} if method == "POST" else None
        any_site.expect(status, method, f"{path}/{where}".rstrip("/"), values)


def test_servers_that_cannot_be_on_another_subnet(any_site: Site) -> None:
    network = any_site.network(neutron_net_id=NET, neutron_subnet_id=SUBNET)
    path, body = f"/v2/share-networks/{network['id']}", second_subnet()
    server = add_server(any_site, network)
    with any_site.store.begin() as tx:
        tx.execute(
            service_instances.insert().values(
                id=server, backend="one", layout="router_admin", ports=[], export_addresses=[], host_key="",
                private_key_secret="", host_key_secret="", heal_attempts=0, heal_reboots=0, created_at=utcnow(),
            )
        )  # fmt: skip
    assert any_site.expect(202, "POST", f"{path}/action", {CHECK: body}, user="root") == {
        "compatible": False, "hosts_check_result": {"node1@one": False},
    }  # fmt: skip
    refused = any_site.expect(409, "POST", f"{path}/subnets", {"share-network-subnet": body})
    assert "router" in refused["conflictingRequest"]["message"]
    shown = any_site.expect(200, "GET", path)["share_network"]
    assert (shown["status"], shown["network_allocation_update_support"]) == ("active", False)
    assert len(shown["share_network_subnets"]) == 1
    shown = any_site.expect(200, "GET", f"/v2/share-servers/{server}", user="root")["share_server"]
    assert shown["network_allocation_update_support"] is False


def test_a_zone_needs_a_subnet(site: Site) -> None:
    network = site.network(availability_zone="zone-1")
    share = {"size": 1, "share_proto": "NFS", "share_network_id": network["id"], "availability_zone": "zone-1"}
    site.expect(200, "POST", "/v2/shares", {"share": share})
    subnet = network["share_network_subnets"][0]
    with site.store.begin() as tx:
        tx.execute(update(share_network_subnets).values(availability_zone="zone-9"))
    assert subnet["availability_zone"] == "zone-1"
    refused = site.expect(400, "POST", "/v2/shares", {"share": share})["badRequest"]["message"]
    assert "subnet was not found for the requested availability zone" in refused


def test_metadata_of_a_subnet(site: Site) -> None:
    network = site.network()
    path = f"/v2/share-networks/{network['id']}/subnets/{network['share_network_subnets'][0]['id']}/metadata"
    assert site.expect(200, "GET", path) == {"metadata": {}}
    assert site.expect(200, "POST", path, {"metadata": {"a": "1"}}) == {"metadata": {"a": "1"}}
    assert site.expect(200, "POST", path, {"metadata": {"b": "2"}}) == {"metadata": {"a": "1", "b": "2"}}
    assert site.expect(200, "PUT", path, {"metadata": {"c": "3"}}) == {"metadata": {"c": "3"}}
    assert site.expect(200, "POST", f"{path}/c", {"meta": {"c": "4"}}) == {"meta": {"c": "4"}}
    assert site.expect(200, "GET", f"{path}/c") == {"meta": {"c": "4"}}
    assert site.ask("DELETE", f"{path}/c").status_code == 200
    site.expect(404, "GET", f"{path}/c")
    site.expect(404, "DELETE", f"{path}/c")
    site.expect(400, "POST", path, {"metadata": {"": "x"}})
    site.expect(403, "POST", path, {"metadata": {"a": "x"}}, user="rita")
    site.expect(404, "GET", path, user="bob")
    site.expect(404, "GET", path, version="2.77")


def test_listing_and_filtering_networks(site: Site) -> None:
    first = site.network(name="first", neutron_net_id=NET, neutron_subnet_id=SUBNET)
    second = site.network(name="second")
    site.network("bob", name="foreign")

    def names(query: str, **options: Any) -> list[str]:
        found = site.expect(200, "GET", f"/v2/share-networks/detail?{query}", **options)["share_networks"]
        return [network["name"] for network in found]

    assert names("") == ["second", "first"]
    assert names("sort_key=name&sort_dir=asc") == ["first", "second"]
    assert names("name=first") == names("name~=irs") == names(f"neutron_net_id={NET}") == ["first"]
    assert names(f"neutron_subnet_id={SUBNET}") == names(f"neutron_subnet_id~={SUBNET[:8]}") == ["first"]
    assert names("created_since=2020-01-01&created_before=2999-01-01") == ["second", "first"]
    assert names("created_since=2999-01-01") == names("security_service_id=x") == names("ip_version=6") == []
    assert names("all_tenants=1") == ["second", "first"]
    assert names("all_tenants=1", user="root") == ["foreign", "second", "first"]
    assert names("all_projects=1&project_id=green", user="root") == ["foreign"]
    assert names("project_id=green", user="root") == ["foreign"]
    assert names("project_id=green") == ["second", "first"]
    site.expect(400, "GET", "/v2/share-networks?created_since=yesterday")
    site.expect(400, "GET", "/v2/share-networks?sort_key=colour")
    page = site.expect(200, "GET", "/v2/share-networks?limit=1")
    assert page["share_networks"] == [{"id": second["id"], "name": "second"}]
    (following,) = page["share_networks_links"]
    rest = site.expect(200, "GET", following["href"].removeprefix(site.url))
    assert rest["share_networks"] == [{"id": first["id"], "name": "first"}]


def test_the_number_of_statements_does_not_grow(site: Site) -> None:
    counts = []
    for _ in range(2):
        for _ in range(3):
            site.network()
        with site.statements() as seen:
            site.expect(200, "GET", "/v2/share-networks/detail")
        counts.append(len(seen))
    assert counts == [2, 2]


def test_resetting_the_status(site: Site) -> None:
    network = site.network()
    path = f"/v2/share-networks/{network['id']}/action"
    site.expect(403, "POST", path, {"reset_status": {"status": "error"}})
    site.expect(400, "POST", path, {"reset_status": {"status": "odd"}}, user="root")
    site.expect(202, "POST", path, {"reset_status": {"status": "error"}}, user="root")
    share = {"size": 1, "share_proto": "NFS", "share_network_id": network["id"]}
    assert "'error'" in site.expect(400, "POST", "/v2/shares", {"share": share})["badRequest"]["message"]
    site.expect(404, "POST", path, {"add_security_service": {"security_service_id": "x"}})


def test_share_servers_are_for_admins(any_site: Site) -> None:
    network = any_site.network(name="net")
    share = any_site.share(network=network["id"])
    busy = add_server(any_site, network, share=share)
    idle = add_server(any_site, network)
    listed = any_site.expect(200, "GET", "/v2/share-servers", user="root")["share_servers"]
    assert {server["id"] for server in listed} == {busy, idle}
    assert {server["share_network_name"] for server in listed} == {"net"}
    for query, count in (
        ("share_network_id=net", 2), ("share_network_id=other", 0), ("status=active", 2), ("status=error", 0),
        ("host=node1@one", 2), (f"identifier={idle}", 1), ("project_id=green", 0),
    ):  # fmt: skip
        found = any_site.expect(200, "GET", f"/v2/share-servers?{query}", user="root")["share_servers"]
        assert len(found) == count, query
    path = f"/v2/share-servers/{idle}"
    shown = any_site.expect(200, "GET", path, user="root")["share_server"]
    assert (shown["identifier"], shown["is_auto_deletable"]) == (idle, True)
    assert shown["share_network_subnet_ids"] == [network["share_network_subnets"][0]["id"]]
    assert shown["backend_details"] == {}
    older = any_site.expect(200, "GET", path, user="root", version="2.51")["share_server"]
    assert older["share_network_subnet_id"] == network["share_network_subnets"][0]["id"]
    assert any_site.expect(200, "GET", f"{path}/details", user="root") == {"details": {}}
    for user in ("alice", "rita"):
        for method, url in (("GET", "/v2/share-servers"), ("GET", path), ("GET", f"{path}/details"), ("DELETE", path)):
            any_site.expect(403, method, url, user=user)
    any_site.expect(409, "DELETE", f"/v2/share-servers/{busy}", user="root")
    any_site.expect(202, "DELETE", path, user="root")
    any_site.expect(403, "DELETE", path, user="root")
    any_site.expect(404, "DELETE", f"/v2/share-servers/{uuid.uuid4()}", user="root")
    action = f"{path}/action"
    any_site.expect(202, "POST", action, {"reset_status": {"status": "error"}}, user="root")
    any_site.expect(202, "DELETE", path, user="root")
