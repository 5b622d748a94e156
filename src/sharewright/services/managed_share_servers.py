"""Share servers that administrators give away with their VMs ("unmanage") and take over again ("manage")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, literal, or_, select, update

from sharewright.context import RequestContext
from sharewright.errors import InvalidInput
from sharewright.identifiers import is_id, new_id, utcnow
from sharewright.operations.share_rows import has_groups
from sharewright.services import share_servers as server_service
from sharewright.services.deployment import Deployment, Record, fetch, fetch_one
from sharewright.services.policy import authorize
from sharewright.services.transitions import SHARE_SERVER
from sharewright.services.work import submit
from sharewright.states import NetworkStatus, ServerStatus
from sharewright.store.tables import (
    pools,
    service_instances,
    share_instances,
    share_network_subnets,
    share_networks,
    share_servers,
)


def manage(deployment: Deployment, context: RequestContext, values: Mapping[str, Any]) -> Record:
    """Accept that a VM becomes a share server again: ``identifier`` is its id in the cloud or the id that the server
    had; ``host`` a backend's, without a pool; ``share_network_id`` and ``share_network_subnet_id`` (None: the default
    one) where it is. Manila's refusals are all 400."""
    authorize(context, "share_server:manage_share_server")
    now = utcnow()
    with deployment.store.begin() as tx:
        subnet = _find_subnet(tx, values["share_network_id"], values.get("share_network_subnet_id"))
        backend = _find_backend(tx, values["host"])
        found = _find_unmanaged(tx, values["identifier"], backend)
        changed = {
            "project_id": subnet["project_id"],
            "share_network_id": subnet["share_network_id"],
            "share_network_subnet_id": subnet["id"],
            "host": values["host"],
            "status": ServerStatus.MANAGE_STARTING,
            "is_auto_deletable": False,
            "taken_over": False,
        }
        if found is not None:
            identifier = str(found["id"])
            tx.execute(update(share_servers).where(share_servers.c.id == identifier).values(**changed, created_at=now))
        else:  # the operation says why it can be none
            identifier = new_id()
            named = {"identifier": values["identifier"], "backend": backend, "created_at": now}
            tx.execute(share_servers.insert().values(id=identifier, **named, **changed))
        payload = {"identifier": values["identifier"]}
        submit(tx, deployment, context, "manage_share_server", "share_server", identifier, payload)
        record = server_service.read(tx, identifier)
    deployment.wake()
    return record


def unmanage(deployment: Deployment, context: RequestContext, identifier: str) -> None:
    """Accept that a server without shares is forgotten and its VM left. Manila's refusals: 404, and else 400."""
    authorize(context, "share_server:unmanage_share_server")
    with deployment.store.begin() as tx:
        (server,) = server_service.with_subnets(tx, [server_service.find(tx, identifier, lock=True)])
        if len(server["subnet_ids"]) > 1:
            raise InvalidInput("A share server on several subnets cannot be unmanaged.")
        _check_network(tx, server["share_network_id"])
        SHARE_SERVER["unmanage"].check("Share server", identifier, server["status"])
        used = select(share_instances.c.id).where(share_instances.c.share_server_id == identifier).limit(1)
        if tx.execute(used).first() is not None:
            raise InvalidInput(f"Share server {identifier} is in use: it has shares.", hint="Unmanage them first.")
        if has_groups(tx, identifier):
            raise InvalidInput(f"Share server {identifier} is in use: it has share groups.", hint="Delete them first.")
        # When it fails, one that was not taken over still says so.
        failed = ServerStatus.MANAGE_ERROR if server["status"] == ServerStatus.MANAGE_ERROR else None
        tx.execute(
            update(share_servers)
            .where(share_servers.c.id == identifier)
            .values(status=ServerStatus.UNMANAGE_STARTING, updated_at=utcnow())
        )
        payload = {"status": failed} if failed else None
        submit(tx, deployment, context, "unmanage_share_server", "share_server", identifier, payload)
    deployment.wake()


def _find_subnet(tx: Connection, network_id: str, subnet_id: str | None) -> Record:
    """The share network subnet, with its network's project; locked, so that it does not go meanwhile."""
    _check_network(tx, network_id)
    subnets = fetch(
        tx,
        select(share_network_subnets, share_networks.c.project_id)
        .join(share_networks, share_networks.c.id == share_network_subnets.c.share_network_id)
        .where(share_network_subnets.c.share_network_id == network_id)
        .order_by(share_network_subnets.c.created_at)
        .with_for_update(of=share_network_subnets),
    )
    if subnet_id:
        chosen = [subnet for subnet in subnets if subnet["id"] == subnet_id]
        if not chosen:
            raise InvalidInput(f"Share network {network_id} has no subnet {subnet_id[:64]}.")
    else:
        chosen = [subnet for subnet in subnets if subnet["availability_zone"] is None]
        if not chosen:
            raise InvalidInput(
                f"Share network {network_id} has no default subnet.",
                hint="Name one with share_network_subnet_id (2.51).",
            )
    zone = chosen[0]["availability_zone"]
    if sum(subnet["availability_zone"] == zone for subnet in subnets) > 1:
        raise InvalidInput(
            f"Share network {network_id} has several subnets in that availability zone, and a managed server is on one."
        )
    return chosen[0]


def _check_network(tx: Connection, network_id: str | None) -> None:
    query = select(share_networks.c.status).where(share_networks.c.id == network_id)
    status = tx.execute(query).scalar() if network_id and is_id(network_id) else None
    if status is None:
        raise InvalidInput(f"Share network {str(network_id)[:64]} could not be found.")
    if status != NetworkStatus.ACTIVE:
        raise InvalidInput(f"Share network {network_id} is in status '{status}', not 'active'.")


def _find_backend(tx: Connection, host: str) -> str:
    """The backend of a host, which has reported a pool."""
    rows = tx.execute(select(pools.c.host, pools.c.backend)).all()
    backend = next((str(row.backend) for row in rows if row.host.partition("#")[0] == host), None)
    if backend is None:
        raise InvalidInput(
            f"Service {host[:128]} could not be found.", hint="openstack share pool list shows the hosts."
        )
    return backend


def _refuse_alike(tx: Connection, identifier: str) -> None:
    """InvalidInput when the text is a share server's id with something around it, with other signs in it, or
    its end: Manila takes such for the same server."""
    text = identifier.lower().replace("_", "-")
    columns = share_servers.c
    alike = or_(literal(text).contains(columns.id), columns.id.endswith(text, autoescape=True))
    query = select(columns.id).where(columns.status != ServerStatus.UNMANAGED, columns.named.is_(False), alike).limit(1)
    found = tx.execute(query).scalar()
    if found is not None:
        raise InvalidInput(f"{identifier[:64]} is too much like share server {found}, which is there already.")


def _find_unmanaged(tx: Connection, identifier: str, backend: str) -> Record | None:
    """The hidden row of the server with that VM. InvalidInput when it is a share server."""
    query = (
        select(share_servers)
        .join(service_instances, service_instances.c.id == share_servers.c.id, isouter=True)
        .where(
            or_(share_servers.c.id == identifier, service_instances.c.instance_id == identifier),
            share_servers.c.named.is_(False),  # an operator's machine is nobody's to give away or to take
        )
        .with_for_update(of=share_servers)
    )
    found = fetch_one(tx, query)
    if found is None:
        _refuse_alike(tx, identifier)
        return None
    if found["status"] != ServerStatus.UNMANAGED:
        raise InvalidInput(f"{identifier[:64]} is share server {found['id']} already.")
    return found if found["backend"] == backend else None
