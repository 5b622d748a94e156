"""Ports of service VMs: found by name and description, filtered by one security group each, held by Nova's servers.

Port security stays on, so Neutron drops what a VM sends with another MAC or address than its own, and no further pairs
are allowed (``allowed_address_pairs``); a port on which somebody changed that is put right by the next ``ensure``.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_network
from typing import Any

import structlog
from openstack.connection import Connection as Sdk
from openstack.network.v2.port import Port as NeutronPort

from sharewright.clouds.contract import Port, PortSpec, Subnet, Tags
from sharewright.clouds.openstack.neutron import PORT_FIELDS, Neutron, address_on, fault
from sharewright.clouds.openstack.polling import Deadline
from sharewright.clouds.openstack.security_groups import Filter, SecurityGroups
from sharewright.clouds.openstack.tags import from_description, to_description
from sharewright.errors import CloudCapacityExceeded, CloudError, CloudObjectMissing
from sharewright.identifiers import is_id

log = structlog.get_logger()

NOT_FREE = ("IpAddressInUse", "IpAddressAlreadyAllocated", "InvalidIpForSubnet", "InvalidIpForNetwork")
FULL = ("IpAddressGenerationFailure", "IpAddressGenerationFailureForSubnet", "IpAddressGenerationFailureAllSubnets")


class Ports:
    def __init__(self, neutron: Neutron, groups: SecurityGroups) -> None:
        self._neutron = neutron
        self._groups = groups

    def ensure(self, spec: PortSpec, tags: Tags, deadline: Deadline) -> Port:
        wanted = Filter.of(spec)
        with self._neutron.connection.locks.hold(f"port {spec.name}", deadline):
            found = self._neutron.call(
                f"looking for port {spec.name}", lambda sdk: self._named(sdk, spec.name), deadline
            )
            group = self._groups.ensure(wanted, deadline)
            if found is None:
                found = self._make(spec, tags, wanted, group, deadline)
            else:
                self._compare(found, spec)
                self._repair(found, group, deadline)
        return _port(found, spec.subnet)

    def all(self, deadline: Deadline) -> list[Port]:
        found = self._neutron.ours(
            self._neutron.call(
                "listing ports",
                lambda sdk: list(sdk.network.ports(project_id=self._neutron.project, fields=PORT_FIELDS)),
                deadline,
            )
        )
        found = [each for each in found if is_machines(each)]
        subnets = self._neutron.subnets_by_id((_subnet_id(each) for each in found), deadline)
        return [_port(each, subnets.get(_subnet_id(each)) or _hidden_subnet(each)) for each in found if each.fixed_ips]

    def find(self, port_id: str, deadline: Deadline) -> NeutronPort | None:
        """A port of ours."""
        if not is_id(port_id):
            return None
        found = self._neutron.look("looking at a port", lambda sdk: sdk.network.get_port(port_id), deadline)
        return found if found is not None and self._neutron.owns(found) else None

    def refuse_if_held(self, port: NeutronPort, deadline: Deadline) -> None:
        """CloudError when a server that exists has the port."""
        holder = str(port.device_id or "")
        if not holder or not str(port.device_owner or "").startswith("compute:"):
            return
        server = self._neutron.look("looking for a port's server", lambda sdk: sdk.compute.get_server(holder), deadline)
        if server is not None:
            raise CloudError(f"Port {port.name} is in use by instance {holder}.", hint="Delete that first.")

    def delete(self, port_id: str, deadline: Deadline) -> None:
        self._neutron.look("deleting a port", lambda sdk: sdk.network.delete_port(port_id), deadline)

    # ---- parts ----

    def _named(self, sdk: Sdk, name: str) -> NeutronPort | None:
        found = sdk.network.ports(name=name, project_id=self._neutron.project)
        return next(iter(self._neutron.ours(found)), None)

    def _compare(self, found: NeutronPort, spec: PortSpec) -> None:
        address = address_on(found, spec.subnet.id)
        if address is None or spec.address not in (None, address):
            shown = ", ".join(str(each["ip_address"]) for each in found.fixed_ips or ()) or "none"
            raise CloudError(
                f"Port {spec.name} exists with another subnet or address ({shown}).", hint="Delete it first."
            )

    def _repair(self, found: NeutronPort, group: str, deadline: Deadline) -> None:
        wrong: dict[str, Any] = {}
        if list(found.security_group_ids or ()) != [group]:
            wrong["security_groups"] = [group]
        if found.is_port_security_enabled is False:
            wrong["port_security_enabled"] = True
        if found.allowed_address_pairs:
            wrong["allowed_address_pairs"] = []
        if wrong:
            log.warning("a port was put right", port=found.name, changed=sorted(wrong))
            identifier = str(found.id)
            self._neutron.call(
                f"putting port {found.name} right",
                lambda sdk: sdk.network.update_port(identifier, **wrong),
                deadline,
            )

    def _make(self, spec: PortSpec, tags: Tags, wanted: Filter, group: str, deadline: Deadline) -> NeutronPort:
        place: dict[str, str] = {"subnet_id": spec.subnet.id}
        if spec.address is not None:
            place["ip_address"] = str(spec.address)
        given: dict[str, Any] = {
            "name": spec.name,
            "network_id": spec.subnet.network_id,
            "description": to_description(tags, spec.name),
            "fixed_ips": [place],
            "security_groups": [group],
        }
        if spec.mac is not None:
            given["mac_address"] = spec.mac
        try:
            if not self._neutron.facts(spec.subnet.network_id, deadline).port_security:
                given["port_security_enabled"] = True  # the network's own default is off
        except CloudObjectMissing as error:
            raise _missing(spec) from error
        for _ in range(4):
            try:
                return self._create(spec.name, given, deadline)
            except CloudError as error:
                given = self._otherwise(error, spec, given, wanted, deadline)
        raise CloudError(f"Port {spec.name} could not be made.", hint="Neutron's log tells more.")

    def _create(self, name: str, attributes: dict[str, Any], deadline: Deadline) -> NeutronPort:
        return self._neutron.connection.create(
            f"making port {name}",
            lambda sdk: sdk.network.create_port(**attributes),
            again=lambda sdk: self._named(sdk, name),
            deadline=deadline,
        )

    def _otherwise(
        self, error: CloudError, spec: PortSpec, given: dict[str, Any], wanted: Filter, deadline: Deadline
    ) -> dict[str, Any]:
        """What to try instead after a refusal; or the error that says what it means."""
        kind = fault(error)
        changed = dict(given)
        if kind == "SecurityGroupNotFound":  # the last port of that filter went at this moment, and the group with it
            self._groups.distrust(wanted)
            return {**changed, "security_groups": [self._groups.ensure(wanted, deadline)]}
        if "mac_address" in given and (
            kind in ("MacAddressInUse", "PolicyNotAuthorized") or "(HTTP 403" in error.message
        ):
            log.warning("a port comes back with another MAC", port=spec.name, reason=error.message)
            del changed["mac_address"]
            return changed
        if kind.startswith("PortSecurity") and "port_security_enabled" not in given:
            return {**changed, "port_security_enabled": True}  # the network's default was switched off meanwhile
        derived = "automatic address" in error.message or "SLAAC" in error.message
        if derived and "ip_address" in given["fixed_ips"][0]:
            # An IPv6 subnet where the address follows from the MAC: the same MAC gives the same address.
            return {**changed, "fixed_ips": [{"subnet_id": spec.subnet.id}]}
        if kind in NOT_FREE and spec.address is not None:
            raise CloudError(
                f"Address {spec.address} is not free in {spec.subnet.cidr}: {error.message}",
                hint="Delete the port that has it, or leave the choice to the cloud.",
            ) from error
        if kind in FULL:
            raise CloudCapacityExceeded(
                f"No free address is left in {spec.subnet.cidr}: {error.message}",
                hint="Delete servers on it, or use a larger subnet.",
            ) from error
        if isinstance(error, CloudObjectMissing) or "invalid subnet" in error.message:
            self._neutron.forget(spec.subnet.network_id)
            raise _missing(spec) from error
        raise error


def is_machines(port: NeutronPort) -> bool:
    """Whether the port is for a virtual machine, and neither a router's nor a host's."""
    return not port.device_owner or str(port.device_owner).startswith("compute:")


def _missing(spec: PortSpec) -> CloudObjectMissing:
    return CloudObjectMissing(
        f"There is no subnet {spec.subnet.id} on network {spec.subnet.network_id}, or our project may not use it.",
        hint="It may have been deleted; else give Sharewright's user the roles that docs/openstack-cloud.md lists.",
    )


def _subnet_id(port: NeutronPort) -> str:
    fixed: Sequence[dict[str, str]] = port.fixed_ips or ()
    return str(fixed[0]["subnet_id"]) if fixed else ""


def _hidden_subnet(port: NeutronPort) -> Subnet:
    """What a port tells of a subnet that we may not see any more; it has to be listed all the same, to be deleted."""
    address: str = port.fixed_ips[0]["ip_address"]
    return Subnet(id=_subnet_id(port), network_id=str(port.network_id), cidr=ip_network(address))


def _port(found: NeutronPort, subnet: Subnet) -> Port:
    address = address_on(found, subnet.id)
    if address is None:
        raise CloudError(f"Port {found.name} has no address on subnet {subnet.id}.", hint="Delete the port.")
    return Port(
        id=str(found.id),
        name=str(found.name),
        mac=str(found.mac_address),
        address=address,
        subnet=subnet,
        tags=from_description(found.description),
    )
