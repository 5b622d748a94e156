"""Networks and ports as documents: what libvirt is told, what it tells, what the records hold."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Any

import libvirt

from sharewright.clouds.addresses import dhcp_range, first_host
from sharewright.clouds.contract import Address, Cidr, Port, Subnet
from sharewright.clouds.libvirt.records import Record
from sharewright.clouds.libvirt.xml import add, attribute, parse
from sharewright.identifiers import derived_id

BRIDGE_DELAY = "0"  # no spanning tree, so a new port may talk at once


def activate(network: Any) -> None:
    if not network.isActive():
        network.create()


def network_definition(network_id: str, record: Record, *, dhcp: bool) -> ET.Element:
    cidr = ip_network(record["cidr"])
    root = ET.Element("network")
    add(root, "name", record["name"])
    add(root, "uuid", network_id)
    add(root, "forward", mode="open")
    add(root, "bridge", name=record["bridge"], stp="off", delay=BRIDGE_DELAY)
    add(root, "dns", enable="no")
    family = "ipv4" if cidr.version == 4 else "ipv6"
    ip = add(root, "ip", family=family, address=first_host(cidr), prefix=cidr.prefixlen)
    if dhcp:
        start, end = dhcp_range(cidr)
        add(add(ip, "dhcp"), "range", start=start, end=end)
    return root


def read_subnets(document: ET.Element, network_id: str) -> Iterator[Subnet]:
    mtu = int(attribute(document, "mtu", "size") or 1500)
    for number, element in enumerate(document.findall("ip")):
        address = element.get("address")
        if address is None:
            continue
        default = "64" if element.get("family") == "ipv6" else _classful(address)
        cidr = ip_network(f"{address}/{element.get('prefix') or element.get('netmask') or default}", strict=False)
        yield Subnet(
            id=first_subnet_id(network_id) if number == 0 else derived_id("subnet", network_id, str(cidr)),
            network_id=network_id,
            cidr=cidr,
            gateway=ip_address(address),
            network_type="flat",
            mtu=mtu,
        )


def _classful(address: str) -> str:
    """The mask that libvirt assumes when a network's definition has none."""
    first = int(address.split(".")[0])
    return "8" if first < 128 else "16" if first < 192 else "24"


def first_subnet_id(network_id: str) -> str:
    return derived_id("subnet", network_id)


def recorded_subnet(network_id: str, record: Record) -> Subnet:
    cidr = ip_network(record["cidr"])
    return Subnet(
        id=first_subnet_id(network_id), network_id=network_id, cidr=cidr, gateway=first_host(cidr), network_type="flat"
    )


def subnet_record(subnet: Subnet) -> Record:
    return {
        "id": subnet.id,
        "network_id": subnet.network_id,
        "cidr": str(subnet.cidr),
        "gateway": str(subnet.gateway) if subnet.gateway else None,
        "network_type": subnet.network_type,
        "segmentation_id": subnet.segmentation_id,
        "mtu": subnet.mtu,
    }


def recorded_port(port_id: str, record: Record) -> Port:
    subnet = record["subnet"]
    return Port(
        id=port_id,
        name=record["name"],
        mac=record["mac"],
        address=ip_address(record["address"]),
        subnet=Subnet(
            id=subnet["id"],
            network_id=subnet["network_id"],
            cidr=ip_network(subnet["cidr"]),
            gateway=ip_address(subnet["gateway"]) if subnet["gateway"] else None,
            network_type=subnet["network_type"],
            segmentation_id=subnet["segmentation_id"],
            mtu=subnet["mtu"],
        ),
        tags=record["tags"],
    )


def is_tenant(record: Record) -> bool:
    return bool(record["kind"] == "tenant")


def may_use(record: Record, project_id: str | None) -> bool:
    """Whether a project may use a network: a network without a project is everybody's."""
    return project_id is None or record.get("project_id") in (None, project_id)


def is_on(record: Record, subnet: Subnet) -> bool:
    return bool(record["subnet"]["id"] == subnet.id)


def addresses_in(text: str | None) -> set[Address]:
    """The address in text, if it is one."""
    try:
        return {ip_address(text)} if text else set()
    except ValueError:
        return set()


def inside(addresses: set[Address], cidr: Cidr) -> set[Address]:
    return {address for address in addresses if address in cidr}


def dhcp_of(document: ET.Element, address: Address) -> ET.Element | None:
    """The <dhcp> element of the subnet that the address is in."""
    for element in document.findall("ip"):
        own = element.get("address")
        if own is None:
            continue
        mask = element.get("prefix") or element.get("netmask") or ("64" if ":" in own else _classful(own))
        if address in ip_network(f"{own}/{mask}", strict=False):
            return element.find("dhcp")
    return None


def subnets_on(connection: Any) -> Iterator[tuple[str, Subnet]]:
    """Name of its network, and subnet: all of the host's, whoever's; a network may go while we look."""
    for network in connection.listAllNetworks(0):
        try:
            document = parse(network.XMLDesc(0))
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_NETWORK:
                continue
            raise
        for subnet in read_subnets(document, network.UUIDString()):
            yield network.name(), subnet


def interfaces_of(domain: Any) -> list[ET.Element]:
    try:
        return parse(domain.XMLDesc(0)).findall("devices/interface")
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:  # gone since it was listed
            return []
        raise


def domain_on(connection: Any, network_name: str, bridge: str) -> str | None:
    """The name of a virtual machine, anybody's, that has a NIC on the network."""
    for domain in connection.listAllDomains(0):
        for element in interfaces_of(domain):
            if (
                attribute(element, "source", "network") == network_name
                or attribute(element, "source", "bridge") == bridge
            ):
                return str(domain.name())
    return None
