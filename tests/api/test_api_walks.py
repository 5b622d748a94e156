"""What the other walks of the stock client leave out: snapshots, sizes, transfers, messages, and what an administrator
does to services and instances. python-manilaclient's own tests, in ./check --conformance, go through all commands."""

from __future__ import annotations

import pytest
from site_for_tests import Site
from test_api_clients import Command, command

pytestmark = pytest.mark.timeout(600)

ABLE = (
    "snapshot-support",
    "create-share-from-snapshot-support",
    "revert-to-snapshot-support",
    "mount-snapshot-support",
)


def make_share(site: Site, share: Command, name: str, *arguments: str) -> str:
    """Its id, when it is there."""
    made = share("create", "NFS", "1", "--name", name, *arguments)
    assert (made["name"], made["size"]) == (name, 1)
    available(site, made["id"])
    return str(made["id"])


def available(site: Site, share_id: str) -> None:
    site.wait(f"/v2/shares/{share_id}", "share", "status", "available")


def test_snapshots_and_sizes(mixed_site: Site) -> None:
    site = mixed_site
    with command(site, "root") as share:
        share("type", "create", "able", "False", *(word for each in ABLE for word in (f"--{each}", "True")))
    with command(site) as share:
        first = make_share(site, share, "first", "--share-type", "able")
        snapshot = share("snapshot", "create", "first", "--name", "before")
        path = f"/v2/snapshots/{snapshot['id']}"
        site.wait(path, "snapshot", "status", "available")
        assert [row["Name"] for row in share("snapshot", "list", "--share", "first")] == ["before"]
        share("snapshot", "set", "before", "--description", "changed", "--property", "a=b", "--property", "c=d")
        share("snapshot", "unset", "before", "--property", "a")
        shown = share("snapshot", "show", "before")
        assert (shown["description"], shown["size"], shown["share_id"]) == ("changed", 1, first)
        assert shown["properties"] == {"c": "d"}
        share("snapshot", "unset", "before", "--description")
        assert share("snapshot", "show", "before")["description"] is None

        rule = share("snapshot", "access", "create", "before", "ip", "192.0.2.9")
        assert rule["access_to"] == "192.0.2.9"
        assert [row["Access To"] for row in share("snapshot", "access", "list", "before")] == ["192.0.2.9"]
        share("snapshot", "access", "delete", "before", rule["id"])
        (location,) = share("snapshot", "export", "location", "list", "before")
        shown = share("snapshot", "export", "location", "show", "before", location["ID"])
        assert shown["path"] == location["Path"]

        share("resize", "first", "3")
        available(site, first)
        assert share("show", "first")["size"] == 3
        share("revert", "before")
        available(site, first)
        assert share("show", "first")["size"] == 1
        copy = make_share(site, share, "copy", "--snapshot-id", snapshot["id"], "--share-type", "able")
        assert share("show", "copy")["snapshot_id"] == snapshot["id"]
        share("resize", "copy", "2")
        available(site, copy)
        share("resize", "copy", "1")
        available(site, copy)
        assert "snapshot" in share.refuse("delete", "first")
    with command(site, "root") as share:
        (instance,) = share("snapshot", "instance", "list")
        assert share("snapshot", "instance", "show", instance["ID"])["snapshot_id"] == snapshot["id"]
        share("snapshot", "instance", "set", instance["ID"], "--status", "error")
        assert share("snapshot", "show", snapshot["id"])["status"] == "error"
        share("snapshot", "set", snapshot["id"], "--status", "available")
    with command(site) as share:
        share("snapshot", "delete", "before")
        site.wait_gone(path)
        share("delete", "first", "copy")
        for each in (first, copy):
            site.wait_gone(f"/v2/shares/{each}")


