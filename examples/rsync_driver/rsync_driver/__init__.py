"""Shares over the rsync protocol: an example of a share driver that builds on ``service_instance``."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from rsync_driver.driver import PORT, RsyncDriver
from sharewright.drivers.registration import DriverKind

RSYNC: Final = DriverKind(
    make=RsyncDriver,
    client_ports=(PORT,),
    guest_extension=(files("rsync_driver") / "guest.py").read_bytes(),
)
