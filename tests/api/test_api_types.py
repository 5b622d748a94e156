"""Share types, extra specs, access of projects."""

from __future__ import annotations

from typing import Any

import pytest
from site_for_tests import Site
from sqlalchemy import select

from sharewright.services import share_types
from sharewright.services.bootstrap import ensure_defaults
from sharewright.store.tables import share_instances

SPECS = {"driver_handles_share_servers": "True"}


def make(site: Site, name: str = "gold", status: int = 200, version: str = "2.81", **values: Any) -> Any:
    body = {"share_type": {"name": name, "extra_specs": SPECS, **values}}
    return site.expect(status, "POST", "/v2/types", body, user="root", version=version)


def test_a_type_comes_twice(site: Site) -> None:
    answer = make(site, description="shiny")
    assert answer["share_type"] == answer["volume_type"]
    gold = answer["share_type"]
    assert (gold["name"], gold["description"], gold["is_default"]) == ("gold", "shiny", False)
    assert gold["share_type_access:is_public"] is True
    assert gold["extra_specs"] == gold["required_extra_specs"] == SPECS
    listed = site.expect(200, "GET", "/v2/types")
    assert listed["share_types"] == listed["volume_types"]
    assert {found["name"] for found in listed["share_types"]} == {"default", "gold"}
    old = site.expect(200, "GET", f"/v2/types/{gold['id']}", version="2.6")["share_type"]
    assert set(old) == {"id", "name", "os-share-type-access:is_public", "extra_specs", "required_extra_specs"}


def test_a_required_spec_is_answered_as_it_was_sent(site: Site) -> None:
    """And kept as text."""
    made = make(site, extra_specs={"driver_handles_share_servers": False, "other": "x"})["share_type"]
    assert made["required_extra_specs"] == {"driver_handles_share_servers": False}
    shown = site.expect(200, "GET", f"/v2/types/{made['id']}", user="root")["share_type"]
    assert shown["required_extra_specs"] == {"driver_handles_share_servers": "False"}
    assert shown["extra_specs"] == {"driver_handles_share_servers": "False", "other": "x"}


def test_the_default_type(site: Site) -> None:
    assert site.expect(200, "GET", "/v2/types/default")["share_type"]["is_default"] is True
    ensure_defaults(site.store, site.settings)
    identifier = site.expect(200, "GET", "/v2/types/default")["share_type"]["id"]
    make(site)
    site.expect(202, "DELETE", f"/v2/types/{identifier}", user="root")
    ensure_defaults(site.store, site.settings)
    site.expect(404, "GET", "/v2/types/default")
    share = {"size": 1, "share_proto": "NFS", "share_network_id": site.network()["id"]}
    assert "no default share type" in site.expect(400, "POST", "/v2/shares", {"share": share})["badRequest"]["message"]


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({"name": ""}, 400),
        ({"name": " "}, 400),
        ({"name": None}, 400),
        ({"name": "n" * 256}, 400),
        ({"name": 5}, 400),
        ({"name": "default"}, 409),
        ({"extra_specs": {}}, 400),
        ({"extra_specs": None}, 400),
        ({"extra_specs": {"driver_handles_share_servers": "perhaps"}}, 400),
        ({"extra_specs": {**SPECS, "snapshot_support": "maybe"}}, 400),
        ({"extra_specs": {**SPECS, "bad/key": "x"}}, 400),
        ({"extra_specs": {**SPECS, "": "x"}}, 400),
        ({"extra_specs": {**SPECS, "k": ""}}, 400),
        ({"extra_specs": {**SPECS, "k": {"a": "b"}}}, 400),
        ({"extra_specs": {**SPECS, "k": "v" * 256}}, 400),
        ({"extra_specs": {**SPECS, "provisioning:min_share_size": "tiny"}}, 400),
        ({"extra_specs": {**SPECS, "provisioning:max_share_size": "0"}}, 400),
        ({"share_type_access:is_public": "perhaps"}, 400),
        ({"description": "d" * 256}, 400),
        ({"colour": "x"}, 400),
    ],
)
def test_bad_types_are_refused(site: Site, values: dict[str, Any], status: int) -> None:
    make(site, status=status, **values)
    assert len(site.expect(200, "GET", "/v2/types?is_public=all", user="root")["share_types"]) == 1


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("sharewright:filesystem", "btrfs", "'btrfs' is not one of ext4, xfs"),
        ("sharewright:smb_encryption", "yes", "not one of off, desired, required"),
        ("sharewright:squash", "root", "not one of no_root_squash, root_squash, all_squash"),
        ("sharewright:sec", "krb5p", "not one of sys. Kerberos (krb5, krb5i, krb5p) needs a security service"),
        ("sharewright:volume_type", "../fast", "is not a name"),
        ("sharewright:file_system", "xfs", "Did you mean sharewright:filesystem?"),
        ("sharewright:", "xfs", "There is no extra spec sharewright:"),
    ],
)
def test_specs_of_our_own_scope_are_checked(site: Site, key: str, value: str, said: str) -> None:
    refused = make(site, status=400, extra_specs={**SPECS, key: value})
    assert said in refused["badRequest"]["message"]
    gold = make(site)["share_type"]
    path = f"/v2/types/{gold['id']}/extra_specs"
    for method, where, body in (("POST", path, {"extra_specs": {key: value}}), ("PUT", f"{path}/{key}", {key: value})):
        answer = site.expect(400, method, where, body, user="root", version="2.81")
        assert said in answer["badRequest"]["message"]
    assert site.expect(200, "GET", path, user="root")["extra_specs"] == SPECS


