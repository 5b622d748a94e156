"""``sharewright serve --cloud simulated`` as a user runs it: a process, signals, the stock way to talk to it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from ports import free_port
from scrapes import scrape

NOBODY = 65534


@contextmanager
def serving(tmp_path: Path, *arguments: str, **more: Any) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and the API's base URL, once it answers."""
    port = free_port()
    process = start(tmp_path, "serve", "--cloud", "simulated", "--port", str(port), *arguments, **more)
    with answering(process, port, tmp_path) as base:
        yield process, base


def start(tmp_path: Path, *arguments: str, **more: Any) -> subprocess.Popen[str]:
    with (tmp_path / "log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "sharewright.cli.main", *arguments], stdout=log, stderr=log, text=True, **more
        )


@contextmanager
def answering(process: subprocess.Popen[str], port: int, tmp_path: Path) -> Iterator[str]:
    """The base URL, once the API answers; the process is gone afterwards."""
    base = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 180
        while True:
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < end, (tmp_path / "log").read_text()
            with suppress(OSError), urllib.request.urlopen(f"{base}/healthcheck", timeout=2):
                break
            time.sleep(0.1)
        yield base
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)


def call(base: str, method: str, path: str, body: Any = None) -> Any:
    request = urllib.request.Request(
        f"{base}/v2{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json", "X-OpenStack-Manila-API-Version": "2.51"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read() or b"null")


def create_share(base: str, network_id: str, subnet_id: str) -> dict[str, Any]:
    """A share of 1 GiB on that network, as it is once it is not being made any more."""
    body = {"share_network": {"neutron_net_id": network_id, "neutron_subnet_id": subnet_id}}
    network = call(base, "POST", "/share-networks", body)["share_network"]
    wanted = {"share": {"share_proto": "NFS", "size": 1, "share_network_id": network["id"], "name": "one"}}
    share: dict[str, Any] = call(base, "POST", "/shares", wanted)["share"]
    end = time.monotonic() + 180
    while share["status"] == "creating" and time.monotonic() < end:
        time.sleep(0.2)
        share = call(base, "GET", f"/shares/{share['id']}")["share"]
    return share


def test_without_root_a_share_becomes_available(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    for parent in list(tmp_path.parents)[:3]:
        if parent.stat().st_uid == os.geteuid() and str(parent) != "/tmp":
            parent.chmod(0o755)
    unprivileged = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path)}
    with serving(tmp_path, env=environment, cwd="/", **unprivileged) as (process, base):
        log = (tmp_path / "log").read_text()
        assert "SIMULATED" in log
        found = re.search(r"--neutron-net-id (\S+) .*?--neutron-subnet-id (\S+)", log, re.DOTALL)
        assert found is not None
        share = create_share(base, found[1], found[2])
        assert share["status"] == "available", (tmp_path / "log").read_text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert not list(tmp_path.glob("sharewright-simulated-*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_stop_it_in_good_order(tmp_path: Path, number: signal.Signals) -> None:
    pid_file = tmp_path / "pid"
    arguments = ["--state-dir", str(tmp_path / "state"), "--pid-file", str(pid_file)]
    with serving(tmp_path, *arguments) as (process, _base):
        assert int(pid_file.read_text()) == process.pid
        process.send_signal(signal.SIGHUP)
        process.send_signal(number)
        assert process.wait(30) == 0
    assert not pid_file.exists()
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert (tmp_path / "state" / "sharewright.db").exists()


def test_api_and_worker_apart_on_postgresql(tmp_path: Path, postgresql_url: str) -> None:
    """Both tell their own metrics, and the same about the deployment."""
    port = free_port()
    metrics = {"api": free_port(), "worker": free_port()}
    configuration = tmp_path / "sharewright.toml"
    configuration.write_text(
        f'state_dir = "{tmp_path / "state"}"\n[api]\nport = {port}\n[database]\nurl = "{postgresql_url}"\n'
        '[backends.one]\ncloud = "simulated"\n'
    )
    made = subprocess.run(
        [sys.executable, "-m", "sharewright.cli.main", "--config", configuration, "network", "create", "blue",
         "10.99.0.0/24", "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    network = json.loads(made.stdout)[0]
    api, worker = (
        start(tmp_path, "--config", str(configuration), name, "--metrics-port", str(number))
        for name, number in metrics.items()
    )
    try:
        with answering(api, port, tmp_path) as base:
            share = create_share(base, network["id"], network["subnet_id"])
            assert share["status"] == "available", (tmp_path / "log").read_text()
            told = {name: scrape(f"http://127.0.0.1:{number}/metrics") for name, number in metrics.items()}
            assert told["worker"].sum("sharewright_operation_claims_total", kind="create_share") >= 1
            assert told["worker"].sum("sharewright_http_requests_total") == 0
            assert told["api"].sum("sharewright_http_requests_total", method="POST", route="/v2/shares") == 1
            for number in metrics.values():
                deployment = scrape(f"http://127.0.0.1:{number}/deployment")
                assert deployment.sum("sharewright_share_size_bytes", share_id=share["id"]) == 2**30
            for process in (worker, api):
                process.send_signal(signal.SIGTERM)
                assert process.wait(30) == 0
    finally:
        for process in (worker, api):
            if process.poll() is None:
                process.kill()
            process.wait(10)


def test_a_taken_port_is_told(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        done = subprocess.run(
            [
                sys.executable, "-m", "sharewright.cli.main", "serve", "--cloud", "simulated",
                "--port", str(holder.getsockname()[1]), "--state-dir", str(tmp_path / "state"),
            ],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert "cannot be listened on" in done.stderr
    assert "Traceback" not in done.stderr
