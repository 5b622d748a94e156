"""Small things that Manila's own test suite asks for."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from site_for_tests import Site
from sqlalchemy import select, update

from sharewright.identifiers import new_id, utcnow
from sharewright.operations.affinities import LONGEST
from sharewright.store.tables import operations, pools, share_instances, share_metadata, share_servers

SAME, APART = "__affinity_same_host", "__affinity_different_host"
SPECS = {"driver_handles_share_servers": "True"}


def metadata(site: Site, share: dict[str, Any]) -> dict[str, str]:
    return dict(site.expect(200, "GET", f"/v2/shares/{share['id']}/metadata")["metadata"])


def wait_made(site: Site, share: dict[str, Any]) -> dict[str, Any]:
    return dict(site.wait(f"/v2/shares/{share['id']}", "share", "status", "available", seconds=120))


def add_pool(site: Site, zone: str, *, free: float = 10.0, **capabilities: Any) -> None:
    capabilities = {"driver_handles_share_servers": True} | capabilities
    with site.store.begin() as tx:
        tx.execute(
            pools.insert().values(
                host=f"node1@{zone}#pool", backend=zone, availability_zone=zone, free_capacity=free,
                total_capacity=free, capabilities=capabilities, reported_at=utcnow(),
            )
        )  # fmt: skip


def test_hints_are_kept_in_the_metadata_of_all_that_they_name(working_site: Site) -> None:
    site = working_site
    network = site.real_network()
    first = site.share(network=network)
    wait_made(site, first)
    second = site.share(network=network, metadata={"mine": "x"}, scheduler_hints={"same_host": first["id"]})
    wait_made(site, second)
    third = site.share(network=network, scheduler_hints={"same_host": f"{second['id']}, {first['id']},{first['id']}"})
    assert metadata(site, first) == {SAME: f"{second['id']},{third['id']}"}
    assert metadata(site, second) == {"mine": "x", SAME: f"{first['id']},{third['id']}"}
    assert metadata(site, third) == {SAME: f"{second['id']},{first['id']}"}
    wait_made(site, third)
    site.expect(202, "DELETE", f"/v2/shares/{second['id']}")
    site.wait_gone(f"/v2/shares/{second['id']}", seconds=120)
    assert metadata(site, first) == {SAME: third["id"]}
    site.expect(202, "DELETE", f"/v2/shares/{third['id']}")
    site.wait_gone(f"/v2/shares/{third['id']}", seconds=120)
    assert metadata(site, first) == {}


def test_a_hint_that_no_metadata_could_hold_is_still_a_hint(site: Site) -> None:
    first = site.share()
    long = ",".join(new_id() for _ in range(27))
    assert len(long) < LONGEST < len(long) + 37
    with site.store.begin() as tx:
        tx.execute(share_metadata.insert().values(share_id=first["id"], key=APART, value=long))
    second = site.share(scheduler_hints={"different_host": first["id"]})
    assert metadata(site, first) == {APART: long}
    assert metadata(site, second) == {APART: first["id"]}


def test_members_do_not_list_by_host(site: Site) -> None:
    site.expect(403, "GET", "/v2/shares?host=node1@one")
    site.expect(403, "GET", "/v2/shares/detail?host=node1@one")
    assert site.expect(200, "GET", "/v2/shares?host=node1@one", user="root") == {"shares": []}


@pytest.mark.parametrize(
    ("method", "path", "body", "version"),
    [
        ("POST", "/v2/shares/manage", {"share": {"nonsense": 1}}, None),
        ("POST", "/v2/os-share-manage", {}, "2.6"),
        ("POST", "/v2/shares/{id}/action", {"unmanage": 5}, None),
        ("POST", "/v2/shares/{id}/action", {"reset_status": {"x": 5}}, None),
        ("POST", "/v2/shares/{id}/action", {"reset_task_state": {"x": 5}}, None),
        ("POST", "/v2/shares/{id}/action", {"migration_start": {}}, None),
        ("POST", "/v2/share-servers/manage", {}, None),
        ("POST", "/v2/share-servers/{id}/action", {"reset_status": {}}, None),
        ("POST", "/v2/share_instances/{id}/action", {"reset_status": {}}, None),
        ("POST", "/v2/snapshots/manage", {}, None),
        ("POST", "/v2/snapshots/{id}/action", {"reset_status": {}}, None),
        ("POST", "/v2/snapshot-instances/{id}/action", {"reset_status": {}}, None),
        ("POST", "/v2/share-networks/{id}/action", {"reset_status": {}}, None),
        ("POST", "/v2/types", {}, None),
        ("POST", "/v2/types/{id}/extra_specs", {}, None),
        ("POST", "/v2/types/{id}/action", {"addProjectAccess": {}}, None),
        ("POST", "/v2/qos-types", {}, None),
        ("PUT", "/v2/services/disable", {}, None),
        ("PUT", "/v2/quota-sets/blue", {}, None),
    ],
)
def test_who_may_not_do_it_learns_nothing_of_the_body(
    site: Site, method: str, path: str, body: Any, version: str | None
) -> None:
    options: dict[str, Any] = {"version": version} if version else {}
    where = path.replace("{id}", str(uuid.uuid4()))
    site.expect(403, method, where, body, **options)
    answer = site.ask(method, where, body, user="root", **options)
    assert answer.status_code in (400, 404, 422), answer.text


def test_a_types_qos_type_must_exist(site: Site) -> None:
    values = {"name": "fast", "extra_specs": {**SPECS, "default_qos_type": "gold"}}
    site.expect(200, "POST", "/v2/types", {"share_type": values}, user="root")
    share = {"share": {"size": 1, "share_proto": "NFS", "share_network_id": site.network()["id"], "share_type": "fast"}}
    assert "no QoS type" in site.expect(400, "POST", "/v2/shares", share)["badRequest"]["message"]
    site.expect(200, "POST", "/v2/qos-types", {"qos_type": {"name": "gold"}}, user="root")
    site.expect(200, "POST", "/v2/shares", share)


def test_a_types_zones_count_from_2_48_on(working_site: Site) -> None:
    site = working_site
    values = {"name": "elsewhere", "extra_specs": {**SPECS, "availability_zones": "the-moon"}}
    site.expect(200, "POST", "/v2/types", {"share_type": values})
    body = {"size": 1, "share_proto": "NFS", "share_network_id": site.real_network(), "share_type": "elsewhere"}
    zoned = {"share": body | {"availability_zone": "zone-1"}}
    site.expect(400, "POST", "/v2/shares", zoned)
    for asked in (zoned, {"share": body}):
        share = site.expect(200, "POST", "/v2/shares", asked, version="2.47")["share"]
        assert wait_made(site, share)["availability_zone"] == "zone-1"
    share = site.expect(200, "POST", "/v2/shares", {"share": body})["share"]
    site.wait(f"/v2/shares/{share['id']}", "share", "status", "error", seconds=120)


def test_a_group_without_a_zone_gets_one_that_takes_its_shares(site: Site) -> None:
    values = {"name": "flashy", "extra_specs": {**SPECS, "flash": "True"}}
    share_type = site.expect(200, "POST", "/v2/types", {"share_type": values}, user="root")["share_type"]["id"]
    kind = {"share_group_type": {"name": "gt", "share_types": [share_type]}}
    group_type = site.expect(200, "POST", "/v2/share-group-types", kind, user="root")["share_group_type"]["id"]
    with site.store.begin() as tx:
        tx.execute(pools.delete())

    def make(network: str) -> str | None:
        body = {"share_group_type_id": group_type, "share_types": [share_type], "share_network_id": network}
        made = site.expect(202, "POST", "/v2/share-groups", {"share_group": body})["share_group"]
        return str(made["availability_zone"]) if made["availability_zone"] else None

    network = str(site.network()["id"])
    assert make(network) is None
    add_pool(site, "zone-1", free=5, flash=True)
    add_pool(site, "zone-2", free=50, flash=False)
    add_pool(site, "zone-3", free=7, flash=True)
    assert make(network) == "zone-3"
    assert make(str(site.network(availability_zone="zone-1")["id"])) == "zone-1"
    more = {"extra_specs": {"availability_zones": "zone-1,zone-2"}}
    site.expect(200, "POST", f"/v2/types/{share_type}/extra_specs", more, user="root")
    assert make(network) == "zone-1"


def a_server(site: Site, network: dict[str, Any], **values: Any) -> str:
    identifier = new_id()
    with site.store.begin() as tx:
        tx.execute(
            share_servers.insert().values(
                {
                    "id": identifier, "project_id": "blue", "share_network_id": network["id"], "backend": "one",
                    "share_network_subnet_id": network["share_network_subnets"][0]["id"], "host": "node1@one",
                    "status": "active", "created_at": utcnow(),
                }
                | values
            )
        )  # fmt: skip
    return identifier


def test_servers_that_are_kept_keep_their_network(site: Site) -> None:
    network = site.network()
    server = a_server(site, network, is_auto_deletable=False)
    one = f"/v2/share-networks/{network['id']}"
    subnet = f"{one}/subnets/{network['share_network_subnets'][0]['id']}"
    for path in (one, subnet):
        assert "were unmanaged" in site.expect(409, "DELETE", path)["conflictingRequest"]["message"]
    with site.store.begin() as tx:
        tx.execute(update(share_servers).where(share_servers.c.id == server).values(is_auto_deletable=True))
    site.expect(202, "DELETE", subnet)
    site.expect(202, "DELETE", one)


def test_a_server_that_is_worked_on_is_not_deleted_whatever_is_on_it(site: Site) -> None:
    network = site.network()
    server = a_server(site, network, status="creating")
    share = site.share(network=network["id"])
    with site.store.begin() as tx:
        mine = share_instances.c.share_id == share["id"]
        tx.execute(update(share_instances).where(mine).values(share_server_id=server))
    site.expect(403, "DELETE", f"/v2/share-servers/{server}", user="root")


def test_what_is_like_a_servers_id_is_no_other_server(site: Site) -> None:
    network = site.network()
    server = a_server(site, network)
    add_pool(site, "one")
    body = {"host": "node1@one", "share_network_id": network["id"]}
    for alike in (f"foo_{server}_bar", server.rpartition("-")[2], server.replace("-", "_"), server.upper()):
        asked = {"share_server": body | {"identifier": alike}}
        answer = site.expect(400, "POST", "/v2/share-servers/manage", asked, user="root")
        assert server in answer["badRequest"]["message"]
    asked = {"share_server": body | {"identifier": "another%one"}}
    site.expect(202, "POST", "/v2/share-servers/manage", asked, user="root")


def test_a_networks_id_may_have_blanks(site: Site) -> None:
    made = site.network(neutron_net_id="test net id", neutron_subnet_id="test subnet id")
    assert made["share_network_subnets"][0]["neutron_net_id"] == "test net id"
    for wrong in (" x", "x ", "a/b", "a" * 37):
        values = {"neutron_net_id": wrong, "neutron_subnet_id": "x"}
        site.expect(400, "POST", "/v2/share-networks", {"share_network": values})


def test_several_subnets_of_the_backends_own_network(site: Site) -> None:
    """They mean no second NIC, so servers need no change; one of the tenant's beside them would."""
    body = {"share_network": {"name": "default network"}}
    network = site.expect(200, "POST", "/v2/share-networks", body)["share_network"]
    a_server(site, network)
    add_pool(site, "one", network_allocation_update_support=True)
    path = f"/v2/share-networks/{network['id']}/subnets"
    other = {"neutron_net_id": str(uuid.uuid4()), "neutron_subnet_id": str(uuid.uuid4())}
    site.expect(409, "POST", path, {"share-network-subnet": other})
    site.expect(200, "POST", path, {"share-network-subnet": {}})
    with site.store.read() as tx:
        kinds = tx.execute(select(operations.c.kind)).scalars().all()
    assert kinds == ["add_share_network_subnet"]


