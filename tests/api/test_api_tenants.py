"""Tenants are separate: what belongs to one project does not exist for another; readers only read."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from site_for_tests import Site
from sqlalchemy import select, update

from sharewright.api.app import ROUTES
from sharewright.api.versions import EXPERIMENTAL_HEADER, MAXIMUM
from sharewright.drivers.contract import ExportLocation
from sharewright.drivers.locations import write_snapshot_locations
from sharewright.identifiers import utcnow
from sharewright.operations.messages import Action, write_message
from sharewright.store.tables import (
    operations,
    resource_locks,
    security_services,
    share_access_rules,
    share_export_locations,
    share_group_snapshots,
    share_groups,
    share_network_security_services,
    share_networks,
    share_snapshot_access_rules,
    share_snapshot_export_locations,
    share_snapshot_instances,
    share_snapshots,
    share_transfers,
    shares,
)

# Every URL that names something of a project, with what changes it.
URLS: list[tuple[str, str, Any]] = [
    ("GET", "/v2/shares/{share}", None),
    ("PUT", "/v2/shares/{share}", {"share": {"name": "taken"}}),
    ("DELETE", "/v2/shares/{share}", None),
    ("GET", "/v2/shares/{share}/metadata", None),
    ("POST", "/v2/shares/{share}/metadata", {"metadata": {"a": "b"}}),
    ("PUT", "/v2/shares/{share}/metadata", {"metadata": {"k": "b"}}),
    ("GET", "/v2/shares/{share}/metadata/k", None),
    ("DELETE", "/v2/shares/{share}/metadata/k", None),
    ("GET", "/v2/shares/{share}/export_locations", None),
    ("GET", "/v2/shares/{share}/export_locations/{location}", None),
    ("POST", "/v2/shares/{share}/action", {"allow_access": {"access_type": "ip", "access_to": "10.6.6.6"}}),
    ("POST", "/v2/shares/{share}/action", {"deny_access": {"access_id": "{rule}"}}),
    ("GET", "/v2/share-access-rules?share_id={share}", None),
    ("GET", "/v2/share-access-rules/{rule}", None),
    ("PUT", "/v2/share-access-rules/{rule}", {"update_access": {"access_level": "ro"}}),
    ("PUT", "/v2/share-access-rules/{rule}/metadata", {"metadata": {"a": "b"}}),
    ("DELETE", "/v2/share-access-rules/{rule}/metadata/k", None),
    ("GET", "/v2/share-networks/{network}", None),
    ("PUT", "/v2/share-networks/{network}", {"share_network": {"name": "taken"}}),
    ("DELETE", "/v2/share-networks/{network}", None),
    ("POST", "/v2/share-networks/{network}/action", {"share_network_subnet_create_check": {}}),
    ("GET", "/v2/share-networks/{network}/subnets", None),
    ("POST", "/v2/share-networks/{network}/subnets", {"share-network-subnet": {"availability_zone": "zone-1"}}),
    ("GET", "/v2/share-networks/{network}/subnets/{subnet}", None),
    ("DELETE", "/v2/share-networks/{network}/subnets/{subnet}", None),
    ("GET", "/v2/share-networks/{network}/subnets/{subnet}/metadata", None),
    ("PUT", "/v2/share-networks/{network}/subnets/{subnet}/metadata", {"metadata": {"a": "b"}}),
    ("GET", "/v2/snapshots/{snapshot}", None),
    ("PUT", "/v2/snapshots/{snapshot}", {"snapshot": {"name": "taken"}}),
    ("DELETE", "/v2/snapshots/{snapshot}", None),
    ("POST", "/v2/snapshots/{snapshot}/action", {"force_delete": None}),
    ("GET", "/v2/snapshots/{snapshot}/metadata", None),
    ("POST", "/v2/snapshots/{snapshot}/metadata", {"metadata": {"a": "b"}}),
    ("PUT", "/v2/snapshots/{snapshot}/metadata", {"metadata": {"k": "b"}}),
    ("GET", "/v2/snapshots/{snapshot}/metadata/k", None),
    ("DELETE", "/v2/snapshots/{snapshot}/metadata/k", None),
    ("GET", "/v2/snapshots/{snapshot}/access-list", None),
    ("POST", "/v2/snapshots/{snapshot}/action", {"allow_access": {"access_type": "ip", "access_to": "10.6.6.6"}}),
    ("POST", "/v2/snapshots/{snapshot}/action", {"deny_access": {"access_id": "{snapshot_rule}"}}),
    ("GET", "/v2/snapshots/{snapshot}/export-locations", None),
    ("GET", "/v2/snapshots/{snapshot}/export-locations/{snapshot_location}", None),
    ("GET", "/v2/share-groups/{group}", None),
    ("PUT", "/v2/share-groups/{group}", {"share_group": {"name": "taken"}}),
    ("DELETE", "/v2/share-groups/{group}", None),
    ("POST", "/v2/share-groups/{group}/action", {"force_delete": None}),
    ("GET", "/v2/share-group-snapshots/{group_snapshot}", None),
    ("GET", "/v2/share-group-snapshots/{group_snapshot}/members", None),
    ("PUT", "/v2/share-group-snapshots/{group_snapshot}", {"share_group_snapshot": {"name": "taken"}}),
    ("DELETE", "/v2/share-group-snapshots/{group_snapshot}", None),
    ("POST", "/v2/share-group-snapshots/{group_snapshot}/action", {"force_delete": None}),
    ("GET", "/v2/security-services/{security}", None),
    ("PUT", "/v2/security-services/{security}", {"security_service": {"name": "taken"}}),
    ("DELETE", "/v2/security-services/{security}", None),
    ("POST", "/v2/share-networks/{network}/action", {"add_security_service": {"security_service_id": "{security}"}}),
    ("POST", "/v2/share-networks/{network}/action", {"remove_security_service": {"security_service_id": "{security}"}}),
    ("GET", "/v2/resource-locks/{lock}", None),
    ("PUT", "/v2/resource-locks/{lock}", {"resource_lock": {"lock_reason": "taken"}}),
    ("DELETE", "/v2/resource-locks/{lock}", None),
    ("GET", "/v2/share-transfers/{transfer}", None),
    ("DELETE", "/v2/share-transfers/{transfer}", None),
    ("GET", "/v2/shares/{share}/export_locations/{location}/metadata", None),
    ("POST", "/v2/shares/{share}/export_locations/{location}/metadata", {"metadata": {"k": "v"}}),
    ("PUT", "/v2/shares/{share}/export_locations/{location}/metadata", {"metadata": {"k": "v"}}),
    ("GET", "/v2/shares/{share}/export_locations/{location}/metadata/k", None),
    ("DELETE", "/v2/shares/{share}/export_locations/{location}/metadata/k", None),
    ("POST", "/v2/shares/{share}/action", {"extend": {"new_size": 2}}),
    ("POST", "/v2/shares/{share}/action", {"shrink": {"new_size": 1}}),
    ("POST", "/v2/shares/{share}/action", {"revert": {"snapshot_id": "{snapshot}"}}),
    (
        "POST",
        "/v2/share-networks/{network}/action",
        {"add_security_service_check": {"security_service_id": "{security}"}},
    ),
    (
        "POST",
        "/v2/share-networks/{network}/action",
        {"update_security_service": {"current_service_id": "{security}", "new_service_id": "{security}"}},
    ),
    (
        "POST",
        "/v2/share-networks/{network}/action",
        {"update_security_service_check": {"current_service_id": "{security}", "new_service_id": "{security}"}},
    ),
    ("POST", "/v2/shares/{share}/action", {"soft_delete": None}),
    ("POST", "/v2/shares/{share}/action", {"restore": None}),
    ("GET", "/v2/messages/{message}", None),
    ("DELETE", "/v2/messages/{message}", None),
]  # fmt: skip
# Requests about the caller's own things, or about none, that name another project's.
REFERENCES: list[tuple[str, str, Any]] = [
    ("POST", "/v2/shares", {"share": {"size": 1, "share_proto": "NFS", "share_network_id": "{network}"}}),
    ("POST", "/v2/shares", {"share": {"size": 1, "share_proto": "NFS", "snapshot_id": "{snapshot}"}}),
    ("POST", "/v2/shares", {"share": {"size": 1, "share_proto": "NFS", "share_group_id": "{group}"}}),
    ("POST", "/v2/snapshots", {"snapshot": {"share_id": "{share}"}}),
    ("POST", "/v2/share-groups", {"share_group": {"share_network_id": "{network}"}}),
    ("POST", "/v2/share-groups", {"share_group": {"source_share_group_snapshot_id": "{group_snapshot}"}}),
    ("POST", "/v2/share-group-snapshots", {"share_group_snapshot": {"share_group_id": "{group}"}}),
    ("POST", "/v2/resource-locks", {"resource_lock": {"resource_id": "{share}", "resource_type": "share"}}),
    ("POST", "/v2/resource-locks", {"resource_lock": {"resource_id": "{rule}", "resource_type": "access_rule"}}),
    ("POST", "/v2/share-transfers", {"transfer": {"share_id": "{share}"}}),
    ("POST", "/v2/share-replicas", {"share_replica": {"share_id": "{share}"}}),
    ("POST", "/v2/share-backups", {"share_backup": {"share_id": "{share}"}}),
    ("POST", "/v2/share-networks/{own}/action", {"add_security_service": {"security_service_id": "{security}"}}),
    ("POST", "/v2/share-networks/{own}/action", {"remove_security_service": {"security_service_id": "{security}"}}),
    ("GET", "/v2/share-replicas?share_id={share}", None),
    ("GET", "/v2/share-backups?share_id={share}", None),
    ("GET", "/v2/shares?marker={share}", None),
    ("GET", "/v2/shares?share_network_id={network}", None),
    ("GET", "/v2/shares?snapshot_id={snapshot}", None),
    ("GET", "/v2/shares?share_group_id={group}", None),
    ("GET", "/v2/shares?export_location_id={location}", None),
    ("GET", "/v2/shares?with_count=true&name~=a", None),
    ("GET", "/v2/snapshots?marker={snapshot}", None),
    ("GET", "/v2/snapshots?share_id={share}", None),
    ("GET", "/v2/share-networks?marker={network}", None),
    ("GET", "/v2/share-networks?security_service_id={security}", None),
    ("GET", "/v2/security-services?share_network_id={network}", None),
    ("GET", "/v2/share-groups?share_network_id={network}", None),
    ("GET", "/v2/share-group-snapshots?share_group_id={group}", None),
    ("GET", "/v2/share-transfers?resource_id={share}", None),
    ("GET", "/v2/resource-locks?resource_id={share}", None),
    ("GET", "/v2/messages?resource_id={share}", None),
]
ADMIN_ACTIONS: list[Any] = [
    {"reset_status": {"status": "error"}},
    {"force_delete": None},
]


def put_in(template: Any, names: dict[str, str]) -> Any:
    if isinstance(template, str):
        for name, value in names.items():
            template = template.replace(f"{{{name}}}", value)
        return template
    if isinstance(template, dict):
        return {key: put_in(value, names) for key, value in template.items()}
    return template


def belongings(site: Site) -> dict[str, str]:
    """One of everything that alice's project can have."""
    network = site.network()
    specs = f"/v2/types/{site.expect(200, 'GET', '/v2/types/default')['share_type']['id']}/extra_specs"
    site.expect(
        200, "POST", specs, {"extra_specs": {"snapshot_support": "True", "mount_snapshot_support": "True"}}, user="root"
    )
    share = site.served_share(network=network["id"], metadata={"k": "v"})
    body = {"allow_access": {"access_type": "ip", "access_to": "10.1.1.1", "metadata": {"k": "v"}}}
    rule = site.expect(200, "POST", f"/v2/shares/{share['id']}/action", body)["access"]
    body = {"snapshot": {"share_id": share["id"], "metadata": {"k": "v"}}}
    snapshot = site.expect(202, "POST", "/v2/snapshots", body)["snapshot"]
    kind = {"share_group_type": {"name": "pair", "share_types": ["default"]}}
    kind = site.expect(200, "POST", "/v2/share-group-types", kind, user="root")["share_group_type"]
    body = {"share_group": {"share_group_type_id": kind["id"], "share_network_id": network["id"]}}
    group = site.expect(202, "POST", "/v2/share-groups", body)["share_group"]
    site.finish_group(group["id"])
    body = {"security_service": {"type": "ldap"}}
    security = site.expect(200, "POST", "/v2/security-services", body)["security_service"]
    body = {"resource_lock": {"resource_id": share["id"]}}
    lock = site.expect(200, "POST", "/v2/resource-locks", body)["resource_lock"]
    offered = site.served_share(network=network["id"])["id"]
    with site.store.begin() as tx:  # as a share of a backend without share servers
        tx.execute(update(shares).where(shares.c.id == offered).values(share_network_id=None))
    body = {"transfer": {"share_id": offered}}
    transfer = site.expect(202, "POST", "/v2/share-transfers", body)["transfer"]
    location = site.expect(200, "GET", f"/v2/shares/{share['id']}/export_locations")["export_locations"][0]
    path = f"/v2/shares/{share['id']}/export_locations/{location['id']}/metadata"
    site.expect(200, "POST", path, {"metadata": {"k": "v"}})
    with site.store.begin() as tx:
        instance = tx.execute(select(share_snapshot_instances.c.id)).scalar_one()
        write_snapshot_locations(tx, instance, [ExportLocation(path="10.0.0.5:/shares/share-x")])
        snapshot_location = tx.execute(select(share_snapshot_export_locations.c.id)).scalar_one()
        snapshot_rule = str(uuid.uuid4())
        tx.execute(
            share_snapshot_access_rules.insert().values(
                id=snapshot_rule, snapshot_id=snapshot["id"], access_type="ip", access_to="10.1.1.1", state="active",
                created_at=utcnow(),
            )
        )  # fmt: skip
        group_snapshot = str(uuid.uuid4())
        tx.execute(
            share_group_snapshots.insert().values(
                id=group_snapshot, share_group_id=group["id"], project_id="blue", user_id="alice", status="available",
                created_at=utcnow(),
            )
        )  # fmt: skip
        message = write_message(tx, None, project_id="blue", resource_id=share["id"], action=Action.CREATE, error="x")
    return {
        "network": network["id"],
        "subnet": network["share_network_subnets"][0]["id"],
        "share": share["id"],
        "rule": rule["id"],
        "snapshot": snapshot["id"],
        "snapshot_rule": snapshot_rule,
        "snapshot_location": snapshot_location,
        "group": group["id"],
        "group_snapshot": group_snapshot,
        "security": security["id"],
        "lock": lock["id"],
        "transfer": transfer["id"],
        "location": location["id"],
        "message": message,
    }


