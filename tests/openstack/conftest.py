"""One deployment on a real OpenStack for all stories: two tenants with a network and a client VM each, both layouts.

Booting is the expensive part (a minute under TCG), so everything is made once per session, and the VMs boot at the same
time as each other.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import pytest

from bed import Account, Bed, FloatingAddress, Services, TenantNetwork
from client_vm import ClientVm
from cloud_deployment import (
    FLAVOR,
    IMAGE,
    CloudDeployment,
    cloud_of_account,
    deployed,
    offer_image,
    tenant_with_client,
)
from databases import PostgresCluster
from deployment import PATIENCE, wait_for
from sharewright.image.build import build_image
from sharewright.service_instance.keys import authorized_keys_line, public_of
from stories_on_clouds.machines import service_instance
from stories_on_clouds.named_server import make_keys
from stories_on_clouds.share_types import make_share_types
from tenants import Shares, Tenant

NAS = f"swtest-nas-{os.getpid()}"  # the machine of an operator's; who needs it boots it
TENANTS = {"red": "10.77.1.0/24", "blue": "10.77.2.0/24"}
ADMIN_CIDR = "10.251.250.0/24"  # none that the libvirt tests use: this host has a route to it
CONFIGURATION = f"""
[worker]
lease_seconds = 10
reconcile_seconds = 5
sweep_seconds = 20
stats_seconds = 10
unused_server_seconds = 3600
operation_seconds = {900 * PATIENCE}

[backends.two_nics]
cloud = "openstack"
flavor = "{FLAVOR}"
boot_seconds = {300 * PATIENCE}
service_network_cidr = "10.251.0.0/18"
volume_types = ["VOLUME_TYPE"]

[backends.one_nic]
cloud = "openstack"
flavor = "{FLAVOR}"
boot_seconds = {300 * PATIENCE}
connect_share_server_to_tenant_network = false
service_network_cidr = "10.251.64.0/18"

[backends.named]
cloud = "openstack"
driver_handles_share_servers = false

[backends.named.server]
instance = "{NAS}"
management_address = "NAS_ADDRESS"
export_addresses = ["NAS_NETWORK"]
key_file = "NAS_DIRECTORY/server_key"
host_key = "NAS_HOST_KEY"

[backends.two_nics_admin]
cloud = "openstack"
flavor = "{FLAVOR}"
boot_seconds = {300 * PATIENCE}
admin_network_id = "ADMIN_NETWORK"
admin_subnet_id = "ADMIN_SUBNET"

[backends.one_nic_admin]
cloud = "openstack"
flavor = "{FLAVOR}"
boot_seconds = {300 * PATIENCE}
connect_share_server_to_tenant_network = false
service_network_cidr = "10.251.128.0/18"
admin_network_id = "ADMIN_NETWORK"
admin_subnet_id = "ADMIN_SUBNET"
"""


@pytest.fixture(scope="session")
def services() -> Services:
    return Services()


@pytest.fixture(scope="session")
def bed() -> Iterator[Bed]:
    assert os.geteuid() == 0, "These tests need root, for the route to the service networks."
    with Bed("10.251.0.0/16") as bed:
        yield bed


class OpenStackKinds:
    """Kinds, made by the administrator."""

    memory_mib = 640

    def __init__(self, bed: Bed) -> None:
        self._sdk = bed.sdk
        self.volume_type = bed.second_volume_type()
        self.flavor = bed.flavor(FLAVOR, ram=self.memory_mib)

    def volume_type_of(self, volume_id: str) -> str:
        return str(cast(Any, self._sdk.block_storage).get_volume(volume_id).volume_type)

    def memory_of(self, server_id: str) -> int:
        server = self._sdk.compute.find_server(f"manila-{server_id}", ignore_missing=False, all_projects=True)
        answer = self._sdk.compute.get(f"/servers/{server.id}", microversion="2.47")  # with the flavor's numbers
        return int(answer.json()["server"]["flavor"]["ram"])


@pytest.fixture(scope="session")
def kinds(bed: Bed) -> OpenStackKinds:
    return OpenStackKinds(bed)


@pytest.fixture(scope="session")
def admin_network(bed: Bed) -> TenantNetwork:
    return bed.admin_network(ADMIN_CIDR)


@pytest.fixture(scope="session")
def accounts(bed: Bed) -> dict[str, Account]:
    return {name: bed.account(name, "member") for name in TENANTS}


@pytest.fixture(scope="session")
def nas_address(bed: Bed, accounts: dict[str, Account]) -> FloatingAddress:
    """Where the controllers are going to reach the operator's machine."""
    return bed.floating_address(accounts["red"])


