"""POST /shares with a snapshot_id: what is taken over, and every refusal with Manila's status."""

from __future__ import annotations

from typing import Any

import pytest
from site_for_tests import Site
from sqlalchemy import select, update
from test_api_clients import tenant_network
from test_api_snapshots import NOBODY, settle, snap

from sharewright.store.tables import operations, share_instances, shares

SPECS = {
    "driver_handles_share_servers": True,
    "snapshot_support": True,
    "create_share_from_snapshot_support": True,
    "sharewright:squash": "root_squash",
    "provisioning:max_share_size": "9",
}


def a_type(site: Site, name: str = "cloning", **specs: Any) -> str:
    body = {"share_type": {"name": name, "extra_specs": SPECS | specs}}
    site.expect(200, "POST", "/v2/types", body, user="root")
    return name


def a_snapshot(site: Site, size: int = 2, share_type: str = "") -> tuple[dict[str, Any], str]:
    """A share and a snapshot of it that is available."""
    share = site.served_share(size=size, share_type=share_type or a_type(site))
    snapshot = snap(site, share["id"])["id"]
    settle(site, snapshot)
    return share, snapshot


def create(site: Site, status: int, snapshot: str, user: str = "alice", **values: Any) -> Any:
    body = {"share": {"share_proto": "nfs", "snapshot_id": snapshot, **values}}
    answer = site.expect(status, "POST", "/v2/shares", body, user=user)
    return answer["share"] if status == 200 else answer


def creations(site: Site) -> list[Any]:
    with site.store.read() as tx:
        query = select(operations).where(operations.c.kind == "create_share").order_by(operations.c.created_at)
        return list(tx.execute(query).all())


def test_what_is_not_given_is_the_parent_s(any_site: Site) -> None:
    parent, snapshot = a_snapshot(any_site)
    clone = create(any_site, 200, snapshot, name="copy")
    assert (clone["size"], clone["snapshot_id"], clone["status"]) == (2, snapshot, "creating")
    for key in ("share_type", "share_network_id", "share_proto"):
        assert clone[key] == parent[key]
    with any_site.store.read() as tx:
        row = tx.execute(select(share_instances).where(share_instances.c.share_id == clone["id"])).one()
        host = tx.execute(select(shares.c.host).where(shares.c.id == parent["id"])).scalar_one()
    assert row.squash == "root_squash"
    assert creations(any_site)[-1].payload == {"scheduler_hints": {"only_host": host}}
    (found,) = any_site.expect(200, "GET", f"/v2/shares?snapshot_id={snapshot}")["shares"]
    assert found["id"] == clone["id"]
    assert any_site.expect(200, "GET", f"/v2/shares/{parent['id']}")["share"]["snapshot_id"] is None


def test_a_larger_one_with_its_quota(site: Site) -> None:
    parent, snapshot = a_snapshot(site)
    clone = create(site, 200, snapshot, size=5, share_type="cloning", share_network_id=parent["share_network_id"])
    assert clone["size"] == 5
    detail = site.expect(200, "GET", "/v2/quota-sets/blue/detail")["quota_set"]
    assert (detail["shares"]["in_use"], detail["gigabytes"]["in_use"]) == (2, 7)


def test_its_operation_has_time_for_a_copy(site: Site) -> None:
    _, snapshot = a_snapshot(site)
    create(site, 200, snapshot, size=9)
    plain, copy = creations(site)
    usual = plain.deadline - plain.created_at
    assert (copy.deadline - copy.created_at - usual).total_seconds() == pytest.approx(9 * 20, abs=1)


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"size": 1}, "must be equal to or greater than the snapshot's (2 GiB)"),
        ({"size": 10}, "max_share_size|maximum"),
        ({"share_type": "default"}, "must match the type of the source share"),
        ({"share_network_id": NOBODY}, "should be the same as snapshot's parent share's or empty"),
        ({"share_proto": "CIFS"}, "protocol"),
    ],
)
def test_what_does_not_fit_is_refused(site: Site, values: dict[str, Any], part: str) -> None:
    _, snapshot = a_snapshot(site)
    message = create(site, 400, snapshot, **values)["badRequest"]["message"]
    assert any(each in message for each in part.split("|")), message
    assert len(creations(site)) == 1
    assert site.expect(200, "GET", "/v2/quota-sets/blue/detail")["quota_set"]["shares"]["in_use"] == 1


