"""Instances: libvirt domains that carry our tags in their metadata."""

from __future__ import annotations

import contextlib
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import libvirt

from sharewright.clouds.contract import TAG_DEPLOYMENT, Instance, InstanceSpec, cloud_calls
from sharewright.clouds.libvirt import accelerator as accelerators
from sharewright.clouds.libvirt import block_jobs, images
from sharewright.clouds.libvirt.connection import Connection, missing_is_fine
from sharewright.clouds.libvirt.domain import (
    Machine,
    Mark,
    define,
    find_disk,
    find_nic,
    free_slot,
    has_scsi_controller,
    is_uuid,
    mark_element,
    nic,
    read_mark,
    volume_disk,
)
from sharewright.clouds.libvirt.layout import Layout
from sharewright.clouds.libvirt.networks import LibvirtNetworks
from sharewright.clouds.libvirt.records import Locks
from sharewright.clouds.libvirt.storage import LibvirtVolumes
from sharewright.clouds.libvirt.xml import NAMESPACE, parse, render
from sharewright.clouds.tags import refuse_share_server, tags_to_store
from sharewright.errors import CloudCapacityExceeded, CloudError, CloudObjectMissing, DeadlineExceeded
from sharewright.identifiers import new_id, short_hash

POLL_SECONDS = 0.05
RUNNING = frozenset({libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED})
PAUSED = frozenset({libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PMSUSPENDED})
# Gone meanwhile, or the guest still considers an earlier request, or a job on the disk is about to end.
LETTING_GO = frozenset(
    {
        libvirt.VIR_ERR_DEVICE_MISSING,
        libvirt.VIR_ERR_OPERATION_FAILED,
        libvirt.VIR_ERR_OPERATION_UNSUPPORTED,
        libvirt.VIR_ERR_BLOCK_COPY_ACTIVE,
    }
)
SNAPSHOT_SHARE = 0.5  # of a detach's time: how long a snapshot that is being copied may take before it is given up
UNDEFINE = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
)


