"""Share group types, group specs, access of projects."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from site_for_tests import Site, make_settings, running_site, write_people

from sharewright.store.database import Store

PATH = "/v2/share-group-types"
EXPERIMENTAL = {"X-OpenStack-Manila-API-Experimental": "true"}


def make(site: Site, name: str = "trio", status: int = 200, **values: Any) -> Any:
    body = {"share_group_type": {"name": name, "share_types": ["default"], **values}}
    answer = site.expect(status, "POST", PATH, body, user="root")
    return answer["share_group_type"] if status == 200 else answer


def default_type(site: Site) -> str:
    return str(site.expect(200, "GET", "/v2/types/default")["share_type"]["id"])


def test_a_share_group_type(any_site: Site) -> None:
    site = any_site
    share_type = default_type(site)
    made = make(site, share_types=["default", share_type], group_specs={"consistent_snapshot_support": "host"})
    assert made == {
        "id": made["id"],
        "name": "trio",
        "is_public": True,
        "share_types": [share_type],
        "group_specs": {"consistent_snapshot_support": "host"},
        "is_default": False,
    }
    one = f"{PATH}/{made['id']}"
    assert site.expect(200, "GET", one)["share_group_type"] == made
    assert site.expect(200, "GET", PATH)["share_group_types"] == [made]
    specs = {"group_specs": "{'consistent_snapshot_support': 'pool'}"}
    query = "&".join(f"{key}={value}" for key, value in specs.items())
    assert site.expect(200, "GET", f"{PATH}?{query}", user="root")["share_group_types"] == []
    site.expect(400, "GET", f"{PATH}?{query}", version="2.65")
    assert "is_default" not in site.expect(200, "GET", one, version="2.45", headers=EXPERIMENTAL)["share_group_type"]
    make(site, status=409)
    refused = site.expect(400, "DELETE", f"/v2/types/{share_type}", user="root")
    assert "still in use" in refused["badRequest"]["message"]
    site.expect(403, "DELETE", one)
    site.expect(204, "DELETE", one, user="root")
    site.expect(404, "GET", one)
    site.expect(404, "DELETE", one, user="root")
    site.expect(202, "DELETE", f"/v2/types/{share_type}", user="root")


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({"name": ""}, 400),
        ({"name": None}, 400),
        ({"name": "n" * 256}, 400),
        ({"share_types": []}, 400),
        ({"share_types": None}, 400),
        ({"share_types": "default"}, 400),
        ({"share_types": [""]}, 400),
        ({"share_types": ["unknown"]}, 404),
        ({"share_types": [str(uuid.uuid4())]}, 404),
        ({"is_public": "perhaps"}, 400),
        ({"group_specs": {"bad/key": "x"}}, 400),
        ({"group_specs": {"k": ""}}, 400),
        ({"group_specs": {"k": {"a": "b"}}}, 400),
        ({"group_specs": "k"}, 400),
        ({"colour": "x"}, 400),
    ],
)
def test_bad_types_are_refused(site: Site, values: dict[str, Any], status: int) -> None:
    make(site, status=status, **values)
    assert site.expect(200, "GET", f"{PATH}?is_public=all", user="root")["share_group_types"] == []


def test_only_administrators_make_them(site: Site) -> None:
    body = {"share_group_type": {"name": "trio", "share_types": ["default"]}}
    site.expect(403, "POST", PATH, body)
    identifier = make(site)["id"]
    for method, path, sent in (
        ("GET", "group-specs", None),
        ("POST", "group-specs", {"group_specs": {"k": "v"}}),
        ("PUT", "group-specs/k", {"k": "v"}),
        ("DELETE", "group-specs/k", None),
        ("GET", "access", None),
        ("POST", "action", {"addProjectAccess": {"project": "blue"}}),
        ("POST", "action", {"removeProjectAccess": {"project": "blue"}}),
    ):
        site.expect(403, method, f"{PATH}/{identifier}/{path}", sent)


def test_group_specs(site: Site) -> None:
    specs = f"{PATH}/{make(site)['id']}/group-specs"
    assert site.expect(200, "GET", specs, user="root") == {"group_specs": {}}
    both = {"group_specs": {"a": "1", "b": "2"}}
    assert site.expect(200, "POST", specs, both, user="root") == both
    assert site.expect(200, "PUT", f"{specs}/a", {"a": "3"}, user="root") == {"a": "3"}
    assert site.expect(200, "GET", f"{specs}/a", user="root") == {"a": "3"}
    site.expect(400, "PUT", f"{specs}/a", {"b": "3"}, user="root")
    site.expect(400, "PUT", f"{specs}/a", {"a": "3", "b": "3"}, user="root")
    site.expect(204, "DELETE", f"{specs}/a", user="root")
    site.expect(404, "DELETE", f"{specs}/a", user="root")
    site.expect(404, "GET", f"{specs}/a", user="root")
    assert site.expect(200, "GET", specs, user="root") == {"group_specs": {"b": "2"}}
    site.expect(404, "GET", f"{PATH}/{uuid.uuid4()}/group-specs", user="root")


def test_a_private_type_is_for_its_projects(any_site: Site) -> None:
    site = any_site
    private = make(site, is_public=False)["id"]
    one = f"{PATH}/{private}"
    site.expect(404, "GET", one)
    assert site.expect(200, "GET", PATH)["share_group_types"] == []
    add, remove = ({f"{verb}ProjectAccess": {"project": "blue"}} for verb in ("add", "remove"))
    site.expect(202, "POST", f"{one}/action", add, user="root")
    site.expect(409, "POST", f"{one}/action", add, user="root")
    listed = site.expect(200, "GET", f"{one}/access", user="root")
    assert listed == {"share_group_type_access": [{"share_group_type_id": private, "project_id": "blue"}]}
    site.expect(200, "GET", one)
    site.expect(404, "GET", one, user="bob")
    site.expect(202, "POST", f"{one}/action", remove, user="root")
    site.expect(404, "POST", f"{one}/action", remove, user="root")
    site.expect(404, "GET", one)
    public = f"{PATH}/{make(site, 'open')['id']}"
    site.expect(409, "POST", f"{public}/action", add, user="root")
    site.expect(404, "GET", f"{public}/access", user="root")


def test_experimental_until_2_55(site: Site) -> None:
    site.expect(404, "GET", PATH, version="2.30", headers=EXPERIMENTAL)
    site.expect(404, "GET", PATH, version="2.54")
    site.expect(200, "GET", PATH, version="2.31", headers=EXPERIMENTAL)
    site.expect(200, "GET", PATH, version="2.55")


@pytest.fixture
def site_with_default(sqlite_store: Store, tmp_path: Path) -> Iterator[Site]:
    identity = {"mode": "http_basic", "user_file": str(write_people(tmp_path / "users.json"))}
    settings = make_settings(tmp_path, identity=identity, default_share_group_type="usual")
    with running_site(sqlite_store, settings) as site:
        yield site


def test_the_default_type(site: Site, site_with_default: Site) -> None:
    site.expect(404, "GET", f"{PATH}/default")
    site_with_default.expect(404, "GET", f"{PATH}/default")
    usual = make(site_with_default, "usual")
    assert usual["is_default"] is True
    assert site_with_default.expect(200, "GET", f"{PATH}/default")["share_group_type"] == usual
