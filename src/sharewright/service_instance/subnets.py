"""Service subnets: blocks carved from the service network, one per tenant subnet, remembered in the store.

The store decides which block belongs to whom; the cloud only gets told. All changes of the table are made one after the
other (on PostgreSQL by an advisory lock, on SQLite by its single writer), and its unique constraints would catch a
writer who does not play by that rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_network

import structlog
from sqlalchemy import Connection, Row, delete, func, select, text, update
from sqlalchemy.exc import IntegrityError

from sharewright.clouds.contract import TAG_OWNER, Cidr, Networks, Subnet
from sharewright.errors import CloudCapacityExceeded, CloudError, LeaseLost
from sharewright.identifiers import new_id, utcnow
from sharewright.progress import Progress
from sharewright.service_instance.contract import Layout
from sharewright.store.database import Store
from sharewright.store.tables import service_instances, service_subnets

log = structlog.get_logger()

ADVISORY_LOCK = 0x5357_5355_424E_4554  # any number that nobody else in the database uses
CARVING_TRIES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A row of ``service_subnets``."""

    id: str
    cidr: Cidr
    cloud_subnet_id: str | None

    @property
    def name(self) -> str:
        """The cloud's name for it."""
        return f"sharewright-{self.id}"

    @property
    def owner(self) -> str:
        return f"service_subnet:{self.id}"