class LibvirtCompute:
    """Contract Compute. An instance's id is the domain's UUID, new for each domain."""

    def __init__(
        self,
        connection: Connection,
        layout: Layout,
        locks: Locks,
        networks: LibvirtNetworks,
        wanted_accelerator: Literal["auto", "kvm", "tcg"],
    ) -> None:
        self._connection = connection
        self._layout = layout
        self._locks = locks
        self._networks = networks
        self._wanted_accelerator = wanted_accelerator
        self._volumes: LibvirtVolumes | None = None

    def use_volumes(self, volumes: LibvirtVolumes) -> None:
        """Volumes and compute need each other; the cloud object introduces them."""
        self._volumes = volumes

    # ---- contract ----

    def ensure_instance(self, spec: InstanceSpec, *, timeout: float) -> Instance:
        cloud_calls.count += 1
        tags = tags_to_store(spec.tags, self._layout.deployment, spec.name)
        end = time.monotonic() + timeout
        with self._locks.hold(f"instance-{short_hash(spec.name)}", timeout=timeout):
            with self._connection.use(f"looking for instance {spec.name}") as connection:
                domain = _lookup(connection.lookupByName, spec.name)
                mark = self._mark(domain) if domain is not None else None
            if domain is None:
                domain = self._create(spec, tags)
            elif mark is None:
                raise CloudError(
                    f"A virtual machine named {spec.name} exists and is not ours.", hint="Rename or remove it."
                )
            elif not set(mark.ports) <= {port.id for port in spec.ports}:
                raise CloudError(f"Instance {spec.name} exists with other ports.", hint="Delete it first.")
            else:
                self._plug(domain, mark, spec)
                self._start(domain, max(0.0, end - time.monotonic()))
            with self._connection.use(f"reading instance {spec.name}"):
                return _instance(domain, tags if mark is None else mark.tags)

    def find_instance(self, instance_id: str) -> Instance | None:
        cloud_calls.count += 1
        with self._connection.use("looking for an instance") as connection, missing_is_fine():
            domain, mark = self._find(connection, instance_id)
            if domain is not None and mark is not None:
                return _instance(domain, mark.tags)
        return None

    def find_named_instance(self, reference: str) -> Instance | None:
        """libvirt's names are unique; of addresses it knows nothing that a guest could not forge."""
        cloud_calls.count += 1
        with self._connection.use("looking for a machine") as connection, missing_is_fine():
            domain = _lookup(connection.lookupByUUIDString, reference) if is_uuid(reference) else None
            domain = domain or _lookup(connection.lookupByName, reference)
            if domain is not None:
                tags = self._any_mark(domain)
                refuse_share_server(tags, domain.name())
                return _instance(domain, tags)
        return None

    def list_instances(self) -> Sequence[Instance]:
        cloud_calls.count += 1
        found: list[Instance] = []
        with self._connection.use("listing instances"):
            for domain, mark in self._ours():
                with missing_is_fine():  # deleted since it was listed
                    found.append(_instance(domain, mark.tags))
        return found

    def start_instance(self, instance_id: str, *, timeout: float) -> None:
        cloud_calls.count += 1
        with self._hold(instance_id, timeout) as domain:
            self._start(domain, timeout)

    def reboot_instance(self, instance_id: str, *, timeout: float) -> None:
        cloud_calls.count += 1
        end = time.monotonic() + timeout
        with self._hold(instance_id, timeout) as domain:
            self._power_off(domain, end)
            self._start(domain, max(0.0, end - time.monotonic()))

    def delete_instance(self, instance_id: str, *, timeout: float) -> None:
        cloud_calls.count += 1
        end = time.monotonic() + timeout
        try:
            with self._hold(instance_id, timeout) as domain:
                self._delete(domain, instance_id, end)
        except CloudObjectMissing:
            return

    def attach_volume(self, instance_id: str, volume_id: str, *, timeout: float) -> None:
        cloud_calls.count += 1
        assert self._volumes is not None  # noqa: S101 (the cloud object sets it)
        with self._hold_any(instance_id, timeout) as domain, self._volumes.held(volume_id, timeout=timeout):
            with self._connection.use("looking at an instance"):
                _require_room_for_volumes(domain)
            record = self._volumes.claim(volume_id, instance_id)
            with self._connection.use(f"attaching volume {record['name']}"):
                documents = _documents(domain)
                present = {flag: find_disk(document, volume_id) for flag, document in documents.items()}
                flags = sum(flag for flag, disk in present.items() if disk is None)
                if not flags:
                    return
                disk = next((disk for disk in present.values() if disk is not None), None)
                if disk is None or disk.find("address") is None:
                    slot = free_slot(documents.values())
                    disk = volume_disk(self._volumes.path(record), record["format"], volume_id, slot)
                try:
                    domain.attachDeviceFlags(render(disk), flags)
                except libvirt.libvirtError as error:
                    if all(find_disk(document, volume_id) is None for document in _documents(domain).values()):
                        self._volumes.release(volume_id, instance_id)
                    if "is locked" in str(error) or 'Failed to get "write" lock' in str(error):
                        raise CloudError(
                            f"Volume {record['name']} is in use by a process outside of Sharewright: {error}.",
                            hint="End what holds its file.",
                        ) from error
                    raise

    def detach_volume(self, instance_id: str, volume_id: str, *, timeout: float) -> None:
        cloud_calls.count += 1
        assert self._volumes is not None  # noqa: S101 (the cloud object sets it)
        end = time.monotonic() + timeout
        self._await_snapshot(instance_id, volume_id, end - timeout * (1 - SNAPSHOT_SHARE))
        try:
            with self._hold_any(instance_id, timeout) as domain, self._volumes.held(volume_id, timeout=timeout):
                self._detach(domain, volume_id, end)
        except CloudObjectMissing:
            pass
        self._volumes.release(volume_id, instance_id)

    def detach_port(self, instance_id: str, port_id: str, *, timeout: float) -> None:
        cloud_calls.count += 1
        end = time.monotonic() + timeout
        record = self._networks.port_record(port_id)
        with contextlib.suppress(CloudObjectMissing), self._hold(instance_id, timeout) as domain:
            if record is not None:
                self._unplug(domain, record["mac"], end)
            mark = self._mark(domain)
            if mark is not None and port_id in mark.ports:
                self._note_ports(domain, mark, tuple(each for each in mark.ports if each != port_id))

    def console_log(self, instance_id: str, *, length: int = 8192) -> str:
        cloud_calls.count += 1
        if not is_uuid(instance_id):
            return ""
        try:
            with self._console(instance_id).open("rb") as file:
                size = file.seek(0, 2)
                file.seek(max(0, size - length))
                return file.read(length).decode(errors="replace")
        except FileNotFoundError:
            return ""

    # ---- for volumes, the cloud object and purge ----

    def holds(self, instance_id: str, volume_id: str) -> bool:
        """Whether the instance exists and has the volume among its disks, now or at its next start."""
        with self._connection.use("looking for a disk") as connection, missing_is_fine():
            domain, _ = self._find(connection, instance_id)
            if domain is not None:
                return any(find_disk(document, volume_id) is not None for document in _documents(domain).values())
        return False

    def active_domain(self, instance_id: str) -> Any:
        """The domain of an instance, ours or a named one, that has a QEMU, paused or not; None when there is none."""
        with self._connection.use("looking for an instance") as connection, missing_is_fine():
            domain, _ = self._find(connection, instance_id)
            if domain is not None and domain.isActive():
                return domain
        return None

    def accelerator(self, kernel: Path | None = None) -> accelerators.Accelerator:
        """What new instances run on; the first call after a host's boot takes as long as the probe."""
        with self._locks.hold("accelerator"):
            return accelerators.choose_accelerator(self._wanted_accelerator, self._layout.accelerator, kernel)

    def stop_all(self, *, timeout: float) -> None:
        """Shut every instance down, by force when it does not follow; definitions and disks stay."""
        end = time.monotonic() + timeout
        with self._connection.use("shutting instances down"):
            domains = [domain for domain, _ in self._ours() if domain.isActive()]
            for domain in domains:
                with contextlib.suppress(libvirt.libvirtError):
                    domain.shutdown()
            while any(domain.isActive() for domain in domains) and time.monotonic() < end:
                time.sleep(POLL_SECONDS)
            for domain in domains:
                self._power_off(domain, time.monotonic() + timeout)

    def purge(self) -> None:
        """Delete every instance of ours."""
        with self._connection.use("deleting instances"):
            ids = [domain.UUIDString() for domain, _ in self._ours()]
        for instance_id in ids:
            self.delete_instance(instance_id, timeout=60.0)

    # ---- creation ----

    def _create(self, spec: InstanceSpec, tags: dict[str, str]) -> Any:
        instance_id = new_id()
        directory = self._layout.instances / instance_id
        self._tidy()
        image = images.adopt_image(Path(spec.image) if spec.image else self._layout.default_image, self._layout.images)
        kernel = image.directory / images.KERNEL if image.kernel_arguments is not None else None
        chosen = self.accelerator(kernel)
        taps = self._taps(spec)
        self._networks.restore()
        machine = Machine(
            id=instance_id,
            name=spec.name,
            tags=tags,
            flavor=spec.flavor,
            image=image,
            ports=spec.ports,
            networks={port.id: self._networks.network_name(port.subnet.network_id) for port in spec.ports},
            taps=taps,
            directory=directory,
            console=self._console(instance_id),
            accelerator=chosen,
        )
        self._connection.mend()
        try:
            images.make_files(directory, image, spec.files)
            with self._connection.use(f"starting instance {spec.name}") as connection:
                domain = connection.defineXMLFlags(render(define(machine)), libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
                domain.setAutostart(True)
                domain.create()
        except BaseException:
            with contextlib.suppress(CloudError), self._connection.use("undoing a creation") as connection:
                domain = _lookup(connection.lookupByUUIDString, instance_id)
                if domain is not None:
                    self._delete(domain, instance_id, time.monotonic() + 30.0)
            with contextlib.suppress(CloudError):
                images.remove_files(directory)
            raise
        return domain

    def _tidy(self) -> None:
        """Remove what creations and deletions that died have left."""
        with self._connection.use("listing instances"):
            marks = {domain.UUIDString(): mark for domain, mark in self._ours()}
        images.remove_orphans(self._layout.instances, marks)
        images.remove_orphans(self._layout.consoles, marks)
        images.remove_unused_images(self._layout.images, {mark.image for mark in marks.values() if mark.image})

    def _console(self, instance_id: str) -> Path:
        return self._layout.consoles / f"{instance_id}.log"

    # ---- NICs of a machine that exists ----

    def _plug(self, domain: Any, mark: Mark, spec: InstanceSpec) -> None:
        """Give the machine the ports that it lacks, now and at its next start."""
        missing = [port for port in spec.ports if port.id not in mark.ports]
        if not missing:
            return
        taps = self._taps(spec)
        self._networks.restore()
        for port in missing:
            network = self._networks.network_name(port.subnet.network_id)
            with self._connection.use(f"plugging a NIC into {spec.name}"):
                flags = sum(flag for flag, each in _documents(domain).items() if find_nic(each, port.mac) is None)
                try:
                    if flags:
                        domain.attachDeviceFlags(render(nic(port, network, taps[port.id])), flags)
                except libvirt.libvirtError as error:
                    if "PCI" not in str(error):
                        raise
                    raise CloudCapacityExceeded(
                        f"{spec.name} has no room for another NIC while it runs: {error}.",
                        hint="A share server that is made anew has it.",
                    ) from error
        self._note_ports(domain, mark, tuple(port.id for port in spec.ports))

    def _unplug(self, domain: Any, mac: str, end: float) -> None:
        with self._connection.use("unplugging a NIC"):
            while True:
                present = {
                    flag: found
                    for flag, document in _documents(domain).items()
                    if (found := find_nic(document, mac)) is not None
                }
                if not present:
                    return
                for flag, found in present.items():
                    try:
                        domain.detachDeviceFlags(render(found), flag)
                    except libvirt.libvirtError as error:
                        if error.get_error_code() not in LETTING_GO:
                            raise
                if time.monotonic() >= end:
                    raise DeadlineExceeded(f"The instance did not let go of its NIC {mac} in time.")
                time.sleep(POLL_SECONDS)

    def _note_ports(self, domain: Any, mark: Mark, ports: tuple[str, ...]) -> None:
        text = render(mark_element(replace(mark, ports=ports), qualified=False))
        with self._connection.use("noting an instance's ports"):
            flags = sum(_documents(domain))
            domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, text, "sharewright", NAMESPACE, flags)

    def _taps(self, spec: InstanceSpec) -> dict[str, str]:
        """The devices of the spec's ports on this host, by their ids. CloudObjectMissing when there is no such port."""
        taps: dict[str, str] = {}
        for port in spec.ports:
            record = self._networks.port_record(port.id)
            if record is None:
                raise CloudObjectMissing(f"There is no port {port.id} for {spec.name}.", hint="Make the port again.")
            taps[port.id] = record["device"]
        return taps

    # ---- life and death ----

    def _start(self, domain: Any, timeout: float) -> None:
        with self._connection.use("starting an instance"):
            state = domain.state()[0]
            if state in RUNNING:
                return
            if state in PAUSED:
                domain.resume()
                return
            mark = self._mark(domain)
            for port_id in mark.ports if mark else ():
                record = self._networks.port_record(port_id)
                if record is not None:
                    self._networks.network_name(record["network_id"])
            self._networks.restore(timeout=max(timeout, 1.0))
            self._connection.mend()
            with self._held_disks(domain, timeout):
                domain.create()

    def _held_disks(self, domain: Any, timeout: float) -> contextlib.AbstractContextManager[None]:
        """Volumes whose files are being copied are not written to before that is done."""
        assert self._volumes is not None  # noqa: S101 (the cloud object sets it)
        found = parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)).findall("devices/disk")
        serials = [serial for disk in found if (serial := disk.findtext("serial"))]
        return self._volumes.held(*serials, timeout=max(timeout, 1.0))

    def _power_off(self, domain: Any, end: float) -> None:
        """Return when its process is gone. libvirt gives up on a process that is slow to die; we do not."""
        with self._connection.use("powering an instance off"):
            while domain.isActive():
                try:
                    domain.destroy()
                except libvirt.libvirtError as error:
                    if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                        return
                    if error.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID and not domain.isActive():
                        return
                    if time.monotonic() >= end:
                        raise
                    time.sleep(POLL_SECONDS)

    def _delete(self, domain: Any, instance_id: str, end: float) -> None:
        with missing_is_fine():
            self._power_off(domain, end)
            with self._connection.use("deleting an instance"), missing_is_fine():
                disks = parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)).findall("devices/disk")
                serials = [disk.findtext("serial") for disk in disks]
                domain.undefineFlags(UNDEFINE)
                for serial in serials:
                    if serial and self._volumes is not None:
                        self._volumes.release(serial, instance_id)
        images.remove_files(self._layout.instances / instance_id)
        for path in self._layout.consoles.glob(f"{instance_id}.log*"):
            path.unlink(missing_ok=True)

    def _await_snapshot(self, instance_id: str, volume_id: str, end: float) -> None:
        """Give a snapshot that QEMU copies from the volume until ``end`` to become ready, with nothing locked."""
        with self._connection.use("looking at a domain's jobs"), missing_is_fine():
            for _ in block_jobs.pauses(end):
                domain = self.active_domain(instance_id)
                if domain is None or not block_jobs.copies(domain, volume_id):
                    return

    def _detach(self, domain: Any, volume_id: str, end: float) -> None:
        with self._connection.use("detaching a volume"):
            while True:
                if domain.isActive() and block_jobs.copies(domain, volume_id):
                    block_jobs.abort(domain)  # QEMU does not let go of the disk before; the snapshot has failed
                present = {
                    flag: disk
                    for flag, document in _documents(domain).items()
                    if (disk := find_disk(document, volume_id)) is not None
                }
                if not present:
                    return
                for flag, disk in present.items():
                    try:
                        domain.detachDeviceFlags(render(disk), flag)
                    except libvirt.libvirtError as error:
                        code = error.get_error_code()
                        if code not in LETTING_GO:
                            raise
                if time.monotonic() >= end:
                    raise DeadlineExceeded(f"The instance did not let go of volume {volume_id} in time.")
                time.sleep(POLL_SECONDS)

    # ---- finding ----

    def _mark(self, domain: Any) -> Mark | None:
        """Our note in the domain, or None when it is not of this deployment."""
        mark = _note_of(domain)
        return mark if mark is not None and mark.tags.get(TAG_DEPLOYMENT) == self._layout.deployment else None

    @staticmethod
    def _any_mark(domain: Any) -> Mapping[str, str]:
        """Tags that any deployment has noted."""
        mark = _note_of(domain)
        return {} if mark is None else mark.tags

    def _ours(self) -> Iterator[tuple[Any, Mark]]:
        with self._connection.use("listing instances") as connection:
            for domain in connection.listAllDomains(0):
                mark = self._mark(domain)
                if mark is not None:
                    yield domain, mark

    def _find(self, connection: Any, instance_id: str) -> tuple[Any, Mark | None]:
        domain = _lookup(connection.lookupByUUIDString, instance_id) if is_uuid(instance_id) else None
        return domain, None if domain is None else self._mark(domain)

    @contextlib.contextmanager
    def _hold(self, instance_id: str, timeout: float) -> Iterator[Any]:
        """The domain, under the instance's lock. CloudObjectMissing when there is none of ours."""
        with self._connection.use("looking for an instance") as connection:
            domain, mark = self._find(connection, instance_id)
        with self._locked(domain if mark is not None else None, instance_id, timeout):
            yield domain

    @contextlib.contextmanager
    def _hold_any(self, instance_id: str, timeout: float) -> Iterator[Any]:
        """The same, of anybody's machine: nothing may be done there but with volumes of ours."""
        with self._connection.use("looking for an instance") as connection:
            domain, _ = self._find(connection, instance_id)
        with self._locked(domain, instance_id, timeout):
            yield domain

    @contextlib.contextmanager
    def _locked(self, domain: Any, instance_id: str, timeout: float) -> Iterator[None]:
        with self._connection.use("looking for an instance"):
            name = None if domain is None else domain.name()
        if name is None:
            raise CloudObjectMissing(f"There is no instance {instance_id}.", hint="It may have been deleted.")
        with self._locks.hold(f"instance-{short_hash(name)}", timeout=timeout):
            yield


