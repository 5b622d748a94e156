"""Backups and migration of share servers: what a request may ask for, and why none of it is done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from sqlalchemy import select

from sharewright.context import RequestContext
from sharewright.errors import Conflict, Forbidden, InvalidInput, NotFound
from sharewright.identifiers import is_id
from sharewright.services import share_networks
from sharewright.services import shares as share_service
from sharewright.services.deployment import Deployment
from sharewright.services.policy import authorize
from sharewright.store.tables import pools, share_servers


def check(context: RequestContext, rule: str) -> None:
    """Raise Forbidden when the caller may not do it to anything."""
    authorize(context, rule)


def list_backups(deployment: Deployment, context: RequestContext, share_id: str | None) -> None:
    authorize(context, "share_backup:get_all")
    if share_id:
        try:
            with deployment.store.read() as tx:
                share_service.find(tx, context, share_id)
        except NotFound:
            raise InvalidInput(f"No share exists with ID {share_id[:64]}.") from None


def create_backup(deployment: Deployment, context: RequestContext, share_id: str) -> NoReturn:
    authorize(context, "share_backup:create")
    try:
        with deployment.store.read() as tx:
            share = share_service.find(tx, context, share_id, "share_backup:create")
    except NotFound:
        raise InvalidInput(f"No share exists with ID {share_id[:64]}.") from None
    if share["is_soft_deleted"]:
        raise Forbidden(f"Backup can not be created for share '{share_id}' since it has been soft deleted.")
    if share["status"] != "available":
        raise InvalidInput(f"Share {share_id} is in '{share['status']}' state, but it must be in 'available' state.")
    raise InvalidInput(f"Cannot backup share {share_id}: no backend makes backups, and there is no data service.")


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
