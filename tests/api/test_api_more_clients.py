"""Security services, locks, the recycle bin, QoS types and rules with the stock clients."""

from __future__ import annotations

import pytest
from site_for_tests import Site
from test_api_clients import command, make_network, tenant_network

pytestmark = pytest.mark.timeout(900)


@pytest.mark.parametrize("working_site", ["builtin"], indirect=True)
def test_walk_with_the_openstack_client(working_site: Site) -> None:
    net, subnet = tenant_network(working_site)
    with command(working_site) as share:
        network = make_network(share, net, subnet)
        made = share("security", "service", "create", "ldap", "--name", "people", "--domain", "example.org")
        assert (made["type"], made["domain"]) == ("ldap", "example.org")
        share("network", "set", "net", "--new-security-service", "people")
        listed = share("security", "service", "list", "--share-network", network["id"])
        assert [row["Name"] for row in listed] == ["people"]
        share("network", "unset", "net", "--security-service", "people")
        share("security", "service", "set", "people", "--description", "changed")
        assert share("security", "service", "show", "people")["description"] == "changed"
        share("security", "service", "delete", "people")
        assert share("security", "service", "list") == []

        share("create", "NFS", "1", "--name", "first", "--share-network", "net", "--wait")
        lock = share("lock", "create", "first", "share", "--reason", "in use")
        assert lock["lock_reason"] == "in use"
        assert [row["ID"] for row in share("lock", "list")] == [lock["id"]]
        assert "lock" in share.refuse("delete", "first").lower()
        share("lock", "set", lock["id"], "--lock-reason", "really")
        assert "really" in str(share("lock", "show", lock["id"]))
        share("lock", "delete", lock["id"])

        rule = share("access", "create", "first", "ip", "10.1.1.1", "--lock-deletion", "--lock-visibility", "--wait")
        assert "locked" in share.refuse("access", "delete", "first", rule["id"])
        share("access", "delete", "first", rule["id"], "--unrestrict", "--wait")

        share("delete", "first", "--soft")
        assert share("list") == []
        assert [row["Name"] for row in share("list", "--soft-deleted")] == ["first"]
        share("restore", str(share("list", "--soft-deleted")[0]["ID"]))
        assert "share networks cannot be transferred" in share.refuse("transfer", "create", "first")
        assert share("transfer", "list") == []
        assert share("replica", "list") == []
        assert "Replication not supported" in share.refuse("replica", "create", "first")
        share("delete", "first", "--wait")
    with command(working_site, "root") as share:
        kind = share("qos", "type", "create", "gold", "--spec", "peak_iops=500")
        assert kind["name"] == "gold"
        share("qos", "type", "set", "gold", "--description", "fast")
        assert [row["Name"] for row in share("qos", "type", "list")] == ["gold"]
        share("qos", "type", "delete", "gold")
