"""What only libvirt has: files and their modes, foreign objects, lost daemons, full disks, the host's networks."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from ipaddress import IPv4Network, ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from cloud_sites import SECONDS, LibvirtSite, instance_spec, make_network, make_port, smaller

from sharewright.clouds.contract import PortSpec, ServiceSubnetSpec, SnapshotSpec, VolumeSpec
from sharewright.clouds.libvirt.cloud import LibvirtCloud
from sharewright.errors import CloudCapacityExceeded, CloudError, CloudObjectMissing, CloudUnavailable
from sharewright.progress import NoProgress
from sharewright.settings import Libvirt, VolumeDirectory

libvirt = pytest.importorskip("libvirt")
pytestmark = pytest.mark.e2e
URI = "qemu:///system"


@pytest.fixture
def cloud(libvirt_site: LibvirtSite) -> LibvirtCloud:
    cloud = libvirt_site.open()
    assert isinstance(cloud, LibvirtCloud)
    cloud.check()
    return cloud


@pytest.fixture
def raw() -> Iterator[Any]:
    """libvirt as another program of the host uses it."""
    connection = libvirt.open(URI)
    yield connection
    connection.close()


def volume(cloud: LibvirtCloud, name: str = "v", size: int = 1) -> str:
    return cloud.volumes.ensure_volume(VolumeSpec(name=name, size=size, tags={}), timeout=SECONDS).id


# ---- instances ----


def test_disks_have_whole_serials_and_fixed_addresses(libvirt_site: LibvirtSite, cloud: LibvirtCloud, raw: Any) -> None:
    instance = cloud.compute.ensure_instance(instance_spec(libvirt_site, cloud), timeout=SECONDS)
    ids = [volume(cloud, f"v{number}") for number in range(3)]
    for volume_id in ids:
        cloud.compute.attach_volume(instance.id, volume_id, timeout=SECONDS)
    cloud.compute.detach_volume(instance.id, ids[1], timeout=SECONDS)
    late = volume(cloud, "late")
    cloud.compute.attach_volume(instance.id, late, timeout=SECONDS)

    def addresses() -> dict[str | None, tuple[str | None, str | None]]:
        document = ET.fromstring(raw.lookupByUUIDString(instance.id).XMLDesc(0))
        disks = document.findall("devices/disk[target='']") or document.findall("devices/disk")
        found = {}
        for disk in disks:
            address = disk.find("address")
            if disk.find("serial") is not None and address is not None:
                found[disk.findtext("serial")] = (address.get("target"), address.get("unit"))
        return found

    expected = {ids[0]: ("0", "0"), late: ("1", "0"), ids[2]: ("2", "0")}
    assert addresses() == expected
    assert all(len(serial or "") == 36 for serial in addresses())
    cloud.compute.reboot_instance(instance.id, timeout=SECONDS)
    assert addresses() == expected


def test_secrets_are_not_world_readable(libvirt_site: LibvirtSite, cloud: LibvirtCloud) -> None:
    instance = cloud.compute.ensure_instance(instance_spec(libvirt_site, cloud), timeout=SECONDS)
    volume(cloud)
    root = libvirt_site.state_dir() / "libvirt"
    assert (root / "instances" / instance.id / "config.iso").stat().st_mode & 0o777 == 0o600
    for path in [*(root / "instances").rglob("*"), *(root / "volumes").iterdir(), *(root / "records").rglob("*.json")]:
        if path.is_file():
            assert path.stat().st_mode & 0o077 == 0, path
    for directory in (root / "records", root / "locks", root / "consoles"):
        assert directory.stat().st_mode & 0o077 == 0, directory


def test_deletion_leaves_no_file_and_no_process(libvirt_site: LibvirtSite, cloud: LibvirtCloud) -> None:
    spec = instance_spec(libvirt_site, cloud)
    instance = cloud.compute.ensure_instance(spec, timeout=SECONDS)
    process = int(Path(f"/run/libvirt/qemu/{spec.name}.pid").read_text())
    os.kill(process, 0)
    cloud.compute.delete_instance(instance.id, timeout=SECONDS)
    assert not Path(f"/proc/{process}").exists()
    root = libvirt_site.state_dir() / "libvirt"
    assert [path for path in root.rglob("*") if instance.id in path.name] == []


def test_a_foreign_machine_of_that_name_is_left_alone(libvirt_site: LibvirtSite, cloud: LibvirtCloud, raw: Any) -> None:
    spec = instance_spec(libvirt_site, cloud)
    domain = raw.defineXML(
        f"<domain type='qemu'><name>{spec.name}</name><memory unit='MiB'>64</memory>"
        "<os><type arch='x86_64'>hvm</type></os></domain>"
    )
    try:
        with pytest.raises(CloudError, match="not ours"):
            cloud.compute.ensure_instance(spec, timeout=SECONDS)
        assert list(cloud.compute.list_instances()) == []
        cloud.compute.delete_instance(domain.UUIDString(), timeout=SECONDS)
        cloud.purge(NoProgress())
        assert raw.lookupByName(spec.name).UUIDString() == domain.UUIDString()
    finally:
        domain.undefine()


def test_a_machine_that_died_is_reported_and_started(libvirt_site: LibvirtSite, cloud: LibvirtCloud) -> None:
    spec = instance_spec(libvirt_site, cloud)
    instance = cloud.compute.ensure_instance(spec, timeout=SECONDS)
    os.kill(int(Path(f"/run/libvirt/qemu/{spec.name}.pid").read_text()), 9)
    end = time.monotonic() + SECONDS
    while (found := cloud.compute.find_instance(instance.id)) is not None and found.running:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert found is not None
    assert "unexpectedly" in found.failure
    assert cloud.compute.ensure_instance(spec, timeout=SECONDS).id == instance.id
    found = cloud.compute.find_instance(instance.id)
    assert found is not None
    assert found.running


def test_a_missing_image_says_how_to_get_one(libvirt_site: LibvirtSite, cloud: LibvirtCloud) -> None:
    libvirt_site.image = "/nonexistent/image"
    with pytest.raises(CloudError, match="sharewright image build"):
        cloud.compute.ensure_instance(instance_spec(libvirt_site, cloud), timeout=SECONDS)
    assert list(cloud.compute.list_instances()) == []
    assert list((libvirt_site.state_dir() / "libvirt" / "instances").iterdir()) == []


def test_a_new_image_in_the_same_place_does_not_disturb_what_runs(
    libvirt_site: LibvirtSite, cloud: LibvirtCloud
) -> None:
    first = cloud.compute.ensure_instance(instance_spec(libvirt_site, cloud, name="a"), timeout=SECONDS)
    new = libvirt_site.directory / "new.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", new, "2M"], check=True)
    new.replace(libvirt_site.image)
    cloud.compute.reboot_instance(first.id, timeout=SECONDS)
    second = cloud.compute.ensure_instance(instance_spec(libvirt_site, cloud, name="b"), timeout=SECONDS)

    def size(instance_id: str) -> int:
        overlay = libvirt_site.state_dir() / "libvirt" / "instances" / instance_id / "root.qcow2"
        text = subprocess.run(
            ["qemu-img", "info", "--force-share", "--output=json", overlay], check=True, capture_output=True
        ).stdout
        backing = Path(json.loads(text)["full-backing-filename"])
        assert backing.stat().st_uid == 0
        text = subprocess.run(
            ["qemu-img", "info", "--force-share", "--output=json", backing], check=True, capture_output=True
        ).stdout
        return int(json.loads(text)["virtual-size"])

    assert (size(first.id), size(second.id)) == (2**20, 2 * 2**20)


def test_instances_stop_and_start_again(libvirt_site: LibvirtSite, cloud: LibvirtCloud, raw: Any) -> None:
    port = make_port(cloud, make_network(libvirt_site, cloud).subnets[0], "p", 2049)
    spec = instance_spec(libvirt_site, cloud, port)
    instance = cloud.compute.ensure_instance(spec, timeout=SECONDS)
    assert raw.lookupByUUIDString(instance.id).autostart()
    cloud.stop(NoProgress(), shutdown_seconds=1.0)
    found = cloud.compute.find_instance(instance.id)
    assert found is not None
    assert not found.running
    assert not raw.networkLookupByUUIDString(port.subnet.network_id).isActive()
    assert tables(cloud) == []
    cloud.compute.start_instance(instance.id, timeout=SECONDS)
    found = cloud.compute.find_instance(instance.id)
    assert found is not None
    assert found.running
    assert len(tables(cloud)) == 2


# ---- after crashes ----


def test_what_a_crash_left_of_a_volume_is_made_anew(libvirt_site: LibvirtSite, cloud: LibvirtCloud) -> None:
    volume_id = volume(cloud)
    record = libvirt_site.state_dir() / "libvirt" / "records" / "volumes" / f"{volume_id}.json"
    data = json.loads(record.read_text())
    file = libvirt_site.state_dir() / "libvirt" / "volumes" / data["file"]
    file.write_bytes(b"half made")
    record.write_text(json.dumps({**data, "ready": False}))
    assert volume(cloud) == volume_id
    assert file.stat().st_size == 2**30
    assert file.stat().st_blocks == 0
    # And one that died between record and file.
    file.unlink()
    record.write_text(json.dumps({**data, "ready": False}))
    cloud.volumes.delete_volume(volume_id, timeout=SECONDS)
    assert not record.exists()


def test_a_deletion_that_died_half_way_is_completed(libvirt_site: LibvirtSite, cloud: LibvirtCloud) -> None:
    volume_id = volume(cloud)
    file = libvirt_site.state_dir() / "libvirt" / "volumes" / f"{volume_id}.raw"
    file.unlink()
    (file / "not empty").mkdir(parents=True)  # cannot be deleted: the deletion fails in its middle
    with pytest.raises(CloudError):
        cloud.volumes.delete_volume(volume_id, timeout=SECONDS)
    shutil.rmtree(file)
    assert cloud.volumes.find_volume(volume_id) is not None, "its file is gone, but not all of it"
    cloud.volumes.delete_volume(volume_id, timeout=SECONDS)
    assert cloud.volumes.find_volume(volume_id) is None
    assert list(cloud.volumes.list_volumes()) == []


def test_a_running_guest_sees_the_new_size_and_a_died_extension_is_completed(
    libvirt_site: LibvirtSite, cloud: LibvirtCloud, raw: Any
) -> None:
    instance = cloud.compute.ensure_instance(instance_spec(libvirt_site, cloud), timeout=SECONDS)
    volume_id = volume(cloud)
    cloud.compute.attach_volume(instance.id, volume_id, timeout=SECONDS)
    cloud.volumes.extend_volume(volume_id, 2, timeout=SECONDS)
    domain = raw.lookupByUUIDString(instance.id)
    assert domain.blockInfo("sda")[0] == 2 * 2**30
    domain.blockResize("sda", 4 * 2**30, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)  # and died before the record
    with pytest.raises(CloudError, match="never shrunk"):
        cloud.volumes.extend_volume(volume_id, 3, timeout=SECONDS)
    assert cloud.volumes.extend_volume(volume_id, 4, timeout=SECONDS).size == 4
    assert domain.blockInfo("sda")[0] == 4 * 2**30


def test_a_volumes_lost_file_is_never_replaced_by_an_empty_one(libvirt_site: LibvirtSite, cloud: LibvirtCloud) -> None:
    volume_id = volume(cloud)
    (libvirt_site.state_dir() / "libvirt" / "volumes" / f"{volume_id}.raw").unlink()
    assert cloud.volumes.find_volume(volume_id) is None
    with pytest.raises(CloudError, match="is gone"):
        volume(cloud)
    cloud.volumes.delete_volume(volume_id, timeout=SECONDS)
    assert volume(cloud) == volume_id


def test_an_attachment_that_died_half_way_is_completed(
    libvirt_site: LibvirtSite, cloud: LibvirtCloud, raw: Any
) -> None:
    instance = cloud.compute.ensure_instance(instance_spec(libvirt_site, cloud), timeout=SECONDS)
    volume_id = volume(cloud)
    cloud.compute.attach_volume(instance.id, volume_id, timeout=SECONDS)
    domain = raw.lookupByUUIDString(instance.id)
    for flag in (libvirt.VIR_DOMAIN_AFFECT_LIVE, libvirt.VIR_DOMAIN_AFFECT_CONFIG):
        document = ET.fromstring(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE if flag == 2 else 0))
        (disk,) = [one for one in document.findall("devices/disk") if one.findtext("serial") == volume_id]
        domain.detachDeviceFlags(ET.tostring(disk, encoding="unicode"), flag)
        cloud.compute.attach_volume(instance.id, volume_id, timeout=SECONDS)
        for kind in (0, libvirt.VIR_DOMAIN_XML_INACTIVE):
            assert domain.XMLDesc(kind).count(f"<serial>{volume_id}</serial>") == 1


def test_a_half_made_network_is_completed(libvirt_site: LibvirtSite, cloud: LibvirtCloud, raw: Any) -> None:
    spec = ServiceSubnetSpec(name=f"{cloud.deployment}-s", cidr=smaller(libvirt_site.cidr()), tags={})
    subnet = cloud.networks.ensure_service_subnet(spec, timeout=SECONDS)
    network = raw.networkLookupByUUIDString(subnet.network_id)
    network.destroy()
    assert cloud.networks.ensure_service_subnet(spec, timeout=SECONDS) == subnet
    assert network.isActive()
    network.destroy()
    network.undefine()
    assert cloud.networks.ensure_service_subnet(spec, timeout=SECONDS) == subnet
    assert raw.networkLookupByUUIDString(subnet.network_id).isActive()


def test_a_flushed_firewall_comes_back_with_the_check(libvirt_site: LibvirtSite, cloud: LibvirtCloud) -> None:
    make_network(libvirt_site, cloud)
    before = tables(cloud)
    assert len(before) == 2
    for family in ("inet", "bridge"):
        subprocess.run(["nft", "delete", "table", family, before[0].split()[-1]], check=True)
    assert tables(cloud) == []
    cloud.check()
    assert tables(cloud) == before


def tables(cloud: LibvirtCloud) -> list[str]:
    listing = subprocess.run(["nft", "list", "tables"], check=True, capture_output=True, text=True).stdout
    from sharewright.identifiers import short_hash

    return [line for line in listing.splitlines() if line.endswith(f"sharewright_{short_hash(cloud.deployment)}")]


def test_purge_leaves_nothing(libvirt_site: LibvirtSite, cloud: LibvirtCloud, raw: Any) -> None:
    service = cloud.networks.ensure_service_subnet(
        ServiceSubnetSpec(name=f"{cloud.deployment}-s", cidr=smaller(libvirt_site.cidr()), tags={}), timeout=SECONDS
    )
    port = make_port(cloud, service, "p", 22)
    instance = cloud.compute.ensure_instance(instance_spec(libvirt_site, cloud, port), timeout=SECONDS)
    cloud.compute.attach_volume(instance.id, volume(cloud), timeout=SECONDS)
    make_network(libvirt_site, cloud)
    cloud.purge(NoProgress())
    assert tables(cloud) == []
    names = [item.name() for item in [*raw.listAllDomains(), *raw.listAllNetworks(), *raw.listAllStoragePools()]]
    assert [name for name in names if cloud.deployment in name] == []
    assert [path for path in libvirt_site.state_dir().rglob("*") if path.is_file()] == []
    links = subprocess.run(["ip", "-br", "link"], check=True, capture_output=True, text=True).stdout
    from sharewright.clouds.libvirt.layout import Layout

    assert Layout(cloud.deployment, libvirt_site.state_dir()).bridge(service.network_id) not in links
    cloud.purge(NoProgress())


# ---- the host ----


def test_a_libvirtd_that_is_down_is_unavailable_with_a_hint(libvirt_site: LibvirtSite) -> None:
    settings = Libvirt(uri="qemu+unix:///system?socket=/nonexistent/socket", start_daemons=False, accelerator="tcg")
    cloud = LibvirtCloud(settings, deployment="nowhere", state_dir=libvirt_site.directory / "nowhere")
    for call in (cloud.check, cloud.compute.list_instances, lambda: volume(cloud)):
        with pytest.raises(CloudUnavailable) as caught:
            call()
        assert "systemctl start libvirtd" in caught.value.hint


@pytest.fixture
def typed_site(daemons: None) -> Iterator[tuple[LibvirtSite, Path]]:
    """A place with the volume types "fast" and "absent", and the directory of their directories."""
    directory = Path(tempfile.mkdtemp(prefix="sharewright-types-", dir="/var/tmp"))
    directory.chmod(0o711)
    (directory / "fast").mkdir(mode=0o711)
    types = {name: VolumeDirectory(directory=str(directory / name)) for name in ("fast", "absent")}
    place = LibvirtSite(Libvirt(accelerator="tcg", volume_types=types))
    try:
        yield place, directory
    finally:
        place.remove()
        shutil.rmtree(directory)


def test_volume_types_are_directories(typed_site: tuple[LibvirtSite, Path]) -> None:
    """Volumes and their snapshots are where the type says, and count there; a purge leaves what is not ours."""
    site, directory = typed_site
    fast = directory / "fast"
    (fast / "foreign").write_text("somebody else's")
    cloud = site.open()
    assert isinstance(cloud, LibvirtCloud)
    volume(cloud, "plain")
    spec = VolumeSpec(name="typed", size=1, tags={}, volume_type="fast")
    typed = cloud.volumes.ensure_volume(spec, timeout=SECONDS)
    assert cloud.volumes.ensure_volume(spec, timeout=SECONDS) == typed
    with pytest.raises(CloudError, match="volume type fast, not None"):
        volume(cloud, "typed")
    (file,) = fast.glob(f"*/{typed.id}.raw")
    cloud.volumes.extend_volume(typed.id, 2, timeout=SECONDS)
    assert file.stat().st_size == 2 * 2**30
    snapshot = cloud.volumes.ensure_snapshot(SnapshotSpec(name="s", volume_id=typed.id, tags={}), timeout=SECONDS)
    assert list(fast.glob(f"*/{snapshot.id}.*"))
    copied = VolumeSpec(name="copy", size=2, tags={}, source_snapshot=snapshot.id)
    assert cloud.volumes.ensure_volume(copied, timeout=SECONDS).size == 2
    assert (cloud.volumes.capacity().provisioned, cloud.volumes.capacity("fast").provisioned) == (3, 4)
    for name, reason in (("slow", "no volume type slow"), ("absent", "cannot be made: No such file")):
        with pytest.raises(CloudError, match=reason):
            cloud.volumes.capacity(name)
        with pytest.raises(CloudError, match=reason):
            cloud.volumes.ensure_volume(VolumeSpec(name=name, size=1, tags={}, volume_type=name), timeout=SECONDS)
    (directory / "absent").mkdir(mode=0o711)
    cloud.volumes.ensure_volume(VolumeSpec(name="absent", size=1, tags={}, volume_type="absent"), timeout=SECONDS)
    assert {each.name for each in cloud.volumes.list_volumes()} == {"plain", "typed", "copy", "absent"}
    disowned = volume(cloud, "disowned")
    cloud.volumes.disown_volume(disowned, timeout=SECONDS)
    cloud.purge(NoProgress())
    assert [path.name for path in fast.iterdir()] == ["foreign"]
    assert list((directory / "absent").iterdir()) == []


def test_a_machine_has_volumes_of_several_types(typed_site: tuple[LibvirtSite, Path]) -> None:
    site, _ = typed_site
    cloud = site.open()
    assert isinstance(cloud, LibvirtCloud)
    instance = cloud.compute.ensure_instance(instance_spec(site, cloud), timeout=SECONDS)
    for name in ("", "fast"):
        spec = VolumeSpec(name=f"v{name}", size=1, tags={}, volume_type=name or None)
        made = cloud.volumes.ensure_volume(spec, timeout=SECONDS)
        cloud.compute.attach_volume(instance.id, made.id, timeout=SECONDS)
        assert cloud.volumes.extend_volume(made.id, 2, timeout=SECONDS).instance_id == instance.id
        snapshot = SnapshotSpec(name=f"s{name}", volume_id=made.id, tags={})
        taken = cloud.volumes.ensure_snapshot(snapshot, timeout=SECONDS)
        assert cloud.volumes.await_snapshot(taken.id, timeout=SECONDS).size == 2


def test_a_disowned_volume_keeps_its_type(typed_site: tuple[LibvirtSite, Path]) -> None:
    site, directory = typed_site
    cloud = site.open()
    spec = VolumeSpec(name="typed", size=1, tags={}, volume_type="fast")
    typed = cloud.volumes.ensure_volume(spec, timeout=SECONDS)
    cloud.volumes.disown_volume(typed.id, timeout=SECONDS)
    adopted = cloud.volumes.adopt_volume(typed.id, "new", {}, timeout=SECONDS)
    assert [path.name for path in directory.glob("fast/*/*")] == [f"{adopted.id}.raw"]
    assert cloud.volumes.capacity("fast").provisioned == 1
    cloud.volumes.extend_volume(adopted.id, 2, timeout=SECONDS)
    cloud.volumes.delete_volume(adopted.id, timeout=SECONDS)
    assert list(directory.glob("fast/*/*")) == []


def test_a_small_disk_is_a_clear_error(libvirt_site: LibvirtSite) -> None:
    state = libvirt_site.state_dir("small")
    state.mkdir(mode=0o711)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300M,mode=711", "none", state], check=True)
    try:
        cloud = libvirt_site.open("small")
        assert isinstance(cloud, LibvirtCloud)
        assert cloud.volumes.capacity().total == pytest.approx(300 / 1024, rel=0.1)
        volume(cloud, "fits", 1)
        with pytest.raises(CloudCapacityExceeded, match="to begin with"):
            volume(cloud, "large", 1000)
        assert [one.name for one in cloud.volumes.list_volumes()] == ["fits"]
        with pytest.raises(OSError, match="No space left"):
            (state / "filler").write_bytes(bytes(2**29))
        with pytest.raises(CloudError):
            volume(cloud, "full")
        (state / "filler").unlink()
        assert cloud.volumes.list_volumes()[0].name == "fits"
        cloud.purge(NoProgress())
    finally:
        subprocess.run(["umount", state], check=True)


def test_overlapping_networks_are_refused(libvirt_site: LibvirtSite, cloud: LibvirtCloud) -> None:
    network = make_network(libvirt_site, cloud)
    cidr = network.subnets[0].cidr
    assert isinstance(cidr, IPv4Network)
    with pytest.raises(CloudError, match="overlaps"):
        cloud.networks.create_network(f"{cloud.deployment}-b", smaller(cidr))
    with pytest.raises(CloudError, match="overlaps"):
        cloud.networks.ensure_service_subnet(
            ServiceSubnetSpec(name=f"{cloud.deployment}-s", cidr=smaller(cidr), tags={}), timeout=SECONDS
        )
    assert len(cloud.networks.list_networks()) == 1
    assert list(cloud.networks.list_service_subnets()) == []


def test_a_range_that_the_host_uses_is_refused(libvirt_site: LibvirtSite, cloud: LibvirtCloud) -> None:
    cidr = libvirt_site.cidr()
    device = f"swd{cloud.deployment[-6:]}"
    subprocess.run(["ip", "link", "add", device, "type", "bridge"], check=True)
    try:
        subprocess.run(["ip", "address", "add", f"{cidr.network_address + 1}/24", "dev", device], check=True)
        subprocess.run(["ip", "link", "set", device, "up"], check=True)
        with pytest.raises(CloudError, match="overlaps with a network of this host"):
            cloud.networks.create_network(f"{cloud.deployment}-n", cidr)
    finally:
        subprocess.run(["ip", "link", "delete", device], check=True)
    assert list(cloud.networks.list_networks()) == []
    cloud.networks.create_network(f"{cloud.deployment}-n", cidr)


def test_a_network_that_cannot_be_started_now_is_not_lost(
    libvirt_site: LibvirtSite, cloud: LibvirtCloud, raw: Any
) -> None:
    spec = ServiceSubnetSpec(name=f"{cloud.deployment}-s", cidr=smaller(libvirt_site.cidr()), tags={})
    subnet = cloud.networks.ensure_service_subnet(spec, timeout=SECONDS)
    port = make_port(cloud, subnet, "p", 22)
    raw.networkLookupByUUIDString(subnet.network_id).destroy()
    device = f"swd{cloud.deployment[-6:]}"
    subprocess.run(["ip", "link", "add", device, "type", "bridge"], check=True)
    try:
        subprocess.run(["ip", "address", "add", f"{subnet.gateway}/28", "dev", device], check=True)
        subprocess.run(["ip", "link", "set", device, "up"], check=True)
        with pytest.raises(CloudError, match="overlaps with a network of this host"):
            cloud.networks.ensure_service_subnet(spec, timeout=SECONDS)
    finally:
        subprocess.run(["ip", "link", "delete", device], check=True)
    assert list(cloud.networks.list_ports()) == [port]
    assert cloud.networks.ensure_service_subnet(spec, timeout=SECONDS) == subnet


@pytest.fixture
def foreign(libvirt_site: LibvirtSite, raw: Any) -> Iterator[Any]:
    """A network as libvirt's own "default": translating, with DHCP for every address."""
    cidr = libvirt_site.cidr()
    base = cidr.network_address
    network = raw.networkDefineXML(
        f"<network><name>{libvirt_site.name}-foreign</name><forward mode='nat'/>"
        f"<bridge name='swf{libvirt_site.name[-6:]}'/><ip address='{base + 1}' netmask='255.255.255.0'>"
        f"<dhcp><range start='{base + 2}' end='{base + 254}'/></dhcp></ip></network>"
    )
    network.create()
    yield network
    network.destroy()
    network.undefine()


