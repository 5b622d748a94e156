"""What our service and a real Keystone have to do with each other: catalogue, tenants, isolation, tokens that end,
services' tokens, application credentials, roles and policy, with the stock clients.

One class for every real Keystone: tests/openstack has the test bed's, tests/api one from PyPI. A ``world`` fixture
(keystone_world.py) makes the service known to it.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
import requests
from keystoneauth1.identity import v3
from keystoneauth1.plugin import BaseAuthPlugin
from keystoneauth1.session import Session
from openstack.exceptions import SDKException
from openstack.identity.v3._proxy import Proxy
from test_api_tenants import URLS

from deployment import wait_for
from keystone_world import OWN_ROLE, World, connect

# Things of a project, and where each is shown.
SHOWN = {
    "share": "shares", "network": "share-networks", "rule": "share-access-rules", "snapshot": "snapshots",
    "security": "security-services", "lock": "resource-locks",
}  # fmt: skip


@contextmanager
def things(world: World, token: str) -> Iterator[dict[str, str]]:
    """One of each of SHOWN, and what belongs to them, for the token's project: name → id."""

    def make(path: str, body: Any, token: str = token) -> dict[str, Any]:
        answer = world.ask(token, f"/v2/{path}", "POST", body)
        assert answer.status_code < 300, f"{path}: {answer.text}"
        return dict(next(iter(answer.json().values()))) if answer.content else {}

    def available(name: str) -> bool:
        status = shown(world, token, name, ids).json()[name]["status"]
        assert status != "error", name
        return bool(status == "available")

    admin = world.token(world.admin)
    specs = {"driver_handles_share_servers": True, "snapshot_support": True}
    kind = make("types", {"share_type": {"name": "things", "extra_specs": specs}}, admin)["id"]
    # Several tests of a world may want some; the network stays.
    (network,) = json.loads(world.sharewright("network", "create", f"things-{kind}", "198.51.100.0/24", "--json"))
    ids = {}
    plugged = {"neutron_net_id": network["id"], "neutron_subnet_id": network["subnet_id"]}
    made = make("share-networks", {"share_network": plugged})
    ids["network"], ids["subnet"] = made["id"], made["share_network_subnets"][0]["id"]
    share = {"size": 1, "share_proto": "NFS", "share_network_id": ids["network"], "metadata": {"k": "v"}}
    ids["share"] = make("shares", {"share": share | {"share_type": kind}})["id"]
    wait_for("the share", lambda: available("share"), interval=0.1)
    locations = world.ask(token, f"/v2/shares/{ids['share']}/export_locations").json()["export_locations"]
    ids["location"] = locations[0]["id"]
    access = {"allow_access": {"access_type": "ip", "access_to": "198.51.100.7"}}
    ids["rule"] = make(f"shares/{ids['share']}/action", access)["id"]
    ids["snapshot"] = make("snapshots", {"snapshot": {"share_id": ids["share"]}})["id"]
    wait_for("the snapshot", lambda: available("snapshot"), interval=0.1)
    ids["security"] = make("security-services", {"security_service": {"type": "ldap", "name": "people"}})["id"]
    lock = {"resource_id": ids["share"], "resource_type": "share"}
    ids["lock"] = make("resource-locks", {"resource_lock": lock})["id"]
    yield ids
    for name in ("lock", "security", "snapshot", "share", "network"):
        assert world.ask(token, f"/v2/{SHOWN[name]}/{ids[name]}", "DELETE").status_code in (202, 204), name
        wait_for(f"no {name}", lambda name=name: shown(world, token, name, ids).status_code == 404, interval=0.1)
    assert world.ask(admin, f"/v2/types/{kind}", "DELETE").status_code == 202


def shown(world: World, token: str, name: str, ids: Mapping[str, str]) -> requests.Response:
    return world.ask(token, f"/v2/{SHOWN[name]}/{ids[name]}")