def test_task_states_of_share_servers(site: Site) -> None:
    server = a_server(site, site.network())
    path, experimental = f"/v2/share-servers/{server}", {"X-OpenStack-Manila-API-Experimental": "True"}

    def reset(status: int, values: Any, user: str = "root", where: str = path, **options: Any) -> None:
        options = {"headers": experimental} | options
        site.expect(status, "POST", f"{where}/action", {"reset_task_state": values}, user=user, **options)

    for state in ("migration_cancelled", None):
        reset(202, {"task_state": state})
        assert site.expect(200, "GET", path, user="root")["share_server"]["task_state"] == state
    for wrong in ({}, {"task_state": "data_copying_error"}, {"task_state": 5}, {"task_state": None, "x": 1}):
        reset(400, wrong)
    reset(403, {}, user="alice")
    reset(404, {"task_state": None}, where=f"/v2/share-servers/{uuid.uuid4()}")
    reset(404, {"task_state": None}, headers={})
    reset(404, {"task_state": None}, version="2.56")


def test_a_server_that_was_not_found_keeps_what_it_was_called(site: Site) -> None:
    network = site.network()
    add_pool(site, "one")
    body = {"host": "node1@one", "share_network_id": network["id"], "identifier": "no such VM"}
    made = site.expect(202, "POST", "/v2/share-servers/manage", {"share_server": body}, user="root")["share_server"]
    assert made["identifier"] == "no such VM"
    found = site.expect(200, "GET", "/v2/share-servers?identifier=no%20such%20VM", user="root")["share_servers"]
    assert [each["id"] for each in found] == [made["id"]]
    assert site.expect(200, "GET", f"/v2/share-servers?identifier={made['id']}", user="root")["share_servers"] == []
