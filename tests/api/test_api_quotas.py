"""Quotas: reserving in the request, races, setting limits, limits and classes."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from site_for_tests import Site
from sqlalchemy import func, select

from sharewright.store.quotas import release
from sharewright.store.tables import operations, quota_usages, shares


def set_quota(site: Site, status: int = 200, query: str = "", project: str = "blue", **values: Any) -> Any:
    return site.expect(status, "PUT", f"/v2/quota-sets/{project}{query}", {"quota_set": values}, user="root")


def used(site: Site, query: str = "", **options: Any) -> dict[str, int]:
    detail = site.expect(200, "GET", f"/v2/quota-sets/blue/detail{query}", **options)["quota_set"]
    return {name: value["in_use"] for name, value in detail.items() if name in ("shares", "gigabytes")}


def ask_share(site: Site, network: str, size: int = 1, user: str = "alice") -> Any:
    return site.ask(
        "POST",
        "/v2/shares",
        {"share": {"size": size, "share_proto": "NFS", "share_network_id": network}},
        user=user,
        headers={"Connection": "close"},
    )


@pytest.mark.parametrize(
    ("limits", "query", "prefix"),
    [
        ({"shares": 0}, "", "ShareLimitExceeded: "),
        ({"gigabytes": 4}, "", "ShareSizeExceedsAvailableQuota: "),
        ({"per_share_gigabytes": 4}, "", "ShareSizeExceedsLimit: "),
        ({"shares": 0}, "?user_id=alice", "ShareLimitExceeded: "),
        ({"gigabytes": 4}, "?user_id=alice", "ShareSizeExceedsAvailableQuota: "),
        ({"gigabytes": 4}, "?share_type=default", "ShareSizeExceedsAvailableQuota: "),
        ({"per_share_gigabytes": 4}, "?share_type=default", "ShareSizeExceedsLimit: "),
    ],
)
def test_over_quota(any_site: Site, limits: dict[str, int], query: str, prefix: str) -> None:
    network = any_site.network()["id"]
    set_quota(any_site, query=query, **limits)
    answer = ask_share(any_site, network, 5)
    assert answer.status_code == 413
    fault = answer.json()["overLimit"]
    assert fault["message"].startswith(prefix)
    assert fault["retryAfter"] == answer.headers["Retry-After"] == "0"
    assert used(any_site) == {"shares": 0, "gigabytes": 0}
    with any_site.store.read() as tx:
        assert tx.execute(select(shares)).first() is None
        assert tx.execute(select(operations)).first() is None


def test_the_quota_of_share_networks(site: Site) -> None:
    set_quota(site, share_networks=1)
    site.network()
    answer = site.ask("POST", "/v2/share-networks", {"share_network": {}})
    assert answer.status_code == 413
    assert answer.json()["overLimit"]["message"].startswith("ShareNetworksLimitExceeded: ")


def test_usage_is_counted_for_project_user_and_type(site: Site) -> None:
    network = site.network()["id"]
    site.share(network=network, size=2)
    site.share("anna", network=network, size=3)
    assert used(site) == {"shares": 2, "gigabytes": 5}
    assert used(site, "?user_id=alice") == {"shares": 1, "gigabytes": 2}
    assert used(site, "?user_id=anna", user="anna") == {"shares": 1, "gigabytes": 3}
    assert used(site, "?share_type=default") == {"shares": 2, "gigabytes": 5}
    with site.store.begin() as tx:
        row = tx.execute(select(shares).where(shares.c.user_id == "anna")).mappings().one()
        release(
            tx,
            project_id=row["project_id"],
            user_id=row["user_id"],
            share_type_id=row["share_type_id"],
            amounts={"shares": 1, "gigabytes": row["size"]},
        )
    assert used(site) == used(site, "?share_type=default") == {"shares": 1, "gigabytes": 2}
    assert used(site, "?user_id=anna", user="anna") == {"shares": 0, "gigabytes": 0}


def test_requests_at_once_never_exceed_the_quota(any_site: Site) -> None:
    """The race that read-then-write loses: twenty requests for the last five places."""
    set_quota(any_site, shares=5)
    network = any_site.network()["id"]
    codes: list[int] = []
    start = threading.Barrier(20)

    def ask(number: int) -> None:
        start.wait()
        codes.append(ask_share(any_site, network, user=("alice", "anna")[number % 2]).status_code)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == [200] * 5 + [413] * 15
    with any_site.store.read() as tx:
        assert tx.execute(select(func.count()).select_from(shares)).scalar_one() == 5
        rows = tx.execute(select(quota_usages).where(quota_usages.c.resource == "shares")).mappings().all()
    by_owner = {(row["user_id"], row["share_type_id"] != ""): row["in_use"] for row in rows}
    assert by_owner[("", False)] == by_owner[("", True)] == 5
    assert by_owner.get(("alice", False), 0) + by_owner.get(("anna", False), 0) == 5  # all may be one's


def test_gigabytes_at_once_in_two_projects(any_site: Site) -> None:
    networks = {user: any_site.network(user)["id"] for user in ("alice", "bob")}
    for project in ("blue", "green"):
        set_quota(any_site, gigabytes=10, project=project)
    codes: dict[str, list[int]] = {"alice": [], "bob": []}

    def ask(user: str) -> None:
        codes[user].append(ask_share(any_site, networks[user], 4, user=user).status_code)

    threads = [threading.Thread(target=ask, args=(user,)) for user in ("alice", "bob") * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes["alice"]) == sorted(codes["bob"]) == [200, 200, 413, 413]


def test_setting_and_removing_quotas(site: Site) -> None:
    shown = set_quota(site, shares=7, gigabytes="70")["quota_set"]
    assert (shown["shares"], shown["gigabytes"], "id" in shown) == (7, 70, False)
    assert site.expect(200, "GET", "/v2/quota-sets/blue")["quota_set"]["shares"] == 7
    assert site.expect(200, "GET", "/v2/quota-sets/blue/defaults")["quota_set"]["shares"] == 50
    assert site.expect(200, "GET", "/v2/quota-sets/green", user="bob")["quota_set"]["shares"] == 50
    set_quota(site, query="?user_id=alice", shares=3)
    set_quota(site, query="?share_type=default", shares=2)
    shown = site.expect(200, "GET", "/v2/quota-sets/blue?user_id=alice")["quota_set"]
    assert (shown["shares"], shown["gigabytes"]) == (3, 70)
    shown = site.expect(200, "GET", "/v2/quota-sets/blue?share_type=default")["quota_set"]
    assert shown["shares"] == 2
    assert "share_networks" not in shown
    site.expect(202, "DELETE", "/v2/quota-sets/blue?user_id=alice", user="root")
    assert site.expect(200, "GET", "/v2/quota-sets/blue?user_id=alice")["quota_set"]["shares"] == 7
    assert site.expect(200, "GET", "/v2/quota-sets/blue?share_type=default")["quota_set"]["shares"] == 2
    site.expect(202, "DELETE", "/v2/quota-sets/blue", user="root")
    for query in ("", "?share_type=default"):
        assert site.expect(200, "GET", f"/v2/quota-sets/blue{query}")["quota_set"]["shares"] == 50


@pytest.mark.parametrize(
    ("query", "values"),
    [
        ("", {}),
        ("", {"shares": "many"}),
        ("", {"shares": -2}),
        ("", {"shares": 1.5}),
        ("", {"shares": True}),
        ("", {"shares": None}),
        ("", {"shares": 2**31}),
        ("", {"colour": 1}),
        ("", {"shares": 5, "force": "perhaps"}),
        ("", {"shares": 0}),  # one is in use
        ("?user_id=alice", {"shares": 51}),  # above the project's
        ("?user_id=alice", {"shares": -1}),
        ("?share_type=default", {"gigabytes": 1001}),
        ("?share_type=default", {"share_networks": 1}),
        ("?share_type=default&user_id=alice", {"shares": 1}),
    ],
)
def test_bad_quotas_are_refused(site: Site, query: str, values: dict[str, Any]) -> None:
    site.share()
    before = site.expect(200, "GET", "/v2/quota-sets/blue")
    set_quota(site, 400, query, **values)
    assert site.expect(200, "GET", "/v2/quota-sets/blue") == before


def test_force_sets_less_than_is_used(site: Site) -> None:
    site.share()
    assert set_quota(site, shares=0, force=True)["quota_set"]["shares"] == 0


def test_quotas_by_share_type_need_a_known_type_and_2_39(site: Site) -> None:
    site.expect(404, "GET", "/v2/quota-sets/blue?share_type=none")
    site.expect(400, "GET", "/v2/quota-sets/blue?share_type=default", version="2.38")


def test_whose_quotas_may_be_seen(site: Site) -> None:
    site.expect(200, "GET", "/v2/quota-sets/blue", user="rita")
    for path in ("", "/detail", "/defaults"):
        site.expect(403, "GET", f"/v2/quota-sets/blue{path}", user="bob")
        site.expect(200, "GET", f"/v2/quota-sets/blue{path}", user="root")
    site.expect(403, "GET", "/v2/quota-sets/blue?user_id=anna")
    for user in ("alice", "rita", "bob"):
        site.expect(403, "PUT", "/v2/quota-sets/blue", {"quota_set": {"shares": 1000}}, user=user)
        site.expect(403, "DELETE", "/v2/quota-sets/blue", user=user)
        site.expect(403, "PUT", "/v2/quota-class-sets/default", {"quota_class_set": {"shares": 1}}, user=user)


@pytest.mark.parametrize(
    ("version", "path", "last", "following"),
    [
        ("2.0", "os-quota-sets", "share_networks", "share_groups"),
        ("2.39", "quota-sets", "share_networks", "share_groups"),
        ("2.40", "quota-sets", "share_group_snapshots", "share_replicas"),
        ("2.53", "quota-sets", "replica_gigabytes", "per_share_gigabytes"),
        ("2.62", "quota-sets", "per_share_gigabytes", "backups"),
        ("2.80", "quota-sets", "backup_gigabytes", "encryption_keys"),
    ],
)
def test_quotas_by_microversion(site: Site, version: str, path: str, last: str, following: str) -> None:
    shown = site.expect(200, "GET", f"/v2/{path}/blue", version=version)["quota_set"]
    assert last in shown
    assert following not in shown
    body = {"quota_set": {following: 1}}
    site.expect(400, "PUT", f"/v2/{path}/blue", body, version=version, user="root")


def test_the_default_class(site: Site) -> None:
    body = {"quota_class_set": {"shares": 11}}
    changed = site.expect(200, "PUT", "/v2/quota-class-sets/default", body, user="root")["quota_class_set"]
    assert changed["shares"] == 11
    shown = site.expect(200, "GET", "/v2/quota-class-sets/default")["quota_class_set"]
    assert (shown["id"], shown["shares"], shown["gigabytes"]) == ("default", 11, 1000)
    assert site.expect(200, "GET", "/v2/quota-sets/blue")["quota_set"]["shares"] == 11
    assert site.expect(200, "GET", "/v2/os-quota-class-sets/other", version="2.6")["quota_class_set"]["shares"] == 50


def test_limits(site: Site) -> None:
    site.share(size=3)
    limits = site.expect(200, "GET", "/v2/limits", user="rita")["limits"]
    assert limits["rate"] == []
    absolute = limits["absolute"]
    assert (absolute["maxTotalShares"], absolute["totalSharesUsed"]) == (50, 1)
    assert (absolute["maxTotalShareGigabytes"], absolute["totalShareGigabytesUsed"]) == (1000, 3)
    assert (absolute["maxTotalShareNetworks"], absolute["totalShareNetworksUsed"]) == (10, 1)
    assert len(site.expect(200, "GET", "/v2/limits", version="2.0")["limits"]["absolute"]) == 10
