"""Backups of shares: their whole life on a backend of the simulated cloud, and every refusal with its status."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from site_for_tests import Site
from sqlalchemy import update

from sharewright.api.versions import EXPERIMENTAL_HEADER
from sharewright.identifiers import utcnow
from sharewright.store.tables import pools, share_backups, shares

HEADERS = {EXPERIMENTAL_HEADER: "True"}
MISSING = str(uuid.uuid4())
SECONDS = 120.0  # on a machine that has much else to do
SUMMARY = {"id", "name", "share_id", "status"}
DETAIL = SUMMARY | {
    "description", "size", "created_at", "updated_at", "availability_zone", "progress", "restore_progress",
    "backup_type",
}  # fmt: skip
MINE = {"host", "topic"}
URL = "/v2/share-backups"
OPTIONS = {"dummy": True}


def ask(site: Site, status: int, method: str, path: str, body: Any = None, **options: Any) -> Any:
    return site.expect(status, method, f"{URL}{path}", body, headers=HEADERS, **options)


def back_up(site: Site, status: int, share_id: Any, user: str = "alice", **values: Any) -> Any:
    body = {"share_backup": {"share_id": share_id, "backup_options": OPTIONS, **values}}
    answer = ask(site, status, "POST", "", body, user=user)
    return answer["share_backup"] if status == 202 else str(answer)


def act(site: Site, status: int, backup: str, action: str, values: Any = None, **options: Any) -> Any:
    return ask(site, status, "POST", f"/{backup}/action", {action: values}, **options)


def shown(site: Site, backup: str, **options: Any) -> dict[str, Any]:
    return dict(ask(site, 200, "GET", f"/{backup}", **options)["share_backup"])


def in_use(site: Site) -> tuple[int, int]:
    quotas = site.expect(200, "GET", "/v2/quota-sets/blue/detail")["quota_set"]
    return quotas["backups"]["in_use"], quotas["backup_gigabytes"]["in_use"]


def test_the_life_of_a_backup(replicating_site: Site) -> None:
    site = replicating_site
    share = site.share(network=site.real_network(), size=2)["id"]
    url = f"/v2/shares/{share}"
    site.wait(url, "share", "status", "available", seconds=SECONDS)
    assert site.expect(200, "GET", url)["share"]["source_backup_id"] is None
    backup = back_up(site, 202, share, name="first", description="of many")["id"]
    site.wait(f"{URL}/{backup}", "share_backup", "status", "available", seconds=SECONDS, headers=HEADERS)
    assert site.expect(200, "GET", url)["share"]["status"] == "available"
    assert set(shown(site, backup)) == DETAIL
    assert set(shown(site, backup, user="root")) == DETAIL | MINE
    assert set(shown(site, backup, version="2.84")) == DETAIL - {"backup_type"}
    made = shown(site, backup)
    assert (made["name"], made["description"], made["size"], made["progress"]) == ("first", "of many", 2, "100")
    assert in_use(site) == (1, 2)

    assert ask(site, 200, "PUT", f"/{backup}", {"share_backup": {"name": "last"}})["share_backup"]["name"] == "last"
    (listed,) = ask(site, 200, "GET", f"?share_id={share}&name=last")["share_backups"]
    assert set(listed) == SUMMARY
    (detailed,) = ask(site, 200, "GET", "/detail?status=available")["share_backups"]
    assert set(detailed) == DETAIL
    assert ask(site, 200, "GET", "?name=first") == {"share_backups": []}
    assert ask(site, 200, "GET", "?all_tenants=1", user="bob") == {"share_backups": []}
    assert len(ask(site, 200, "GET", "?all_tenants=1", user="root")["share_backups"]) == 1

    restored = act(site, 202, backup, "restore", version="2.90")
    assert restored == {"restore": {"backup_id": backup, "share_id": share}}
    site.wait(url, "share", "status", "available", seconds=SECONDS)
    assert shown(site, backup)["restore_progress"] == "100"
    assert site.expect(200, "GET", url)["share"]["source_backup_id"] == backup

    site.expect(403, "DELETE", url)
    site.expect(403, "POST", f"{url}/action", {"soft_delete": None})
    site.expect(403, "POST", f"{url}/action", {"unmanage": None}, user="root")
    ask(site, 202, "DELETE", f"/{backup}")
    site.wait_gone(f"{URL}/{backup}", seconds=SECONDS, headers=HEADERS)
    assert in_use(site) == (0, 0)
    site.expect(202, "DELETE", url)


def able(site: Site, *, says: bool = True) -> str:
    """A share in a pool that makes backups, as finished operations leave it, without a worker."""
    share = site.served_share(size=2)["id"]
    with site.store.begin() as tx:
        host = "node1@one#one"
        tx.execute(update(shares).where(shares.c.id == share).values(host=host))
        tx.execute(pools.delete().where(pools.c.host == host))
        tx.execute(
            pools.insert().values(
                host=host,
                backend="one",
                availability_zone="nova",
                capabilities={"share_backup_support": says},
                reported_at=utcnow(),
            )
        )
    return str(share)


def settle(site: Site, backup: str, **values: Any) -> None:
    """What the operation would write."""
    with site.store.begin() as tx:
        tx.execute(update(share_backups).where(share_backups.c.id == backup).values(**values))


def test_what_is_refused(any_site: Site) -> None:
    site = any_site
    share = able(site, says=False)
    assert "makes no backups" in back_up(site, 400, share)
    share = able(site)
    assert "no data service" in back_up(site, 400, share, backup_options={})
    assert "no data service" in back_up(site, 400, share, backup_options=None)
    for share_id in (MISSING, "", None, "x" * 300):
        back_up(site, 400, share_id)
    for options in ("text", ["list"], {"a": {}}, {"a": "x" * 256}, {"backup_type": "x" * 33}, {"a": "\0"}):
        back_up(site, 400, share, backup_options=options)
    back_up(site, 400, share, user="bob")
    back_up(site, 403, share, user="rita")
    site.finish_status(share, "error")
    back_up(site, 400, share)
    site.finish_status(share, "available")
    backup = back_up(site, 202, share)["id"]
    settle(site, backup, status="available")
    site.finish_status(share, "available")
    for method, path, body in (
        ("GET", "", None),
        ("PUT", "", {"share_backup": {"name": "x"}}),
        ("DELETE", "", None),
        ("POST", "/action", {"restore": None}),
    ):
        ask(site, 404, method, f"/{backup}{path}", body, user="bob")
        ask(site, 404, method, f"/{MISSING}{path}", body)
        site.expect(404, method, f"{URL}/{backup}{path}", body)  # without the header
        ask(site, 404, method, f"/{backup}{path}", body, version="2.79")
        if method != "GET":
            ask(site, 403, method, f"/{backup}{path}", body, user="rita")
    act(site, 403, backup, "reset_status", {"status": "error"})
    ask(site, 400, "GET", f"?share_id={MISSING}")
    # Nothing more than was accepted is counted.
    assert in_use(site) == (1, 2)
    site.expect(200, "PUT", "/v2/quota-sets/blue", {"quota_set": {"backups": 1}}, user="root")
    assert "BackupLimitExceeded" in back_up(site, 413, share)
    site.expect(200, "PUT", "/v2/quota-sets/blue", {"quota_set": {"backups": 9, "backup_gigabytes": 3}}, user="root")
    assert "ShareBackupSizeExceedsAvailableQuota" in back_up(site, 413, share)


def test_restoring_to_a_share_that_is_named(site: Site) -> None:
    share, other = able(site), able(site)
    backup = back_up(site, 202, share)["id"]
    act(site, 400, backup, "restore")  # it is being made
    back_up(site, 400, share)  # one at a time
    rule = {"allow_access": {"access_type": "ip", "access_to": "192.0.2.5"}}
    site.expect(400, "POST", f"/v2/shares/{share}/action", rule)
    settle(site, backup, status="available")
    act(site, 400, backup, "restore")  # so is its share
    act(site, 404, backup, "restore", MISSING, version="2.91")
    act(site, 400, backup, "restore", {"id": other}, version="2.91")
    site.finish_status(other, "error")
    act(site, 400, backup, "restore", other, version="2.91")
    site.finish_status(other, "available")
    assert act(site, 202, backup, "restore", other, version="2.91")["restore"]["share_id"] == other
    assert site.expect(200, "GET", f"/v2/shares/{other}")["share"]["status"] == "backup_restoring"
    assert site.expect(200, "GET", f"/v2/shares/{share}")["share"]["status"] == "backup_creating"
    act(site, 400, backup, "restore", other, version="2.91")
    # Before 2.91 the target is not looked at.
    settle(site, backup, status="available")
    site.finish_status(share, "available")
    assert act(site, 202, backup, "restore", other, version="2.90")["restore"]["share_id"] == share


@pytest.mark.parametrize(
    ("status", "allowed"),
    [
        ("creating", False), ("available", True), ("restoring", False), ("deleting", False), ("error", True),
        ("error_deleting", True),
    ],
)  # fmt: skip
def test_deleting(site: Site, status: str, allowed: bool) -> None:
    backup = back_up(site, 202, able(site))["id"]
    act(site, 202, backup, "reset_status", {"status": status}, user="root")
    ask(site, 202 if allowed else 400, "DELETE", f"/{backup}")
    act(site, 400, backup, "reset_status", {"status": "odd"}, user="root")
