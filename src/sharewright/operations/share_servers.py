"""Finding a share server for a share, or asking for one: the decision is one transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, bindparam, exists, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from sharewright.context import RequestContext
from sharewright.drivers.contract import CountingDriver, ShareDriver
from sharewright.errors import CloudError, InvalidInput
from sharewright.identifiers import new_id, utcnow
from sharewright.operations.pool_rows import Pool
from sharewright.operations.queue import enqueue
from sharewright.operations.share_rows import ShareRow
from sharewright.states import OperationState, ServerStatus, TaskState
from sharewright.store.kept import change_row
from sharewright.store.tables import (
    operations,
    service_instances,
    share_groups,
    share_instances,
    share_network_subnets,
    share_networks,
    share_servers,
    shares,
)
from sharewright.store.transaction import change_row_at_end, once

CREATE_SERVER_PRIORITY = 10  # other operations wait for it
# Of a row of share_instances: whether it is on the machine that an operator named.
NAMED = (
    exists()
    .where(share_servers.c.id == share_instances.c.share_server_id, share_servers.c.named.is_(True))
    .correlate(share_instances)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a share instance lives. ``operation_id`` is the server's creation, while that is going on."""

    server_id: str
    operation_id: str | None = None


@dataclass(frozen=True, slots=True)
class _Site:
    """Where servers of one backend and flavor serve one share network subnet, which is locked. ``servers``: those that
    may be chosen, id → status."""

    network_id: str
    subnet_id: str
    flavor: str | None
    servers: dict[str, str]


