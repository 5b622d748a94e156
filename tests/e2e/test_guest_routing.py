"""The guest program's routes and firewall in a real kernel, with real packets: a network namespace is the server,
others are machines on its networks. No virtual machine is needed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface
from pathlib import Path
from typing import Any

import pytest

from namespaces import Namespace, NetworkNamespace, ip
from sharewright.guest.program.host import RUN
from sharewright.identifiers import new_id, short_hash

pytestmark = pytest.mark.e2e

SETUP = """
import json, sys
from sharewright.guest.program import firewall, network
from sharewright.guest.program.host import Host
host, (data, wanted) = Host(""), json.load(sys.stdin)
firewall.forbid_forwarding(host)
network.configure(host, data)
parsed, ports = firewall.parse_firewall(wanted)
names = firewall.interfaces(host)
firewall.load(host, firewall.firewall_text(parsed, ports, names, network.addresses_by_nic(data, names)))
print("ready", flush=True)
"""
LISTEN = """
import socket, sys
listener = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
print("ready", flush=True)
kept = []
while True:
    kept.append(listener.accept())
"""
# Opens a connection, and on each line of its input says whether it still carries data.
HOLD = """
import socket, sys
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5)
print("ready", flush=True)
for line in sys.stdin:
    connection.sendall(b"x")
    print(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[24:28] == bytes(4), flush=True)
"""


class Side:
    """One of the server's networks, with a machine that is its gateway, too."""

    def __init__(self, stack: ExitStack, name: str, server: Server, *addresses: str) -> None:
        self.name = name
        self.mac = f"52:54:00:ac:{len(name):02x}:01"
        self.addresses = [ip_interface(address) for address in addresses]
        mark = short_hash(server.id, name, length=6)
        self.bridge = f"swb{mark}"
        ip("link", "add", self.bridge, "type", "bridge")
        stack.callback(ip, "link", "delete", self.bridge)
        ip("link", "set", self.bridge, "up")
        peer = f"swp{mark}"
        ip("link", "add", f"sws{mark}", "type", "veth", "peer", "name", peer)
        ip("link", "set", peer, "address", self.mac)
        ip("link", "set", peer, "netns", server.namespace.pid)
        server.namespace.ip("link", "set", peer, "name", name)
        ip("link", "set", f"sws{mark}", "master", self.bridge)
        ip("link", "set", f"sws{mark}", "up")
        first = self.addresses[0]
        machine = Namespace(
            f"{name}{server.id}", self.bridge, f"swc{mark}", f"52:54:00:ac:{len(name):02x}:02",
            first.network[200], first.network.prefixlen,
        )  # fmt: skip
        self.machine = stack.enter_context(machine)
        for address in self.addresses:
            for own in (address.network[1], address.network[200]):
                if own != first.network[200]:
                    self.own(own, address.network.prefixlen)

    def own(self, address: object, length: int) -> None:
        nodad = ["nodad"] if ":" in str(address) else []
        self.machine.ip("address", "add", f"{address}/{length}", "dev", "eth0", *nodad)


