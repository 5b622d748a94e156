"""Backup jobs of QEMU: they copy what disks of a running domain held when the job began, while the guest writes on.

libvirt has one at a time per domain, with any number of disks; while one runs, QEMU neither resizes nor lets go of its
disks, and another job waits for half a minute and fails. The targets are qcow2: QEMU writes zeros into a target where
the disk has none, and in a raw file those take the host's space.

Errors are libvirt's own, as in disks.py.
"""

from __future__ import annotations

import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt

from sharewright.clouds.libvirt import disks
from sharewright.clouds.libvirt.xml import add, attribute, parse, render

FORMAT = "qcow2"
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 1.0  # seconds between two looks at a job


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the domain's last job ended. ``size``: bytes of the disks that a backup was of."""

    success: bool
    size: int
    reason: str


def begin(domain: Any, targets: Mapping[str, Path]) -> None:
    """Fix the present content of the disks with these serials, all at one moment, and begin to copy it to new files."""
    root = ET.Element("domainbackup", mode="push")
    parent = add(root, "disks")
    for serial, path in targets.items():
        disk = add(parent, "disk", name=disks.target(domain, serial), backup="yes", type="file")
        add(disk, "driver", type=FORMAT)
        add(disk, "target", file=path)
    domain.backupBegin(render(root), None, 0)


def running(domain: Any) -> dict[str, str]:
    """The files that the domain's backup job writes now, by the disk's name ("sda"); empty without a job."""
    try:
        document = parse(domain.backupGetXMLDesc(0))
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_BACKUP:
            return {}
        raise
    found: dict[str, str] = {}
    for disk in document.findall("disks/disk[@backup='yes']"):
        file = attribute(disk, "target", "file")
        found[disk.get("name", "")] = file or ""
    return found


def copies(domain: Any, serial: str) -> bool:
    """Whether a job copies the disk now."""
    jobs = running(domain)
    return bool(jobs) and disks.target(domain, serial) in jobs


def last_outcome(domain: Any) -> Outcome | None:
    """None when libvirt remembers no job, which it does until QEMU's end and the next job."""
    flags = libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED | libvirt.VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED
    statistics = domain.jobStats(flags)
    if statistics.get("operation") != libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP:
        return None
    success = statistics["type"] == libvirt.VIR_DOMAIN_JOB_COMPLETED and bool(statistics.get("success"))
    return Outcome(success, int(statistics.get("disk_total", 0)), str(statistics.get("errmsg", "")))


def abort(domain: Any) -> None:
    """End the domain's job, which has failed then. Without one: nothing."""
    try:
        domain.abortJob()
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:
            raise


def pauses(end: float) -> Iterator[None]:
    """One turn at once and then one after each pause, longer and longer, until ``end`` of the monotonic clock."""
    pause = FIRST_PAUSE
    while True:
        yield
        left = end - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(pause, left))
        pause = min(pause * 1.5, LONGEST_PAUSE)
