"""POST /snapshots/manage and the action unmanage: what is accepted, and every refusal with Manila's status."""

from __future__ import annotations

from typing import Any

import pytest
from site_for_tests import Site
from sqlalchemy import select
from test_api_snapshots import NOBODY, a_share, in_use, settle, snap

from sharewright.store.tables import operations


def manage(site: Site, status: int, share: str, user: str = "root", **values: Any) -> Any:
    version = values.pop("version", "2.81")
    body = {"snapshot": {"share_id": share, "provider_location": "foreign", **values}}
    answer = site.expect(status, "POST", "/v2/snapshots/manage", body, user=user, version=version)
    return answer["snapshot"] if status == 202 else answer


def enqueued(site: Site, kind: str) -> list[Any]:
    with site.store.read() as tx:
        return list(tx.execute(select(operations).where(operations.c.kind == kind)).all())


def test_managed(any_site: Site) -> None:
    share = a_share(any_site)
    made = manage(any_site, 202, share, name="old", driver_options={"opt": "x"})
    assert (made["status"], made["name"], made["size"], made["provider_location"]) == (
        "manage_starting", "old", 2, None,
    )  # fmt: skip
    (operation,) = enqueued(any_site, "manage_snapshot")
    assert (operation.key, operation.payload) == (f"share_snapshot:{made['id']}", {"reference": "foreign"})


def test_refusals_to_manage(site: Site) -> None:
    share = a_share(site)
    manage(site, 403, share, user="alice")
    manage(site, 404, share, version="2.11")
    assert "share servers" in manage(site, 403, share, version="2.48")["forbidden"]["message"]
    manage(site, 404, NOBODY)
    manage(site, 400, share, provider_location=None)
    manage(site, 400, share, driver_options="x")
    manage(site, 400, share, odd=1)
    manage(site, 422, site.served_share()["id"])
    site.finish_status(share, "error")
    manage(site, 400, share)
    assert enqueued(site, "manage_snapshot") == []
    assert in_use(site) == (0, 0)


def test_one_that_is_managed_already(site: Site) -> None:
    share = a_share(site)
    settle(site, snap(site, share)["id"])
    manage(site, 409, share, provider_location="cloud-snapshot")


@pytest.mark.parametrize("status", ["available", "error", "error_deleting", "manage_error", "unmanage_error"])
def test_unmanaged(site: Site, status: str) -> None:
    snapshot = snap(site, a_share(site))["id"]
    settle(site, snapshot, status)
    path = f"/v2/snapshots/{snapshot}"
    site.expect(403, "POST", f"{path}/action", {"unmanage": {}})
    site.expect(403, "POST", f"{path}/action", {"unmanage": {}}, user="root", version="2.48")
    site.expect(202, "POST", f"{path}/action", {"unmanage": {}}, user="root")
    assert site.expect(200, "GET", path)["snapshot"]["status"] == "unmanage_starting"
    assert len(enqueued(site, "unmanage_snapshot")) == 1


@pytest.mark.parametrize("status", ["creating", "deleting", "restoring", "manage_starting", "unmanage_starting"])
def test_not_while_it_is_worked_on(site: Site, status: str) -> None:
    snapshot = snap(site, a_share(site))["id"]
    settle(site, snapshot, status)
    site.expect(403, "POST", f"/v2/snapshots/{snapshot}/action", {"unmanage": {}}, user="root")
    site.expect(404, "POST", f"/v2/snapshots/{NOBODY}/action", {"unmanage": {}}, user="root")
