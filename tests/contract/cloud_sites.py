"""The clouds under the contract tests, each with what a test needs around it."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import re
import shutil
import subprocess
import tempfile
import time
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Protocol

import msgspec
import openstack
import pytest

from sharewright.clouds.contract import Cloud, Flavor, InstanceSpec, Network, Port, PortSpec, Subnet, TenantNetworks
from sharewright.clouds.openstack.cloud import OpenStackCloud
from sharewright.clouds.openstack.connection import Connection as OpenStackConnection
from sharewright.clouds.openstack.images import OpenStackImages, Source
from sharewright.clouds.simulated import SimulatedCloud
from sharewright.errors import CloudError
from sharewright.identifiers import short_hash
from sharewright.progress import NoProgress
from sharewright.settings import Libvirt, OpenStack, Simulated

SECONDS = 60.0
FILES = {"meta_data.json": b"{}", "user_data": b"{}"}


class Site(Protocol):
    """A place with one cloud, possibly of several deployments; ``remove`` leaves nothing behind."""

    image: str

    def open(self, deployment: str = "") -> Cloud:
        """A cloud object as another process would make it. Empty: the test's own deployment."""
        ...

    def cidr(self) -> IPv4Network:
        """A /24 that nobody else uses."""
        ...

    def write(self, cloud: Cloud, volume_id: str, pattern: int) -> None:
        """Fill the first block of a volume that nobody has attached with one byte, behind the cloud's back."""
        ...

    def holds(self, cloud: Cloud, volume_id: str, pattern: int, *, gibibyte: int = 0) -> bool:
        """Whether the first block of that GiB of a volume is full of one byte."""
        ...

    def power_off(self, cloud: Cloud, instance_id: str) -> None:
        """Stop a machine, behind the cloud's back."""
        ...

    def remove(self) -> None: ...


class SimulatedSite:
    image = "image"

    def __init__(self, directory: Path) -> None:
        self._path = directory / "cloud.db"
        self._clouds: list[Cloud] = []
        self._numbers = itertools.count()

    def open(self, deployment: str = "") -> Cloud:
        cloud = SimulatedCloud(Simulated(capacity=1000), deployment=deployment or "tests", path=self._path)
        self._clouds.append(cloud)
        return cloud

    def cidr(self) -> IPv4Network:
        return IPv4Network(f"10.7.{next(self._numbers)}.0/24")

    def write(self, cloud: Cloud, volume_id: str, pattern: int) -> None:
        """Simulated volumes hold nothing but the name of a file system."""
        assert isinstance(cloud, SimulatedCloud)
        with cloud.state.transaction() as tx:
            changed = tx.execute("UPDATE volumes SET filesystem_uuid = ? WHERE id = ?", (str(pattern), volume_id))
            assert changed.rowcount == 1

    def holds(self, cloud: Cloud, volume_id: str, pattern: int, *, gibibyte: int = 0) -> bool:
        assert isinstance(cloud, SimulatedCloud)
        with cloud.state.transaction(write=False) as tx:
            row = tx.execute("SELECT * FROM volumes WHERE id = ?", (volume_id,)).fetchone()
        assert gibibyte < row["size"]
        return pattern == (0 if gibibyte else int(row["filesystem_uuid"] or 0))

    def power_off(self, cloud: Cloud, instance_id: str) -> None:
        assert isinstance(cloud, SimulatedCloud)
        cloud.compute.stop_instance(instance_id)

    def remove(self) -> None:
        for cloud in self._clouds:
            cloud.close()


