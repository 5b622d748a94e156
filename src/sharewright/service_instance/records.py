"""The rows behind service instances: short statements within the caller's transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, delete, select, update

from sharewright.clouds.contract import Port
from sharewright.errors import LeaseLost
from sharewright.guest.document import Firewall
from sharewright.identifiers import utcnow
from sharewright.service_instance.contract import InstancePort, Layout, Role, ServiceInstance
from sharewright.store.lookups import RowsOf
from sharewright.store.tables import secrets, service_instances, share_servers


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One row of ``service_instances``, however far it has come."""

    id: str
    backend: str
    layout: Layout
    instance_id: str | None
    service_subnet_id: str | None
    further_subnets: tuple[str, ...]  # the cloud's ids; written before their ports are made
    ports: tuple[InstancePort, ...]
    management_address: str | None
    export_addresses: tuple[str, ...]
    firewall: Firewall | None
    network: Mapping[str, Any] | None
    host_key: str
    private_key_secret: str
    host_key_secret: str
    heal_attempts: int
    heal_reboots: int
    heal_not_before: datetime | None

    def port(self, role: Role) -> InstancePort | None:
        return next((port for port in self.ports if port.role == role), None)

    def as_service_instance(self) -> ServiceInstance | None:
        """None while the cloud has not made the VM."""
        if self.instance_id is None or self.management_address is None or self.firewall is None:
            return None
        return ServiceInstance(
            id=self.id,
            backend=self.backend,
            layout=self.layout,
            instance_id=self.instance_id,
            management_address=self.management_address,
            export_addresses=self.export_addresses,
            ports=self.ports,
            firewall=self.firewall,
            network=self.network,
        )


def owner(server_id: str) -> str:
    """The owner of a server's cloud objects and secrets (clouds/contract.py, TAG_OWNER)."""
    return f"share_server:{server_id}"


_SEVERAL: Final = RowsOf(select(service_instances), service_instances.c.id)


def find(tx: Connection, server_id: str) -> Record | None:
    return find_several(tx, [server_id]).get(server_id)


def find_several(tx: Connection, server_ids: Sequence[str]) -> dict[str, Record]:
    """By id; one statement. For look_up."""
    return {row.id: _record(row) for row in _SEVERAL.read(tx, server_ids)}


def create(
    tx: Connection,
    server_id: str,
    *,
    backend: str,
    layout: Layout,
    host_key: str,
    private_key_secret: str,
    host_key_secret: str,
) -> None:
    tx.execute(
        service_instances.insert().values(
            id=server_id,
            backend=backend,
            layout=layout,
            further_subnets=[],
            ports=[],
            export_addresses=[],
            host_key=host_key,
            private_key_secret=private_key_secret,
            host_key_secret=host_key_secret,
            heal_attempts=0,
            heal_reboots=0,
            created_at=utcnow(),
        )
    )


def change(tx: Connection, server_id: str, **values: Any) -> None:
    """LeaseLost when the row is gone: somebody deleted the server while we were still making it."""
    statement = update(service_instances).where(service_instances.c.id == server_id)
    if tx.execute(statement.values(**values, updated_at=utcnow())).rowcount == 0:
        raise LeaseLost(f"Service instance {server_id} was deleted while it was being worked on.")


def remove(tx: Connection, server_id: str) -> None:
    tx.execute(delete(service_instances).where(service_instances.c.id == server_id))


def ports_json(ports: tuple[InstancePort, ...]) -> list[dict[str, str]]:
    return [asdict(port) for port in ports]


def is_for(port: InstancePort, role: Role, subnet_id: str) -> bool:
    """A server may have several tenant NICs, on different subnets, and one of each other role. A port of an older
    version, which did not note its subnet, is the only one of its role."""
    return port.role == role and (role != "tenant" or port.subnet_id in ("", subnet_id))


def with_port(ports: tuple[InstancePort, ...], role: Role, port: Port) -> tuple[InstancePort, ...]:
    """``ports`` with the one of this role and subnet replaced, or added at the end."""
    new = InstancePort(
        role=role, port_id=port.id, mac=port.mac, address=str(port.address),
        network_id=port.subnet.network_id, subnet_id=port.subnet.id,
    )  # fmt: skip
    if any(is_for(each, role, port.subnet.id) for each in ports):
        return tuple(new if is_for(each, role, port.subnet.id) else each for each in ports)
    return (*ports, new)


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressRow:
    """What it takes to log in, in one statement. ``healthy`` is what any process last found."""

    management_address: str | None
    host_key: str
    private_key_ciphertext: str
    healthy: bool | None


def find_address(tx: Connection, server_id: str) -> AddressRow | None:
    statement = (
        select(
            service_instances.c.management_address,
            service_instances.c.host_key,
            secrets.c.ciphertext,
            share_servers.c.healthy,
        )
        .select_from(service_instances)
        .join(secrets, secrets.c.id == service_instances.c.private_key_secret)
        .join(share_servers, share_servers.c.id == service_instances.c.id, isouter=True)
        .where(service_instances.c.id == server_id)
    )
    row = tx.execute(statement).first()
    if row is None:
        return None
    return AddressRow(
        management_address=row.management_address,
        host_key=row.host_key,
        private_key_ciphertext=row.ciphertext,
        healthy=row.healthy,
    )


def record_health(tx: Connection, server_id: str, *, healthy: bool) -> None:
    """What the API and other processes see. A library user without share servers has no such row: nothing happens."""
    values: dict[str, Any] = {"healthy": healthy}
    if healthy:
        values["last_seen"] = utcnow()
    tx.execute(update(share_servers).where(share_servers.c.id == server_id).values(**values))


def _record(row: Row[Any]) -> Record:
    values = dict(row._mapping)
    return Record(
        id=values["id"],
        backend=values["backend"],
        layout=values["layout"],
        instance_id=values["instance_id"],
        service_subnet_id=values["service_subnet_id"],
        further_subnets=tuple(values["further_subnets"]),
        ports=tuple(InstancePort(**port) for port in values["ports"]),
        management_address=values["management_address"],
        export_addresses=tuple(values["export_addresses"]),
        firewall=None if values["firewall"] is None else msgspec.convert(values["firewall"], Firewall),
        network=values["network_data"],
        host_key=values["host_key"],
        private_key_secret=values["private_key_secret"],
        host_key_secret=values["host_key_secret"],
        heal_attempts=values["heal_attempts"],
        heal_reboots=values["heal_reboots"],
        heal_not_before=values["heal_not_before"],
    )
