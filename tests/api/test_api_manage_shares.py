"""POST /shares/manage and the action unmanage: what is accepted, and every refusal with Manila's status."""

from __future__ import annotations

from typing import Any

import pytest
from site_for_tests import Site
from sqlalchemy import select, update
from test_api_networks import add_server

from sharewright.identifiers import new_id, utcnow
from sharewright.store.tables import (
    operations,
    pools,
    share_instances,
    share_servers,
    share_snapshots,
    shares,
    workers,
)

HOST = "node1@one#pool"
PATH = "10.0.0.1:/shares/share-11111111-1111-4111-8111-111111111111"


def add_pool(site: Site, *, down: bool = False) -> None:
    with site.store.begin() as tx:
        tx.execute(
            pools.insert().values(
                host=HOST, backend="one", availability_zone="zone-1", capabilities={}, reported_at=utcnow()
            )
        )
        if down:
            tx.execute(
                workers.insert().values(
                    id="w", number=7, binary="manila-share", host="node1@one", availability_zone="zone-1",
                    disabled=True, heartbeat_at=utcnow(), started_at=utcnow(),
                )
            )  # fmt: skip


def manage(site: Site, status: int, user: str = "root", **values: Any) -> Any:
    version, path = values.pop("version", "2.81"), values.pop("path", "/v2/shares/manage")
    body = {"service_host": HOST, "protocol": "nfs", "export_path": PATH, **values}
    body = {key: value for key, value in body.items() if value is not ...}
    answer = site.expect(status, "POST", path, {"share": body}, user=user, version=version)
    return answer["share"] if status == 200 else answer


def enqueued(site: Site, kind: str) -> list[Any]:
    with site.store.read() as tx:
        return list(tx.execute(select(operations).where(operations.c.kind == kind)).all())


def test_managed(any_site: Site) -> None:
    add_pool(any_site)
    network = any_site.network()
    server = add_server(any_site, network)
    with any_site.store.begin() as tx:
        tx.execute(update(share_servers).values(unused_since=utcnow()))
    made = manage(
        any_site, 200, share_server_id=server, name="old", is_public=True, driver_options={"volume_id": "theirs"}
    )
    assert (made["status"], made["size"], made["host"], made["share_proto"], made["name"], made["is_public"]) == (
        "manage_starting", 0, HOST, "NFS", "old", True,
    )  # fmt: skip
    assert (made["share_network_id"], made["share_server_id"]) == (network["id"], server)
    assert made["availability_zone"] == "zone-1"
    (operation,) = enqueued(any_site, "manage_share")
    assert (operation.key, operation.payload) == (
        f"share:{made['id']}",
        {"export_path": PATH, "options": {"volume_id": "theirs"}},
    )
    with any_site.store.read() as tx:
        instance = tx.execute(select(share_instances)).one()
        assert (instance.taken_over, instance.backend, instance.share_server_id) == (False, "one", server)
        assert tx.execute(select(share_servers.c.unused_since)).scalar_one() is None
    quota = any_site.expect(200, "GET", "/v2/quota-sets/operators/detail", user="root")["quota_set"]
    assert (quota["shares"]["in_use"], quota["gigabytes"]["in_use"]) == (0, 0)


def test_what_older_microversions_have(site: Site) -> None:
    add_pool(site)
    server = add_server(site, site.network())
    assert manage(site, 200, share_server_id=server, is_public=True, export_path={"path": PATH})["is_public"] is True
    manage(site, 404, version="2.6")
    manage(site, 404, version="2.7", path="/v2/os-share-manage")
    # Before 2.49 there were no share servers to name, so no type that has them.
    for version, path in (("2.48", "/v2/shares/manage"), ("2.6", "/v2/os-share-manage")):
        answer = manage(site, 400, share_server_id=server, version=version, path=path)
        assert "is required" in answer["badRequest"]["message"]