def next_free(pool: IPv4Network, mask: int, taken: Iterable[Cidr]) -> IPv4Network | None:
    """The lowest block of ``pool`` with prefix length ``mask`` that overlaps nothing in ``taken``, or None."""
    size = 1 << (32 - mask)
    busy = sorted(
        (int(network.network_address), int(network.broadcast_address))
        for network in taken
        if isinstance(network, IPv4Network)
    )
    start, last = int(pool.network_address), int(pool.broadcast_address)
    for first_taken, last_taken in busy:
        if first_taken > start + size - 1:
            break  # sorted: everything further lies above the block
        if last_taken >= start:
            start = -(-(last_taken + 1) // size) * size  # the next multiple of the block's size
    return None if start + size - 1 > last else IPv4Network((IPv4Address(start), mask))


class ServiceSubnets:
    """Allocation and release of blocks for one backend."""

    def __init__(self, store: Store, networks: Networks, *, backend: str, pool: str, mask: int) -> None:
        self._store = store
        self._networks = networks
        self._backend = backend
        network = ip_network(pool)
        if not isinstance(network, IPv4Network):
            raise TypeError("The service network is an IPv4 network.")
        self._pool = network
        self._mask = mask

    def allocate(
        self, server_id: str, tenant: Subnet, layout: Layout, progress: Progress, *, beside: Sequence[Cidr] = ()
    ) -> Block:
        """The server's block: the one it has, else the one that serves this tenant subnet already, else a new one,
        which overlaps neither with the tenant's subnet nor with those ``beside`` it.

        Writes it into the server's row in the same transaction, so that nobody can release it in between. Raises
        CloudCapacityExceeded when the service network is used up.
        """
        for _ in range(CARVING_TRIES):
            try:
                with self._store.begin() as tx:
                    progress.fence(tx)
                    _serialise(tx, self._store)
                    return self._allocate(tx, server_id, tenant, layout, beside)
            except IntegrityError:
                # Somebody without the lock (a restored copy, a hand) was quicker; look again.
                log.info("service subnet was taken meanwhile, carving again", share_server=server_id)
        raise CloudError(
            f"No service subnet for server {server_id}: other writers took every block that was tried.",
            hint="Only Sharewright may write the table service_subnets.",
        )

    def _allocate(
        self, tx: Connection, server_id: str, tenant: Subnet, layout: Layout, beside: Sequence[Cidr]
    ) -> Block:
        mine = tx.execute(
            select(service_instances.c.service_subnet_id).where(service_instances.c.id == server_id)
        ).first()
        if mine is None:
            raise LeaseLost(f"Service instance {server_id} was deleted while it was being made.")
        if mine.service_subnet_id is not None:
            row = tx.execute(select(service_subnets).where(service_subnets.c.id == mine.service_subnet_id)).one()
            return _block(row)
        row_or_none = tx.execute(
            select(service_subnets).where(
                service_subnets.c.pool == str(self._pool),
                service_subnets.c.backend == self._backend,
                service_subnets.c.layout == layout,
                service_subnets.c.tenant_subnet_id == tenant.id,
            )
        ).first()
        block = self._carve(tx, tenant, layout, beside) if row_or_none is None else _block(row_or_none)
        tx.execute(
            update(service_instances)
            .where(service_instances.c.id == server_id)
            .values(service_subnet_id=block.id, updated_at=utcnow())
        )
        return block

    def _carve(self, tx: Connection, tenant: Subnet, layout: Layout, beside: Sequence[Cidr]) -> Block:
        # Against all rows, whatever their pool, mask and backend: configurations change, and pools may overlap. Against
        # the other subnets of the server, because a VM with both could not tell which of its NICs a peer is behind.
        taken: list[Cidr] = [ip_network(cidr) for cidr in tx.execute(select(service_subnets.c.cidr)).scalars()]
        cidr = next_free(self._pool, self._mask, [*taken, tenant.cidr, *beside])
        if cidr is None:
            raise CloudCapacityExceeded(
                f"The service network {self._pool} of backend {self._backend} has no free /{self._mask} block left.",
                hint="Configure a larger service_network_cidr or a longer service_network_division_mask; "
                "servers that exist keep their blocks.",
            )
        block = Block(id=new_id(), cidr=cidr, cloud_subnet_id=None)
        tx.execute(
            service_subnets.insert().values(
                id=block.id,
                pool=str(self._pool),
                cidr=str(cidr),
                backend=self._backend,
                layout=layout,
                tenant_subnet_id=tenant.id,
                created_at=utcnow(),
            )
        )
        return block

    def tenant_of(self, server_id: str) -> str:
        """The cloud's id of the tenant's subnet that a server's block is for; "" when it has none."""
        query = (
            select(service_subnets.c.tenant_subnet_id)
            .join(service_instances, service_instances.c.service_subnet_id == service_subnets.c.id)
            .where(service_instances.c.id == server_id)
        )
        with self._store.read() as tx:
            return str(tx.execute(query).scalar() or "")

    def record(self, block: Block, subnet: Subnet, progress: Progress) -> None:
        """Remember the cloud's ids."""
        if block.cloud_subnet_id == subnet.id:
            return
        with self._store.begin() as tx:
            progress.fence(tx)
            tx.execute(
                update(service_subnets)
                .where(service_subnets.c.id == block.id)
                .values(cloud_subnet_id=subnet.id, cloud_network_id=subnet.network_id, updated_at=utcnow())
            )

    def release(self, server_id: str, progress: Progress) -> str | None:
        """Take the block away from the server; when no other server has it, mark it free and return its id."""
        with self._store.begin() as tx:
            progress.fence(tx)
            _serialise(tx, self._store)
            block_id = tx.execute(
                select(service_instances.c.service_subnet_id).where(service_instances.c.id == server_id)
            ).scalar()
            if block_id is None:
                return None
            tx.execute(
                update(service_instances)
                .where(service_instances.c.id == server_id)
                .values(service_subnet_id=None, updated_at=utcnow())
            )
            users = tx.execute(
                select(func.count()).where(service_instances.c.service_subnet_id == block_id)
            ).scalar_one()
            if users:
                return None
            # From here on no server can be given it, and nobody can carve its addresses until the row is gone.
            tx.execute(
                update(service_subnets)
                .where(service_subnets.c.id == block_id)
                .values(tenant_subnet_id=None, updated_at=utcnow())
            )
            return str(block_id)

    def remove_free(self, progress: Progress, *, required: str | None, timeout: float) -> None:
        """Delete the free blocks of this backend in the cloud, then their rows.

        Includes blocks whose remover died half-way. Only the failure of ``required`` is raised; another block's is
        logged and left to the next caller.
        """
        with self._store.read() as tx:
            rows = tx.execute(
                select(service_subnets).where(
                    service_subnets.c.backend == self._backend, service_subnets.c.tenant_subnet_id.is_(None)
                )
            ).all()
        for block in map(_block, rows):
            progress.check()
            try:
                self._remove(block, timeout=timeout)
            except CloudError as error:
                if block.id == required:
                    raise
                log.warning(
                    "service subnet could not be removed yet",
                    service_subnet=block.id,
                    cidr=str(block.cidr),
                    reason=error.message,
                )

    def _remove(self, block: Block, *, timeout: float) -> None:
        identifier = block.cloud_subnet_id
        if identifier is None:  # its maker died before it could write the id down
            listed = self._networks.list_service_subnets()
            identifier = next((subnet.id for subnet, tags in listed if tags.get(TAG_OWNER) == block.owner), None)
        if identifier is not None:
            self._networks.delete_service_subnet(identifier, timeout=timeout)
        with self._store.begin() as tx:
            tx.execute(
                delete(service_subnets).where(
                    service_subnets.c.id == block.id, service_subnets.c.tenant_subnet_id.is_(None)
                )
            )


def _serialise(tx: Connection, store: Store) -> None:
    """Let one transaction at a time decide about blocks, in all processes."""
    if not store.is_sqlite:
        tx.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})


def _block(row: Row[tuple[object, ...]]) -> Block:
    values = row._mapping
    cidr: IPv4Network | IPv6Network = ip_network(values["cidr"])
    return Block(id=values["id"], cidr=cidr, cloud_subnet_id=values["cloud_subnet_id"])
