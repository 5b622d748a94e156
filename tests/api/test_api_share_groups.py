"""Share groups, and shares in them."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from site_for_tests import Site

PATH = "/v2/share-groups"
MISSING = str(uuid.uuid4())
EXPERIMENTAL = {"X-OpenStack-Manila-API-Experimental": "true"}


def group_type(site: Site, name: str = "trio", *, share_types: tuple[str, ...] = ("default",), **values: Any) -> str:
    body = {"share_group_type": {"name": name, "share_types": share_types, **values}}
    answer = site.expect(200, "POST", "/v2/share-group-types", body, user="root")
    return str(answer["share_group_type"]["id"])


def share_type(site: Site, name: str, handles_servers: str = "True") -> str:
    body = {"share_type": {"name": name, "extra_specs": {"driver_handles_share_servers": handles_servers}}}
    return str(site.expect(200, "POST", "/v2/types", body, user="root")["share_type"]["id"])


def make(site: Site, *, user: str = "alice", status: int = 202, finish: bool = True, **values: Any) -> Any:
    """``finish``: where no worker runs one that is not made from a snapshot is available, as with its share server."""
    answer = site.expect(status, "POST", PATH, {"share_group": values}, user=user)
    if status != 202:
        return answer
    made = answer["share_group"]
    if not finish or made["status"] != "creating" or made["source_share_group_snapshot_id"]:
        return made
    site.finish_group(made["id"])
    return site.expect(200, "GET", f"{PATH}/{made['id']}", user=user)["share_group"]


def in_use(site: Site) -> int:
    limits = site.expect(200, "GET", "/v2/limits")["limits"]["absolute"]
    return int(limits["totalShareGroupsUsed"])


def test_a_share_group(any_site: Site) -> None:
    site = any_site
    kind, network = group_type(site), site.network()["id"]
    default = site.expect(200, "GET", "/v2/types/default")["share_type"]["id"]
    made = make(site, name="three", description="d", share_group_type_id=kind, share_network_id=network, finish=False)
    links = made.pop("links")
    assert links[0]["href"].endswith(f"{PATH}/{made['id']}")
    assert made == {
        "id": made["id"],
        "name": "three",
        "description": "d",
        "status": "creating",
        "created_at": made["created_at"],
        "project_id": "blue",
        "share_group_type_id": kind,
        "share_types": [default],
        "share_network_id": network,
        "source_share_group_snapshot_id": None,
        "consistent_snapshot_support": None,
        "availability_zone": None,
        "host": None,
    }
    one = f"{PATH}/{made['id']}"
    assert site.expect(200, "GET", one)["share_group"] == made | {"links": links}
    as_admin = site.expect(200, "GET", one, user="root")["share_group"]
    assert (as_admin["host"], as_admin["share_server_id"]) == (None, None)
    site.expect(409, "DELETE", one)
    server = str(uuid.uuid4())
    site.finish_group(made["id"], server)
    assert site.expect(200, "GET", one)["share_group"] == made | {"links": links, "status": "available"}
    assert site.expect(200, "GET", one, user="root")["share_group"]["share_server_id"] == server
    old = site.expect(200, "GET", one, version="2.31", headers=EXPERIMENTAL)["share_group"]
    assert "consistent_snapshot_support" not in old
    assert "availability_zone" not in old
    changed = site.expect(200, "PUT", one, {"share_group": {"name": "four", "description": ""}})["share_group"]
    assert (changed["name"], changed["description"]) == ("four", "")
    site.expect(403, "PUT", one, {"share_group": {"name": "x"}}, user="rita")
    site.expect(404, "GET", one, user="bob")
    site.expect(404, "DELETE", one, user="bob")
    assert in_use(site) == 1
    site.expect(202, "DELETE", one)
    site.expect(404, "GET", one)
    site.expect(404, "DELETE", one)
    assert in_use(site) == 0


def test_lists(site: Site) -> None:
    kind, network = group_type(site), site.network()["id"]
    made = [make(site, name=name, share_group_type_id=kind, share_network_id=network) for name in ("a", "b", "ab")]
    bobs = make(site, user="bob", share_group_type_id=kind, share_network_id=site.network("bob")["id"])

    def names(query: str, user: str = "alice") -> list[str]:
        answer = site.expect(200, "GET", f"{PATH}?{query}", user=user)
        assert all(set(found) == {"id", "name", "links"} for found in answer["share_groups"])
        return [found["name"] for found in answer["share_groups"]]

    assert names("sort_key=name&sort_dir=asc") == ["a", "ab", "b"]
    assert names("name=a") == ["a"]
    assert names("name~=a&sort_key=name&sort_dir=asc") == ["a", "ab"]
    assert names(f"share_group_type_id={kind}&sort_key=name&sort_dir=asc&limit=1&offset=1") == ["ab"]
    assert len(names(f"group_type_id={kind}")) == 3
    assert names("status=error") == []
    assert names("all_tenants=1&sort_key=name&sort_dir=asc") == ["a", "ab", "b"]
    assert len(names("all_tenants=1", user="root")) == 4
    assert names("all_tenants=1&project_id=green", user="root") == [bobs["name"]]
    detailed = site.expect(200, "GET", f"{PATH}/detail?name=b")["share_groups"]
    assert detailed == [made[1]]
    with site.statements() as statements:
        site.expect(200, "GET", f"{PATH}/detail")
    assert len(statements) == 2
    site.expect(400, "GET", f"{PATH}?sort_key=colour")
    site.expect(404, "GET", PATH, version="2.54")
    site.expect(200, "GET", PATH, version="2.31", headers=EXPERIMENTAL)


@pytest.mark.parametrize(
    ("values", "status", "said"),
    [
        ({"share_group_type_id": None}, 400, "no default share group type"),
        ({"share_group_type_id": MISSING}, 400, "Share group type"),
        ({"share_types": [MISSING]}, 400, "Share type"),
        ({"share_types": ["other"]}, 400, "must be a subset"),
        ({"share_types": ["default", "plain"]}, 400, "conflicting values"),
        ({"share_types": "default"}, 400, "share_types"),
        ({"share_network_id": None}, 400, "Share network must be set"),
        ({"share_network_id": MISSING}, 400, "Share network"),
        ({"availability_zone": "nowhere"}, 404, "Availability zone"),
        ({"source_share_group_snapshot_id": MISSING, "share_network_id": None}, 400, "Share group snapshot"),
        ({"name": "n" * 256}, 400, "name"),
        ({"colour": "x"}, 400, "colour"),
    ],
)
def test_bad_groups_are_refused(site: Site, values: dict[str, Any], status: int, said: str) -> None:
    share_type(site, "other")
    share_type(site, "plain", "False")
    kind = group_type(site, share_types=("default", "plain"))
    good = {"share_group_type_id": kind, "share_network_id": site.network()["id"]}
    (fault,) = make(site, status=status, **good | values).values()
    assert said in fault["message"]
    assert site.expect(200, "GET", PATH)["share_groups"] == []
    assert in_use(site) == 0


def test_no_backend_has_consistent_groups(site: Site) -> None:
    kind = group_type(site, group_specs={"consistent_snapshot_support": "host"})
    made = make(site, share_group_type_id=kind, share_network_id=site.network()["id"])
    assert made["status"] == "error"
    (message,) = site.expect(200, "GET", f"/v2/messages?resource_id={made['id']}")["messages"]
    assert "consistent_snapshot_support = host, which no backend offers" in message["user_message"]
    assert message["resource_type"] == "SHARE_GROUP"
    site.expect(202, "DELETE", f"{PATH}/{made['id']}")


def test_the_quota_of_share_groups(site: Site) -> None:
    values = {"share_group_type_id": group_type(site), "share_network_id": site.network()["id"]}
    site.expect(200, "PUT", "/v2/quota-sets/blue", {"quota_set": {"share_groups": 1}}, user="root")
    made = make(site, **values)
    refused = make(site, status=413, **values)
    assert "ShareGroupsLimitExceeded" in refused["overLimit"]["message"]
    site.expect(202, "DELETE", f"{PATH}/{made['id']}")
    make(site, **values)


def test_what_a_group_uses_stays(any_site: Site) -> None:
    site = any_site
    network = site.network()["id"]
    kind = group_type(site)
    made = make(site, share_group_type_id=kind, share_network_id=network)
    refused = site.expect(409, "DELETE", f"/v2/share-networks/{network}")
    assert "share group" in refused["conflictingRequest"]["message"]
    refused = site.expect(400, "DELETE", f"/v2/share-group-types/{kind}", user="root")
    assert "still in use" in refused["badRequest"]["message"]
    site.expect(202, "DELETE", f"{PATH}/{made['id']}")
    site.expect(202, "DELETE", f"/v2/share-networks/{network}")
    site.expect(204, "DELETE", f"/v2/share-group-types/{kind}", user="root")


@pytest.mark.parametrize("status", ["available", "error", "creating", "deleting", "error_deleting"])
def test_administrators_reset_and_force(site: Site, status: str) -> None:
    made = make(site, share_group_type_id=group_type(site), share_network_id=site.network()["id"])
    action = f"{PATH}/{made['id']}/action"
    site.expect(403, "POST", action, {"reset_status": {"status": status}})
    site.expect(403, "POST", action, {"force_delete": None})
    site.expect(400, "POST", action, {"reset_status": {"status": "broken"}}, user="root")
    site.expect(202, "POST", action, {"reset_status": {"status": status}}, user="root")
    assert site.expect(200, "GET", f"{PATH}/{made['id']}")["share_group"]["status"] == status
    busy = status in ("creating", "deleting")
    if busy:
        site.expect(409, "DELETE", f"{PATH}/{made['id']}")
        site.expect(202, "POST", action, {"force_delete": None}, user="root")
    else:
        site.expect(202, "DELETE", f"{PATH}/{made['id']}")
    site.expect(404, "GET", f"{PATH}/{made['id']}")
    assert in_use(site) == 0


def test_a_share_in_a_group(any_site: Site) -> None:
    site = any_site
    network = site.network()["id"]
    other = share_type(site, "other")
    made = make(
        site, share_group_type_id=group_type(site), share_network_id=network, share_types=["default"],
        availability_zone=None,
    )  # fmt: skip
    body = {"size": 1, "share_proto": "NFS", "share_group_id": made["id"]}
    share = site.expect(200, "POST", "/v2/shares", {"share": body})["share"]
    assert (share["share_group_id"], share["share_network_id"]) == (made["id"], network)
    listed = site.expect(200, "GET", f"/v2/shares?share_group_id={made['id']}")["shares"]
    assert [found["id"] for found in listed] == [share["id"]]
    assert site.expect(200, "GET", f"/v2/shares?share_group_id={MISSING}")["shares"] == []
    for values, status, said in (
        ({"share_network_id": site.network()["id"]}, 400, "must have the group's share network"),
        ({"share_type": other}, 400, "is not supported by the specified share group"),
        ({"share_group_id": MISSING}, 404, "Share group"),
    ):
        (fault,) = site.expect(status, "POST", "/v2/shares", {"share": body | values}).values()
        assert said in fault["message"]
    site.expect(
        404, "POST", "/v2/shares", {"share": body | {"share_network_id": site.network("bob")["id"]}}, user="bob"
    )
    site.finish(share["id"])
    group, one = f"{PATH}/{made['id']}", f"/v2/shares/{share['id']}"
    assert site.expect(200, "GET", group, user="root")["share_group"]["host"] == "node1@one#pool"
    refused = site.expect(409, "DELETE", group)
    assert "1 share(s)" in refused["conflictingRequest"]["message"]
    site.expect(409, "POST", f"{group}/action", {"force_delete": None}, user="root")
    site.expect(400, "DELETE", one)
    site.expect(400, "DELETE", f"{one}?share_group_id={MISSING}")
    assert site.expect(200, "GET", one)["share"]["status"] == "available"
    site.expect(202, "DELETE", f"{one}?share_group_id={made['id']}")


def test_a_group_that_is_not_available_takes_no_shares(site: Site) -> None:
    made = make(site, share_group_type_id=group_type(site), share_network_id=site.network()["id"])
    reset = {"reset_status": {"status": "error"}}
    site.expect(202, "POST", f"{PATH}/{made['id']}/action", reset, user="root")
    body = {"share": {"size": 1, "share_proto": "NFS", "share_group_id": made["id"]}}
    refused = site.expect(400, "POST", "/v2/shares", body)
    assert "must be available" in refused["badRequest"]["message"]


def test_a_group_has_its_zone(site: Site) -> None:
    network = site.network()["id"]
    made = make(site, share_group_type_id=group_type(site), share_network_id=network, availability_zone="zone-1")
    body = {"size": 1, "share_proto": "NFS", "share_group_id": made["id"]}
    old = {"share_group_type_id": made["share_group_type_id"], "share_network_id": network}
    nowhere = {"share_group": old | {"availability_zone": "nowhere"}}
    site.expect(404, "POST", PATH, nowhere, version="2.31", headers=EXPERIMENTAL)
    refused = site.expect(400, "POST", "/v2/shares", {"share": body | {"availability_zone": "zone-2"}})
    assert "must have the group's availability zone" in refused["badRequest"]["message"]
    assert site.expect(200, "POST", "/v2/shares", {"share": body})["share"]["availability_zone"] == "zone-1"


def test_the_shares_of_a_group_are_on_one_backend(two_backends: Site) -> None:
    site = two_backends
    network = site.real_network()
    made = make(site, share_group_type_id=group_type(site), share_network_id=network, finish=False)
    site.wait(f"{PATH}/{made['id']}", "share_group", "status", "available")
    server = site.expect(200, "GET", f"{PATH}/{made['id']}", user="root")["share_group"]["share_server_id"]
    assert site.expect(200, "GET", f"/v2/share-servers/{server}", user="root")["share_server"]["status"] == "active"
    assert (
        "share groups"
        in site.expect(409, "DELETE", f"/v2/share-servers/{server}", user="root")["conflictingRequest"]["message"]
    )
    shares = [site.share(network=network, share_group_id=made["id"]) for _ in range(6)]
    hosts = {site.host_of(share) for share in shares}
    assert len(hosts) == 1
    assert {site.expect(200, "GET", f"{PATH}/{made['id']}", user="root")["share_group"]["host"]} == hosts
    servers = {
        site.expect(200, "GET", f"/v2/shares/{share['id']}", user="root")["share"]["share_server_id"]
        for share in shares
    }
    assert servers == {server}
    action = f"/v2/share-servers/{server}/action"
    refused = site.expect(400, "POST", action, {"unmanage": {"force": False}}, user="root")
    assert "in use" in refused["badRequest"]["message"]
    wishes = {"writable": False, "nondisruptive": False, "preserve_snapshots": False}
    check = {"migration_check": {"host": "node1@two", **wishes}}
    refused = site.expect(409, "POST", action, check, user="root", headers=EXPERIMENTAL)
    assert "related to a share group" in refused["conflictingRequest"]["message"]
    (host,) = hosts
    elsewhere = site.share(network=network, scheduler_hints={"different_host": shares[0]["id"]})
    assert site.host_of(elsewhere) != host
    torn = site.share(network=network, share_group_id=made["id"], scheduler_hints={"different_host": shares[0]["id"]})
    site.wait(f"/v2/shares/{torn['id']}", "share", "status", "error")
    (message,) = site.expect(200, "GET", f"/v2/messages?resource_id={torn['id']}")["messages"]
    assert "share group: its shares are on backend" in message["user_message"]
    for share in (*shares, torn):
        site.expect(202, "DELETE", f"/v2/shares/{share['id']}?share_group_id={made['id']}")
    for share in (*shares, torn):
        site.wait_gone(f"/v2/shares/{share['id']}")
    site.expect(202, "DELETE", f"{PATH}/{made['id']}")
