"""Share servers, for administrators: what there is, and removing one that nothing uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, exists, func, or_, select, update

from sharewright.context import RequestContext
from sharewright.errors import Conflict, InvalidInput, NotFound
from sharewright.identifiers import is_id, utcnow
from sharewright.operations.share_rows import has_groups
from sharewright.services.deployment import Deployment, Record, fetch, fetch_one
from sharewright.services.lists import Page, fetch_page
from sharewright.services.policy import authorize
from sharewright.services.transitions import SHARE_SERVER, SHARE_SERVER_STATUSES, SHARE_SERVER_TASK_STATES
from sharewright.services.work import submit
from sharewright.states import ServerStatus
from sharewright.store.tables import (
    service_instances,
    share_instances,
    share_network_subnets,
    share_networks,
    share_servers,
)

COLUMNS: Final[Mapping[str, ColumnElement[Any]]] = {
    name: share_servers.c[name] for name in ("id", "status", "host", "project_id", "created_at", "updated_at")
}


def list_servers(
    deployment: Deployment, context: RequestContext, filters: Mapping[str, Any], page: Page
) -> list[dict[str, Any]]:
    """The share servers of all projects. Two statements."""
    authorize(context, "share_server:index")
    statement = _select()
    for key in ("host", "status", "project_id"):
        if key in filters:
            statement = statement.where(share_servers.c[key] == filters[key])
    if "identifier" in filters:
        identifier = func.coalesce(share_servers.c.identifier, share_servers.c.id)
        statement = statement.where(identifier == filters["identifier"])
    if "share_network_subnet_id" in filters:
        statement = statement.where(_is_on(filters["share_network_subnet_id"]))
    if "share_network_id" in filters:
        wanted = filters["share_network_id"]
        statement = statement.where(or_(share_networks.c.id == wanted, share_networks.c.name == wanted))
    if filters.get("source_share_server_id"):
        statement = statement.where(share_servers.c.source_share_server_id == filters["source_share_server_id"])
    with deployment.store.read() as tx:
        servers = fetch_page(tx, statement, page, columns=COLUMNS, identifier=share_servers.c.id)
        return with_subnets(tx, servers)


def show(deployment: Deployment, context: RequestContext, identifier: str) -> Record:
    """A server, with ``backend_details`` of its service instance (no secrets)."""
    authorize(context, "share_server:show")
    with deployment.store.read() as tx:
        return read(tx, identifier)


def read(tx: Connection, identifier: str) -> Record:
    """The same in a transaction."""
    (server,) = with_subnets(tx, [find(tx, identifier)])
    return {**server, "backend_details": read_details(tx, server)}


def details(deployment: Deployment, context: RequestContext, identifier: str) -> Record:
    authorize(context, "share_server:details")
    with deployment.store.read() as tx:
        return read_details(tx, find(tx, identifier))


def remove(deployment: Deployment, context: RequestContext, identifier: str) -> None:
    """Accept the deletion of a server without shares and share groups."""
    authorize(context, "share_server:delete")
    with deployment.store.begin() as tx:
        server = find(tx, identifier, lock=True)
        SHARE_SERVER["delete"].check("Share server", identifier, server["status"])
        used = select(share_instances.c.id).where(share_instances.c.share_server_id == identifier).limit(1)
        if tx.execute(used).first() is not None:
            raise Conflict(f"Share server {identifier} is in use: it has shares.", hint="Delete them first.")
        if has_groups(tx, identifier):
            raise Conflict(f"Share server {identifier} is in use: it has share groups.", hint="Delete them first.")
        tx.execute(
            update(share_servers)
            .where(share_servers.c.id == identifier)
            .values(status=ServerStatus.DELETING, updated_at=utcnow())
        )
        submit(tx, deployment, context, "delete_share_server", "share_server", identifier)
    deployment.wake()


def reset_status(deployment: Deployment, context: RequestContext, identifier: str, status: str) -> None:
    """Set the status (admin)."""
    authorize(context, "share_server:reset_status")
    if status not in SHARE_SERVER_STATUSES:
        raise InvalidInput(f"Invalid status '{status[:64]}'. Use one of: {', '.join(SHARE_SERVER_STATUSES)}.")
    with deployment.store.begin() as tx:
        find(tx, identifier, lock=True)
        tx.execute(
            update(share_servers).where(share_servers.c.id == identifier).values(status=status, updated_at=utcnow())
        )


def reset_task_state(deployment: Deployment, context: RequestContext, identifier: str, state: str | None) -> None:
    """Set the task state (admin). Nothing else happens."""
    authorize(context, "share_server:share_server_reset_task_state")
    if state is not None and state not in SHARE_SERVER_TASK_STATES:
        known = ", ".join(SHARE_SERVER_TASK_STATES)
        raise InvalidInput(f"Invalid task_state '{state[:64]}'. Use one of: {known}.")
    with deployment.store.begin() as tx:
        find(tx, identifier, lock=True)
        write(tx, identifier, task_state=state)


def write(tx: Connection, identifier: str, **values: Any) -> None:
    """Set columns of a server's row."""
    tx.execute(update(share_servers).where(share_servers.c.id == identifier).values(**values, updated_at=utcnow()))


