"""The declarative tables: every resource at every microversion, and what derives from them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
import pytest

from sharewright.api import (
    access_rules,
    availability_zones,
    export_locations,
    messages,
    quota_sets,
    scheduler_stats,
    services,
    share_group_types,
    share_groups,
    share_instances,
    share_network_subnets,
    share_networks,
    share_servers,
    share_types,
    shares,
    snapshot_instances,
    snapshots,
)
from sharewright.api.app import ROUTES
from sharewright.api.resource import Field, Resource, constant
from sharewright.api.shapes import body, many, one
from sharewright.api.versions import MAXIMUM, NEWEST
from sharewright.errors import InvalidInput

RESOURCES = [
    shares.SHARE, share_instances.SHARE_INSTANCE, access_rules.ACCESS_RULE, export_locations.EXPORT_LOCATION,
    share_networks.SHARE_NETWORK, share_network_subnets.SUBNET, share_types.SHARE_TYPE, share_servers.SHARE_SERVER,
    services.SERVICE, scheduler_stats.POOL, availability_zones.AVAILABILITY_ZONE, quota_sets.QUOTA_SET,
    messages.MESSAGE, share_group_types.SHARE_GROUP_TYPE,
    share_groups.SHARE_GROUP, snapshots.SNAPSHOT, snapshot_instances.SNAPSHOT_INSTANCE,
]  # fmt: skip


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: resource.name)
def test_no_key_stands_twice_at_any_microversion(resource: Resource) -> None:
    for version in range(MAXIMUM + 1):
        shown = [field.name for field in resource.fields if field.shown and field.exists_at(version)]
        assert len(shown) == len(set(shown)), f"2.{version}"
        settable = [
            name
            for field in resource.fields
            if field.exists_at(version) and field.create
            for name in (field.name, *field.aliases)
        ]
        assert len(settable) == len(set(settable)), f"2.{version}"


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: resource.name)
def test_every_table_describes_itself(resource: Resource) -> None:
    for version in (0, 40, MAXIMUM):
        for shape in (one(resource), many(resource, summary=True), body(resource, "create"), body(resource, "update")):
            components: dict[str, Any] = {}
            schema = shape(version, components)
            assert msgspec.json.decode(msgspec.json.encode([schema, components])) == [schema, components]
            for each in (schema, *components.values()):
                assert each["type"] == "object"
                assert set(each["required"]) <= set(each["properties"])


def test_routes_do_not_overlap() -> None:
    seen: dict[tuple[str, str, str], list[tuple[int, int]]] = {}
    for route in ROUTES:
        assert route.since <= min(route.until, MAXIMUM)
        key = (route.method, route.path, route.action)
        for since, until in seen.get(key, []):
            assert route.since > until or route.until < since, key
        seen.setdefault(key, []).append((route.since, route.until))


@dataclass
class Someone:
    version: int = MAXIMUM
    is_admin: bool = False

    def links(self, collection: str, identifier: str) -> list[dict[str, str]]:
        return [{"rel": "self", "href": f"/{collection}/{identifier}"}]


THING = Resource(
    name="thing",
    plural="things",
    collection="things",
    linked=True,
    fields=(
        Field("id", str, summary=True),
        Field("name", str | None, create=True, update=True, aliases=("title",)),
        Field("size", int, create=True, required=True, key="gigabytes"),
        Field("colour", str, source="color", since=5, until=9, create=True),
        Field("secret", str, admin=True),
        Field("always", bool, source=constant(True)),
    ),
)
RECORD: dict[str, Any] = {"id": "1", "name": "n", "size": 2, "color": "red", "secret": "s"}


def test_views() -> None:
    assert THING.show(RECORD, Someone(9)) == {
        "thing": {
            "id": "1", "name": "n", "size": 2, "colour": "red", "always": True,
            "links": [{"rel": "self", "href": "/things/1"}],
        }
    }  # fmt: skip
    assert "colour" not in THING.show(RECORD, Someone(10))["thing"]
    assert THING.show(RECORD, Someone(is_admin=True))["thing"]["secret"] == "s"
    assert THING.show_all([RECORD], Someone(), summary=True)["things"] == [
        {"id": "1", "links": [{"rel": "self", "href": "/things/1"}]}
    ]


def test_parsing() -> None:
    body = {"thing": {"title": "t", "size": "3", "colour": "red", "id": "7", "links": []}}
    assert THING.parse(body, 5, "create") == {"name": "t", "gigabytes": 3, "colour": "red"}
    assert THING.parse(body, 4, "create") == {"name": "t", "gigabytes": 3}
    assert THING.parse({"thing": {"name": "a", "title": "b", "size": 1}}, 0, "create")["name"] == "a"
    assert THING.parse({"thing": {"title": "b", "name": "a", "size": 1}}, 0, "create")["name"] == "a"
    assert THING.parse({"thing": {"size": 9}}, 0, "update") == {}
    for bad in (
        {"thing": {}}, {"thing": {"size": "x"}}, {"thing": {"size": True}}, {"thing": {"size": 1, "odd": 1}},
        {"thing": {"size": 1, "name": 5}}, {"other": {}}, {"thing": None}, [], None,
    ):  # fmt: skip
        with pytest.raises(InvalidInput):
            THING.parse(bad, 0, "create")


def test_times_have_microseconds() -> None:
    zone = {"id": "1", "name": "n", "created_at": datetime(2026, 1, 2, 3, 4, 5), "updated_at": None}
    shown = availability_zones.AVAILABILITY_ZONE.show(zone, Someone())["availability_zone"]
    assert (shown["created_at"], shown["updated_at"]) == ("2026-01-02T03:04:05.000000", None)


def test_the_newest_version_is_not_a_real_one() -> None:
    assert NEWEST > MAXIMUM
