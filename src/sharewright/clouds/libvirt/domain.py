"""The definition of a virtual machine, and what is read from one."""

from __future__ import annotations

import uuid
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sharewright.clouds.contract import Flavor, Port, Tags
from sharewright.clouds.libvirt.images import CONFIG_DRIVE, INITRD, KERNEL, OVERLAY, Image
from sharewright.clouds.libvirt.xml import add, attribute, ours, parse
from sharewright.errors import CloudCapacityExceeded

# QEMU's virtio-scsi takes 256 targets, and Linux finds every unit of each.
TARGETS = 256
UNITS = 64
TRANSLATION_CACHE_MIB = 256
PCI_DEVICES = 4  # besides NICs: two disks, the SCSI controller, the random number generator
SPARE_PCI_PORTS = 4  # for NICs that are plugged in while the machine runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a definition is made from. ``networks`` and ``taps`` go by port id."""

    id: str
    name: str
    tags: Tags
    flavor: Flavor
    image: Image
    ports: Sequence[Port]
    networks: Mapping[str, str]
    taps: Mapping[str, str]
    directory: Path
    console: Path
    accelerator: Literal["kvm", "tcg"]


def define(machine: Machine) -> ET.Element:
    """A q35 machine with virtio devices and nothing that a file server lacks a use for."""
    root = ET.Element("domain", {"type": "kvm" if machine.accelerator == "kvm" else "qemu"})
    add(root, "name", machine.name)
    add(root, "uuid", machine.id)
    ports = tuple(port.id for port in machine.ports)
    mark = Mark(tags=machine.tags, ports=ports, image=machine.image.directory)
    add(root, "metadata").append(mark_element(mark))
    add(root, "memory", str(machine.flavor.memory_mib), unit="MiB")
    add(root, "vcpu", str(machine.flavor.vcpus), placement="static")
    _boot(root, machine)
    features = add(root, "features")
    add(features, "acpi")
    add(features, "apic")
    if machine.accelerator == "tcg":
        add(add(features, "tcg"), "tb-cache", str(TRANSLATION_CACHE_MIB), unit="MiB")
        add(add(root, "cpu", mode="custom", match="exact"), "model", "qemu64", fallback="allow")
    else:
        add(root, "cpu", mode="host-passthrough", migratable="on")
    add(root, "clock", offset="utc")
    add(root, "on_poweroff", "destroy")
    add(root, "on_reboot", "restart")
    add(root, "on_crash", "restart")
    _devices(add(root, "devices"), machine)
    return root


def _boot(root: ET.Element, machine: Machine) -> None:
    os = add(root, "os")
    add(os, "type", "hvm", arch="x86_64", machine="q35")
    if machine.image.kernel_arguments is None:
        add(os, "boot", dev="hd")
        return
    add(os, "kernel", str(machine.directory / KERNEL))
    add(os, "initrd", str(machine.directory / INITRD))
    add(os, "cmdline", machine.image.kernel_arguments)


def _devices(devices: ET.Element, machine: Machine) -> None:
    disk = _file_disk(devices, machine.directory / OVERLAY, "qcow2", "vda", "virtio")
    backing = add(disk, "backingStore", type="file")
    add(backing, "format", type="qcow2")
    # Shared by all VMs and world-readable: it must stay root's.
    source = add(backing, "source", file=machine.image.disk)
    add(source, "seclabel", model="dac", relabel="no")
    add(backing, "backingStore")
    config = _file_disk(devices, machine.directory / CONFIG_DRIVE, "raw", "vdb", "virtio")
    add(config, "readonly")
    add(devices, "controller", type="scsi", index=0, model="virtio-scsi")
    add(devices, "controller", type="usb", model="none")
    add(devices, "controller", type="pci", index=0, model="pcie-root")
    for _ in range(PCI_DEVICES + len(machine.ports) + SPARE_PCI_PORTS):
        add(devices, "controller", type="pci", model="pcie-root-port")
    for port in machine.ports:
        devices.append(nic(port, machine.networks[port.id], machine.taps[port.id]))
    # libvirt's log daemon writes the console, and keeps it from growing without end.
    serial = add(devices, "serial", type="file")
    add(serial, "source", path=machine.console)
    add(serial, "target", port=0)
    add(devices, "memballoon", model="none")
    rng = add(devices, "rng", model="virtio")
    add(rng, "backend", "/dev/urandom", model="random")
    add(devices, "panic", model="isa")