def test_a_share_keeps_what_its_type_said(site: Site) -> None:
    specs = {
        "sharewright:filesystem": "xfs", "sharewright:squash": "root_squash", "sharewright:volume_type": "fast",
        "elsewhere:filesystem": "btrfs",
    }  # fmt: skip
    gold = make(site, extra_specs=SPECS | specs)["share_type"]
    assert gold["extra_specs"] == SPECS | specs
    share = site.share(share_type="gold")
    change = {"extra_specs": {"sharewright:squash": "all_squash"}}
    site.expect(200, "POST", f"/v2/types/{gold['id']}/extra_specs", change, user="root")
    with site.store.read() as tx:
        kept = tx.execute(select(share_instances).where(share_instances.c.share_id == share["id"])).one()
    assert (kept.filesystem_type, kept.squash, kept.volume_type) == ("xfs", "root_squash", "fast")


def test_snapshots_were_implied_before_2_24(site: Site) -> None:
    assert make(site, "old", version="2.23")["share_type"]["extra_specs"]["snapshot_support"] == "True"
    assert "snapshot_support" not in make(site, "new", version="2.24")["share_type"]["extra_specs"]


def test_tenants_see_only_what_is_theirs_to_see(site: Site) -> None:
    specs = {**SPECS, "snapshot_support": "False", "share_backend_name": "secret"}
    gold = make(site, extra_specs=specs)["share_type"]
    assert gold["extra_specs"] == specs
    seen = site.expect(200, "GET", f"/v2/types/{gold['id']}")["share_type"]["extra_specs"]
    implied = dict.fromkeys(share_types.IMPLIED_FALSE, False)
    assert "create_share_from_snapshot_support" in implied
    assert seen == {**implied, **SPECS, "snapshot_support": "False"}
    seen = site.expect(200, "GET", f"/v2/types/{gold['id']}", version="2.23")["share_type"]["extra_specs"]
    assert seen == {**SPECS, "snapshot_support": "False"}


def test_private_types(site: Site) -> None:
    private = make(site, **{"share_type_access:is_public": False})["share_type"]
    path = f"/v2/types/{private['id']}"
    for user in ("alice", "bob"):
        site.expect(404, "GET", path, user=user)
    network = site.network()["id"]
    share = {"size": 1, "share_proto": "NFS", "share_network_id": network, "share_type": private["id"]}
    site.expect(404, "POST", "/v2/shares", {"share": share})
    for action, status in (("addProjectAccess", 202), ("addProjectAccess", 409)):
        site.expect(status, "POST", f"{path}/action", {action: {"project": "blue"}}, user="root")
    access = site.expect(200, "GET", f"{path}/share_type_access", user="root")["share_type_access"]
    assert access == [{"share_type_id": private["id"], "project_id": "blue"}]
    site.expect(200, "GET", f"{path}/os-share-type-access", user="root", version="2.6")
    site.expect(200, "GET", path)
    site.expect(404, "GET", path, user="bob")
    assert {found["name"] for found in site.expect(200, "GET", "/v2/types")["share_types"]} == {"default", "gold"}
    site.expect(200, "POST", "/v2/shares", {"share": share})
    for status in (202, 404):
        site.expect(status, "POST", f"{path}/action", {"removeProjectAccess": {"project": "blue"}}, user="root")
    site.expect(404, "GET", path)
    for body in ({"addProjectAccess": {}}, {"addProjectAccess": {"project": 1}}, {"addProjectAccess": None}):
        site.expect(400, "POST", f"{path}/action", body, user="root")
    site.expect(403, "POST", f"{path}/action", {"addProjectAccess": {"project": "blue"}}, user="bob")
    default = site.expect(200, "GET", "/v2/types/default")["share_type"]["id"]
    site.expect(404, "GET", f"/v2/types/{default}/share_type_access", user="root")
    site.expect(409, "POST", f"/v2/types/{default}/action", {"addProjectAccess": {"project": "blue"}}, user="root")