def test_a_network_of_somebody_else_is_usable(libvirt_site: LibvirtSite, cloud: LibvirtCloud, foreign: Any) -> None:
    subnet = cloud.networks.find_subnet(foreign.UUIDString(), None)
    assert subnet is not None
    assert list(cloud.networks.list_networks()) == []
    port = make_port(cloud, subnet, "p", 2049)
    assert port.address == ip_address(int(subnet.cidr.network_address) + 254)
    pinned = re.findall(r"<host mac='([^']*)' ip='([^']*)'", foreign.XMLDesc(0))
    assert pinned == [(port.mac, str(port.address))]
    assert make_port(cloud, subnet, "q", 2049).address == port.address - 1
    cloud.compute.ensure_instance(instance_spec(libvirt_site, cloud, port), timeout=SECONDS)
    cloud.networks.delete_network(foreign.UUIDString())
    cloud.purge(NoProgress())
    assert "<host" not in foreign.XMLDesc(0)
    assert foreign.isActive()


def test_a_translating_network_cannot_be_routed(libvirt_site: LibvirtSite, cloud: LibvirtCloud, foreign: Any) -> None:
    subnet = cloud.networks.find_subnet(foreign.UUIDString(), None)
    spec = ServiceSubnetSpec(
        name=f"{cloud.deployment}-s",
        cidr=smaller(libvirt_site.cidr()),
        tags={},
        routed_to=subnet,
        tenant_ports=(2049,),
    )
    with pytest.raises(CloudError, match="translating"):
        cloud.networks.ensure_service_subnet(spec, timeout=SECONDS)
    assert list(cloud.networks.list_service_subnets()) == []


