"""A whole Sharewright as a user runs it: the ``sharewright`` command, a configuration file, the stock clients."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openstack
from openstack.connection import Connection

SHAREWRIGHT = Path(sys.executable).parent / "sharewright"
OPENSTACK = Path(sys.executable).parent / "openstack"
PASSWORD = "a password for tests"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_for(what: str, condition: Callable[[], Any], *, seconds: float = 120, interval: float = 0.25) -> Any:
    """The first true value of ``condition()``."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds} s")
        time.sleep(interval)


class Deployment:
    """One installation in ``directory``. ``users`` maps a user's name to (project, roles)."""

    def __init__(self, directory: Path, configuration: str, *, name: str, users: dict[str, tuple[str, str]]) -> None:
        self.directory = directory
        self.state_dir = directory / "state"
        self.port = free_port()
        self.users = users
        self.config = directory / "sharewright.toml"
        self.log = directory / "service.log"
        self.config.write_text(
            f'state_dir = "{self.state_dir}"\ndeployment = "{name}"\nnode = "node"\n'
            f'[identity]\nmode = "http_basic"\nuser_file = "{directory / "users.json"}"\n'
            f"[api]\nport = {self.port}\n{configuration}"
        )
        self.process: subprocess.Popen[bytes] | None = None
        for user, (project, roles) in users.items():
            self.command(
                "user", "add", user, "--project", project, *(f"--role={role}" for role in roles.split()),
                "--password-stdin", input=PASSWORD,
            )  # fmt: skip

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}/v2"

    def command(self, *arguments: str, input: str | None = None, check: bool = True) -> str:
        """Run ``sharewright ARGUMENTS`` and return what it prints."""
        done = subprocess.run(
            [SHAREWRIGHT, "--config", self.config, *arguments], input=input, text=True, capture_output=True, check=False
        )
        if check and done.returncode != 0:
            raise AssertionError(f"sharewright {' '.join(arguments)} exited {done.returncode}:\n{done.stderr}")
        return done.stdout

    def openstack(self, user: str, *arguments: str, check: bool = True) -> str:
        """Run the stock client, ``openstack share ARGUMENTS``, as a user of the tenant."""
        done = subprocess.run(
            [
                OPENSTACK, "--os-auth-type", "http_basic", "--os-username", user, "--os-password", PASSWORD,
                "--os-endpoint", self.endpoint, "share", *arguments,
            ],
            text=True, capture_output=True, check=False,
            env={key: value for key, value in os.environ.items() if not key.startswith("OS_")},
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
            auth_type="http_basic",
            username=user,
            password=PASSWORD,
            endpoint=self.endpoint,
            shared_file_system_endpoint_override=self.endpoint,
            shared_file_system_default_microversion=microversion,
        )

    def start(self, *, seconds: float = 120) -> None:
        """Start the service and wait until its API answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [SHAREWRIGHT, "--config", self.config, "serve"], stdout=log, stderr=log, start_new_session=True
            )
        wait_for("the API", self._answers, seconds=seconds)

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"The service exited with {self.process.returncode}:\n{self.tail()}")
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthcheck", timeout=2) as answer,
        ):
            return bool(answer.status == 200)
        return False

    def stop(self, *, seconds: float = 60) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(seconds)
        self.process = None

    def kill(self) -> None:
        """SIGKILL to every process of the service."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)
        self.process = None

    def tail(self, lines: int = 60) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    def purge(self) -> None:
        self.stop()
        self.command("purge", "--yes")
