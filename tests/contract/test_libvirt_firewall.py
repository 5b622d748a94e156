"""The host's packet filter with real packets: namespaces take the places of share servers, clients and strangers.

A namespace's veth has the name of the port's tap and sits on the network's bridge, so the kernel treats it as it would
treat the virtual machine.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address, ip_network
from pathlib import Path

import pytest
from cloud_sites import SECONDS, LibvirtSite, make_network, smaller

from namespaces import LISTEN, Namespace, arp, ethernet, ipv4, tcp, udp
from sharewright.clouds.contract import Admission, Port, PortSpec, ServiceSubnetSpec, Subnet
from sharewright.clouds.libvirt.cloud import LibvirtCloud
from sharewright.clouds.libvirt.layout import Layout

pytestmark = pytest.mark.e2e
EVERYBODY = "ff:ff:ff:ff:ff:ff"
CLIENT_MAC = "52:54:00:aa:00:01"
STRANGER_MAC = "52:54:00:aa:00:02"


class Scene:
    """A tenant's network and a service subnet with one share server, and whoever a test puts there."""

    def __init__(self, site: LibvirtSite, stack: ExitStack) -> None:
        cloud = site.open()
        assert isinstance(cloud, LibvirtCloud)
        cloud.check()
        self.site, self.cloud, self.stack = site, cloud, stack
        self.layout = Layout(cloud.deployment, site.state_dir())
        self.tenant = make_network(site, cloud).subnets[0]

    def service(self, *, routed_to: Subnet | None = None) -> Subnet:
        spec = ServiceSubnetSpec(
            name=f"{self.cloud.deployment}-service",
            cidr=smaller(self.site.cidr()),
            tags={},
            routed_to=routed_to,
            tenant_ports=(2049,) if routed_to else (),
        )
        return self.cloud.networks.ensure_service_subnet(spec, timeout=SECONDS)

    def port(self, subnet: Subnet, name: str, *allowed: int, sources: tuple[str, ...] = ()) -> Port:
        spec = PortSpec(
            name=f"{self.cloud.deployment}-{name}",
            subnet=subnet,
            tags={},
            allowed_tcp=allowed,
            allowed_from=tuple(ip_network(source) for source in sources),
        )
        return self.cloud.networks.ensure_port(spec, timeout=SECONDS)

    def machine(self, port: Port) -> Namespace:
        """What the port is for, in place of the virtual machine."""
        assert isinstance(port.address, IPv4Address)
        return self.stack.enter_context(
            Namespace(
                port.name,
                self.layout.bridge(port.subnet.network_id),
                self.layout.tap(port.id),
                port.mac,
                port.address,
                port.subnet.cidr.prefixlen,
            )
        )

    def stranger(self, subnet: Subnet, host: int, mac: str = CLIENT_MAC) -> Namespace:
        """A machine of the tenant's own, without a port of ours."""
        address = subnet.cidr.network_address + host
        assert isinstance(address, IPv4Address)
        device = f"swc{self.layout.table[-8:]}{host}"
        return self.stack.enter_context(
            Namespace(f"client{host}", self.layout.bridge(subnet.network_id), device, mac, address)
        )


@pytest.fixture
def scene(libvirt_site: LibvirtSite) -> Iterator[Scene]:
    with ExitStack() as stack:
        yield Scene(libvirt_site, stack)


def host_reaches(address: object, port: int) -> bool:
    from namespaces import CONNECT

    command = [sys.executable, "-c", CONNECT, str(address), str(port), "1.5"]
    return subprocess.run(command, check=False).returncode == 0


def test_clients_reach_the_share_and_nothing_else(scene: Scene) -> None:
    server = scene.machine(scene.port(scene.tenant, "server", 2049))
    server.listen(22, 111, 2049)
    client = scene.stranger(scene.tenant, 50)
    assert client.reaches(server.address, 2049)
    assert client.pings(server.address)
    assert not client.reaches(server.address, 22)
    assert not client.reaches(server.address, 111)


def test_only_allowed_sources_are_admitted(scene: Scene) -> None:
    base = scene.tenant.cidr.network_address
    server = scene.machine(scene.port(scene.tenant, "server", 2049, sources=(f"{base + 50}/32",)))
    server.listen(2049)
    assert scene.stranger(scene.tenant, 50).reaches(server.address, 2049)
    assert not scene.stranger(scene.tenant, 51, STRANGER_MAC).reaches(server.address, 2049)


