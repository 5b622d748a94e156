"""Migration of shares: its whole life on two backends of the simulated cloud, and every refusal with its status."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from site_for_tests import Site
from sqlalchemy import insert, select, update

from sharewright.api.versions import EXPERIMENTAL_HEADER
from sharewright.identifiers import utcnow
from sharewright.store.tables import operations, pools, share_instances, shares

HEADERS = {EXPERIMENTAL_HEADER: "True"}
KEPT = dict.fromkeys(("preserve_metadata", "writable", "nondisruptive", "preserve_snapshots"), False)
MISSING = str(uuid.uuid4())
SECONDS = 120.0  # on a machine that has much else to do


def add_pool(site: Site, host: str = "node1@two#pool") -> str:
    with site.store.begin() as tx:
        tx.execute(insert(pools).values(host=host, backend="two", availability_zone="zone-1", reported_at=utcnow()))
    return host


def act(site: Site, status: int, share: str, action: str, values: Any = None, **options: Any) -> Any:
    options = {"user": "root", **options}
    return site.expect(status, "POST", f"/v2/shares/{share}/action", {action: values}, **options)


def migrate(site: Site, status: int, share: str, host: str, **values: Any) -> Any:
    return act(site, status, share, "migration_start", {"host": host, **KEPT, **values})


def shown(site: Site, share: str) -> dict[str, Any]:
    return dict(site.expect(200, "GET", f"/v2/shares/{share}", user="root")["share"])


def progress(site: Site, share: str) -> dict[str, Any]:
    return dict(site.expect(200, "GET", f"/v2/shares/{share}/migration-progress", user="root"))


def wait(site: Site, share: str, state: str) -> None:
    site.wait(f"/v2/shares/{share}", "share", "task_state", state, seconds=SECONDS)


def instances(site: Site, share: str) -> dict[str, dict[str, Any]]:
    """By status."""
    found = site.expect(200, "GET", f"/v2/shares/{share}/instances", user="root")["share_instances"]
    return {each["status"]: each for each in found}


def kinds(site: Site, share: str) -> list[str]:
    with site.store.read() as tx:
        query = select(operations.c.kind).where(operations.c.resource_id == share).order_by(operations.c.sequence)
        return list(tx.execute(query).scalars())


def a_share(site: Site, **values: Any) -> tuple[str, str]:
    """One in service in zone-one, and the pool in the other zone."""
    share = site.share(network=site.real_network(), availability_zone="zone-one", **values)["id"]
    site.wait(f"/v2/shares/{share}", "share", "status", "available", seconds=SECONDS)
    names = [each["name"] for each in site.expect(200, "GET", "/v2/scheduler-stats/pools", user="root")["pools"]]
    return share, next(name for name in names if "@two" in name)


def test_the_life_of_a_migration(replicating_site: Site) -> None:
    site = replicating_site
    specs = {"driver_handles_share_servers": True, "snapshot_support": True}
    body = {"share_type": {"name": "kept", "extra_specs": specs}}
    site.expect(200, "POST", "/v2/types", body, user="root")
    share, host = a_share(site, size=2, share_type="kept")
    before = shown(site, share)
    former = site.expect(200, "GET", f"/v2/share-networks/{before['share_network_id']}")["share_network"]
    (subnet,) = former["share_network_subnets"]
    network = site.network(**{key: subnet[key] for key in ("neutron_net_id", "neutron_subnet_id")})["id"]
    paths = site.expect(200, "GET", f"/v2/shares/{share}/export_locations")["export_locations"]
    rule = {"allow_access": {"access_type": "ip", "access_to": "10.9.9.9"}}
    site.expect(200, "POST", f"/v2/shares/{share}/action", rule)
    site.wait(f"/v2/shares/{share}", "share", "access_rules_status", "active", seconds=SECONDS)

    migrate(site, 202, share, host, writable=True, preserve_metadata=True, new_share_network_id=network)
    wait(site, share, "migration_driver_phase1_done")
    assert progress(site, share) == {
        "total_progress": 100,
        "task_state": "migration_driver_phase1_done",
        "details": {},
    }
    during, both = shown(site, share), instances(site, share)
    assert (during["status"], during["has_replicas"]) == ("migrating", False)
    assert (during["host"], during["share_network_id"]) == (before["host"], before["share_network_id"])
    assert set(both) == {"migrating", "migrating_to"}
    other = both["migrating_to"]
    assert (other["host"], other["share_network_id"], other["replica_state"]) == (host, network, None)
    assert other["share_server_id"] not in (None, before["share_server_id"])
    listed = site.expect(200, "GET", "/v2/share-replicas", headers=HEADERS, user="root")
    assert listed == {"share_replicas": []}
    assert site.expect(200, "GET", f"/v2/shares/{share}/export_locations")["export_locations"] == paths
    refuse_meanwhile(site, share, host)

    act(site, 202, share, "migration_complete")
    wait(site, share, "migration_success")
    after = shown(site, share)
    assert (after["status"], after["host"], after["progress"]) == ("available", host, "100%")
    assert (after["availability_zone"], after["share_network_id"]) == ("zone-two", network)
    assert after["share_server_id"] == other["share_server_id"]
    assert {each["id"] for each in instances(site, share).values()} == {other["id"]}
    moved = site.expect(200, "GET", f"/v2/shares/{share}/export_locations")["export_locations"]
    assert moved
    assert {each["path"] for each in moved}.isdisjoint(each["path"] for each in paths)
    (kept,) = site.expect(200, "GET", f"/v2/share-access-rules?share_id={share}")["access_list"]
    assert (kept["access_to"], kept["state"]) == ("10.9.9.9", "active")
    assert progress(site, share)["total_progress"] == 100
    for action in ("migration_complete", "migration_cancel"):
        act(site, 400, share, action)
    site.expect(202, "DELETE", f"/v2/shares/{share}")
    site.wait_gone(f"/v2/shares/{share}", seconds=SECONDS)


def refuse_meanwhile(site: Site, share: str, host: str) -> None:
    path = f"/v2/shares/{share}/action"
    site.expect(400, "POST", path, {"allow_access": {"access_type": "ip", "access_to": "10.9.9.8"}})
    site.expect(400, "POST", path, {"extend": {"new_size": 5}})
    site.expect(400, "POST", path, {"shrink": {"new_size": 1}})
    site.expect(400, "POST", "/v2/snapshots", {"snapshot": {"share_id": share}})
    site.expect(403, "DELETE", f"/v2/shares/{share}")
    migrate(site, 400, share, host)


def test_a_cancelled_migration_leaves_the_share_as_it_was(replicating_site: Site) -> None:
    site = replicating_site
    share, host = a_share(site)
    before = shown(site, share)
    migrate(site, 202, share, host)
    wait(site, share, "migration_driver_phase1_done")
    act(site, 202, share, "migration_cancel")
    wait(site, share, "migration_cancelled")
    after = shown(site, share)
    assert {**after, "updated_at": None, "task_state": None} == {**before, "updated_at": None, "task_state": None}
    assert set(instances(site, share)) == {"available"}
    assert progress(site, share)["total_progress"] == 100
    act(site, 400, share, "migration_cancel")
    # What a migration has made is an instance that an administrator may delete, too.
    migrate(site, 202, share, host)
    wait(site, share, "migration_driver_phase1_done")
    made = instances(site, share)["migrating_to"]["id"]
    site.expect(202, "POST", f"/v2/share_instances/{made}/action", {"force_delete": None}, user="root")
    wait(site, share, "migration_cancelled")
    assert set(instances(site, share)) == {"available"}


def test_a_driver_that_cannot_leaves_the_share_available(two_backends: Site) -> None:
    """The generic driver, for now: the answers are those of a Manila whose driver cannot, and that has no data
    service."""
    site = two_backends
    share = site.share(network=site.real_network())["id"]
    site.wait(f"/v2/shares/{share}", "share", "status", "available", seconds=SECONDS)
    here = shown(site, share)["host"]
    names = [each["name"] for each in site.expect(200, "GET", "/v2/scheduler-stats/pools", user="root")["pools"]]
    (host,) = [name for name in names if name != here]
    for forced in (False, True):
        migrate(site, 202, share, host, force_host_assisted_migration=forced)
        wait(site, share, "migration_error")
        assert (shown(site, share)["status"], shown(site, share)["host"]) == ("available", here)
        act(site, 202, share, "reset_task_state", {"task_state": None})
    texts = [each["user_message"] for each in site.expect(200, "GET", f"/v2/messages?resource_id={share}")["messages"]]
    assert any("cannot move shares" in text for text in texts)
    assert any("needs a data service" in text for text in texts)
    assert set(instances(site, share)) == {"available"}


def test_what_a_request_writes(any_site: Site) -> None:
    site = any_site
    share, host = site.served_share()["id"], add_pool(site)
    for action in ("migration_cancel", "migration_complete"):
        act(site, 400, share, action)
    site.expect(400, "GET", f"/v2/shares/{share}/migration-progress", user="root")
    migrate(site, 202, share, host, writable=True)
    assert (shown(site, share)["status"], shown(site, share)["task_state"]) == ("migrating", "migration_starting")
    assert progress(site, share)["total_progress"] == 0
    assert kinds(site, share) == ["create_share", "start_share_migration"]
    act(site, 400, share, "migration_cancel")  # nothing has begun that could be
    for state, percent in (("migration_driver_in_progress", 0), ("migration_error", 100)):
        act(site, 202, share, "reset_task_state", {"task_state": state})
        assert progress(site, share)["total_progress"] == percent
    act(site, 202, share, "reset_task_state", {"task_state": "migration_driver_phase1_done"})
    for action in ("migration_cancel", "migration_complete"):  # there is no second instance
        act(site, 400, share, action)
    act(site, 202, share, "reset_task_state", {"task_state": None})
    assert shown(site, share)["task_state"] is None


def test_completing_and_cancelling_are_accepted_once(site: Site) -> None:
    for action, state in (
        ("migration_complete", "migration_completing"),
        ("migration_cancel", "migration_cancel_in_progress"),
    ):
        share = site.served_share()["id"]
        with site.store.begin() as tx:
            now = utcnow()
            tx.execute(
                insert(share_instances).values(
                    id=str(uuid.uuid4()), share_id=share, status="migrating_to", size=1, is_main=False, created_at=now
                )
            )
        act(site, 202, share, "reset_task_state", {"task_state": "migration_driver_phase1_done"})
        act(site, 202, share, action)
        assert shown(site, share)["task_state"] == state
        act(site, 400, share, action)
        assert len(kinds(site, share)) == 2
        assert progress(site, share)["total_progress"] == 100


def test_a_share_that_is_there_already_needs_no_migration(site: Site) -> None:
    share = site.served_share()["id"]
    host = shown(site, share)["host"]
    add_pool(site, host)
    migrate(site, 200, share, host)
    assert progress(site, share) == {"total_progress": 100, "task_state": "migration_success", "details": {}}
    old = act(site, 200, share, "migration_get_progress", version="2.58", headers=HEADERS)
    assert old == {"total_progress": 100, "task_state": "migration_success"}
    act(site, 400, share, "migration_cancel")


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({"host": "nowhere@two#pool"}, 404),
        ({"new_share_network_id": "nothing"}, 400),
        ({"new_share_type_id": "nothing"}, 400),
        ({"force_host_assisted_migration": True, "writable": True}, 400),
        ({"writable": "perhaps"}, 400),
        ({"host": None}, 400),
    ],
)
def test_bad_migrations_are_refused(site: Site, values: dict[str, Any], status: int) -> None:
    share = site.served_share()["id"]
    migrate(site, status, share, **{"host": add_pool(site), **values})
    assert (shown(site, share)["task_state"], shown(site, share)["status"]) == (None, "available")


def a_type(site: Site, **specs: Any) -> str:
    specs = {"driver_handles_share_servers": True, **specs}
    body = {"share_type": {"name": f"type-{uuid.uuid4()}", "extra_specs": specs}}
    return str(site.expect(200, "POST", "/v2/types", body, user="root")["share_type"]["id"])


def test_another_type_is_checked_and_counted(site: Site) -> None:
    share, host = site.served_share()["id"], add_pool(site)
    for specs in (
        {"availability_zones": "elsewhere"},
        {"provisioning:min_share_size": "5"},
    ):
        migrate(site, 400, share, host, new_share_type_id=a_type(site, **specs))
    machine = a_type(site, driver_handles_share_servers=False)
    migrate(site, 400, share, host, new_share_type_id=machine, new_share_network_id=site.network()["id"])
    full = a_type(site)
    quota = {"quota_set": {"gigabytes": 0}}
    site.expect(200, "PUT", f"/v2/quota-sets/blue?share_type={full}", quota, user="root")
    migrate(site, 413, share, host, new_share_type_id=full)
    assert shown(site, share)["status"] == "available"
    wanted = a_type(site)
    migrate(site, 202, share, host, new_share_type_id=wanted)
    used = site.expect(200, "GET", "/v2/quota-sets/blue/detail")["quota_set"]["gigabytes"]["in_use"]
    assert used == 2  # until the migration is over


def test_a_machine_of_an_operators_needs_a_network_to_be_left_for_servers(site: Site) -> None:
    share, host = site.served_share()["id"], add_pool(site)
    with site.store.begin() as tx:
        tx.execute(update(shares).where(shares.c.id == share).values(share_network_id=None))
    migrate(site, 400, share, host, new_share_type_id=a_type(site))
    migrate(site, 202, share, host, new_share_type_id=a_type(site), new_share_network_id=site.network()["id"])


def test_replicated_and_grouped_shares_stay(site: Site) -> None:
    share, host = site.served_share()["id"], add_pool(site)
    with site.store.begin() as tx:
        replica = {"status": "available", "size": 1, "is_main": False, "replica_state": "in_sync"}
        tx.execute(insert(share_instances).values(id=str(uuid.uuid4()), share_id=share, created_at=utcnow(), **replica))
    migrate(site, 409, share, host)
    grouped = site.served_share()["id"]
    with site.store.begin() as tx:
        tx.execute(update(shares).where(shares.c.id == grouped).values(share_group_id=MISSING))
    migrate(site, 400, grouped, host)


def test_who_may_migrate_what_and_when(site: Site) -> None:
    share, host = site.served_share()["id"], add_pool(site)
    act(site, 403, share, "migration_start", {"host": host, **KEPT}, user="alice")
    act(site, 403, MISSING, "migration_cancel", user="alice")
    act(site, 404, MISSING, "migration_start", {"host": host, **KEPT})
    act(site, 404, share, "migration_start", {"host": host, **KEPT}, version="2.95")
    act(site, 404, share, "migration_get_progress", version="2.98")
    act(site, 400, share, "migration_start", {"host": host})
    site.finish_status(share, "error")
    migrate(site, 400, share, host)
    site.finish_status(share, "available")
    act(site, 202, share, "reset_task_state", {"task_state": "migration_driver_phase1_done"})
    migrate(site, 409, share, host)
    act(site, 400, share, "reset_task_state", {"task_state": "odd"})
    act(site, 400, share, "reset_task_state", {"state": None})


@pytest.mark.parametrize(
    ("action", "first", "last"),
    [
        ("migration_start", 29, None),
        ("migration_complete", 22, None),
        ("migration_cancel", 22, None),
        ("migration_get_progress", 22, 97),
        ("reset_task_state", 22, None),
    ],
)
def test_every_action_has_its_microversions(site: Site, action: str, first: int, last: int | None) -> None:
    """Experimental up to 2.95: 404 without the header that says so, and before it was there. What is there says so by
    finding something wrong with the request or the share."""
    share = site.served_share()["id"]

    def status(minor: int, headers: dict[str, str]) -> int:
        answer = site.ask(
            "POST", f"/v2/shares/{share}/action", {action: {}}, user="root", version=f"2.{minor}", headers=headers
        )
        return answer.status_code

    assert status(first - 1, HEADERS) == 404
    for minor in (first, 95):
        assert (status(minor, {}), status(minor, HEADERS)) == (404, 400)
    assert status(96, {}) == 400
    if last is not None:
        assert (status(last, {}), status(last + 1, {})) == (400, 404)
        assert site.ask("GET", f"/v2/shares/{share}/migration-progress", user="root", version="2.97").status_code == 404
