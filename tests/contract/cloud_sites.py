"""The clouds under the contract tests, each with what a test needs around it."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import subprocess
import tempfile
from ipaddress import IPv4Network
from pathlib import Path
from typing import Protocol

from sharewright.clouds.contract import Cloud, Flavor, InstanceSpec, Network, Port, PortSpec, Subnet, TenantNetworks
from sharewright.clouds.simulated import SimulatedCloud
from sharewright.errors import CloudError
from sharewright.identifiers import short_hash
from sharewright.progress import NoProgress
from sharewright.settings import Libvirt, Simulated

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

    def remove(self) -> None:
        for cloud in self._clouds:
            cloud.close()


class LibvirtSite:
    """Real libvirt, in a state directory of its own. Machines have an empty disk, so they start and boot nothing."""

    def __init__(self, settings: Libvirt | None = None) -> None:
        # Not pytest's directory: QEMU's user may not pass through that.
        self.directory = Path(tempfile.mkdtemp(prefix="sharewright-contract-", dir="/var/tmp"))
        self.directory.chmod(0o711)
        self.image = str(self.directory / "empty.qcow2")
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", self.image, "1M"], check=True)
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

    def remove(self) -> None:
        from sharewright.clouds.libvirt.cloud import LibvirtCloud

        for cloud in self._clouds:
            cloud.close()
        for name, state_dir in self._deployments.items():
            cloud = LibvirtCloud(self._settings, deployment=name, state_dir=state_dir)
            cloud.purge(NoProgress())
            cloud.close()
        shutil.rmtree(self.directory)


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
