"""What systemd offers a service: sockets that it holds for us, and a place to say that we are ready.

Both are protocols of environment variables (sd_listen_fds(3), sd_notify(3)); without them nothing happens.
"""

from __future__ import annotations

import os
import socket
from typing import Final

from sharewright.errors import ConfigurationError

FIRST_DESCRIPTOR: Final = 3  # SD_LISTEN_FDS_START


def inherited_socket() -> socket.socket | None:
    """The listening TCP socket that this process was started with, or None. Raises ConfigurationError for any other
    kind, and for more than one. The variables are taken away, so that no child believes to be meant."""
    count = os.environ.pop("LISTEN_FDS", "")
    meant = os.environ.pop("LISTEN_PID", "") == str(os.getpid())
    os.environ.pop("LISTEN_FDNAMES", None)
    if not meant or not count.isdigit() or count == "0":
        return None
    hint = "Give the socket unit one ListenStream= with a TCP port."
    if count != "1":
        raise ConfigurationError(f"systemd passed {count} sockets, and the API serves one.", hint=hint)
    os.set_inheritable(FIRST_DESCRIPTOR, False)
    try:
        passed = socket.socket(fileno=FIRST_DESCRIPTOR)
        listens = passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise ConfigurationError(f"Descriptor 3 is no socket: {error.strerror}.", hint=hint) from error
    if passed.family not in (socket.AF_INET, socket.AF_INET6) or not listens:
        raise ConfigurationError("systemd passed a socket that is no listening TCP socket.", hint=hint)
    return passed


def notify(state: str) -> None:
    """Tell systemd ("READY=1", "STOPPING=1"), where it wants to know (Type=notify)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # an abstract socket
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.connect(address)
        channel.sendall(state.encode())
