"""Scheduler hints, from the request to the choice of a backend."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from site_for_tests import Site, make_settings, running_site, write_people
from sqlalchemy import select

from sharewright.clouds.open import open_cloud
from sharewright.operations.assembly import assemble
from sharewright.operations.worker import Worker
from sharewright.store.database import Store
from sharewright.store.tables import operations


@pytest.fixture
def two_backends(sqlite_store: Store, tmp_path: Path) -> Iterator[Site]:
    identity = {"mode": "http_basic", "user_file": str(write_people(tmp_path / "users.json"))}
    backends = {name: {"cloud": "simulated", "availability_zone": "zone-1"} for name in ("one", "two")}
    settings = make_settings(tmp_path, identity=identity, backends=backends, worker={"poll_seconds": 0.2})
    with closing(assemble(settings, sqlite_store)) as assembly:
        worker = Worker(sqlite_store, assembly.stories, settings, drivers=assembly.drivers, clouds=assembly.clouds)
        with worker, running_site(sqlite_store, settings, wake=sqlite_store.bell.ring) as site:
            yield site


def host_of(site: Site, share: dict[str, Any]) -> str:
    site.wait(f"/v2/shares/{share['id']}", "share", "status", "available")
    return str(site.expect(200, "GET", f"/v2/shares/{share['id']}", user="root")["share"]["host"])


def test_hints_decide_where_a_share_goes(two_backends: Site) -> None:
    site = two_backends
    cloud = open_cloud(site.settings, site.settings.backends["one"])
    made = cloud.networks.create_network("tenant", ip_network("192.0.2.0/24"))  # type: ignore[attr-defined]
    cloud.close()
    network = site.network(neutron_net_id=made.id, neutron_subnet_id=made.subnets[0].id)["id"]
    first = site.share(network=network)
    host = host_of(site, first)
    other = {"node1@one#one": "two", "node1@two#two": "one"}.get(host) or ("two" if "@one#" in host else "one")
    for _ in range(2):
        assert host_of(site, site.share(network=network, scheduler_hints={"same_host": first["id"]})) == host
        apart = site.share(network=network, scheduler_hints={"different_host": first["id"]})
        assert f"@{other}#" in host_of(site, apart)
    nowhere = site.share(network=network, scheduler_hints={"same_host": apart["id"], "different_host": apart["id"]})
    site.wait(f"/v2/shares/{nowhere['id']}", "share", "status", "error")
    (message,) = site.expect(200, "GET", f"/v2/messages?resource_id={nowhere['id']}")["messages"]
    assert "scheduler hint" in message["user_message"]


@pytest.mark.parametrize(
    ("hints", "status"),
    [
        ({"same_host": "x"}, 400),
        ({"same_host": ""}, 400),
        ({"same_host": 5}, 400),
        ({"same_host": str(uuid.uuid4())}, 404),
        ({"nearby": "x"}, 400),
        ({"only_host": "node1@one#one"}, 403),
        ("same_host", 400),
    ],
)
def test_bad_hints_are_refused(site: Site, hints: Any, status: int) -> None:
    share = {"size": 1, "share_proto": "NFS", "share_network_id": site.network()["id"], "scheduler_hints": hints}
    site.expect(status, "POST", "/v2/shares", {"share": share})


def test_another_tenants_share_is_no_hint(site: Site) -> None:
    theirs = site.share("bob")
    hints = {"different_host": theirs["id"]}
    share = {"size": 1, "share_proto": "NFS", "share_network_id": site.network()["id"], "scheduler_hints": hints}
    site.expect(404, "POST", "/v2/shares", {"share": share})
    # Before 2.65 there were none.
    site.expect(200, "POST", "/v2/shares", {"share": share}, version="2.64")
    with site.store.read() as tx:
        last = tx.execute(select(operations.c.payload).order_by(operations.c.sequence.desc()).limit(1)).scalar_one()
    assert last == {}
