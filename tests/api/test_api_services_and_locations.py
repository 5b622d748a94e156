"""Services: reasons, ensuring; metadata of export locations; the level of an access rule."""

from __future__ import annotations

from typing import Any

from site_for_tests import Site
from sqlalchemy import select, update
from test_api_networks import add_server

from sharewright.identifiers import utcnow
from sharewright.operations.registration import register
from sharewright.store.tables import operations, workers

HOST = "node1@one"


def services(site: Site, query: str = "", version: str = "2.93") -> list[dict[str, Any]]:
    return list(site.expect(200, "GET", f"/v2/services?{query}", user="root", version=version)["services"])


def test_a_service_is_disabled_with_a_reason(site: Site) -> None:
    register(site.store, "manila-share", HOST, "zone-1")
    body = {"host": HOST, "binary": "manila-share", "disabled_reason": "works"}
    site.expect(400, "PUT", "/v2/services/disable", body, user="root", version="2.82")
    answer = site.expect(200, "PUT", "/v2/services/disable", body, user="root")
    assert answer == {"host": HOST, "binary": "manila-share", "status": "disabled", "disabled_reason": "works"}
    assert services(site, f"host={HOST}")[0]["disabled_reason"] == "works"
    assert "disabled_reason" not in services(site, f"host={HOST}", version="2.82")[0]
    site.expect(200, "PUT", "/v2/services/enable", {"host": HOST, "binary": "manila-share"}, user="root")
    assert services(site, f"host={HOST}")[0]["disabled_reason"] is None


def test_servers_of_a_host_are_looked_after_when_asked_for(site: Site) -> None:
    register(site.store, "manila-share", HOST, "zone-1")
    server = add_server(site, site.network())
    body = {"ensure_shares": {"host": HOST}}
    site.expect(403, "POST", "/v2/services/ensure-shares", body)
    site.expect(404, "POST", "/v2/services/ensure-shares", {"ensure_shares": {"host": "x"}}, user="root")
    site.expect(404, "POST", "/v2/services/ensure-shares", body, user="root", version="2.85")
    assert services(site, "ensuring=true") == []
    site.expect(202, "POST", "/v2/services/ensure-shares", body, user="root")
    with site.store.read() as tx:
        asked = select(operations.c.resource_id).where(operations.c.kind == "heal_server")
        assert tx.execute(asked).scalars().all() == [server]
    assert [each["host"] for each in services(site, "ensuring=true")] == [HOST]
    with site.store.begin() as tx:
        tx.execute(update(workers).where(workers.c.host == HOST).values(heartbeat_at=utcnow().replace(year=2020)))
    site.expect(409, "POST", "/v2/services/ensure-shares", body, user="root")


def test_metadata_of_an_export_location(site: Site) -> None:
    share = site.served_share()["id"]
    listed = site.expect(200, "GET", f"/v2/shares/{share}/export_locations", user="root")["export_locations"]
    mine, admins = (f"/v2/shares/{share}/export_locations/{each['id']}/metadata" for each in listed)
    assert site.expect(200, "GET", mine) == {"metadata": {}}
    assert site.expect(200, "POST", mine, {"metadata": {"a": "1", "b": "2"}}) == {"metadata": {"a": "1", "b": "2"}}
    assert site.expect(200, "PUT", mine, {"metadata": {"c": "3"}}) == {"metadata": {"c": "3"}}
    assert site.expect(200, "POST", f"{mine}/c", {"meta": {"c": "4"}}) == {"meta": {"c": "4"}}
    assert site.expect(200, "GET", f"{mine}/c") == {"meta": {"c": "4"}}
    shown = site.expect(200, "GET", f"/v2/shares/{share}/export_locations")["export_locations"]
    assert shown[0]["metadata"] == {"c": "4"}
    site.expect(400, "POST", f"{mine}/c", {"meta": {"d": "4"}})
    site.expect(400, "POST", mine, {"metadata": {"": "x"}})
    site.expect(200, "DELETE", f"{mine}/c")
    site.expect(404, "DELETE", f"{mine}/c")
    site.expect(404, "GET", admins)
    site.expect(403, "POST", mine, {"metadata": {"a": "1"}}, user="rita")
    site.expect(404, "GET", mine, version="2.86")


def test_the_level_of_a_rule_is_changed_in_place(site: Site) -> None:
    share = site.served_share()["id"]
    body = {"allow_access": {"access_type": "ip", "access_to": "10.1.1.1"}}
    rule = site.expect(200, "POST", f"/v2/shares/{share}/action", body)["access"]
    path = f"/v2/share-access-rules/{rule['id']}"
    changed = site.expect(200, "PUT", path, {"update_access": {"access_level": "ro"}})["access"]
    assert (changed["id"], changed["access_level"], changed["state"]) == (rule["id"], "ro", "queued_to_apply")
    for bad in ({}, {"access_level": "rx"}, {"access_level": ""}, {"access_level": 5}):
        site.expect(400, "PUT", path, {"update_access": bad})
    site.expect(404, "PUT", path, {"update_access": {"access_level": "rw"}}, version="2.87")
    site.expect(202, "POST", f"/v2/shares/{share}/action", {"deny_access": {"access_id": rule["id"]}})
    site.expect(400, "PUT", path, {"update_access": {"access_level": "rw"}})


def test_the_only_rule_of_an_smb_share_may_change_its_level(site: Site) -> None:
    share = site.served_share(share_proto="CIFS")["id"]
    rules = []
    for address in ("10.1.1.1", "10.1.1.2"):
        body = {"allow_access": {"access_type": "ip", "access_to": address}}
        rules.append(site.expect(200, "POST", f"/v2/shares/{share}/action", body)["access"]["id"])
        status = 200 if len(rules) == 1 else 400
        path = f"/v2/share-access-rules/{rules[-1]}"
        site.expect(status, "PUT", path, {"update_access": {"access_level": "ro"}})
        if status == 200:
            site.expect(200, "PUT", path, {"update_access": {"access_level": "rw"}})