def nic(port: Port, network: str, tap: str) -> ET.Element:
    """A machine's NIC on a network of libvirt's, which has that name."""
    interface = ET.Element("interface", {"type": "network"})
    add(interface, "mac", address=port.mac)
    add(interface, "source", network=network)
    add(interface, "target", dev=tap)
    add(interface, "model", type="virtio")
    if port.subnet.mtu != 1500:
        add(interface, "mtu", size=port.subnet.mtu)
    return interface


def find_nic(document: ET.Element, mac: str) -> ET.Element | None:
    for interface in document.findall("devices/interface"):
        if attribute(interface, "mac", "address") == mac:
            return interface
    return None


def _file_disk(parent: ET.Element, path: Path | str, format_: str, name: str, bus: str) -> ET.Element:
    disk = add(parent, "disk", type="file", device="disk")
    driver = add(disk, "driver", name="qemu", type=format_)
    if bus == "scsi":
        driver.set("discard", "unmap")  # what the guest frees, the host's file system gets back
    add(disk, "source", file=path)
    add(disk, "target", dev=name, bus=bus)
    return disk


# ---- data disks ----


def volume_disk(path: str, format_: str, serial: str, slot: int) -> ET.Element:
    """A volume's disk in a slot; the slot decides address and name, so a reboot changes neither."""
    root = ET.Element("devices")
    disk = _file_disk(root, path, format_, disk_name(slot), "scsi")
    add(disk, "serial", serial)
    add(disk, "address", type="drive", controller=0, bus=0, target=slot % TARGETS, unit=slot // TARGETS)
    return disk


def disk_name(slot: int) -> str:
    """sda, …, sdz, sdaa, …: libvirt wants a unique one per disk."""
    name = ""
    slot += 1
    while slot:
        slot, letter = divmod(slot - 1, 26)
        name = chr(ord("a") + letter) + name
    return f"sd{name}"


def free_slot(documents: Iterable[ET.Element]) -> int:
    """The lowest slot that no disk of these definitions has, by its address or by its name: machines that are not ours
    may have named disks otherwise. CloudCapacityExceeded when none is left."""
    used: set[int] = set()
    names: set[str | None] = set()
    for document in documents:
        for address in document.findall("devices/disk/address[@type='drive']"):
            used.add(int(address.get("unit", "0")) * TARGETS + int(address.get("target", "0")))
        names |= {target.get("dev") for target in document.findall("devices/disk/target")}
    slot = 0
    while slot in used or (disk_name(slot) in names):
        slot += 1
    if slot >= TARGETS * UNITS:
        raise CloudCapacityExceeded("The instance has no room for another disk.", hint="Use another share server.")
    return slot


def has_scsi_controller(document: ET.Element) -> bool:
    """Whether a machine takes a volume's disk where volume_disk puts it."""
    return document.find("devices/controller[@type='scsi'][@index='0'][@model='virtio-scsi']") is not None


def find_disk(document: ET.Element, serial: str) -> ET.Element | None:
    for disk in document.findall("devices/disk"):
        if disk.findtext("serial") == serial:
            return disk
    return None


# ---- reading ----


@dataclass(frozen=True, slots=True)
class Mark:
    """What we noted in a domain of ours."""

    tags: Mapping[str, str]
    ports: tuple[str, ...]
    image: Path | None


def mark_element(mark: Mark, *, qualified: bool = True) -> ET.Element:
    """``qualified`` False: without our namespace, which libvirt adds by itself where it changes one element."""
    name = ours if qualified else str
    root = ET.Element(name("instance"))
    for key, value in sorted(mark.tags.items()):
        ET.SubElement(root, name("tag"), {"key": key, "value": value})
    for port_id in mark.ports:
        ET.SubElement(root, name("port"), {"id": port_id})
    if mark.image is not None:
        ET.SubElement(root, name("image"), {"path": str(mark.image)})
    return root


def read_mark(metadata: str) -> Mark:
    """From our element of a domain's metadata."""
    root = parse(metadata)  # libvirt leaves our namespace away when it gives one element
    image = attribute(root, "{*}image", "path")
    return Mark(
        tags={tag.get("key", ""): tag.get("value", "") for tag in root.findall("{*}tag")},
        ports=tuple(port.get("id", "") for port in root.findall("{*}port")),
        image=Path(image) if image else None,
    )


def is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True
