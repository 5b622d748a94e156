"""Snapshots that clients mount: access rules and export locations, with Manila's answers and refusals."""

from __future__ import annotations

from typing import Any

import pytest
from site_for_tests import Site
from sqlalchemy import select, update
from test_api_clients import command, make_network, tenant_network, wait_until
from test_api_snapshots import NOBODY, settle, snap

from sharewright.drivers.contract import ExportLocation
from sharewright.drivers.locations import write_snapshot_locations
from sharewright.states import SnapshotStatus
from sharewright.store.secrets import open_access_keys
from sharewright.store.tables import operations, share_access_rules, share_snapshot_access_rules, share_snapshots

pytestmark = pytest.mark.timeout(600)

SPECS = {"driver_handles_share_servers": True, "snapshot_support": True, "mount_snapshot_support": True}


def a_type(site: Site, name: str = "mountable", **specs: Any) -> str:
    site.expect(200, "POST", "/v2/types", {"share_type": {"name": name, "extra_specs": SPECS | specs}}, user="root")
    return name


def a_snapshot(site: Site, share_type: str = "", **values: Any) -> str:
    share = site.served_share(size=2, share_type=share_type or a_type(site), **values)["id"]
    snapshot = str(snap(site, share)["id"])
    settle(site, snapshot)
    return snapshot


def allow(site: Site, snapshot: str, to: str = "10.0.0.7", status: int = 202, **options: Any) -> Any:
    body = {"allow_access": {"access_type": options.pop("kind", "ip"), "access_to": to}}
    return site.expect(status, "POST", f"/v2/snapshots/{snapshot}/action", body, **options)


def deny(site: Site, snapshot: str, rule: Any, status: int = 202, **options: Any) -> Any:
    body = {"deny_access": {"access_id": rule}}
    return site.expect(status, "POST", f"/v2/snapshots/{snapshot}/action", body, **options)


def rules(site: Site, snapshot: str, user: str = "alice", status: int = 200) -> Any:
    return site.expect(status, "GET", f"/v2/snapshots/{snapshot}/access-list", user=user)


def updates(site: Site) -> list[Any]:
    with site.store.read() as tx:
        return list(tx.execute(select(operations).where(operations.c.kind == "update_snapshot_access")).all())


def write_state(site: Site, state: str) -> None:
    with site.store.begin() as tx:
        tx.execute(update(share_snapshot_access_rules).values(state=state))


def test_a_rule_is_accepted_shown_and_removed(any_site: Site) -> None:
    snapshot = a_snapshot(any_site)
    made = allow(any_site, snapshot, "10.0.0.0/24")["snapshot_access"]
    expected = {"id": made["id"], "access_type": "ip", "access_to": "10.0.0.0/24", "access_key": None}
    assert made == expected | {"state": "queued_to_apply"}
    assert rules(any_site, snapshot) == {"snapshot_access_list": [made]}
    allow(any_site, snapshot, "10.0.0.9/32")
    (operation,) = updates(any_site)  # a burst is one
    assert operation.key == f"share_snapshot:{snapshot}"
    write_state(any_site, "active")
    answer = any_site.ask("POST", f"/v2/snapshots/{snapshot}/action", {"deny_access": {"access_id": made["id"]}})
    assert (answer.status_code, answer.content) == (202, b"")
    first, second = rules(any_site, snapshot)["snapshot_access_list"]
    assert first == expected | {"state": "queued_to_deny"}
    assert (second["access_to"], second["state"]) == ("10.0.0.9", "active")
    deny(any_site, snapshot, made["id"])  # stays so
    again = allow(any_site, snapshot, "10.0.0.0/24")["snapshot_access"]  # the client keeps its access
    assert [rule["id"] for rule in rules(any_site, snapshot)["snapshot_access_list"]] == [second["id"], again["id"]]


def test_by_microversion(site: Site) -> None:
    snapshot = a_snapshot(site)
    allow(site, snapshot, status=404, version="2.31")
    rule = allow(site, snapshot, version="2.32")["snapshot_access"]["id"]
    for path in (f"snapshots/{snapshot}/access-list", f"snapshots/{snapshot}/export-locations"):
        site.expect(404, "GET", f"/v2/{path}", version="2.31")
        site.expect(200, "GET", f"/v2/{path}", version="2.32")
    deny(site, snapshot, rule, 404, version="2.31")
    deny(site, snapshot, rule, version="2.32")


def test_a_share_without_the_capability(site: Site) -> None:
    snapshot = a_snapshot(site, a_type(site, "plain", mount_snapshot_support=False))
    for answer in (
        allow(site, snapshot, status=400),
        deny(site, snapshot, NOBODY, 400),
        rules(site, snapshot, status=400),
    ):
        assert "does not support mounting its snapshots" in answer["badRequest"]["message"]
    assert locations(site, snapshot) == []


