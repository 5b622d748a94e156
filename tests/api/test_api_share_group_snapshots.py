"""Share group snapshots, and share groups that are made from them."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from site_for_tests import Site
from test_api_share_groups import EXPERIMENTAL, group_type
from test_api_share_groups import PATH as GROUPS
from test_api_share_groups import make as make_group

from sharewright.identifiers import utcnow
from sharewright.store.tables import pools

PATH = "/v2/share-group-snapshots"
MISSING = str(uuid.uuid4())


def a_group(site: Site, *sizes: int, user: str = "alice", **values: Any) -> tuple[dict[str, Any], list[str]]:
    """A group with available shares of these sizes, and their ids."""
    network = site.network(user)["id"]
    named = values.pop("share_group_type_id", None) or group_type(site, f"type-{uuid.uuid4()}")
    group = make_group(site, user=user, share_group_type_id=named, share_network_id=network, **values)
    made = []
    for size in sizes:
        body = {"share": {"size": size, "share_proto": "NFS", "share_group_id": group["id"]}}
        made.append(str(site.expect(200, "POST", "/v2/shares", body, user=user)["share"]["id"]))
        site.finish(made[-1])
    return group, made


def make(site: Site, group: str, *, user: str = "alice", status: int = 202, **values: Any) -> Any:
    body = {"share_group_snapshot": {"share_group_id": group, **values}}
    answer = site.expect(status, "POST", PATH, body, user=user)
    return answer["share_group_snapshot"] if status == 202 else answer


def reset(site: Site, path: str, status: str) -> None:
    site.expect(202, "POST", f"{path}/action", {"reset_status": {"status": status}}, user="root")


def in_use(site: Site) -> int:
    limits = site.expect(200, "GET", "/v2/limits", version="2.58")["limits"]["absolute"]
    return int(limits["totalShareGroupSnapshotsUsed"])


def test_a_group_snapshot(any_site: Site) -> None:
    site = any_site
    group, made = a_group(site, 1, 2)
    snapshot = make(site, group["id"], name="both", description="d")
    links, members = snapshot.pop("links"), snapshot.pop("members")
    one = f"{PATH}/{snapshot['id']}"
    assert links[0]["href"].endswith(one)
    assert snapshot == {
        "id": snapshot["id"],
        "name": "both",
        "description": "d",
        "status": "creating",
        "created_at": snapshot["created_at"],
        "project_id": "blue",
        "share_group_id": group["id"],
    }
    assert {(member["share_id"], member["size"]) for member in members} == {(made[0], 1), (made[1], 2)}
    assert all(set(member) == {"id", "size", "share_id"} for member in members)
    whole = snapshot | {"links": links, "members": members}
    assert site.expect(200, "GET", one)["share_group_snapshot"] == whole
    listed = site.expect(200, "GET", f"{one}/members?sort_key=size&sort_dir=asc")["share_group_snapshot_members"]
    assert listed[1] == {
        "id": listed[1]["id"],
        "created_at": listed[1]["created_at"],
        "size": 2,
        "share_protocol": "NFS",
        "project_id": "blue",
        "share_group_snapshot_id": snapshot["id"],
        "share_id": made[1],
    }
    assert {member["id"] for member in listed} == {member["id"] for member in members}
    changed = site.expect(200, "PUT", one, {"share_group_snapshot": {"name": "b", "description": ""}})
    assert (changed["share_group_snapshot"]["name"], changed["share_group_snapshot"]["description"]) == ("b", "")
    assert in_use(site) == 1
    site.expect(403, "PUT", one, {"share_group_snapshot": {"name": "x"}}, user="rita")
    for method, path in (("GET", one), ("DELETE", one), ("GET", f"{one}/members")):
        site.expect(404, method, path, user="bob")
    old = site.expect(200, "GET", one, version="2.31", headers=EXPERIMENTAL)["share_group_snapshot"]
    assert old["id"] == snapshot["id"]
    site.expect(404, "GET", one, version="2.54")


def test_members_are_no_snapshots(site: Site) -> None:
    group, made = a_group(site, 1)
    snapshot = make(site, group["id"])
    assert site.expect(200, "GET", "/v2/snapshots")["snapshots"] == []
    assert site.expect(200, "GET", f"/v2/snapshots/detail?share_id={made[0]}")["snapshots"] == []
    (member,) = snapshot["members"]
    site.expect(404, "GET", f"/v2/snapshots/{member['id']}")
    site.expect(404, "DELETE", f"/v2/snapshots/{member['id']}")
    limits = site.expect(200, "GET", "/v2/limits")["limits"]["absolute"]
    assert (limits["totalShareSnapshotsUsed"], limits["totalSnapshotGigabytesUsed"]) == (0, 0)
    # Administrators find them among the snapshot instances, as in Manila.
    (found,) = site.expect(200, "GET", "/v2/snapshot-instances/detail", user="root")["snapshot_instances"]
    assert (found["id"], found["snapshot_id"], found["share_id"]) == (member["id"], None, made[0])
    action = f"/v2/snapshot-instances/{member['id']}/action"
    site.expect(202, "POST", action, {"reset_status": {"status": "error"}}, user="root")
    found = site.expect(200, "GET", f"/v2/snapshot-instances/{member['id']}", user="root")["snapshot_instance"]
    assert found["status"] == "error"


def test_lists(site: Site) -> None:
    group, _ = a_group(site, 1)
    other, _ = a_group(site)
    made = [make(site, group["id"], name=name) for name in ("a", "b", "ab")]
    make(site, other["id"], name="other")
    bobs_group, _ = a_group(site, user="bob")
    make(site, bobs_group["id"], user="bob", name="bobs")

    def names(query: str, user: str = "alice") -> list[str]:
        answer = site.expect(200, "GET", f"{PATH}?{query}", user=user)
        assert all(set(found) == {"id", "name", "links"} for found in answer["share_group_snapshots"])
        return [found["name"] for found in answer["share_group_snapshots"]]

    assert names("sort_key=name&sort_dir=asc") == ["a", "ab", "b", "other"]
    assert names(f"share_group_id={group['id']}&sort_key=name&sort_dir=asc&limit=2&offset=1") == ["ab", "b"]
    assert names("name=a") == ["a"]
    assert names("name~=b&sort_key=name&sort_dir=asc") == ["ab", "b"]
    assert names("status=available") == []
    assert len(names("all_tenants=1")) == 4
    assert len(names("all_tenants=1", user="root")) == 5
    assert names("all_tenants=1&project_id=green", user="root") == ["bobs"]
    assert names("", user="bob") == ["bobs"]
    detailed = site.expect(200, "GET", f"{PATH}/detail?name=b")["share_group_snapshots"]
    assert detailed == [made[1]]
    with site.statements() as statements:
        site.expect(200, "GET", f"{PATH}/detail")
    assert len(statements) == 2
    site.expect(400, "GET", f"{PATH}?sort_key=colour")
    site.expect(404, "GET", PATH, version="2.54")
    site.expect(200, "GET", PATH, version="2.31", headers=EXPERIMENTAL)
    site.expect(404, "GET", PATH, version="2.30", headers=EXPERIMENTAL)


@pytest.mark.parametrize(
    ("values", "status", "said"),
    [
        ({"share_group_id": None}, 400, "share_group_id"),
        ({"share_group_id": "x"}, 400, "could not be found"),
        ({"share_group_id": MISSING}, 400, "could not be found"),
        ({"name": "n" * 256}, 400, "name"),
        ({"colour": "x"}, 400, "colour"),
    ],
)
def test_bad_ones_are_refused(site: Site, values: dict[str, Any], status: int, said: str) -> None:
    group, _ = a_group(site)
    body = {"share_group_snapshot": {"share_group_id": group["id"]} | values}
    (fault,) = site.expect(status, "POST", PATH, body).values()
    assert said in fault["message"]
    (fault,) = site.expect(400, "POST", PATH, {"share_group_snapshot": {}}).values()
    assert "share_group_id is required" in fault["message"]
    site.expect(400, "POST", PATH, {"snapshot": {"share_group_id": group["id"]}})
    assert site.expect(200, "GET", PATH)["share_group_snapshots"] == []
    assert in_use(site) == 0


def test_other_projects_groups_do_not_exist(site: Site) -> None:
    group, _ = a_group(site, user="bob")
    (fault,) = make(site, group["id"], status=400).values()
    assert "could not be found" in fault["message"]


def test_a_group_that_is_not_ready(site: Site) -> None:
    group, made = a_group(site, 1, 1)
    reset(site, f"/v2/shares/{made[1]}", "extending")
    refused = make(site, group["id"], status=409)
    assert f"Share {made[1]} of the share group is in status 'extending'" in refused["conflictingRequest"]["message"]
    reset(site, f"/v2/shares/{made[1]}", "available")
    reset(site, f"{GROUPS}/{group['id']}", "error")
    refused = make(site, group["id"], status=409)
    assert "must be available" in refused["conflictingRequest"]["message"]
    assert in_use(site) == 0


def test_the_quota(site: Site) -> None:
    group, _ = a_group(site)
    quota = {"quota_set": {"share_group_snapshots": 1}}
    site.expect(200, "PUT", "/v2/quota-sets/blue", quota, user="root", version="2.40")
    make(site, group["id"])
    refused = make(site, group["id"], status=413)
    assert "ShareGroupSnapshotsLimitExceeded" in refused["overLimit"]["message"]


def test_what_has_group_snapshots_stays(any_site: Site) -> None:
    site = any_site
    group, (share,) = a_group(site, 1)
    snapshot = make(site, group["id"])
    one = f"/v2/shares/{share}"
    refused = site.expect(403, "DELETE", f"{one}?share_group_id={group['id']}")
    assert "1 dependent share group snapshot members" in refused["forbidden"]["message"]
    site.expect(403, "POST", f"{one}/action", {"force_delete": None}, user="root")
    site.expect(403, "POST", f"{one}/action", {"unmanage": None}, user="root")
    for user, method, path, body in (
        ("alice", "DELETE", f"{GROUPS}/{group['id']}", None),
        ("root", "POST", f"{GROUPS}/{group['id']}/action", {"force_delete": None}),
    ):
        refused = site.expect(409, method, path, body, user=user)
        assert "1 snapshot(s)" in refused["conflictingRequest"]["message"]
    assert snapshot["status"] == "creating"


@pytest.mark.parametrize("status", ["available", "error", "creating", "deleting", "error_deleting"])
def test_administrators_reset_and_force(site: Site, status: str) -> None:
    group, _ = a_group(site, 1)
    one = f"{PATH}/{make(site, group['id'])['id']}"
    site.expect(403, "POST", f"{one}/action", {"reset_status": {"status": status}})
    site.expect(403, "POST", f"{one}/action", {"force_delete": None})
    site.expect(400, "POST", f"{one}/action", {"reset_status": {"status": "broken"}}, user="root")
    reset(site, one, status)
    assert site.expect(200, "GET", one)["share_group_snapshot"]["status"] == status
    if status in ("creating", "deleting"):
        refused = site.expect(409, "DELETE", one)
        assert "must be one of" in refused["conflictingRequest"]["message"]
        site.expect(202, "POST", f"{one}/action", {"force_delete": None}, user="root")
    else:
        site.expect(202, "DELETE", one)
    assert site.expect(200, "GET", one)["share_group_snapshot"]["status"] == "deleting"


class TestGroupsFromSnapshots:
    def test_it_takes_over_everything(self, site: Site) -> None:
        group, made = a_group(site, 1, 2, name="parent")
        snapshot = make(site, group["id"])
        reset(site, f"{PATH}/{snapshot['id']}", "available")
        copy = make_group(site, name="copy", source_share_group_snapshot_id=snapshot["id"])
        for name in ("share_group_type_id", "share_types", "share_network_id", "availability_zone"):
            assert copy[name] == group[name]
        assert (copy["status"], copy["source_share_group_snapshot_id"]) == ("creating", snapshot["id"])
        shares = site.expect(200, "GET", f"/v2/shares/detail?share_group_id={copy['id']}")["shares"]
        members = {member["id"]: member for member in snapshot["members"]}
        for share in shares:
            member = members.pop(share["source_share_group_snapshot_member_id"])
            assert (share["size"], share["share_proto"], share["status"]) == (member["size"], "NFS", "creating")
            assert share["share_network_id"] == group["share_network_id"]
            assert share["snapshot_id"] is None
        assert members == {}
        assert made
        limits = site.expect(200, "GET", "/v2/limits")["limits"]["absolute"]
        assert (limits["totalSharesUsed"], limits["totalShareGigabytesUsed"]) == (4, 6)
        site.expect(409, "DELETE", f"{GROUPS}/{copy['id']}")
        body = {"share": {"size": 1, "share_proto": "NFS", "share_group_id": copy["id"]}}
        site.expect(400, "POST", "/v2/shares", body)

    @pytest.mark.parametrize(
        ("values", "said"),
        [
            ({"share_types": [MISSING]}, "'share_types'"),
            ({"share_network_id": MISSING}, "'share_network_id'"),
            ({"availability_zone": "zone-1"}, "'availability_zone'"),
            ({"share_group_type_id": MISSING}, "Share group type"),
        ],
    )
    def test_what_the_source_decides_is_not_asked_for(self, site: Site, values: dict[str, Any], said: str) -> None:
        group, _ = a_group(site)
        snapshot = make(site, group["id"])
        reset(site, f"{PATH}/{snapshot['id']}", "available")
        (fault,) = make_group(site, status=400, source_share_group_snapshot_id=snapshot["id"], **values).values()
        assert said in fault["message"]

    def test_from_one_that_is_not_available_or_not_ours(self, site: Site) -> None:
        group, _ = a_group(site)
        snapshot = make(site, group["id"])
        refused = make_group(site, status=409, source_share_group_snapshot_id=snapshot["id"])
        assert "must be available" in refused["conflictingRequest"]["message"]
        reset(site, f"{PATH}/{snapshot['id']}", "available")
        (fault,) = make_group(site, status=400, user="bob", source_share_group_snapshot_id=snapshot["id"]).values()
        assert "could not be found" in fault["message"]

    def test_beyond_the_quota_nothing_is_made(self, any_site: Site) -> None:
        site = any_site
        group, _ = a_group(site, 1, 1)
        snapshot = make(site, group["id"])
        reset(site, f"{PATH}/{snapshot['id']}", "available")
        site.expect(200, "PUT", "/v2/quota-sets/blue", {"quota_set": {"shares": 3}}, user="root")
        refused = make_group(site, status=413, source_share_group_snapshot_id=snapshot["id"])
        assert "ShareLimitExceeded" in refused["overLimit"]["message"]
        assert len(site.expect(200, "GET", GROUPS)["share_groups"]) == 1
        limits = site.expect(200, "GET", "/v2/limits")["limits"]["absolute"]
        assert (limits["totalSharesUsed"], limits["totalShareGroupsUsed"]) == (2, 1)


@pytest.mark.parametrize(
    ("asked", "given"), [("True", "host"), ("<is> true", "host"), ("host", "host"), ("False", None), ("pool", None)]
)
def test_consistent_snapshots_are_asked_for(site: Site, asked: str, given: str | None) -> None:
    """The stock client lets only booleans through."""
    offering = {"share_group_stats": {"consistent_snapshot_support": "host"}}
    with site.store.begin() as tx:
        tx.execute(pools.delete())
        for host, capabilities in (("node1@one#pool", offering), ("node1@two#pool", {})):
            tx.execute(
                pools.insert().values(
                    host=host,
                    backend=host[6:9],
                    availability_zone="nova",
                    capabilities=capabilities,
                    reported_at=utcnow(),
                )
            )
    kind = group_type(site, group_specs={"consistent_snapshot_support": asked})
    group = make_group(site, share_group_type_id=kind, share_network_id=site.network()["id"])
    assert group["consistent_snapshot_support"] == given
    assert group["status"] == ("error" if asked == "pool" else "available")


def test_a_group_and_its_copy_on_a_working_site(working_site: Site) -> None:
    """All of it, with the worker."""
    site = working_site
    network = site.real_network()
    kind = group_type(site, group_specs={"consistent_snapshot_support": "host"})
    group = make_group(site, share_group_type_id=kind, share_network_id=network, finish=False)
    assert (group["status"], group["consistent_snapshot_support"]) == ("creating", "host")
    site.wait(f"{GROUPS}/{group['id']}", "share_group", "status", "available")
    made = [site.share(network=network, share_group_id=group["id"]) for _ in range(2)]
    assert len({site.host_of(share) for share in made}) == 1
    snapshot = make(site, group["id"])
    one = f"{PATH}/{snapshot['id']}"
    site.wait(one, "share_group_snapshot", "status", "available")
    copy = make_group(site, source_share_group_snapshot_id=snapshot["id"])
    site.wait(f"{GROUPS}/{copy['id']}", "share_group", "status", "available")
    servers = [
        site.expect(200, "GET", f"{GROUPS}/{each['id']}", user="root")["share_group"]["share_server_id"]
        for each in (group, copy)
    ]
    assert servers[0] == servers[1] is not None
    copies = site.expect(200, "GET", f"/v2/shares/detail?share_group_id={copy['id']}")["shares"]
    assert [share["status"] for share in copies] == ["available", "available"]
    assert len({site.host_of(share) for share in copies}) == 1
    site.expect(202, "DELETE", one)
    site.wait_gone(one)
    assert in_use(site) == 0
    for share in (*made, *copies):
        site.expect(202, "DELETE", f"/v2/shares/{share['id']}?share_group_id={share['share_group_id']}")
        site.wait_gone(f"/v2/shares/{share['id']}")
    for each in (group, copy):
        site.expect(202, "DELETE", f"{GROUPS}/{each['id']}")
