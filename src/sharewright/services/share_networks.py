"""Share networks: the tenants' networks on which their share servers live."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from ipaddress import ip_network
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, delete, exists, func, select, update

from sharewright.context import RequestContext
from sharewright.errors import Conflict, Forbidden, InvalidInput
from sharewright.identifiers import new_id, utcnow
from sharewright.service_instance.layouts import ROUTED_LAYOUTS
from sharewright.services import share_network_subnets as subnet_service
from sharewright.services.deployment import Deployment, Record, fetch, group
from sharewright.services.lists import Page, fetch_page
from sharewright.services.policy import authorize
from sharewright.services.transitions import SHARE_NETWORK_STATUSES
from sharewright.services.validation import parse_moment
from sharewright.services.visible import by_columns, find_visible, of_projects
from sharewright.states import NetworkStatus
from sharewright.store.quotas import release, reserve
from sharewright.store.tables import (
    service_instances,
    share_groups,
    share_network_security_services,
    share_network_subnets,
    share_networks,
    share_servers,
    shares,
)

COLUMNS: Final[Mapping[str, ColumnElement[Any]]] = {
    name: share_networks.c[name] for name in ("id", "name", "created_at", "updated_at", "project_id", "status")
}
_OWN: Final = ("name", "description", "status")
_KIND_LENGTH: Final = 32  # of the column
_OF_SUBNETS: Final = (
    "neutron_net_id", "neutron_subnet_id", "cidr", "ip_version", "network_type", "segmentation_id",
)  # fmt: skip


def find(
    tx: Connection, context: RequestContext, identifier: str, rule: str = "share_network:show", *, lock: bool = False
) -> dict[str, Any]:
    """A share network's row. Raises NotFound or Forbidden. ``lock`` holds it until the transaction ends."""
    table = share_networks
    return find_visible(
        tx, context, select(table), of=table, identifier=identifier, rule=rule, what="Share network", lock=lock
    )


def show(deployment: Deployment, context: RequestContext, identifier: str) -> Record:
    with deployment.store.read() as tx:
        find(tx, context, identifier)
        return read(tx, identifier)


def list_networks(
    deployment: Deployment,
    context: RequestContext,
    filters: Mapping[str, Any],
    page: Page,
    *,
    all_projects: bool = False,
) -> list[dict[str, Any]]:
    """The share networks of a project (an admin: of all), with their subnets. Two statements."""
    authorize(context, "share_network:index")
    owner, rule = share_networks.c.project_id, "share_network:get_all_share_networks"
    everywhere = all_projects or "project_id" in filters  # as in Manila, of this resource only
    statement = _select().where(
        *of_projects(context, owner, filters, rule=rule, all_projects=everywhere), *_conditions(filters)
    )
    with deployment.store.read() as tx:
        return _complete(tx, fetch_page(tx, statement, page, columns=COLUMNS, identifier=share_networks.c.id))


def create(deployment: Deployment, context: RequestContext, values: Mapping[str, Any]) -> Record:
    """A share network with its first subnet: name, description, neutron_net_id, neutron_subnet_id, availability_zone;
    created_at, and network_type, segmentation_id, cidr, ip_version, which are only shown.

    That the cloud has the network, and what kind of network that is, is found out when the first share server is made
    on it.
    """
    authorize(context, "share_network:create")
    subnet = subnet_service.check_values(deployment, values) | _said_of_network(values)
    identifier = new_id()
    now = utcnow()
    created_at = parse_moment(values["created_at"], "created_at") if values.get("created_at") else now
    if created_at > now:
        raise InvalidInput("created_at is in the future.", hint="Leave it out, and it is the present moment.")
    with deployment.store.begin() as tx:
        subnet_service.check_zone(tx, subnet["availability_zone"])
        reserve(
            tx,
            deployment.settings.quotas,
            project_id=context.project_id,
            user_id=context.user_id,
            amounts={"share_networks": 1},
        )
        tx.execute(
            share_networks.insert().values(
                id=identifier,
                project_id=context.project_id,
                user_id=context.user_id,
                name=values.get("name"),
                description=values.get("description"),
                status=NetworkStatus.ACTIVE,
                created_at=created_at,
            )
        )
        subnet_service.insert(tx, identifier, subnet)
        return read(tx, identifier)


