"""Replicas of shares: their whole life on two backends of the simulated cloud, and every refusal with its status."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from site_for_tests import Site
from sqlalchemy import update

from sharewright.api.versions import EXPERIMENTAL_HEADER
from sharewright.store.tables import share_instances

HEADERS = {EXPERIMENTAL_HEADER: "True"}
MISSING = str(uuid.uuid4())
SECONDS = 120.0  # on a machine that has much else to do
SUMMARY = {"id", "share_id", "status", "replica_state"}
DETAIL = SUMMARY | {"availability_zone", "created_at", "updated_at", "share_network_id", "metadata"}
MINE = {"share_server_id", "host", "cast_rules_to_readonly"}


def a_type(site: Site) -> str:
    specs = {"driver_handles_share_servers": True, "replication_type": "readable", "snapshot_support": True}
    site.expect(200, "POST", "/v2/types", {"share_type": {"name": "replicated", "extra_specs": specs}}, user="root")
    return "replicated"


def add(site: Site, status: int, share_id: Any, user: str = "alice", **values: Any) -> Any:
    body = {"share_replica": {"share_id": share_id, **values}}
    answer = site.expect(status, "POST", "/v2/share-replicas", body, user=user)
    return answer["share_replica"] if status == 202 else str(answer)


def act(site: Site, status: int, replica: str, action: str, values: Any = None, user: str = "root") -> Any:
    return site.expect(status, "POST", f"/v2/share-replicas/{replica}/action", {action: values}, user=user)


def shown(site: Site, replica: str, user: str = "alice") -> dict[str, Any]:
    return dict(site.expect(200, "GET", f"/v2/share-replicas/{replica}", user=user)["share_replica"])


def wait(site: Site, replica: str, name: str, wanted: str) -> None:
    site.wait(f"/v2/share-replicas/{replica}", "share_replica", name, wanted, seconds=SECONDS)


def in_use(site: Site) -> tuple[int, int]:
    quotas = site.expect(200, "GET", "/v2/quota-sets/blue/detail")["quota_set"]
    return quotas["share_replicas"]["in_use"], quotas["replica_gigabytes"]["in_use"]


def read_share(site: Site, share: str) -> dict[str, Any]:
    return dict(site.expect(200, "GET", f"/v2/shares/{share}", user="root")["share"])


def only(site: Site, share: str) -> str:
    (replica,) = site.expect(200, "GET", f"/v2/share-replicas?share_id={share}")["share_replicas"]
    assert set(replica) == SUMMARY
    return str(replica["id"])


def test_the_life_of_a_replica(replicating_site: Site) -> None:
    site = replicating_site
    network = site.real_network()
    share = site.share(network=network, share_type=a_type(site), size=2, availability_zone="zone-one")["id"]
    site.wait(f"/v2/shares/{share}", "share", "status", "available", seconds=SECONDS)
    first = only(site, share)
    assert (shown(site, first)["replica_state"], in_use(site)) == ("active", (1, 2))
    before = read_share(site, share)
    assert (before["replication_type"], before["has_replicas"]) == ("readable", False)

    second = add(site, 202, share, availability_zone="zone-two", metadata={"for": "reading"})["id"]
    wait(site, second, "status", "available")
    assert set(shown(site, second)) == DETAIL
    assert set(shown(site, second, "root")) == DETAIL | MINE
    replica = shown(site, second, "root")
    assert (replica["replica_state"], replica["availability_zone"]) == ("in_sync", "zone-two")
    assert replica["metadata"] == {"for": "reading"}
    assert replica["cast_rules_to_readonly"] is True
    assert replica["share_server_id"] != before["share_server_id"]
    assert in_use(site) == (2, 4)
    after = read_share(site, share)
    assert after.pop("has_replicas") is True
    assert before.pop("has_replicas") is False
    assert after == before  # nothing else has happened to the share

    # What clients mount: of the share only what can be written to, from 2.47 on.
    def paths(url: str, **options: Any) -> set[str]:
        return {each["path"] for each in site.expect(200, "GET", url, **options)["export_locations"]}

    of_first = paths(f"/v2/share-replicas/{first}/export-locations")
    of_second = paths(f"/v2/share-replicas/{second}/export-locations")
    assert paths(f"/v2/shares/{share}/export_locations") == of_first
    assert paths(f"/v2/shares/{share}/export_locations", version="2.46") == of_first | of_second
    assert of_second.isdisjoint(of_first)

    # Rules are in force on both; nothing that changes what a replica holds is possible meanwhile.
    rule = {"allow_access": {"access_type": "ip", "access_to": "192.0.2.5", "access_level": "rw"}}
    site.expect(200, "POST", f"/v2/shares/{share}/action", rule)
    site.wait(f"/v2/shares/{share}", "share", "access_rules_status", "active", seconds=SECONDS)
    for status, body in (
        (409, {"shrink": {"new_size": 1}}),
        (409, {"unmanage": None}),
        (409, {"soft_delete": None}),
        (409, {"force_delete": None}),
    ):
        site.expect(status, "POST", f"/v2/shares/{share}/action", body, user="root")
    site.expect(409, "DELETE", f"/v2/shares/{share}")
    snapshot = site.expect(202, "POST", "/v2/snapshots", {"snapshot": {"share_id": share}})["snapshot"]["id"]
    url = f"/v2/snapshots/{snapshot}"
    site.wait(url, "snapshot", "status", "available", seconds=SECONDS)
    wait(site, second, "replica_state", "in_sync")
    found = site.expect(200, "GET", f"/v2/snapshot-instances/detail?snapshot_id={snapshot}", user="root")
    assert {each["share_instance_id"] for each in found["snapshot_instances"]} == {first, second}
    site.expect(409, "POST", f"{url}/action", {"unmanage": None}, user="root")
    site.expect(202, "DELETE", url)
    site.wait_gone(url, seconds=SECONDS)
    site.expect(202, "POST", f"/v2/shares/{share}/action", {"extend": {"new_size": 3}})
    site.wait(f"/v2/shares/{share}", "share", "status", "available", seconds=SECONDS)
    assert in_use(site) == (2, 6)

    promoted = act(site, 202, second, "promote", user="alice")["share_replica"]
    assert promoted["status"] == "replication_change"
    wait(site, first, "replica_state", "in_sync")
    assert (shown(site, second)["replica_state"], shown(site, second)["status"]) == ("active", "available")
    after = read_share(site, share)
    assert (after["availability_zone"], after["status"]) == ("zone-two", "available")
    assert after["share_server_id"] == replica["share_server_id"]
    assert paths(f"/v2/shares/{share}/export_locations") == of_second
    act(site, 200, second, "promote", user="alice")

    site.expect(400, "DELETE", f"/v2/share-replicas/{second}")
    act(site, 400, second, "force_delete")
    site.expect(202, "DELETE", f"/v2/share-replicas/{first}")
    site.wait_gone(f"/v2/share-replicas/{first}", seconds=SECONDS)
    assert in_use(site) == (1, 3)
    site.expect(202, "DELETE", f"/v2/shares/{share}")
    site.wait_gone(f"/v2/shares/{share}", seconds=SECONDS)
    assert in_use(site) == (0, 0)


def replicated(site: Site) -> tuple[str, str]:
    """A share and a second replica, as finished operations leave them, without a worker."""
    share = site.served_share(share_type=a_type(site), size=2)["id"]
    replica = add(site, 202, share)["id"]
    settle(site, replica, status="available", replica_state="in_sync", host="node1@two#two", backend="two")
    return share, replica


def settle(site: Site, replica: str, **values: Any) -> None:
    with site.store.begin() as tx:
        tx.execute(update(share_instances).where(share_instances.c.id == replica).values(**values))


def test_what_is_refused(any_site: Site) -> None:
    site = any_site
    plain = site.served_share()["id"]
    assert "Replication not supported" in add(site, 400, plain)
    site.expect(404, "GET", f"/v2/share-replicas/{site.expect(200, 'GET', f'/v2/shares/{plain}')['share']['id']}")
    for share_id, status in ((MISSING, 404), ("", 400), (None, 400)):
        add(site, status, share_id)
    add(site, 404, plain, user="bob")
    add(site, 403, plain, user="rita")
    share, replica = replicated(site)
    add(site, 404, share, availability_zone="nowhere")
    add(site, 400, share, scheduler_hints={"same_host": share}, user="root")
    add(site, 403, share, scheduler_hints={"only_host": "node1@two#two"})
    site.expect(404, "GET", f"/v2/share-replicas/{replica}", user="bob")
    site.expect(404, "DELETE", f"/v2/share-replicas/{replica}", user="bob")
    site.expect(403, "DELETE", f"/v2/share-replicas/{replica}", user="rita")
    for action in ("resync", "force_delete"):
        act(site, 403, replica, action, user="alice")
    act(site, 403, MISSING, "resync", user="alice")
    act(site, 404, MISSING, "promote", user="alice")
    site.expect(404, "GET", f"/v2/share-replicas/{replica}/export-locations/{MISSING}")
    site.expect(404, "GET", "/v2/share-replicas", version="2.55")
    site.expect(200, "GET", "/v2/share-replicas", version="2.55", headers=HEADERS)
    site.expect(404, "GET", "/v2/share-replicas", version="2.10", headers=HEADERS)
    # Nothing more than was accepted is counted.
    assert in_use(site) == (2, 4)
    site.expect(200, "PUT", "/v2/quota-sets/blue", {"quota_set": {"share_replicas": 2}}, user="root")
    assert "ShareReplicasLimitExceeded" in add(site, 413, share)


def test_who_may_promote_what(site: Site) -> None:
    _, replica = replicated(site)
    settle(site, replica, status="error")
    act(site, 400, replica, "promote")
    settle(site, replica, status="available", replica_state="out_of_sync")
    act(site, 403, replica, "promote", user="alice")
    act(site, 202, replica, "promote")
    assert shown(site, replica)["status"] == "replication_change"
    act(site, 400, replica, "promote")


def test_what_an_administrator_may_set(site: Site) -> None:
    share, replica = replicated(site)
    act(site, 202, replica, "reset_status", {"status": "error_deleting"})
    act(site, 202, replica, "reset_replica_state", {"replica_state": "error"})
    assert (shown(site, replica)["status"], shown(site, replica)["replica_state"]) == ("error_deleting", "error")
    assert read_share(site, share)["status"] == "available"
    for action, values in (
        ("reset_status", {"status": "odd"}),
        ("reset_replica_state", {"replica_state": "odd"}),
        ("reset_replica_state", {"state": "error"}),
    ):
        act(site, 400, replica, action, values)
    act(site, 202, replica, "force_delete")
    assert shown(site, replica)["status"] == "deleting"


@pytest.mark.parametrize(("version", "status"), [("2.73", 400), ("2.74", 200)])
def test_rules_while_a_replica_is_in_error(site: Site, version: str, status: int) -> None:
    share, replica = replicated(site)
    settle(site, replica, status="error")
    rule = {"allow_access": {"access_type": "ip", "access_to": "192.0.2.5"}}
    site.expect(status, "POST", f"/v2/shares/{share}/action", rule, version=version)


def test_metadata_of_a_replica(site: Site) -> None:
    _, replica = replicated(site)
    url = f"/v2/share-replicas/{replica}/metadata"
    assert site.expect(200, "POST", url, {"metadata": {"a": "1"}}) == {"metadata": {"a": "1"}}
    site.expect(200, "PUT", f"{url}/b", {"meta": {"b": "2"}})
    assert site.expect(200, "GET", url) == {"metadata": {"a": "1", "b": "2"}}
    assert site.expect(200, "PUT", url, {"metadata": {"c": "3"}}) == {"metadata": {"c": "3"}}
    assert site.expect(200, "GET", f"{url}/c") == {"meta": {"c": "3"}}
    site.expect(200, "DELETE", f"{url}/c")
    site.expect(404, "DELETE", f"{url}/c")
    site.expect(404, "GET", url, user="bob")
    site.expect(404, "GET", url, version="2.94")
