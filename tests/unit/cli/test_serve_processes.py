"""``sharewright serve`` as several processes: it starts again those that end, and none outlives the first."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from subprocess import Popen
from typing import Any
from urllib.error import URLError

import pytest
from test_serve import answering, call, create_share, free_port, start

from scrapes import scrape
from sharewright.cli.service import api_processes
from sharewright.settings import Api, Settings

NETWORK = ("b" * 32, "c" * 32)


@contextmanager
def serving(tmp_path: Path, processes: int, *arguments: str) -> Iterator[tuple[Popen[str], str]]:
    """The first process and the API's base URL, once it answers."""
    port = free_port()
    configuration = tmp_path / "sharewright.toml"
    configuration.write_text(
        f'state_dir = "{tmp_path / "state"}"\n[api]\nport = {port}\nprocesses = {processes}\n'
        '[simulated]\nany_network = true\n[backends.one]\ncloud = "simulated"\n'
    )
    log = tmp_path / "log"
    before = len(log.read_text()) if log.exists() else 0
    process = start(tmp_path, "--config", str(configuration), "serve", *arguments)
    with answering(process, port, tmp_path) as base:
        wait(lambda: len(children(process.pid)) == (processes + 1 if processes else 0))
        # Before that, a process that ends is no reason to start it again, but to give up.
        wait(lambda: not processes or "all processes are ready" in log.read_text()[before:])
        yield process, base


def children(parent: int) -> list[int]:
    """Of a process, in the order of their start; those that have ended and not been waited for are none."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit():
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == parent and fields[0] != "Z":
                    found.append((int(fields[19]), int(entry.name)))
    return [pid for _, pid in sorted(found)]


def wait(reached: Callable[[], Any], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.05)


def there(pid: int) -> bool:
    """Whether the process runs; a dead one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def refused(base: str) -> bool:
    host, _, port = base.removeprefix("http://").partition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        pass
    return False


def test_each_does_its_part_and_all_end_in_good_order(tmp_path: Path) -> None:
    metrics = next(port for port in iter(free_port, 0) if port < 60000)
    with serving(tmp_path, 2, "--metrics-port", str(metrics)) as (process, base):
        worker, *_ = everyone = children(process.pid)
        assert create_share(base, *NETWORK)["status"] == "available"
        told = [scrape(f"http://127.0.0.1:{metrics + number}/metrics") for number in range(3)]
        assert told[0].sum("sharewright_operation_claims_total", kind="create_share") >= 1
        assert [each.sum("sharewright_operation_claims_total") for each in told[1:]] == [0, 0]
        assert told[0].sum("sharewright_http_requests_total") == 0
        assert sum(each.sum("sharewright_http_requests_total", method="POST", route="/v2/shares") for each in told) == 1
        process.send_signal(signal.SIGUSR1)
        wait(lambda: (tmp_path / "log").read_text().count("Current thread") == 4)
        os.kill(worker, signal.SIGINT)  # as from a terminal, to all
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert not any(map(there, everyone))
    said = (tmp_path / "log").read_text()
    assert "Traceback" not in said
    assert said.index("worker stopped") > said.index("stopping")


def connections(pid: int, port: int) -> int:
    """How many a process has that clients made to the port."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    mine = {f"socket:[{row[9]}]" for row in rows if row[3] == "01" and row[1].endswith(f":{port:04X}")}
    found = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            found += str(descriptor.readlink()) in mine
    return found


def test_connections_are_shared_out(tmp_path: Path) -> None:
    with serving(tmp_path, 2) as (process, base), ExitStack() as stack:
        port = int(base.split(":")[2].partition("/")[0])
        apis = children(process.pid)[1:]
        wait(lambda: [connections(pid, port) for pid in apis] == [0, 0])
        for each in range(1, 7):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            wait(lambda number=each: sum(connections(pid, port) for pid in apis) == number)  # type: ignore[misc]
        # On a busy machine one may come too late, and leave its turn to another.
        assert min(connections(pid, port) for pid in apis) >= 2


@pytest.mark.parametrize("number", [0, 1], ids=["worker", "api"])
def test_one_that_is_killed_is_started_again(tmp_path: Path, number: int) -> None:
    with serving(tmp_path, 1) as (process, base):
        killed = children(process.pid)[number]
        os.kill(killed, signal.SIGKILL)
        wait(lambda: killed not in (now := children(process.pid)) and len(now) == 2)
        shares: list[Any] = []

        def created() -> bool:
            with suppress(URLError, ConnectionError):  # the API is on its way
                shares.append(create_share(base, *NETWORK))
            return bool(shares)

        wait(created)
        assert shares[0]["status"] == "available", (tmp_path / "log").read_text()
        assert "started again" in (tmp_path / "log").read_text()


def test_when_the_first_is_killed_all_are_gone_and_it_can_be_started_again(tmp_path: Path) -> None:
    with serving(tmp_path, 2) as (process, base):
        share = create_share(base, *NETWORK)
        everyone = children(process.pid)
        process.kill()
        process.wait(30)
        wait(lambda: not any(map(there, everyone)))
        wait(lambda: refused(base))  # threads that are still ending keep the socket a little longer
    with serving(tmp_path, 2) as (process, base):
        assert call(base, "GET", f"/shares/{share['id']}")["share"]["status"] == "available"


def test_a_first_that_is_gone_before_its_child_could_ask_for_a_signal(tmp_path: Path) -> None:
    """The window between fork and prctl: the child looks whose child it is."""
    from sharewright.cli.family import _die_with

    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _die_with(os.getppid() + 1)  # as if that one had ended
            os.write(writing, b"on it goes")
        finally:
            os._exit(0)
    os.close(writing)
    assert os.read(reading, 100) == b""
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 128 + signal.SIGKILL
    os.close(reading)


def test_what_cannot_be_started_is_told_once(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        taken = holder.getsockname()[1]
        configuration = tmp_path / "sharewright.toml"
        configuration.write_text(
            f'state_dir = "{tmp_path / "state"}"\n[api]\nport = {free_port()}\nprocesses = 2\n'
            '[backends.one]\ncloud = "simulated"\n'
        )
        process = start(tmp_path, "--config", str(configuration), "serve", "--metrics-port", str(taken))
        assert process.wait(120) == 2
    said = (tmp_path / "log").read_text()
    assert said.count("cannot be listened on") == 1
    assert "Traceback" not in said


def test_how_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for usable, expected in ((1, 0), (2, 2), (4, 4), (64, 4)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, usable=usable: set(range(usable)))
        assert api_processes(Settings(api=Api(processes=-1))) == expected
        assert api_processes(Settings()) == 0
        assert api_processes(Settings(api=Api(processes=3))) == 3


def test_all_in_one_process(tmp_path: Path) -> None:
    with serving(tmp_path, 0) as (process, base):
        assert create_share(base, *NETWORK)["status"] == "available"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