TABLES = (
    shares,
    share_networks,
    share_snapshots,
    share_groups,
    share_group_snapshots,
    share_access_rules,
    operations,
    security_services,
    share_network_security_services,
    resource_locks,
    share_transfers,
    share_export_locations,
    share_snapshot_access_rules,
)


def contents(site: Site) -> Any:
    with site.store.read() as tx:
        return [
            [tuple(row) for row in tx.execute(select(table).order_by(*table.primary_key.columns))] for table in TABLES
        ]


def test_other_projects_things_do_not_exist(site: Site) -> None:
    mine = belongings(site)
    nothing = {name: str(uuid.uuid4()) for name in mine}
    before = contents(site)
    for method, url, body in URLS:
        seen = site.ask(method, put_in(url, mine), put_in(body, mine), user="bob")
        absent = site.ask(method, put_in(url, nothing), put_in(body, nothing), user="bob")
        wanted = 403 if body == {"force_delete": None} else 404  # administrators' actions, refused before a look
        if url.startswith("/v2/share-access-rules?"):  # what a query names and is not there is bad input
            wanted = 400
        assert seen.status_code == absent.status_code == wanted, f"{method} {url}: {seen.text}"
        # Not a letter tells them apart, but for the id that was asked for.
        text, other = seen.text, absent.text
        for name in mine:
            text, other = text.replace(mine[name], name), other.replace(nothing[name], name)
        assert text == other, f"{method} {url}"
        assert set(seen.headers) == set(absent.headers)
    assert contents(site) == before
    share = {"size": 1, "share_proto": "NFS", "share_network_id": mine["network"]}
    site.expect(404, "POST", "/v2/shares", {"share": share}, user="bob")
    for url in ("/v2/shares/detail", "/v2/share-networks/detail", "/v2/messages"):
        (found,) = [value for key, value in site.expect(200, "GET", url, user="bob").items() if "links" not in key]
        assert found == []


