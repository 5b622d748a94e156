"""Access rules: allowing, denying, their states and their metadata."""

from __future__ import annotations

import threading
import uuid
from typing import Any

import pytest
from site_for_tests import Site
from sqlalchemy import select, update

from sharewright.store.tables import operations, share_access_rules, share_export_locations


def allow(site: Site, share: dict[str, Any], to: str = "10.1.1.1", status: int = 200, **values: Any) -> Any:
    body = {"allow_access": {"access_type": "ip", "access_to": to, **values}}
    return site.expect(status, "POST", f"/v2/shares/{share['id']}/action", body)


def queued(site: Site) -> list[str]:
    with site.store.read() as tx:
        return list(tx.execute(select(operations.c.state).where(operations.c.kind == "update_access")).scalars())


def test_allowing_access(any_site: Site) -> None:
    share = any_site.served_share()
    rule = allow(any_site, share, access_level="ro", metadata={"who": "me"})["access"]
    assert set(rule) == {
        "id", "share_id", "access_type", "access_to", "access_level", "state", "access_key", "created_at",
        "updated_at", "metadata",
    }  # fmt: skip
    assert (rule["access_to"], rule["access_level"], rule["state"]) == ("10.1.1.1", "ro", "queued_to_apply")
    assert rule["metadata"] == {"who": "me"}
    assert any_site.expect(200, "GET", f"/v2/shares/{share['id']}")["share"]["access_rules_status"] == "syncing"
    with any_site.store.read() as tx:
        operation = tx.execute(select(operations).where(operations.c.kind == "update_access")).mappings().one()
    assert (operation["resource_type"], operation["key"]) == ("share", f"share:{share['id']}")


def test_many_changes_make_one_queued_operation(any_site: Site) -> None:
    share = any_site.served_share()
    for number in range(5):
        allow(any_site, share, f"10.1.1.{number}")
    assert queued(any_site) == ["queued"]
    # One that runs already may have read the rules: the next change is for a further one.
    with any_site.store.begin() as tx:
        tx.execute(update(operations).where(operations.c.kind == "update_access").values(state="running"))
    allow(any_site, share, "10.1.1.77")
    allow(any_site, share, "10.1.1.78")
    assert sorted(queued(any_site)) == ["queued", "running"]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("10.1.1.1", "10.1.1.1"),
        (" 10.1.1.1 ", "10.1.1.1"),
        ("10.1.1.1/32", "10.1.1.1"),
        ("10.1.1.0/24", "10.1.1.0/24"),
        ("0.0.0.0/0", "0.0.0.0/0"),
    ],
)
def test_addresses_are_kept_in_canonical_form(site: Site, given: str, kept: str) -> None:
    share = site.served_share()
    assert allow(site, share, given)["access"]["access_to"] == kept
    assert f"ip:{kept} exists" in allow(site, share, kept, status=400)["badRequest"]["message"]


@pytest.mark.parametrize(
    "address",
    [
        "", "nonsense", "10.1.1", "10.1.1.256", "010.1.1.1", "10.1.1.1/33", "10.1.1.1/-1", "10.1.1.1/24", "10.1.1.1/",
        "10.1.1.0/255.255.255.0", "10.1.1.1;rm -rf /", "10.1.1.1\n*", "*", "@all", "10.1.1.1(rw)", "fe80::1%eth0/64/3",
        "1" * 300, 7, None, ["10.1.1.1"], {"a": 1},
    ],
)  # fmt: skip
def test_other_addresses_are_refused(site: Site, address: Any) -> None:
    allow(site, site.served_share(), address, status=400)


