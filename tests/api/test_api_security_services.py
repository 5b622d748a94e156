"""Security services: what they are, on which share networks they may be, who sees their passwords."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from site_for_tests import Site
from sqlalchemy import select
from test_api_networks import add_server

from sharewright.store.secrets import open_access_keys
from sharewright.store.tables import security_services

VALUES = {
    "name": "directory", "description": "text", "dns_ip": "192.0.2.53", "server": "192.0.2.3", "domain": "example.com",
    "user": "joiner", "password": "correct horse", "ou": "OU=shares",
}  # fmt: skip


def make(site: Site, kind: str = "active_directory", who: str = "alice", **values: Any) -> dict[str, Any]:
    open_access_keys(site.settings, make=True)
    body = {"security_service": {"type": kind, **values}}
    return dict(site.expect(200, "POST", "/v2/security-services", body, user=who)["security_service"])


def act(site: Site, status: int, network: str, action: str, values: Any, **options: Any) -> Any:
    return site.expect(status, "POST", f"/v2/share-networks/{network}/action", {action: values}, **options)


def test_a_security_service_is_made_shown_changed_and_deleted(any_site: Site) -> None:
    site = any_site
    made = make(site, **VALUES)
    assert {key: made[key] for key in VALUES} == VALUES
    assert (made["type"], made["status"], made["share_networks"]) == ("active_directory", "new", [])
    path = f"/v2/security-services/{made['id']}"
    assert site.expect(200, "GET", path)["security_service"] == made
    old = site.expect(200, "GET", path, version="2.43")["security_service"]
    assert "ou" not in old
    assert "default_ad_site" not in old
    changed = site.expect(200, "PUT", path, {"security_service": {"name": "other", "password": None}})
    assert (changed["security_service"]["name"], changed["security_service"]["password"]) == ("other", None)
    site.expect(202, "DELETE", path)
    site.expect(404, "GET", path)


def test_the_password_is_sealed_and_only_for_who_may_change_it(site: Site) -> None:
    made = make(site, **VALUES)
    with site.store.read() as tx:
        kept = tx.execute(select(security_services.c.password)).scalar_one()
    assert VALUES["password"] not in kept
    path = f"/v2/security-services/{made['id']}"
    assert site.expect(200, "GET", path, user="anna")["security_service"]["password"] == VALUES["password"]
    assert site.expect(200, "GET", path, user="rita")["security_service"]["password"] is None
    assert site.expect(200, "GET", path, user="root")["security_service"]["password"] is None


@pytest.mark.parametrize("kind", ["", "nis", None, 3])
def test_only_three_types_are_known(site: Site, kind: Any) -> None:
    site.expect(400, "POST", "/v2/security-services", {"security_service": {"type": kind}})


def test_a_site_and_a_server_exclude_each_other(site: Site) -> None:
    body = {"type": "active_directory", "server": "192.0.2.3", "default_ad_site": "here"}
    site.expect(400, "POST", "/v2/security-services", {"security_service": body})
    made = make(site, default_ad_site="here")
    path = f"/v2/security-services/{made['id']}"
    site.expect(400, "PUT", path, {"security_service": {"server": "192.0.2.3"}})


def test_other_projects_do_not_see_it(site: Site) -> None:
    made = make(site, "ldap")
    path = f"/v2/security-services/{made['id']}"
    for method, body in (("GET", None), ("PUT", {"security_service": {"name": "x"}}), ("DELETE", None)):
        site.expect(404, method, path, body, user="bob")
    site.expect(403, "DELETE", path, user="rita")
    assert site.expect(200, "GET", "/v2/security-services?all_tenants=1", user="bob")["security_services"] == []
    theirs = site.network("bob")["id"]
    act(site, 404, theirs, "add_security_service", {"security_service_id": made["id"]}, user="bob")
    listed = site.expect(200, "GET", "/v2/security-services?all_tenants=1", user="root")["security_services"]
    assert [each["id"] for each in listed] == [made["id"]]


def test_lists_are_filtered_and_their_statements_do_not_grow(site: Site) -> None:
    first, second = make(site, "ldap", name="a", domain="one"), make(site, "kerberos", name="b", domain="two")
    listed = site.expect(200, "GET", "/v2/security-services")["security_services"]
    assert all(set(each) == {"id", "name", "type", "status"} for each in listed)
    for query, wanted in (
        ("type=ldap", [first["id"]]), ("domain=two", [second["id"]]), ("name=c", []), ("name~=b", [second["id"]]),
        ("nothing=1&type=ldap", [first["id"]]),
    ):  # fmt: skip
        found = site.expect(200, "GET", f"/v2/security-services/detail?{query}")["security_services"]
        assert [each["id"] for each in found] == wanted, query
    counts = []
    for _ in range(2):
        with site.statements() as seen:
            site.expect(200, "GET", "/v2/security-services/detail")
        counts.append(len(seen))
        for number in range(5):
            make(site, "ldap", name=f"more-{number}")
    assert counts[0] == counts[1]


def test_a_share_network_has_one_of_each_type(site: Site) -> None:
    network, other = site.network()["id"], site.network()["id"]
    ldap, second, kerberos = make(site, "ldap"), make(site, "ldap"), make(site, "kerberos")
    answer = act(site, 200, network, "add_security_service", {"security_service_id": ldap["id"]})
    assert answer["share_network"]["id"] == network
    act(site, 409, network, "add_security_service", {"security_service_id": ldap["id"]})
    act(site, 409, network, "add_security_service", {"security_service_id": second["id"]})
    act(site, 200, network, "add_security_service", {"security_service_id": kerberos["id"]})
    for wrong in ("", "nothing", str(uuid.uuid4())):
        act(site, 404, network, "add_security_service", {"security_service_id": wrong})
    act(site, 400, network, "add_security_service", {})
    listed = site.expect(200, "GET", f"/v2/security-services/detail?share_network_id={network}")["security_services"]
    assert {each["id"]: each["share_networks"] for each in listed} == {
        ldap["id"]: [network], kerberos["id"]: [network]
    }  # fmt: skip
    networks = site.expect(200, "GET", f"/v2/share-networks?security_service_id={ldap['id']}")["share_networks"]
    assert [each["id"] for each in networks] == [network]
    site.expect(404, "GET", "/v2/security-services?share_network_id=nothing")
    site.expect(403, "DELETE", f"/v2/security-services/{ldap['id']}")
    act(site, 400, other, "remove_security_service", {"security_service_id": ldap["id"]})
    act(site, 200, network, "remove_security_service", {"security_service_id": ldap["id"]})
    site.expect(202, "DELETE", f"/v2/security-services/{ldap['id']}")
    site.expect(202, "DELETE", f"/v2/share-networks/{network}")
    site.expect(202, "DELETE", f"/v2/security-services/{kerberos['id']}")


def test_one_is_replaced_by_another_of_its_type(site: Site) -> None:
    network = site.network()["id"]
    old, new, other = make(site, "ldap"), make(site, "ldap"), make(site, "kerberos")
    act(site, 200, network, "add_security_service", {"security_service_id": old["id"]})
    both = {"current_service_id": old["id"], "new_service_id": new["id"]}
    act(site, 409, network, "update_security_service", {**both, "new_service_id": other["id"]})
    act(site, 409, network, "update_security_service", {**both, "current_service_id": other["id"]})
    act(site, 400, network, "update_security_service", {**both, "new_service_id": str(uuid.uuid4())})
    checked = act(site, 202, network, "update_security_service_check", both)
    assert checked == {
        "compatible": True,
        "requested_operation": {
            "operation": "update_security_service", "current_security_service": old["id"],
            "new_security_service": new["id"],
        },
    }  # fmt: skip
    act(site, 202, network, "update_security_service", both)
    listed = site.expect(200, "GET", f"/v2/security-services?share_network_id={network}")["security_services"]
    assert [each["id"] for each in listed] == [new["id"]]
    act(site, 404, network, "update_security_service", both, version="2.62")
    checked = act(site, 202, network, "add_security_service_check", {"security_service_id": other["id"]}, user="root")
    assert checked["hosts_check_result"] == {}
    act(site, 409, network, "add_security_service_check", {"security_service_id": new["id"]})


def test_what_share_servers_use_stays_as_it_is(site: Site) -> None:
    network = site.network()
    used, new, other = make(site, "ldap"), make(site, "ldap"), make(site, "kerberos")
    act(site, 200, network["id"], "add_security_service", {"security_service_id": used["id"]})
    add_server(site, network)
    path = f"/v2/security-services/{used['id']}"
    site.expect(403, "PUT", path, {"security_service": {"user": "another"}})
    site.expect(200, "PUT", path, {"security_service": {"name": "another", "description": "text"}})
    act(site, 403, network["id"], "remove_security_service", {"security_service_id": used["id"]})
    act(site, 400, network["id"], "add_security_service", {"security_service_id": other["id"]})
    act(site, 403, network["id"], "add_security_service", {"security_service_id": other["id"]}, version="2.62")
    both = {"current_service_id": used["id"], "new_service_id": new["id"]}
    act(site, 400, network["id"], "update_security_service", both)
    act(site, 400, network["id"], "update_security_service_check", both)