def change(deployment: Deployment, context: RequestContext, identifier: str, values: Mapping[str, Any]) -> Record:
    """Change name and description; the tenant's network and subnet only while nothing uses the share network."""
    with deployment.store.begin() as tx:
        find(tx, context, identifier, "share_network:update", lock=True)
        network = {key: values[key] for key in ("neutron_net_id", "neutron_subnet_id") if values.get(key)}
        if network:
            _change_subnet(tx, deployment, identifier, network)
        own = {key: values[key] for key in ("name", "description") if key in values}
        tx.execute(update(share_networks).where(share_networks.c.id == identifier).values(**own, updated_at=utcnow()))
        return read(tx, identifier)


def remove(deployment: Deployment, context: RequestContext, identifier: str) -> None:
    """Delete a share network that no share or share group uses. Its idle servers are removed by operations."""
    with deployment.store.begin() as tx:
        network = find(tx, context, identifier, "share_network:delete", lock=True)
        count = select(func.count()).select_from(share_network_subnets)
        if tx.execute(count.where(share_network_subnets.c.share_network_id == identifier)).scalar_one() > 1:
            raise Conflict(f"Share network {identifier} has several subnets.", hint="Delete all but one of them first.")
        for table, what in ((shares, "share"), (share_groups, "share group")):
            query = select(func.count()).select_from(table).where(table.c.share_network_id == identifier)
            if used := tx.execute(query).scalar_one():
                raise Conflict(
                    f"Can not delete share network {identifier}, it has {used} {what}(s).", hint="Delete them first."
                )
        if network["status"] == NetworkStatus.NETWORK_CHANGE:
            raise Conflict(f"Share network {identifier} is being changed.", hint="Wait until it is active.")
        subnets = select(share_network_subnets.c.id).where(share_network_subnets.c.share_network_id == identifier)
        tx.execute(subnets.with_for_update())  # subnets before servers: the order in which operations lock them
        on_it = select(share_servers.c.id).where(share_servers.c.share_network_id == identifier)
        subnet_service.refuse_kept_servers(tx, on_it, f"Share network {identifier}")
        subnet_service.leave_servers(tx, deployment, context, share_servers.c.share_network_subnet_id.in_(subnets))
        tx.execute(
            update(share_servers).where(share_servers.c.share_network_id == identifier).values(share_network_id=None)
        )
        tx.execute(delete(share_network_subnets).where(share_network_subnets.c.share_network_id == identifier))
        tx.execute(delete(share_networks).where(share_networks.c.id == identifier))
        release(tx, project_id=network["project_id"], user_id=network["user_id"], amounts={"share_networks": 1})
    deployment.wake()


def check_active(network: Record) -> None:
    """Raise InvalidInput when the share network is changing or broken."""
    if network["status"] != NetworkStatus.ACTIVE:
        raise InvalidInput(f"Share network {network['id']} is in status '{network['status']}', not 'active'.")


def reset_status(deployment: Deployment, context: RequestContext, identifier: str, status: str) -> None:
    """Set the status (admin)."""
    authorize(context, "share_network:reset_status")
    if status not in SHARE_NETWORK_STATUSES:
        raise InvalidInput(f"Invalid status '{status[:64]}'. Use one of: {', '.join(SHARE_NETWORK_STATUSES)}.")
    with deployment.store.begin() as tx:
        find(tx, context, identifier, "share_network:reset_status", lock=True)
        tx.execute(
            update(share_networks).where(share_networks.c.id == identifier).values(status=status, updated_at=utcnow())
        )


# ---- parts -----------------------------------------------------------------------------------------------------------


def _select() -> Select[Any]:
    servers = share_servers.c.share_network_id == share_networks.c.id
    in_use = exists().where(servers)
    routed = exists().where(
        servers, service_instances.c.id == share_servers.c.id, service_instances.c.layout.in_(ROUTED_LAYOUTS)
    )
    return select(share_networks, in_use.label("in_use"), routed.label("has_routed_servers"))


