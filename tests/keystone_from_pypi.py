"""A real Keystone on the loopback interface: the release from PyPI, SQLite, fernet tokens, waitress.

Its libraries are not ours: it has an environment of its own, build/keystone/venv, which ./check makes of
tests/keystone/requirements.txt and keeps. Preparing an empty one takes about 6 s of a processor.
"""

from __future__ import annotations

import secrets
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from openstack.identity.v3._proxy import Proxy

from deployment import wait_for
from keystone_world import answers, clean, connect
from ports import free_port

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / "build/keystone/venv/bin/python"

# Passwords are hashed with as few rounds as there may be: what is tested is not how long that takes.
CONFIGURATION = """\
[DEFAULT]
log_file = {directory}/keystone.log

[database]
connection = sqlite:///{directory}/keystone.db

[identity]
password_hash_rounds = 4

[token]
provider = fernet

[fernet_tokens]
key_repository = {directory}/fernet

[credential]
key_repository = {directory}/credential
"""


def is_installed() -> bool:
    return PYTHON.exists()


@contextmanager
def running_keystone(directory: Path) -> Iterator[dict[str, str]]:
    """An empty Keystone with its state in ``directory``. Yields the administrator's OS_ variables."""
    port = free_port()
    password = secrets.token_urlsafe(16)
    configuration = directory / "keystone.conf"
    configuration.write_text(CONFIGURATION.format(directory=directory))
    output = directory / "output"
    with output.open("wb") as log:
        process = subprocess.Popen(
            [PYTHON, ROOT / "tests/keystone/run_keystone.py", configuration, str(port)], cwd=directory,
            env=clean({"OS_BOOTSTRAP_PASSWORD": password}), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}/v3"
    try:
        wait_for("Keystone", answers(url, process, output), seconds=300)
        yield {
            "OS_AUTH_URL": url, "OS_USERNAME": "admin", "OS_PASSWORD": password, "OS_PROJECT_NAME": "admin",
            "OS_USER_DOMAIN_NAME": "Default", "OS_PROJECT_DOMAIN_NAME": "Default", "OS_REGION_NAME": "RegionOne",
            "OS_IDENTITY_API_VERSION": "3",
        }  # fmt: skip
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def demo_user(admin: dict[str, str]) -> dict[str, str]:
    """Make what clouds have beside what the bootstrap makes: a project for services, and a user with a project of its
    own. Returns the user's OS_ variables."""
    with connect(admin) as connection:
        identity = cast(Proxy, connection.identity)
        identity.create_project(name="service", domain_id="default")
        project = identity.create_project(name="demo", domain_id="default")
        password = secrets.token_urlsafe(16)
        user = identity.create_user(name="demo", password=password, domain_id="default")
        identity.assign_project_role_to_user(project, user, identity.find_role("member", ignore_missing=False))
    return admin | {"OS_USERNAME": "demo", "OS_PASSWORD": password, "OS_PROJECT_NAME": "demo"}