def test_one_port_admits_different_sources_to_different_ports(scene: Scene) -> None:
    """Layout "router": SSH from the controller, NFS from the tenant, on one NIC."""
    base = scene.tenant.cidr.network_address
    spec = PortSpec(
        name=f"{scene.cloud.deployment}-both",
        subnet=scene.tenant,
        tags={},
        allowed_tcp=(22,),
        allowed_from=(ip_network(f"{base + 50}/32"),),
        also_allowed=(Admission(ports=(2049,), sources=(ip_network(f"{base + 51}/32"),)),),
    )
    server = scene.machine(scene.cloud.networks.ensure_port(spec, timeout=SECONDS))
    server.listen(22, 2049)
    first, second = scene.stranger(scene.tenant, 50), scene.stranger(scene.tenant, 51, STRANGER_MAC)
    assert first.reaches(server.address, 22)
    assert not first.reaches(server.address, 2049)
    assert second.reaches(server.address, 2049)
    assert not second.reaches(server.address, 22)


def test_the_server_may_open_connections_and_gets_answers(scene: Scene) -> None:
    server = scene.machine(scene.port(scene.tenant, "server", 2049))
    client = scene.stranger(scene.tenant, 50)
    client.listen(389)
    assert server.reaches(client.address, 389)


def test_a_server_that_only_answers_opens_nothing(scene: Scene) -> None:
    """As on the service network and the admin network, where other tenants' servers may be."""
    spec = PortSpec(
        name=f"{scene.cloud.deployment}-server", subnet=scene.tenant, tags={}, allowed_tcp=(2049,), outgoing=False
    )
    server = scene.machine(scene.cloud.networks.ensure_port(spec, timeout=SECONDS))
    server.listen(2049)
    other = scene.machine(scene.port(scene.tenant, "other", 2049))
    other.listen(2049)
    assert other.reaches(server.address, 2049)
    assert other.pings(server.address)
    assert not server.reaches(other.address, 2049)
    assert not server.pings(other.address)


def test_management_reaches_ssh_from_the_host_only(scene: Scene) -> None:
    subnet = scene.service()
    sources = tuple(str(source) for source in scene.cloud.networks.management_sources(subnet))
    server = scene.machine(scene.port(subnet, "a", 22, sources=sources))
    neighbour = scene.machine(scene.port(subnet, "b", 22, sources=sources))
    server.listen(22)
    assert host_reaches(server.address, 22)
    assert not neighbour.reaches(server.address, 22)


