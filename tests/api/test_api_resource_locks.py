"""Resource locks: what they keep, who may place and take them, what access rules hide behind them."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from site_for_tests import Site

PATH = "/v2/resource-locks"


def lock(site: Site, resource: str, status: int = 200, user: str = "alice", **values: Any) -> dict[str, Any]:
    body = {"resource_lock": {"resource_id": resource, **values}}
    return dict(site.expect(status, "POST", PATH, body, user=user).get("resource_lock", {}))


def allow(site: Site, share: str, to: str = "10.1.1.1", user: str = "alice", **values: Any) -> dict[str, Any]:
    body = {"allow_access": {"access_type": "ip", "access_to": to, **values}}
    return dict(site.expect(200, "POST", f"/v2/shares/{share}/action", body, user=user)["access"])


def deny(site: Site, status: int, share: str, rule: str, user: str = "alice", **values: Any) -> None:
    body = {"deny_access": {"access_id": rule, **values}}
    site.expect(status, "POST", f"/v2/shares/{share}/action", body, user=user)


def test_a_locked_share_cannot_be_deleted(any_site: Site) -> None:
    site = any_site
    share = site.served_share()["id"]
    first, second = lock(site, share, lock_reason="mine"), lock(site, share, user="anna")
    assert first["resource_type"] == "share"
    assert (first["resource_action"], first["lock_context"], first["lock_reason"]) == ("delete", "user", "mine")
    assert (first["user_id"], second["user_id"], first["project_id"]) == ("alice", "anna", "blue")
    path = f"/v2/shares/{share}"
    for user in ("alice", "root"):
        refused = site.expect(403, "DELETE", path, user=user)["forbidden"]["message"]
        assert first["id"] in refused
    for action in ("force_delete", "unmanage"):
        site.expect(403, "POST", f"{path}/action", {action: None}, user="root")
    site.expect(204, "DELETE", f"{PATH}/{first['id']}")
    site.expect(403, "DELETE", path)
    site.expect(204, "DELETE", f"{PATH}/{second['id']}", user="anna")
    site.expect(202, "DELETE", path)
    lock(site, share, 409)


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({"resource_id": "x"}, 400),
        ({"resource_id": str(uuid.uuid4())}, 400),
        ({"resource_id": str(uuid.uuid4()), "resource_type": "access_rule"}, 400),
        ({"resource_type": "share", "resource_action": "show"}, 400),
        ({"resource_type": "snapshot"}, 400),
        ({"resource_action": "eat"}, 400),
        ({"lock_reason": "x" * 1024}, 400),
        ({"colour": "blue"}, 400),
    ],
)
def test_bad_locks_are_refused(site: Site, values: dict[str, Any], status: int) -> None:
    lock(site, **{"resource": site.served_share()["id"], "status": status, **_renamed(values)})


def _renamed(values: dict[str, Any]) -> dict[str, Any]:
    return {("resource" if key == "resource_id" else key): value for key, value in values.items()}


def test_whose_lock_it_is_decides_who_may_touch_it(site: Site) -> None:
    share = site.served_share()["id"]
    users, admins = lock(site, share), lock(site, share, user="root")
    assert admins["lock_context"] == "admin"
    change = {"resource_lock": {"lock_reason": "new"}}
    for user in ("anna", "rita"):
        site.expect(403, "PUT", f"{PATH}/{users['id']}", change, user=user)
        site.expect(403, "DELETE", f"{PATH}/{users['id']}", user=user)
    assert site.expect(200, "GET", f"{PATH}/{users['id']}", user="rita")["resource_lock"] == users
    for method in ("GET", "DELETE"):
        site.expect(404, method, f"{PATH}/{users['id']}", user="bob")
    changed = site.expect(200, "PUT", f"{PATH}/{users['id']}", change)["resource_lock"]
    assert (changed["lock_reason"], changed["resource_action"]) == ("new", "delete")
    changed = site.expect(200, "PUT", f"{PATH}/{users['id']}", {"resource_lock": {"resource_action": None}})
    assert (changed["resource_lock"]["lock_reason"], changed["resource_lock"]["resource_action"]) == ("new", "delete")
    changed = site.expect(200, "PUT", f"{PATH}/{users['id']}", {"resource_lock": {"lock_reason": None}})
    assert (changed["resource_lock"]["lock_reason"], changed["resource_lock"]["resource_action"]) == (None, "delete")
    site.expect(400, "PUT", f"{PATH}/{users['id']}", {"resource_lock": {"resource_action": "show"}})
    site.expect(404, "GET", f"{PATH}/{admins['id']}")  # it is of the administrator's project
    site.expect(204, "DELETE", f"{PATH}/{users['id']}", user="root")
    lock(site, share, 400, user="bob")
    lock(site, share, 403, user="rita")


def test_locks_are_listed_filtered_and_counted(site: Site) -> None:
    shares = [site.served_share()["id"] for _ in range(2)]
    made = [lock(site, share, lock_reason=f"reason {number}") for number, share in enumerate(shares)]
    lock(site, shares[0], user="root")
    listed = site.expect(200, "GET", f"{PATH}?with_count=true&sort_key=created_at&sort_dir=asc")
    assert [each["id"] for each in listed["resource_locks"]] == [each["id"] for each in made]
    assert listed["count"] == 2
    for query, wanted in (
        (f"resource_id={shares[1]}", [made[1]]), ("lock_reason~=son 0", [made[0]]), ("resource_action=show", []),
        (f"created_since={made[1]['created_at']}", [made[1]]), (f"created_before={made[0]['created_at']}", [made[0]]),
        ("user_id=anna", []), ("all_projects=1&lock_context=admin", []),
    ):  # fmt: skip
        found = site.expect(200, "GET", f"{PATH}?{query}")["resource_locks"]
        assert found == wanted, query
    assert len(site.expect(200, "GET", f"{PATH}?all_projects=1", user="root")["resource_locks"]) == 3
    assert site.expect(200, "GET", f"{PATH}?all_projects=1", user="bob")["resource_locks"] == []
    site.expect(400, "GET", f"{PATH}?created_since=soon")
    site.expect(404, "GET", PATH, version="2.80")


def test_a_locked_rule_stays_and_keeps_its_share(site: Site) -> None:
    share = site.served_share()["id"]
    rule = allow(site, share, lock_deletion=True, lock_reason="in use")["id"]
    reasons = {each["resource_type"]: each for each in site.expect(200, "GET", PATH)["resource_locks"]}
    assert reasons["access_rule"]["lock_reason"] == "in use"
    assert reasons["share"]["lock_reason"] == f"Locked by access lock: {reasons['access_rule']['id']}"
    deny(site, 403, share, rule)
    deny(site, 403, share, rule, user="anna", unrestrict=True)
    site.expect(403, "DELETE", f"/v2/shares/{share}")
    deny(site, 202, share, rule, unrestrict=True)
    assert site.expect(200, "GET", PATH)["resource_locks"] == []
    site.expect(202, "DELETE", f"/v2/shares/{share}")


def test_a_hidden_rule_is_seen_by_who_hid_it(site: Site) -> None:
    share = site.served_share()["id"]
    rule = allow(site, share, lock_visibility=True)
    open_rule = allow(site, share, to="10.2.2.2")
    assert rule["access_to"] == "10.1.1.1"
    path = f"/v2/share-access-rules?share_id={share}"
    for user, seen in (("alice", "10.1.1.1"), ("anna", "******"), ("rita", "******"), ("root", "10.1.1.1")):
        one = site.expect(200, "GET", f"/v2/share-access-rules/{rule['id']}", user=user)["access"]
        assert one["access_to"] == seen
        listed = site.expect(200, "GET", path, user=user)["access_list"]
        assert [each["access_to"] for each in listed] == [seen, "10.2.2.2"]
        found = site.expect(200, "GET", f"{path}&access_type=ip&access_to=10.1.1.1", user=user)["access_list"]
        assert len(found) == (seen == "10.1.1.1"), "what is hidden is not found either"
        old = site.expect(200, "POST", f"/v2/shares/{share}/action", {"access_list": None}, user=user, version="2.44")[
            "access_list"
        ]
        assert old[0]["access_to"] == seen
    lock(site, rule["id"], 409, resource_type="access_rule", resource_action="show", user="anna")
    lock(site, open_rule["id"], resource_type="access_rule", resource_action="show", user="anna")
    site.expect(400, "GET", f"{path}&access_to=10.1.1.1")
    site.expect(400, "GET", f"{path}&access_level=rx")
    site.expect(
        400, "POST", f"/v2/shares/{share}/action",
        {"allow_access": {"access_type": "ip", "access_to": "10.9.9.9", "lock_reason": "alone"}},
    )  # fmt: skip


def test_the_locks_of_a_list_of_rules_are_one_statement(site: Site) -> None:
    share = site.served_share()["id"]
    counts = []
    for number in range(2):
        allow(site, share, to=f"10.1.{number}.1", lock_visibility=True)
        with site.statements() as seen:
            site.expect(200, "GET", f"/v2/share-access-rules?share_id={share}", user="anna")
        counts.append(len(seen))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("working_site", ["http_basic"], indirect=True)
def test_locks_of_rules_go_with_them(working_site: Site) -> None:
    site = working_site
    share = site.share(network=_network(site))["id"]
    site.wait(f"/v2/shares/{share}", "share", "status", "available")
    gone, left = (allow(site, share, to=f"10.1.1.{number}", lock_visibility=True)["id"] for number in (1, 2))
    site.wait(f"/v2/share-access-rules/{gone}", "access", "state", "active")
    deny(site, 202, share, gone)
    site.wait_gone(f"/v2/share-access-rules/{gone}")
    assert [each["resource_id"] for each in site.expect(200, "GET", PATH)["resource_locks"]] == [left]
    site.expect(202, "DELETE", f"/v2/shares/{share}")
    site.wait_gone(f"/v2/shares/{share}")
    assert site.expect(200, "GET", PATH)["resource_locks"] == []


def _network(site: Site) -> str:
    return site.real_network()
