"""Transfers: a share changes hands, with its snapshots and what they count for."""

from __future__ import annotations

from typing import Any

import pytest
from site_for_tests import Site
from sqlalchemy import select, update

from sharewright.store.tables import share_access_rules, share_transfers, shares

PATH = "/v2/share-transfers"


def free_share(site: Site, user: str = "alice") -> str:
    """A share that is on no share network, as one of a backend without share servers is."""
    share = site.served_share(user)["id"]
    with site.store.begin() as tx:
        tx.execute(update(shares).where(shares.c.id == share).values(share_network_id=None, share_server_id=None))
    return str(share)


def offer(site: Site, share: str, status: int = 202, **options: Any) -> dict[str, Any]:
    body = {"transfer": {"share_id": share, "name": "gift"}}
    return dict(site.expect(status, "POST", PATH, body, **options).get("transfer", {}))


def accept(site: Site, status: int, transfer: dict[str, Any], user: str = "bob", **values: Any) -> None:
    body = {"accept": {"auth_key": transfer["auth_key"], **values}}
    site.expect(status, "POST", f"{PATH}/{transfer['id']}/accept", body, user=user)


def used(site: Site, project: str, name: str) -> int:
    return int(site.expect(200, "GET", f"/v2/quota-sets/{project}/detail", user="root")["quota_set"][name]["in_use"])


def test_a_share_is_offered_and_taken(any_site: Site) -> None:
    site = any_site
    share = free_share(site)
    rule = {"allow_access": {"access_type": "ip", "access_to": "10.1.1.1"}}
    site.expect(200, "POST", f"/v2/shares/{share}/action", rule)
    made = offer(site, share)
    assert (made["resource_type"], made["resource_id"], made["name"]) == ("share", share, "gift")
    assert (made["accepted"], made["destination_project_id"], made["source_project_id"]) == (False, None, "blue")
    assert site.expect(200, "GET", f"/v2/shares/{share}")["share"]["status"] == "awaiting_transfer"
    with site.store.read() as tx:
        kept = tx.execute(select(share_transfers)).one()
    assert made["auth_key"] not in tuple(kept)
    shown = site.expect(200, "GET", f"{PATH}/{made['id']}")["transfer"]
    assert shown == {key: value for key, value in made.items() if key != "auth_key"}
    (summary,) = site.expect(200, "GET", PATH)["transfers"]
    assert set(summary) == {"id", "name", "resource_type", "resource_id", "links"}
    assert site.expect(200, "GET", f"{PATH}/detail?all_tenants=1", user="bob")["transfers"] == []
    assert site.expect(200, "GET", f"{PATH}/detail?all_tenants=1", user="root")["transfers"] == [shown]
    accept(site, 400, {**made, "auth_key": "wrong"})
    assert (used(site, "blue", "shares"), used(site, "green", "shares")) == (1, 0)
    accept(site, 202, made, clear_access_rules=True)
    assert (used(site, "blue", "shares"), used(site, "green", "shares")) == (0, 1)
    assert (used(site, "blue", "gigabytes"), used(site, "green", "gigabytes")) == (0, 1)
    site.expect(404, "GET", f"/v2/shares/{share}")
    theirs = site.expect(200, "GET", f"/v2/shares/{share}", user="bob")["share"]
    assert (theirs["status"], theirs["project_id"], theirs["user_id"]) == ("available", "green", "bob")
    with site.store.read() as tx:
        assert tx.execute(select(share_access_rules.c.state)).scalars().all() == ["queued_to_deny"]
    accept(site, 404, made)


def test_an_offer_is_taken_back(site: Site) -> None:
    share = free_share(site)
    made = offer(site, share)
    offer(site, share, 400)
    for user, status in (("bob", 404), ("rita", 403)):
        site.expect(status, "DELETE", f"{PATH}/{made['id']}", user=user)
    site.expect(200, "DELETE", f"{PATH}/{made['id']}")
    assert site.expect(200, "GET", f"/v2/shares/{share}")["share"]["status"] == "available"
    accept(site, 404, made)


def test_what_cannot_be_offered(site: Site) -> None:
    offer(site, site.served_share()["id"], 400)  # a share server is one project's
    share = free_share(site)
    offer(site, share, 400, user="bob")
    offer(site, share, 403, user="rita")
    offer(site, "nothing", 400)
    site.finish_status(share, "error")
    offer(site, share, 400)
    site.expect(404, "GET", PATH, version="2.76")


@pytest.mark.parametrize("body", [{}, {"accept": {}}, {"accept": {"auth_key": "x", "clear_access_rules": "perhaps"}}])
def test_bad_acceptances_are_refused(site: Site, body: Any) -> None:
    made = offer(site, free_share(site))
    site.expect(400, "POST", f"{PATH}/{made['id']}/accept", body, user="bob")


def test_quotas_of_who_takes_are_kept(site: Site) -> None:
    site.expect(200, "PUT", "/v2/quota-sets/green", {"quota_set": {"shares": 0}}, user="root")
    share = free_share(site)
    made = offer(site, share)
    accept(site, 413, made)
    assert site.expect(200, "GET", f"/v2/shares/{share}")["share"]["project_id"] == "blue"
    assert used(site, "green", "shares") == 0
