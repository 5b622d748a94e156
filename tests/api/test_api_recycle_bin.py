"""The recycle bin: shares that are deleted softly, what may be done to them, and how they end."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from site_for_tests import Site
from sqlalchemy import update

from sharewright.identifiers import utcnow
from sharewright.operations.maintenance import Maintenance
from sharewright.store.tables import shares


def act(site: Site, status: int, share: str, action: str, values: Any = None, **options: Any) -> Any:
    return site.expect(status, "POST", f"/v2/shares/{share}/action", {action: values}, **options)


def listed(site: Site, query: str = "", **options: Any) -> list[str]:
    return [each["id"] for each in site.expect(200, "GET", f"/v2/shares?{query}", **options)["shares"]]


def test_a_share_goes_into_the_bin_and_comes_out_again(any_site: Site) -> None:
    site = any_site
    share, other = site.served_share()["id"], site.served_share()["id"]
    act(site, 404, share, "soft_delete", version="2.68")
    act(site, 403, share, "soft_delete", user="rita")
    act(site, 200, share, "restore")
    act(site, 202, share, "soft_delete")
    act(site, 403, share, "soft_delete")
    shown = site.expect(200, "GET", f"/v2/shares/{share}")["share"]
    assert shown["is_soft_deleted"] is True
    assert shown["scheduled_to_be_deleted_at"] > shown["created_at"]
    assert listed(site) == [other]
    assert listed(site, "is_soft_deleted=true") == [share]
    assert listed(site, "is_soft_deleted=true", version="2.68") == [other]
    for action, values in (
        ("allow_access", {"access_type": "ip", "access_to": "10.1.1.1"}), ("extend", {"new_size": 2}),
        ("shrink", {"new_size": 1}),
    ):  # fmt: skip
        act(site, 403, share, action, values)
    act(site, 403, share, "unmanage", user="root")
    site.expect(403, "PUT", f"/v2/shares/{share}", {"share": {"name": "x"}})
    site.expect(403, "POST", "/v2/snapshots", {"snapshot": {"share_id": share}})
    act(site, 202, share, "restore")
    shown = site.expect(200, "GET", f"/v2/shares/{share}")["share"]
    assert (shown["is_soft_deleted"], shown["scheduled_to_be_deleted_at"]) == (False, None)
    assert listed(site, "sort_key=created_at&sort_dir=asc") == [share, other]


def test_what_is_in_the_bin_can_be_deleted_at_once(site: Site) -> None:
    share = site.served_share()["id"]
    act(site, 202, share, "soft_delete")
    site.expect(202, "DELETE", f"/v2/shares/{share}")


@pytest.mark.parametrize("status", ["creating", "deleting", "extending", "error_deleting"])
def test_only_a_share_at_rest_goes_into_the_bin(site: Site, status: str) -> None:
    share = site.served_share()["id"]
    site.finish_status(share, status)
    act(site, 403, share, "soft_delete")


def test_a_locked_share_does_not_go_into_the_bin(site: Site) -> None:
    share = site.served_share()["id"]
    site.expect(200, "POST", "/v2/resource-locks", {"resource_lock": {"resource_id": share}})
    act(site, 403, share, "soft_delete")


@pytest.mark.parametrize("working_site", ["http_basic"], indirect=True)
def test_the_bin_is_emptied_when_the_time_is_over(working_site: Site) -> None:
    site = working_site
    share = site.share(network=site.real_network())["id"]
    site.wait(f"/v2/shares/{share}", "share", "status", "available")
    act(site, 202, share, "soft_delete")
    maintenance = Maintenance(site.store, site.settings, drivers={}, clouds={}, holder="test")
    maintenance.empty_bin()
    assert site.expect(200, "GET", f"/v2/shares/{share}")["share"]["status"] == "available"
    with site.store.begin() as tx:
        over = utcnow() - timedelta(seconds=1)
        tx.execute(update(shares).where(shares.c.id == share).values(scheduled_to_be_deleted_at=over))
    act(site, 403, share, "restore")
    maintenance.empty_bin()
    site.wait_gone(f"/v2/shares/{share}")