@pytest.fixture(scope="session")
def deployment(
    bed: Bed,
    postgres: PostgresCluster,
    kinds: OpenStackKinds,
    accounts: dict[str, Account],
    nas_address: FloatingAddress,
    admin_network: TenantNetwork,
) -> Iterator[CloudDeployment]:
    build_image(IMAGE, progress=print)
    directory = Path("/var/tmp") / f"sharewright-openstack-{os.getpid()}"
    directory.mkdir(mode=0o711)
    nas = directory / NAS
    nas.mkdir(mode=0o700)
    configuration = (
        CONFIGURATION.replace("VOLUME_TYPE", kinds.volume_type)
        .replace("ADMIN_NETWORK", admin_network.network_id)
        .replace("ADMIN_SUBNET", admin_network.subnet_id)
        .replace("NAS_ADDRESS", nas_address.address)
        .replace("NAS_NETWORK", accounts["red"].name)
        .replace("NAS_DIRECTORY", str(nas))
        .replace("NAS_HOST_KEY", make_keys(nas))
    )
    url = postgres.create_database(migrated=False)
    with (
        ExitStack() as stack,
        deployed(
            bed,
            directory,
            configuration,
            database_url=url,
            tenants=accounts,
        ) as deployment,
    ):
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        stack.callback(lambda: print(deployment.tail(300)))
        yield deployment


@pytest.fixture(scope="session")
def tenants(bed: Bed, deployment: CloudDeployment) -> Iterator[dict[str, Tenant]]:
    """Two tenants whose clients have booted, on networks that cannot reach each other."""
    image = offer_image(bed, deployment)
    with ExitStack() as stack:
        made = {
            name: stack.enter_context(
                tenant_with_client(
                    bed, deployment, name, bed.tenant_network(deployment.account(name), cidr), cidr, image
                )
            )
            for name, cidr in TENANTS.items()
        }
        make_share_types(deployment)
        for tenant in made.values():
            tenant.client.wait()
        yield made


@pytest.fixture(scope="session")
def nas(
    bed: Bed, deployment: CloudDeployment, tenants: dict[str, Tenant], nas_address: FloatingAddress
) -> Iterator[ClientVm]:
    """The machine that the backend "named" has its shares on: a server in the red tenant's project, who has made it
    there himself."""
    tenant, directory = tenants["red"], deployment.directory / NAS
    with cloud_of_account(deployment.account("red")) as cloud:
        subnet = cloud.networks.find_subnet(tenant.network_id, tenant.subnet_id)
        assert subnet is not None
        machine = ClientVm.boot(
            cloud,
            subnet,
            NAS,
            offer_image(bed, deployment),
            directory,
            ports=(2049, 445),
            keys=(authorized_keys_line(public_of((directory / "server_key").read_text())),),
            place=lambda port: bed.bind(nas_address, port),
        )
        try:
            yield machine.wait()
        finally:
            machine.delete()


class NovaMachines:
    """Machines, through Nova as its administrator."""

    def __init__(self, bed: Bed, deployment: CloudDeployment) -> None:
        self._compute = bed.sdk.compute
        self._deployment = deployment

    def _id(self, server_id: str) -> str:
        return str(service_instance(self._deployment, server_id).instance_id)

    def _status(self, identifier: str) -> str:
        return str(self._compute.get_server(identifier).status)

    def reset(self, server_id: str) -> None:
        identifier = self._id(server_id)
        self._compute.reboot_server(identifier, "HARD")
        wait_for("the reboot", lambda: self._status(identifier) == "ACTIVE")

    def power_off(self, server_id: str) -> None:
        identifier = self._id(server_id)
        self._compute.stop_server(identifier)
        wait_for("the power off", lambda: self._status(identifier) == "SHUTOFF")

    def destroy(self, server_id: str) -> None:
        identifier = self._id(server_id)
        self._compute.delete_server(identifier)
        self._compute.wait_for_delete(self._compute.get_server(identifier))


@pytest.fixture(scope="session")
def machines(bed: Bed, deployment: CloudDeployment) -> NovaMachines:
    return NovaMachines(bed, deployment)


@pytest.fixture(scope="session")
def red(tenants: dict[str, Tenant]) -> Shares:
    return Shares(tenants["red"])


@pytest.fixture(scope="session")
def blue(tenants: dict[str, Tenant]) -> Shares:
    return Shares(tenants["blue"])