_INSTANCE: Final = (
    select(
        share_instances.c.share_id,
        share_instances.c.share_network_id,
        share_instances.c.share_server_id,
        share_instances.c.host,
        share_instances.c.availability_zone,
        share_instances.c.server_flavor,
        share_instances.c.is_main,
        shares.c.share_group_id,
        share_groups.c.share_server_id.label("group_server_id"),
    )
    .join(shares, shares.c.id == share_instances.c.share_id)
    .outerjoin(share_groups, share_groups.c.id == shares.c.share_group_id)
    .where(share_instances.c.id == bindparam("instance"))
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Instance:
    """A row of that."""

    share_id: str
    share_network_id: str | None
    share_server_id: str | None
    host: str | None
    availability_zone: str | None
    server_flavor: str | None
    is_main: bool
    share_group_id: str | None
    group_server_id: str | None


def _new_instance(share: ShareRow) -> _Instance:
    """The same of a share that has no pool yet, and no group."""
    return _Instance(
        share_id=share.id,
        share_network_id=share.share_network_id,
        share_server_id=share.server_id,
        host=None,
        availability_zone=None,
        server_flavor=share.server_flavor,
        is_main=share.is_main,
        share_group_id=None,
        group_server_id=None,
    )


_LOCK_SUBNETS: Final = (
    select(share_network_subnets.c.id, share_network_subnets.c.availability_zone)
    .where(share_network_subnets.c.share_network_id == bindparam("network"))
    .order_by(share_network_subnets.c.created_at, share_network_subnets.c.id)
    .with_for_update()
)
_SERVERS: Final = select(share_servers.c.id, share_servers.c.status).where(
    share_servers.c.share_network_subnet_id == bindparam("subnet"),
    share_servers.c.backend == bindparam("backend"),
    share_servers.c.flavor.is_not_distinct_from(bindparam("flavor", type_=share_servers.c.flavor.type)),
    share_servers.c.status.in_((ServerStatus.ACTIVE, ServerStatus.CREATING)),
    # One that is made for the shares of another is for nobody else until it has them.
    or_(share_servers.c.source_share_server_id.is_(None), share_servers.c.task_state == TaskState.SUCCESS),
)


def place(
    tx: Connection,
    driver: ShareDriver,
    share_instance_id: str,
    *,
    seconds: float,
    context: RequestContext | None,
    pool: Pool | None = None,
    new: ShareRow | None = None,
) -> Placement:
    """Keep, choose, join or begin a server for a share instance, and write the choice; with that of its ``pool``, when
    it has been made just now. ``new``: what was read of a share that only this operation changes, and that is read no
    more in this transaction.

    One transaction at a time decides for a share network subnet (its row is locked), so ten first shares on a new
    network get one server. A server that is being deleted or is in error is never chosen, nor one of another flavor
    than the share's type asks for.
    """
    if pool is not None and new is not None and new.share_group_id is None:
        instance = _new_instance(new)
    else:
        instance = _Instance(**tx.execute(_INSTANCE, {"instance": share_instance_id}).one()._mapping)
    if instance.share_network_id is None:
        raise InvalidInput(
            "The share has no share network, and its backend makes share servers on one.",
            hint="Create the share with a share network.",
        )
    host = str(instance.host) if pool is None else pool.host
    zone = instance.availability_zone if pool is None else pool.availability_zone
    wanted = instance.share_network_id, zone, instance.server_flavor
    site = once(tx, ("site", driver.backend, *wanted), lambda: _lock_site(tx, driver, *wanted))
    server_id = instance.share_server_id
    if server_id not in site.servers or pool is not None:
        known = set(site.servers)
        server_id = _choose_or_begin(tx, driver, site, host, share_instance_id, before=instance.group_server_id)
        is_begun = server_id not in known
        if instance.is_main and instance.share_group_id is not None and instance.group_server_id is None:
            change_row(tx, share_groups, instance.share_group_id, share_server_id=server_id)
        values: dict[str, Any] = {"share_server_id": server_id}
        if pool is not None:
            values |= {"host": host, "availability_zone": zone}
        # Who chooses next in this transaction must count this one. The driver does so by itself, but for a server that
        # it has not chosen; a group's shares are looked at, too.
        is_counted = isinstance(driver, CountingDriver) and not is_begun
        at_end = is_counted and new is not None and instance.share_group_id is None
        change, now = change_row_at_end if at_end else change_row, utcnow()
        if instance.is_main:  # before the instance: whoever locks both does so in this order
            change(tx, shares, instance.share_id, **values, updated_at=now)
        backend = {} if pool is None else {"backend": pool.backend}
        change(tx, share_instances, share_instance_id, **values, **backend, updated_at=now)
        change_row_at_end(tx, share_servers, server_id, unused_since=None)
    return _placement(tx, site, server_id, seconds=seconds, context=context)


def place_group(
    tx: Connection,
    driver: ShareDriver,
    share_group_id: str,
    pool: Pool,
    *,
    flavor: str | None,
    seconds: float,
    context: RequestContext | None,
) -> Placement:
    """The same for a share group that has no shares yet: a server that has room for some."""
    network_id = tx.execute(
        select(share_groups.c.share_network_id).where(share_groups.c.id == share_group_id)
    ).scalar_one()
    site = _lock_site(tx, driver, network_id, pool.availability_zone, flavor)
    server_id = _choose_or_begin(tx, driver, site, pool.host, None)
    change_row(tx, share_groups, share_group_id, share_server_id=server_id, updated_at=utcnow())
    change_row(tx, share_servers, server_id, unused_since=None)
    return _placement(tx, site, server_id, seconds=seconds, context=context)


def place_on_named(tx: Connection, backend: str, share_instance_id: str) -> Placement:
    """Put a share instance on the one machine that its backend's configuration names. The row stands for it inside; no
    user sees it, so that the share itself has no server."""
    instance = tx.execute(
        select(share_instances.c.host, share_instances.c.share_server_id).where(
            share_instances.c.id == share_instance_id
        )
    ).one()
    servers = share_servers.c
    wanted = select(servers.id).where(servers.backend == backend, servers.named.is_(True))
    server_id = tx.execute(wanted).scalar_one_or_none()
    if server_id is None:
        insert = sqlite.insert(share_servers) if tx.dialect.name == "sqlite" else postgresql.insert(share_servers)
        tx.execute(
            insert.values(
                id=new_id(),
                project_id="",
                backend=backend,
                host=instance.host.partition("#")[0],
                status=ServerStatus.ACTIVE,
                named=True,
                is_auto_deletable=False,
                created_at=utcnow(),
            ).on_conflict_do_nothing()  # somebody else was quicker
        )
        server_id = tx.execute(wanted).scalar_one()
    if instance.share_server_id != server_id:
        tx.execute(
            share_instances.update()
            .where(share_instances.c.id == share_instance_id)
            .values(share_server_id=server_id, updated_at=utcnow())
        )
    return Placement(server_id=server_id)


def lock_subnet(tx: Connection, share_network_id: str, availability_zone: str | None) -> str:
    """The subnet of a share network for a zone (its own before the default), locked until the transaction ends: of
    several the oldest, whose servers are on the others too."""
    rows = tx.execute(_LOCK_SUBNETS, {"network": share_network_id}).all()
    subnets: dict[str | None, str] = {}
    for row in rows:
        subnets.setdefault(row.availability_zone, row.id)
    subnet_id = subnets.get(availability_zone) or subnets.get(None)
    if subnet_id is None:
        raise CloudError(
            f"The share network has no subnet for availability zone {availability_zone}.",
            hint="Add a share network subnet for this zone, or a default one.",
        )
    return str(subnet_id)


def _lock_site(tx: Connection, driver: ShareDriver, network_id: str, zone: str | None, flavor: str | None) -> _Site:
    subnet_id = lock_subnet(tx, network_id, zone)
    found = tx.execute(_SERVERS, {"subnet": subnet_id, "backend": driver.backend, "flavor": flavor})
    return _Site(network_id, subnet_id, flavor, {row.id: row.status for row in found})


def _choose_or_begin(
    tx: Connection,
    driver: ShareDriver,
    site: _Site,
    host: str,
    share_instance_id: str | None,
    *,
    before: str | None = None,
) -> str:
    """A server of the site for a share instance, or for a share group: ``before`` when that has room; else another one,
    or the row of a new one on ``host``, a pool's name."""
    chosen = _choose(tx, driver, share_instance_id, site.servers, before)
    if chosen is None:
        chosen = _insert_server(
            tx,
            backend=driver.backend,
            host=host.partition("#")[0],
            share_network_id=site.network_id,
            share_network_subnet_id=site.subnet_id,
            flavor=site.flavor,
        )
        site.servers[chosen] = ServerStatus.CREATING
    return chosen


def _placement(
    tx: Connection, site: _Site, server_id: str, *, seconds: float, context: RequestContext | None
) -> Placement:
    if site.servers[server_id] == ServerStatus.ACTIVE:
        return Placement(server_id=server_id)
    return Placement(server_id=server_id, operation_id=creation(tx, server_id, seconds=seconds, context=context))


def _choose(
    tx: Connection, driver: ShareDriver, share_instance_id: str | None, servers: dict[str, str], before: str | None
) -> str | None:
    """That one ``before`` all others, then one that is ready before one that is being made."""
    if before in servers and driver.choose_server([before], share_instance_id, tx) == before:
        return before
    for status in (ServerStatus.ACTIVE, ServerStatus.CREATING):
        candidates = [server_id for server_id, value in servers.items() if value == status]
        chosen = driver.choose_server(candidates, share_instance_id, tx) if candidates else None
        if chosen is not None:
            return chosen
    return None


def _insert_server(tx: Connection, *, share_network_id: str, **values: str | None) -> str:
    server_id = new_id()
    project = select(share_networks.c.project_id).where(share_networks.c.id == share_network_id)
    tx.execute(
        share_servers.insert().values(
            id=server_id,
            project_id=project.scalar_subquery(),
            share_network_id=share_network_id,
            status=ServerStatus.CREATING,
            created_at=utcnow(),
            **values,
        )
    )
    return server_id


def open_creation(tx: Connection, server_id: str) -> str | None:
    """The open operation that makes the server, if there is one."""
    return tx.execute(
        select(operations.c.id).where(
            operations.c.resource_id == server_id,
            operations.c.kind == "create_share_server",
            operations.c.state.in_(OperationState.OPEN),
        )
    ).scalar_one_or_none()


def creation(tx: Connection, server_id: str, *, seconds: float, context: RequestContext | None) -> str:
    """The open operation that makes the server; a new one when there is none."""
    return open_creation(tx, server_id) or enqueue(
        tx,
        "create_share_server",
        resource_type="share_server",
        resource_id=server_id,
        context=context,
        priority=CREATE_SERVER_PRIORITY,
        seconds=seconds,
    )


def give_back_server(tx: Connection, server_id: str) -> None:
    """Forget a server and leave its VM. The row stays, hidden, with what it takes to manage it again, and says to whom
    the VM belongs; one that never had a VM goes."""
    if tx.execute(select(service_instances.c.id).where(service_instances.c.id == server_id)).first() is None:
        tx.execute(share_servers.delete().where(share_servers.c.id == server_id))
        return
    tx.execute(
        share_servers.update()
        .where(share_servers.c.id == server_id)
        .values(
            status=ServerStatus.UNMANAGED,
            taken_over=False,
            share_network_id=None,
            share_network_subnet_id=None,
            is_auto_deletable=False,
            unused_since=None,
            updated_at=utcnow(),
        )
    )