def _lookup(method: Any, key: str) -> Any:
    try:
        return method(key)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def _note_of(domain: Any) -> Mark | None:
    """The note of whatever deployment."""
    try:
        return read_mark(domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, NAMESPACE, 0))
    except libvirt.libvirtError as error:
        if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN_METADATA, libvirt.VIR_ERR_NO_DOMAIN):
            return None
        raise


def _require_room_for_volumes(domain: Any) -> None:
    """CloudError when a machine that somebody else defined cannot keep a volume."""
    if not domain.isPersistent():
        raise CloudError(
            f"Machine {domain.name()} is transient, so it would lose its volumes with its next stop.",
            hint="Define it: virsh dumpxml NAME > FILE; virsh define FILE.",
        )
    if not all(has_scsi_controller(document) for document in _documents(domain).values()):
        raise CloudError(
            f"Machine {domain.name()} has no virtio-scsi controller with index 0, on which volumes go.",
            hint="Add <controller type='scsi' index='0' model='virtio-scsi'/> to its devices and start it anew.",
        )


def _documents(domain: Any) -> dict[int, ET.Element]:
    """The definition for the next start, by the flag that changes it, and of a running domain also the present one."""
    documents = {libvirt.VIR_DOMAIN_AFFECT_CONFIG: parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))}
    if domain.isActive():
        documents[libvirt.VIR_DOMAIN_AFFECT_LIVE] = parse(domain.XMLDesc(0))
    return documents


def _instance(domain: Any, tags: Any) -> Instance:
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
