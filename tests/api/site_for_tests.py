"""A real API for tests: the application behind a real socket, and what tests need to ask it things."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import requests
from sqlalchemy import event, update

from sharewright.api.app import create_app
from sharewright.api.identity.users import User, Users, hash_password, write_users
from sharewright.api.server import Server
from sharewright.api.versions import MAXIMUM, VERSION_HEADER
from sharewright.clouds.open import open_cloud
from sharewright.configuration_file import parse
from sharewright.services.bootstrap import ensure_defaults
from sharewright.settings import Settings
from sharewright.store.database import Store
from sharewright.store.tables import share_export_locations, share_groups, share_instances, shares

PASSWORD = "correct horse"
# name → project → roles
PEOPLE: dict[str, dict[str, tuple[str, ...]]] = {
    "root": {"operators": ("admin",)},
    "alice": {"blue": ("member",)},
    "anna": {"blue": ("member",)},
    "rita": {"blue": ("reader",)},
    "bob": {"green": ("member",)},
}


def make_settings(directory: Path, **changes: Any) -> Settings:
    data: dict[str, Any] = {
        "state_dir": str(directory),
        "node": "node1",
        "backends": {"one": {"cloud": "simulated", "availability_zone": "zone-1"}},
        **changes,
    }
    return parse(data)


def write_people(path: Path) -> Path:
    hashed = hash_password(PASSWORD, rounds=4)
    people = tuple(User(name=name, password_hash=hashed, roles=roles) for name, roles in PEOPLE.items())
    write_users(path, Users(users=people))
    return path


@dataclass
class Site:
    """A running API. ``ask`` makes one request as a user (mode http_basic) at a microversion."""

    url: str
    store: Store
    settings: Settings
    wakes: list[float] = field(default_factory=list)
    session: requests.Session = field(default_factory=requests.Session)

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        user: str | None = "alice",
        version: str | None = f"2.{MAXIMUM}",
        headers: Mapping[str, str] | None = None,
        data: bytes | str | None = None,
    ) -> requests.Response:
        sent = dict(headers or {})
        if version is not None:
            sent.setdefault(VERSION_HEADER, version)
        auth = (user, PASSWORD) if user and self.settings.identity.mode == "http_basic" else None
        return self.session.request(
            method, self.url + path, json=body, data=data, headers=sent, auth=auth, timeout=30, allow_redirects=False
        )

    def expect(self, status: int, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """The answer's JSON, when the status is the expected one."""
        answer = self.ask(method, path, body, **options)
        assert answer.status_code == status, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    # ---- things that many tests need ----

    def network(self, user: str = "alice", **values: Any) -> dict[str, Any]:
        body = {"neutron_net_id": str(uuid.uuid4()), "neutron_subnet_id": str(uuid.uuid4()), **values}
        answer = self.expect(200, "POST", "/v2/share-networks", {"share_network": body}, user=user)
        return dict(answer["share_network"])

    def share(self, user: str = "alice", *, network: str = "", **values: Any) -> dict[str, Any]:
        network = network or self.network(user)["id"]
        body = {"size": 1, "share_proto": "NFS", "share_network_id": network, **values}
        return dict(self.expect(200, "POST", "/v2/shares", {"share": body}, user=user)["share"])

    def served_share(self, user: str = "alice", **values: Any) -> dict[str, Any]:
        """A share as a finished create_share operation leaves it, without one."""
        share = self.share(user, **values)
        self.finish(share["id"])
        return share

    def finish(self, share_id: str, *, status: str = "available") -> None:
        host = "node1@one#pool"
        with self.store.begin() as tx:
            tx.execute(update(shares).where(shares.c.id == share_id).values(status=status, host=host))
            instance = share_instances.c.share_id == share_id
            tx.execute(update(share_instances).where(instance).values(status=status, host=host, backend="one"))
            instance_id = tx.execute(share_instances.select().where(instance)).mappings().one()["id"]
            now = tx.execute(shares.select().where(shares.c.id == share_id)).mappings().one()["created_at"]
            for number, admin_only in ((5, False), (9, True)):
                tx.execute(
                    share_export_locations.insert().values(
                        id=str(uuid.uuid4()),
                        share_instance_id=instance_id,
                        path=f"10.0.0.{number}:/shares/share-{instance_id}",
                        is_admin_only=admin_only,
                        preferred=not admin_only,
                        metadata={},
                        created_at=now,
                    )
                )

    def finish_status(self, share_id: str, status: str) -> None:
        """Only the status, as a worker would write it."""
        with self.store.begin() as tx:
            tx.execute(update(shares).where(shares.c.id == share_id).values(status=status))

    def finish_group(self, share_group_id: str, server_id: str | None = None) -> None:
        """A share group has its share server, as a worker would write it."""
        with self.store.begin() as tx:
            mine = share_groups.c.id == share_group_id
            tx.execute(update(share_groups).where(mine).values(status="available", share_server_id=server_id))

    def real_network(self) -> str:
        """A share network on a network that the simulated cloud has. Returns its id."""
        cloud = open_cloud(self.settings, self.settings.backends["one"])
        made = cloud.networks.create_network("tenant", ip_network("192.0.2.0/24"))  # type: ignore[attr-defined]
        cloud.close()
        return str(self.network(neutron_net_id=made.id, neutron_subnet_id=made.subnets[0].id)["id"])

    def host_of(self, share: Mapping[str, Any]) -> str:
        """Where a share is, when it has been made."""
        self.wait(f"/v2/shares/{share['id']}", "share", "status", "available")
        return str(self.expect(200, "GET", f"/v2/shares/{share['id']}", user="root")["share"]["host"])

    def wait(
        self,
        path: str,
        key: str,
        field_name: str,
        wanted: Any,
        *,
        user: str = "alice",
        seconds: float = 30,
        headers: dict[str, str] | None = None,
    ) -> Any:
        """Poll until a field has the wanted value."""
        end = time.monotonic() + seconds
        while True:
            record = self.expect(200, "GET", path, user=user, headers=headers)[key]
            if record[field_name] == wanted:
                return record
            assert time.monotonic() < end, f"{path}: {record}"
            time.sleep(0.05)

    def wait_gone(
        self, path: str, *, user: str = "alice", seconds: float = 30, headers: dict[str, str] | None = None
    ) -> None:
        """Poll until there is nothing any more."""
        end = time.monotonic() + seconds
        while self.ask("GET", path, user=user, headers=headers).status_code != 404:
            assert time.monotonic() < end, path
            time.sleep(0.05)

    @contextmanager
    def statements(self) -> Iterator[list[str]]:
        """SQL statements that any thread sends meanwhile, transactions' own not counted, nor what wakes workers after
        the request before."""
        seen: list[str] = []

        def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
            if not statement.startswith(("BEGIN", "PRAGMA", "SELECT pg_notify")):
                seen.append(statement)

        engines = [self.store._writer, self.store._reader]
        for engine in engines:
            event.listen(engine, "before_cursor_execute", note)
        try:
            yield seen
        finally:
            for engine in engines:
                event.remove(engine, "before_cursor_execute", note)


