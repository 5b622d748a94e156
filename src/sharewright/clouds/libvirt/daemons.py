"""libvirtd and virtlogd on hosts where no init system runs them. What we did not start, we never end."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import libvirt

from sharewright.clouds.libvirt import reaper
from sharewright.clouds.libvirt.records import write_atomically
from sharewright.errors import CloudUnavailable

# One starter at a time on this host, whatever its state directory is.
# A directory, so that no lock file is left behind.
LOCK = Path("/run")
# With an empty cache libvirtd first asks every QEMU binary for its capabilities, which takes long on a slow host.
START_SECONDS = 120.0
STOP_SECONDS = 30.0
URI = "qemu:///system"
LOG_SOCKET = Path("/run/libvirt/virtlogd-sock")
DAEMONS = (("virtlogd", Path("/run/virtlogd.pid")), ("libvirtd", Path("/run/libvirtd.pid")))


class Daemons:
    """``memory`` is the file in which we note the daemons that we started."""

    def __init__(self, memory: Path) -> None:
        self._memory = memory

    def may_start(self, error: libvirt.libvirtError) -> bool:
        """Whether a failed connection is ours to mend: nobody listens, we are root, and no init system is in charge."""
        text = str(error).lower()
        # "reset": it was just ending when we came; whoever starts it first looks whether it answers.
        lost = ("no such file", "connection refused", "connection reset")
        return _in_charge() and any(reason in text for reason in lost)

    def mend(self) -> None:
        """Start virtlogd when it alone is gone: libvirtd goes on without it and then starts no machine."""
        if _in_charge() and not _listens(LOG_SOCKET):
            with _lock():
                if not _listens(LOG_SOCKET):
                    self._start_one(*DAEMONS[0])

    def start(self) -> None:
        """Start what does not run, and wait until libvirtd answers. CloudUnavailable when it does not."""
        with _lock():
            end = time.monotonic() + START_SECONDS
            while not _answers():
                # Looked at in every round: one that was just ending, or dies as it starts, is started again.
                for name, pid_file in DAEMONS:
                    if _process_of(pid_file, name) is None and not (name == "virtlogd" and _listens(LOG_SOCKET)):
                        self._start_one(name, pid_file)
                if time.monotonic() > end:
                    raise CloudUnavailable(
                        f"libvirtd was started but did not answer within {START_SECONDS:g} s.",
                        hint="Run libvirtd in a terminal to see why.",
                    )
                time.sleep(0.1)

    def _start_one(self, name: str, pid_file: Path) -> None:
        program = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        if program is None:
            raise CloudUnavailable(
                f"{name} is not installed.", hint="Install libvirt-daemon-system and qemu-system-x86."
            )
        # A session of its own, so that Ctrl-C in our terminal does not reach it.
        result = subprocess.run(
            [sys.executable, "-m", reaper.__name__, program, "--daemon", "--pid-file", str(pid_file)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            start_new_session=True,
            check=False,
        )
        if result.returncode:
            raise CloudUnavailable(
                f"{name} did not start: {result.stderr.strip() or result.returncode}.",
                hint=f"Run {name} in a terminal to see why.",
            )
        end = time.monotonic() + START_SECONDS
        while (process := _process_of(pid_file, name)) is None:
            if time.monotonic() > end:
                raise CloudUnavailable(f"{name} wrote no {pid_file}.", hint=f"Run {name} in a terminal to see why.")
            time.sleep(0.05)
        write_atomically(self._memory, json.dumps({**self._started(), name: process}).encode())

    def stop(self) -> list[str]:
        """End exactly the daemons that we started and that still run; return their names. None while a virtual machine
        runs, whoever's: it would be left without its manager."""
        stopped: list[str] = []
        with _lock():
            started = self._started()
            if started and _machines_run():
                return []
            for name, _ in reversed(DAEMONS):
                if name in started and _still_runs(name, started[name]):
                    process = started[name][0]
                    with suppress(ProcessLookupError):
                        os.kill(process, signal.SIGTERM)
                    end = time.monotonic() + STOP_SECONDS
                    while _still_runs(name, started[name]) and time.monotonic() < end:
                        time.sleep(0.05)
                    stopped.append(name)
            self._memory.unlink(missing_ok=True)
        return stopped

    def _started(self) -> dict[str, tuple[int, int]]:
        try:
            data = json.loads(self._memory.read_bytes())
        except (OSError, ValueError):
            return {}
        return {name: (int(process), int(ticks)) for name, (process, ticks) in data.items()}


def _in_charge() -> bool:
    """Whether the daemons are ours to start: we are root and there is no init system that does it."""
    return os.geteuid() == 0 and not Path("/run/systemd/system").is_dir()


def _answers() -> bool:
    try:
        libvirt.open(URI).close()
    except libvirt.libvirtError:
        return False
    return True


def _listens(path: Path) -> bool:
    """Whether some process serves the socket, however it was started."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True


def _machines_run() -> bool:
    try:
        connection = libvirt.open(URI)
        running = connection.numOfDomains() > 0
        connection.close()
    except libvirt.libvirtError:
        return False
    return bool(running)


def _process_of(pid_file: Path, name: str) -> tuple[int, int] | None:
    """(process id, start time) of the running daemon that the file names."""
    try:
        process = int(pid_file.read_text())
    except (OSError, ValueError):
        return None
    ticks = _start_ticks(process, name)
    return (process, ticks) if ticks is not None else None


def _still_runs(name: str, process: tuple[int, int]) -> bool:
    return _start_ticks(process[0], name) == process[1]


def _start_ticks(process: int, name: str) -> int | None:
    """When the process started, in clock ticks since boot, if it runs under that name (guards against reused ids)."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return None
    command, _, rest = text.partition("(")[2].rpartition(")")
    fields = rest.split()
    if command != name or fields[0] == "Z":
        return None
    return int(fields[19])


@contextmanager
def _lock() -> Iterator[None]:
    directory = os.open(LOCK, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)
