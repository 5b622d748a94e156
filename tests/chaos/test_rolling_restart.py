"""Every process is restarted in turn while clients read and create: no request fails, and all accepted work ends.

Once behind a proxy that asks for health, and once on one socket that outlives the processes, as systemd holds it.
"""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from rolling import Proxy, Service, ask, clients
from sqlalchemy import select

from databases import PostgresCluster
from ports import free_port
from sharewright.states import OperationState
from sharewright.store.database import Store
from sharewright.store.tables import operations, shares

pytestmark = pytest.mark.chaos

CLIENTS = 4
CREATES_EVERY = 20
DRAIN_SECONDS = 1.0


@pytest.fixture
def url(postgres: PostgresCluster) -> Iterator[str]:
    """An empty database: four processes find it so, and one of them makes the tables."""
    url = postgres.create_database(migrated=False)
    yield url
    postgres.drop_database(url)


class Installation:
    """Two API and two worker processes on one database, with the same key file."""

    def __init__(self, directory: Path, url: str, ports: list[int], listening: socket.socket | None) -> None:
        self._directory = directory
        key_file = directory / "master.key"
        key_file.touch(0o600)
        key_file.write_bytes(Fernet.generate_key())
        configs = [self._configure(f"{number}.toml", url, port) for number, port in enumerate(ports)]
        self.apis = [
            Service(directory, f"api{number}", config, "api", listening) for number, config in enumerate(configs)
        ]
        self.workers = [Service(directory, f"worker{number}", configs[0], "worker", None) for number in range(2)]
        for service in self.all:
            service.begin()
        for service in self.all:
            service.wait_ready()
        self.config = configs[0]

    @property
    def all(self) -> list[Service]:
        return [*self.apis, *self.workers]

    def _configure(self, name: str, url: str, port: int) -> Path:
        path = self._directory / name
        path.write_text(
            f'state_dir = "{self._directory / "state"}"\n'
            f"[api]\nport = {port}\ndrain_seconds = {DRAIN_SECONDS}\n"
            f'[database]\nurl = "{url}"\nmaster_key_file = "{self._directory / "master.key"}"\n'
            "[quotas]\nshares = -1\ngigabytes = -1\n"
            '[backends.one]\ncloud = "simulated"\n'
        )
        return path

    def close(self) -> None:
        for service in self.all:
            service.end()

    def share_network(self, port: int) -> str:
        """A network of the simulated cloud, introduced to the API."""
        command = [sys.executable, "-m", "sharewright.cli.main", "--config", str(self.config)]
        made = subprocess.run(
            [*command, "network", "create", "blue", "10.99.0.0/24", "--json"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        (network,) = json.loads(made.stdout)
        wanted = {"neutron_net_id": network["id"], "neutron_subnet_id": network["subnet_id"]}
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
            return ask(connection, "POST", "/share-networks", {"share_network": wanted})["share_network"]["id"]


def check_outcome(url: str, accepted: set[str], log: Callable[[], str]) -> None:
    """Every share that was accepted is there and available; no operation is left open or failed."""
    with closing(Store(url)) as store:
        end = time.monotonic() + 60
        while True:
            with store.read() as tx:
                states = set(tx.execute(select(operations.c.state)).scalars())
                found = {row.id: row.status for row in tx.execute(select(shares.c.id, shares.c.status))}
            if not states & set(OperationState.OPEN) or time.monotonic() > end:
                break
            time.sleep(0.1)
    assert states == {OperationState.SUCCEEDED}, log()
    assert found == dict.fromkeys(accepted, "available"), log()


def test_behind_a_proxy_no_request_fails(tmp_path: Path, url: str) -> None:
    ports = [free_port(), free_port()]
    with closing(Installation(tmp_path, url, ports, None)) as installation, closing(Proxy(ports)) as proxy:
        proxy.wait_healthy(2)
        network = installation.share_network(proxy.port)
        with clients(proxy.port, network, CLIENTS, creates_every=CREATES_EVERY) as users:
            for api, worker in zip(installation.apis, installation.workers, strict=True):
                proxy.wait_healthy(2)
                api.restart()
                worker.restart()
        assert [failure for user in users for failure in user.failures] == [], installation.apis[0].log
        accepted = {share for user in users for share in user.shares}
        assert len(accepted) > 2 * CLIENTS
        check_outcome(url, accepted, lambda: "".join(service.log for service in installation.all))


def test_on_a_socket_that_outlives_the_processes_no_request_fails(tmp_path: Path, url: str) -> None:
    """In turn first; then both at once, when requests wait in the socket until the next process takes them."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        port = listening.getsockname()[1]
        with closing(Installation(tmp_path, url, [port, port], listening)) as installation:
            network = installation.share_network(port)
            with clients(port, network, CLIENTS, creates_every=CREATES_EVERY) as users:
                for api in installation.apis:
                    api.restart()
                for api in installation.apis:
                    api.stop()
                for api in installation.apis:
                    api.begin()
                    api.wait_ready()
            assert [failure for user in users for failure in user.failures] == [], installation.apis[0].log
            accepted = {share for user in users for share in user.shares}
            check_outcome(url, accepted, lambda: "".join(service.log for service in installation.all))
            assert "Traceback" not in "".join(service.log for service in installation.all)
