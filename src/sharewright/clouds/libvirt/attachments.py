"""Attachments: the volumes and ports that a machine gets and loses while it exists, at once and for its next start."""

from __future__ import annotations

import contextlib
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import libvirt

from sharewright.clouds.contract import InstanceSpec
from sharewright.clouds.libvirt import block_jobs
from sharewright.clouds.libvirt.connection import Connection, missing_is_fine
from sharewright.clouds.libvirt.domain import (
    Mark,
    find_disk,
    find_nic,
    free_slot,
    has_scsi_controller,
    mark_element,
    nic,
    volume_disk,
)
from sharewright.clouds.libvirt.instances import Instances, definitions
from sharewright.clouds.libvirt.networks import LibvirtNetworks
from sharewright.clouds.libvirt.storage import LibvirtVolumes
from sharewright.clouds.libvirt.xml import NAMESPACE, render
from sharewright.errors import CloudCapacityExceeded, CloudError, CloudObjectMissing, DeadlineExceeded

POLL_SECONDS = 0.05
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


class Attachments:
    def __init__(
        self, connection: Connection, instances: Instances, volumes: LibvirtVolumes, networks: LibvirtNetworks
    ) -> None:
        self._connection = connection
        self._instances = instances
        self._volumes = volumes
        self._networks = networks

    # ---- volumes ----

    def attach_volume(self, instance_id: str, volume_id: str, *, timeout: float) -> None:
        with (
            self._instances.hold_any(instance_id, timeout) as domain,
            self._volumes.held(volume_id, timeout=timeout),
        ):
            with self._connection.use("looking at an instance"):
                _require_room_for_volumes(domain)
            record = self._volumes.claim(volume_id, instance_id)
            with self._connection.use(f"attaching volume {record['name']}"):
                documents = definitions(domain)
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
                    if all(find_disk(document, volume_id) is None for document in definitions(domain).values()):
                        self._volumes.release(volume_id, instance_id)
                    if "is locked" in str(error) or 'Failed to get "write" lock' in str(error):
                        raise CloudError(
                            f"Volume {record['name']} is in use by a process outside of Sharewright: {error}.",
                            hint="End what holds its file.",
                        ) from error
                    raise

    def detach_volume(self, instance_id: str, volume_id: str, *, timeout: float) -> None:
        end = time.monotonic() + timeout
        self._await_snapshot(instance_id, volume_id, end - timeout * (1 - SNAPSHOT_SHARE))
        try:
            with (
                self._instances.hold_any(instance_id, timeout) as domain,
                self._volumes.held(volume_id, timeout=timeout),
            ):
                self._detach(domain, volume_id, end)
        except CloudObjectMissing:
            pass
        self._volumes.release(volume_id, instance_id)

    def _await_snapshot(self, instance_id: str, volume_id: str, end: float) -> None:
        """Give a snapshot that QEMU copies from the volume until ``end`` to become ready, with nothing locked."""
        with self._connection.use("looking at a domain's jobs"), missing_is_fine():
            for _ in block_jobs.pauses(end):
                domain = self._instances.active_domain(instance_id)
                if domain is None or not block_jobs.copies(domain, volume_id):
                    return

    def _detach(self, domain: Any, volume_id: str, end: float) -> None:
        def give_up_snapshot() -> None:
            if domain.isActive() and block_jobs.copies(domain, volume_id):
                block_jobs.abort(domain)  # QEMU does not let go of the disk before; the snapshot has failed

        with self._connection.use("detaching a volume"):
            _remove_device(
                domain,
                lambda document: find_disk(document, volume_id),
                f"volume {volume_id}",
                end,
                before=give_up_snapshot,
            )

    # ---- ports ----

    def taps(self, spec: InstanceSpec) -> dict[str, str]:
        """The devices of the spec's ports on this host, by their ids. CloudObjectMissing when there is no such port."""
        taps: dict[str, str] = {}
        for port in spec.ports:
            record = self._networks.port_record(port.id)
            if record is None:
                raise CloudObjectMissing(f"There is no port {port.id} for {spec.name}.", hint="Make the port again.")
            taps[port.id] = record["device"]
        return taps

    def plug(self, domain: Any, mark: Mark, spec: InstanceSpec) -> None:
        """Give the machine the ports that it lacks, now and at its next start."""
        missing = [port for port in spec.ports if port.id not in mark.ports]
        if not missing:
            return
        taps = self.taps(spec)
        self._networks.restore()
        for port in missing:
            network = self._networks.network_name(port.subnet.network_id)
            with self._connection.use(f"plugging a NIC into {spec.name}"):
                flags = sum(flag for flag, each in definitions(domain).items() if find_nic(each, port.mac) is None)
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

    def detach_port(self, instance_id: str, port_id: str, *, timeout: float) -> None:
        end = time.monotonic() + timeout
        record = self._networks.port_record(port_id)
        with contextlib.suppress(CloudObjectMissing), self._instances.hold(instance_id, timeout) as domain:
            if record is not None:
                self._unplug(domain, record["mac"], end)
            mark = self._instances.mark(domain)
            if mark is not None and port_id in mark.ports:
                self._note_ports(domain, mark, tuple(each for each in mark.ports if each != port_id))

    def _unplug(self, domain: Any, mac: str, end: float) -> None:
        with self._connection.use("unplugging a NIC"):
            _remove_device(domain, lambda document: find_nic(document, mac), f"its NIC {mac}", end)

    def _note_ports(self, domain: Any, mark: Mark, ports: tuple[str, ...]) -> None:
        text = render(mark_element(replace(mark, ports=ports), qualified=False))
        with self._connection.use("noting an instance's ports"):
            flags = sum(definitions(domain))
            domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, text, "sharewright", NAMESPACE, flags)


def _require_room_for_volumes(domain: Any) -> None:
    """CloudError when a machine that somebody else defined cannot keep a volume."""
    if not domain.isPersistent():
        raise CloudError(
            f"Machine {domain.name()} is transient, so it would lose its volumes with its next stop.",
            hint="Define it: virsh dumpxml NAME > FILE; virsh define FILE.",
        )
    if not all(has_scsi_controller(document) for document in definitions(domain).values()):
        raise CloudError(
            f"Machine {domain.name()} has no virtio-scsi controller with index 0, on which volumes go.",
            hint="Add <controller type='scsi' index='0' model='virtio-scsi'/> to its devices and start it anew.",
        )


def _remove_device(
    domain: Any,
    find: Callable[[ET.Element], ET.Element | None],
    name: str,
    end: float,
    *,
    before: Callable[[], None] | None = None,
) -> None:
    """Ask for a device's removal, again and again, until no definition has it: a running guest takes its time over it.
    ``before`` runs ahead of each request. DeadlineExceeded at ``end`` of the monotonic clock."""
    while True:
        if before is not None:
            before()
        present = {
            flag: device for flag, document in definitions(domain).items() if (device := find(document)) is not None
        }
        if not present:
            return
        for flag, device in present.items():
            try:
                domain.detachDeviceFlags(render(device), flag)
            except libvirt.libvirtError as error:
                if error.get_error_code() not in LETTING_GO:
                    raise
        if time.monotonic() >= end:
            raise DeadlineExceeded(f"The instance did not let go of {name} in time.")
        time.sleep(POLL_SECONDS)
