"""What ``sharewright doctor`` asks about this host. Every answer is a fact; doctor.py judges."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import stat
import sys
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """``mode`` is the permission bits. ``writable``: this user may write there."""

    is_directory: bool
    mode: int
    owner: int
    writable: bool


class Host(Protocol):
    def python(self) -> tuple[int, int]: ...

    def user(self) -> int:
        """The effective user id."""
        ...

    def has_program(self, name: str) -> bool: ...

    def has_module(self, name: str) -> bool: ...

    def file(self, path: Path) -> FileFacts | None: ...

    def free_bytes(self, path: Path) -> int:
        """Free space on the file system that holds the path or its nearest existing parent."""
        ...

    def available_memory_mib(self) -> int: ...

    def port_owner(self, address: str, port: int) -> str:
        """ "free", "sharewright" (one of ours answers), or "other"."""
        ...

    def libvirt_failure(self, uri: str) -> str:
        """Empty when libvirt answers, else its reason."""
        ...

    def kvm_failure(self, kernel: Path) -> str:
        """Empty when a virtual machine boots with KVM here, else the reason. ``kernel``: tried out if it exists."""
        ...


class ThisHost:
    """The real one."""

    def python(self) -> tuple[int, int]:
        return sys.version_info[:2]

    def user(self) -> int:
        return os.geteuid()

    def has_program(self, name: str) -> bool:
        # Debian keeps system programs out of an ordinary user's PATH.
        return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") is not None

    def has_module(self, name: str) -> bool:
        return importlib.util.find_spec(name) is not None

    def file(self, path: Path) -> FileFacts | None:
        try:
            facts = path.stat()
        except OSError:
            return None
        return FileFacts(
            is_directory=stat.S_ISDIR(facts.st_mode),
            mode=stat.S_IMODE(facts.st_mode),
            owner=facts.st_uid,
            writable=os.access(path, os.W_OK),
        )

    def free_bytes(self, path: Path) -> int:
        while not path.exists():
            path = path.parent
        return shutil.disk_usage(path).free

    def available_memory_mib(self) -> int:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) // 1024
        return 0

    def port_owner(self, address: str, port: int) -> str:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                return "sharewright" if _is_manila_api(address, port) else "other"
        return "free"

    def libvirt_failure(self, uri: str) -> str:
        import libvirt

        libvirt.registerErrorHandler(lambda _context, _error: None, None)  # it prints to standard error otherwise
        try:
            libvirt.openReadOnly(uri).close()
        except libvirt.libvirtError as error:
            return str(error)
        return ""

    def kvm_failure(self, kernel: Path) -> str:
        from sharewright.clouds.libvirt.accelerator import probe_kvm

        return probe_kvm(kernel if kernel.exists() else None)


def _is_manila_api(address: str, port: int) -> bool:
    connection = HTTPConnection("127.0.0.1" if address == "0.0.0.0" else address, port, timeout=3)  # noqa: S104
    try:
        connection.request("GET", "/")
        return b"application/vnd.openstack.share+json" in connection.getresponse().read(65536)  # its version document
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
