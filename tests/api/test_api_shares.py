"""Shares: creating, reading, changing, deleting, metadata."""

from __future__ import annotations

import threading
import uuid
from typing import Any

import pytest
from site_for_tests import Site
from sqlalchemy import select

from sharewright.api.versions import EXPERIMENTAL_HEADER, MAXIMUM
from sharewright.store.tables import operations, share_instances, shares

MISSING = str(uuid.uuid4())


def test_a_share_is_accepted_with_its_rows_and_operation(any_site: Site) -> None:
    network = any_site.network()["id"]
    share = any_site.share(network=network, name="first", description="d", size=3, metadata={"a": "1"})
    assert share["status"] == "creating"
    assert (share["name"], share["description"], share["size"]) == ("first", "d", 3)
    assert (share["share_proto"], share["share_network_id"], share["project_id"]) == ("NFS", network, "blue")
    assert (share["user_id"], share["metadata"], share["is_public"]) == ("alice", {"a": "1"}, False)
    assert share["share_type_name"] == "default"
    assert "host" not in share
    assert "share_server_id" not in share
    with any_site.store.read() as tx:
        instance = tx.execute(select(share_instances)).mappings().one()
        operation = tx.execute(select(operations)).mappings().one()
    assert (instance["share_id"], instance["status"], instance["size"]) == (share["id"], "creating", 3)
    assert instance["share_network_id"] == network
    assert (operation["kind"], operation["key"], operation["state"]) == (
        "create_share",
        f"share:{share['id']}",
        "queued",
    )
    assert (operation["project_id"], operation["user_id"]) == ("blue", "alice")


@pytest.mark.parametrize(
    ("values", "status", "part"),
    [
        ({"size": 0}, 400, "size"),
        ({"size": -1}, 400, "size"),
        ({"size": "big"}, 400, "size"),
        ({"size": 1.5}, 400, "size"),
        ({"size": True}, 400, "size"),
        ({"size": None}, 400, "size"),
        ({"size": 2**31}, 400, "size"),
        ({"size": 10**30}, 400, "size"),
        ({"share_proto": "CEPHFS"}, 400, "Invalid share protocol"),
        ({"share_proto": "nonsense"}, 400, "Invalid share protocol"),
        ({"share_proto": 7}, 400, "share_proto"),
        ({"name": "n" * 256}, 400, "name"),
        ({"name": {"a": 1}}, 400, "name"),
        ({"name": "a\0b"}, 400, "name"),
        ({"description": "n" * 256}, 400, "description"),
        ({"metadata": {"k": "v" * 1024}}, 400, "value is greater"),
        ({"metadata": {"k" * 256: "v"}}, 400, "key is greater"),
        ({"metadata": {"": "v"}}, 400, "key is blank"),
        ({"metadata": {"k": ""}}, 400, "value is blank"),
        ({"metadata": {"k": 1}}, 400, "strings"),
        ({"metadata": ["a"]}, 400, "metadata"),
        ({"metadata": {"__affinity_same_host": "x"}}, 403, "administrators"),
        ({"is_public": "perhaps"}, 400, "is_public"),
        ({"is_public": True}, 403, "share:create_public_share"),
        ({"availability_zone": "nowhere"}, 404, "nowhere"),
        ({"share_network_id": MISSING}, 404, "Share network"),
        ({"share_network_id": "not-an-id"}, 404, "Share network"),
        ({"share_network_id": None}, 400, "Share network must be set"),
        ({"share_type": "no such type"}, 404, "Share type"),
        ({"snapshot_id": MISSING}, 404, "Snapshot"),
        ({"share_group_id": MISSING}, 404, "Share group"),
        ({"colour": "blue"}, 400, "'colour' was unexpected"),
    ],
)
def test_bad_values_are_refused_and_nothing_is_written(
    site: Site, values: dict[str, Any], status: int, part: str
) -> None:
    network = site.network()["id"]
    body = {"size": 1, "share_proto": "NFS", "share_network_id": network, **values}
    answer = site.expect(status, "POST", "/v2/shares", {"share": body})
    (fault,) = answer.values()
    assert part in fault["message"]
    with site.store.read() as tx:
        assert tx.execute(select(shares)).first() is None
        assert tx.execute(select(operations)).first() is None
    usage = site.expect(200, "GET", "/v2/quota-sets/blue/detail")["quota_set"]
    assert usage["shares"]["in_use"] == 0


@pytest.mark.parametrize("missing", ["size", "share_proto"])
def test_what_a_share_needs(site: Site, missing: str) -> None:
    body = {"size": 1, "share_proto": "NFS", "share_network_id": site.network()["id"]}
    del body[missing]
    assert missing in site.expect(400, "POST", "/v2/shares", {"share": body})["badRequest"]["message"]