def read(tx: Connection, identifier: str) -> dict[str, Any]:
    return _complete(tx, fetch(tx, _select().where(share_networks.c.id == identifier)))[0]


def _complete(tx: Connection, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Attach subnets; those of the first one also at the top, where they were before 2.51."""
    identifiers = [record["id"] for record in records]
    rows: list[dict[str, Any]] = []
    if identifiers:
        rows = fetch(
            tx,
            select(share_network_subnets)
            .where(share_network_subnets.c.share_network_id.in_(identifiers))
            .order_by(share_network_subnets.c.created_at, share_network_subnets.c.id),
        )
    subnets = group(rows, "share_network_id")
    for record in records:
        record["subnets"] = subnets.get(record["id"], [])
    return records


def _conditions(filters: Mapping[str, Any]) -> list[ColumnElement[bool]]:
    network, subnet = share_networks.c, share_network_subnets.c
    conditions = by_columns(share_networks, _OWN, filters)
    inner = by_columns(share_network_subnets, _OF_SUBNETS, filters)
    if inner:
        conditions.append(exists().where(subnet.share_network_id == network.id, *inner))
    if filters.get("security_service_id"):
        link = share_network_security_services.c
        conditions.append(
            exists().where(
                link.share_network_id == network.id, link.security_service_id == filters["security_service_id"]
            )
        )
    if "created_since" in filters:
        conditions.append(network.created_at >= _day(filters["created_since"], "created_since"))
    if "created_before" in filters:
        conditions.append(network.created_at <= _day(filters["created_before"], "created_before"))
    return conditions


def _day(text: str, name: str) -> datetime:
    try:
        return datetime.strptime(text, "%Y-%m-%d")
    except ValueError:
        raise InvalidInput(f"Invalid input for {name}: expected a date such as 2026-11-23.") from None


def _said_of_network(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a request says of a network that nobody has looked at yet, as columns. Nothing depends on it."""
    kind, segment, version = values.get("network_type"), values.get("segmentation_id"), values.get("ip_version")
    if kind is not None and len(kind) > _KIND_LENGTH:
        raise InvalidInput("network_type is too long.", hint="Leave it out; the cloud says what it is.")
    if segment is not None and not 0 <= segment < 2**24:
        raise InvalidInput("segmentation_id must be from 0 to 16777215, or left out.")
    if version not in (None, 4, 6):
        raise InvalidInput("ip_version must be 4 or 6, or left out.")
    cidr = values.get("cidr")
    if cidr is not None:
        try:
            cidr = str(ip_network(cidr, strict=False))
        except ValueError:
            raise InvalidInput(f"cidr '{cidr[:64]}' is not a network such as 10.0.0.0/24.") from None
    return {"network_type": kind, "segmentation_id": segment, "cidr": cidr, "ip_version": version}


def _change_subnet(tx: Connection, deployment: Deployment, identifier: str, network: dict[str, str]) -> None:
    if tx.execute(select(share_servers.c.id).where(share_servers.c.share_network_id == identifier).limit(1)).first():
        raise Forbidden(f"Cannot update share network {identifier}: share servers use it.")
    subnets = fetch(tx, select(share_network_subnets).where(share_network_subnets.c.share_network_id == identifier))
    if len(subnets) != 1:
        raise InvalidInput("The share network has several subnets, or none; add and delete subnets instead.")
    merged = {key: network.get(key, subnets[0][key]) for key in ("neutron_net_id", "neutron_subnet_id")}
    checked = subnet_service.check_values(deployment, merged)
    tx.execute(
        update(share_network_subnets)
        .where(share_network_subnets.c.id == subnets[0]["id"])
        .values(
            neutron_net_id=checked["neutron_net_id"],
            neutron_subnet_id=checked["neutron_subnet_id"],
            # What was learned of the network before is not true of the new one.
            network_type=None, segmentation_id=None, cidr=None, gateway=None, ip_version=None, mtu=None,
            updated_at=utcnow(),
        )
    )  # fmt: skip
