"""The OpenStack cloud as a whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from openstack.connection import Connection as Sdk

from sharewright.clouds.openstack.compute import OpenStackCompute
from sharewright.clouds.openstack.connection import (
    COMPUTE_MICROVERSION,
    VOLUME_MICROVERSION,
    Connection,
    block_storage,
    image_service,
)
from sharewright.clouds.openstack.images import OpenStackImages
from sharewright.clouds.openstack.networks import OpenStackNetworks
from sharewright.clouds.openstack.polling import Deadline, Paces
from sharewright.clouds.openstack.volumes import OpenStackVolumes
from sharewright.errors import CloudError
from sharewright.progress import Progress
from sharewright.settings import OpenStack

PURGE_SECONDS = 300.0  # for one object

# Service → a small question that only a working service answers.
QUESTIONS: dict[str, Callable[[Sdk], Any]] = {
    "Nova": lambda sdk: sdk.compute.get("/flavors?limit=1", raise_exc=True),
    "Cinder": lambda sdk: block_storage(sdk).get("/volumes?limit=1", raise_exc=True),
    "Neutron": lambda sdk: sdk.network.get("/networks?limit=1&fields=id", raise_exc=True),
    "Glance": lambda sdk: image_service(sdk).get("/images?limit=1", raise_exc=True),
}


class OpenStackCloud:
    """Contract Cloud. Any number of objects in any number of processes and hosts may serve one deployment."""

    def __init__(
        self,
        settings: OpenStack,
        *,
        deployment: str,
        keystone_projects: bool = True,
        service_networks: bool = True,
    ) -> None:
        """``keystone_projects``: callers' projects are this cloud's, so that they may use their own networks only.
        ``service_networks``: some are needed, and so is a way to them."""
        self._deployment = deployment
        self._connection = Connection(settings)
        paces = Paces()
        self._images = OpenStackImages(self._connection, deployment, settings.image_project)
        self._volumes = OpenStackVolumes(self._connection, deployment, paces)
        self._networks = OpenStackNetworks(
            self._connection,
            deployment,
            settings,
            keystone_projects=keystone_projects,
            service_networks=service_networks,
        )
        self._compute = OpenStackCompute(self._connection, deployment, self._volumes, self._images, paces)

    @property
    def name(self) -> str:
        return "openstack"

    @property
    def deployment(self) -> str:
        return self._deployment

    @property
    def volumes(self) -> OpenStackVolumes:
        return self._volumes

    @property
    def networks(self) -> OpenStackNetworks:
        return self._networks

    @property
    def compute(self) -> OpenStackCompute:
        return self._compute

    @property
    def images(self) -> OpenStackImages:
        return self._images

    def check(self) -> None:
        """Log in, have every service answer with the API that we need, and let the networks put right what they find
        changed, and what deleted snapshots had to leave behind go."""
        for service, question in QUESTIONS.items():
            self._connection.once(f"asking {service} whether it works", question)
        self._connection.once("asking for API versions", _check_microversions)
        self._networks.check()
        self._volumes.collect(Deadline(PURGE_SECONDS))

    def purge(self, progress: Progress) -> None:
        """Delete everything of this deployment, shares' data included: servers, snapshots, volumes, networks,
        images."""
        with progress.step("delete servers"):
            for instance in self._compute.list_instances():
                self._compute.delete_instance(instance.id, timeout=PURGE_SECONDS)
            self._compute.remove_groups()
        with progress.step("delete snapshots"):
            for snapshot in self._volumes.list_snapshots():
                self._volumes.delete_snapshot(snapshot.id, timeout=PURGE_SECONDS)
        with progress.step("delete volumes"):
            for volume in self._volumes.list_volumes():
                if volume.instance_id is not None:  # the server is gone or another's
                    self._compute.detach_volume(volume.instance_id, volume.id, timeout=PURGE_SECONDS)
                self._volumes.delete_volume(volume.id, timeout=PURGE_SECONDS)
            self._volumes.collect(Deadline(PURGE_SECONDS))
        with progress.step("delete networks"):
            self._networks.purge(timeout=PURGE_SECONDS)
        with progress.step("delete images"):
            self._images.purge()

    def close(self) -> None:
        self._connection.close()


def _check_microversions(sdk: Sdk) -> None:
    for name, proxy, wanted in (
        ("Nova", sdk.compute, COMPUTE_MICROVERSION),
        ("Cinder", block_storage(sdk), VOLUME_MICROVERSION),
    ):
        data = proxy.get_endpoint_data()
        newest = data.max_microversion if data is not None else None
        if newest is None or tuple(newest) < tuple(int(part) for part in wanted.split(".")):
            raise CloudError(
                f"{name} offers API {'.'.join(map(str, newest or ('none',)))}; Sharewright needs {wanted}.",
                hint="OpenStack releases from Train (2019) on have it.",
            )
