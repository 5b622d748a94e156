"""One real deployment for all e2e tests of a test process: two tenants with a network and a client VM each, both
network layouts. Several processes (pytest-xdist) have a deployment with networks of its own each.

Booting is the expensive part (tens of seconds under TCG), so everything here is made once per session, and the VMs boot
at the same time as each other.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from client_vm import ClientVm
from deployment import Deployment, purge_leftovers
from domains import domain
from sharewright.clouds.libvirt.network_documents import first_subnet_id
from sharewright.clouds.open import open_cloud
from sharewright.configuration_file import load
from sharewright.identifiers import derived_id
from sharewright.image.build import build_image
from sharewright.service_instance.keys import authorized_keys_line, public_of
from stories_on_clouds.named_server import make_keys
from stories_on_clouds.share_types import make_share_types
from tenants import Shares, Tenant

IMAGE = Path(os.environ.get("SHAREWRIGHT_TEST_IMAGE", "/var/lib/sharewright/images/service"))
PROCESS = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
DEPLOYMENT = f"swtest{PROCESS}"
TENANT_BYTES = f"10.{77 - PROCESS}"  # first two of all tenants' addresses
SERVICE_BYTES = f"10.{252 - 2 * PROCESS}"  # 10.251 is what the tests on OpenStack use
VOLUME_TYPE = "second"
FLAVOR = "broad"
FLAVOR_MIB = 640
# libvirt networks have their ids from their names.
ADMIN_NETWORK = derived_id(DEPLOYMENT, "network", f"{DEPLOYMENT}-admin")
ADMIN_CIDR = f"{TENANT_BYTES}.250.0/24"
NAS = f"{DEPLOYMENT}-nas"  # the machine of an operator's, on the red tenant's network; who needs it boots it
NAS_ADDRESS = f"{TENANT_BYTES}.1.200"

CONFIGURATION = f"""
[worker]
lease_seconds = 10
reconcile_seconds = 5
sweep_seconds = 20
stats_seconds = 10
unused_server_seconds = 3600

[libvirt.volume_types.{VOLUME_TYPE}]
directory = "DIRECTORY"

[backends.two_nics]
image = "{IMAGE}"
volume_types = ["{VOLUME_TYPE}"]
service_network_cidr = "{SERVICE_BYTES}.0.0/18"

[backends.two_nics.flavors.{FLAVOR}]
vcpus = 2
memory_mib = {FLAVOR_MIB}

[backends.one_nic]
image = "{IMAGE}"
connect_share_server_to_tenant_network = false
service_network_cidr = "{SERVICE_BYTES}.64.0/18"

[backends.two_nics_admin]
image = "{IMAGE}"
admin_network_id = "{ADMIN_NETWORK}"
admin_subnet_id = "{first_subnet_id(ADMIN_NETWORK)}"

[backends.one_nic_admin]
image = "{IMAGE}"
connect_share_server_to_tenant_network = false
service_network_cidr = "{SERVICE_BYTES}.128.0/18"
admin_network_id = "{ADMIN_NETWORK}"
admin_subnet_id = "{first_subnet_id(ADMIN_NETWORK)}"

[backends.named]
driver_handles_share_servers = false