@pytest.mark.parametrize("status", ["creating", "error", "deleting", "error_deleting", "restoring"])
def test_only_from_one_that_is_available(site: Site, status: str) -> None:
    _, snapshot = a_snapshot(site)
    settle(site, snapshot, status)
    assert f"'{status}'" in create(site, 400, snapshot)["badRequest"]["message"]


def test_a_type_that_does_not_allow_it(site: Site) -> None:
    _, snapshot = a_snapshot(site, share_type=a_type(site, "plain", create_share_from_snapshot_support=False))
    assert "does not have that capability" in create(site, 400, snapshot)["badRequest"]["message"]


def test_a_type_that_changed_since(site: Site) -> None:
    """What the parent was made with counts."""
    parent, snapshot = a_snapshot(site)
    specs = {"sharewright:squash": "all_squash"}
    type_id = parent["share_type"]
    site.expect(200, "POST", f"/v2/types/{type_id}/extra_specs", {"extra_specs": specs}, user="root")
    clone = create(site, 200, snapshot)
    with site.store.read() as tx:
        row = tx.execute(select(share_instances).where(share_instances.c.share_id == clone["id"])).one()
    assert row.squash == "root_squash"


def test_encryption_is_the_parent_s(site: Site) -> None:
    """Else a copy of what must be encrypted would be open to guests, in the clear."""
    name = a_type(site, "sealed", **{"sharewright:smb_encryption": "required"})
    share = site.served_share(share_proto="CIFS", share_type=name)
    snapshot = snap(site, share["id"])["id"]
    settle(site, snapshot)
    clone = create(site, 200, snapshot, share_proto="CIFS")
    with site.store.read() as tx:
        row = tx.execute(select(share_instances).where(share_instances.c.share_id == clone["id"])).one()
    assert row.smb_encryption == "required"


def test_others_snapshots_do_not_exist(site: Site) -> None:
    _, snapshot = a_snapshot(site)
    create(site, 404, snapshot, user="bob")
    create(site, 404, NOBODY)
    create(site, 404, "no-id")
    create(site, 403, snapshot, user="rita")
    with site.store.begin() as tx:
        tx.execute(update(shares).values(is_public=True))
    create(site, 404, snapshot, user="bob")


def test_a_share_needs_a_size_otherwise(site: Site) -> None:
    body = {"share_proto": "NFS", "share_network_id": site.network()["id"]}
    for size in ({}, {"size": None}):
        message = site.expect(400, "POST", "/v2/shares", {"share": body | size})["badRequest"]["message"]
        assert "size is required" in message


def test_on_a_working_site(working_site: Site) -> None:
    """The whole way: request, worker, simulated cloud."""
    site = working_site
    net, subnet = tenant_network(site)
    network = site.network(neutron_net_id=net, neutron_subnet_id=subnet)["id"]
    share = site.share(network=network, share_type=a_type(site))["id"]
    site.wait(f"/v2/shares/{share}", "share", "status", "available")
    snapshot = snap(site, share)["id"]
    site.wait(f"/v2/snapshots/{snapshot}", "snapshot", "status", "available")
    clone = create(site, 200, snapshot, size=3)["id"]
    site.wait(f"/v2/shares/{clone}", "share", "status", "available")
    site.expect(202, "DELETE", f"/v2/snapshots/{snapshot}")
    site.wait_gone(f"/v2/snapshots/{snapshot}")
    for gone in (share, clone):
        site.expect(202, "DELETE", f"/v2/shares/{gone}")
        site.wait_gone(f"/v2/shares/{gone}")
