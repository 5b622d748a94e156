"""Sockets and readiness as systemd hands them over, with real descriptors in real processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sharewright.cli.systemd import notify

REPORT = """
from sharewright.cli.systemd import inherited_socket
from sharewright.errors import ConfigurationError
import os
try:
    passed = inherited_socket()
except ConfigurationError as error:
    print("error:", error.message)
else:
    print(passed.getsockname()[1] if passed else None, "LISTEN_FDS" in os.environ)
"""


def report(passed: socket.socket | None, *, count: str = "1", pid: str = "$$") -> str:
    """What a process says that was started with ``passed`` as its descriptor 3."""
    descriptor = os.devnull if passed is None else f"&{passed.fileno()}"
    done = subprocess.run(
        ["bash", "-c", f'export LISTEN_PID={pid} LISTEN_FDS={count}; exec "$@" 3<{descriptor}', "bash",
         sys.executable, "-c", REPORT],
        pass_fds=[] if passed is None else [passed.fileno()], capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


@pytest.fixture
def listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def test_a_passed_socket_is_taken_once(listening: socket.socket) -> None:
    with listening:
        assert report(listening) == f"{listening.getsockname()[1]} False"


def test_what_is_meant_for_another_process_is_left(listening: socket.socket) -> None:
    with listening:
        assert report(listening, pid="1") == "None False"
        assert report(listening, count="0") == "None False"


def test_anything_but_one_listening_socket_is_refused(listening: socket.socket, tmp_path: Path) -> None:
    with listening:
        assert "systemd passed 2 sockets" in report(listening, count="2")
    assert "no socket" in report(None)
    with socket.socket() as idle:
        assert "no listening TCP socket" in report(idle)
    with socket.socket(socket.AF_UNIX) as local:
        local.bind(str(tmp_path / "socket"))
        local.listen()
        assert "no listening TCP socket" in report(local)


def test_readiness_is_told_where_it_is_wanted(tmp_path: Path) -> None:
    environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")}
    command = [sys.executable, "-c", "from sharewright.cli.systemd import notify; notify('READY=1')"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(environment["NOTIFY_SOCKET"])
        channel.settimeout(30)
        subprocess.run(command, env=environment, check=True)
        assert channel.recv(64) == b"READY=1"
    notify("READY=1")  # nobody wants to know: nothing happens
