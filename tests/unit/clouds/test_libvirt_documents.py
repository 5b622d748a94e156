"""Definitions of machines, slots of disks, addresses, records: the parts of the libvirt cloud that need no libvirtd."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import threading
import time
import xml.etree.ElementTree as ET
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path

import libvirt
import pycdlib
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lock_holder import hold

from sharewright.clouds.addresses import choose_address, derived_mac, dhcp_range, first_host, last_host
from sharewright.clouds.contract import Flavor, Port, Subnet
from sharewright.clouds.libvirt.domain import (
    PCI_DEVICES,
    SPARE_PCI_PORTS,
    TARGETS,
    UNITS,
    Machine,
    Mark,
    define,
    disk_name,
    find_disk,
    find_nic,
    free_slot,
    mark_element,
    read_mark,
    volume_disk,
)
from sharewright.clouds.libvirt.images import Image, adopt_image, config_drive
from sharewright.clouds.libvirt.layout import Layout
from sharewright.clouds.libvirt.network_documents import subnets_on
from sharewright.clouds.libvirt.records import Locks, Records, write_atomically
from sharewright.clouds.libvirt.xml import attribute, render
from sharewright.errors import CloudCapacityExceeded, CloudError, DeadlineExceeded
from sharewright.identifiers import new_id

SUBNET = Subnet(id="s", network_id="n", cidr=ip_network("10.1.0.0/24"), gateway=ip_address("10.1.0.1"))


def machine(
    tmp_path: Path, accelerator: str = "tcg", *, kernel_arguments: str | None = "quiet", mtu: int = 1500
) -> Machine:
    subnet = Subnet(id="s", network_id="n", cidr=ip_network("10.1.0.0/24"), mtu=mtu)
    port = Port(
        id="p1", name="p", mac="52:54:00:00:00:01", address=ip_address("10.1.0.2"), subnet=subnet, tags={"a": "b"}
    )
    return Machine(
        id=new_id(),
        name="manila-1",
        tags={"sharewright": "d", "odd": '<&">'},
        flavor=Flavor(vcpus=2, memory_mib=512),
        image=Image(tmp_path / "image", kernel_arguments),
        ports=(port,),
        networks={"p1": "network"},
        taps={"p1": "swp0123456789"},
        directory=tmp_path / "instance",
        console=tmp_path / "console.log",
        accelerator="kvm" if accelerator == "kvm" else "tcg",
    )


# ---- machines ----


def test_there_is_room_for_nics_that_come_later(tmp_path: Path) -> None:
    document = ET.fromstring(render(define(machine(tmp_path))))
    devices = len(document.findall("devices/interface")) + PCI_DEVICES
    assert len(document.findall("devices/controller[@model='pcie-root-port']")) == devices + SPARE_PCI_PORTS
    assert document.find("devices/controller[@model='pcie-root']") is not None


def test_a_nic_is_found_by_its_mac(tmp_path: Path) -> None:
    document = ET.fromstring(render(define(machine(tmp_path))))
    found = find_nic(document, "52:54:00:00:00:01")
    assert found is not None
    assert attribute(found, "target", "dev") == "swp0123456789"
    assert find_nic(document, "52:54:00:00:00:02") is None


@pytest.mark.parametrize("qualified", [True, False])
def test_a_mark_is_read_as_it_was_written(qualified: bool) -> None:
    mark = Mark(tags={"sharewright": "d", "odd": '<&">'}, ports=("p1", "p2"), image=Path("/images/1"))
    assert read_mark(render(mark_element(mark, qualified=qualified))) == mark


def test_a_machine_has_what_it_needs_and_nothing_else(tmp_path: Path) -> None:
    document = ET.fromstring(render(define(machine(tmp_path))))
    assert document.get("type") == "qemu"
    assert document.findtext("vcpu") == "2"
    assert document.findtext("memory") == "512"
    assert document.findtext("os/cmdline") == "quiet"
    assert [disk.find("target").get("dev") for disk in document.findall("devices/disk")] == ["vda", "vdb"]  # type: ignore[union-attr]
    assert document.find("devices/graphics") is None
    assert document.find("devices/controller[@type='usb']").get("model") == "none"  # type: ignore[union-attr]
    assert document.find("devices/interface/target").get("dev") == "swp0123456789"  # type: ignore[union-attr]
    assert document.find("devices/interface/mtu") is None
    assert [disk.find("readonly") is not None for disk in document.findall("devices/disk")] == [False, True]


def test_the_shared_image_stays_roots(tmp_path: Path) -> None:
    document = define(machine(tmp_path))
    label = document.find("devices/disk/backingStore/source/seclabel")
    assert label is not None
    assert (label.get("model"), label.get("relabel")) == ("dac", "no")


def test_kvm_and_a_disk_that_boots_by_itself(tmp_path: Path) -> None:
    document = define(machine(tmp_path, "kvm", kernel_arguments=None, mtu=9000))
    assert document.get("type") == "kvm"
    assert document.find("cpu").get("mode") == "host-passthrough"  # type: ignore[union-attr]
    assert document.find("os/kernel") is None
    assert document.find("os/boot").get("dev") == "hd"  # type: ignore[union-attr]
    assert document.find("devices/interface/mtu").get("size") == "9000"  # type: ignore[union-attr]


def test_the_mark_of_a_machine_is_read_back(tmp_path: Path) -> None:
    document = define(machine(tmp_path))
    metadata = document.find("metadata")
    assert metadata is not None
    mark = read_mark(render(metadata[0]))
    assert dict(mark.tags) == {"sharewright": "d", "odd": '<&">'}
    assert mark.ports == ("p1",)
    assert mark.image == tmp_path / "image"


# ---- slots ----


def test_three_hundred_disks_get_addresses_of_their_own() -> None:
    devices = ET.Element("domain")
    holder = ET.SubElement(devices, "devices")
    for number in range(300):
        slot = free_slot([devices])
        assert slot == number
        holder.append(volume_disk(f"/v/{number}", "raw", f"serial-{number}", slot))
    places = {(address.get("target"), address.get("unit")) for address in holder.findall("disk/address[@type='drive']")}
    names = {target.get("dev") for target in holder.findall("disk/target")}
    assert len(places) == 300
    assert len(names) == 300
    assert max(int(target or 0) for target, _ in places) == TARGETS - 1
    assert find_disk(devices, "serial-299") is not None
    assert find_disk(devices, "serial-300") is None


def test_the_lowest_free_slot_of_both_definitions_is_chosen() -> None:
    def definition(*slots: int) -> ET.Element:
        root = ET.Element("domain")
        devices = ET.SubElement(root, "devices")
        for slot in slots:
            devices.append(volume_disk("/v", "raw", str(slot), slot))
        return root

    assert free_slot([definition(), definition()]) == 0
    assert free_slot([definition(0, 3), definition(1)]) == 2
    with pytest.raises(CloudCapacityExceeded):
        free_slot([definition(*range(TARGETS * UNITS))])


def test_disk_names_count_as_the_kernels_do() -> None:
    assert [disk_name(slot) for slot in (0, 25, 26, 701, 702)] == ["sda", "sdz", "sdaa", "sdzz", "sdaaa"]


# ---- addresses ----


@given(st.integers(0, 2**32 - 1), st.integers(16, 29))
def test_addresses_of_any_subnet(base: int, length: int) -> None:
    cidr = IPv4Network((base, length), strict=False)
    start, end = dhcp_range(cidr)
    chosen = choose_address(cidr, [], below=start)
    order = [cidr.network_address, first_host(cidr), chosen, start, end, cidr.broadcast_address]
    assert [int(address) for address in order] == sorted(int(address) for address in order)
    assert len(set(order)) == len(order)
    assert end == last_host(cidr)


def test_dhcp_ranges_of_huge_subnets_are_bounded() -> None:
    for cidr in (ip_network("10.0.0.0/8"), ip_network("fd00::/64")):
        start, end = dhcp_range(cidr)
        assert int(end) - int(start) < 65535
        assert end in cidr
    assert isinstance(ip_network("fd00::/64"), IPv6Network)


def test_choosing_skips_what_is_taken_until_none_is_left() -> None:
    cidr = ip_network("10.0.0.0/29")
    taken = [ip_address("10.0.0.2"), ip_address("10.0.0.4")]
    assert choose_address(cidr, taken) == ip_address("10.0.0.3")
    with pytest.raises(CloudCapacityExceeded):
        choose_address(cidr, [ip_address(f"10.0.0.{host}") for host in range(2, 7)])


def test_macs_are_stable_and_qemus() -> None:
    assert derived_mac("d", "p") == derived_mac("d", "p")
    assert derived_mac("d", "p") != derived_mac("d", "q")
    assert derived_mac("d", "p").startswith("52:54:00:")


def test_device_names_fit_the_kernel(tmp_path: Path) -> None:
    layout = Layout("a" * 60, tmp_path)
    for name in (layout.bridge(new_id()), layout.tap(new_id())):
        assert len(name) <= 15
        assert not name.startswith("vnet")


# ---- config drive and image ----


def test_the_config_drive_has_long_names_and_its_label() -> None:
    content = config_drive({"meta_data.json": b"{}", "user_data": b"\0secret\xff", "network_data.json": b"[]"})
    assert content[32768 + 40 : 32768 + 72].rstrip() == b"config-2"
    iso = pycdlib.PyCdlib()
    iso.open_fp(io.BytesIO(content))
    for kind in ("rr_path", "joliet_path"):
        output = io.BytesIO()
        iso.get_file_from_iso_fp(output, **{kind: "/openstack/latest/user_data"})
        assert output.getvalue() == b"\0secret\xff"
    iso.close()


@pytest.mark.parametrize("name", ["", "../escape", "a/b"])
def test_the_config_drive_takes_plain_names_only(name: str) -> None:
    with pytest.raises(CloudError):
        config_drive({name: b""})


def test_an_adopted_image_survives_its_replacement(tmp_path: Path) -> None:
    source, images = tmp_path / "service", tmp_path / "images"
    images.mkdir()

    def build(text: str) -> None:
        new = tmp_path / "new"
        new.mkdir()
        for name in ("root.qcow2", "kernel", "initrd"):
            (new / name).write_text(f"{name} {text}")
            (new / name).chmod(0o600)
        (new / "manifest.json").write_text(json.dumps({"kernel_arguments": text}))
        if source.exists():
            source.rename(tmp_path / f"old {text}")
        new.rename(source)

    build("one")
    first = adopt_image(source, images)
    assert adopt_image(source, images) == first
    build("two")
    second = adopt_image(source, images)
    assert (first.disk.read_text(), second.disk.read_text()) == ("root.qcow2 one", "root.qcow2 two")
    assert (first.kernel_arguments, second.kernel_arguments) == ("one", "two")
    assert first.disk.stat().st_mode & 0o777 == 0o644
    assert sorted(path.name for path in images.iterdir()) == sorted([first.directory.name, second.directory.name])


@pytest.mark.parametrize("broken", ["{", "{}", "[]"])
def test_a_broken_manifest_is_a_clear_error(tmp_path: Path, broken: str) -> None:
    source, images = tmp_path / "service", tmp_path / "images"
    source.mkdir()
    images.mkdir()
    for name in ("root.qcow2", "kernel", "initrd"):
        (source / name).write_text(name)
    (source / "manifest.json").write_text(broken)
    with pytest.raises(CloudError, match="arguments"):
        adopt_image(source, images)


def test_an_incomplete_image_names_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(CloudError, match=r"root\.qcow2 is missing"):
        adopt_image(tmp_path, tmp_path / "images")


# ---- records and locks ----


def test_records_are_private_and_replaced_whole(tmp_path: Path) -> None:
    records = Records(tmp_path / "records")
    key = new_id()
    records.put(key, {"a": 1})
    records.put(key, {"b": 2})
    assert records.get(key) == {"b": 2}
    assert records.all() == {key: {"b": 2}}
    assert (tmp_path / "records" / f"{key}.json").stat().st_mode & 0o777 == 0o600
    records.remove(key)
    records.remove(key)
    assert records.get(key) is None
    assert list((tmp_path / "records").iterdir()) == []


def test_keys_cannot_leave_the_directory(tmp_path: Path) -> None:
    records = Records(tmp_path / "records")
    (tmp_path / "secret.json").write_text("{}")
    assert records.get("../secret") is None
    records.remove("../secret")
    assert (tmp_path / "secret.json").exists()
    with pytest.raises(ValueError, match="key"):
        records.put("../secret", {})


def test_a_failed_write_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with pytest.raises(TypeError):
        write_atomically(path, "text")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_damaged_record_says_which(tmp_path: Path) -> None:
    records = Records(tmp_path / "records")
    key = new_id()
    (tmp_path / "records" / f"{key}.json").write_text("{")
    with pytest.raises(CloudError, match=key):
        records.get(key)


def test_locks_hold_between_processes_and_end_with_them(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=hold, args=(tmp_path, 60.0))
    process.start()
    while not (tmp_path / "held").exists():
        time.sleep(0.02)
    locks = Locks(tmp_path)
    with pytest.raises(DeadlineExceeded), locks.hold("one", timeout=0.1):
        pass
    with locks.hold("another", timeout=0.1):
        pass
    assert process.pid is not None
    os.kill(process.pid, 9)
    process.join()
    with locks.hold("one", timeout=5):
        pass


def test_a_forgotten_lock_still_excludes(tmp_path: Path) -> None:
    """Who waited for a lock whose file was removed meanwhile, and who comes later, lock the same new file."""
    locks = Locks(tmp_path)
    inside, order = threading.Lock(), list[int]()

    def work() -> None:
        with locks.hold("x", timeout=30.0):
            assert inside.acquire(blocking=False)
            order.append(threading.get_ident())
            time.sleep(0.01)
            inside.release()
            locks.forget("x")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(order) == 8
    assert list(tmp_path.iterdir()) == []


class ANetwork:
    """``virNetwork`` of a range, or of one that was deleted after it had been listed."""

    def __init__(self, cidr: str | None, code: int = libvirt.VIR_ERR_NO_NETWORK) -> None:
        self._cidr = cidr
        self._code = code

    def XMLDesc(self, flags: int) -> str:
        if self._cidr is None:
            error = libvirt.libvirtError("no")
            error.err = (self._code, 0, "no", 0, "", "", "", 0, 0)
            raise error
        first, _, prefix = self._cidr.partition("/")
        return f"<network><name>{self.name()}</name><ip address='{first}' prefix='{prefix}'/></network>"

    def UUIDString(self) -> str:
        return "11111111-2222-3333-4444-555555555555"

    def name(self) -> str:
        return f"net-{self._cidr}"


class Listing:
    def __init__(self, *networks: ANetwork) -> None:
        self._networks = networks

    def listAllNetworks(self, flags: int) -> list[ANetwork]:
        return list(self._networks)


def test_another_deployments_network_may_go_while_ranges_are_compared() -> None:
    found = list(subnets_on(Listing(ANetwork("10.1.0.1/24"), ANetwork(None), ANetwork("10.2.0.1/24"))))
    assert [(name, str(subnet.cidr)) for name, subnet in found] == [
        ("net-10.1.0.1/24", "10.1.0.0/24"), ("net-10.2.0.1/24", "10.2.0.0/24"),
    ]  # fmt: skip
    with pytest.raises(libvirt.libvirtError):
        list(subnets_on(Listing(ANetwork(None, libvirt.VIR_ERR_INTERNAL_ERROR))))
