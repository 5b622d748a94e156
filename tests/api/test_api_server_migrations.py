"""Migration of share servers: its whole life on two backends of the simulated cloud, and every refusal with its
status."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from site_for_tests import Site
from sqlalchemy import insert, select, update
from test_api_networks import add_server

from sharewright.api.versions import EXPERIMENTAL_HEADER
from sharewright.drivers.migration import SERVER_DOMAIN
from sharewright.identifiers import utcnow
from sharewright.store.tables import operations, pools, share_servers, share_snapshots, shares

HEADERS = {EXPERIMENTAL_HEADER: "True"}
WISHES = dict.fromkeys(("writable", "nondisruptive", "preserve_snapshots"), False)
ACTIONS = ("migration_check", "migration_start", "migration_complete", "migration_cancel", "migration_get_progress")
MISSING = str(uuid.uuid4())
HOST = "node1@two"
SECONDS = 120.0  # on a machine that has much else to do


def act(site: Site, status: int, server: str, action: str, values: Any = None, **options: Any) -> Any:
    options = {"user": "root", "headers": HEADERS, **options}
    return site.expect(status, "POST", f"/v2/share-servers/{server}/action", {action: values}, **options)


def ask(site: Site, status: int, server: str, action: str = "migration_start", **values: Any) -> Any:
    """A check or a start."""
    return act(site, status, server, action, {"host": HOST, **WISHES, **values})


def shown(site: Site, server: str) -> dict[str, Any]:
    return dict(site.expect(200, "GET", f"/v2/share-servers/{server}", user="root")["share_server"])


def a_share(site: Site, server: str) -> dict[str, Any]:
    return dict(site.expect(200, "GET", f"/v2/shares/{server}", user="root")["share"])


def wait(site: Site, server: str, state: str) -> None:
    site.wait(f"/v2/share-servers/{server}", "share_server", "task_state", state, user="root", seconds=SECONDS)


def served(site: Site, *, able: bool = True) -> tuple[str, str]:
    """A share with a server of its own, as workers leave them, and two backends that report what they can."""
    network = site.network()
    share = site.served_share(network=network["id"])
    server = add_server(site, network, share=share)
    reported = {"storage_protocol": "NFS_CIFS", "driver_handles_share_servers": True}
    reported |= {SERVER_DOMAIN: "here"} if able else {}
    with site.store.begin() as tx:
        for name in ("one", "two"):
            row = {"host": f"node1@{name}#pool", "backend": name, "capabilities": reported}
            tx.execute(insert(pools).values(availability_zone=f"zone-{name}", reported_at=utcnow(), **row))
    return server, str(share["id"])


def test_the_life_of_a_server_migration(replicating_site: Site) -> None:
    site = replicating_site
    share = site.share(network=site.real_network(), availability_zone="zone-one")["id"]
    site.wait(f"/v2/shares/{share}", "share", "status", "available", seconds=SECONDS)
    before = a_share(site, share)
    server = before["share_server_id"]
    paths = site.expect(200, "GET", f"/v2/shares/{share}/export_locations")["export_locations"]
    host = before["host"].partition("@")[0] + "@two"
    network = before["share_network_id"]

    answer = ask(site, 200, server, "migration_check", host=host)
    assert answer == {
        "compatible": True,
        "requested_capabilities": {**WISHES, "share_network_id": None, "host": host},
        "supported_capabilities": {
            "writable": True, "nondisruptive": False, "preserve_snapshots": True, "share_network_id": network,
            "migration_cancel": True, "migration_get_progress": True,
        },
    }  # fmt: skip
    assert ask(site, 200, server, "migration_check", host=host, nondisruptive=True)["compatible"] is False

    ask(site, 202, server, host=host, writable=True)
    wait(site, server, "migration_driver_phase1_done")
    (other,) = site.expect(200, "GET", f"/v2/share-servers?source_share_server_id={server}", user="root")[
        "share_servers"
    ]
    made = shown(site, other["id"])
    assert (made["status"], made["host"], made["source_share_server_id"]) == ("server_migrating_to", host, server)
    progress = {
        "total_progress": 100,
        "task_state": "migration_driver_phase1_done",
        "destination_share_server_id": other["id"],
    }
    assert act(site, 200, server, "migration_get_progress") == progress
    assert (shown(site, server)["status"], a_share(site, share)["status"]) == ("server_migrating", "server_migrating")
    path = f"/v2/shares/{share}/action"
    site.expect(400, "POST", path, {"allow_access": {"access_type": "ip", "access_to": "10.9.9.8"}})
    site.expect(400, "POST", path, {"extend": {"new_size": 5}})
    site.expect(403, "DELETE", f"/v2/shares/{share}")
    site.expect(403, "DELETE", f"/v2/share-servers/{server}", user="root")
    site.expect(409, "DELETE", f"/v2/share-networks/{network}")
    ask(site, 409, server, host=host)

    assert act(site, 200, server, "migration_complete") == {"destination_share_server_id": other["id"]}
    wait(site, other["id"], "migration_success")
    site.wait_gone(f"/v2/share-servers/{server}", user="root", seconds=SECONDS)
    after = a_share(site, share)
    assert (after["status"], after["share_server_id"]) == ("available", other["id"])
    assert (after["host"].partition("#")[0], after["availability_zone"]) == (host, "zone-two")
    moved = site.expect(200, "GET", f"/v2/shares/{share}/export_locations")["export_locations"]
    assert {each["path"] for each in moved}.isdisjoint(each["path"] for each in paths)
    assert shown(site, other["id"])["status"] == "active"
    # Of a server that is gone, what became of it.
    done = act(site, 200, server, "migration_get_progress")
    assert done == {**progress, "task_state": "migration_success"}
    act(site, 404, server, "migration_cancel")


def test_a_cancelled_server_migration(replicating_site: Site) -> None:
    site = replicating_site
    share = site.share(network=site.real_network(), availability_zone="zone-one")["id"]
    site.wait(f"/v2/shares/{share}", "share", "status", "available", seconds=SECONDS)
    before = a_share(site, share)
    server = before["share_server_id"]
    ask(site, 202, server, host=before["host"].partition("@")[0] + "@two")
    wait(site, server, "migration_driver_phase1_done")
    act(site, 202, server, "migration_cancel")
    wait(site, server, "migration_cancelled")
    after = a_share(site, share)
    assert (after["status"], after["share_server_id"], after["host"]) == ("available", server, before["host"])
    assert shown(site, server)["status"] == "active"
    for action in ("migration_complete", "migration_cancel", "migration_get_progress"):
        act(site, 400, server, action)


def test_a_driver_that_cannot(two_backends: Site) -> None:
    """The generic driver, for now: a check says so, and a start ends in an error that leaves all as it was."""
    site = two_backends
    share = site.share(network=site.real_network())["id"]
    site.wait(f"/v2/shares/{share}", "share", "status", "available", seconds=SECONDS)
    before = a_share(site, share)
    server, host = before["share_server_id"], before["host"].partition("#")[0]
    other = host.partition("@")[0] + ("@two" if host.endswith("@one") else "@one")
    answer = ask(site, 200, server, "migration_check", host=other)
    assert answer["compatible"] is False
    able = {name: value for name, value in answer["supported_capabilities"].items() if name != "share_network_id"}
    assert not any(able.values())
    ask(site, 202, server, host=other)
    wait(site, server, "migration_error")
    assert (shown(site, server)["status"], a_share(site, share)["status"]) == ("active", "available")


def test_what_a_request_writes(any_site: Site) -> None:
    site = any_site
    server, share = served(site)
    with site.store.begin() as tx:
        snapshot = {"id": MISSING, "share_id": share, "project_id": "blue", "user_id": "alice", "size": 1}
        tx.execute(insert(share_snapshots).values(protocol="NFS", status="available", created_at=utcnow(), **snapshot))
    for action in ("migration_complete", "migration_cancel", "migration_get_progress"):
        act(site, 400, server, action)
    assert ask(site, 200, server, "migration_check")["compatible"] is True
    ask(site, 202, server)
    assert (shown(site, server)["status"], shown(site, server)["task_state"]) == (
        "server_migrating",
        "migration_starting",
    )
    assert a_share(site, share)["status"] == "server_migrating"
    nobody = {"total_progress": 0, "task_state": "", "destination_share_server_id": ""}
    assert act(site, 200, server, "migration_get_progress") == nobody
    for action in ("migration_complete", "migration_cancel"):
        act(site, 400, server, action)
    act(site, 202, server, "reset_task_state", {"task_state": "migration_driver_phase1_done"})
    for action in ("migration_complete", "migration_cancel"):  # there is no other server
        act(site, 400, server, action)
    with site.store.read() as tx:
        query = select(operations.c.kind, operations.c.payload).where(operations.c.resource_id == server)
        (row,) = tx.execute(query).all()
    network = shown(site, server)["share_network_id"]
    wanted = {"host": HOST, "backend": "two", "share_network_id": network, "nondisruptive": False}
    assert (row.kind, row.payload) == ("start_server_migration", wanted)


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({"host": "nowhere@two"}, 404),
        ({"host": "node1@two#pool"}, 400),
        ({"host": None}, 400),
        ({"host": "node1@one"}, 409),  # it is there
        ({"new_share_network_id": "nothing"}, 400),
        ({"new_share_network_id": MISSING}, 400),
        ({"writable": "perhaps"}, 400),
    ],
)
@pytest.mark.parametrize("action", ["migration_check", "migration_start"])
def test_bad_requests_are_refused(site: Site, action: str, values: dict[str, Any], status: int) -> None:
    server, share = served(site)
    ask(site, status, server, action, **values)
    assert a_share(site, share)["status"] == "available"
    act(site, 400, server, action, {"host": HOST})
    act(site, 400, server, action, {})


@pytest.mark.parametrize(
    "change",
    [
        {"status": "error"},
        {"share_group_id": MISSING},
        {"access_rules_status": "error"},
        {"task_state": "migration_in_progress"},
        {"is_soft_deleted": True},
    ],
)
def test_shares_that_cannot_go_keep_their_server(site: Site, change: dict[str, Any]) -> None:
    server, share = served(site)
    with site.store.begin() as tx:
        tx.execute(update(shares).where(shares.c.id == share).values(**change))
    for action in ("migration_check", "migration_start"):
        ask(site, 409, server, action)
    assert shown(site, server)["status"] == "active"


def test_other_conflicts(site: Site) -> None:
    server, share = served(site)
    with site.store.begin() as tx:
        snapshot = {"id": MISSING, "share_id": share, "project_id": "blue", "user_id": "alice", "size": 1}
        tx.execute(insert(share_snapshots).values(protocol="NFS", status="error", created_at=utcnow(), **snapshot))
    ask(site, 409, server)
    with site.store.begin() as tx:
        tx.execute(update(share_snapshots).values(status="available"))
        tx.execute(update(share_servers).values(status="error"))
    ask(site, 409, server)
    with site.store.begin() as tx:
        tx.execute(update(share_servers).values(status="active"))
    empty = add_server(site, site.network())
    ask(site, 409, empty)
    made = add_server(site, site.network(), status="server_migrating_to")
    with site.store.begin() as tx:
        mine = share_servers.c.id == made
        tx.execute(update(share_servers).where(mine).values(source_share_server_id=server))
    ask(site, 409, server)


def test_a_network_has_to_reach_the_zone(site: Site) -> None:
    server, _ = served(site)
    site.expect(200, "GET", "/v2/availability-zones")
    with site.store.begin() as tx:
        tx.execute(update(pools).where(pools.c.backend == "two").values(availability_zone="zone-1"))
    elsewhere = site.network(availability_zone="zone-1")["id"]
    assert ask(site, 200, server, "migration_check", new_share_network_id=elsewhere)["compatible"] is True
    with site.store.begin() as tx:
        tx.execute(update(pools).where(pools.c.backend == "two").values(availability_zone="zone-two"))
    for action in ("migration_check", "migration_start"):
        ask(site, 409, server, action, new_share_network_id=elsewhere)


def test_a_share_that_no_pool_is_for_makes_it_incompatible(site: Site) -> None:
    server, _ = served(site)
    with site.store.begin() as tx:
        row = pools.c.backend == "two"
        tx.execute(
            update(pools)
            .where(row)
            .values(
                capabilities={"storage_protocol": "CIFS", "driver_handles_share_servers": True, SERVER_DOMAIN: "here"}
            )
        )
    assert ask(site, 200, server, "migration_check")["compatible"] is False


@pytest.mark.parametrize("action", ACTIONS)
def test_who_may_and_from_which_microversion_on(site: Site, action: str) -> None:
    server, _ = served(site)
    body = {"host": HOST, **WISHES} if action in ("migration_check", "migration_start") else None
    act(site, 403, server, action, body, user="alice")
    act(site, 403, MISSING, action, body, user="alice")
    act(site, 400 if action == "migration_get_progress" else 404, MISSING, action, body)
    act(site, 404, server, action, body, headers={})  # experimental for ever
    act(site, 404, server, action, body, version="2.56")
    wanted = {"migration_check": 200, "migration_start": 202}.get(action, 400)
    act(site, wanted, server, action, body, version="2.57")