@pytest.mark.parametrize("everybodys", ["", "all_tenants=1"])
def test_other_projects_ids_say_nothing(site: Site, everybodys: str) -> None:
    """What a request names of another project's is answered as what is nowhere."""
    mine = belongings(site)
    own = {"own": site.network("bob")["id"]}
    nothing = {name: str(uuid.uuid4()) for name in mine}
    before = contents(site)
    experimental = {EXPERIMENTAL_HEADER: "True"}
    for method, url, body in REFERENCES:
        if everybodys and method != "GET":
            continue
        address = f"{url}&{everybodys}" if everybodys else url
        seen, absent = (
            site.ask(
                method, put_in(address, {**own, **ids}), put_in(body, {**own, **ids}), user="bob", headers=experimental
            )
            for ids in (mine, nothing)
        )
        text, other = seen.text, absent.text
        for name in mine:
            text, other = text.replace(mine[name], name), other.replace(nothing[name], name)
        assert (seen.status_code, text) == (absent.status_code, other), f"{method} {url}"
        assert method == "GET" or seen.status_code in (400, 403, 404), f"{method} {url}: {seen.text}"
        assert seen.status_code != 200 or not any(seen.json().values()), f"{method} {url}: {seen.text}"
    assert contents(site) == before


def test_every_action_of_a_project_is_in_these_tests() -> None:
    """A new action must be added to the list above or be for admins."""
    others = (
        "/types", "/share-group-types", "/share-servers", "/snapshot-instances", "/share_instances", "/share-replicas",
        "/share-backups",
    )  # fmt: skip
    tested = {(url.split("/")[2], next(iter(body))) for method, url, body in URLS if url.endswith("/action")}
    actions = {
        (route.path.split("/")[1], route.action)
        for route in ROUTES
        if route.action and route.until > MAXIMUM and not route.path.startswith(others)
    }
    assert {(resource, action) for resource, action in actions - tested if not _is_for_admins(action)} == set()