@pytest.mark.parametrize("address", ["2001:db8::1", "2001:db8::/64", "::/0"])
def test_ipv6_is_refused_where_no_ipv6_client_can_come(site: Site, address: str) -> None:
    message = allow(site, site.served_share(), address, status=400)["badRequest"]["message"]
    assert "the share has IPv4 export locations only" in message


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("2001:db8::1", "2001:db8::1"),
        ("2001:DB8:0:0::1/128", "2001:db8::1"),
        ("2001:0db8:0000:0000:0000:0000:0000:0000/64", "2001:db8::/64"),
        ("::/0", "::/0"),
    ],
)
def test_ipv6_rules_of_a_share_that_has_an_ipv6_export_location(site: Site, given: str, kept: str) -> None:
    share = site.served_share()
    path = f"[2001:db8::5]:/shares/share-{share['id']}"
    with site.store.begin() as tx:
        tx.execute(update(share_export_locations).values(path=path))
    body = {"allow_access": {"access_type": "ip", "access_to": given}}
    old = site.expect(400, "POST", f"/v2/shares/{share['id']}/action", body, version="2.37")["badRequest"]["message"]
    assert "needs API microversion 2.38" in old
    rule = site.expect(200, "POST", f"/v2/shares/{share['id']}/action", body, version="2.38")["access"]
    assert rule["access_to"] == kept
    assert f"ip:{kept} exists" in allow(site, share, kept, status=400)["badRequest"]["message"]
    for wrong in ("2001:db8::1/64", "2001:db8::/129", "2001:db8::1%eth0", "::ffff:10.0.0.1"):
        allow(site, share, wrong, status=400)
    allow(site, share, "10.1.1.1")


def test_all_addresses_of_a_cifs_share_have_one_level(site: Site) -> None:
    share = site.served_share(share_proto="cifs")
    assert share["share_proto"] == "CIFS"
    first = allow(site, share, "10.1.1.1", access_level="ro")["access"]
    allow(site, share, "10.1.2.0/24", access_level="ro")
    message = allow(site, share, "10.1.1.2", status=400)["badRequest"]["message"]
    assert "have one access level, and the one for 10.1." in message
    for rule in site.expect(200, "GET", f"/v2/share-access-rules?share_id={share['id']}")["access_list"]:
        assert rule["access_level"] == "ro"
        site.expect(202, "POST", f"/v2/shares/{share['id']}/action", {"deny_access": {"access_id": rule["id"]}})
    # They are leaving, and so in nobody's way; the same client may come back otherwise.
    assert allow(site, share, first["access_to"])["access"]["access_level"] == "rw"


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"access_type": "user"}, "not supported by the share's protocol"),
        ({"access_type": "cephx"}, "not supported by the share's protocol"),
        ({"access_type": "magic"}, "Invalid access type"),
        ({"access_level": "rwx"}, "access level"),
        ({"access_level": 7}, "access_level"),
        ({"metadata": {"": "x"}}, "blank"),
        ({"access": "x"}, "unexpected"),
    ],
)
def test_bad_rules_are_refused(site: Site, values: dict[str, Any], part: str) -> None:
    share = site.served_share()
    assert part in allow(site, share, status=400, **values)["badRequest"]["message"]
    assert site.expect(200, "GET", f"/v2/share-access-rules?share_id={share['id']}") == {"access_list": []}


def test_rules_wait_until_the_share_is_there(site: Site) -> None:
    share = site.share()
    assert "lacks a valid host" in allow(site, share, status=400)["badRequest"]["message"]
    site.finish(share["id"])
    rule = allow(site, share)["access"]
    for status, denied in (("deleting", 400), ("extending", 400), ("error", 202)):
        site.finish_status(share["id"], status)
        allow(site, share, "10.9.9.9", status=400)
        body = {"deny_access": {"access_id": rule["id"]}}
        site.expect(denied, "POST", f"/v2/shares/{share['id']}/action", body)


def test_denying_access(any_site: Site) -> None:
    share = any_site.served_share()
    rule = allow(any_site, share)["access"]
    path = f"/v2/shares/{share['id']}/action"
    answer = any_site.ask("POST", path, {"deny_access": {"access_id": rule["id"]}})
    assert (answer.status_code, answer.content) == (202, b"")
    shown = any_site.expect(200, "GET", f"/v2/share-access-rules/{rule['id']}")["access"]
    assert shown["state"] == "queued_to_deny"
    any_site.expect(202, "POST", path, {"deny_access": {"access_id": rule["id"]}})
    any_site.expect(404, "POST", path, {"deny_access": {"access_id": str(uuid.uuid4())}})
    for bad in ({}, {"access_id": None}, {"access_id": 5}, None):
        any_site.expect(400, "POST", path, {"deny_access": bad})
    other = any_site.served_share()
    any_site.expect(404, "POST", f"/v2/shares/{other['id']}/action", {"deny_access": {"access_id": rule["id"]}})


