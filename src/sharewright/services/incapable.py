"""Migration of share servers: what a request may ask for, and why none of it is done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from sqlalchemy import select

from sharewright.context import RequestContext
from sharewright.errors import Conflict, InvalidInput, NotFound
from sharewright.identifiers import is_id
from sharewright.services import share_networks
from sharewright.services.deployment import Deployment
from sharewright.services.policy import authorize
from sharewright.store.tables import pools, share_servers


def check_server_migration(
    deployment: Deployment, context: RequestContext, identifier: str, values: Mapping[str, Any], action: str
) -> None:
    """Raise what Manila would before a backend is asked. ``values``: host, new_share_network_id."""
    authorize(context, f"share_server:share_server_{action}")
    with deployment.store.read() as tx:
        status = _status(tx, identifier)
        host = values["host"]
        if not tx.execute(
            select(pools.c.host)
            .where((pools.c.host == host) | pools.c.host.startswith(f"{host}#", autoescape=True))
            .limit(1)
        ).first():
            raise NotFound(f"Service {host[:64]} could not be found.")
        if values.get("new_share_network_id"):
            try:
                network = share_networks.find(tx, context, values["new_share_network_id"])
            except NotFound as error:
                raise InvalidInput(error.message) from None
            share_networks.check_active(network)
        if status != "active":
            raise Conflict(f"Share server {identifier} is in status '{status}'; it must be active.")


def refuse_server_migration(identifier: str) -> NoReturn:
    raise Conflict(f"Share server {identifier} cannot be migrated: no backend moves share servers.")


def no_server_migration(deployment: Deployment, context: RequestContext, identifier: str, action: str) -> NoReturn:
    """Refused: none is under way. NotFound when there is no such server."""
    authorize(context, f"share_server:share_server_{action}")
    with deployment.store.read() as tx:
        _status(tx, identifier)
    raise InvalidInput(f"There is no migration being performed for share server {identifier} at this moment.")


def _status(tx: Any, identifier: str) -> str:
    query = select(share_servers.c.status).where(share_servers.c.id == identifier)
    status = tx.execute(query).scalar() if is_id(identifier) else None
    if status is None:
        raise NotFound(f"Share server {identifier[:64]} could not be found.")
    return str(status)
