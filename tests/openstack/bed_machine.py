"""A machine on a network of the test bed that is a network namespace of this host, so it boots in no time."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from types import TracebackType
from typing import Any

from openstack.connection import Connection

from bed import Account, Bed
from deployment import wait_for
from namespaces import Namespace, ip
from probes import Target

HOST = "testbed"  # the test bed's name for this host
OWNER = "tests:machine"  # one that begins with "compute:" would let the agent wait for Nova


class PortNamespace(Namespace):
    """Has a port of its own on the subnet, which Neutron's agent plugs in. Use as a context manager. ``sdk``: an
    administrator's, for only they say which host a port is on."""

    def __init__(self, sdk: Connection, network_id: str, subnet_id: str) -> None:
        self._network = sdk.network
        subnet = self._network.get_subnet(subnet_id)
        port: Any = self._network.create_port(
            name="test-machine", network_id=network_id, fixed_ips=[{"subnet_id": subnet_id}],
            project_id=subnet.project_id, device_owner=OWNER, binding_host_id=HOST,
        )  # fmt: skip
        self._port_id = str(port.id)
        address = ip_address(port.fixed_ips[0]["ip_address"])
        end = f"tap{port.id[:11]}"
        self._begin(port.mac_address, address, end)
        try:
            mtu = self._network.get_network(network_id).mtu
            ip("link", "add", end, "type", "veth", "peer", "name", "eth0", "address", port.mac_address, "mtu", mtu,
               "netns", self._network_namespace.pid)  # fmt: skip
            ip("link", "set", end, "mtu", mtu, "up")
            nodad = ["nodad"] if address.version == 6 else []
            length = str(subnet.cidr).partition("/")[2]
            self.ip("address", "add", f"{address}/{length}", "dev", "eth0", *nodad)
            self.ip("link", "set", "lo", "up")
            self.ip("link", "set", "eth0", "up")
            wait_for("the machine's port", lambda: self._network.get_port(self._port_id).status == "ACTIVE")
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._network.delete_port(self._port_id)


class BedMachine:
    """What the stories want of a machine. Use as a context manager."""

    def __init__(self, sdk: Connection, network_id: str, subnet_id: str) -> None:
        self._namespace = PortNamespace(sdk, network_id, subnet_id)

    def opens(self, targets: Iterable[tuple[object, int]]) -> set[Target]:
        return self._namespace.connects_to(targets)

    def __enter__(self) -> BedMachine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._namespace.__exit__(kind, error, trace)


class FurtherNetworks:
    """Networks that a tenant makes while a test runs, and machines on them."""

    def __init__(self, bed: Bed, account: Account) -> None:
        self._bed = bed
        self._account = account

    def make(self, cidr: str) -> tuple[str, str]:
        return self._bed.further_network(self._account, cidr)

    def machine(self, network_id: str, subnet_id: str, cidr: str) -> BedMachine:
        return BedMachine(self._bed.sdk, network_id, subnet_id)
