"""Service VMs as libvirt knows them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

import libvirt


@contextmanager
def domain(server_id: str) -> Iterator[libvirt.virDomain]:
    with closing(libvirt.open("qemu:///system")) as connection:
        yield connection.lookupByName(f"manila-{server_id}")
