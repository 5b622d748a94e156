"""Subnets of share networks: for an availability zone, or default ones for all zones. The share servers of a zone are
on all of its subnets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from sqlalchemy import ColumnElement, Connection, Select, delete, exists, or_, select, update

from sharewright.context import RequestContext
from sharewright.errors import Conflict, InvalidInput, NotFound
from sharewright.identifiers import new_id, utcnow
from sharewright.service_instance.contract import Layout
from sharewright.service_instance.layouts import is_routed
from sharewright.services import share_networks as network_service
from sharewright.services.deployment import Deployment, Record, fetch, fetch_one
from sharewright.services.validation import check_identifier, check_metadata
from sharewright.services.work import submit
from sharewright.states import NetworkStatus, OperationState, ServerStatus
from sharewright.store.tables import (
    availability_zones,
    operations,
    pools,
    service_instances,
    share_instances,
    share_network_subnets,
    share_networks,
    share_servers,
)


def check_values(deployment: Deployment, values: Mapping[str, Any]) -> dict[str, Any]:
    """A new subnet's values: both ids of the tenant's network and subnet (UUIDs) or neither; metadata. No tenant's
    network is a backend's admin network, whoever asks."""
    network, subnet = values.get("neutron_net_id"), values.get("neutron_subnet_id")
    if bool(network) != bool(subnet):
        raise InvalidInput(
            "Both neutron_net_id and neutron_subnet_id should be specified, or neither.",
            hint="`sharewright network list` shows the networks of this host.",
        )
    if network and network in {backend.admin_network_id for backend in deployment.settings.backends.values()}:
        raise InvalidInput(
            f"Network {network} is an admin network; share networks cannot use it.",
            hint="Name a network of the tenant's own.",
        )
    return {
        "neutron_net_id": check_identifier(network, "neutron_net_id") if network else None,
        "neutron_subnet_id": check_identifier(subnet, "neutron_subnet_id") if subnet else None,
        "availability_zone": values.get("availability_zone") or None,
        "metadata": check_metadata(values.get("metadata") or {}),
    }


def check_zone(tx: Connection, zone: str | None) -> None:
    """Raise InvalidInput when there is no such availability zone."""
    if zone and tx.execute(select(availability_zones.c.id).where(availability_zones.c.name == zone)).first() is None:
        raise InvalidInput(f"The provided availability zone {zone[:64]} does not exist.")


def insert(tx: Connection, share_network_id: str, values: Mapping[str, Any]) -> str:
    identifier = new_id()
    tx.execute(
        share_network_subnets.insert().values(
            id=identifier, share_network_id=share_network_id, created_at=utcnow(), **values
        )
    )
    return identifier


def list_subnets(deployment: Deployment, context: RequestContext, share_network_id: str) -> list[dict[str, Any]]:
    with deployment.store.read() as tx:
        network = network_service.find(tx, context, share_network_id, "share_network_subnet:index")
        rows = fetch(
            tx,
            select(share_network_subnets)
            .where(share_network_subnets.c.share_network_id == share_network_id)
            .order_by(share_network_subnets.c.created_at, share_network_subnets.c.id),
        )
    return [{**row, "share_network_name": network["name"]} for row in rows]


def show(deployment: Deployment, context: RequestContext, share_network_id: str, identifier: str) -> Record:
    with deployment.store.read() as tx:
        return _find(tx, context, share_network_id, identifier, "share_network_subnet:show")


def create(
    deployment: Deployment,
    context: RequestContext,
    share_network_id: str,
    values: Mapping[str, Any],
    *,
    several: bool = True,
) -> Record:
    """Add a subnet; ``several``: whether the caller may know of more than one in a zone. Share servers that are there
    already are put on it by an operation, while the share network's status is ``network_change``."""
    checked = check_values(deployment, values)
    with deployment.store.begin() as tx:
        network = network_service.find(tx, context, share_network_id, "share_network_subnet:create", lock=True)
        servers = _admit(tx, network, checked, several=several)
        refusal = next((server["refusal"] for server in servers if server["refusal"]), None)
        if refusal:
            raise Conflict(refusal, hint="Use a subnet for another availability zone, or another share network.")
        identifier = insert(tx, share_network_id, checked)
        if servers:
            tx.execute(
                update(share_networks)
                .where(share_networks.c.id == share_network_id)
                .values(status=NetworkStatus.NETWORK_CHANGE, updated_at=utcnow())
            )
            payload = {"subnet_id": identifier, "availability_zone": checked["availability_zone"]}
            submit(tx, deployment, context, "add_share_network_subnet", "share_network", share_network_id, payload)
        record = _find(tx, context, share_network_id, identifier, "share_network_subnet:show")
    deployment.wake()
    return record