class LibvirtSite:
    """Real libvirt, in a state directory of its own. Machines have an empty disk, so they start and boot nothing."""

    def __init__(self, settings: Libvirt | None = None) -> None:
        # Not pytest's directory: QEMU's user may not pass through that.
        self.directory = Path(tempfile.mkdtemp(prefix="sharewright-contract-", dir="/var/tmp"))
        self.directory.chmod(0o711)
        self.image = str(empty_disk(self.directory))
        self._settings = settings or Libvirt(accelerator="tcg")
        self._deployments: dict[str, Path] = {}
        self._clouds: list[Cloud] = []
        self._random = random.Random(os.urandom(8))
        self.name = "swct-" + short_hash(str(self.directory), length=6)

    def state_dir(self, deployment: str = "") -> Path:
        return self.directory / (deployment or "state")

    def open(self, deployment: str = "") -> Cloud:
        from sharewright.clouds.libvirt.cloud import LibvirtCloud

        name = f"{self.name}-{deployment}" if deployment else self.name
        cloud = LibvirtCloud(self._settings, deployment=name, state_dir=self.state_dir(deployment))
        self._clouds.append(cloud)
        self._deployments[name] = self.state_dir(deployment)
        return cloud

    def cidr(self) -> IPv4Network:
        return IPv4Network(f"10.{self._random.randrange(160, 240)}.{self._random.randrange(256)}.0/24")

    def write(self, cloud: Cloud, volume_id: str, pattern: int) -> None:
        file = self._file(cloud, volume_id)
        write_block(str(file), file.suffix[1:], pattern)

    def holds(self, cloud: Cloud, volume_id: str, pattern: int, *, gibibyte: int = 0) -> bool:
        file = self._file(cloud, volume_id)
        return block_holds(str(file), file.suffix[1:], pattern, gibibyte)

    def power_off(self, cloud: Cloud, instance_id: str) -> None:
        import libvirt

        with contextlib.closing(libvirt.open(self._settings.uri)) as connection:
            connection.lookupByUUIDString(instance_id).destroy()

    def _file(self, cloud: Cloud, volume_id: str) -> Path:
        (file,) = (self._deployments[cloud.deployment] / "libvirt" / "volumes").glob(f"{volume_id}.*")
        return file

    def remove(self) -> None:
        from sharewright.clouds.libvirt.cloud import LibvirtCloud

        for cloud in self._clouds:
            cloud.close()
        for name, state_dir in self._deployments.items():
            cloud = LibvirtCloud(self._settings, deployment=name, state_dir=state_dir)
            cloud.purge(NoProgress())
            cloud.close()
        shutil.rmtree(self.directory)


class TestBed:
    """A real OpenStack, named by its openrc file, with what the sites share: a project, an image of an empty disk, so
    that machines start and boot nothing, and the operator's router between service networks and controllers. ``sdk`` is
    the administrator's way in, in a project of its own."""

    __test__ = False  # no test, pytest

    def __init__(self, openrc: Path) -> None:
        variables = dict(re.findall(r"(OS_\w+)=(\S+)", openrc.read_text()))
        self.name = "swct-" + short_hash(str(os.getpid()), str(time.time_ns()), length=6)
        self.ceph = openrc.parent / "ceph.conf"
        self._admin = OpenStack(
            auth_url=variables["OS_AUTH_URL"],
            username=variables["OS_USERNAME"],
            password=variables["OS_PASSWORD"],
            project=variables["OS_PROJECT_NAME"],
            region=variables["OS_REGION_NAME"],
            management_router=self.name,
            management_cidrs=("10.253.0.0/24",),
            external_network="public",
        )
        with contextlib.ExitStack() as stack:
            self.sdk = self._connect(self._admin)
            stack.callback(self.sdk.close)
            self._make_project(stack)
            self._make_router(stack)
            self.image = self._upload_image(stack)
            self._undo = stack.pop_all()

    def _connect(self, settings: OpenStack) -> Any:
        return openstack.connect(
            load_yaml_config=False,
            load_envvars=False,
            auth_url=settings.auth_url,
            username=settings.username,
            password=settings.password,
            project_name=settings.project,
            user_domain_name="Default",
            project_domain_name="Default",
            region_name=settings.region,
        )

    def _make_project(self, stack: contextlib.ExitStack) -> None:
        """A project of our own: its quotas and its use of them are nobody else's."""
        identity = self.sdk.identity
        project = identity.create_project(name=self.name, domain_id="default")
        stack.callback(identity.delete_project, project)
        stack.callback(self._remove_security_groups, project.id)
        user = identity.find_user(self._admin.username, ignore_missing=False)
        role = identity.find_role("admin", ignore_missing=False)
        identity.assign_project_role_to_user(project, user, role)
        self.sdk.set_volume_quotas(project.id, volumes=100, snapshots=100, gigabytes=1000)
        self.sdk.set_network_quotas(project.id, security_group=-1, security_group_rule=-1)
        self.settings = msgspec.structs.replace(self._admin, project=self.name)

    def _remove_security_groups(self, project_id: str) -> None:
        """Neutron makes a default one for every project, and keeps it."""
        for group in list(self.sdk.network.security_groups(project_id=project_id)):
            self.sdk.network.delete_security_group(group)

    def _make_router(self, stack: contextlib.ExitStack) -> None:
        outside = self.sdk.network.find_network("public", ignore_missing=False)
        self.router = self.sdk.network.create_router(
            name=self.name, external_gateway_info={"network_id": outside.id, "enable_snat": False}
        )
        stack.callback(self.sdk.network.delete_router, self.router)

    def _upload_image(self, stack: contextlib.ExitStack) -> str:
        connection = OpenStackConnection(self.settings)
        stack.callback(connection.close)
        images = OpenStackImages(connection, self.name)
        stack.callback(images.purge)
        with tempfile.TemporaryDirectory() as directory:
            return images.upload(Source(disk=empty_disk(Path(directory)), min_ram=0), NoProgress())

    def remove(self) -> None:
        self._undo.close()


