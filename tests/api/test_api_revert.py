"""The action revert: what is accepted, and every refusal with Manila's status."""

from __future__ import annotations

from typing import Any

import pytest
from site_for_tests import Site
from sqlalchemy import select, update
from test_api_clients import tenant_network
from test_api_snapshots import NOBODY, settle, snap

from sharewright.states import ShareStatus
from sharewright.store.tables import operations, shares

SPECS = {"driver_handles_share_servers": True, "snapshot_support": True, "revert_to_snapshot_support": True}


def a_type(site: Site, name: str = "reverting", **specs: Any) -> str:
    site.expect(200, "POST", "/v2/types", {"share_type": {"name": name, "extra_specs": SPECS | specs}}, user="root")
    return name


def a_snapshot(site: Site, size: int = 2, share_type: str = "") -> tuple[str, str]:
    share = site.served_share(size=size, share_type=share_type or a_type(site))["id"]
    snapshot = snap(site, share)["id"]
    settle(site, snapshot)
    return share, snapshot


def revert(site: Site, status: int, share: str, snapshot: Any, **options: Any) -> Any:
    body = {"revert": {"snapshot_id": snapshot}}
    return site.expect(status, "POST", f"/v2/shares/{share}/action", body, **options)


def reverts(site: Site) -> list[Any]:
    with site.store.read() as tx:
        return list(tx.execute(select(operations).where(operations.c.kind == "revert_to_snapshot")).all())


def test_accepted(any_site: Site) -> None:
    share, snapshot = a_snapshot(any_site)
    answer = any_site.ask("POST", f"/v2/shares/{share}/action", {"revert": {"snapshot_id": snapshot}})
    assert (answer.status_code, answer.content) == (202, b"")
    assert any_site.expect(200, "GET", f"/v2/shares/{share}")["share"]["status"] == "reverting"
    assert any_site.expect(200, "GET", f"/v2/snapshots/{snapshot}")["snapshot"]["status"] == "restoring"
    (operation,) = reverts(any_site)
    assert (operation.key, operation.payload) == (
        f"share:{share}", {"snapshot_id": snapshot, "size": 2, "reserved": 0, "status": "available"},
    )  # fmt: skip
    any_site.expect(400, "DELETE", f"/v2/snapshots/{snapshot}")
    any_site.expect(403, "DELETE", f"/v2/shares/{share}")


def test_by_microversion(site: Site) -> None:
    share, snapshot = a_snapshot(site)
    revert(site, 404, share, snapshot, version="2.26")
    revert(site, 202, share, snapshot, version="2.27")


def test_a_type_that_does_not_allow_it(site: Site) -> None:
    share, snapshot = a_snapshot(site, share_type=a_type(site, "plain", revert_to_snapshot_support=False))
    assert "does not have that capability" in revert(site, 400, share, snapshot)["badRequest"]["message"]


def test_another_share_s_snapshot(site: Site) -> None:
    share, _ = a_snapshot(site)
    _, other = a_snapshot(site, share_type="reverting")
    assert "not associated" in revert(site, 400, share, other)["badRequest"]["message"]
    revert(site, 400, share, NOBODY)
    revert(site, 404, NOBODY, other)
    for wrong in (None, 5, ""):
        revert(site, 400, share, wrong)
    assert reverts(site) == []


def test_only_to_the_latest(site: Site) -> None:
    share, first = a_snapshot(site)
    second = snap(site, share)["id"]
    assert "not the latest" in revert(site, 409, share, first)["conflictingRequest"]["message"]
    revert(site, 409, share, second)  # being taken still
    settle(site, second)
    assert second in revert(site, 409, share, first)["conflictingRequest"]["message"]
    revert(site, 202, share, second)


def test_another_projects_snapshot_is_not_named(site: Site) -> None:
    """Administrators take snapshots of any share, in their own project."""
    share, first = a_snapshot(site)
    theirs = snap(site, share, user="root")["id"]
    settle(site, theirs)
    site.expect(404, "GET", f"/v2/snapshots/{theirs}")
    message = revert(site, 409, share, first)["conflictingRequest"]["message"]
    assert "not the latest" in message
    assert theirs not in message
    assert theirs in revert(site, 409, share, first, user="root")["conflictingRequest"]["message"]


@pytest.mark.parametrize("status", sorted(set(ShareStatus.ALL) - {"available", "reverting_error"}))
def test_statuses_that_do_not_allow_it(site: Site, status: str) -> None:
    share, snapshot = a_snapshot(site)
    site.finish_status(share, status)
    assert f"'{status}'" in revert(site, 409, share, snapshot)["conflictingRequest"]["message"]
    assert reverts(site) == []


def test_again_from_reverting_error(site: Site) -> None:
    share, snapshot = a_snapshot(site)
    site.finish_status(share, "reverting_error")
    revert(site, 202, share, snapshot)


def test_a_share_that_is_smaller_now_needs_quota(site: Site) -> None:
    share, snapshot = a_snapshot(site, size=3)
    with site.store.begin() as tx:
        tx.execute(update(shares).values(size=1))
    site.expect(200, "PUT", "/v2/quota-sets/blue", {"quota_set": {"gigabytes": 4}}, user="root")
    assert "gigabytes quota" in revert(site, 413, share, snapshot)["overLimit"]["message"]
    site.expect(200, "PUT", "/v2/quota-sets/blue", {"quota_set": {"gigabytes": 5}}, user="root")
    revert(site, 202, share, snapshot)
    assert reverts(site)[0].payload["reserved"] == 2


def test_who_may(site: Site) -> None:
    share, snapshot = a_snapshot(site)
    revert(site, 403, share, snapshot, user="rita")
    revert(site, 404, share, snapshot, user="bob")
    assert reverts(site) == []


def test_on_a_working_site(working_site: Site) -> None:
    """The whole way: request, worker, simulated cloud."""
    site = working_site
    net, subnet = tenant_network(site)
    network = site.network(neutron_net_id=net, neutron_subnet_id=subnet)["id"]
    share = site.share(network=network, share_type=a_type(site))["id"]
    site.wait(f"/v2/shares/{share}", "share", "status", "available")
    snapshot = snap(site, share)["id"]
    site.wait(f"/v2/snapshots/{snapshot}", "snapshot", "status", "available")
    revert(site, 202, share, snapshot)
    site.wait(f"/v2/shares/{share}", "share", "status", "available")
    site.wait(f"/v2/snapshots/{snapshot}", "snapshot", "status", "available")
