"""The OpenAPI document: made of the tables, for any microversion, and true of what is answered."""

from __future__ import annotations

import re
from typing import Any

import pytest
from site_for_tests import Site

from sharewright.api import openapi
from sharewright.api.app import ROUTES
from sharewright.api.versions import MAXIMUM


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
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert references(document) <= known
    for path, methods in document["paths"].items():
        for each in methods.values():
            named = {one["name"] for one in each["parameters"] if one["in"] == "path"}
            assert named == set(re.findall(r"{(\w+)}", path))


def test_fields_follow_the_microversion() -> None:
    old, new = (documented(version)["components"]["schemas"]["share.detail"]["properties"] for version in (0, MAXIMUM))
    assert "export_location" in old
    assert "export_location" not in new
    assert "is_soft_deleted" in new


def test_what_is_answered_is_what_is_described(site: Site) -> None:
    document = site.expect(200, "GET", "/openapi.json", user=None)
    schemas = document["components"]["schemas"]
    share = site.served_share()
    one = site.expect(200, "GET", f"/v2/shares/{share['id']}", user="root")["share"]
    assert set(one) - {"links"} == set(schemas["share.detail"]["properties"])
    network = site.expect(200, "GET", f"/v2/share-networks/{share['share_network_id']}")["share_network"]
    assert set(network) == set(schemas["share_network.detail"]["properties"])
    assert "size" in schemas["share.create"]["properties"]
    assert site.expect(200, "GET", "/openapi.json?version=2.7", user=None)["info"]["version"] == "2.7"
    site.expect(400, "GET", "/openapi.json?version=new", user=None)
    site.expect(406, "GET", "/openapi.json?version=2.100", user=None)