def test_older_names_work(site: Site) -> None:
    share = site.expect(
        200,
        "POST",
        "/v2/shares",
        {
            "share": {
                "size": "2",
                "share_proto": "nfs",
                "display_name": "old",
                "display_description": "way",
                "volume_type": "default",
                "share_network_id": site.network()["id"],
                "is_public": "False",
                "snapshot_id": None,
                "metadata": {},
            }
        },
        version="2.0",
    )["share"]
    assert (share["name"], share["description"], share["size"]) == ("old", "way", 2)
    assert share["share_type"] == share["volume_type"] == "default"
    assert (share["export_location"], share["export_locations"]) == (None, [])


def test_the_share_type_decides_size_and_zone(site: Site) -> None:
    specs = {
        "driver_handles_share_servers": True,
        "provisioning:min_share_size": "2",
        "provisioning:max_share_size": "4",
        "availability_zones": "zone-2,zone-3",
    }
    body = {"share_type": {"name": "narrow", "extra_specs": specs}}
    site.expect(200, "POST", "/v2/types", body, user="root")
    network = site.network()["id"]
    for size, status in ((1, 400), (2, 200), (4, 200), (5, 400)):
        share = {"size": size, "share_proto": "NFS", "share_network_id": network, "share_type": "narrow"}
        site.expect(status, "POST", "/v2/shares", {"share": share})
    share = {"size": 2, "share_proto": "NFS", "share_network_id": network, "share_type": "narrow"}
    refused = site.expect(400, "POST", "/v2/shares", {"share": {**share, "availability_zone": "zone-1"}})
    assert "zone-1" in refused["badRequest"]["message"]


def test_a_type_without_share_servers_takes_no_network(site: Site) -> None:
    body = {"share_type": {"name": "plain", "extra_specs": {"driver_handles_share_servers": "False"}}}
    site.expect(200, "POST", "/v2/types", body, user="root")
    share = {"size": 1, "share_proto": "NFS", "share_type": "plain"}
    site.expect(200, "POST", "/v2/shares", {"share": share})
    site.expect(400, "POST", "/v2/shares", {"share": {**share, "share_network_id": site.network()["id"]}})


@pytest.mark.parametrize(
    ("version", "member", "admin"),
    [(0, 18, 20), (8, None, None), (9, None, None), (MAXIMUM, 34, 36)],
)
def test_a_share_shows_what_its_microversion_has(
    site: Site, version: int, member: int | None, admin: int | None
) -> None:
    share = site.served_share()
    path = f"/v2/shares/{share['id']}"
    seen = site.expect(200, "GET", path, version=f"2.{version}")["share"]
    seen_by_admin = site.expect(200, "GET", path, version=f"2.{version}", user="root")["share"]
    assert set(seen_by_admin) - set(seen) == {"host", "share_server_id"}
    if member is not None:
        assert (len(seen), len(seen_by_admin)) == (member, admin)
    assert ("export_locations" in seen) is (version < 9)
    if version < 9:
        assert seen["export_location"].startswith("10.0.0.5:/shares/")
        assert seen["export_locations"] == [seen["export_location"]]


FIELDS = {
    2: "snapshot_support", 5: "task_state", 6: "share_type_name", 10: "access_rules_status", 11: "has_replicas",
    16: "user_id", 24: "create_share_from_snapshot_support", 27: "revert_to_snapshot_support", 31: "share_group_id",
    32: "mount_snapshot_support", 54: "progress", 69: "is_soft_deleted", 80: "source_backup_id",
}  # fmt: skip


@pytest.mark.parametrize("since", sorted(FIELDS))
def test_fields_appear_with_their_microversion(site: Site, since: int) -> None:
    path = f"/v2/shares/{site.share()['id']}"
    assert FIELDS[since] not in site.expect(200, "GET", path, version=f"2.{since - 1}")["share"]
    assert FIELDS[since] in site.expect(200, "GET", path, version=f"2.{since}")["share"]


def test_access_rules_status_before_its_states_were_renamed(site: Site) -> None:
    share = site.served_share()
    rule = {"allow_access": {"access_type": "ip", "access_to": "10.1.1.1"}}
    site.expect(200, "POST", f"/v2/shares/{share['id']}/action", rule)
    path = f"/v2/shares/{share['id']}"
    assert site.expect(200, "GET", path, version="2.27")["share"]["access_rules_status"] == "out_of_sync"
    assert site.expect(200, "GET", path, version="2.28")["share"]["access_rules_status"] == "syncing"


