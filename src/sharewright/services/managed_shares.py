"""Shares that administrators take over ("manage") and give away ("unmanage"): what a request may do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Connection, func, select, update

from sharewright.context import RequestContext
from sharewright.errors import Conflict, Forbidden, InvalidInput, NotFound
from sharewright.identifiers import is_id, new_id, utcnow
from sharewright.operations.pool_checks import service_failure
from sharewright.operations.pool_rows import Pool, read_pools, read_services
from sharewright.operations.type_specs import check_protocol_specs, instance_columns
from sharewright.services import share_types as types
from sharewright.services import shares as share_service
from sharewright.services.deployment import Deployment, Record, fetch_one
from sharewright.services.locks import refuse_locked_share
from sharewright.services.new_shares import first_state, type_columns
from sharewright.services.policy import authorize
from sharewright.services.transitions import SHARE
from sharewright.services.validation import parse_boolean_spec
from sharewright.services.work import submit
from sharewright.states import ServerStatus, ShareStatus
from sharewright.store.tables import (
    pools,
    share_export_locations,
    share_instances,
    share_servers,
    share_snapshots,
    shares,
)

# Until its volume has been looked at; the API shows 0, as Manila does, and the quotas count nothing.
UNKNOWN_SIZE: Final = 1
LONGEST_PROTOCOL: Final = 16  # characters


def manage(deployment: Deployment, context: RequestContext, values: Mapping[str, Any]) -> Record:
    """Accept a share that exists already: its rows and the operation in one transaction; the quotas count it when it
    has been taken over.

    ``values``: export_path, host (a pool's) and protocol; name, description, is_public, share_type, share_server_id,
    driver_options. Manila's refusals: 404 for a host or type that is none, 409 for an export path that a share has or a
    server that is not active, 400 for the rest.
    """
    authorize(context, "share:manage")
    if values.get("is_public"):
        authorize(context, "share:create_public_share")
    protocol = values["protocol"].upper()  # whether the backend has it, the operation finds out, as in Manila
    if len(protocol) > LONGEST_PROTOCOL:
        raise InvalidInput(f"Invalid share protocol provided: {protocol[:32]}.")
    identifier, now = new_id(), utcnow()
    with deployment.store.begin() as tx:
        pool = _find_pool(tx, values["host"])
        share_type = types.choose(tx, deployment, context, values.get("share_type"))
        specs = share_type["extra_specs"]
        check_protocol_specs(specs, protocol)
        server = _find_server(tx, specs, values.get("share_server_id"), pool)
        _refuse_twice(tx, values["export_path"], server)
        network_id = server["share_network_id"] if server is not None else None
        server_id = server["id"] if server is not None else None
        tx.execute(
            shares.insert().values(
                id=identifier,
                project_id=context.project_id,
                user_id=context.user_id,
                name=values.get("name"),
                description=values.get("description"),
                size=UNKNOWN_SIZE,
                protocol=protocol,
                is_public=bool(values.get("is_public")),
                share_type_id=share_type["id"],
                status=ShareStatus.MANAGE_STARTING,
                host=pool.host,
                availability_zone=pool.availability_zone,
                share_network_id=network_id,
                share_server_id=server_id,
                created_at=now,
                **type_columns(specs),
            )
        )
        tx.execute(
            share_instances.insert().values(
                id=new_id(),
                share_id=identifier,
                status=ShareStatus.MANAGE_STARTING,
                host=pool.host,
                backend=pool.backend,
                availability_zone=pool.availability_zone,
                share_network_id=network_id,
                share_server_id=server_id,
                size=UNKNOWN_SIZE,
                taken_over=False,
                replica_state=first_state(specs),
                created_at=now,
                **instance_columns(specs),
            )
        )
        if server_id is not None:
            tx.execute(update(share_servers).where(share_servers.c.id == server_id).values(unused_since=None))
        payload = {"export_path": values["export_path"], "options": values.get("driver_options") or {}}
        submit(tx, deployment, context, "manage_share", "share", identifier, payload)
        record = share_service.read(tx, context, identifier)
    deployment.wake()
    return record


def unmanage(deployment: Deployment, context: RequestContext, identifier: str, *, servers: bool) -> None:
    """Accept that a share is forgotten and its volume left as it is. ``servers``: also of one on a share server, which
    Manila allows from 2.49 on. Its refusals, all 403: that, a share that is worked on, one with snapshots."""
    with deployment.store.begin() as tx:
        share = share_service.find(tx, context, identifier, "share:unmanage", lock=True)
        if share["share_server_id"] and not servers:
            raise Forbidden(
                "Operation 'unmanage' is not supported for shares that are created on top of share servers.",
                hint="Use microversion 2.49 or later.",
            )
        refuse_locked_share(tx, identifier)
        share_service.refuse_with_replicas(share, "unmanage it")
        SHARE["unmanage"].check("Share", identifier, share["status"])
        query = select(func.count()).select_from(share_snapshots).where(share_snapshots.c.share_id == identifier)
        number = tx.execute(query).scalar_one()
        if number:
            raise Forbidden(
                f"Share {identifier} cannot be unmanaged because it has {number} dependent snapshots.",
                hint="Delete or unmanage them first.",
            )
        share_service.refuse_with_snapshots(tx, identifier)  # those of its group
        share_service.refuse_with_backups(tx, identifier)
        # When it fails, one that was not taken over still says so.
        failed = ShareStatus.MANAGE_ERROR if share["status"] == ShareStatus.MANAGE_ERROR else None
        share_service.write_status(tx, identifier, ShareStatus.UNMANAGE_STARTING)
        submit(tx, deployment, context, "unmanage_share", "share", identifier, {"status": failed} if failed else None)
    deployment.wake()


def _find_pool(tx: Connection, host: str) -> Pool:
    backend = tx.execute(select(pools.c.backend).where(pools.c.host == host)).scalar_one_or_none()
    if backend is None:
        raise NotFound(f"Service {host[:128]} could not be found.", hint="openstack share pool list shows the pools.")
    pool = next(pool for pool in read_pools(tx, [backend], without="") if pool.host == host)
    failure = service_failure(pool, read_services(tx))
    if failure:
        raise InvalidInput(f"{host} takes no share: {failure}.")
    return pool


def _find_server(tx: Connection, specs: Mapping[str, str], server_id: str | None, pool: Pool) -> Record | None:
    """The share server that the share is on, or will be; locked, so that nobody removes it meanwhile."""
    handles_servers = parse_boolean_spec(
        "driver_handles_share_servers", specs.get("driver_handles_share_servers", "False")
    )
    if not handles_servers:
        if server_id:
            raise InvalidInput(
                "A share server is not expected for a share type with driver_handles_share_servers = False."
            )
        return None
    if not server_id:
        raise InvalidInput(
            "A share server is required for a share type with driver_handles_share_servers = True.",
            hint="Name it with share_server_id; openstack share server list shows them.",
        )
    query = select(share_servers).where(share_servers.c.id == server_id, share_servers.c.named.is_(False))
    server = fetch_one(tx, query.with_for_update()) if is_id(server_id) else None
    if server is None:
        raise InvalidInput(f"Share server {server_id[:64]} was not found.")
    if server["status"] != ServerStatus.ACTIVE:
        raise Conflict(f"Share server {server_id} is not active, but {server['status']}.")
    if server["backend"] != pool.backend:
        raise InvalidInput(f"Share server {server_id} is on {server['host']}, not on {pool.host}.")
    return server


def _refuse_twice(tx: Connection, path: str, server: Record | None) -> None:
    columns = share_export_locations.c
    query = (
        select(share_instances.c.share_id)
        .join(share_export_locations, columns.share_instance_id == share_instances.c.id)
        .where(columns.path == path)
    )
    if server is not None:  # servers in different tenants' networks may have the same addresses
        query = query.where(share_instances.c.share_server_id == server["id"])
    if tx.execute(query.limit(1)).first() is not None:
        raise Conflict(f"A share already exists with the export path {path[:255]}.")