def test_a_network_deleted_behind_our_back(libvirt_site: LibvirtSite, cloud: LibvirtCloud, raw: Any) -> None:
    network = make_network(libvirt_site, cloud)
    port = make_port(cloud, network.subnets[0], "p", 2049)
    raw.networkLookupByUUIDString(network.id).destroy()
    raw.networkLookupByUUIDString(network.id).undefine()
    assert cloud.networks.find_subnet(network.id, None) is None
    with pytest.raises(CloudObjectMissing):
        cloud.compute.ensure_instance(instance_spec(libvirt_site, cloud, port), timeout=SECONDS)
    cloud.networks.delete_port(port.id, timeout=SECONDS)
    cloud.networks.delete_network(network.id)
    assert list(cloud.networks.list_networks()) == []


def test_addresses_of_the_lower_half_are_ours(libvirt_site: LibvirtSite, cloud: LibvirtCloud, raw: Any) -> None:
    network = make_network(libvirt_site, cloud)
    base = network.subnets[0].cidr.network_address
    port = make_port(cloud, network.subnets[0], "p", 2049)
    assert port.address == base + 2
    description = raw.networkLookupByUUIDString(network.id).XMLDesc(0)
    assert f"<range start='{base + 128}' end='{base + 254}'" in description
    assert f"<host mac='{port.mac}' ip='{port.address}'" in description


