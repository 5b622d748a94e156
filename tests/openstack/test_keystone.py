"""A real Keystone: catalogue, tenants, isolation, revocation, application credentials, with the stock clients.

Needs an administrator's openrc file and, as on the test bed, a user ``demo`` (role member in the project ``demo``)
with the same password. What is behind the shares is simulated; everything about identity is real. What the tests make
in Keystone they remove.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import openstack
import pytest
import requests
from keystoneauth1.identity import v3
from keystoneauth1.session import Session
from openstack.identity.v3._proxy import Proxy

from bed import administrator, connect
from deployment import OPENSTACK, SHAREWRIGHT, free_port, wait_for

pytestmark = [pytest.mark.openstack, pytest.mark.timeout(900)]

CACHE_SECONDS = 2


def clean(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment with only these OS_ variables."""
    return {key: value for key, value in os.environ.items() if not key.startswith("OS_")} | dict(variables)


@dataclass
class World:
    """A running service that a real Keystone knows. ``stranger`` is a member of a project made for the tests."""

    directory: Path
    url: str
    admin: dict[str, str]
    identity: Proxy
    service_user: str
    stranger: dict[str, str]
    stranger_project: str

    @property
    def demo(self) -> dict[str, str]:
        return self.admin | {"OS_USERNAME": "demo", "OS_PROJECT_NAME": "demo"}

    def sharewright(self, *arguments: str, variables: Mapping[str, str] | None = None) -> str:
        done = subprocess.run(
            [SHAREWRIGHT, "--config", self.directory / "sharewright.toml", *arguments],
            env=clean(self.admin if variables is None else variables), text=True, capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def register(self, *arguments: str) -> list[dict[str, Any]]:
        return list(json.loads(self.sharewright("keystone", "register", *arguments, "--json")))

    def openstack(self, variables: Mapping[str, str], *arguments: str, fails: bool = False) -> str:
        """The stock client as a user; with ``fails`` its complaint."""
        done = subprocess.run(
            [OPENSTACK, *arguments], env=clean(variables), text=True, capture_output=True, check=False
        )
        assert (done.returncode != 0) == fails, f"openstack {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stderr if fails else done.stdout

    def show(self, variables: Mapping[str, str], *arguments: str) -> Any:
        return json.loads(self.openstack(variables, *arguments, "-f", "json"))

    def token(self, variables: Mapping[str, str]) -> str:
        return str(self.show(variables, "token", "issue")["id"])

    def ask(self, token: str, path: str = "/v2/shares", method: str = "GET", **headers: str) -> requests.Response:
        sent = {"X-Auth-Token": token, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return requests.request(method, self.url + path, headers=sent, timeout=60)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    admin = administrator()
    directory = tmp_path_factory.mktemp("keystone")
    mark = f"sharewright-test-{uuid.uuid4().hex[:8]}"
    port = free_port()
    password = directory / "password"
    password.touch(mode=0o600)
    password.write_text(uuid.uuid4().hex)
    (directory / "sharewright.toml").write_text(
        f'state_dir = "{directory / "state"}"\ndeployment = "{mark}"\nnode = "node"\n'
        f"[api]\nport = {port}\n[worker]\npoll_seconds = 0.2\n"
        f'[identity]\nmode = "keystone"\n[identity.keystone]\nauth_url = "{admin["OS_AUTH_URL"]}"\n'
        f'username = "{mark}"\npassword_file = "{password}"\ncache_seconds = {CACHE_SECONDS}\n'
        '[backends.one]\ncloud = "simulated"\n'
    )
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(connect(admin))
        identity = cast(Proxy, connection.identity)
        service_project = identity.find_project("service", ignore_missing=False)
        role = identity.find_role("service", ignore_missing=False)
        member = identity.find_role("member", ignore_missing=False)
        project = identity.create_project(name=mark, domain_id="default")
        stack.callback(identity.delete_project, project)
        secret = password.read_text()
        service = identity.create_user(name=mark, password=secret, domain_id="default")
        stack.callback(identity.delete_user, service)
        identity.assign_project_role_to_user(service_project, service, role)
        stranger = identity.create_user(name=f"{mark}-stranger", password=secret, domain_id="default")
        stack.callback(identity.delete_user, stranger)
        identity.assign_project_role_to_user(project, stranger, member)
        names = {"OS_USERNAME": stranger.name, "OS_PASSWORD": secret, "OS_PROJECT_NAME": mark}
        world = World(
            directory=directory, url=f"http://127.0.0.1:{port}", admin=admin, identity=identity, service_user=mark,
            stranger=admin | names, stranger_project=project.id,
        )  # fmt: skip
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(
                [SHAREWRIGHT, "--config", directory / "sharewright.toml", "serve"],
                env=clean({}),
                stdout=log,
                stderr=log,
            )
        stack.callback(process.wait, 60)
        stack.callback(process.terminate)

        def answers() -> bool:
            assert process.poll() is None, (directory / "log").read_text()
            with contextlib.suppress(requests.ConnectionError):
                return requests.get(f"{world.url}/healthcheck", timeout=10).status_code == 200
            return False

        wait_for("the API", answers)
        stack.callback(world.register, "--remove")
        assert {entry["change"] for entry in world.register(world.url)} <= {"created", "updated"}
        yield world


def test_the_catalogue(world: World) -> None:
    assert {entry["change"] for entry in world.register(world.url)} == {"unchanged"}
    catalogue = {row["Type"]: row for row in world.show(world.demo, "catalog", "list")}
    for kind, name in (("shared-file-system", "manila"), ("sharev2", "manilav2")):
        assert catalogue[kind]["Name"] == name
        assert {endpoint["url"] for endpoint in catalogue[kind]["Endpoints"]} == {f"{world.url}/v2"}
        assert {endpoint["interface"] for endpoint in catalogue[kind]["Endpoints"]} == {"public", "internal", "admin"}


def test_doctor(world: World) -> None:
    findings = json.loads(world.sharewright("doctor", "--json", variables={}))
    assert [(found["level"], found["text"]) for found in findings if found["subject"] in ("identity", "catalogue")] == [
        ("ok", f"{world.admin['OS_AUTH_URL']} knows {world.service_user}")
    ]


def test_a_member_of_a_project(world: World) -> None:
    """The whole story, and nothing of it is there for another project."""
    demo, stranger, admin = world.demo, world.stranger, world.admin
    network = json.loads(world.sharewright("network", "create", "tenant", "192.0.2.0/24", "--json"))[0]
    world.openstack(demo, "share", "network", "create", "--name", "net")
    world.openstack(
        demo, "share", "network", "set", "net", "--neutron-net-id", network["id"],
        "--neutron-subnet-id", network["subnet_id"],
    )  # fmt: skip
    made = world.show(demo, "share", "create", "NFS", "1", "--name", "first", "--share-network", "net", "--wait")
    assert made["status"] == "available"
    assert made["project_id"] == world.identity.find_project("demo", ignore_missing=False).id
    rule = world.show(demo, "share", "access", "create", "first", "ip", "192.0.2.10", "--wait")
    assert rule["access_to"] == "192.0.2.10"
    (location,) = world.show(demo, "share", "export", "location", "list", "first")
    assert ":/shares/" in location["Path"]
    assert [row["Name"] for row in world.show(demo, "share", "list")] == ["first"]
    # Another project, and an administrator.
    assert world.show(stranger, "share", "list") == []
    assert world.show(stranger, "share", "network", "list") == []
    assert made["id"] in world.openstack(stranger, "share", "show", made["id"], fails=True)
    token = world.token(stranger)
    assert world.ask(token, f"/v2/shares/{made['id']}").status_code == 404
    assert world.ask(token, f"/v2/shares/{made['id']}", "DELETE").status_code == 404
    assert world.ask(token, f"/v2/{made['project_id']}/shares").status_code == 400
    assert world.ask(token, f"/v2/{world.stranger_project}/shares").status_code == 200
    assert "403" in world.openstack(demo, "share", "service", "list", fails=True)
    assert [row["Name"] for row in world.show(admin, "share", "list", "--all-projects")] == ["first"]
    assert {row["State"] for row in world.show(admin, "share", "service", "list")} == {"up"}
    # Quotas: an administrator sets them by the project's name, its members look at them.
    world.openstack(admin, "share", "quota", "set", "demo", "--shares", "1")
    assert world.show(demo, "share", "quota", "show", made["project_id"])["shares"] == 1
    assert "413" in world.openstack(demo, "share", "create", "NFS", "1", "--share-network", "net", fails=True)
    assert "403" in world.openstack(demo, "share", "quota", "set", made["project_id"], "--shares", "9", fails=True)
    world.openstack(admin, "share", "quota", "delete", "demo")
    assert world.show(admin, "share", "quota", "show", "demo")["shares"] == 50
    world.openstack(demo, "share", "delete", "first", "--wait")
    assert world.show(demo, "share", "list") == []
    world.openstack(demo, "share", "network", "delete", "net")


def test_openstacksdk_finds_the_service(world: World) -> None:
    names = world.demo
    with openstack.connect(
        load_envvars=False,
        load_yaml_config=False,
        region_name=names.get("OS_REGION_NAME"),
        auth={
            key[3:].lower(): names[key]
            for key in (
                "OS_AUTH_URL", "OS_USERNAME", "OS_PASSWORD", "OS_PROJECT_NAME", "OS_USER_DOMAIN_NAME",
                "OS_PROJECT_DOMAIN_NAME",
            )
        },
    ) as connection:  # fmt: skip
        api = connection.shared_file_system
        assert api.get_endpoint() == f"{world.url}/v2"
        network = api.create_share_network(name="sdk")
        assert [found.id for found in api.share_networks()] == [network.id]
        api.delete_share_network(network)


def test_a_revoked_token(world: World) -> None:
    token = world.token(world.demo)
    assert world.ask(token).status_code == 200
    world.openstack(world.demo, "token", "revoke", token)
    wait_for("the cache's end", lambda: world.ask(token).status_code == 401, interval=0.1)
    answer = world.ask(token)
    assert answer.headers["WWW-Authenticate"] == f'Keystone uri="{world.admin["OS_AUTH_URL"]}"'


def test_roles_that_were_taken(world: World) -> None:
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


def test_other_scopes(world: World) -> None:
    names = world.admin
    user = {
        "auth_url": names["OS_AUTH_URL"],
        "username": names["OS_USERNAME"],
        "password": names["OS_PASSWORD"],
        "user_domain_name": names["OS_USER_DOMAIN_NAME"],
    }
    for scope in ({"system_scope": "all"}, {"unscoped": True}):
        token = Session(auth=v3.Password(**user, **scope)).get_token()
        assert token is not None
        answer = world.ask(token)
        assert answer.status_code == 403
        assert "not scoped to a project" in answer.json()["forbidden"]["message"]


def test_service_tokens(world: World) -> None:
    """Of a service, and of somebody who is none."""
    service = world.admin | {
        "OS_USERNAME": world.service_user,
        "OS_PASSWORD": (world.directory / "password").read_text(),
        "OS_PROJECT_NAME": "service",
    }
    demo = world.token(world.demo)
    assert world.ask(demo, X_Service_Token=world.token(service)).status_code == 200
    assert world.ask(demo, X_Service_Token=world.token(world.stranger)).status_code == 401
    assert world.ask(demo, X_Service_Token="made-up").status_code == 401


def test_application_credentials_with_access_rules(world: World) -> None:
    rules = [{"service": "shared-file-system", "method": "GET", "path": "/v2/share-networks"}]
    made = world.show(
        world.demo, "application", "credential", "create", f"{world.service_user}-rules",
        "--access-rules", json.dumps(rules),
    )  # fmt: skip
    try:
        credential = v3.ApplicationCredential(
            world.admin["OS_AUTH_URL"],
            application_credential_id=made.get("ID", made.get("id")),
            application_credential_secret=made.get("Secret", made.get("secret")),
        )
        token = Session(auth=credential).get_token()
        assert token is not None
        assert world.ask(token, "/v2/share-networks").status_code == 200
        assert world.ask(token, "/v2/share-networks", "POST").status_code == 401
        assert world.ask(token, "/v2/shares").status_code == 401
    finally:
        world.openstack(world.demo, "application", "credential", "delete", f"{world.service_user}-rules")
        for row in world.show(world.demo, "access", "rule", "list"):
            world.openstack(world.demo, "access", "rule", "delete", row["ID"])


def test_removed_from_the_catalogue(world: World) -> None:
    """Last, because nobody finds the service afterwards. What else is in the catalogue stays."""
    before = {row["Type"] for row in world.show(world.admin, "catalog", "list")}
    assert {entry["change"] for entry in world.register("--remove")} == {"removed"}
    after = {row["Type"] for row in world.show(world.admin, "catalog", "list")}
    assert before - after == {"shared-file-system", "sharev2"}
    assert "identity" in after
    assert world.register("--remove") == []
    assert world.openstack(world.demo, "share", "list", fails=True)