def check_creation(
    deployment: Deployment, context: RequestContext, share_network_id: str, values: Mapping[str, Any]
) -> dict[str, Any]:
    """Whether ``create`` would be accepted: ``compatible``, and the same by host. Raises what makes no sense at all."""
    checked = check_values(deployment, values)
    with deployment.store.read() as tx:
        network = network_service.find(tx, context, share_network_id, "share_network:subnet_create_check")
        servers = _admit(tx, network, checked, several=True)
    hosts: dict[str, bool] = {}
    for server in servers:
        hosts[server["host"]] = hosts.get(server["host"], True) and not server["refusal"]
    return {"compatible": all(hosts.values()), "hosts_check_result": hosts}


def _admit(
    tx: Connection, network: Mapping[str, Any], values: Mapping[str, Any], *, several: bool
) -> list[dict[str, Any]]:
    """The share servers that have to be put on a new subnet, each with the reason why it cannot be ("": it can).

    Raises InvalidInput and Conflict when the subnet does not fit beside those that are there.
    """
    zone = values["availability_zone"]
    check_zone(tx, zone)
    columns = share_network_subnets.c
    same = fetch(
        tx,
        select(columns.id, columns.neutron_net_id, columns.neutron_subnet_id).where(
            columns.share_network_id == network["id"], columns.availability_zone.is_not_distinct_from(zone)
        ),
    )
    if not same:
        return []
    where = f"availability zone {zone}" if zone else "all zones (the default one)"
    if not several:
        raise Conflict(
            f"Another share network subnet for {where} exists.",
            hint="API microversion 2.70 and later know several; or name another availability zone.",
        )
    if network["status"] != NetworkStatus.ACTIVE:
        raise InvalidInput(
            f"Share network {network['id']} is in status '{network['status']}'; it must be '{NetworkStatus.ACTIVE}'.",
            hint="Wait for the end of the change that is under way.",
        )
    servers = fetch(
        tx,
        select(share_servers.c.id, share_servers.c.backend, share_servers.c.host, service_instances.c.layout)
        .join(service_instances, service_instances.c.id == share_servers.c.id, isouter=True)
        .where(
            share_servers.c.share_network_subnet_id.in_([subnet["id"] for subnet in same]),
            share_servers.c.status != ServerStatus.DELETING,
            share_servers.c.taken_over,
        ),
    )
    on_default = not values["neutron_net_id"] and not any(subnet["neutron_net_id"] for subnet in same)
    if servers and not on_default:  # which would get a second NIC there, or one on no network
        if not values["neutron_net_id"] or not all(subnet["neutron_net_id"] for subnet in same):
            raise Conflict(f"Several share network subnets for {where} need neutron_net_id and neutron_subnet_id each.")
        if any(subnet["neutron_subnet_id"] == values["neutron_subnet_id"] for subnet in same):
            raise Conflict(f"Subnet {values['neutron_subnet_id']} is a share network subnet for {where} already.")
    backends = {server["backend"] for server in servers}
    unable = {
        row["backend"]
        for row in fetch(tx, select(pools.c.backend, pools.c.capabilities).where(pools.c.backend.in_(backends)))
        if not row["capabilities"].get("network_allocation_update_support")
    }

    def refusal(server: Mapping[str, Any]) -> str:
        if not takes_further_subnets(server["layout"]):
            return f"Share server {server['id']} is behind the tenant's router and can serve one subnet only."
        if server["backend"] in unable:
            return f"Share server {server['id']} can serve one subnet only; its backend says so."
        return ""

    return [{**server, "refusal": refusal(server)} for server in servers]


def takes_further_subnets(layout: str | None) -> bool:
    """Whether a share server of this layout can be put on another subnet while it serves; None: it is being made."""
    return layout is None or not is_routed(cast(Layout, layout))


def remove(deployment: Deployment, context: RequestContext, share_network_id: str, identifier: str) -> None:
    """Delete a subnet that no share uses; its idle share servers are removed by operations."""
    with deployment.store.begin() as tx:
        network = network_service.find(tx, context, share_network_id, "share_network_subnet:delete", lock=True)
        subnet = _find(tx, context, share_network_id, identifier, "share_network_subnet:delete")
        if network["status"] == NetworkStatus.NETWORK_CHANGE:
            raise Conflict(f"Share network {share_network_id} is being changed.", hint="Wait until it is active.")
        # The servers of its zone are on all subnets of that zone.
        own = select(share_network_subnets.c.id).where(
            share_network_subnets.c.share_network_id == share_network_id,
            share_network_subnets.c.availability_zone.is_not_distinct_from(subnet["availability_zone"]),
        )
        tx.execute(own.with_for_update())  # subnets before servers: the order in which operations lock them
        on_it = select(share_servers.c.id).where(share_servers.c.share_network_subnet_id.in_(own))
        used = exists().where(
            share_instances.c.share_network_id == share_network_id,
            or_(share_instances.c.share_server_id.in_(on_it), share_instances.c.share_server_id.is_(None)),
        )
        if tx.execute(select(used)).scalar_one():
            raise Conflict(
                f"Share network subnet {identifier} cannot be deleted: it has shares.", hint="Delete them first."
            )
        refuse_kept_servers(tx, on_it, f"Share network subnet {identifier}")
        leave_servers(tx, deployment, context, share_servers.c.share_network_subnet_id.in_(own))
        tx.execute(delete(share_network_subnets).where(share_network_subnets.c.id == identifier))
    deployment.wake()


