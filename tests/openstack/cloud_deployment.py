"""Sharewright on a real OpenStack as an operator deploys it: API and worker as processes of their own, PostgreSQL,
Keystone, an entry in the catalogue; and tenants that are ordinary members of their projects."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

from openstack.image.v2._proxy import Proxy as ImageService

from bed import CONTROLLER, EXTERNAL, Account, Bed, TenantNetwork, administrator
from client_vm import ClientVm
from deployment import SHAREWRIGHT, Deployment, without_openstack
from sharewright.clouds.openstack.cloud import OpenStackCloud
from sharewright.progress import NoProgress
from sharewright.settings import OpenStack
from tenants import Tenant

IMAGE = Path(os.environ.get("SHAREWRIGHT_TEST_IMAGE", "/var/lib/sharewright/images/service"))
FLAVOR = "m1.small"
FORM = ("--kernel",)  # Nova boots kernel and initrd: without KVM the boot loader alone takes seconds


class CloudDeployment(Deployment):
    PARTS = ("api", "worker")

    def __init__(
        self,
        directory: Path,
        configuration: str,
        *,
        bed: Bed,
        database_url: str,
        tenants: dict[str, Account],
        head: str = "",
    ) -> None:
        self._bed = bed
        self._service = bed.account("service", "admin", "service")
        bed.be_generous(self._service)
        self._accounts = tenants
        self._admin = bed.account("operator", "admin")
        secret = directory / "password"
        secret.touch(mode=0o600)
        secret.write_text(self._service.password)
        login = (
            f'auth_url = "{administrator()["OS_AUTH_URL"]}"\nusername = "{self._service.name}"\n'
            f'password_file = "{secret}"\nproject = "{self._service.name}"\n'
        )
        self._login = login
        configuration = (
            f'[database]\nurl = "{database_url}"\n[openstack]\n{login}management = "routed"\n'
            f'management_router = "{bed.management_router()}"\nmanagement_cidrs = ["{CONTROLLER}/32"]\n'
            f'external_network = "{EXTERNAL}"\n{configuration}'
        )
        super().__init__(directory, configuration, name=bed.mark, users={}, head=head)

    def identity(self) -> str:
        return f'[identity]\nmode = "keystone"\n[identity.keystone]\n{self._login}'

    def account(self, user: str) -> Account:
        return self._admin if user == "admin" else self._accounts[user]

    def credentials(self, user: str) -> dict[str, str]:
        return self.account(user).variables()

    def connection(self, user: str) -> dict[str, Any]:
        # Not by the catalogue: another deployment under test may be there at the same time.
        return {**self.account(user).arguments(), "shared_file_system_endpoint_override": self.endpoint}

    @contextmanager
    def in_the_catalogue(self) -> Iterator[None]:
        """Registered in Keystone's catalogue, which has room for one service of our kind: no longer than needed."""
        self._register(f"http://127.0.0.1:{self.port}")
        try:
            yield
        finally:
            self._register("--remove")

    def _register(self, *arguments: str) -> None:
        done = subprocess.run(
            [SHAREWRIGHT, "--config", self.config, "keystone", "register", *arguments],
            env=without_openstack(os.environ) | administrator(), text=True, capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def upload_image(self, *form: str) -> str:
        """The image's id."""
        return self.command("image", "upload", str(IMAGE), *form).split()[-1]


@contextmanager
def deployed(
    bed: Bed, directory: Path, configuration: str, *, form: tuple[str, ...] = FORM, **arguments: Any
) -> Iterator[CloudDeployment]:
    """A running deployment with its image in that form; everything of it is removed at the end."""
    deployment = CloudDeployment(directory, configuration, bed=bed, **arguments)
    try:
        deployment.upload_image(*form)
        deployment.start()
        yield deployment
    finally:
        deployment.purge()


def offer_image(bed: Bed, deployment: CloudDeployment) -> str:
    """Let tenants boot the service image by its id, which is returned: it is their clients' too."""
    images = cast(ImageService, bed.sdk.image)
    image = images.get_image(deployment.upload_image(*FORM))
    for identifier in (image.id, image.kernel_id, image.ramdisk_id):
        if identifier:
            images.update_image(identifier, visibility="community")
    return str(image.id)


@contextmanager
def cloud_of_account(account: Account) -> Iterator[OpenStackCloud]:
    """What belongs to somebody who is no operator of Sharewright; this host reaches it by floating addresses."""
    settings = OpenStack(
        **{key: account.arguments()[key] for key in ("auth_url", "username", "password")},
        project=account.name,
        management="floating",
        external_network=EXTERNAL,
    )
    cloud = OpenStackCloud(settings, deployment=account.name)
    try:
        yield cloud
    finally:
        cloud.close()


@contextmanager
def tenant_with_client(
    bed: Bed, deployment: CloudDeployment, name: str, place: TenantNetwork, cidr: str, image: str
) -> Iterator[Tenant]:
    """A tenant with a client VM of his own, reached by a floating address; it is booting."""
    account = deployment.account(name)
    with ExitStack() as stack:
        cloud = stack.enter_context(cloud_of_account(account))
        stack.callback(lambda: cloud.purge(NoProgress()))  # whose time begins when it is made
        subnet = cloud.networks.find_subnet(place.network_id, place.subnet_id)
        assert subnet is not None
        client = ClientVm.boot(cloud, subnet, f"{account.name}-client", image, deployment.directory / f"client-{name}")
        sdk = stack.enter_context(deployment.sdk(name))
        share_network = sdk.shared_file_system.create_share_network(
            name=f"{name}-network", neutron_net_id=place.network_id, neutron_subnet_id=place.subnet_id
        )
        yield Tenant(name, place.network_id, place.subnet_id, cidr, client, sdk, share_network.id)