def ask_about(world: World, token: str, method: str, path: str, body: Any, ids: Mapping[str, str]) -> tuple[int, str]:
    """Status and body of the answer, with what the ids are called instead of them."""
    text = json.dumps([path, body])
    for name, identifier in ids.items():
        text = text.replace(f"{{{name}}}", identifier)
    where, what = json.loads(text)
    answer = world.ask(token, where, method, what)
    said = answer.text
    for name, identifier in ids.items():
        said = said.replace(identifier, name)
    return answer.status_code, said


def demo_project(world: World) -> str:
    return str(world.identity.find_project(world.demo["OS_PROJECT_NAME"], ignore_missing=False).id)


@contextmanager
def credential(world: World, name: str, **changes: Any) -> Iterator[v3.ApplicationCredential]:
    """An application credential of the demo user's."""
    with connect(world.demo) as connection:
        identity = cast(Proxy, connection.identity)
        user = str(connection.current_user_id)
        made = identity.create_application_credential(user, f"{world.service_user}-{name}", **changes)
        try:
            yield v3.ApplicationCredential(
                world.admin["OS_AUTH_URL"], application_credential_id=made.id,
                application_credential_secret=made.secret,
            )  # fmt: skip
        finally:
            identity.delete_application_credential(user, made.id)


def token_of(auth: BaseAuthPlugin) -> str:
    token = Session(auth=auth).get_token()
    assert token is not None
    return str(token)


