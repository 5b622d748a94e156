"""What a share server is made with: the tenant's network that it belongs to, its flavor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select

from sharewright.clouds.contract import Cloud
from sharewright.errors import CloudObjectMissing, NotFound
from sharewright.identifiers import utcnow
from sharewright.progress import Progress
from sharewright.service_instance.contract import TenantNetwork
from sharewright.settings import Backend
from sharewright.states import NetworkStatus
from sharewright.store.database import Store
from sharewright.store.tables import share_network_subnets, share_networks, share_servers


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSubnet:
    """A share network subnet that a server serves: its row's id, and what the cloud knows it by."""

    id: str
    network: TenantNetwork


def server_subnets(store: Store, server_id: str, settings: Backend) -> list[ServerSubnet]:
    """Those of the share network that are for the same availability zone as the server's own, which comes first.
    One that names no network is on all subnets of the backend's default network. Raises NotFound; CloudObjectMissing
    when there is none."""
    own, each = share_network_subnets.alias("own"), share_network_subnets.alias("each")
    with store.read() as tx:
        rows = tx.execute(
            select(each.c.id, each.c.neutron_net_id, each.c.neutron_subnet_id, share_networks.c.project_id)
            .select_from(share_servers)
            .join(own, own.c.id == share_servers.c.share_network_subnet_id)
            .join(
                each,
                (each.c.share_network_id == own.c.share_network_id)
                & each.c.availability_zone.is_not_distinct_from(own.c.availability_zone),
            )
            .join(share_networks, share_networks.c.id == each.c.share_network_id)
            .where(share_servers.c.id == server_id)
            .order_by((each.c.id == own.c.id).desc(), each.c.created_at, each.c.id)
        ).all()
    if not rows:
        raise NotFound(f"Share server {server_id} or its share network subnet does not exist any more.")
    if any(row.neutron_net_id is None for row in rows) and not settings.default_network_id:
        raise CloudObjectMissing(
            "The share network's subnet names no network.",
            hint="Create a share network with neutron_net_id and neutron_subnet_id.",
        )
    return [
        ServerSubnet(id=row.id, network=TenantNetwork(net_id=net_id, subnet_id=subnet_id, project_id=row.project_id))
        for row in rows
        for net_id, subnet_id in (
            [(row.neutron_net_id, row.neutron_subnet_id)]
            if row.neutron_net_id is not None
            else [(settings.default_network_id, each) for each in settings.default_subnet_ids]
        )
    ]


def network_changes(store: Store, server_id: str) -> bool:
    """Whether another story puts the servers of this one's share network on another subnet just now."""
    with store.read() as tx:
        status = tx.execute(
            select(share_networks.c.status)
            .join(share_servers, share_servers.c.share_network_id == share_networks.c.id)
            .where(share_servers.c.id == server_id)
        ).scalar_one_or_none()
    return status == NetworkStatus.NETWORK_CHANGE


def distinct_networks(subnets: Sequence[ServerSubnet]) -> list[TenantNetwork]:
    """Each once, in their order: a server has one NIC on a subnet, however many share network subnets mean it."""
    return list(dict.fromkeys(each.network for each in subnets))


def server_flavor(store: Store, server_id: str) -> str | None:
    """The flavor that the server was asked for with; None: the backend's default one."""
    with store.read() as tx:
        return tx.execute(select(share_servers.c.flavor).where(share_servers.c.id == server_id)).scalar_one_or_none()


def record_subnets(store: Store, cloud: Cloud, subnets: Sequence[ServerSubnet], progress: Progress) -> None:
    """Learn the tenant's subnets from the cloud and keep what the API shows of them. Raises CloudObjectMissing."""
    with progress.step("tenant subnet"):
        shown: set[str] = set()
        for each in subnets:
            network = each.network
            subnet = cloud.networks.find_subnet(network.net_id, network.subnet_id, project_id=network.project_id)
            if subnet is None:
                raise CloudObjectMissing(
                    f"The share network refers to network {network.net_id}, subnet {network.subnet_id or '(first)'}, "
                    "which the cloud does not have, or not for this project.",
                    hint="Create the network, or a share network that names an existing one.",
                )
            if each.id in shown:  # it is on several: the first is shown
                continue
            shown.add(each.id)
            with store.begin() as tx:
                progress.fence(tx)
                tx.execute(
                    share_network_subnets.update()
                    .where(share_network_subnets.c.id == each.id)
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