@contextmanager
def running_site(store: Store, settings: Settings, *, wake: Callable[[], None] | None = None) -> Iterator[Site]:
    """Serve on a free port of the loopback interface."""
    ensure_defaults(store, settings)
    wakes: list[float] = []

    def ring() -> None:
        wakes.append(time.monotonic())
        if wake is not None:
            wake()

    server = Server(create_app(store, settings, wake=ring), settings, port=0)
    server.start()
    try:
        yield Site(url=server.url, store=store, settings=settings, wakes=wakes)
    finally:
        server.stop()


# The entry point of the stock client, called per line of input, because loading it costs seconds each time. It
# remembers its user's token and endpoints; a command of another user is run in a child process.
_SHELL = """
import contextlib, io, json, os, sys, warnings
import manilaclient.osc.plugin, manilaclient.v2.client, openstack.connection
from openstackclient import shell
warnings.simplefilter("ignore")
for line in sys.stdin:
    arguments, variables = json.loads(line)
    child = os.fork() if variables else -1
    if child > 0:
        os.waitpid(child, 0)
        continue
    os.environ.update(variables)
    out, err, code = io.StringIO(), io.StringIO(), 1
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = shell.main(arguments)
            except SystemExit as stop:
                code = stop.code
    except Exception as error:
        err.write(repr(error))
    os.write(1, (json.dumps([code, out.getvalue(), err.getvalue()]) + "\\n").encode())
    if child == 0:
        os._exit(0)
"""


class OpenStackClient:
    """The stock ``openstack`` client in a process of its own, with only the given OS_ variables."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("OS_")}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SHELL],
            env={**clean, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def run(self, *arguments: str, variables: Mapping[str, str] | None = None) -> tuple[int, str, str]:
        """Exit code, output and complaints of one command. ``variables``: of another user, for this command only."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([arguments, dict(variables or {})]) + "\n")
        self._process.stdin.flush()
        code, output, complaints = json.loads(self._process.stdout.readline())
        return code, output, complaints

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


def run_openstack(*arguments: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """The ``openstack`` command as a user types it."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("OS_")}
    return subprocess.run(
        [str(Path(sys.executable).parent / "openstack"), *arguments],
        env={**clean, "PYTHONWARNINGS": "ignore", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