def _is_for_admins(action: str) -> bool:
    return action.startswith(("migration_", "reset_")) or action in ("force_delete", "unmanage")


def test_readers_change_nothing(site: Site) -> None:
    mine = belongings(site)
    before = contents(site)
    for method, url, body in URLS:
        answer = site.ask(method, put_in(url, mine), put_in(body, mine), user="rita")
        expected = 200 if method == "GET" else 403
        assert answer.status_code == expected, f"{method} {url}: {answer.status_code} {answer.text}"
    site.expect(403, "POST", "/v2/share-networks", {"share_network": {}}, user="rita")
    share = {"size": 1, "share_proto": "NFS", "share_network_id": mine["network"]}
    site.expect(403, "POST", "/v2/shares", {"share": share}, user="rita")
    assert contents(site) == before


@pytest.mark.parametrize("user", ["alice", "rita"])
def test_admin_actions_are_for_admins(site: Site, user: str) -> None:
    mine = belongings(site)
    for action in ADMIN_ACTIONS:
        answer = site.expect(403, "POST", f"/v2/shares/{mine['share']}/action", action, user=user)
        assert "Policy doesn't allow share:" in answer["forbidden"]["message"]
    for method, url, body in (
        ("POST", "/v2/types", {"share_type": {"name": "x", "extra_specs": {"driver_handles_share_servers": "True"}}}),
        ("GET", "/v2/share-servers", None),
        ("GET", "/v2/share_instances", None),
        ("GET", "/v2/services", None),
        ("GET", "/v2/scheduler-stats/pools", None),
    ):
        site.expect(403, method, url, body, user=user)