def refuse_kept_servers(tx: Connection, servers: Select[Any], what: str) -> None:
    """Conflict for share servers that may have shares which were unmanaged: they stay until an administrator says
    otherwise, as in Manila. ``servers``: their ids."""
    kept = select(share_servers.c.id).where(
        share_servers.c.id.in_(servers), share_servers.c.is_auto_deletable.is_(False)
    )
    if tx.execute(kept.limit(1)).first() is not None:
        raise Conflict(
            f"{what} cannot be deleted: it has share servers that may hold shares which were unmanaged.",
            hint="An administrator can delete or unmanage the share servers.",
        )


def leave_servers(
    tx: Connection, deployment: Deployment, context: RequestContext, condition: ColumnElement[bool]
) -> None:
    """Take idle share servers out of use, cut them from their subnet, and ask for their removal."""
    servers = fetch(tx, select(share_servers.c.id).where(condition).with_for_update())
    for server in servers:
        tx.execute(
            update(share_servers)
            .where(share_servers.c.id == server["id"])
            .values(status=ServerStatus.DELETING, share_network_subnet_id=None, updated_at=utcnow())
        )
        asked = tx.execute(
            select(operations.c.id).where(
                operations.c.kind == "delete_share_server",
                operations.c.resource_id == server["id"],
                operations.c.state.in_(OperationState.OPEN),
            )
        ).first()
        if asked is None:
            submit(tx, deployment, context, "delete_share_server", "share_server", server["id"])


# ---- metadata (2.78 on) ----------------------------------------------------------------------------------------------


def read_metadata(
    deployment: Deployment, context: RequestContext, share_network_id: str, identifier: str
) -> dict[str, str]:
    with deployment.store.read() as tx:
        return dict(_find(tx, context, share_network_id, identifier, "share_network_subnet:get_metadata")["metadata"])


def write_metadata(
    deployment: Deployment,
    context: RequestContext,
    share_network_id: str,
    identifier: str,
    values: Any,
    *,
    replace: bool,
) -> dict[str, str]:
    """Set keys (``replace``: and remove the others). Returns all."""
    checked = check_metadata(values)
    with deployment.store.begin() as tx:
        network_service.find(tx, context, share_network_id, "share_network_subnet:update_metadata", lock=True)
        present = _find(tx, context, share_network_id, identifier, "share_network_subnet:update_metadata")["metadata"]
        merged = checked if replace else {**present, **checked}
        _write_metadata(tx, identifier, merged)
        return merged


def delete_metadata(
    deployment: Deployment, context: RequestContext, share_network_id: str, identifier: str, key: str
) -> None:
    with deployment.store.begin() as tx:
        network_service.find(tx, context, share_network_id, "share_network_subnet:delete_metadata", lock=True)
        rule = "share_network_subnet:delete_metadata"
        present = dict(_find(tx, context, share_network_id, identifier, rule)["metadata"])
        if present.pop(key, None) is None:
            raise NotFound(f"Metadata item {key[:64]} could not be found.")
        _write_metadata(tx, identifier, present)


def _write_metadata(tx: Connection, identifier: str, values: Mapping[str, str]) -> None:
    tx.execute(
        update(share_network_subnets)
        .where(share_network_subnets.c.id == identifier)
        .values(metadata=dict(values), updated_at=utcnow())
    )


def _find(tx: Connection, context: RequestContext, share_network_id: str, identifier: str, rule: str) -> dict[str, Any]:
    network_service.find(tx, context, share_network_id, rule)
    row = fetch_one(
        tx,
        select(share_network_subnets, share_networks.c.name.label("share_network_name"))
        .join(share_networks, share_networks.c.id == share_network_subnets.c.share_network_id)
        .where(share_network_subnets.c.id == identifier, share_network_subnets.c.share_network_id == share_network_id),
    )
    if row is None:
        raise NotFound(f"Share network subnet {identifier[:64]} could not be found.")
    return row