def test_states_before_they_were_renamed(site: Site) -> None:
    share = site.served_share()
    rule = allow(site, share)["access"]
    path = f"/v2/shares/{share['id']}/action"
    expected = {
        "queued_to_apply": "new", "applying": "new", "active": "active", "error": "error", "denying": "deleting",
        "queued_to_deny": "deleting",
    }  # fmt: skip
    for state, old in expected.items():
        with site.store.begin() as tx:
            tx.execute(update(share_access_rules).values(state=state))
        (listed,) = site.expect(200, "POST", path, {"access_list": None}, version="2.27")["access_list"]
        assert (listed["id"], listed["state"]) == (rule["id"], old)
        (listed,) = site.expect(200, "POST", path, {"access_list": None}, version="2.28")["access_list"]
        assert listed["state"] == state


def test_fields_of_a_rule_by_microversion(site: Site) -> None:
    share = site.served_share()
    path = f"/v2/shares/{share['id']}/action"
    body = {"os-allow_access": {"access_type": "ip", "access_to": "10.2.2.2"}}
    old = site.expect(200, "POST", path, body, version="2.6")["access"]
    assert set(old) == {"id", "share_id", "access_type", "access_to", "access_level", "state"}
    for version, action, fields in (
        ("2.0", "os-access_list", {"id", "access_type", "access_to", "access_level", "state"}),
        ("2.21", "access_list", {"id", "access_type", "access_to", "access_level", "state", "access_key"}),
    ):
        (listed,) = site.expect(200, "POST", path, {action: None}, version=version)["access_list"]
        assert set(listed) == fields
    site.expect(202, "POST", path, {"os-deny_access": {"access_id": old["id"]}}, version="2.0")


def test_listing_rules(site: Site) -> None:
    share = site.served_share()
    for number in (3, 1, 2):
        allow(site, share, f"10.1.1.{number}", metadata={"number": str(number)})
    path = f"/v2/share-access-rules?share_id={share['id']}"
    with site.statements() as seen:
        rules = site.expect(200, "GET", path)["access_list"]
    assert len(seen) == 4
    assert [rule["access_to"] for rule in rules] == ["10.1.1.3", "10.1.1.1", "10.1.1.2"]
    assert "share_id" not in rules[0]
    found = site.expect(200, "GET", f"{path}&metadata={{'number': '1'}}")["access_list"]
    assert [rule["metadata"] for rule in found] == [{"number": "1"}]
    site.expect(400, "GET", "/v2/share-access-rules")
    site.expect(400, "GET", f"/v2/share-access-rules?share_id={uuid.uuid4()}")  # as Manila
    site.expect(404, "GET", f"/v2/share-access-rules/{uuid.uuid4()}")


def test_metadata_of_a_rule(site: Site) -> None:
    rule = allow(site, site.served_share(), metadata={"a": "1"})["access"]
    path = f"/v2/share-access-rules/{rule['id']}/metadata"
    assert site.expect(200, "PUT", path, {"metadata": {"b": "2"}}) == {"metadata": {"a": "1", "b": "2"}}
    assert site.ask("DELETE", f"{path}/a").status_code == 200
    site.expect(404, "DELETE", f"{path}/a")
    site.expect(400, "PUT", path, {"metadata": {"": "2"}})
    site.expect(403, "PUT", path, {"metadata": {"c": "3"}}, user="rita")
    site.expect(403, "DELETE", f"{path}/b", user="rita")
    site.expect(404, "PUT", path, {"metadata": {"c": "3"}}, user="bob")


def test_the_same_rule_from_many_at_once_is_made_once(any_site: Site) -> None:
    share = any_site.served_share()
    codes: list[int] = []
    body = {"allow_access": {"access_type": "ip", "access_to": "10.1.1.1"}}

    def ask() -> None:
        headers = {"Connection": "close"}
        codes.append(any_site.ask("POST", f"/v2/shares/{share['id']}/action", body, headers=headers).status_code)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == [200, 400, 400, 400, 400, 400]
    assert queued(any_site) == ["queued"]