[backends.named.server]
instance = "{NAS}"
management_address = "{NAS_ADDRESS}"
key_file = "NAS_DIRECTORY/server_key"
host_key = "NAS_HOST_KEY"
"""


@pytest.fixture(scope="session")
def image() -> Path:
    build_image(IMAGE, progress=print)
    return IMAGE


@pytest.fixture(scope="session")
def deployment(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    assert os.geteuid() == 0, "The e2e tests need root."
    purge_leftovers("sharewright-e2e")
    directory = Path("/var/tmp") / f"sharewright-e2e-{os.getpid()}"
    directory.mkdir(mode=0o711)
    volumes = directory / VOLUME_TYPE
    volumes.mkdir(mode=0o711)
    nas = directory / NAS
    nas.mkdir(mode=0o700)
    made = Deployment(
        directory,
        CONFIGURATION.replace("NAS_DIRECTORY", str(nas))
        .replace("NAS_HOST_KEY", make_keys(nas))
        .replace("DIRECTORY", str(volumes)),
        name=DEPLOYMENT,
        users={
            "admin": ("admin", "admin member reader"),
            "red": ("red", "member reader"),
            "blue": ("blue", "member reader"),
        },
    )
    try:
        assert (
            made.command("network", "create", f"{DEPLOYMENT}-admin", ADMIN_CIDR, "--id-only").strip() == ADMIN_NETWORK
        )
        made.start()
        yield made
    finally:
        print(made.tail(200))
        made.purge()
        shutil.rmtree(directory)


@pytest.fixture(scope="session")
def nas(deployment: Deployment, tenants: dict[str, Tenant]) -> Iterator[ClientVm]:
    """The machine that the backend "named" has its shares on, which knows nothing of them yet."""
    settings = load(deployment.config)
    cloud = open_cloud(settings, settings.backends["two_nics"])
    subnet = cloud.networks.find_subnet(tenants["red"].network_id, None)
    assert subnet is not None
    directory = deployment.directory / NAS
    login = public_of((directory / "server_key").read_text())
    machine = ClientVm.boot(
        cloud, subnet, NAS, str(IMAGE), directory, address=ip_address(NAS_ADDRESS), ports=(2049, 445),
        keys=(authorized_keys_line(login),),
    )  # fmt: skip
    try:
        yield machine.wait()
    finally:
        machine.delete()
        cloud.close()


@pytest.fixture(scope="session")
def admin_network(deployment: Deployment) -> tuple[str, str]:
    """Id and addresses."""
    return ADMIN_NETWORK, ADMIN_CIDR


@pytest.fixture(scope="session")
def tenants(deployment: Deployment) -> Iterator[dict[str, Tenant]]:
    """Two tenants whose clients have booted."""
    settings = load(deployment.config)
    cloud = open_cloud(settings, settings.backends["two_nics"])
    made: dict[str, Tenant] = {}
    clients: list[ClientVm] = []
    try:
        for name, cidr in (("red", f"{TENANT_BYTES}.1.0/24"), ("blue", f"{TENANT_BYTES}.2.0/24")):
            network_id = deployment.command(
                "network", "create", f"{DEPLOYMENT}-{name}", cidr, "--project", name, "--id-only"
            ).strip()
            subnet = cloud.networks.find_subnet(network_id, None)
            assert subnet is not None
            client = ClientVm.boot(
                cloud, subnet, f"{DEPLOYMENT}-client-{name}", str(IMAGE), deployment.directory / f"client-{name}"
            )
            clients.append(client)
            sdk = deployment.sdk(name)
            share_network = sdk.shared_file_system.create_share_network(
                name=f"{name}-network", neutron_net_id=network_id, neutron_subnet_id=subnet.id
            )
            made[name] = Tenant(name, network_id, subnet.id, cidr, client, sdk, share_network.id)
        make_share_types(deployment)
        for client in clients:
            client.wait()
        yield made
    finally:
        for client in clients:
            client.delete()
        cloud.close()


class LibvirtMachines:
    """Machines, through libvirt."""

    def reset(self, server_id: str) -> None:
        with domain(server_id) as found:
            found.reset()

    def power_off(self, server_id: str) -> None:
        with domain(server_id) as found:
            found.destroy()

    def destroy(self, server_id: str) -> None:
        with domain(server_id) as found:
            found.destroy()
            found.undefine()


@pytest.fixture(scope="session")
def machines() -> LibvirtMachines:
    return LibvirtMachines()


class LibvirtKinds:
    """Kinds, of this host."""

    volume_type = VOLUME_TYPE
    flavor = FLAVOR
    memory_mib = FLAVOR_MIB

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def volume_type_of(self, volume_id: str) -> str:
        """Where its file is."""
        (file,) = self._directory.glob(f"*/*/{volume_id}.*")
        return file.parent.parent.name

    def memory_of(self, server_id: str) -> int:
        with domain(server_id) as found:
            return int(found.maxMemory() // 1024)


@pytest.fixture(scope="session")
def kinds(deployment: Deployment) -> LibvirtKinds:
    return LibvirtKinds(deployment.directory)


@pytest.fixture(scope="session")
def red(tenants: dict[str, Tenant]) -> Shares:
    return Shares(tenants["red"])


@pytest.fixture(scope="session")
def blue(tenants: dict[str, Tenant]) -> Shares:
    return Shares(tenants["blue"])