def test_changing_a_share(site: Site) -> None:
    share = site.share(name="before")
    path = f"/v2/shares/{share['id']}"
    changed = site.expect(200, "PUT", path, {"share": {"display_name": "after", "display_description": "new"}})["share"]
    assert (changed["name"], changed["description"]) == ("after", "new")
    site.expect(403, "PUT", path, {"share": {"is_public": True}})
    assert site.expect(200, "PUT", path, {"share": {"is_public": True}}, user="root")["share"]["is_public"] is True
    # Read-only keys are left alone, unknown ones refused.
    assert site.expect(200, "PUT", path, {"share": {"size": 9}})["share"]["size"] == 1
    site.expect(400, "PUT", path, {"share": {"colour": "red"}})
    site.expect(400, "PUT", path, {"share": {"name": "n" * 256}})


def test_deleting_a_share(any_site: Site) -> None:
    share = any_site.served_share()
    answer = any_site.ask("DELETE", f"/v2/shares/{share['id']}")
    assert (answer.status_code, answer.content) == (202, b"")
    assert answer.headers["content-type"].startswith("text/html")
    assert any_site.expect(200, "GET", f"/v2/shares/{share['id']}")["share"]["status"] == "deleting"
    with any_site.store.read() as tx:
        kinds = tx.execute(select(operations.c.kind, operations.c.payload).order_by(operations.c.sequence)).all()
    assert [tuple(row) for row in kinds] == [("create_share", {}), ("delete_share", {"force": False})]
    again = any_site.expect(403, "DELETE", f"/v2/shares/{share['id']}")
    assert "'deleting'" in again["forbidden"]["message"]


@pytest.mark.parametrize(
    ("status", "allowed"),
    [
        ("creating", False),
        ("available", True),
        ("error", True),
        ("error_deleting", True),
        ("extending", False),
        ("extending_error", True),
        ("shrinking_error", True),
        ("deleting", False),
        ("manage_error", False),  # it is unmanaged: what it was to be is somebody else's
        ("inactive", True),
        ("migrating", False),
    ],
)
def test_a_share_can_be_deleted_whenever_nothing_is_under_way(site: Site, status: str, allowed: bool) -> None:
    share = site.share()
    path = f"/v2/shares/{share['id']}"
    site.expect(202, "POST", f"{path}/action", {"reset_status": {"status": status}}, user="root")
    site.expect(202 if allowed else 403, "DELETE", path)
    # By force from every state.
    site.expect(202, "POST", f"{path}/action", {"force_delete": None}, user="root")
    with site.store.read() as tx:
        last = tx.execute(select(operations).order_by(operations.c.sequence.desc())).mappings().first()
    assert last is not None
    assert (last["kind"], last["payload"]) == ("delete_share", {"force": True})