def _select() -> Select[Any]:
    return (
        select(share_servers, share_networks.c.name.label("share_network_name"), service_instances.c.layout)
        .join(share_networks, share_networks.c.id == share_servers.c.share_network_id, isouter=True)
        .join(service_instances, service_instances.c.id == share_servers.c.id, isouter=True)
        .where(share_servers.c.named.is_(False), share_servers.c.status != ServerStatus.UNMANAGED)
    )


def _is_on(subnet_id: str) -> ColumnElement[bool]:
    """Servers on a subnet are on all those of its share network that are for the same availability zone."""
    own, named = share_network_subnets.alias("own"), share_network_subnets.alias("named")
    return exists().where(
        own.c.id == share_servers.c.share_network_subnet_id,
        named.c.id == subnet_id,
        named.c.share_network_id == own.c.share_network_id,
        named.c.availability_zone.is_not_distinct_from(own.c.availability_zone),
    )


def with_subnets(tx: Connection, servers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Attach the ids of the subnets that each server is on, the oldest first."""
    columns = share_network_subnets.c
    networks = {server["share_network_id"] for server in servers}
    rows = fetch(
        tx,
        select(columns.id, columns.share_network_id, columns.availability_zone)
        .where(columns.share_network_id.in_(networks))
        .order_by(columns.created_at, columns.id),
    )
    zones = {row["id"]: (row["share_network_id"], row["availability_zone"]) for row in rows}
    for server in servers:
        place = zones.get(server["share_network_subnet_id"])
        server["subnet_ids"] = [key for key, value in zones.items() if place is not None and value == place]
    return servers


def find(tx: Connection, identifier: str, *, lock: bool = False) -> dict[str, Any]:
    statement = _select().where(share_servers.c.id == identifier)
    if lock:
        statement = statement.with_for_update(of=share_servers)
    row = fetch_one(tx, statement) if is_id(identifier) else None
    if row is None:
        raise NotFound(f"Share server {identifier[:64]} could not be found.")
    return row


def read_details(tx: Connection, server: Mapping[str, Any]) -> dict[str, Any]:
    """Flat strings, under the names that upstream's generic driver uses where there is one."""
    row = fetch_one(tx, select(service_instances).where(service_instances.c.id == server["id"]))
    if row is None:
        return {}
    shown = {
        "instance_id": row["instance_id"],
        "ip": row["management_address"],
        "public_address": ", ".join(row["export_addresses"] or []),
        "admin_ip": _of_port(row, "admin", "address"),
        "service_port_id": _of_port(row, "service", "port_id"),
        "admin_port_id": _of_port(row, "admin", "port_id"),
        "layout": row["layout"],
        "flavor": server["flavor"],
    }
    return {key: str(value) for key, value in shown.items() if value}


def _of_port(row: Mapping[str, Any], role: str, key: str) -> str | None:
    return next((port.get(key) for port in row["ports"] or [] if port.get("role") == role), None)
