"""The stock clients tell the whole story: the openstack command and openstacksdk, a worker on the simulated cloud."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from typing import Any

import openstack
import openstack.connection
import pytest
from keystoneauth1 import session as keystone_session
from keystoneauth1.identity import v3
from manilaclient import API_MAX_VERSION
from manilaclient import client as manila_client
from site_for_tests import PASSWORD, OpenStackClient, Site, run_openstack

from sharewright.api.versions import MAXIMUM
from sharewright.clouds.open import open_cloud

pytestmark = pytest.mark.timeout(600)


def environment(site: Site, user: str = "alice") -> dict[str, str]:
    """What a user exports before using the client."""
    mode = site.settings.identity.mode
    if mode == "none":
        return {"OS_AUTH_TYPE": "none", "OS_ENDPOINT": f"{site.url}/v2"}
    if mode == "http_basic":
        return {
            "OS_AUTH_TYPE": "http_basic",
            "OS_USERNAME": user,
            "OS_PASSWORD": PASSWORD,
            "OS_ENDPOINT": f"{site.url}/v2",
        }
    return {
        "OS_AUTH_TYPE": "v3password",
        "OS_AUTH_URL": f"{site.url}/identity/v3",
        "OS_USERNAME": user,
        "OS_PASSWORD": PASSWORD,
        "OS_PROJECT_NAME": "operators" if user == "root" else "blue",
        "OS_USER_DOMAIN_NAME": "Default",
        "OS_PROJECT_DOMAIN_NAME": "Default",
    }


def tenant_network(site: Site) -> tuple[str, str]:
    """A tenant's network in the simulated cloud, made as the tenant's cloud would: not by our API."""
    cloud = open_cloud(site.settings, site.settings.backends["one"])
    try:
        network = cloud.networks.create_network("tenant", ip_network("192.0.2.0/24"))  # type: ignore[attr-defined]
        (subnet,) = network.subnets
        return network.id, subnet.id
    finally:
        cloud.close()


def wait_until(done: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)


class Command:
    """`openstack share …` as one user."""

    def __init__(self, client: OpenStackClient) -> None:
        self._client = client

    def __call__(self, *arguments: str) -> Any:
        """The command's output as JSON, or nothing."""
        shows = any(word in arguments for word in ("list", "show", "create")) and not {"type", "access", "create"} <= {
            *arguments
        }
        code, output, complaints = self._client.run("share", *arguments, *(("-f", "json") if shows else ()))
        assert code == 0, f"{arguments}: {output} {complaints}"
        return json.loads(output) if shows and output.strip() else None

    def refuse(self, *arguments: str) -> str:
        """The command's complaint."""
        code, output, complaints = self._client.run("share", *arguments)
        assert code != 0, output
        return complaints


@contextmanager
def command(site: Site, user: str = "alice") -> Iterator[Command]:
    client = OpenStackClient(environment(site, user))
    try:
        yield Command(client)
    finally:
        client.close()


def make_network(share: Command, net: str, subnet: str) -> Any:
    """With "create --neutron-net-id" this client looks the id up in a Neutron first; "set" sends it as it is."""
    network = share("network", "create", "--name", "net")
    share("network", "set", "net", "--neutron-net-id", net, "--neutron-subnet-id", subnet)
    return network


@pytest.mark.parametrize("working_site", ["none", "http_basic", "builtin"], indirect=True)
def test_the_openstack_command(working_site: Site) -> None:
    """Once as a process, as users run it."""
    site = working_site
    result = run_openstack("share", "type", "list", "-f", "json", environment=environment(site))
    assert result.returncode == 0, result.stderr
    assert [row["Name"] for row in json.loads(result.stdout)] == ["default"]
    if site.settings.identity.mode != "none":
        wrong = run_openstack("share", "list", environment=environment(site) | {"OS_PASSWORD": "wrong"})
        assert wrong.returncode != 0
        assert "401" in wrong.stderr