def test_a_network_of_ipv6(libvirt_site: LibvirtSite, cloud: LibvirtCloud) -> None:
    cidr = ip_network(f"fd{cloud.deployment[-6:-4]}:{cloud.deployment[-4:]}::/64")
    network = cloud.networks.create_network(f"{cloud.deployment}-6", cidr)
    subnet = cloud.networks.find_subnet(network.id, None)
    assert subnet == network.subnets[0]
    spec = PortSpec(name="p6", subnet=subnet, tags={}, allowed_tcp=(2049,))
    assert cloud.networks.ensure_port(spec, timeout=SECONDS).address == cidr.network_address + 2


# ---- daemons ----

DAEMONS = """
import os, signal, sys, time
from pathlib import Path
from sharewright.clouds.libvirt.cloud import LibvirtCloud
from sharewright.clouds.libvirt import daemons
from sharewright.progress import NoProgress
from sharewright.settings import Libvirt, VolumeDirectory

cloud = LibvirtCloud(Libvirt(accelerator="tcg"), deployment="daemons", state_dir=Path(sys.argv[1]))
cloud.check()
pids = {name: int(path.read_text()) for name, path in daemons.DAEMONS}
cloud.check()
assert pids == {name: int(path.read_text()) for name, path in daemons.DAEMONS}
os.kill(pids["libvirtd"], signal.SIGKILL)
while Path(f"/proc/{pids['libvirtd']}/exe").exists():
    time.sleep(0.05)
assert list(cloud.compute.list_instances()) == []  # connects again, starting it again
os.kill(pids["virtlogd"], signal.SIGKILL)
while Path(f"/proc/{pids['virtlogd']}/exe").exists():
    time.sleep(0.05)
cloud.check()
cloud.purge(NoProgress())
pids = {name: int(path.read_text()) for name, path in daemons.DAEMONS}
assert all(Path(f"/proc/{pid}/exe").exists() for pid in pids.values()), "both run again"
assert sorted(cloud.stop_daemons()) == ["libvirtd", "virtlogd"], "both were ours"
assert not any(Path(f"/proc/{pid}/exe").exists() for pid in pids.values())
assert cloud.stop_daemons() == []

# Daemons of somebody else are used and left running.
os.spawnlp(os.P_WAIT, "virtlogd", "virtlogd", "--daemon", "--pid-file", "/run/virtlogd.pid")
os.spawnlp(os.P_WAIT, "libvirtd", "libvirtd", "--daemon", "--pid-file", "/run/libvirtd.pid")
cloud.check()
cloud.purge(NoProgress())
assert cloud.stop_daemons() == []
pids = {name: int(path.read_text()) for name, path in daemons.DAEMONS}
assert all(Path(f"/proc/{pid}/exe").exists() for pid in pids.values())
print("done")
"""


def test_daemons_are_started_mended_and_stopped(libvirt_site: LibvirtSite) -> None:
    """In namespaces of its own, so that the host's libvirtd is not touched; they end with everything in them."""
    if shutil.which("unshare") is None or Path("/run/systemd/system").is_dir():
        pytest.skip("an init system is in charge of the daemons here")
    mounts = " && ".join(
        f"mount -t tmpfs none {path}" for path in ("/run", "/var/cache/libvirt", "/var/lib/libvirt", "/etc/libvirt")
    )
    result = subprocess.run(
        [
            *("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *("bash", "-c", f'{mounts} && exec "$@"', "bash"),
            *(sys.executable, "-c", DAEMONS, str(libvirt_site.directory / "private")),
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("done\n")