@pytest.mark.parametrize("status", sorted(set(SnapshotStatus.ALL) - {"available"}))
def test_statuses_of_the_snapshot(site: Site, status: str) -> None:
    snapshot = a_snapshot(site)
    rule = allow(site, snapshot)["snapshot_access"]["id"]
    settle(site, snapshot, status)
    assert f"'{status}'" in allow(site, snapshot, "10.0.0.8", 400)["badRequest"]["message"]
    deny(site, snapshot, rule)  # whatever became of it, nobody has to stay in


def test_wrong_rules(site: Site) -> None:
    snapshot = a_snapshot(site)
    allow(site, snapshot)
    assert "exists" in allow(site, snapshot, "10.0.0.7/32", 400)["badRequest"]["message"]
    for kind, to in (("ip", "10.0.0.256"), ("ip", "10.0.0.1/24"), ("user", "alice"), ("cert", "x"), ("nothing", "x")):
        allow(site, snapshot, to, 400, kind=kind)
    assert "2.38" in allow(site, snapshot, "2001:db8::1", 400, version="2.37")["badRequest"]["message"]
    assert "IPv4 export locations" in allow(site, snapshot, "2001:db8::1", 400, version="2.38")["badRequest"]["message"]
    for body in ({"allow_access": {"access_type": "ip"}}, {"allow_access": None}, {"deny_access": {}}):
        site.expect(400, "POST", f"/v2/snapshots/{snapshot}/action", body)
    allow(site, NOBODY, status=404)
    assert len(rules(site, snapshot)["snapshot_access_list"]) == 1


def test_a_rule_of_another_snapshot(site: Site) -> None:
    snapshot = a_snapshot(site)
    other = a_snapshot(site, "mountable")
    rule = allow(site, other)["snapshot_access"]["id"]
    assert "not associated" in deny(site, snapshot, rule, 400)["badRequest"]["message"]
    deny(site, snapshot, NOBODY, 404)
    deny(site, snapshot, "nothing", 404)
    for wrong in (None, 5, ""):
        deny(site, snapshot, wrong, 400)


def test_no_more_rules_than_a_share_may_have(site: Site) -> None:
    snapshot = a_snapshot(site)
    limit = site.settings.api.max_access_rules
    with site.store.begin() as tx:
        for number in range(limit):
            tx.execute(
                share_snapshot_access_rules.insert().values(
                    id=f"{number:036d}", snapshot_id=snapshot, access_type="ip",
                    access_to=f"10.{number // 65536}.{number // 256 % 256}.{number % 256}", state="active",
                    created_at=site_time(site, snapshot),
                )
            )  # fmt: skip
    assert str(limit) in allow(site, snapshot, "192.0.2.1", 413)["overLimit"]["message"]


def site_time(site: Site, snapshot: str) -> Any:
    with site.store.read() as tx:
        return tx.execute(select(share_snapshots.c.created_at).where(share_snapshots.c.id == snapshot)).scalar_one()


def test_who_may(site: Site) -> None:
    snapshot = a_snapshot(site)
    rule = allow(site, snapshot)["snapshot_access"]["id"]
    allow(site, snapshot, "10.0.0.8", 403, user="rita")
    deny(site, snapshot, rule, 403, user="rita")
    assert len(rules(site, snapshot, "rita")["snapshot_access_list"]) == 1
    assert locations(site, snapshot, "rita") == []
    for answer in (allow, deny):
        answer(site, snapshot, "10.0.0.8", 404, user="bob")
    rules(site, snapshot, "bob", 404)
    site.expect(404, "GET", f"/v2/snapshots/{snapshot}/export-locations", user="bob")
    share = site.served_share("bob", share_type="mountable")["id"]
    theirs = snap(site, share, user="bob")["id"]
    settle(site, theirs)
    deny(site, theirs, rule, 404, user="bob")  # not even that it exists


# ---- export locations ----


def locations(site: Site, snapshot: str, user: str = "alice") -> Any:
    answer = site.expect(200, "GET", f"/v2/snapshots/{snapshot}/export-locations", user=user)
    return answer["share_snapshot_export_locations"]


