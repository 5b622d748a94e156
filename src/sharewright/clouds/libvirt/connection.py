"""The connection to libvirtd: one per process, opened when needed, opened again after it broke."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt

from sharewright.clouds.libvirt.daemons import Daemons
from sharewright.errors import CloudCapacityExceeded, CloudError, CloudObjectMissing, CloudUnavailable

MISSING = frozenset(
    {
        libvirt.VIR_ERR_NO_DOMAIN,
        libvirt.VIR_ERR_NO_NETWORK,
        libvirt.VIR_ERR_NO_STORAGE_POOL,
        libvirt.VIR_ERR_NO_STORAGE_VOL,
    }
)
BROKEN = frozenset({libvirt.VIR_ERR_INVALID_CONN, libvirt.VIR_ERR_NO_CONNECT, libvirt.VIR_ERR_RPC})
# libvirt gives these texts, and no code of its own, when its socket is lost in the middle of a call.
BROKEN_TEXTS = ("client socket is closed", "end of file while reading", "cannot recv data", "cannot write data")
BUSY = frozenset({libvirt.VIR_ERR_OPERATION_TIMEOUT, libvirt.VIR_ERR_AGENT_UNRESPONSIVE})


def _ignore(_context: object, _error: object) -> None:
    """Errors reach us as exceptions; without a handler libvirt prints them to stderr as well."""


libvirt.registerErrorHandler(_ignore, None)


def is_broken(error: libvirt.libvirtError) -> bool:
    """Whether the error says that the connection is lost, not that the call was refused."""
    if error.get_error_code() in BROKEN:
        return True
    text = str(error).lower()
    return any(part in text for part in BROKEN_TEXTS)


def translate(error: libvirt.libvirtError, doing: str) -> CloudError:
    """One of our errors, with what we were doing, libvirt's reason, and a hint."""
    code = error.get_error_code()
    reason = str(error).strip().rstrip(".")
    message = f"libvirt failed while {doing}: {reason}."
    if is_broken(error):
        return CloudUnavailable(message, hint=UNAVAILABLE_HINT)
    if code in MISSING:
        return CloudObjectMissing(message, hint="It may have been deleted outside of Sharewright.")
    if code in BUSY:
        return CloudUnavailable(message, hint="Another job holds the virtual machine; try again.")
    if "no space left" in reason.lower() or code == libvirt.VIR_ERR_NO_MEMORY:
        return CloudCapacityExceeded(message, hint="Free disk space or memory on the host.")
    if "cannot set up guest memory" in reason.lower():
        return CloudCapacityExceeded(message, hint="The host lacks memory: stop virtual machines or use smaller ones.")
    if code == libvirt.VIR_ERR_AUTH_UNAVAILABLE or code == libvirt.VIR_ERR_ACCESS_DENIED:
        return CloudError(message, hint="Run as root or as a member of the group libvirt.")
    return CloudError(message, hint="See the log of libvirtd (journalctl -u libvirtd).")


UNAVAILABLE_HINT = "Start it: systemctl start libvirtd. Without systemd, set libvirt.start_daemons to true."


class Connection:
    """``use`` gives the open connection and translates errors; calls may run in any number of threads at once."""

    def __init__(self, uri: str, daemons: Daemons | None) -> None:
        self._uri = uri
        self._daemons = daemons
        self._lock = threading.Lock()
        self._connection: Any = None

    @contextlib.contextmanager
    def use(self, doing: str) -> Iterator[Any]:
        """The connection, for a block described by ``doing`` ("attaching a volume"). Raises CloudError and kinds."""
        connection = self._open()
        try:
            yield connection
        except libvirt.libvirtError as error:
            if is_broken(error):
                self._drop(connection)
            raise translate(error, doing) from error

    def mend(self) -> None:
        """Before a machine starts: see to the daemons that libvirtd needs for it."""
        if self._daemons is not None:
            self._daemons.mend()

    def _open(self) -> Any:
        with self._lock:
            if self._connection is not None:
                if self._alive():
                    return self._connection
                self._connection = None
            try:
                self._connection = libvirt.open(self._uri)
            except libvirt.libvirtError as error:
                if self._daemons is None or not self._daemons.may_start(error):
                    raise self._unavailable(error) from error
                self._daemons.start()
                try:
                    self._connection = libvirt.open(self._uri)
                except libvirt.libvirtError as second:
                    raise self._unavailable(second) from second
            return self._connection

    def _unavailable(self, error: libvirt.libvirtError) -> CloudError:
        if "permission denied" in str(error).lower():
            return CloudError(
                f"Not allowed to use libvirt at {self._uri}: {error}.", hint="Run as root or join the group libvirt."
            )
        return CloudUnavailable(f"libvirt does not answer at {self._uri}: {error}.", hint=UNAVAILABLE_HINT)

    def _alive(self) -> bool:
        """Asked of the daemon itself: without an event loop libvirt learns of a lost socket only by using it."""
        try:
            self._connection.getLibVersion()
        except libvirt.libvirtError:
            return False
        return True

    def _drop(self, connection: Any) -> None:
        with self._lock:
            if self._connection is connection:
                self._connection = None

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                with contextlib.suppress(libvirt.libvirtError):
                    self._connection.close()
                self._connection = None


@contextlib.contextmanager
def missing_is_fine() -> Iterator[None]:
    """For deletions: what is gone already is a success."""
    try:
        yield
    except libvirt.libvirtError as error:
        if error.get_error_code() not in MISSING:
            raise


def traversal_problem(path: Path) -> str:
    """The first directory above path that QEMU's user may not pass, or ""."""
    for parent in reversed([path, *path.parents]):
        if parent.exists() and not parent.stat().st_mode & 0o001:
            return str(parent)
    return ""