def test_transfers(mixed_site: Site) -> None:
    site = mixed_site
    with command(site) as alice, command(site, "bob") as bob:
        first = make_share(site, alice, "first", "--share-type", "plain")
        offer = alice("transfer", "create", "first", "--name", "offer")
        assert (offer["resource_id"], offer["accepted"]) == (first, False)
        assert alice("show", "first")["status"] == "awaiting_transfer"
        assert [row["Name"] for row in alice("transfer", "list")] == ["offer"]
        assert alice("transfer", "show", "offer")["id"] == offer["id"]
        assert bob("transfer", "list") == []
        assert "wrong" not in bob.refuse("transfer", "accept", offer["id"], "wrong")
        alice("transfer", "delete", "offer")
        assert alice("show", "first")["status"] == "available"
        offer = alice("transfer", "create", "first")
        bob("transfer", "accept", offer["id"], offer["auth_key"])
        available_to_bob = site.wait(f"/v2/shares/{first}", "share", "status", "available", user="bob")
        assert available_to_bob["project_id"] == "green"
        assert alice("list") == []
        assert [row["Name"] for row in bob("list")] == ["first"]
        bob("delete", "first")
        site.wait_gone(f"/v2/shares/{first}", user="bob")


def test_messages(mixed_site: Site) -> None:
    """Why a share could not be made, and what is done with that."""
    site = mixed_site
    with command(site, "root") as share:
        share("type", "create", "impossible", "False", "--extra-specs", "flying=True")
    with command(site) as share, command(site, "bob") as bob:
        lost = share("create", "NFS", "1", "--name", "lost", "--share-type", "impossible")
        site.wait(f"/v2/shares/{lost['id']}", "share", "status", "error")
        (row,) = share("message", "list", "--resource-id", lost["id"])
        assert row["Resource ID"] == lost["id"]
        shown = share("message", "show", row["ID"])
        assert (shown["resource_type"], shown["message_level"]) == ("SHARE", "ERROR")
        assert shown["user_message"]
        assert share("message", "list", "--before", "2001-01-01") == []
        assert bob("message", "list") == []
        bob.refuse("message", "delete", row["ID"])
        share("message", "delete", row["ID"])
        assert share("message", "list") == []
        share("delete", "lost")
        site.wait_gone(f"/v2/shares/{lost['id']}")


def test_what_an_administrator_sees_and_sets(mixed_site: Site) -> None:
    site = mixed_site
    with command(site) as share, command(site, "root") as root:
        first = make_share(site, share, "first", "--share-type", "plain")
        rule = share("access", "create", "first", "ip", "192.0.2.10")["id"]
        share("access", "set", rule, "--property", "room=7")
        assert "room" in str(share("access", "show", rule)["properties"])
        share("access", "unset", rule, "--property", "room")
        assert "room" not in str(share("access", "show", rule)["properties"])
        (location,) = share("export", "location", "list", "first")
        (instance,) = root("instance", "list", "--share", first)
        (seen,) = root("instance", "export", "location", "list", instance["ID"])
        assert seen["Path"] == location["Path"]
        assert root("instance", "export", "location", "show", instance["ID"], seen["ID"])["path"] == location["Path"]
        root("instance", "set", instance["ID"], "--status", "error")
        assert share("show", "first")["status"] == "error"
        root("set", first, "--status", "available")
        assert share("show", "first")["status"] == "available"
        service = next(row for row in root("service", "list") if row["Host"] == "node1@common")
        root("service", "set", service["Host"], service["Binary"], "--disable", "--disable-reason", "cleaning")
        (disabled,) = root("service", "list", "--status", "disabled")
        assert (disabled["Host"], disabled["Disabled Reason"]) == ("node1@common", "cleaning")
        refused = share("create", "NFS", "1", "--name", "refused", "--share-type", "plain")["id"]
        site.wait(f"/v2/shares/{refused}", "share", "status", "error")
        root("service", "set", service["Host"], service["Binary"], "--enable")
        assert root("service", "list", "--status", "disabled") == []
        root("instance", "delete", instance["ID"])
        site.wait_gone(f"/v2/shares/{first}")
        share("delete", "refused")
        site.wait_gone(f"/v2/shares/{refused}")
