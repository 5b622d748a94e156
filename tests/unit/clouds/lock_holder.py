"""A process that holds a lock; in a module of its own because a spawned process imports it by name."""

from __future__ import annotations

import time
from pathlib import Path

from sharewright.clouds.libvirt.records import Locks


def hold(directory: Path, seconds: float) -> None:
    with Locks(directory).hold("one"):
        (directory / "held").touch()
        time.sleep(seconds)
