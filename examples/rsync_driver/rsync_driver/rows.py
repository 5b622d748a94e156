"""What the driver reads and writes in the store.

The columns ``volume_*``, ``filesystem_*`` and ``wanted`` of ``share_instances`` are the memory of the backend's driver:
nobody else writes them. Everything is written the moment it is known, behind the fence of the running operation.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row, select, update

from sharewright.errors import NotFound
from sharewright.guest.document import Document, Filesystem, Firewall, Share
from sharewright.identifiers import utcnow
from sharewright.progress import Progress
from sharewright.service_instance.contract import TenantNetwork
from sharewright.states import AccessState
from sharewright.store.database import Store
from sharewright.store.tables import (
    share_access_rules,
    share_instances,
    share_network_subnets,
    share_networks,
    share_servers,
)

IN_FORCE = (AccessState.QUEUED_TO_APPLY, AccessState.APPLYING, AccessState.ACTIVE)


def find_instance(store: Store, share_instance_id: str) -> Row[Any] | None:
    with store.read() as tx:
        return tx.execute(select(share_instances).where(share_instances.c.id == share_instance_id)).one_or_none()


def read_instance(store: Store, share_instance_id: str) -> Row[Any]:
    row = find_instance(store, share_instance_id)
    if row is None:
        raise NotFound(f"Share instance {share_instance_id} does not exist any more.")
    return row


def instances_on(store: Store, server_id: str) -> list[Row[Any]]:
    """The attached shares of a server."""
    query = select(share_instances).where(
        share_instances.c.share_server_id == server_id,
        share_instances.c.wanted.is_(True),
        share_instances.c.volume_attached.is_(True),
    )
    with store.read() as tx:
        return list(tx.execute(query).all())


def remember(store: Store, progress: Progress, share_instance_id: str, **values: object) -> None:
    with store.begin() as tx:
        progress.fence(tx)
        tx.execute(
            update(share_instances)
            .where(share_instances.c.id == share_instance_id)
            .values(**values, updated_at=utcnow())
        )


def rules_of(store: Store, share_id: str) -> list[Row[Any]]:
    """id, access_level, wanted: false for a rule that is being denied."""
    rules = share_access_rules.c
    query = select(rules.id, rules.access_level, rules.state.in_(IN_FORCE).label("wanted"))
    with store.read() as tx:
        return list(tx.execute(query.where(rules.share_id == share_id)).all())


def tenant_network(store: Store, server_id: str) -> TenantNetwork:
    """The network that the server's share network is about."""
    query = (
        select(
            share_network_subnets.c.neutron_net_id,
            share_network_subnets.c.neutron_subnet_id,
            share_networks.c.project_id,
        )
        .join(share_networks, share_networks.c.id == share_network_subnets.c.share_network_id)
        .join(share_servers, share_servers.c.share_network_subnet_id == share_network_subnets.c.id)
        .where(share_servers.c.id == server_id)
    )
    with store.read() as tx:
        row = tx.execute(query).one_or_none()
    if row is None or row.neutron_net_id is None:
        raise NotFound(f"Share server {server_id} has no network.", hint="Name one in the share network's subnet.")
    return TenantNetwork(net_id=row.neutron_net_id, subnet_id=row.neutron_subnet_id, project_id=row.project_id)


def build_document(store: Store, server_id: str, firewall: Firewall | None) -> Document:
    """Everything that the server should serve, under a new number: taking it locks the server's row, so a document
    with a higher number has seen all that one with a lower number saw."""
    with store.begin() as tx:
        generation = tx.execute(
            update(share_servers)
            .where(share_servers.c.id == server_id)
            .values(generation=share_servers.c.generation + 1)
            .returning(share_servers.c.generation)
        ).scalar_one_or_none()
        if generation is None:
            raise NotFound(f"Share server {server_id} does not exist any more.")
        rows = tx.execute(
            select(share_instances)
            .where(
                share_instances.c.share_server_id == server_id,
                share_instances.c.wanted.is_(True),
                share_instances.c.volume_attached.is_(True),
            )
            .order_by(share_instances.c.id)
        ).all()
        rules = tx.execute(
            select(share_access_rules.c.share_id, share_access_rules.c.access_to)
            .where(
                share_access_rules.c.share_id.in_([row.share_id for row in rows]),
                share_access_rules.c.access_level == "rw",
                share_access_rules.c.state.in_(IN_FORCE),
            )
            .order_by(share_access_rules.c.access_to)
        ).all()
    return Document(
        server_id=server_id,
        generation=generation,
        firewall=firewall,
        shares=tuple(
            Share(
                id=row.id,
                serial=row.volume_serial,
                filesystem=Filesystem(
                    row.filesystem_type, row.filesystem_uuid, create=not row.filesystem_ready, size=row.size * 2**30
                ),
                protocol="NONE",  # the guest program mounts it; our extension serves it
            )
            for row in rows
        ),
        extension={
            "modules": [
                {"share": row.id, "hosts": [rule.access_to for rule in rules if rule.share_id == row.share_id]}
                for row in rows
            ]
        },
    )
