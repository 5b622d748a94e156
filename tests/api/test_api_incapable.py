"""What no backend can do: the answers are those of a Manila whose driver cannot."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from site_for_tests import Site
from sqlalchemy import insert, update
from test_api_networks import add_server

from sharewright.api.versions import EXPERIMENTAL_HEADER
from sharewright.identifiers import utcnow
from sharewright.store.tables import pools, shares

HEADERS = {EXPERIMENTAL_HEADER: "True"}
KEPT = dict.fromkeys(("preserve_metadata", "writable", "nondisruptive", "preserve_snapshots"), False)
MISSING = str(uuid.uuid4())


def add_pool(site: Site, host: str = "node1@two#pool") -> str:
    with site.store.begin() as tx:
        tx.execute(insert(pools).values(host=host, backend="two", availability_zone="zone-1", reported_at=utcnow()))
    return host


def act(site: Site, status: int, share: str, action: str, values: Any = None, **options: Any) -> Any:
    options = {"user": "root", **options}
    return site.expect(status, "POST", f"/v2/shares/{share}/action", {action: values}, **options)


def migrate(site: Site, status: int, share: str, host: str, **values: Any) -> Any:
    return act(site, status, share, "migration_start", {"host": host, **KEPT, **values})


def task_state(site: Site, share: str) -> Any:
    return site.expect(200, "GET", f"/v2/shares/{share}")["share"]["task_state"]


def test_a_migration_ends_in_error_with_a_message(any_site: Site) -> None:
    site = any_site
    share, host = site.served_share()["id"], add_pool(site)
    for action in ("migration_cancel", "migration_complete"):
        act(site, 400, share, action)
    site.expect(400, "GET", f"/v2/shares/{share}/migration-progress", user="root")
    migrate(site, 202, share, host)
    assert task_state(site, share) == "migration_error"
    assert site.expect(200, "GET", f"/v2/shares/{share}")["share"]["status"] == "available"
    (message,) = site.expect(200, "GET", f"/v2/messages?resource_id={share}")["messages"]
    assert "No backend can move shares" in message["user_message"]
    act(site, 202, share, "reset_task_state", {"task_state": None})
    assert task_state(site, share) is None


def test_a_share_that_is_there_already_needs_no_migration(site: Site) -> None:
    share = site.served_share()["id"]
    host = site.expect(200, "GET", f"/v2/shares/{share}", user="root")["share"]["host"]
    add_pool(site, host)
    migrate(site, 200, share, host)
    shown = site.expect(200, "GET", f"/v2/shares/{share}/migration-progress", user="root")
    assert shown == {"total_progress": 100, "task_state": "migration_success", "details": {}}
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
    assert task_state(site, share) is None


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


def test_share_servers_are_not_moved(site: Site) -> None:
    network, host = site.network(), add_pool(site)
    server = add_server(site, network)
    path, body = f"/v2/share-servers/{server}/action", {"host": host, **KEPT}

    def ask(status: int, action: str, values: Any = None, where: str = path, user: str = "root") -> Any:
        return site.expect(status, "POST", where, {action: values}, user=user, headers=HEADERS)

    answer = ask(200, "migration_check", body)
    assert answer["compatible"] is False
    assert answer["requested_capabilities"]["host"] == host
    assert not any(answer["supported_capabilities"].values())
    ask(409, "migration_start", body)
    for action in ("migration_complete", "migration_cancel", "migration_get_progress"):
        ask(400, action)
    ask(404, "migration_check", {**body, "host": "nowhere@two"})
    ask(400, "migration_check", {**body, "new_share_network_id": MISSING})
    ask(404, "migration_cancel", where=f"/v2/share-servers/{MISSING}/action")
    ask(403, "migration_check", body, user="alice")
    site.expect(404, "POST", path, {"migration_check": body}, user="root")


@pytest.mark.parametrize("values", [{"mount_point_name": "here"}, {"encryption_key_ref": MISSING}])
def test_shares_with_what_no_backend_has_are_refused(site: Site, values: dict[str, Any]) -> None:
    body = {"size": 1, "share_proto": "NFS", "share_network_id": site.network()["id"]}
    site.expect(400, "POST", "/v2/shares", {"share": {**body, **values}})
    site.expect(200, "POST", "/v2/shares", {"share": {**body, **values}}, version="2.83")  # not known there


def test_shares_are_filtered_by_zone(site: Site) -> None:
    here, there = site.served_share()["id"], site.served_share()["id"]
    with site.store.begin() as tx:
        tx.execute(update(shares).where(shares.c.id == here).values(availability_zone="zone-1"))
    listed = site.expect(200, "GET", "/v2/shares?availability_zone=zone-1")["shares"]
    assert [each["id"] for each in listed] == [here]
    old = site.expect(200, "GET", "/v2/shares?availability_zone=zone-1", version="2.96")["shares"]
    assert {each["id"] for each in old} == {here, there}