def test_which_types_an_admin_lists(site: Site) -> None:
    make(site, **{"share_type_access:is_public": False})
    for query, names in (
        ("", {"default"}), ("?is_public=true", {"default"}), ("?is_public=false", {"gold"}),
        ("?is_public=None", {"default", "gold"}), ("?is_public=all", {"default", "gold"}),
    ):  # fmt: skip
        found = site.expect(200, "GET", f"/v2/types{query}", user="root")["share_types"]
        assert {each["name"] for each in found} == names, query
    site.expect(400, "GET", "/v2/types?is_public=perhaps", user="root")


def test_filtering_types_by_extra_specs(site: Site) -> None:
    make(site, extra_specs={**SPECS, "tier": "1"})
    query = "/v2/types?extra_specs={'tier': '1'}"
    assert [each["name"] for each in site.expect(200, "GET", query)["share_types"]] == ["gold"]
    assert len(site.expect(200, "GET", query, version="2.42")["share_types"]) == 2
    for bad in ("nonsense", "['tier']", "{'a': __import__('os')}", "{" * 5000):
        site.expect(400, "GET", f"/v2/types?extra_specs={bad}")


def test_changing_a_type(site: Site) -> None:
    gold = make(site)["share_type"]
    path = f"/v2/types/{gold['id']}"
    body = {"share_type": {"name": "better", "description": "b", "share_type_access:is_public": False}}
    changed = site.expect(200, "PUT", path, body, user="root")["share_type"]
    assert (changed["name"], changed["description"], changed["share_type_access:is_public"]) == ("better", "b", False)
    for values, status in (
        ({}, 400), ({"name": ""}, 400), ({"name": "n" * 256}, 400), ({"name": "default"}, 409), ({"odd": 1}, 400),
        ({"share_type_access:is_public": "x"}, 400),
    ):  # fmt: skip
        site.expect(status, "PUT", path, {"share_type": values}, user="root")
    site.expect(404, "PUT", path, body, user="root", version="2.49")
    site.expect(403, "PUT", path, body)


def test_deleting_a_type(site: Site) -> None:
    gold = make(site)["share_type"]
    share = site.share(share_type="gold")
    path = f"/v2/types/{gold['id']}"
    assert share["share_type"] == gold["id"]
    assert "still in use" in site.expect(400, "DELETE", path, user="root")["badRequest"]["message"]
    silver = make(site, "silver")["share_type"]
    site.expect(403, "DELETE", f"/v2/types/{silver['id']}")
    site.expect(202, "DELETE", f"/v2/types/{silver['id']}", user="root")
    site.expect(404, "DELETE", f"/v2/types/{silver['id']}", user="root")


def test_extra_specs(site: Site) -> None:
    gold = make(site)["share_type"]
    path = f"/v2/types/{gold['id']}/extra_specs"

    def ask(status: int, method: str, url: str, body: Any = None, **options: Any) -> Any:
        return site.expect(status, method, url, body, **{"user": "root", **options})

    assert ask(200, "GET", path) == {"extra_specs": SPECS}
    assert ask(200, "POST", path, {"extra_specs": {"tier": "1"}}) == {"extra_specs": {"tier": "1"}}
    assert ask(200, "PUT", f"{path}/tier", {"tier": "2"}) == {"tier": "2"}
    assert ask(200, "GET", f"{path}/tier") == {"tier": "2"}
    ask(400, "PUT", f"{path}/tier", {"other": "2"})
    ask(400, "PUT", f"{path}/tier", {"tier": "2", "more": "3"})
    ask(400, "POST", path, {"extra_specs": {"driver_handles_share_servers": "perhaps"}})
    ask(400, "POST", path, {"extra_specs": {"k": ""}})
    ask(400, "POST", path, {})
    ask(202, "DELETE", f"{path}/tier")
    ask(404, "DELETE", f"{path}/tier")
    ask(404, "GET", f"{path}/tier")
    ask(403, "DELETE", f"{path}/driver_handles_share_servers")
    ask(200, "POST", path, {"extra_specs": {"snapshot_support": "False"}})
    ask(403, "DELETE", f"{path}/snapshot_support", version="2.23")
    ask(202, "DELETE", f"{path}/snapshot_support", version="2.24")
    for user in ("alice", "rita"):
        ask(403, "GET", path, user=user)
        ask(403, "POST", path, {"extra_specs": {"a": "b"}}, user=user)
        ask(403, "DELETE", f"{path}/a", user=user)
