"""Compute: makes, starts, stops and deletes instances, which are libvirt domains (instances.py finds them)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import libvirt

from sharewright.clouds.contract import Instance, InstanceSpec, cloud_calls
from sharewright.clouds.libvirt import accelerator as accelerators
from sharewright.clouds.libvirt import images
from sharewright.clouds.libvirt.attachments import Attachments
from sharewright.clouds.libvirt.connection import Connection, missing_is_fine
from sharewright.clouds.libvirt.domain import Machine, define, is_uuid
from sharewright.clouds.libvirt.instances import PAUSED, RUNNING, Instances, instance_of, lookup, tags_of
from sharewright.clouds.libvirt.layout import Layout
from sharewright.clouds.libvirt.networks import LibvirtNetworks
from sharewright.clouds.libvirt.records import Locks
from sharewright.clouds.libvirt.storage import LibvirtVolumes
from sharewright.clouds.libvirt.xml import parse, render
from sharewright.clouds.tags import refuse_share_server, tags_to_store
from sharewright.errors import CloudError, CloudObjectMissing
from sharewright.identifiers import new_id

POLL_SECONDS = 0.05
UNDEFINE = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
)


class LibvirtCompute:
    """Contract Compute."""

    def __init__(
        self,
        connection: Connection,
        layout: Layout,
        locks: Locks,
        instances: Instances,
        volumes: LibvirtVolumes,
        networks: LibvirtNetworks,
        wanted_accelerator: Literal["auto", "kvm", "tcg"],
    ) -> None:
        self._connection = connection
        self._layout = layout
        self._locks = locks
        self._instances = instances
        self._volumes = volumes
        self._networks = networks
        self._attachments = Attachments(connection, instances, volumes, networks)
        self._wanted_accelerator = wanted_accelerator

    # ---- contract ----

    def ensure_instance(self, spec: InstanceSpec, *, timeout: float) -> Instance:
        cloud_calls.count += 1
        tags = tags_to_store(spec.tags, self._layout.deployment, spec.name)
        end = time.monotonic() + timeout
        with self._instances.lock(spec.name, timeout):
            with self._connection.use(f"looking for instance {spec.name}") as connection:
                domain = lookup(connection.lookupByName, spec.name)
                mark = self._instances.mark(domain) if domain is not None else None
            if domain is None:
                domain = self._create(spec, tags)
            elif mark is None:
                raise CloudError(
                    f"A virtual machine named {spec.name} exists and is not ours.", hint="Rename or remove it."
                )
            elif not set(mark.ports) <= {port.id for port in spec.ports}:
                raise CloudError(f"Instance {spec.name} exists with other ports.", hint="Delete it first.")
            else:
                self._attachments.plug(domain, mark, spec)
                self._start(domain, max(0.0, end - time.monotonic()))
            with self._connection.use(f"reading instance {spec.name}"):
                return instance_of(domain, tags if mark is None else mark.tags)

    def find_instance(self, instance_id: str) -> Instance | None:
        cloud_calls.count += 1
        with self._connection.use("looking for an instance") as connection, missing_is_fine():
            domain, mark = self._instances.find(connection, instance_id)
            if domain is not None and mark is not None:
                return instance_of(domain, mark.tags)
        return None

    def find_named_instance(self, reference: str) -> Instance | None:
        """libvirt's names are unique; of addresses it knows nothing that a guest could not forge."""
        cloud_calls.count += 1
        with self._connection.use("looking for a machine") as connection, missing_is_fine():
            domain = lookup(connection.lookupByUUIDString, reference) if is_uuid(reference) else None
            domain = domain or lookup(connection.lookupByName, reference)
            if domain is not None:
                tags = tags_of(domain)
                refuse_share_server(tags, domain.name())
                return instance_of(domain, tags)
        return None

    def list_instances(self) -> Sequence[Instance]:
        cloud_calls.count += 1
        found: list[Instance] = []
        with self._connection.use("listing instances"):
            for domain, mark in self._instances.ours():
                with missing_is_fine():  # deleted since it was listed
                    found.append(instance_of(domain, mark.tags))
        return found

    def start_instance(self, instance_id: str, *, timeout: float) -> None:
        cloud_calls.count += 1
        with self._instances.hold(instance_id, timeout) as domain:
            self._start(domain, timeout)

    def reboot_instance(self, instance_id: str, *, timeout: float) -> None:
        cloud_calls.count += 1
        end = time.monotonic() + timeout
        with self._instances.hold(instance_id, timeout) as domain:
            self._power_off(domain, end)
            self._start(domain, max(0.0, end - time.monotonic()))

    def delete_instance(self, instance_id: str, *, timeout: float) -> None:
        cloud_calls.count += 1
        end = time.monotonic() + timeout
        try:
            with self._instances.hold(instance_id, timeout) as domain:
                self._delete(domain, instance_id, end)
        except CloudObjectMissing:
            return

    def attach_volume(self, instance_id: str, volume_id: str, *, timeout: float) -> None:
        cloud_calls.count += 1
        self._attachments.attach_volume(instance_id, volume_id, timeout=timeout)

    def detach_volume(self, instance_id: str, volume_id: str, *, timeout: float) -> None:
        cloud_calls.count += 1
        self._attachments.detach_volume(instance_id, volume_id, timeout=timeout)

    def detach_port(self, instance_id: str, port_id: str, *, timeout: float) -> None:
        cloud_calls.count += 1
        self._attachments.detach_port(instance_id, port_id, timeout=timeout)

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

    # ---- for the cloud object and purge ----

    def accelerator(self, kernel: Path | None = None) -> accelerators.Accelerator:
        """What new instances run on; the first call after a host's boot takes as long as the probe."""
        with self._locks.hold("accelerator"):
            return accelerators.choose_accelerator(self._wanted_accelerator, self._layout.accelerator, kernel)

    def stop_all(self, *, timeout: float) -> None:
        """Shut every instance down, by force when it does not follow; definitions and disks stay."""
        end = time.monotonic() + timeout
        with self._connection.use("shutting instances down"):
            domains = [domain for domain, _ in self._instances.ours() if domain.isActive()]
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
            ids = [domain.UUIDString() for domain, _ in self._instances.ours()]
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
        taps = self._attachments.taps(spec)
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
                domain = lookup(connection.lookupByUUIDString, instance_id)
                if domain is not None:
                    self._delete(domain, instance_id, time.monotonic() + 30.0)
            with contextlib.suppress(CloudError):
                images.remove_files(directory)
            raise
        return domain

    def _tidy(self) -> None:
        """Remove what creations and deletions that died have left."""
        with self._connection.use("listing instances"):
            marks = {domain.UUIDString(): mark for domain, mark in self._instances.ours()}
        images.remove_orphans(self._layout.instances, marks)
        images.remove_orphans(self._layout.consoles, marks)
        images.remove_unused_images(self._layout.images, {mark.image for mark in marks.values() if mark.image})

    def _console(self, instance_id: str) -> Path:
        return self._layout.consoles / f"{instance_id}.log"

    # ---- life and death ----

    def _start(self, domain: Any, timeout: float) -> None:
        with self._connection.use("starting an instance"):
            state = domain.state()[0]
            if state in RUNNING:
                return
            if state in PAUSED:
                domain.resume()
                return
            mark = self._instances.mark(domain)
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
                    if serial:
                        self._volumes.release(serial, instance_id)
        images.remove_files(self._layout.instances / instance_id)
        for path in self._layout.consoles.glob(f"{instance_id}.log*"):
            path.unlink(missing_ok=True)
