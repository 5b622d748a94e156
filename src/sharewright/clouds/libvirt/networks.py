"""Tenants' networks, service subnets and ports: libvirt networks with a bridge each, and records of what is on them.

A network's id is its UUID in libvirt; its first subnet's id is derived from that. Tenants' networks that somebody else
made in libvirt are used as they are. All of ours have forward mode "open": libvirt adds no rules of its own, and
firewall.py closes what must be closed.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_address, ip_network
from typing import Any

import libvirt

from sharewright.clouds.addresses import derived_mac, first_host
from sharewright.clouds.contract import (
    Address,
    AdminNetwork,
    Admission,
    Cidr,
    Network,
    Port,
    PortSpec,
    ServiceSubnetSpec,
    Subnet,
    Tags,
    cloud_calls,
)
from sharewright.clouds.libvirt.addresses import Addresses
from sharewright.clouds.libvirt.connection import Connection, missing_is_fine
from sharewright.clouds.libvirt.firewall import Firewall, PortRules, Route
from sharewright.clouds.libvirt.layout import Layout
from sharewright.clouds.libvirt.network_documents import (
    activate,
    domain_on,
    first_subnet_id,
    interfaces_of,
    is_on,
    is_tenant,
    may_use,
    network_definition,
    read_subnets,
    recorded_port,
    recorded_subnet,
    subnet_record,
    subnets_on,
)
from sharewright.clouds.libvirt.records import Locks, Record, Records
from sharewright.clouds.libvirt.xml import attribute, parse, render
from sharewright.clouds.tags import tags_to_store
from sharewright.errors import CloudError, CloudObjectMissing
from sharewright.identifiers import derived_id, is_id

LOCK = "networks"
NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
SMALLEST = 8


class LibvirtNetworks:
    """Contracts Networks and TenantNetworks."""

    def __init__(self, connection: Connection, layout: Layout, locks: Locks) -> None:
        self._connection = connection
        self._layout = layout
        self._locks = locks
        self._networks = Records(layout.records / "networks")
        self._ports = Records(layout.records / "ports")
        self._addresses = Addresses(connection)
        self._firewall = Firewall(layout.table)

    # ---- tenants' networks ----

    def create_network(self, name: str, cidr: Cidr, *, project_id: str | None = None) -> Network:
        cloud_calls.count += 1
        if not NAME.match(name):
            raise CloudError(f"{name!r} cannot be a network's name.", hint="Use letters, digits, dots and dashes.")
        if cidr.num_addresses < SMALLEST:
            raise CloudError(f"Network {cidr} is too small.", hint="Use at least 8 addresses (/29 or /125).")
        network_id = derived_id(self._layout.deployment, "network", name)
        record = {
            "kind": "tenant",
            "name": name,
            "bridge": self._layout.bridge(network_id),
            "cidr": str(cidr),
            "project_id": project_id,
            "tags": tags_to_store({}, self._layout.deployment, name),
        }
        with self._locks.hold(LOCK):
            self._refuse_if_present(name, network_id)
            self._make_network(network_id, record, dhcp=True)
        return self._network(network_id, record)

    def list_networks(self) -> Sequence[Network]:
        cloud_calls.count += 1
        return [self._network(key, record) for key, record in self._networks.all().items() if is_tenant(record)]

    def delete_network(self, network_id: str) -> None:
        cloud_calls.count += 1
        with self._locks.hold(LOCK):
            record = self._networks.get(network_id)
            if record is None or not is_tenant(record):
                return
            for other in self._networks.all().values():
                if other.get("routed_to") == network_id:
                    raise CloudError(
                        f"Service subnet {other['name']} is routed to network {record['name']}.",
                        hint="Delete the share servers on it first.",
                    )
            self._delete_network(network_id, record)

    def find_subnet(self, network_id: str, subnet_id: str | None, *, project_id: str | None = None) -> Subnet | None:
        cloud_calls.count += 1
        if not is_id(network_id):
            return None
        record = self._networks.get(network_id)
        if record is not None and not (is_tenant(record) and may_use(record, project_id)):
            return None
        document = self._document(network_id)
        if document is None:
            return None
        subnets = list(read_subnets(document, network_id))
        if not subnets:
            raise CloudError(
                f"libvirt network {network_id} has no addresses of its own.",
                hint="Use a network whose definition has an <ip> element.",
            )
        if subnet_id in (None, network_id):
            return subnets[0]
        return next((subnet for subnet in subnets if subnet.id == subnet_id), None)

    def find_admin_network(self, network_id: str, subnet_id: str) -> AdminNetwork | None:
        """The host is on its bridge, with the address that is the subnet's gateway."""
        subnet = self.find_subnet(network_id, subnet_id)
        if subnet is None or subnet.gateway is None:
            return None
        return AdminNetwork(subnet=subnet, management=(ip_network(subnet.gateway),))

    # ---- service subnets ----

    def ensure_service_subnet(self, spec: ServiceSubnetSpec, *, timeout: float) -> Subnet:
        cloud_calls.count += 1
        tags = tags_to_store(spec.tags, self._layout.deployment, spec.name)
        if not NAME.match(spec.name):
            raise CloudError(f"{spec.name!r} cannot be a network's name.", hint="Use letters, digits, dots and dashes.")
        network_id = derived_id(self._layout.deployment, "service-subnet", spec.name)
        with self._locks.hold(LOCK, timeout=timeout):
            record = self._networks.get(network_id)
            if record is None:
                record = {
                    "kind": "service",
                    "name": spec.name,
                    "bridge": self._layout.bridge(network_id),
                    "cidr": str(spec.cidr),
                    "tags": tags,
                }
                if spec.routed_to is not None:
                    record |= self._route(spec.routed_to, spec.tenant_ports)
            elif record["cidr"] != str(spec.cidr):
                raise CloudError(
                    f"Service subnet {spec.name} exists with {record['cidr']}, not {spec.cidr}.",
                    hint="Delete it first.",
                )
            self._make_network(network_id, record, dhcp=False)
        return recorded_subnet(network_id, record)

    def list_service_subnets(self) -> Sequence[tuple[Subnet, Tags]]:
        cloud_calls.count += 1
        records = self._networks.all().items()
        return [(recorded_subnet(key, record), record["tags"]) for key, record in records if not is_tenant(record)]

    def delete_service_subnet(self, subnet_id: str, *, timeout: float) -> None:
        cloud_calls.count += 1
        with self._locks.hold(LOCK, timeout=timeout):
            for network_id, record in self._networks.all().items():
                if not is_tenant(record) and first_subnet_id(network_id) == subnet_id:
                    self._delete_network(network_id, record)

    def management_sources(self, subnet: Subnet) -> tuple[Cidr, ...]:
        """The host's address on the service subnet's bridge: the first."""
        return (ip_network(first_host(subnet.cidr)),)

    def ensure_reachable(self, port: Port, *, timeout: float) -> Address:
        """The host is on the bridge."""
        return port.address

    def repair(self) -> None:
        """``restore`` does it, and the cloud's check."""

    # ---- ports ----

    def ensure_port(self, spec: PortSpec, *, timeout: float) -> Port:
        cloud_calls.count += 1
        tags = tags_to_store(spec.tags, self._layout.deployment, spec.name)
        port_id = derived_id(self._layout.deployment, "port", spec.name)
        with self._locks.hold(LOCK, timeout=timeout):
            document = self._document(spec.subnet.network_id)
            if document is None:
                raise CloudObjectMissing(
                    f"There is no libvirt network {spec.subnet.network_id}.", hint="It may have been deleted."
                )
            record = self._ports.get(port_id)
            if record is None:
                mac = spec.mac or derived_mac(self._layout.deployment, spec.name)
                record = {
                    "name": spec.name,
                    "mac": mac,
                    "address": str(self._addresses.choose(spec, document, self._taken(spec.subnet))),
                    "device": self._layout.tap(port_id),
                    "network_id": spec.subnet.network_id,
                    "subnet": subnet_record(spec.subnet),
                    "admissions": [
                        {"ports": list(admission.ports), "sources": [str(source) for source in admission.sources]}
                        for admission in (
                            Admission(ports=spec.allowed_tcp, sources=spec.allowed_from),
                            *spec.also_allowed,
                        )
                    ],
                    "outgoing": spec.outgoing,
                    "tags": tags,
                }
                self._ports.put(port_id, record)
            elif record["subnet"]["id"] != spec.subnet.id or spec.address not in (
                None,
                ip_address(record["address"]),
            ):
                raise CloudError(
                    f"Port {spec.name} exists with another subnet or address ({record['address']}).",
                    hint="Delete it first.",
                )
            self._addresses.pin(record, document)
            self._load_firewall()
        return recorded_port(port_id, record)

    def list_ports(self) -> Sequence[Port]:
        cloud_calls.count += 1
        return [recorded_port(key, record) for key, record in self._ports.all().items()]

    def delete_port(self, port_id: str, *, timeout: float) -> None:
        cloud_calls.count += 1
        with self._locks.hold(LOCK, timeout=timeout):
            record = self._ports.get(port_id)
            if record is None:
                return
            holder = self._instance_with(record["mac"])
            if holder is not None:
                raise CloudError(f"Port {record['name']} is in use by instance {holder}.", hint="Delete that first.")
            self._unpin(record)
            self._ports.remove(port_id)
            self._load_firewall()

    # ---- for compute, the cloud object, and purge ----

    def port_record(self, port_id: str) -> Record | None:
        return self._ports.get(port_id)

    def network_name(self, network_id: str) -> str:
        """The name by which a domain refers to the network, which is active afterwards."""
        with self._connection.use("looking for a network") as connection:
            try:
                network = connection.networkLookupByUUIDString(network_id)
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_NO_NETWORK:
                    raise
                raise CloudObjectMissing(
                    f"There is no libvirt network {network_id}.", hint="It may have been deleted."
                ) from error
            activate(network)
            return str(network.name())

    def restore(self, *, timeout: float = 60.0) -> None:
        """Make the host's firewall what the records say: after a start of the host, or after somebody flushed it."""
        with self._locks.hold(LOCK, timeout=timeout):
            if self._networks.all() or self._ports.all():
                self._load_firewall()

    def deactivate(self) -> None:
        """Stop our networks, keeping their definitions, and take our firewall tables away."""
        with self._locks.hold(LOCK), self._connection.use("stopping networks") as connection:
            for network_id in self._networks.all():
                with missing_is_fine():
                    network = connection.networkLookupByUUIDString(network_id)
                    if network.isActive():
                        network.destroy()
            self._firewall.remove()

    def purge(self) -> None:
        """Delete every port and network of ours, and the firewall tables."""
        with self._locks.hold(LOCK):
            for port_id, record in self._ports.all().items():
                self._unpin(record)
                self._ports.remove(port_id)
            for network_id, record in self._networks.all().items():
                self._delete_network(network_id, record)
            self._firewall.remove()

    # ---- networks in libvirt ----

    def _document(self, network_id: str) -> ET.Element | None:
        with self._connection.use("looking for a network") as connection:
            try:
                return parse(connection.networkLookupByUUIDString(network_id).XMLDesc(0))
            except libvirt.libvirtError as error:
                # An id that is no UUID at all is as absent as one that nobody has.
                if error.get_error_code() in (libvirt.VIR_ERR_NO_NETWORK, libvirt.VIR_ERR_INVALID_ARG):
                    return None
                raise

    def _refuse_if_present(self, name: str, network_id: str) -> None:
        with self._connection.use("listing networks") as connection:
            for network in connection.listAllNetworks(0):
                # One of ours without a record is what a crash left; it is made anew.
                if network.name() == name and (network.UUIDString() != network_id or self._networks.get(network_id)):
                    raise CloudError(f"A network named {name} exists already.", hint="Choose another name.")

    def _make_network(self, network_id: str, record: Record, *, dhcp: bool) -> None:
        """Record, define, start; each only when missing."""
        cidr = ip_network(record["cidr"])
        new = False
        with self._connection.use(f"making network {record['name']}") as connection:
            try:
                network = connection.networkLookupByUUIDString(network_id)
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_NO_NETWORK:
                    raise
                self._refuse_overlap(connection, cidr, record["name"])
                self._networks.put(network_id, record)
                self._load_firewall()  # before the bridge exists, so that it is never open
                network = connection.networkDefineXML(render(network_definition(network_id, record, dhcp=dhcp)))
                new = True
            self._networks.put(network_id, record)
            self._load_firewall()
            try:
                activate(network)
            except libvirt.libvirtError as error:
                if new:
                    with suppress(libvirt.libvirtError):
                        network.undefine()
                    self._networks.remove(network_id)
                    self._load_firewall()
                if "already in use" in str(error):
                    raise CloudError(
                        f"{cidr} overlaps with a network of this host: {error}.", hint="Choose another range."
                    ) from error
                raise
            network.setAutostart(True)

    def _delete_network(self, network_id: str, record: Record) -> None:
        for port in self._ports.all().values():
            if port["network_id"] == network_id:
                raise CloudError(
                    f"{record['name']} still has port {port['name']} on it.", hint="Delete the servers on it first."
                )
        with self._connection.use(f"deleting network {record['name']}") as connection:
            user = domain_on(connection, record["name"], record["bridge"])
            if user is not None:
                raise CloudError(
                    f"Network {record['name']} is in use by virtual machine {user}.",
                    hint="Detach or delete that first.",
                )
            with missing_is_fine():
                network = connection.networkLookupByUUIDString(network_id)
                if network.isActive():
                    network.destroy()
                network.undefine()
        self._networks.remove(network_id)
        self._load_firewall()

    def _refuse_overlap(self, connection: Any, cidr: Cidr, name: str) -> None:
        for other, subnet in subnets_on(connection):
            if subnet.cidr.overlaps(cidr):
                raise CloudError(
                    f"{cidr} for {name} overlaps with libvirt network {other} ({subnet.cidr}).",
                    hint="Choose another range: all networks of one host share its routing table.",
                )

    def _route(self, subnet: Subnet, ports: Sequence[int]) -> Record:
        document = self._document(subnet.network_id)
        if document is None:
            raise CloudObjectMissing(
                f"There is no libvirt network {subnet.network_id}.", hint="It may have been deleted."
            )
        bridge = attribute(document, "bridge", "name")
        if attribute(document, "forward", "mode") not in ("open", "route") or bridge is None:
            raise CloudError(
                f"libvirt network {document.findtext('name')} does not route without translating addresses, so share"
                " servers could not tell clients apart.",
                hint="Use connect_share_server_to_tenant_network = true, or a network of forward mode open or route.",
            )
        return {
            "routed_to": subnet.network_id,
            "routed_bridge": bridge,
            "routed_cidr": str(subnet.cidr),
            "tenant_ports": list(ports),
        }

    def _network(self, network_id: str, record: Record) -> Network:
        return Network(
            id=network_id,
            name=record["name"],
            subnets=(recorded_subnet(network_id, record),),
            project_id=record.get("project_id"),
        )

    def _taken(self, subnet: Subnet) -> set[Address]:
        return {ip_address(record["address"]) for record in self._ports.all().values() if is_on(record, subnet)}

    def _unpin(self, record: Record) -> None:
        document = self._document(record["network_id"])
        if document is not None:
            self._addresses.unpin(record, document)

    # ---- firewall ----

    def _load_firewall(self) -> None:
        networks = self._networks.all()
        routes = [
            Route(
                tenant_bridge=record["routed_bridge"],
                tenant_cidr=ip_network(record["routed_cidr"]),
                service_bridge=record["bridge"],
                service_cidr=ip_network(record["cidr"]),
                ports=tuple(record["tenant_ports"]),
            )
            for record in networks.values()
            if record.get("routed_to")
        ]
        ports = [
            PortRules(
                device=record["device"],
                mac=record["mac"],
                address=ip_address(record["address"]),
                admissions=tuple(
                    Admission(
                        ports=tuple(admission["ports"]),
                        sources=tuple(ip_network(source) for source in admission["sources"]),
                    )
                    for admission in record["admissions"]
                ),
                outgoing=record.get("outgoing", True),
            )
            for record in self._ports.all().values()
        ]
        if networks or ports:
            self._firewall.apply([record["bridge"] for record in networks.values()], ports, routes)
        else:
            self._firewall.remove()

    def _instance_with(self, mac: str) -> str | None:
        with self._connection.use("looking for a NIC") as connection:
            for domain in connection.listAllDomains(0):
                for element in interfaces_of(domain):
                    if attribute(element, "mac", "address") == mac:
                        return str(domain.name())
        return None