def test_the_whole_story_with_the_openstack_client(working_site: Site) -> None:
    net, subnet = tenant_network(working_site)
    with command(working_site) as share:
        network = make_network(share, net, subnet)
        made = share("create", "NFS", "1", "--name", "first", "--share-network", "net", "--property", "a=b", "--wait")
        assert (made["status"], made["share_network_id"]) == ("available", network["id"])
        rule = share("access", "create", "first", "ip", "192.0.2.10", "--access-level", "ro", "--wait")
        assert rule["access_level"] == "ro"
        (listed,) = share("access", "list", "first")
        assert (listed["Access To"], listed["State"]) == ("192.0.2.10", "active")
        (location,) = share("export", "location", "list", "first")
        assert location["Path"].partition(":")[2].startswith("/shares/share-")
        share("set", "first", "--property", "c=d", "--description", "changed")
        share("unset", "first", "--property", "a")
        shown = share("show", "first")
        assert (shown["description"], shown["properties"]) == ("changed", {"c": "d"})
        assert location["Path"] in str(shown["export_locations"])
        assert share("network", "show", "net")["share_network_subnets"][0]["cidr"] == "192.0.2.0/24"
        assert share("access", "show", listed["ID"])["access_to"] == "192.0.2.10"
        assert share("export", "location", "show", "first", location["ID"])["path"] == location["Path"]
        (server,) = share("server", "list")
        assert server["Status"] == "active"
        shown = share("server", "show", server["ID"])
        assert shown["share_network_id"] == network["id"]
        assert any(key.endswith("instance_id") for key in shown)
        (instance,) = share("instance", "list")
        assert share("instance", "show", instance["ID"])["status"] == "available"
        (pool,) = share("pool", "list", "--detail")
        assert pool["Name"].startswith("node1@one#")
        assert {service["State"] for service in share("service", "list")} == {"up"}
        assert [zone["Name"] for zone in share("availability", "zone", "list")] == ["zone-1"]
        limits = {row["Name"]: row["Value"] for row in share("limits", "show", "--absolute")}
        assert limits["totalSharesUsed"] == 1
        share("access", "delete", "first", listed["ID"], "--wait")
        assert share("access", "list", "first") == []
        share("delete", "first", "--wait")
        assert share("list") == []
        assert "first" in share.refuse("show", "first")
        share("network", "delete", "net")
        assert share("network", "list") == []


@pytest.mark.parametrize("working_site", ["builtin"], indirect=True)
def test_administration_with_the_openstack_client(working_site: Site) -> None:
    with command(working_site, "root") as share:
        share("type", "create", "gold", "True", "--extra-specs", "tier=1", "--public", "False")
        share("type", "set", "gold", "--extra-specs", "tier=2", "--description", "shiny")
        shown = share("type", "show", "gold")
        assert "tier" in str(shown["optional_extra_specs"])
        share("type", "access", "create", "gold", "blue")
        share("type", "access", "delete", "gold", "blue")
        share("type", "delete", "gold")
        share("quota", "set", "blue", "--shares", "3")
        assert share("quota", "show", "blue")["shares"] == 3
        share("quota", "delete", "blue")
        assert share("quota", "show", "blue")["shares"] == 50
        share("network", "create", "--name", "net")
        share("network", "subnet", "create", "net", "--availability-zone", "zone-1")
        (row,) = share("network", "list")
        shown = share("network", "show", row["ID"])
        assert len(shown["share_network_subnets"]) == 2
        assert share("message", "list") == []


@pytest.mark.parametrize("working_site", ["builtin"], indirect=True)
def test_what_is_abandoned_and_adopted_with_the_openstack_client(working_site: Site) -> None:
    """What its people call unmanage and manage: a share, and its server, leave and come back."""
    net, subnet = tenant_network(working_site)
    with command(working_site, "root") as share:
        network = make_network(share, net, subnet)["id"]
        share("create", "NFS", "2", "--name", "first", "--share-network", "net", "--wait")
        shown = share("show", "first")
        (location,) = share("export", "location", "list", "first")
        server = share("server", "show", shown["share_server_id"])
        share("abandon", "first", "--wait")
        assert share("list") == []
        share("server", "abandon", shown["share_server_id"], "--wait")
        assert share("server", "list") == []
        host = shown["host"].partition("#")[0]
        machine = next(value for key, value in server.items() if key.endswith("instance_id"))
        share("server", "adopt", host, network, machine, "--wait")
        (adopted,) = share("server", "list")
        assert (adopted["ID"], adopted["Status"]) == (shown["share_server_id"], "active")
        share(
            "adopt", shown["host"], "NFS", location["Path"], "--name", "again", "--share-type", "default",
            "--share-server-id", adopted["ID"], "--wait",
        )  # fmt: skip
        again = share("show", "again")
        assert (again["status"], again["size"]) == ("available", 2)
        share("delete", "again", "--wait")
        share("server", "delete", adopted["ID"], "--wait")
        assert share("server", "list") == []


@pytest.mark.parametrize("working_site", ["http_basic", "builtin"], indirect=True)
def test_the_openstack_client_with_named_users(working_site: Site) -> None:
    net, subnet = tenant_network(working_site)
    with command(working_site) as alice, command(working_site, "root") as root:
        make_network(alice, net, subnet)
        made = alice("create", "NFS", "1", "--name", "first", "--share-network", "net", "--wait")
        assert (made["status"], made["project_id"]) == ("available", "blue")
        assert root("list") == []
        assert [found["Name"] for found in root("list", "--all-projects")] == ["first"]
        assert "403" in alice.refuse("service", "list")
        alice("delete", "first", "--wait")


