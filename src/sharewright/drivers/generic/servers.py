"""What a share server is made with: the tenant's network that it belongs to, its flavor."""

from __future__ import annotations

from sqlalchemy import select

from sharewright.clouds.contract import Cloud
from sharewright.errors import CloudObjectMissing, NotFound
from sharewright.identifiers import utcnow
from sharewright.progress import Progress
from sharewright.service_instance.contract import TenantNetwork
from sharewright.store.database import Store
from sharewright.store.tables import share_network_subnets, share_networks, share_servers


def tenant_network(store: Store, server_id: str) -> TenantNetwork:
    """From the server's share network subnet. Raises NotFound; CloudObjectMissing when the subnet names no network."""
    with store.read() as tx:
        row = tx.execute(
            select(
                share_network_subnets.c.neutron_net_id,
                share_network_subnets.c.neutron_subnet_id,
                share_networks.c.project_id,
            )
            .join(share_networks, share_networks.c.id == share_network_subnets.c.share_network_id)
            .join(share_servers, share_servers.c.share_network_subnet_id == share_network_subnets.c.id)
            .where(share_servers.c.id == server_id)
        ).one_or_none()
    if row is None:
        raise NotFound(f"Share server {server_id} or its share network subnet does not exist any more.")
    if row.neutron_net_id is None:
        raise CloudObjectMissing(
            "The share network's subnet names no network.",
            hint="Create a share network with neutron_net_id and neutron_subnet_id.",
        )
    return TenantNetwork(net_id=row.neutron_net_id, subnet_id=row.neutron_subnet_id, project_id=row.project_id)


def server_flavor(store: Store, server_id: str) -> str | None:
    """The flavor that the server was asked for with; None: the backend's default one."""
    with store.read() as tx:
        return tx.execute(select(share_servers.c.flavor).where(share_servers.c.id == server_id)).scalar_one_or_none()


def record_subnet(store: Store, cloud: Cloud, server_id: str, network: TenantNetwork, progress: Progress) -> None:
    """Learn the tenant's subnet from the cloud and keep what the API shows of it. Raises CloudObjectMissing."""
    with progress.step("tenant subnet"):
        subnet = cloud.networks.find_subnet(network.net_id, network.subnet_id, project_id=network.project_id)
        if subnet is None:
            raise CloudObjectMissing(
                f"The share network refers to network {network.net_id}, subnet {network.subnet_id or '(first)'}, which "
                "the cloud does not have, or not for this project.",
                hint="Create the network, or a share network that names an existing one.",
            )
        with store.begin() as tx:
            progress.fence(tx)
            server = select(share_servers.c.share_network_subnet_id).where(share_servers.c.id == server_id)
            tx.execute(
                share_network_subnets.update()
                .where(share_network_subnets.c.id == server.scalar_subquery())
                .values(
                    network_type=subnet.network_type,
                    segmentation_id=subnet.segmentation_id,
                    cidr=str(subnet.cidr),
                    gateway=None if subnet.gateway is None else str(subnet.gateway),
                    ip_version=subnet.cidr.version,
                    mtu=subnet.mtu,
                    updated_at=utcnow(),
                )
            )