def test_an_admin_may_do_everything_in_every_project(site: Site) -> None:
    mine = belongings(site)
    for method, url, body in URLS:
        if method == "GET" or (method == "PUT" and "metadata" in url):
            answer = site.ask(method, put_in(url, mine), put_in(body, mine), user="root")
            assert answer.status_code == 200, f"{method} {url}: {answer.text}"


def test_a_public_share_can_be_read_but_not_changed(site: Site) -> None:
    mine = belongings(site)
    path = f"/v2/shares/{mine['share']}"
    site.expect(200, "PUT", path, {"share": {"is_public": True}}, user="root")
    shown = site.expect(200, "GET", path, user="bob")["share"]
    assert "host" not in shown
    site.expect(200, "GET", f"{path}/metadata", user="bob")
    (location,) = site.expect(200, "GET", f"{path}/export_locations", user="bob")["export_locations"]
    assert location["id"] == mine["location"]
    before = contents(site)
    for method, url, body in URLS:
        if "{share}" in url and (method != "GET" or "access" in url):
            answer = site.ask(method, put_in(url, mine), put_in(body, mine), user="bob")
            assert answer.status_code == 403, f"{method} {url}: {answer.status_code} {answer.text}"
    assert contents(site) == before
    # Its rules stay unseen by their own ids too.
    site.expect(404, "GET", f"/v2/share-access-rules/{mine['rule']}", user="bob")


