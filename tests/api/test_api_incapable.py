"""What no backend can do: the answers are those of a Manila whose driver cannot."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from site_for_tests import Site
from sqlalchemy import update

from sharewright.store.tables import shares

MISSING = str(uuid.uuid4())


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