def test_two_deletions_at_once_make_one_operation(any_site: Site) -> None:
    share = any_site.served_share()
    codes: list[int] = []

    def delete() -> None:
        codes.append(any_site.ask("DELETE", f"/v2/shares/{share['id']}", headers={"Connection": "close"}).status_code)

    threads = [threading.Thread(target=delete) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == [202, 403, 403, 403, 403, 403]
    with any_site.store.read() as tx:
        kinds = tx.execute(select(operations.c.kind)).scalars().all()
    assert sorted(kinds) == ["create_share", "delete_share"]


@pytest.mark.parametrize(
    "body", [{}, {"status": "nonsense"}, {"status": None}, {"status": 5}, {"state": "error"}, None]
)
def test_reset_status_wants_a_known_status(site: Site, body: Any) -> None:
    path = f"/v2/shares/{site.share()['id']}/action"
    site.expect(400, "POST", path, {"reset_status": body}, user="root")


def test_reset_status_under_its_old_name(site: Site) -> None:
    share = site.share()
    path = f"/v2/shares/{share['id']}"
    site.expect(202, "POST", f"{path}/action", {"os-reset_status": {"status": "error"}}, user="root", version="2.6")
    assert site.expect(200, "GET", path)["share"]["status"] == "error"
    with site.store.read() as tx:
        assert tx.execute(select(share_instances.c.status)).scalar_one() == "error"


def test_metadata(site: Site) -> None:
    share = site.share(metadata={"a": "1"})
    path = f"/v2/shares/{share['id']}/metadata"
    assert site.expect(200, "GET", path) == {"metadata": {"a": "1"}}
    assert site.expect(200, "POST", path, {"metadata": {"b": "2"}}) == {"metadata": {"a": "1", "b": "2"}}
    assert site.expect(200, "PUT", path, {"metadata": {"c": "3"}}) == {"metadata": {"c": "3"}}
    assert site.expect(200, "GET", f"{path}/c") == {"meta": {"c": "3"}}
    assert site.expect(200, "POST", f"{path}/c", {"meta": {"c": "4"}}) == {"meta": {"c": "4"}}
    site.expect(400, "POST", f"{path}/c", {"meta": {"d": "4"}})
    site.expect(400, "POST", f"{path}/c", {"meta": {"c": "4", "d": "5"}})
    assert site.ask("DELETE", f"{path}/c").status_code == 200
    site.expect(404, "GET", f"{path}/c")
    site.expect(404, "DELETE", f"{path}/c")
    for bad in ({"metadata": {"": "x"}}, {"metadata": {"x": None}}, {"metadata": []}, {"meta": {}}, {}):
        site.expect(400, "POST", path, bad)
    site.expect(200, "PUT", path, {"metadata": {"__affinity_same_host": "x"}}, user="root")
    assert site.expect(200, "PUT", path, {"metadata": {"y": "z"}})["metadata"] == {
        "__affinity_same_host": "x",
        "y": "z",
    }
    site.expect(403, "DELETE", f"{path}/__affinity_same_host")


def test_export_locations(site: Site) -> None:
    share = site.served_share()
    path = f"/v2/shares/{share['id']}/export_locations"
    (mine,) = site.expect(200, "GET", path)["export_locations"]
    assert set(mine) == {"id", "path", "preferred", "metadata"}
    both = site.expect(200, "GET", path, user="root")["export_locations"]
    assert [location["is_admin_only"] for location in both] == [False, True]
    one = site.expect(200, "GET", f"{path}/{mine['id']}")["export_location"]
    assert set(one) == {"id", "path", "preferred", "metadata", "created_at", "updated_at"}
    site.expect(404, "GET", f"{path}/{both[1]['id']}")
    site.expect(404, "GET", f"{path}/{MISSING}")
    old = site.expect(200, "GET", path, version="2.13")["export_locations"][0]
    assert set(old) == {"id", "path"}
    site.expect(404, "GET", path, version="2.8")
    instance = site.expect(200, "GET", f"/v2/shares/{share['id']}/instances", user="root")["share_instances"][0]
    of_instance = f"/v2/share_instances/{instance['id']}/export_locations"
    assert len(site.expect(200, "GET", of_instance, user="root")["export_locations"]) == 2
    site.expect(200, "GET", f"{of_instance}/{mine['id']}", user="root")
    site.expect(403, "GET", of_instance)


def test_share_instances_are_for_admins(site: Site) -> None:
    share = site.served_share()
    (instance,) = site.expect(200, "GET", "/v2/share_instances", user="root")["share_instances"]
    assert instance["share_id"] == share["id"]
    path = f"/v2/share_instances/{instance['id']}"
    shown = site.expect(200, "GET", path, user="root")["share_instance"]
    assert shown["status"] == "available"
    assert "updated_at" in shown
    assert "updated_at" not in site.expect(200, "GET", path, user="root", version="2.70")["share_instance"]
    site.expect(202, "POST", f"{path}/action", {"reset_status": {"status": "error"}}, user="root")
    assert site.expect(200, "GET", f"/v2/shares/{share['id']}")["share"]["status"] == "error"
    for user in ("alice", "rita"):
        for url in ("/v2/share_instances", path, f"/v2/shares/{share['id']}/instances"):
            site.expect(403, "GET", url, user=user)
        site.expect(403, "POST", f"{path}/action", {"force_delete": None}, user=user)
    found = site.expect(200, "GET", "/v2/share_instances?export_location_path=nowhere", user="root")
    assert found["share_instances"] == []
    site.expect(202, "POST", f"{path}/action", {"force_delete": None}, user="root")
    assert site.expect(200, "GET", f"/v2/shares/{share['id']}")["share"]["status"] == "deleting"
    site.expect(404, "GET", f"/v2/share_instances/{MISSING}", user="root")


def test_reset_task_state_is_experimental_and_for_admins(site: Site) -> None:
    path = f"/v2/shares/{site.share()['id']}/action"
    body = {"reset_task_state": {"task_state": None}}
    header = {EXPERIMENTAL_HEADER: "true"}
    site.expect(404, "POST", path, body, user="root", version="2.95")
    site.expect(404, "POST", path, body, user="root", headers=header, version="2.21")
    site.expect(202, "POST", path, body, user="root", headers=header, version="2.95")
    site.expect(202, "POST", path, body, user="root")  # final from 2.96 on
    site.expect(403, "POST", path, body, headers=header)
    for bad in ({"task_state": "starting"}, {}, {"task_state": None, "more": 1}, None):
        site.expect(400, "POST", path, {"reset_task_state": bad}, user="root", headers=header)