class Identity:
    """The stories. The last one takes the service out of the catalogue."""

    def test_the_catalogue(self, world: World) -> None:
        assert {entry["change"] for entry in world.register(world.url)} == {"unchanged"}
        catalogue = {row["Type"]: row for row in world.show(world.demo, "catalog", "list")}
        for kind, name in (("shared-file-system", "manila"), ("sharev2", "manilav2")):
            assert catalogue[kind]["Name"] == name
            endpoints = {(entry["interface"], entry["url"]) for entry in catalogue[kind]["Endpoints"]}
            assert endpoints == {(each, f"{world.url}/v2") for each in ("public", "internal", "admin")}

    def test_doctor(self, world: World) -> None:
        findings = json.loads(world.sharewright("doctor", "--json", variables={}))
        about = [found for found in findings if found["subject"] in ("identity", "catalogue")]
        assert [(found["level"], found["text"]) for found in about] == [
            ("ok", f"{world.admin['OS_AUTH_URL']} knows {world.service_user}")
        ]

    def test_a_member_of_a_project(self, world: World) -> None:
        """The whole story, and nothing of it is there for another project."""
        demo, stranger, admin = world.demo, world.stranger, world.admin
        network = json.loads(world.sharewright("network", "create", "tenant", "192.0.2.0/24", "--json"))[0]
        world.openstack(demo, "share", "network", "create", "--name", "net")
        world.openstack(
            demo, "share", "network", "set", "net", "--neutron-net-id", network["id"],
            "--neutron-subnet-id", network["subnet_id"],
        )  # fmt: skip
        made = world.show(demo, "share", "create", "NFS", "1", "--name", "first", "--share-network", "net")
        assert made["project_id"] == demo_project(world)
        token, path = world.token(demo), f"/v2/shares/{made['id']}"
        wait_for("the share", lambda: world.ask(token, path).json()["share"]["status"] == "available", interval=0.1)
        rule = world.show(demo, "share", "access", "create", "first", "ip", "192.0.2.10")
        assert rule["access_to"] == "192.0.2.10"
        (location,) = world.show(demo, "share", "export", "location", "list", "first")
        assert ":/shares/" in location["Path"]
        assert [row["Name"] for row in world.show(demo, "share", "list")] == ["first"]
        # Another project, and an administrator.
        assert made["id"] in world.openstack(stranger, "share", "show", made["id"], fails=True)
        elsewhere = world.token(stranger)
        assert world.ask(elsewhere).json() == {"shares": []}
        assert world.ask(elsewhere, f"/v2/{made['project_id']}/shares").status_code == 400
        assert world.ask(elsewhere, f"/v2/{world.stranger_project}/shares").status_code == 200
        assert "403" in world.openstack(demo, "share", "service", "list", fails=True)
        assert [row["Name"] for row in world.show(admin, "share", "list", "--all-projects")] == ["first"]
        # Quotas: an administrator sets them by the project's name, its members look at them.
        world.openstack(admin, "share", "quota", "set", world.demo["OS_PROJECT_NAME"], "--shares", "1")
        assert world.show(demo, "share", "quota", "show", made["project_id"])["shares"] == 1
        assert "413" in world.openstack(demo, "share", "create", "NFS", "1", "--share-network", "net", fails=True)
        assert "403" in world.openstack(demo, "share", "quota", "set", made["project_id"], "--shares", "9", fails=True)
        world.openstack(admin, "share", "quota", "delete", world.demo["OS_PROJECT_NAME"])
        world.openstack(demo, "share", "delete", "first")
        wait_for("no share", lambda: world.ask(token, path).status_code == 404, interval=0.1)
        world.openstack(demo, "share", "network", "delete", "net")

    def test_openstacksdk_finds_the_service(self, world: World) -> None:
        with connect(world.demo) as connection:
            api = connection.shared_file_system
            assert api.get_endpoint() == f"{world.url}/v2"
            network = api.create_share_network(name="sdk")
            assert [found.id for found in api.share_networks()] == [network.id]
            api.delete_share_network(network)

    def test_nothing_tells_that_something_of_another_project_exists(self, world: World) -> None:
        """Whatever a stranger asks about a thing, and about one that nobody has: the same answer."""
        demo = world.token(world.demo)
        with things(world, demo) as ids:
            made_up = {name: str(uuid.uuid4()) for name in ids}
            before = {name: shown(world, demo, name, ids).json() for name in SHOWN}
            with world.somebody("reader") as reader:
                for token in (world.token(world.stranger), world.token(reader)):
                    asked = [entry for entry in URLS if set(re.findall(r"{(\w+)}", str(entry))) <= ids.keys()]
                    assert len(asked) >= 50
                    for method, path, body in asked:
                        real, unreal = (ask_about(world, token, method, path, body, each) for each in (ids, made_up))
                        assert real == unreal, (method, path, body)
                        assert real[0] >= 400, (method, path, body)
                    for path in ("shares/detail", "snapshots/detail", "share-networks/detail", "resource-locks"):
                        (found,) = (value for value in world.ask(token, f"/v2/{path}").json().values() if value != 0)
                        assert found == [], path
            assert {name: shown(world, demo, name, ids).json() for name in SHOWN} == before

    @pytest.mark.parametrize(
        ("roles", "read", "write", "administer"),
        [
            (["reader"], 200, 403, 403),
            (["member"], 200, 200, 403),
            (["admin"], 200, 200, 200),
            (["service"], 403, 403, 403),
            ([OWN_ROLE], 403, 403, 403),
        ],
    )
    def test_roles(self, world: World, roles: list[str], read: int, write: int, administer: int) -> None:
        """What Keystone's own roles may do, the ones that they imply included."""
        with world.somebody(*roles) as user:
            token = world.token(user)
            assert world.ask(token).status_code == read
            assert world.ask(token, "/v2/services").status_code == administer
            answer = world.ask(token, "/v2/share-networks", "POST", {"share_network": {"name": "roles"}})
            assert answer.status_code == write
            if write == 200:
                made = answer.json()["share_network"]
                assert made["project_id"] == world.stranger_project
                assert world.ask(token, f"/v2/share-networks/{made['id']}", "DELETE").status_code == 202

    def test_somebody_without_a_role_gets_no_token(self, world: World) -> None:
        with world.somebody() as user, pytest.raises(SDKException, match="HTTP 401"):
            world.token(user)

    def test_a_policy_file_for_a_role_of_the_clouds_own(self, world: World) -> None:
        pools, zones = "/v2/scheduler-stats/pools", "/v2/availability-zones"
        with world.somebody("reader", OWN_ROLE) as planner:
            token = world.token(planner)
            assert world.ask(token, pools).status_code == 200
            assert world.ask(token, "/v2/services").status_code == 403
            assert world.ask(token, zones).status_code == 403
        demo, admin = world.token(world.demo), world.token(world.admin)
        assert world.ask(demo, pools).status_code == 403
        assert world.ask(admin, pools).status_code == 403
        assert world.ask(demo, zones).status_code == 403
        assert world.ask(admin, zones).status_code == 200

    def test_a_revoked_token(self, world: World) -> None:
        token = world.token(world.demo)
        assert world.ask(token).status_code == 200
        world.openstack(world.demo, "token", "revoke", token)
        wait_for("the cache's end", lambda: world.ask(token).status_code == 401, interval=0.1)
        answer = world.ask(token)
        assert answer.headers["WWW-Authenticate"] == f'Keystone uri="{world.admin["OS_AUTH_URL"]}"'

    def test_roles_that_were_taken(self, world: World) -> None:
        """Keystone ends a user's tokens of a project with the role."""
        token = world.token(world.stranger)
        assert world.ask(token).status_code == 200
        project = world.identity.get_project(world.stranger_project)
        user = world.identity.find_user(world.stranger["OS_USERNAME"], ignore_missing=False)
        member = world.identity.find_role("member", ignore_missing=False)
        world.identity.unassign_project_role_from_user(project, user, member)
        try:
            wait_for("the cache's end", lambda: world.ask(token).status_code == 401, interval=0.1)
        finally:
            world.identity.assign_project_role_to_user(project, user, member)

    def test_a_user_who_was_disabled(self, world: World) -> None:
        with world.somebody("member") as user:
            token = world.token(user)
            assert world.ask(token).status_code == 200
            found = world.identity.find_user(user["OS_USERNAME"], ignore_missing=False)
            world.identity.update_user(found, is_enabled=False)
            wait_for("the cache's end", lambda: world.ask(token).status_code == 401, interval=0.1)

    def test_tokens_end(self, world: World) -> None:
        """At their time, whatever is remembered of them; for a service that goes on for the user they do not."""
        service = world.token(world.service)
        end = datetime.now(UTC) + timedelta(seconds=10)
        with credential(world, "expires", expires_at=end.strftime("%Y-%m-%dT%H:%M:%S")) as auth:
            token = token_of(auth)
            if auth.get_access(Session()).expires > end:
                pytest.skip("this Keystone lets tokens outlive the application credential")
            assert world.ask(token).status_code == 200
            assert world.ask(token, X_Service_Token=service).status_code == 200
            wait_for("the token's end", lambda: world.ask(token).status_code == 401, interval=0.1)
            assert datetime.now(UTC) >= end - timedelta(seconds=1)
            assert world.ask(token, X_Service_Token=service).status_code == 200

    def test_other_scopes(self, world: World) -> None:
        names = world.admin
        user = {
            "auth_url": names["OS_AUTH_URL"],
            "username": names["OS_USERNAME"],
            "password": names["OS_PASSWORD"],
            "user_domain_name": names["OS_USER_DOMAIN_NAME"],
        }
        admin = world.identity.find_user(names["OS_USERNAME"], ignore_missing=False)
        role = world.identity.find_role("admin", ignore_missing=False)
        domain = world.identity.find_domain(names["OS_USER_DOMAIN_NAME"], ignore_missing=False)
        had = world.identity.validate_user_has_domain_role(domain, admin, role)
        if not had:
            world.identity.assign_domain_role_to_user(domain, admin, role)
        try:
            for scope in ({"system_scope": "all"}, {"domain_name": domain.name}, {"unscoped": True}):
                token = Session(auth=v3.Password(**user, **scope)).get_token()
                assert token is not None
                answer = world.ask(token)
                assert answer.status_code == 403, scope
                assert "not scoped to a project" in answer.json()["forbidden"]["message"]
        finally:
            if not had:
                world.identity.unassign_domain_role_from_user(domain, admin, role)

    def test_service_tokens(self, world: World) -> None:
        """Of a service, and of somebody who is none."""
        demo = world.token(world.demo)
        assert world.ask(demo, X_Service_Token=world.token(world.service)).status_code == 200
        assert world.ask(demo, X_Service_Token=world.token(world.stranger)).status_code == 401
        assert world.ask(demo, X_Service_Token="made-up").status_code == 401

    def test_what_a_service_locks(self, world: World) -> None:
        """In its own name, or as Nova does with a user's token and its own: the user may not take it away."""
        with world.somebody("member") as user, world.somebody("member", "service") as service:
            member, other = world.token(user), world.token(service)
            with things(world, member) as ids:
                body = {"resource_lock": {"resource_id": ids["share"], "resource_type": "share"}}
                for token, beside in ((other, {}), (member, {"X_Service_Token": world.token(world.service)})):
                    answer = world.ask(token, "/v2/resource-locks", "POST", body, **beside)
                    lock = answer.json()["resource_lock"]
                    assert lock["lock_context"] == "service"
                    path = f"/v2/resource-locks/{lock['id']}"
                    assert world.ask(member, path, "DELETE").status_code == 403
                    assert world.ask(member, f"/v2/shares/{ids['share']}", "DELETE").status_code == 403
                    assert world.ask(token, path, "DELETE", **beside).status_code == 204

    def test_application_credentials(self, world: World) -> None:
        """With all of the user's roles, and with fewer; when it is deleted, its tokens end."""
        network = {"share_network": {"name": "credentials"}}
        with credential(world, "all") as auth:
            token = token_of(auth)
            made = world.ask(token, "/v2/share-networks", "POST", network).json()["share_network"]
            assert made["project_id"] == demo_project(world)
            assert world.ask(token, f"/v2/share-networks/{made['id']}", "DELETE").status_code == 202
            assert world.ask(token, "/v2/services").status_code == 403
        wait_for("the cache's end", lambda: world.ask(token).status_code == 401, interval=0.1)
        reader = world.identity.find_role("reader", ignore_missing=False)
        with credential(world, "reads", roles=[{"id": reader.id}]) as auth:
            token = token_of(auth)
            assert world.ask(token).status_code == 200
            assert world.ask(token, "/v2/share-networks", "POST", network).status_code == 403

    def test_application_credentials_with_access_rules(self, world: World) -> None:
        rules = [{"service": "shared-file-system", "method": "GET", "path": "/v2/share-networks"}]
        try:
            with credential(world, "rules", access_rules=rules) as auth:
                token = token_of(auth)
                assert world.ask(token, "/v2/share-networks").status_code == 200
                assert world.ask(token, "/v2/share-networks", "POST").status_code == 401
                assert world.ask(token, "/v2/shares").status_code == 401
                # A service that goes on for the user asks what no user could have named.
                assert world.ask(token, "/v2/shares", X_Service_Token=world.token(world.service)).status_code == 200
        finally:
            for row in world.show(world.demo, "access", "rule", "list"):
                world.openstack(world.demo, "access", "rule", "delete", row["ID"])

    def test_removed_from_the_catalogue(self, world: World) -> None:
        """Last, because nobody finds the service afterwards. What else is in the catalogue stays."""
        before = {row["Type"] for row in world.show(world.admin, "catalog", "list")}
        assert {entry["change"] for entry in world.register("--remove")} == {"removed"}
        after = {row["Type"] for row in world.show(world.admin, "catalog", "list")}
        assert before - after == {"shared-file-system", "sharev2"}
        assert "identity" in after
        assert world.register("--remove") == []
        assert world.openstack(world.demo, "share", "list", fails=True)
