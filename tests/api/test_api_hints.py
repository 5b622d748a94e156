"""Scheduler hints, from the request to the choice of a backend."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from site_for_tests import Site
from sqlalchemy import select

from sharewright.store.tables import operations


def test_hints_decide_where_a_share_goes(two_backends: Site) -> None:
    site = two_backends
    network = site.real_network()
    first = site.share(network=network)
    host = site.host_of(first)
    other = {"node1@one#one": "two", "node1@two#two": "one"}.get(host) or ("two" if "@one#" in host else "one")
    for _ in range(2):
        assert site.host_of(site.share(network=network, scheduler_hints={"same_host": first["id"]})) == host
        apart = site.share(network=network, scheduler_hints={"different_host": first["id"]})
        assert f"@{other}#" in site.host_of(apart)
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