class Server:
    def __init__(self, stack: ExitStack) -> None:
        self.id = new_id()
        self.stack = stack
        self.namespace = NetworkNamespace()
        stack.callback(self.namespace.close)
        self.namespace.ip("link", "set", "lo", "up")
        self.sides: list[Side] = []
        # A mount namespace that stays, for what the program keeps there, with the devices that it looks at.
        Path(RUN).mkdir(exist_ok=True)
        self.holder = self._start(
            f"mount -t sysfs none /sys && mount -t tmpfs none {RUN} && echo ready && exec sleep 600"
        )
        self.listener = self._run(LISTEN, "2049")

    def add(self, name: str, *addresses: str) -> Side:
        side = Side(self.stack, name, self, *addresses)
        self.sides.append(side)
        return side

    def configure(self) -> None:
        """As a document does."""
        done = subprocess.run(
            [*self._inside(), sys.executable, "-c", SETUP], input=json.dumps([self._network(), self._firewall()]),
            text=True, capture_output=True, check=False,
        )  # fmt: skip
        assert done.stdout == "ready\n", done.stderr

    def _network(self) -> dict[str, Any]:
        links, networks = [], []
        for side in self.sides:
            links.append({"id": side.name, "ethernet_mac_address": side.mac, "mtu": 1500})
            for address in side.addresses:
                anywhere = "0.0.0.0" if address.version == 4 else "::"
                networks.append(
                    {
                        "link": side.name,
                        "ip_address": str(address.ip),
                        "netmask": str(address.network.netmask),
                        "routes": [{"network": anywhere, "netmask": anywhere, "gateway": str(address.network[1])}],
                        "replies_only": side is not self.sides[0],
                    }
                )
        return {"links": links, "networks": networks}

    def _firewall(self) -> dict[str, Any]:
        admin = next(side for side in self.sides if side.name == "admin")
        return {
            "management_macs": [admin.mac],
            "management_from": ["10.2.5.1/32"],
            "client_macs": [side.mac for side in self.sides if side is not admin],
            "admin_macs": [admin.mac],
        }

    def _inside(self) -> list[str]:
        return self.namespace.inside("nsenter", f"--mount=/proc/{self.holder.pid}/ns/mnt")

    def _start(self, script: str) -> subprocess.Popen[str]:
        return self._wait_ready(self.namespace.inside("unshare", "--mount", "sh", "-c", script))

    def _run(self, program: str, *arguments: str) -> subprocess.Popen[str]:
        return self._wait_ready(self.namespace.inside(sys.executable, "-c", program, *arguments))

    def _wait_ready(self, command: list[str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.stack.callback(process.wait)
        self.stack.callback(process.kill)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process


@pytest.fixture
def server() -> Iterator[Server]:
    with ExitStack() as stack:
        server = Server(stack)
        server.add("tenant", "192.168.7.9/24", "fd00:7::9/64")
        server.add("admin", "10.2.5.9/24", "fd00:2::9/64")
        server.configure()
        yield server


def address(side: Side, version: int) -> IPv4Interface | IPv6Interface:
    return next(each for each in side.addresses if each.version == version)


@pytest.mark.parametrize("version", [4, 6])
def test_each_side_is_answered(server: Server, version: int) -> None:
    for side in server.sides:
        assert side.machine.opens(address(side, version).ip, 2049)
        assert not side.machine.opens(address(side, version).ip, 22, seconds=1.0)


@pytest.mark.parametrize("version", [4, 6])
def test_an_answer_goes_back_to_the_side_that_asked(server: Server, version: int) -> None:
    """The asking machine has an address of the other side's network: by the main table the answer would go there."""
    tenant, admin = server.sides
    for side, other in ((tenant, admin), (admin, tenant)):
        foreign = address(other, version).network[201]
        side.own(foreign, foreign.max_prefixlen)
        there = other.machine.capture(3.0)
        assert side.machine.opens(address(side, version).ip, 2049, source=foreign)
        assert ip_address(foreign).packed.hex() not in there.communicate()[0]


@pytest.mark.parametrize("version", [4, 6])
def test_a_nic_takes_no_packets_for_the_others_address(server: Server, version: int) -> None:
    tenant, admin = server.sides
    for side, other in ((tenant, admin), (admin, tenant)):
        target = address(other, version).ip
        own = address(side, version)
        side.machine.ip("route", "add", f"{target}/{target.max_prefixlen}", "via", own.ip)
        there = other.machine.capture(3.0)
        assert not side.machine.opens(target, 2049, source=own.network[200], seconds=2.0)
        assert own.network[200].packed.hex() not in there.communicate()[0]


def test_a_nic_that_comes_later_leaves_connections_alone(server: Server) -> None:
    tenant, _ = server.sides
    held = tenant.machine.hold(HOLD, address(tenant, 4).ip, 2049)
    later = server.add("further", "192.168.8.9/24", "fd00:8::9/64")
    for _ in range(2):
        server.configure()
        for version in (4, 6):
            assert later.machine.opens(address(later, version).ip, 2049)
        assert held.stdin is not None
        assert held.stdout is not None
        held.stdin.write("\n")
        held.stdin.flush()
        assert held.stdout.readline() == "True\n", "nothing had to be sent again"
    for version in (4, 6):
        assert tenant.machine.opens(address(tenant, version).ip, 2049)
