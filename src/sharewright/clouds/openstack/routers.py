"""Routers between subnets: the tenant's own (layout "router") and the one to the controllers.

A router's interface is a port of Neutron's with a router's device owner; which router has which address on a subnet is
read from the subnet's ports.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from openstack.network.v2.port import Port as NeutronPort
from openstack.network.v2.router import Router

from sharewright.clouds.contract import Address, Subnet
from sharewright.clouds.openstack.neutron import Neutron, address_on, fault, has_address, is_router_port
from sharewright.clouds.openstack.polling import Deadline
from sharewright.errors import CloudError, CloudObjectMissing
from sharewright.identifiers import is_id

PORT_NAME = "sharewright-router-"  # of ports that become interfaces
TWO_NICS = "or use two NICs: connect_share_server_to_tenant_network = true"


class Routers:
    def __init__(self, neutron: Neutron) -> None:
        self._neutron = neutron
        self._lock = threading.Lock()
        self._known: dict[str, str] = {}  # name or id, as configured → id

    def find(self, name_or_id: str, deadline: Deadline) -> Router:
        """The router of the configuration. CloudError when there is none, or several of that name."""
        query = {"id": name_or_id} if is_id(name_or_id) else {"name": name_or_id}
        found = self._neutron.call(
            f"looking for router {name_or_id}", lambda sdk: list(sdk.network.routers(**query)), deadline
        )
        if len(found) != 1:
            raise CloudError(
                f"There {'is no router' if not found else 'are several routers'} {name_or_id}.",
                hint="openstack.management_router is the name or id of one that Sharewright's user may use.",
            )
        with self._lock:
            self._known[name_or_id] = str(found[0].id)
        return found[0]

    def identifier(self, name_or_id: str, deadline: Deadline) -> str:
        with self._lock:
            known = self._known.get(name_or_id)
        return known or str(self.find(name_or_id, deadline).id)

    def of_tenant(self, subnet: Subnet, deadline: Deadline) -> str:
        """The router that is the tenant subnet's gateway. CloudError says what to do when there is none."""
        if subnet.gateway is None:
            raise CloudError(
                f"The tenant's subnet {subnet.cidr} ({subnet.id}) has no gateway, so no router connects it.",
                hint=f"Give it a gateway and a router's interface there, {TWO_NICS}.",
            )
        gateway = subnet.gateway
        ports = self._neutron.call(
            "looking for the tenant's router",
            lambda sdk: list(
                sdk.network.ports(
                    network_id=subnet.network_id, fixed_ips=[f"subnet_id={subnet.id}", f"ip_address={gateway}"]
                )
            ),
            deadline,
        )
        for port in ports:
            if is_router_port(port) and port.device_id and has_address(port, gateway):
                return str(port.device_id)
        raise CloudError(
            f"The gateway {gateway} of the tenant's subnet {subnet.cidr} ({subnet.id}) is no router of Neutron's.",
            hint=f"Let the tenant attach the subnet to a router (openstack router add subnet …), {TWO_NICS}.",
        )

    def attach(
        self, router_id: str, network_id: str, subnet_id: str, address: Address, deadline: Deadline, *, what: str
    ) -> None:
        """Give the router an interface on the subnet, whose gateway has that ``address``. ``what`` names the router in
        errors ("the tenant's router")."""
        try:
            self._neutron.connection.create(
                f"attaching service subnet {subnet_id} to {what}",
                lambda sdk: sdk.network.add_interface_to_router(router_id, subnet_id),
                again=lambda sdk: (
                    {} if attached_to(list(sdk.network.ports(network_id=network_id)), router_id, address) else None
                ),
                deadline=deadline,
            )
        except CloudError as error:
            self._explain(error, router_id, network_id, address, deadline, what=what)

    def attach_port(
        self, router_id: str, network_id: str, subnet_id: str, address: Address, deadline: Deadline, *, what: str
    ) -> None:
        """As :meth:`attach`, where the address is not the subnet's gateway."""
        port = self._router_port(network_id, subnet_id, address, deadline)
        try:
            self._neutron.call(
                f"attaching service subnet {subnet_id} to {what}",
                lambda sdk: sdk.network.add_interface_to_router(router_id, None, str(port.id)),
                deadline,
            )
        except CloudError as error:
            self._explain(error, router_id, network_id, address, deadline, what=what)

    def _router_port(self, network_id: str, subnet_id: str, address: Address, deadline: Deadline) -> NeutronPort:
        name = f"{PORT_NAME}{subnet_id}"

        def find(ports: Sequence[NeutronPort]) -> NeutronPort | None:
            return next((port for port in ports if has_address(port, address)), None)

        found = find(self.on(network_id, deadline))
        if found is not None:
            if found.name != name:
                raise CloudError(
                    f"Address {address}, where the router to the controllers belongs, is taken by port {found.id}.",
                    hint="Delete that port.",
                )
            return found
        return self._neutron.connection.create(
            "making a router's port",
            lambda sdk: sdk.network.create_port(
                name=name,
                network_id=network_id,
                fixed_ips=[{"subnet_id": subnet_id, "ip_address": str(address)}],
                security_groups=[],
            ),
            again=lambda sdk: find(list(sdk.network.ports(network_id=network_id))),
            deadline=deadline,
        )

    def _explain(
        self, error: CloudError, router_id: str, network_id: str, address: Address, deadline: Deadline, *, what: str
    ) -> None:
        """Return when the interface is there after all: another process attached it at the same moment."""
        if attached_to(self.on(network_id, deadline), router_id, address):
            return
        if fault(error) == "RouterNotFound":
            with self._lock:
                self._known.clear()
            raise CloudObjectMissing(
                f"{what[:1].upper()}{what[1:]} is gone: {error.message}", hint=error.hint
            ) from error
        if "overlap" in error.message:
            raise CloudError(
                f"{what[:1].upper()}{what[1:]} has a network that overlaps with the service subnet: {error.message}",
                hint=f"Choose another service_network_cidr, {TWO_NICS}.",
            ) from error
        raise error

    def on(self, network_id: str, deadline: Deadline) -> list[NeutronPort]:
        """All ports of a network that we may see."""
        return self._neutron.call(
            "listing a network's ports", lambda sdk: list(sdk.network.ports(network_id=network_id)), deadline
        )

    def is_unused(self, port: NeutronPort) -> bool:
        """Whether the port was made to become a router's interface, by somebody who died before it did."""
        return str(port.name or "").startswith(PORT_NAME) and not port.device_owner

    def detach(self, port: NeutronPort, subnet_id: str, deadline: Deadline) -> None:
        """Take a router's interface away. Gone already, or with its router: success."""
        router_id, port_id = str(port.device_id), str(port.id)
        address = address_on(port, subnet_id)
        try:
            self._neutron.call(
                f"detaching a router ({address}) from a service subnet",
                lambda sdk: sdk.network.remove_interface_from_router(router_id, None, port_id),
                deadline,
            )
        except CloudObjectMissing:
            return
        except CloudError as error:
            if fault(error) not in ("RouterInterfaceNotFound", "RouterInterfaceNotFoundForSubnet", "PortNotFound"):
                raise


def attached_to(ports: Sequence[NeutronPort], router_id: str, address: Address) -> bool:
    return any(is_router_port(port) and port.device_id == router_id and has_address(port, address) for port in ports)


def router_at(ports: Sequence[NeutronPort], address: Address) -> NeutronPort | None:
    """The router's interface with this address."""
    return next((port for port in ports if is_router_port(port) and has_address(port, address)), None)