@contextmanager
def connection(site: Site, user: str = "alice") -> Iterator[openstack.connection.Connection]:
    mode = site.settings.identity.mode
    options: dict[str, Any] = {"load_envvars": False, "load_yaml_config": False, "region_name": "RegionOne"}
    if mode == "builtin":
        options["auth_type"] = "v3password"
        options["auth"] = {
            "auth_url": f"{site.url}/identity/v3",
            "username": user,
            "password": PASSWORD,
            "project_name": "blue",
            "user_domain_id": "default",
            "project_domain_id": "default",
        }
    else:
        options["auth_type"] = mode
        options["shared_file_system_endpoint_override"] = f"{site.url}/v2"
        if mode == "http_basic":
            options["auth"] = {"username": user, "password": PASSWORD}
    made = openstack.connect(**options)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("working_site", ["none", "http_basic", "builtin"], indirect=True)
def test_openstacksdk(working_site: Site) -> None:
    site = working_site
    net, subnet = tenant_network(site)
    with connection(site) as cloud:
        api = cloud.shared_file_system
        assert [zone.name for zone in api.availability_zones()] == ["zone-1"]
        network = api.create_share_network(name="net", neutron_net_id=net, neutron_subnet_id=subnet)
        share = api.create_share(
            name="first", size=1, share_protocol="NFS", share_network_id=network.id, metadata={"a": "b"}
        )
        share = api.wait_for_status(share, status="available", failures=["error"], interval=0.1, wait=30)
        assert (share.size, share.share_protocol, share.name) == (1, "NFS", "first")
        (location,) = api.export_locations(share)
        assert "/shares/share-" in location.path
        rule = api.create_access_rule(share.id, access_type="ip", access_to="192.0.2.10", access_level="rw")
        wait_until(lambda: api.get_access_rule(rule.id).state == "active")
        assert [found.access_to for found in api.access_rules(share)] == ["192.0.2.10"]
        assert api.get_access_rule(rule.id).state == "active"
        assert [found.id for found in api.shares(details=True)] == [share.id]
        assert api.find_share("first").id == share.id
        updated = api.update_share(share, display_name="second")
        assert updated.name == "second"
        assert list(api.user_messages()) == []
        assert api.get_share_metadata(share.id).metadata == {"a": "b"}
        api.delete_access_rule(rule.id, share.id)
        api.delete_share(share)
        api.wait_for_delete(share, interval=0.1, wait=30)
        assert list(api.shares()) == []
        api.delete_share_network(network)
        assert list(api.share_networks()) == []


def test_openstacksdk_shows_why_a_share_failed(working_site: Site) -> None:
    """A share network whose network the cloud does not have."""
    site = working_site
    network = site.network()
    with connection(site) as cloud:
        api = cloud.shared_file_system
        share = api.create_share(name="lost", size=1, share_protocol="NFS", share_network_id=network["id"])
        site.wait(f"/v2/shares/{share.id}", "share", "status", "error")
        (message,) = api.user_messages(resource_id=share.id)
        assert "does not have" in message.user_message
        assert message.request_id.startswith("req-")
        api.delete_share(share)
        api.wait_for_delete(share, interval=0.1, wait=30)


@pytest.mark.parametrize("working_site", ["builtin"], indirect=True)
def test_python_manilaclient_with_a_keystone_session(working_site: Site) -> None:
    """As Horizon and other services use it: the version is fixed, the endpoint comes from the catalog."""
    site = working_site
    password = v3.Password(
        auth_url=f"{site.url}/identity/v3", username="alice", password=PASSWORD, project_name="blue",
        user_domain_id="default", project_domain_id="default",
    )  # fmt: skip
    net, subnet = tenant_network(site)
    for version in (f"2.{min(MAXIMUM, API_MAX_VERSION.ver_minor)}", "2.37"):  # the client's may be older than ours
        manila = manila_client.Client(version, session=keystone_session.Session(auth=password), region_name="RegionOne")
        network = manila.share_networks.create(neutron_net_id=net, neutron_subnet_id=subnet, name=version)
        share = manila.shares.create("nfs", 1, name=version, share_network=network.id)
        assert manila.shares.get(share.id).status in ("creating", "available")
        assert [found.name for found in manila.shares.list(search_opts={"name": version})] == [version]
        assert manila.share_types.list()[0].name == "default"
        assert manila.quotas.get("blue").shares == 50
        assert manila.limits.get().absolute
        assert manila.messages.list() == []
