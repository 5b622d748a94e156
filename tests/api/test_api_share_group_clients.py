"""Share groups with the stock clients."""

from __future__ import annotations

import pytest
from site_for_tests import Site
from test_api_clients import command, connection, make_network, tenant_network

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize("working_site", ["builtin"], indirect=True)
def test_groups_with_the_openstack_client(working_site: Site) -> None:
    net, subnet = tenant_network(working_site)
    with command(working_site, "root") as share:
        kind = share("group", "type", "create", "pair", "default", "--public", "False", "--group-specs", "a=b")
        assert kind["name"] == "pair"
        share("group", "type", "set", "pair", "--group-specs", "a=c")
        assert "c" in str(share("group", "type", "show", "pair")["group_specs"])
        share("group", "type", "unset", "pair", "a")
        share("group", "type", "access", "create", "pair", "blue")
        assert [row["Project ID"] for row in share("group", "type", "access", "list", "pair")] == ["blue"]
    with command(working_site) as share:
        network = make_network(share, net, subnet)
        made = share(
            "group", "create", "--name", "two", "--share-group-type", "pair", "--share-network", "net", "--wait"
        )
        assert (made["status"], made["share_network_id"]) == ("available", network["id"])
        share("group", "set", "two", "--description", "changed")
        assert share("group", "show", "two")["description"] == "changed"
        for name in ("first", "second"):
            share("create", "NFS", "1", "--name", name, "--share-network", "net", "--share-group", "two", "--wait")
        assert share("show", "first")["share_group_id"] == made["id"]
        assert [row["Name"] for row in share("group", "list")] == ["two"]
        assert "share(s)" in share.refuse("group", "delete", "two", "--wait")
        assert "share_group_id" in share.refuse("delete", "first")
        share("delete", "first", "second", "--share-group", "two", "--wait")
        share("group", "delete", "two", "--wait")
        assert share("group", "list") == []
    with command(working_site, "root") as share:
        share("group", "type", "access", "delete", "pair", "blue")
        share("group", "type", "delete", "pair")
        assert share("group", "type", "list") == []


@pytest.mark.parametrize("working_site", ["builtin"], indirect=True)
def test_group_snapshots_with_the_openstack_client(working_site: Site) -> None:
    net, subnet = tenant_network(working_site)
    with command(working_site, "root") as share:
        share("group", "type", "create", "pair", "default", "--group-specs", "consistent_snapshot_support=True")
    with command(working_site) as share:
        make_network(share, net, subnet)
        group = ("--share-group-type", "pair", "--share-network", "net")
        made = share("group", "create", "--name", "two", *group, "--wait")
        assert (made["status"], made["consistent_snapshot_support"]) == ("available", "host")
        for name in ("first", "second"):
            share("create", "NFS", "1", "--name", name, "--share-network", "net", "--share-group", "two", "--wait")
        snapshot = share("group", "snapshot", "create", "two", "--name", "both", "--wait")
        assert snapshot["status"] == "available"
        share("group", "snapshot", "set", "both", "--description", "changed")
        assert share("group", "snapshot", "show", "both")["description"] == "changed"
        share("group", "snapshot", "unset", "both", "--description")
        assert [row["Name"] for row in share("group", "snapshot", "list")] == ["both"]
        members = share("group", "snapshot", "members", "list", "both")
        assert {row["Share ID"] for row in members} == {share("show", name)["id"] for name in ("first", "second")}
        assert share("snapshot", "list") == []
        assert "snapshot(s)" in share.refuse("group", "delete", "two", "--wait")
        copy = share(
            "group", "create", "--name", "copy", "--share-group-type", "pair", "--source-share-group-snapshot", "both",
            "--wait",
        )  # fmt: skip
        assert (copy["status"], copy["source_share_group_snapshot_id"]) == ("available", snapshot["id"])
        copies = [row["ID"] for row in share("list", "--share-group", "copy")]
        assert len(copies) == 2
        share("group", "snapshot", "delete", "both", "--wait")
        assert share("group", "snapshot", "list") == []
        share("delete", *copies, "--share-group", "copy", "--wait")
        share("delete", "first", "second", "--share-group", "two", "--wait")
        share("group", "delete", "two", "copy", "--wait")
    with command(working_site, "root") as share:
        share("group", "type", "delete", "pair")


def test_groups_with_openstacksdk(working_site: Site) -> None:
    site = working_site
    net, subnet = tenant_network(site)
    body = {"share_group_type": {"name": "pair", "share_types": ["default"]}}
    kind = site.expect(200, "POST", "/v2/share-group-types", body)["share_group_type"]["id"]
    with connection(site) as cloud:
        api = cloud.shared_file_system
        network = api.create_share_network(name="net", neutron_net_id=net, neutron_subnet_id=subnet)
        made = api.create_share_group(name="two", share_group_type_id=kind, share_network_id=network.id)
        assert made.name == "two"
        site.wait(f"/v2/share-groups/{made.id}", "share_group", "status", "available")
        assert [found.id for found in api.share_groups()] == [made.id]
        assert api.find_share_group("two").id == made.id
        assert api.update_share_group(made.id, description="changed").description == "changed"
        snapshot = api.create_share_group_snapshot(made.id, name="none")
        one = f"/v2/share-group-snapshots/{snapshot.id}"
        site.wait(one, "share_group_snapshot", "status", "available")
        assert [(found.id, found.name) for found in api.share_group_snapshots()] == [(snapshot.id, "none")]
        assert api.share_group_snapshot_members(snapshot.id)["share_group_snapshot_members"] == []
        assert api.update_share_group_snapshot(snapshot.id, description="changed").description == "changed"
        api.reset_share_group_snapshot_status(snapshot.id, "error")
        assert api.get_share_group_snapshot(snapshot.id).status == "error"
        api.delete_share_group_snapshot(snapshot.id)
        site.wait_gone(one)
        api.delete_share_group(made.id)
        assert list(api.share_groups()) == []
