"""Which instances there are: libvirt domains, with what we noted in their metadata; found, read, and held by a lock."""

from __future__ import annotations

import contextlib
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from typing import Any

import libvirt

from sharewright.clouds.contract import TAG_DEPLOYMENT, Instance
from sharewright.clouds.libvirt.connection import Connection, missing_is_fine
from sharewright.clouds.libvirt.domain import Mark, find_disk, is_uuid, read_mark
from sharewright.clouds.libvirt.records import Locks
from sharewright.clouds.libvirt.xml import NAMESPACE, parse
from sharewright.errors import CloudObjectMissing
from sharewright.identifiers import short_hash

RUNNING = frozenset({libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED})
PAUSED = frozenset({libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PMSUSPENDED})


class Instances:
    """An instance's id is the domain's UUID, new for each domain; its lock goes by its name."""

    def __init__(self, connection: Connection, locks: Locks, deployment: str) -> None:
        self._connection = connection
        self._locks = locks
        self._deployment = deployment

    def mark(self, domain: Any) -> Mark | None:
        """Our note in the domain, or None when it is not of this deployment."""
        mark = _note_of(domain)
        return mark if mark is not None and mark.tags.get(TAG_DEPLOYMENT) == self._deployment else None

    def ours(self) -> Iterator[tuple[Any, Mark]]:
        with self._connection.use("listing instances") as connection:
            for domain in connection.listAllDomains(0):
                mark = self.mark(domain)
                if mark is not None:
                    yield domain, mark

    def find(self, connection: Any, instance_id: str) -> tuple[Any, Mark | None]:
        domain = lookup(connection.lookupByUUIDString, instance_id) if is_uuid(instance_id) else None
        return domain, None if domain is None else self.mark(domain)

    @contextlib.contextmanager
    def hold(self, instance_id: str, timeout: float) -> Iterator[Any]:
        """The domain, under the instance's lock. CloudObjectMissing when there is none of ours."""
        with self._connection.use("looking for an instance") as connection:
            domain, mark = self.find(connection, instance_id)
        with self._locked(domain if mark is not None else None, instance_id, timeout):
            yield domain

    @contextlib.contextmanager
    def hold_any(self, instance_id: str, timeout: float) -> Iterator[Any]:
        """The same, of anybody's machine: nothing may be done there but with volumes of ours."""
        with self._connection.use("looking for an instance") as connection:
            domain, _ = self.find(connection, instance_id)
        with self._locked(domain, instance_id, timeout):
            yield domain

    @contextlib.contextmanager
    def _locked(self, domain: Any, instance_id: str, timeout: float) -> Iterator[None]:
        with self._connection.use("looking for an instance"):
            name = None if domain is None else domain.name()
        if name is None:
            raise CloudObjectMissing(f"There is no instance {instance_id}.", hint="It may have been deleted.")
        with self.lock(name, timeout):
            yield

    def lock(self, name: str, timeout: float) -> contextlib.AbstractContextManager[None]:
        """Nobody else makes or changes the instance of that name meanwhile."""
        return self._locks.hold(f"instance-{short_hash(name)}", timeout=timeout)

    def holds(self, instance_id: str, volume_id: str) -> bool:
        """Whether the instance exists and has the volume among its disks, now or at its next start."""
        with self._connection.use("looking for a disk") as connection, missing_is_fine():
            domain, _ = self.find(connection, instance_id)
            if domain is not None:
                return any(find_disk(document, volume_id) is not None for document in definitions(domain).values())
        return False

    def active_domain(self, instance_id: str) -> Any:
        """The domain of an instance, ours or a named one, that has a QEMU, paused or not; None when there is none."""
        with self._connection.use("looking for an instance") as connection, missing_is_fine():
            domain, _ = self.find(connection, instance_id)
            if domain is not None and domain.isActive():
                return domain
        return None


def lookup(method: Any, key: str) -> Any:
    try:
        return method(key)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def tags_of(domain: Any) -> Mapping[str, str]:
    """Tags that any deployment has noted."""
    mark = _note_of(domain)
    return {} if mark is None else mark.tags


def _note_of(domain: Any) -> Mark | None:
    """The note of whatever deployment."""
    try:
        return read_mark(domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, NAMESPACE, 0))
    except libvirt.libvirtError as error:
        if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN_METADATA, libvirt.VIR_ERR_NO_DOMAIN):
            return None
        raise


def definitions(domain: Any) -> dict[int, ET.Element]:
    """The definition for the next start, by the flag that changes it, and of a running domain also the present one."""
    found = {libvirt.VIR_DOMAIN_AFFECT_CONFIG: parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))}
    if domain.isActive():
        found[libvirt.VIR_DOMAIN_AFFECT_LIVE] = parse(domain.XMLDesc(0))
    return found


def instance_of(domain: Any, tags: Any) -> Instance:
    state, reason = domain.state()
    failure = ""
    if state in PAUSED:
        failure = "paused by QEMU after an error of a disk; is the host's file system full?"
        if reason != libvirt.VIR_DOMAIN_PAUSED_IOERROR:
            failure = "paused"
    elif state == libvirt.VIR_DOMAIN_CRASHED or (
        state == libvirt.VIR_DOMAIN_SHUTOFF
        and reason in (libvirt.VIR_DOMAIN_SHUTOFF_CRASHED, libvirt.VIR_DOMAIN_SHUTOFF_FAILED)
    ):
        failure = "QEMU ended unexpectedly; see /var/log/libvirt/qemu"
    return Instance(
        id=domain.UUIDString(), name=domain.name(), running=state in RUNNING, tags=dict(tags), failure=failure
    )
