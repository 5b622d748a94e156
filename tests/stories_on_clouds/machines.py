"""What somebody with the cloud's own tools does to service VMs, behind Sharewright's back."""

from __future__ import annotations

from ipaddress import ip_interface
from typing import Any, Protocol

from sqlalchemy import select

from deployment import Deployment
from sharewright.clouds.contract import Cloud
from sharewright.clouds.open import open_cloud
from sharewright.configuration_file import load
from sharewright.store.tables import service_instances, share_instances


class Machines(Protocol):
    """By the id of the share server. Each returns when the cloud has done it."""

    def reset(self, server_id: str) -> None: ...

    def power_off(self, server_id: str) -> None: ...

    def destroy(self, server_id: str) -> None: ...


def service_instance(deployment: Deployment, server_id: str) -> Any:
    """The row of a share server's VM."""
    with deployment.store() as store, store.read() as tx:
        return tx.execute(select(service_instances).where(service_instances.c.id == server_id)).one()


def share_instance(deployment: Deployment, share_id: str) -> Any:
    with deployment.store() as store, store.read() as tx:
        return tx.execute(select(share_instances).where(share_instances.c.share_id == share_id)).one()


def addresses(deployment: Deployment, share_id: str) -> tuple[str, list[str]]:
    """Management and export addresses of the server of a share."""
    row = service_instance(deployment, str(share_instance(deployment, share_id).share_server_id))
    return row.management_address, list(row.export_addresses)


def admin_address(deployment: Deployment, share_id: str) -> str:
    """Of the server of a share, on the admin network."""
    row = service_instance(deployment, str(share_instance(deployment, share_id).share_server_id))
    return next(str(port["address"]) for port in row.ports if port["role"] == "admin")


def controllers(deployment: Deployment, share_id: str) -> list[str]:
    """The first address of each network from which the controllers log in to the server of a share."""
    row = service_instance(deployment, str(share_instance(deployment, share_id).share_server_id))
    return [str(ip_interface(source).ip) for source in row.firewall["management_from"]]


def cloud_of(deployment: Deployment) -> Cloud:
    """The deployment's cloud, as its worker sees it."""
    settings = load(deployment.config)
    return open_cloud(settings, settings.backends["two_nics"])


def volumes_of(cloud: Cloud, share_instance_id: str) -> list[str]:
    return [volume.name for volume in cloud.volumes.list_volumes() if share_instance_id in volume.name]