class OpenStackSite:
    """One test's deployments on the test bed."""

    def __init__(self, bed: TestBed) -> None:
        self._bed = bed
        self.image = bed.image
        self._random = random.Random(os.urandom(8))
        self.name = f"{bed.name}-{self._random.randrange(10**6)}"
        self._clouds: list[OpenStackCloud] = []

    def open(self, deployment: str = "") -> Cloud:
        name = f"{self.name}-{deployment}" if deployment else self.name
        cloud = OpenStackCloud(self._bed.settings, deployment=name)
        self._clouds.append(cloud)
        return cloud

    def cidr(self) -> IPv4Network:
        return IPv4Network(f"10.{self._random.randrange(160, 240)}.{self._random.randrange(256)}.0/24")

    def write(self, cloud: Cloud, volume_id: str, pattern: int) -> None:
        write_block(self._image(volume_id), "raw", pattern)

    def holds(self, cloud: Cloud, volume_id: str, pattern: int, *, gibibyte: int = 0) -> bool:
        return block_holds(self._image(volume_id), "raw", pattern, gibibyte)

    def power_off(self, cloud: Cloud, instance_id: str) -> None:
        compute = self._bed.sdk.compute
        compute.stop_server(instance_id)
        compute.wait_for_server(compute.get_server(instance_id), status="SHUTOFF", interval=1, wait=SECONDS)

    def _image(self, volume_id: str) -> str:
        if not self._bed.ceph.exists():
            pytest.skip(f"There is no {self._bed.ceph}: only the test bed lets us look into its volumes.")
        return f"rbd:volumes/volume-{volume_id}:conf={self._bed.ceph}"

    def remove(self) -> None:
        for cloud in {cloud.deployment: cloud for cloud in self._clouds}.values():
            cloud.purge(NoProgress())
        for cloud in self._clouds:
            cloud.close()


def empty_disk(directory: Path) -> Path:
    """An image to start machines from that boot nothing."""
    disk = directory / "empty.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "1M"], check=True)
    return disk


def write_block(image: str, form: str, pattern: int) -> None:
    command = ["qemu-io", "-f", form, "-c", f"write -P {pattern} 0 64k", image]
    subprocess.run(command, check=True, capture_output=True)


def block_holds(image: str, form: str, pattern: int, gibibyte: int) -> bool:
    command = ["qemu-io", "-r", "-f", form, "-c", f"read -P {pattern} {gibibyte}G 64k", image]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if "read 65536/65536 bytes" not in done.stdout:
        raise AssertionError(f"{image} cannot be read: {done.stdout} {done.stderr}")
    return "Pattern verification failed" not in done.stdout


def make_network(site: Site, cloud: Cloud, name: str = "tenant") -> Network:
    """A tenant's network; names are host-wide on libvirt."""
    assert isinstance(cloud.networks, TenantNetworks)
    unique = f"{cloud.deployment}-{name}"
    for _ in range(5):
        try:
            return cloud.networks.create_network(unique, site.cidr())
        except CloudError as error:
            if "overlaps" not in str(error):
                raise
    raise AssertionError("no free range found")


def make_port(cloud: Cloud, subnet: Subnet, name: str = "port", *allowed_tcp: int) -> Port:
    return cloud.networks.ensure_port(
        PortSpec(name=f"{cloud.deployment}-{name}", subnet=subnet, tags={"x": name}, allowed_tcp=allowed_tcp),
        timeout=SECONDS,
    )


def instance_spec(site: Site, cloud: Cloud, *ports: Port, name: str = "vm") -> InstanceSpec:
    return InstanceSpec(
        name=f"{cloud.deployment}-{name}",
        image=site.image,
        flavor=Flavor(memory_mib=64),
        ports=ports,
        files=FILES,
        tags={"sharewright_owner": f"share_server:{name}"},
    )


def smaller(cidr: IPv4Network) -> IPv4Network:
    """The first /28 of a range, as service subnets are."""
    return IPv4Network((cidr.network_address, 28))