def test_every_route_wants_credentials(site: Site) -> None:
    for route in ROUTES:
        path = "/v2" + "/".join("x" if part.startswith("{") else part for part in route.path.split("/"))
        answer = site.ask(route.method, path, {"a": 1} if route.method in ("POST", "PUT") else None, user=None)
        assert answer.status_code == 401, f"{route.method} {path}"
        assert answer.json()["error"]["code"] == 401
        assert answer.headers["WWW-Authenticate"].startswith("Basic ")


def test_every_route_of_a_project_is_in_these_tests() -> None:
    """A new route that names something must be added to the list above or be for admins."""
    listed = {(method, url.split("?")[0].replace("/v2", "")) for method, url, _ in URLS}

    def shape(path: str) -> str:
        return "/".join("*" if part.startswith("{") or part == "k" else part for part in path.split("/"))

    tested = {(method, shape(url)) for method, url in listed}
    others = (
        "/types", "/share-group-types", "/share-servers", "/snapshot-instances", "/share_instances",
        "/quota", "/os-", "/services", "/extensions", "/scheduler", "/qos-types", "/share-replicas", "/share-backups",
    )  # fmt: skip
    missing = {
        (route.method, shape(route.path)) for route in ROUTES if "{" in route.path and not route.path.startswith(others)
    } - tested
    assert missing == {
        ("GET", "/shares/*/instances"), ("GET", "/shares/*/migration-progress"),  # for admins
        ("POST", "/share-transfers/*/accept"),  # for others
        ("POST", "/shares/*/export_locations/*/metadata/*"), ("PUT", "/shares/*/export_locations/*/metadata/*"),
        ("POST", "/shares/*/metadata/*"), ("PUT", "/shares/*/metadata/*"),  # as without a key
        ("POST", "/snapshots/*/metadata/*"), ("PUT", "/snapshots/*/metadata/*"),
        ("POST", "/share-networks/*/subnets/*/metadata"),
        ("GET", "/share-networks/*/subnets/*/metadata/*"), ("POST", "/share-networks/*/subnets/*/metadata/*"),
        ("PUT", "/share-networks/*/subnets/*/metadata/*"), ("DELETE", "/share-networks/*/subnets/*/metadata/*"),
    }  # fmt: skip