def test_nothing_of_the_host_is_open_to_machines(scene: Scene) -> None:
    subnet = scene.service()
    server = scene.machine(scene.port(subnet, "server", 22))
    client = scene.stranger(scene.tenant, 50)
    server.route(subnet.gateway)
    client.route(scene.tenant.gateway)
    assert client.pings(scene.tenant.gateway)
    process = subprocess.Popen([sys.executable, "-c", LISTEN, "28786"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        assert host_reaches(scene.tenant.gateway, 28786), "the listener works"
        for machine in (server, client):
            for address in (subnet.gateway, scene.tenant.gateway):
                assert not machine.reaches(address, 28786)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_tenants_do_not_reach_each_other_or_service_subnets(scene: Scene) -> None:
    other = make_network(scene.site, scene.cloud, "other").subnets[0]
    subnet = scene.service()
    mine = scene.machine(scene.port(scene.tenant, "mine", 2049))
    management = scene.machine(scene.port(subnet, "management", 22, 2049))
    stranger = scene.stranger(other, 50)
    for machine, gateway in ((mine, scene.tenant.gateway), (management, subnet.gateway), (stranger, other.gateway)):
        machine.route(gateway)
    mine.listen(2049)
    management.listen(22, 2049)
    assert stranger.pings(other.gateway)
    for target in (mine.address, management.address):
        assert not stranger.reaches(target, 2049)
        assert not stranger.pings(target)
    assert not mine.reaches(management.address, 22)
    assert not management.reaches(mine.address, 2049)


def test_a_routed_tenant_reaches_its_shares_only(scene: Scene) -> None:
    other = make_network(scene.site, scene.cloud, "other").subnets[0]
    subnet = scene.service(routed_to=scene.tenant)
    server = scene.machine(scene.port(subnet, "server", 22, 2049))
    server.route(subnet.gateway)
    server.listen(22, 2049)
    client = scene.stranger(scene.tenant, 50)
    client.route(scene.tenant.gateway)
    client.listen(8080)
    stranger = scene.stranger(other, 51, STRANGER_MAC)
    stranger.route(other.gateway)
    assert client.reaches(server.address, 2049)
    assert client.pings(server.address)
    assert not client.reaches(server.address, 22)
    assert not stranger.reaches(server.address, 2049)
    assert not stranger.pings(server.address)
    assert not server.reaches(client.address, 8080)


@pytest.mark.parametrize("trick", ["address", "mac", "arp", "dhcp", "none"])
def test_a_server_cannot_pretend_to_be_another(scene: Scene, trick: str) -> None:
    """Frames that a compromised server sends; "none" is the control: an honest frame does arrive."""
    port = scene.port(scene.tenant, "server", 2049)
    server = scene.machine(port)
    client = scene.stranger(scene.tenant, 50)
    base = scene.tenant.cidr.network_address
    victim, gateway = IPv4Address(int(base) + 77), IPv4Address(int(base) + 1)
    marker = b"sharewright-trick"
    own = ipv4(server.address, client.address, 17, udp(9, 9, marker))
    frame = {
        "none": ethernet(port.mac, client.mac, 0x0800, own),
        "address": ethernet(port.mac, client.mac, 0x0800, ipv4(victim, client.address, 17, udp(9, 9, marker))),
        "mac": ethernet("52:54:00:66:66:66", client.mac, 0x0800, own),
        "arp": ethernet(port.mac, EVERYBODY, 0x0806, arp(port.mac, gateway, gateway, answer=True)),
        "dhcp": ethernet(port.mac, client.mac, 0x0800, ipv4(server.address, client.address, 17, udp(67, 68, marker))),
    }[trick]
    captured = client.capture(2.0)
    server.send(frame)
    assert captured.stdout is not None
    seen = captured.stdout.read()
    if trick == "none":
        assert frame.hex() in seen
    else:
        assert frame.hex()[24:] not in seen


def test_a_syn_in_fragments_does_not_pass(scene: Scene) -> None:
    server = scene.machine(scene.port(scene.tenant, "server", 2049))
    client = scene.stranger(scene.tenant, 50)
    segment = tcp(40000, 22, 0x02)
    more = 0x2000
    frames = [
        ethernet(client.mac, server.mac, 0x0800, ipv4(client.address, server.address, 6, segment[:8], fragment=more)),
        ethernet(client.mac, server.mac, 0x0800, ipv4(client.address, server.address, 6, segment[8:], fragment=1)),
        ethernet(client.mac, server.mac, 0x0800, ipv4(client.address, server.address, 6, tcp(40000, 22, 0x02))),
    ]
    honest = ethernet(client.mac, server.mac, 0x0800, ipv4(client.address, server.address, 6, tcp(40000, 2049, 0x02)))
    captured = server.capture(2.0)
    client.send(*frames, honest)
    assert captured.stdout is not None
    seen = captured.stdout.read()
    assert honest.hex() in seen
    for frame in frames:
        assert frame.hex() not in seen


def test_unasked_udp_does_not_reach_a_server(scene: Scene) -> None:
    server = scene.machine(scene.port(scene.tenant, "server", 2049))
    client = scene.stranger(scene.tenant, 50)
    frame = ethernet(client.mac, server.mac, 0x0800, ipv4(client.address, server.address, 17, udp(9, 111, b"x" * 30)))
    captured = server.capture(1.5)
    client.send(frame)
    assert captured.stdout is not None
    assert frame.hex() not in captured.stdout.read()


def test_a_machine_with_dhcp_gets_its_pinned_address(scene: Scene, tmp_path: Path) -> None:
    """The whole exchange passes the filter: request and answer of the network's own DHCP server."""
    port = scene.port(scene.tenant, "server", 2049)
    server = scene.machine(port)
    client_id = bytes.fromhex("01") + bytes.fromhex(port.mac.replace(":", ""))
    options = b"\x63\x82\x53\x63" + b"\x35\x01\x01" + bytes([61, len(client_id)]) + client_id + b"\xff"
    hardware = bytes.fromhex(port.mac.replace(":", ""))
    message = b"\1\1\6\0" + b"\x0a\x0b\x0c\x0d" + b"\0\0\x80\0" + bytes(16) + hardware.ljust(16, b"\0") + bytes(192)
    discover = udp(68, 67, (message + options).ljust(300, b"\0"))
    nobody, everybody = IPv4Address("0.0.0.0"), IPv4Address("255.255.255.255")
    captured = server.capture(5.0)
    server.send(ethernet(port.mac, EVERYBODY, 0x0800, ipv4(nobody, everybody, 17, discover)))
    assert captured.stdout is not None
    offers = [frame for frame in captured.stdout.read().split() if "0a0b0c0d" in frame and frame[46:48] == "11"]
    assert any(port.address.packed.hex() in frame[2 * 58 : 2 * 62] for frame in offers), offers
