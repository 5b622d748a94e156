"""Networks of the simulated cloud: tenants' networks, service subnets, ports. No packet ever flows."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Final

from sharewright.clouds.addresses import choose_address, derived_mac, first_host
from sharewright.clouds.contract import (
    Address,
    AdminNetwork,
    Cidr,
    Network,
    Port,
    PortSpec,
    ServiceSubnetSpec,
    Subnet,
    Tags,
)
from sharewright.clouds.simulated.state import SimulatedState, dump, load
from sharewright.clouds.tags import tags_to_store
from sharewright.errors import CloudError, CloudObjectMissing
from sharewright.identifiers import derived_id, new_id

ANY_IPV4: Final = ip_network("10.96.0.0/16")
ANY_IPV6: Final = ip_network("2001:db8:96::/64")


def _subnet(row: sqlite3.Row) -> Subnet:
    return Subnet(
        id=row["id"],
        network_id=row["network_id"],
        cidr=ip_network(row["cidr"]),
        gateway=ip_address(row["gateway"]) if row["gateway"] else None,
        network_type="flat",
    )


def _network(row: sqlite3.Row) -> Network:
    return Network(id=row["network_id"], name=row["name"], subnets=(_subnet(row),), project_id=row["project_id"])


def _port(row: sqlite3.Row, subnet: Subnet) -> Port:
    return Port(
        id=row["id"],
        name=row["name"],
        mac=row["mac"],
        address=ip_address(row["address"]),
        subnet=subnet,
        tags=load(row["tags"]),
    )


class SimulatedNetworks:
    """Contracts Networks and TenantNetworks. Tenants' networks may overlap, as Neutron's may. ``any_network``: one that
    is looked for is made, with as many addresses as a suite of tests may need."""

    def __init__(self, state: SimulatedState, deployment: str, *, any_network: bool = False) -> None:
        self._any_network = any_network
        self._state = state
        self._deployment = deployment

    # ---- tenants' networks ----

    def create_network(self, name: str, cidr: Cidr, *, project_id: str | None = None) -> Network:
        if cidr.num_addresses < 8:
            raise CloudError(f"Network {cidr} is too small.", hint="Use at least 8 addresses (/29 or /125).")
        with self._state.call("create_network"), self._state.transaction() as tx:
            network_id = new_id()
            try:
                self._insert_subnet(tx, network_id, name, cidr, service=False, project_id=project_id)
            except sqlite3.IntegrityError as error:
                raise CloudError(f"A network named {name} exists already.", hint="Choose another name.") from error
            row = tx.execute("SELECT * FROM subnets WHERE network_id = ?", (network_id,)).fetchone()
        return _network(row)

    def list_networks(self) -> Sequence[Network]:
        with self._state.call("list_networks"), self._state.transaction(write=False) as tx:
            rows = tx.execute(
                "SELECT * FROM subnets WHERE deployment = ? AND NOT service ORDER BY name", (self._deployment,)
            ).fetchall()
        return [_network(row) for row in rows]

    def delete_network(self, network_id: str) -> None:
        with self._state.call("delete_network"), self._state.transaction() as tx:
            row = tx.execute(
                "SELECT * FROM subnets WHERE deployment = ? AND network_id = ? AND NOT service",
                (self._deployment, network_id),
            ).fetchone()
            if row is None:
                return
            routed = tx.execute("SELECT name FROM subnets WHERE routed_to = ?", (row["id"],)).fetchone()
            if routed is not None:
                raise CloudError(
                    f"Service subnet {routed['name']} is routed to network {row['name']}.",
                    hint="Delete the share servers on it first.",
                )
            self._delete_subnet(tx, row)

    def find_subnet(self, network_id: str, subnet_id: str | None, *, project_id: str | None = None) -> Subnet | None:
        query = "SELECT * FROM subnets WHERE deployment = ? AND network_id = ? AND NOT service"
        with self._state.call("find_subnet"), self._state.transaction(write=False) as tx:
            row = tx.execute(query, (self._deployment, network_id)).fetchone()
        if self._any_network and (row is None or "any_network" in load(row["tags"])):
            return self._made_up(network_id, subnet_id)
        if row is None or subnet_id not in (None, row["id"], row["network_id"]):
            return None
        if project_id is not None and row["project_id"] not in (None, project_id):
            return None
        return _subnet(row)

    def _made_up(self, network_id: str, subnet_id: str | None) -> Subnet:
        """Rows of their own for each subnet: the first that is asked for is IPv4, any other IPv6."""
        query = "SELECT * FROM subnets WHERE deployment = ? AND tags = ? AND NOT service ORDER BY rowid"
        tags = {"any_network": network_id}
        with self._state.transaction() as tx:
            rows = tx.execute(query, (self._deployment, dump(tags))).fetchall()
            name = f"any {network_id} {subnet_id or ''}"
            row = next((row for row in rows if row["name"] == name or subnet_id is None), None)
            if row is None:
                key = f"{network_id} {subnet_id}" if rows else network_id
                cidr = ANY_IPV6 if rows else ANY_IPV4
                self._insert_subnet(tx, key, name, cidr, service=False, tags=tags)
                row = tx.execute("SELECT * FROM subnets WHERE network_id = ?", (key,)).fetchone()
        return replace(_subnet(row), network_id=network_id)

    def find_admin_network(self, network_id: str, subnet_id: str) -> AdminNetwork | None:
        subnet = self.find_subnet(network_id, subnet_id)
        return None if subnet is None else AdminNetwork(subnet=subnet, management=self.management_sources(subnet))

    # ---- service subnets ----

    def ensure_service_subnet(self, spec: ServiceSubnetSpec, *, timeout: float) -> Subnet:
        tags = tags_to_store(spec.tags, self._deployment, spec.name)
        query = "SELECT * FROM subnets WHERE deployment = ? AND name = ? AND service"
        with self._state.call("ensure_service_subnet", timeout=timeout), self._state.transaction() as tx:
            row = tx.execute(query, (self._deployment, spec.name)).fetchone()
            if row is None:
                for other in tx.execute("SELECT * FROM subnets WHERE deployment = ? AND service", (self._deployment,)):
                    if ip_network(other["cidr"]).overlaps(spec.cidr):
                        raise CloudError(
                            f"Service subnet {spec.cidr} overlaps with {other['name']} ({other['cidr']}).",
                            hint="Choose another.",
                        )
                self._insert_subnet(
                    tx,
                    new_id(),
                    spec.name,
                    spec.cidr,
                    service=True,
                    tags=tags,
                    routed_to=spec.routed_to.id if spec.routed_to else None,
                    tenant_ports=spec.tenant_ports,
                )
                row = tx.execute(query, (self._deployment, spec.name)).fetchone()
            elif row["cidr"] != str(spec.cidr):
                raise CloudError(
                    f"Service subnet {spec.name} exists with {row['cidr']}, not {spec.cidr}.", hint="Delete it first."
                )
        return _subnet(row)

    def list_service_subnets(self) -> Sequence[tuple[Subnet, Tags]]:
        with self._state.call("list_service_subnets"), self._state.transaction(write=False) as tx:
            rows = tx.execute(
                "SELECT * FROM subnets WHERE deployment = ? AND service ORDER BY name", (self._deployment,)
            ).fetchall()
        return [(_subnet(row), load(row["tags"])) for row in rows]

    def delete_service_subnet(self, subnet_id: str, *, timeout: float) -> None:
        with self._state.call("delete_service_subnet", timeout=timeout), self._state.transaction() as tx:
            row = tx.execute(
                "SELECT * FROM subnets WHERE deployment = ? AND id = ? AND service", (self._deployment, subnet_id)
            ).fetchone()
            if row is not None:
                self._delete_subnet(tx, row)

    def management_sources(self, subnet: Subnet) -> tuple[Cidr, ...]:
        return (ip_network(first_host(subnet.cidr)),)

    def ensure_reachable(self, port: Port, *, timeout: float) -> Address:
        return port.address

    def repair(self) -> None:
        """Nothing gets lost."""

    # ---- ports ----

    def ensure_port(self, spec: PortSpec, *, timeout: float) -> Port:
        tags = tags_to_store(spec.tags, self._deployment, spec.name)
        query = "SELECT * FROM ports WHERE deployment = ? AND name = ?"
        with self._state.call("ensure_port", timeout=timeout), self._state.transaction() as tx:
            subnet = tx.execute(
                "SELECT * FROM subnets WHERE deployment = ? AND id = ?", (self._deployment, spec.subnet.id)
            ).fetchone()
            if subnet is None:
                raise CloudObjectMissing(f"There is no subnet {spec.subnet.id}.", hint="It may have been deleted.")
            row = tx.execute(query, (self._deployment, spec.name)).fetchone()
            if row is None:
                taken = {
                    ip_address(other["address"])
                    for other in tx.execute("SELECT address FROM ports WHERE subnet_id = ?", (spec.subnet.id,))
                }
                cidr = ip_network(subnet["cidr"])
                address = spec.address or choose_address(cidr, taken)
                if address in taken or address not in cidr or address == first_host(cidr):
                    raise CloudError(f"Address {address} is not free in {cidr}.", hint="Leave the choice to the cloud.")
                tx.execute(
                    "INSERT INTO ports (id, deployment, name, mac, address, subnet_id, tags, allowed_tcp, allowed_from)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        new_id(),
                        self._deployment,
                        spec.name,
                        spec.mac or derived_mac(self._deployment, spec.name),
                        str(address),
                        spec.subnet.id,
                        dump(tags),
                        dump(list(spec.allowed_tcp)),
                        dump([str(source) for source in spec.allowed_from]),
                    ),
                )
                row = tx.execute(query, (self._deployment, spec.name)).fetchone()
            elif row["subnet_id"] != spec.subnet.id or spec.address not in (None, ip_address(row["address"])):
                raise CloudError(
                    f"Port {spec.name} exists with another subnet or address ({row['address']}).",
                    hint="Delete it first.",
                )
        return _port(row, _subnet(subnet))

    def list_ports(self) -> Sequence[Port]:
        with self._state.call("list_ports"), self._state.transaction(write=False) as tx:
            subnets = {
                row["id"]: _subnet(row)
                for row in tx.execute("SELECT * FROM subnets WHERE deployment = ?", (self._deployment,))
            }
            rows = tx.execute("SELECT * FROM ports WHERE deployment = ? ORDER BY name", (self._deployment,)).fetchall()
        return [_port(row, subnets[row["subnet_id"]]) for row in rows]

    def delete_port(self, port_id: str, *, timeout: float) -> None:
        with self._state.call("delete_port", timeout=timeout), self._state.transaction() as tx:
            row = tx.execute(
                "SELECT * FROM ports WHERE deployment = ? AND id = ?", (self._deployment, port_id)
            ).fetchone()
            if row is None:
                return
            if row["instance_id"]:
                raise CloudError(
                    f"Port {row['name']} is in use by instance {row['instance_id']}.", hint="Delete that first."
                )
            tx.execute("DELETE FROM ports WHERE id = ?", (port_id,))

    def lose_port(self, port_id: str) -> None:
        """For tests, and not in the contract: somebody deleted the port under the VM that has it."""
        with self._state.transaction() as tx:
            tx.execute("DELETE FROM ports WHERE id = ?", (port_id,))

    # ---- rows ----

    def _insert_subnet(
        self,
        tx: sqlite3.Connection,
        network_id: str,
        name: str,
        cidr: Cidr,
        *,
        service: bool,
        project_id: str | None = None,
        tags: Tags | None = None,
        routed_to: str | None = None,
        tenant_ports: Sequence[int] = (),
    ) -> None:
        tx.execute(
            "INSERT INTO subnets VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                derived_id("subnet", network_id),
                network_id,
                self._deployment,
                service,
                name,
                str(cidr),
                str(first_host(cidr)),
                project_id,
                dump(dict(tags or {})),
                routed_to,
                dump(list(tenant_ports)),
            ),
        )

    def _delete_subnet(self, tx: sqlite3.Connection, row: sqlite3.Row) -> None:
        port = tx.execute("SELECT name FROM ports WHERE subnet_id = ?", (row["id"],)).fetchone()
        if port is not None:
            raise CloudError(
                f"{row['name']} still has port {port['name']} on it.", hint="Delete the servers on it first."
            )
        tx.execute("DELETE FROM subnets WHERE id = ?", (row["id"],))
