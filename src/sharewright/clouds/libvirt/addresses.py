"""Addresses on a libvirt network: which are free, and keeping its DHCP server from giving ours to anybody else."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from ipaddress import IPv4Address, ip_address

import libvirt

from sharewright.clouds.addresses import choose_address, first_host
from sharewright.clouds.contract import Address, PortSpec
from sharewright.clouds.libvirt.connection import Connection
from sharewright.clouds.libvirt.network_documents import addresses_in, dhcp_of, inside
from sharewright.clouds.libvirt.records import Record
from sharewright.clouds.libvirt.xml import render
from sharewright.errors import CloudCapacityExceeded, CloudError


class Addresses:
    """``document`` is always the network's present definition."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def choose(self, spec: PortSpec, document: ET.Element, taken: set[Address]) -> Address:
        """The wanted address, else the lowest free one that DHCP does not own, else the highest free one that it does
        (which is then pinned): networks of other makers often give all addresses to DHCP."""
        cidr = spec.subnet.cidr
        taken = set(taken)
        if spec.subnet.gateway is not None:
            taken.add(spec.subnet.gateway)
        ranges: list[tuple[Address, Address]] = []
        for element in document.iter("ip"):
            for host in element.iter("host"):
                taken |= addresses_in(host.get("ip"))
            for range_ in element.iter("range"):
                start, end = addresses_in(range_.get("start")), addresses_in(range_.get("end"))
                if start and end and start <= set(inside(start, cidr)):
                    ranges.append((start.pop(), end.pop()))
        taken |= self._leased(spec.subnet.network_id)
        if spec.address is not None:
            if spec.address in taken or spec.address not in cidr or spec.address == first_host(cidr):
                raise CloudError(f"Address {spec.address} is not free in {cidr}.", hint="Let the cloud choose.")
            return spec.address
        owned = {first for first, _ in ranges}
        try:
            below = min(owned, key=int) if owned else None
            return choose_address(cidr, taken, below=below)
        except CloudCapacityExceeded:
            for first, last in ranges:
                for candidate in range(int(last), int(first) - 1, -1):
                    if ip_address(candidate) not in taken:
                        return ip_address(candidate)
            raise

    def _leased(self, network_id: str) -> set[Address]:
        with self._connection.use("reading DHCP leases") as connection:
            network = connection.networkLookupByUUIDString(network_id)
            if not network.isActive():
                return set()
            try:
                return set().union(*(addresses_in(lease["ipaddr"]) for lease in network.DHCPLeases()))
            except libvirt.libvirtError as error:
                if error.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID:  # no DHCP there
                    return set()
                raise

    def pin(self, record: Record, document: ET.Element) -> None:
        """Let the network's DHCP server, if it has one, keep the address for this MAC."""
        address = ip_address(record["address"])
        element = dhcp_of(document, address)
        if element is None or not isinstance(address, IPv4Address):
            return
        if any(host.get("mac") == record["mac"] for host in element.iter("host")):
            return
        self._update_host(record, libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST)

    def unpin(self, record: Record, document: ET.Element) -> None:
        """Undo :meth:`pin`."""
        for host in document.iter("host"):
            if host.get("mac") == record["mac"]:
                self._update_host(record, libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE)

    def _update_host(self, record: Record, command: int) -> None:
        host = ET.Element("host", {"mac": record["mac"], "ip": record["address"]})
        with self._connection.use(f"pinning address {record['address']}") as connection:
            network = connection.networkLookupByUUIDString(record["network_id"])
            flags = libvirt.VIR_NETWORK_UPDATE_AFFECT_CONFIG
            if network.isActive():
                flags |= libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE
            network.update(command, libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST, -1, render(host), flags)
