"""The OpenAPI document: made of the tables, for any microversion, and true of what is answered."""

from __future__ import annotations

import re
from typing import Any

import pytest
from site_for_tests import Site

from sharewright.api import openapi
from sharewright.api.app import ROUTES
from sharewright.api.shapes import CONTRACTS
from sharewright.api.versions import MAXIMUM, VERSION_HEADER


def documented(version: int) -> dict[str, Any]:
    return openapi.document(tuple(ROUTES), version)


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        found = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return found.union(*(references(each) for each in value.values()))
    if isinstance(value, list):
        return set().union(*(references(each) for each in value))
    return set()


@pytest.mark.parametrize("version", [0, 7, 50, MAXIMUM])
def test_it_has_every_route_of_a_microversion_and_no_other(version: int) -> None:
    document = documented(version)
    shown = {(path, method.upper()) for path, methods in document["paths"].items() for method in methods}
    assert shown == {(f"/v2{each.path}", each.method) for each in ROUTES if each.since <= version <= each.until}
    names = [each["operationId"] for methods in document["paths"].values() for each in methods.values()]
    assert len(names) == len(set(names))
    known = {f"#/components/{kind}/{name}" for kind, found in document["components"].items() for name in found}
    assert references(document) <= known
    for path, methods in document["paths"].items():
        for each in methods.values():
            named = {one["name"] for one in each["parameters"] if one.get("in") == "path"}
            assert named == set(re.findall(r"{(\w+)}", path))


def test_fields_follow_the_microversion() -> None:
    old, new = (documented(version)["components"]["schemas"]["share.detail"]["properties"] for version in (0, MAXIMUM))
    assert "export_location" in old
    assert "export_location" not in new
    assert "is_soft_deleted" in new


def test_every_handler_says_what_it_takes_and_gives() -> None:
    assert {route.handler for route in ROUTES} == set(CONTRACTS)
    for route in ROUTES:
        takes = CONTRACTS[route.handler].takes
        assert takes is None or route.method in ("POST", "PUT", "GET", "DELETE"), route
        assert not route.action or takes is not None, route


def test_actions_say_which_answer_is_theirs() -> None:
    actions = documented(MAXIMUM)["paths"]["/v2/shares/{share_id}/action"]["post"]["x-actions"]
    assert actions["allow_access"]["status"] == 200
    assert actions["allow_access"]["answer"]["properties"]["access"] == {"$ref": "#/components/schemas/access.detail"}
    assert actions["extend"] == {"status": 202, "x-microversions": {"since": "2.7"}}
    assert "os-extend" not in actions
    bodies = documented(MAXIMUM)["paths"]["/v2/shares/{share_id}/action"]["post"]["requestBody"]
    variants = {each["title"]: each for each in bodies["content"]["application/json"]["schema"]["oneOf"]}
    assert set(variants) == set(actions)
    assert set(variants["extend"]["properties"]["extend"]["properties"]) == {"new_size", "force"}
    old = documented(7)["paths"]["/v2/shares/{share_id}/action"]["post"]["requestBody"]
    (extend,) = [each for each in old["content"]["application/json"]["schema"]["oneOf"] if each["title"] == "extend"]
    assert set(extend["properties"]["extend"]["properties"]) == {"new_size"}


def test_documents_differ_where_something_is_new() -> None:
    found = list(openapi.breaks(ROUTES))
    assert found[0] == 0
    assert {7, 45, 69, 88} <= set(found)
    assert 13 not in found  # of the microversion 2.13 nothing is described
    described = openapi.descriptions(ROUTES)
    assert len({(each.path, each.method, each.first) for each in described}) == len(described)
    of_listing = [each for each in described if (each.path, each.method) == ("/v2/shares/detail", "get")]
    assert [of_listing[0].first, of_listing[-1].last] == [0, found[-1]]


def test_what_is_answered_is_what_is_described(site: Site) -> None:
    document = site.expect(200, "GET", "/openapi.json", user=None, version=None)
    schemas = document["components"]["schemas"]
    share = site.served_share()
    one = site.expect(200, "GET", f"/v2/shares/{share['id']}", user="root")["share"]
    assert set(one) == set(schemas["share.detail"]["properties"])
    network = site.expect(200, "GET", f"/v2/share-networks/{share['share_network_id']}")["share_network"]
    assert set(network) == set(schemas["share_network.detail"]["properties"])
    assert "size" in schemas["share.create"]["properties"]


def test_the_microversion_chooses_the_document(site: Site) -> None:
    def version(path: str = "/openapi.json", **options: Any) -> str:
        return str(site.expect(200, "GET", path, user=None, **options)["info"]["version"])

    assert version(version=None) == f"2.{MAXIMUM}"
    assert version(version="2.7") == "2.7"
    assert version("/openapi.json?microversion=2.7", version=None) == "2.7"
    assert version("/openapi.json?version=2.8", version="2.7") == "2.8"
    answer = site.ask("GET", "/openapi.json", user=None, version="2.7")
    assert answer.headers["Vary"] == VERSION_HEADER
    site.expect(400, "GET", "/openapi.json?microversion=new", user=None)
    site.expect(406, "GET", "/openapi.json?microversion=2.100", user=None)