def test_refusals_to_manage(site: Site) -> None:
    network = site.network()
    server, busy = add_server(site, network), add_server(site, network, status="creating")
    manage(site, 404, share_server_id=server)  # no such pool
    add_pool(site)
    good = {"share_server_id": server}
    manage(site, 403, user="alice", **good)
    for missing in ("service_host", "protocol", "export_path"):
        for value in (..., None, ""):
            manage(site, 422, **{**good, missing: value})
    site.expect(422, "POST", "/v2/shares/manage", {"snapshot": {}}, user="root")
    manage(site, 422, **good, export_path={"x": 1})
    manage(site, 400, **good, service_host="node1@one")
    manage(site, 404, **good, service_host="node1@one#other")
    manage(site, 400, **good, protocol="a protocol of 17!")
    manage(site, 404, **good, service_host="nowhere#pool")
    manage(site, 400, **good, driver_options="x")
    manage(site, 400, **good, export_path=7.5)
    manage(site, 404, **good, share_type="none-such")
    manage(site, 400)
    manage(site, 400, share_server_id=new_id())
    manage(site, 409, share_server_id=busy)
    site.expect(
        200, "POST", "/v2/types",
        {"share_type": {"name": "plain", "extra_specs": {"driver_handles_share_servers": "False"}}}, user="root",
    )  # fmt: skip
    manage(site, 400, **good, share_type="plain")
    with site.store.begin() as tx:
        tx.execute(update(share_servers).where(share_servers.c.id == server).values(backend="two", host="node1@two"))
    manage(site, 400, **good)
    assert enqueued(site, "manage_share") == []
    with site.store.read() as tx:
        assert tx.execute(select(shares)).all() == []


def test_one_whose_service_is_disabled(site: Site) -> None:
    add_pool(site, down=True)
    assert "disabled" in manage(site, 400, share_server_id=add_server(site, site.network()))["badRequest"]["message"]


def test_one_that_is_a_share_already(site: Site) -> None:
    add_pool(site)
    network = site.network()
    share = site.served_share(network=network["id"])
    server = add_server(site, network, share=share)
    (path, *_) = site.expect(200, "GET", f"/v2/shares/{share['id']}/export_locations")["export_locations"]
    manage(site, 409, share_server_id=server, export_path=path["path"])
    manage(site, 200, share_server_id=add_server(site, network), export_path=path["path"])


@pytest.mark.parametrize(
    "status", ["available", "error", "error_deleting", "manage_error", "unmanage_error", "extending_error"]
)
def test_unmanaged(site: Site, status: str) -> None:
    network = site.network()
    share = site.served_share(network=network["id"])
    add_server(site, network, share=share)
    site.finish_status(share["id"], status)
    path = f"/v2/shares/{share['id']}"
    site.expect(403, "POST", f"{path}/action", {"unmanage": None})
    site.expect(403, "POST", f"{path}/action", {"unmanage": None}, user="root", version="2.48")
    site.expect(404, "POST", f"{path}/action", {"unmanage": None}, user="root", version="2.6")
    site.expect(202, "POST", f"{path}/action", {"unmanage": None}, user="root")
    assert site.expect(200, "GET", path)["share"]["status"] == "unmanage_starting"
    (operation,) = enqueued(site, "unmanage_share")
    assert operation.payload.get("status") == ("manage_error" if status == "manage_error" else None)


def test_one_without_a_server_by_the_old_name(site: Site) -> None:
    share = site.served_share()["id"]
    site.expect(202, "POST", f"/v2/os-share-unmanage/{share}/unmanage", {}, user="root", version="2.6")
    assert len(enqueued(site, "unmanage_share")) == 1


@pytest.mark.parametrize(
    "status", ["creating", "deleting", "extending", "reverting", "manage_starting", "unmanage_starting"]
)
def test_not_while_it_is_worked_on(site: Site, status: str) -> None:
    share = site.served_share()["id"]
    site.finish_status(share, status)
    site.expect(403, "POST", f"/v2/shares/{share}/action", {"unmanage": None}, user="root")
    site.expect(404, "POST", f"/v2/shares/{new_id()}/action", {"unmanage": None}, user="root")
    assert enqueued(site, "unmanage_share") == []


def test_not_with_snapshots(site: Site) -> None:
    share = site.served_share()["id"]
    with site.store.begin() as tx:
        tx.execute(
            share_snapshots.insert().values(
                id=new_id(), share_id=share, project_id="blue", user_id="alice", size=1, protocol="NFS",
                status="error", created_at=utcnow(),
            )
        )  # fmt: skip
    answer = site.expect(403, "POST", f"/v2/shares/{share}/action", {"unmanage": None}, user="root")
    assert "1 dependent snapshots" in answer["forbidden"]["message"]
