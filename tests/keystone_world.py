"""A Sharewright that a real Keystone knows, and who uses it with the stock clients.

What is behind the shares is simulated; everything about identity is real. What is made in Keystone is removed at the
end.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import openstack
import requests
from openstack.connection import Connection
from openstack.identity.v3._proxy import Proxy
from site_for_tests import OpenStackClient

from deployment import SHAREWRIGHT, wait_for
from ports import free_port

CACHE_SECONDS = 1
# A role of this cloud's own, which the policy file lets see the pools, and what the file takes from everybody else.
OWN_ROLE = "sharewright_test_planner"
POLICY = f'"scheduler_stats:pools:index": "role:{OWN_ROLE}"\n"availability_zone:index": "rule:context_is_admin"\n'


def clean(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment with only these OS_ variables."""
    return {key: value for key, value in os.environ.items() if not key.startswith("OS_")} | dict(variables)


def as_arguments(variables: Mapping[str, str]) -> dict[str, str]:
    """OS_ variables as openstacksdk's arguments; without those that choose API versions."""
    return {key[3:].lower(): value for key, value in variables.items() if not key.endswith("_API_VERSION")}


def connect(variables: Mapping[str, str]) -> Connection:
    """As the user whom the OS_ variables name, whatever the caller's shell says."""
    arguments: dict[str, Any] = {**as_arguments(variables), "connect_retries": 5}  # uwsgi resets some connections
    return openstack.connect(load_yaml_config=False, load_envvars=False, **arguments)


@dataclass
class World:
    """A running service that a real Keystone knows. ``demo`` is a member of the project ``demo``, ``stranger`` of a
    project made for the tests; both and the administrator are told apart by their OS_ variables."""

    directory: Path
    url: str
    admin: dict[str, str]
    demo: dict[str, str]
    identity: Proxy
    service_user: str
    stranger: dict[str, str]
    stranger_project: str
    client: OpenStackClient = field(default_factory=OpenStackClient, repr=False)

    @property
    def service(self) -> dict[str, str]:
        """The service's own user."""
        password = (self.directory / "password").read_text()
        return self.admin | {
            "OS_USERNAME": self.service_user, "OS_PASSWORD": password, "OS_PROJECT_NAME": "service",
        }  # fmt: skip

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
        code, output, complaint = self.client.run(*arguments, variables=variables)
        assert bool(code) == fails, f"openstack {' '.join(arguments)}: {output}{complaint}"
        return complaint if fails else output

    def show(self, variables: Mapping[str, str], *arguments: str) -> Any:
        return json.loads(self.openstack(variables, *arguments, "-f", "json"))

    def token(self, variables: Mapping[str, str]) -> str:
        with connect(variables) as connection:
            return str(connection.authorize())

    def ask(
        self, token: str, path: str = "/v2/shares", method: str = "GET", body: Any = None, **headers: str
    ) -> requests.Response:
        sent = {
            "X-Auth-Token": token, "X-OpenStack-Manila-API-Version": "2.82",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }  # fmt: skip
        return requests.request(method, self.url + path, json=body, headers=sent, timeout=60)

    @contextmanager
    def somebody(self, *roles: str) -> Iterator[dict[str, str]]:
        """A user made for one test, with these roles in the stranger's project."""
        name, password = f"{self.service_user}-{uuid.uuid4().hex[:6]}", uuid.uuid4().hex
        user = self.identity.create_user(name=name, password=password, domain_id="default")
        try:
            project = self.identity.get_project(self.stranger_project)
            for role in roles:
                found = self.identity.find_role(role, ignore_missing=False)
                self.identity.assign_project_role_to_user(project, user, found)
            yield self.stranger | {"OS_USERNAME": name, "OS_PASSWORD": password}
        finally:
            self.identity.delete_user(user)


@contextmanager
def known_to_keystone(directory: Path, admin: dict[str, str], demo: dict[str, str]) -> Iterator[World]:
    """A service in the catalogue of the Keystone of these OS_ variables."""
    mark = f"sharewright-test-{uuid.uuid4().hex[:8]}"
    port = free_port()
    password = directory / "password"
    password.touch(mode=0o600)
    password.write_text(uuid.uuid4().hex)
    (directory / "policy.yaml").write_text(POLICY)
    (directory / "sharewright.toml").write_text(
        f'state_dir = "{directory / "state"}"\ndeployment = "{mark}"\nnode = "node"\n'
        f'[api]\nport = {port}\npolicy_file = "{directory / "policy.yaml"}"\n[worker]\npoll_seconds = 0.2\n'
        f'[identity]\nmode = "keystone"\n[identity.keystone]\nauth_url = "{admin["OS_AUTH_URL"]}"\n'
        f'username = "{mark}"\npassword_file = "{password}"\ncache_seconds = {CACHE_SECONDS}\n'
        '[backends.one]\ncloud = "simulated"\n'
    )
    with ExitStack() as stack:
        identity = cast(Proxy, stack.enter_context(connect(admin)).identity)
        secret = password.read_text()
        project = identity.create_project(name=mark, domain_id="default")
        stack.callback(identity.delete_project, project)
        own_role = identity.create_role(name=OWN_ROLE)
        stack.callback(identity.delete_role, own_role)
        users = {}
        for name, where, role in (
            (mark, identity.find_project("service", ignore_missing=False), "service"),
            (f"{mark}-stranger", project, "member"),
        ):
            users[role] = identity.create_user(name=name, password=secret, domain_id="default")
            stack.callback(identity.delete_user, users[role])
            found = identity.find_role(role, ignore_missing=False)
            identity.assign_project_role_to_user(where, users[role], found)
        stranger = {"OS_USERNAME": users["member"].name, "OS_PASSWORD": secret, "OS_PROJECT_NAME": mark}
        world = World(
            directory=directory, url=f"http://127.0.0.1:{port}", admin=admin, demo=demo, identity=identity,
            service_user=mark, stranger=admin | stranger, stranger_project=project.id,
        )  # fmt: skip
        stack.callback(world.client.close)
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(
                [SHAREWRIGHT, "--config", directory / "sharewright.toml", "serve"], env=clean({}), stdout=log,
                stderr=log,
            )  # fmt: skip
        stack.callback(process.wait, 60)
        stack.callback(process.terminate)
        wait_for("the API", answers(f"{world.url}/healthcheck", process, directory / "log"))
        stack.callback(world.register, "--remove")
        assert {entry["change"] for entry in world.register(world.url)} <= {"created", "updated"}
        yield world


def answers(url: str, process: subprocess.Popen[bytes], log: Path) -> Callable[[], bool]:
    """Whether there is an answer already; what is in ``log`` when the process has ended."""

    def look() -> bool:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(requests.ConnectionError):
            return requests.get(url, timeout=10).status_code < 400
        return False

    return look
