"""TCP ports for the services that tests start."""

from __future__ import annotations

import random
import socket
from contextlib import suppress
from typing import Final

# Below what Linux hands out by itself (net.ipv4.ip_local_port_range): between the choice and the service's start, no
# connection of anybody gets the port.
_PORTS: Final = range(12000, 32000)

_claims: list[socket.socket] = []  # kept until this process ends


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on, and that no other call gets while this process lives, whichever test
    process calls. The claim is a name of Linux's abstract Unix sockets, which the kernel takes back by itself."""
    for port in random.sample(_PORTS, len(_PORTS)):
        claim = socket.socket(socket.AF_UNIX)
        with suppress(OSError), socket.socket() as probe:
            claim.bind(f"\0sharewright-test-port-{port}")
            probe.bind(("127.0.0.1", port))
            _claims.append(claim)
            return port
        claim.close()
    raise OSError("no port is free for a test")
