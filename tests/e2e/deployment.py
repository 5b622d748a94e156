"""A whole Sharewright as a user runs it: the ``sharewright`` command, a configuration file, the stock clients."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import openstack
from openstack.connection import Connection

from ports import free_port
from scrapes import Scrape, scrape
from sharewright.configuration_file import load
from sharewright.store.database import Store

SHAREWRIGHT = Path(sys.executable).parent / "sharewright"
OPENSTACK = Path(sys.executable).parent / "openstack"
PASSWORD = "a password for tests"
# So many times as long do the tests wait for machines, on a host that has other things to do.
PATIENCE = float(os.environ.get("SHAREWRIGHT_TEST_PATIENCE", "1"))


def wait_for(what: str, condition: Callable[[], Any], *, seconds: float = 120, interval: float = 0.25) -> Any:
    """The first true value of ``condition()``. ``seconds`` count on a host that has nothing else to do."""
    end = time.monotonic() + seconds * PATIENCE
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds * PATIENCE:g} s")
        time.sleep(interval)


class Deployment:
    """One installation in ``directory``. ``users`` maps a user's name to (project, roles)."""

    PARTS: tuple[str, ...] = ("serve",)  # the long-running commands, a process each

    def __init__(
        self,
        directory: Path,
        configuration: str,
        *,
        name: str,
        users: dict[str, tuple[str, str]],
        head: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """``head``: keys of the configuration that are in no table. ``environment``: more variables for the command."""
        self.environment = without_openstack(os.environ) | (environment or {})
        self.directory = directory
        self.state_dir = directory / "state"
        self.port = free_port()
        self.metrics_ports = {part: free_port() for part in self.PARTS}
        self.users = users
        self.config = directory / "sharewright.toml"
        self.log = directory / "service.log"
        self.config.write_text(
            f'state_dir = "{self.state_dir}"\ndeployment = "{name}"\nnode = "node"\n'
            f"{head}[api]\nport = {self.port}\n{self.identity()}{configuration}"
        )
        self.config.chmod(0o600)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.make_users()

    # ---- who its users are ----

    def identity(self) -> str:
        """The part of the configuration that says how users are known."""
        return f'[identity]\nmode = "http_basic"\nuser_file = "{self.directory / "users.json"}"\n'

    def make_users(self) -> None:
        for user, (project, roles) in self.users.items():
            self.command(
                "user", "add", user, "--project", project, *(f"--role={role}" for role in roles.split()),
                "--password-stdin", input=PASSWORD,
            )  # fmt: skip

    def credentials(self, user: str) -> dict[str, str]:
        """OS_ variables with which the stock client is that user."""
        return {
            "OS_AUTH_TYPE": "http_basic", "OS_USERNAME": user, "OS_PASSWORD": PASSWORD, "OS_ENDPOINT": self.endpoint,
        }  # fmt: skip

    def connection(self, user: str) -> dict[str, Any]:
        """How openstacksdk connects as that user."""
        return {
            "auth_type": "http_basic",
            "username": user,
            "password": PASSWORD,
            "endpoint": self.endpoint,
            "shared_file_system_endpoint_override": self.endpoint,
        }

    # ---- used ----

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}/v2"

    @property
    def database_url(self) -> str:
        return load(self.config).database_url

    @contextlib.contextmanager
    def store(self) -> Iterator[Store]:
        """The deployment's own tables, for what the API does not tell."""
        store = Store(self.database_url)
        try:
            yield store
        finally:
            store.close()

    def command(self, *arguments: str, input: str | None = None, check: bool = True) -> str:
        """Run ``sharewright ARGUMENTS`` and return what it prints."""
        done = subprocess.run(
            [SHAREWRIGHT, "--config", self.config, *arguments],
            input=input,
            text=True,
            capture_output=True,
            check=False,
            env=self.environment,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"sharewright {' '.join(arguments)} exited {done.returncode}:\n{done.stderr}")
        return done.stdout

    def openstack(self, user: str, *arguments: str, check: bool = True) -> str:
        """Run the stock client, ``openstack share ARGUMENTS``, as a user of the tenant."""
        done = subprocess.run(
            [OPENSTACK, "share", *arguments], text=True, capture_output=True, check=False,
            env=without_openstack(os.environ) | self.credentials(user),
        )  # fmt: skip
        if check and done.returncode != 0:
            raise AssertionError(f"openstack share {' '.join(arguments)} exited {done.returncode}:\n{done.stderr}")
        return done.stdout

    def openstack_json(self, user: str, *arguments: str) -> Any:
        return json.loads(self.openstack(user, *arguments, "-f", "json"))

    def sdk(self, user: str, microversion: str = "2.63") -> Connection:
        """The stock SDK as that user."""
        return openstack.connect(
            load_yaml_config=False,
            load_envvars=False,
            shared_file_system_default_microversion=microversion,
            **self.connection(user),
        )

    def scrape(self) -> Scrape:
        """What Prometheus is told about the whole deployment, by whichever process."""
        return scrape(f"http://127.0.0.1:{next(iter(self.metrics_ports.values()))}/deployment")

    # ---- its processes ----

    def start(self, *, seconds: float = 120) -> None:
        """Start the service and wait until its API answers."""
        with self.log.open("ab") as log:
            for part in self.PARTS:
                self.processes[part] = subprocess.Popen(
                    [SHAREWRIGHT, "--config", self.config, part, f"--metrics-port={self.metrics_ports[part]}"],
                    stdout=log, stderr=log, start_new_session=True, env=self.environment,
                )  # fmt: skip
        wait_for("the API", self._answers, seconds=seconds)

    def _answers(self) -> bool:
        assert self.processes
        for part, process in self.processes.items():
            if process.poll() is not None:
                raise AssertionError(f"sharewright {part} exited with {process.returncode}:\n{self.tail()}")
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthcheck", timeout=2) as answer,
        ):
            return bool(answer.status == 200)
        return False

    def stop(self, *, seconds: float = 60) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
        for part, process in self.processes.items():
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGUSR1)  # it says where it is
                time.sleep(2)
                raise AssertionError(f"sharewright {part} does not end:\n{self.tail(300)}") from None
        self.processes.clear()

    def kill(self) -> None:
        """SIGKILL to every process of the service."""
        assert self.processes
        for process in self.processes.values():
            os.killpg(process.pid, signal.SIGKILL)
        for process in self.processes.values():
            process.wait(30)
        self.processes.clear()

    def tail(self, lines: int = 60) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    def purge(self) -> None:
        """Stop it, and delete everything of it, even when it does not stop in good order."""
        try:
            self.stop()
        finally:
            for process in self.processes.values():  # those that do not stop
                process.kill()
                process.wait(30)
            self.processes.clear()
            self.command("purge", "--yes")


def purge_leftovers(kind: str) -> None:
    """Delete what test processes that are no more left behind: deployments in directories ``KIND-<pid>``. They would
    hold the addresses and names that the next ones need."""
    for directory in Path("/var/tmp").glob(f"{kind}-*"):
        with contextlib.ExitStack() as stack:
            try:  # several test processes look at the same time
                folder = os.open(directory, os.O_RDONLY)
            except FileNotFoundError:
                continue
            stack.callback(os.close, folder)
            fcntl.flock(folder, fcntl.LOCK_EX)
            if not directory.exists() or Path("/proc", directory.name.rpartition("-")[2]).exists():
                continue
            config = directory / "sharewright.toml"
            if config.exists():
                subprocess.run([SHAREWRIGHT, "--config", config, "purge", "--yes"], check=True)
            shutil.rmtree(directory)


def without_openstack(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment without what the caller's shell says about clouds."""
    return {key: value for key, value in variables.items() if not key.startswith("OS_")}