def test_export_locations(any_site: Site) -> None:
    site = any_site
    snapshot = a_snapshot(site)
    (instance,) = site.expect(200, "GET", f"/v2/snapshot-instances?snapshot_id={snapshot}", user="root")[
        "snapshot_instances"
    ]
    paths = [f"10.0.0.{number}:/shares/share-{instance['id']}" for number in (5, 9)]
    with site.store.begin() as tx:
        found = [ExportLocation(path=path, is_admin_only=path == paths[1]) for path in paths]
        write_snapshot_locations(tx, instance["id"], found)
    (mine,) = locations(site, snapshot)
    assert mine == {"id": mine["id"], "path": paths[0], "links": mine["links"]}
    assert [link["rel"] for link in mine["links"]] == ["self", "bookmark"]
    both = locations(site, snapshot, "root")
    assert {each["path"]: each["is_admin_only"] for each in both} == {paths[0]: False, paths[1]: True}
    assert {each["share_snapshot_instance_id"] for each in both} == {instance["id"]}
    one = f"/v2/snapshots/{snapshot}/export-locations"
    shown = site.expect(200, "GET", f"{one}/{mine['id']}")["share_snapshot_export_location"]
    assert shown == mine | {"created_at": shown["created_at"], "updated_at": None}
    (hidden,) = [each["id"] for each in both if each["is_admin_only"]]
    site.expect(404, "GET", f"{one}/{hidden}")
    site.expect(200, "GET", f"{one}/{hidden}", user="root")
    site.expect(404, "GET", f"{one}/{NOBODY}")
    of_instance = f"/v2/snapshot-instances/{instance['id']}/export-locations"
    site.expect(403, "GET", of_instance)
    assert site.expect(200, "GET", of_instance, user="root")["share_snapshot_export_locations"] == both
    site.expect(200, "GET", f"{of_instance}/{hidden}", user="root")
    site.expect(403, "GET", f"{of_instance}/{mine['id']}")
    site.expect(404, "GET", f"/v2/snapshot-instances/{NOBODY}/export-locations", user="root")


# ---- CIFS ----


@pytest.fixture
def smb(site: Site) -> Site:
    site.settings.state_path.mkdir(parents=True, exist_ok=True)
    open_access_keys(site.settings, make=True)
    return site


def test_users_of_a_cifs_share_s_snapshot_have_the_key_that_they_have_on_the_share(smb: Site) -> None:
    share = smb.served_share(share_proto="CIFS", share_type=a_type(smb))["id"]
    snapshot = snap(smb, share)["id"]
    settle(smb, snapshot)
    first = allow(smb, snapshot, "Alice.W", kind="user")["snapshot_access"]
    assert (first["access_to"], len(first["access_key"])) == ("Alice.W", 24)
    body = {"allow_access": {"access_type": "user", "access_to": "alice.w", "access_level": "rw"}}
    rule = smb.expect(200, "POST", f"/v2/shares/{share}/action", body)["access"]
    assert rule["access_key"] == first["access_key"]
    for user, shown in (("alice", first["access_key"]), ("rita", None), ("root", None)):
        assert [each["access_key"] for each in rules(smb, snapshot, user)["snapshot_access_list"]] == [shown]
    with smb.store.read() as tx:
        stored = tx.execute(select(share_snapshot_access_rules.c.access_key)).scalar_one()
        assert tx.execute(select(share_access_rules.c.access_key)).scalar_one() == stored
    assert first["access_key"] not in stored
    assert "one type" in allow(smb, snapshot, "10.0.0.8", 400)["badRequest"]["message"]
    assert "user:ALICE.W exists" in allow(smb, snapshot, "ALICE.W", 400, kind="user")["badRequest"]["message"]


# ---- with the stock client ----


@pytest.mark.parametrize("working_site", ["builtin"], indirect=True)
def test_the_openstack_client_tells_the_whole_story(working_site: Site) -> None:
    site = working_site
    net, subnet = tenant_network(site)
    with command(site, "root") as share:
        specs = ("--extra-specs", "mount_snapshot_support=True")
        share("type", "create", "mountable", "True", "--snapshot-support", "True", *specs)
    with command(site) as share:
        make_network(share, net, subnet)
        share(
            "create", "NFS", "1", "--name", "home", "--share-network", "net", "--share-type", "mountable", "--wait"
        )  # fmt: skip
        assert share("show", "home")["mount_snapshot_support"] in (True, "True")
        share("snapshot", "create", "home", "--name", "then", "--wait")
        (location,) = share("snapshot", "export", "location", "list", "then")
        assert ":/shares/share-" in location["Path"]
        shown = share("snapshot", "export", "location", "show", "then", location["ID"])
        assert shown["path"] == location["Path"]
        share("snapshot", "access", "create", "then", "ip", "192.0.2.7")
        wait_until(lambda: share("snapshot", "access", "list", "then")[0]["State"] == "active")
        (rule,) = share("snapshot", "access", "list", "then")
        assert (rule["Access Type"], rule["Access To"]) == ("ip", "192.0.2.7")
        share("snapshot", "access", "delete", "then", rule["ID"])
        share("snapshot", "access", "create", "then", "ip", "192.0.2.8")
        share("snapshot", "delete", "then", "--wait")
        assert share("snapshot", "list") == []
