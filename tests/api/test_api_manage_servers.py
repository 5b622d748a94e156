"""POST /share-servers/manage and the action unmanage: what is accepted, and every refusal with Manila's status."""

from __future__ import annotations

from typing import Any

import pytest
from site_for_tests import Site
from sqlalchemy import select, update
from test_api_manage_shares import add_pool, enqueued
from test_api_networks import add_server

from sharewright.identifiers import new_id, utcnow
from sharewright.store.tables import service_instances, share_network_subnets, share_networks, share_servers

VM = "11111111-2222-4222-8222-333333333333"


def manage(site: Site, status: int, user: str = "root", **values: Any) -> Any:
    version = values.pop("version", "2.81")
    body = {"host": "node1@one", "identifier": VM, **values}
    body = {key: value for key, value in body.items() if value is not ...}
    answer = site.expect(status, "POST", "/v2/share-servers/manage", {"share_server": body}, user=user, version=version)
    return answer["share_server"] if status == 202 else answer


def unmanage(site: Site, status: int, server: str, user: str = "root", **options: Any) -> Any:
    body = {"unmanage": options.pop("body", None)}
    return site.expect(status, "POST", f"/v2/share-servers/{server}/action", body, user=user, **options)


def unmanaged_server(site: Site) -> str:
    """As the operation leaves it."""
    server = add_server(site, site.network(), status="unmanaged")
    with site.store.begin() as tx:
        tx.execute(
            service_instances.insert().values(
                id=server, backend="one", layout="tenant", instance_id=VM, ports=[], export_addresses=[], host_key="",
                private_key_secret=new_id(), host_key_secret=new_id(), created_at=utcnow(),
            )
        )  # fmt: skip
        tx.execute(update(share_servers).values(share_network_id=None, share_network_subnet_id=None, taken_over=False))
    return server


@pytest.mark.parametrize("by", ["vm", "server"])
def test_managed(any_site: Site, by: str) -> None:
    add_pool(any_site)
    server = unmanaged_server(any_site)
    path = f"/v2/share-servers/{server}"
    any_site.expect(404, "GET", path, user="root")
    any_site.expect(404, "DELETE", path, user="root")
    unmanage(any_site, 404, server)
    assert any_site.expect(200, "GET", "/v2/share-servers", user="root")["share_servers"] == []
    network = any_site.network()
    made = manage(
        any_site, 202, share_network_id=network["id"], identifier=VM if by == "vm" else server, driver_options={}
    )
    assert (made["id"], made["status"], made["host"], made["is_auto_deletable"], made["share_network_id"]) == (
        server, "manage_starting", "node1@one", False, network["id"],
    )  # fmt: skip
    (operation,) = enqueued(any_site, "manage_share_server")
    assert (operation.key, set(operation.payload)) == (f"share_server:{server}", {"identifier"})
    with any_site.store.read() as tx:
        assert tx.execute(select(share_servers.c.taken_over)).scalar_one() is False
    manage(any_site, 400, share_network_id=network["id"])  # it is one by now


def test_what_is_not_known_is_said_by_the_operation(site: Site) -> None:
    add_pool(site)
    made = manage(site, 202, share_network_id=site.network()["id"], identifier="unheard-of")
    (operation,) = enqueued(site, "manage_share_server")
    assert (operation.resource_id, operation.payload) == (made["id"], {"identifier": "unheard-of"})


def test_refusals_to_manage(site: Site) -> None:
    network = site.network()["id"]
    manage(site, 400, share_network_id=network)  # no such host
    add_pool(site)
    manage(site, 403, user="alice", share_network_id=network)
    manage(site, 404, share_network_id=network, version="2.48")
    site.expect(422, "POST", "/v2/share-servers/manage", {"share": {}}, user="root")
    for missing in ("host", "share_network_id", "identifier"):
        for value in (..., None, ""):
            manage(site, 400, **{"share_network_id": network, missing: value})
    manage(site, 400, share_network_id=network, host="node1@one#pool")
    manage(site, 400, share_network_id=network, driver_options="x")
    manage(site, 400, share_network_id=new_id())
    manage(site, 400, share_network_id=network, share_network_subnet_id=new_id())
    with site.store.begin() as tx:
        tx.execute(update(share_network_subnets).values(availability_zone="zone-1"))
    manage(site, 400, share_network_id=network)  # it has no default subnet
    with site.store.begin() as tx:
        tx.execute(update(share_network_subnets).values(availability_zone=None))
        tx.execute(update(share_networks).values(status="error"))
    manage(site, 400, share_network_id=network)
    assert enqueued(site, "manage_share_server") == []


@pytest.mark.parametrize("status", ["active", "error", "manage_error", "unmanage_error"])
def test_unmanaged(site: Site, status: str) -> None:
    server = add_server(site, site.network(), status=status)
    unmanage(site, 403, server, user="alice")
    unmanage(site, 404, server, version="2.48")
    unmanage(site, 202, server, body={"force": True})
    shown = site.expect(200, "GET", f"/v2/share-servers/{server}", user="root")["share_server"]
    assert shown["status"] == "unmanage_starting"
    assert len(enqueued(site, "unmanage_share_server")) == 1


def test_refusals_to_unmanage(site: Site) -> None:
    network = site.network()
    busy = add_server(site, network, share=site.served_share(network=network["id"]))
    assert "in use" in unmanage(site, 400, busy)["badRequest"]["message"]
    for status in ("creating", "deleting", "inactive", "manage_starting", "unmanage_starting"):
        unmanage(site, 400, add_server(site, network, status=status))
    unmanage(site, 404, new_id())
    idle = add_server(site, network)
    with site.store.begin() as tx:
        tx.execute(update(share_networks).values(status="network_change"))
    unmanage(site, 400, idle)
    assert enqueued(site, "unmanage_share_server") == []


@pytest.mark.parametrize("status", ["manage_error", "unmanage_error"])
def test_deleted(site: Site, status: str) -> None:
    server = add_server(site, site.network(), status=status)
    site.expect(202, "DELETE", f"/v2/share-servers/{server}", user="root")
    assert len(enqueued(site, "delete_share_server")) == 1


def test_statuses_that_are_set_by_hand(site: Site) -> None:
    server = add_server(site, site.network())
    path = f"/v2/share-servers/{server}"
    for status in ("manage_error", "unmanage_error", "active"):
        site.expect(202, "POST", f"{path}/action", {"reset_status": {"status": status}}, user="root")
        assert site.expect(200, "GET", path, user="root")["share_server"]["status"] == status
    site.expect(400, "POST", f"{path}/action", {"reset_status": {"status": "unmanaged"}}, user="root")
