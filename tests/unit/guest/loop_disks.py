"""Real ext4 file systems on loop devices, in a mount namespace of the test's own. Needs root."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sharewright.guest.program.host import Host

_LIBC = ctypes.CDLL(None, use_errno=True)
_NEW_MOUNTS = 0x00020000  # CLONE_NEWNS

needs_loop_devices = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/loop-control").exists(), reason="needs root and loop devices"
)


@contextmanager
def private_mounts() -> Iterator[None]:
    """Mounts that nobody else sees: a namespace made meanwhile by another process would hold copies of them."""
    before = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY)
    place = Path.cwd()
    try:
        _check(_LIBC.unshare(_NEW_MOUNTS))
        run("mount", "--make-rprivate", "/")
        yield
    finally:
        _check(_LIBC.setns(before, _NEW_MOUNTS))
        os.close(before)
        os.chdir(place)


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class LoopHost(Host):
    """A scratch root whose disks and commands are the machine's own; the tools in <root>/usr/sbin come first."""

    def at(self, path: str) -> str:
        return path if f"{path}/".startswith(("/dev/", "/sys/", "/proc/")) else super().at(path)

    def read_bytes(self, path: str) -> bytes:
        data = super().read_bytes(path)
        return data.replace(f" {self.root}/".encode(), b" /") if path == "/proc/self/mountinfo" else data


@contextmanager
def loop_disk(path: Path, gibibytes: int) -> Iterator[str]:
    """A sparse disk; its device."""
    with path.open("wb") as file:
        file.truncate(gibibytes << 30)
    device = run("losetup", "--find", "--show", str(path)).strip()
    try:
        yield device
    finally:
        run("losetup", "--detach", device)
        path.unlink()
