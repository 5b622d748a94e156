"""Neutron with real packets: namespaces take the places of share servers and clients, the host is the controller.

A namespace's end of a virtual Ethernet pair is named as the Linux bridge agent expects it for a port bound to this
host; the agent puts it on the network's bridge with the port's filter.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from ipaddress import IPv4Address, ip_network
from types import TracebackType
from typing import Any

import msgspec
import pytest
from cloud_sites import SECONDS, OpenStackSite, TestBed, make_network, smaller

from namespaces import CAPTURE, CONNECT, LISTEN, Namespace, ip
from sharewright.clouds.contract import Admission, Port, PortSpec, Route, ServiceSubnetSpec, Subnet
from sharewright.clouds.openstack.cloud import OpenStackCloud
from sharewright.progress import NoProgress

pytestmark = pytest.mark.openstack
HOST = "testbed"  # the test bed's name for this host
PATIENCE = 90.0  # for agents, which work after the API's answer


def eventually(holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(1.0)
    return True


class Machine(Namespace):
    """What the port is for, in place of the virtual machine."""

    def __init__(self, bed: TestBed, port: Port) -> None:
        assert isinstance(port.address, IPv4Address)
        end = f"tap{port.id[:11]}"
        self._begin(port.mac, port.address, end)
        self._network, self._port_id = bed.sdk.network, port.id
        # An owner that begins with "compute:" would let the agent wait for Nova.
        self._network.update_port(port.id, binding_host_id=HOST, device_owner="tests:machine", device_id=end)
        inside = ("netns", self._network_namespace.pid)
        peer = ("peer", "name", "eth0", "address", port.mac, "mtu", port.subnet.mtu, *inside)
        ip("link", "add", end, "type", "veth", *peer)
        ip("link", "set", end, "mtu", port.subnet.mtu, "up")
        self.ip("address", "add", f"{port.address}/{port.subnet.cidr.prefixlen}", "dev", "eth0")
        self.ip("link", "set", "lo", "up")
        self.ip("link", "set", "eth0", "up")
        for route in port.subnet.routes:
            self.follow(route)
        assert eventually(lambda: self._network.get_port(port.id).status == "ACTIVE")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._network.update_port(self._port_id, device_owner="", device_id="")

    def follow(self, route: Route) -> None:
        self.ip("route", "add", route.destination, "via", route.gateway)


class Scene:
    """One deployment, and whoever a test puts on its networks."""

    def __init__(self, bed: TestBed, stack: ExitStack, **settings: Any) -> None:
        self.bed, self.stack = bed, stack
        self.site = OpenStackSite(bed)
        self.cloud = self.open(**settings)
        stack.callback(self.cloud.purge, NoProgress())
        self._numbers = iter(range(1000))

    def open(self, **settings: Any) -> OpenStackCloud:
        cloud = OpenStackCloud(msgspec.structs.replace(self.bed.settings, **settings), deployment=self.site.name)
        self.stack.callback(cloud.close)
        return cloud

    def tenant(self, name: str = "tenant", *, router: bool = False) -> Subnet:
        subnet = make_network(self.site, self.cloud, name).subnets[0]
        if router:
            made = self.bed.sdk.network.create_router(name=f"{self.site.name}-{name}")
            self.bed.sdk.network.add_interface_to_router(made.id, subnet.id)
            self.stack.callback(self._remove_router, made.id, subnet.id)
        return subnet

    def _remove_router(self, router_id: str, subnet_id: str) -> None:
        # What was made later (machines, service subnets) is gone or goes by itself.
        self.bed.sdk.network.update_router(router_id, routes=[])
        for port in self.bed.sdk.network.ports(device_id=router_id):
            self.bed.sdk.network.remove_interface_from_router(router_id, None, port.id)
        self.bed.sdk.network.delete_router(router_id)

    def service(self, *, routed_to: Subnet | None = None) -> Subnet:
        name = f"{self.site.name}-service-{next(self._numbers)}"
        ports = (2049,) if routed_to else ()
        spec = ServiceSubnetSpec(
            name=name, cidr=smaller(self.site.cidr()), tags={}, routed_to=routed_to, tenant_ports=ports
        )
        return self.cloud.networks.ensure_service_subnet(spec, timeout=SECONDS)

    def port(self, subnet: Subnet, *allowed: int, outgoing: bool = True, **more: Any) -> Port:
        name = f"{self.site.name}-{next(self._numbers)}"
        spec = PortSpec(name=name, subnet=subnet, tags={}, allowed_tcp=allowed, outgoing=outgoing, **more)
        return self.cloud.networks.ensure_port(spec, timeout=SECONDS)

    def service_port(self, subnet: Subnet, *clients: Admission) -> Port:
        sources = self.cloud.networks.management_sources(subnet)
        return self.port(subnet, 22, outgoing=False, allowed_from=sources, also_allowed=clients)

    def machine(self, port: Port) -> Machine:
        machine = Machine(self.bed, port)
        self.stack.enter_context(machine)
        return machine

    def client(self, subnet: Subnet, *, gateway: bool = False) -> Machine:
        """A machine of the tenant's own, with a filter that lets everything in."""
        machine = self.machine(self.port(subnet, 22, 2049, 8080))
        if gateway:
            machine.route(subnet.gateway)
        return machine

    def route_to(self, subnet: Subnet) -> None:
        """The operator's route from the controllers to the service network."""
        router = self.bed.sdk.network.get_router(self.bed.router.id)
        outside = router.external_gateway_info["external_fixed_ips"][0]["ip_address"]
        ip("route", "add", subnet.cidr, "via", outside)
        self.stack.callback(ip, "route", "delete", subnet.cidr)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def scene(test_bed: TestBed, stack: ExitStack) -> Scene:
    return Scene(test_bed, stack)


def host_reaches(address: object, port: int) -> bool:
    command = [sys.executable, "-c", CONNECT, str(address), str(port), "2"]
    return subprocess.run(command, check=False).returncode == 0


def test_routed_controllers_reach_ssh_and_nothing_else(scene: Scene) -> None:
    scene.cloud.check()
    subnet = scene.service()
    port = scene.service_port(subnet)
    server = scene.machine(port)
    neighbour = scene.machine(scene.port(subnet))
    server.listen(22, 2049)
    scene.route_to(subnet)
    address = scene.cloud.networks.ensure_reachable(port, timeout=SECONDS)
    assert eventually(lambda: host_reaches(address, 22))
    assert not host_reaches(address, 2049)
    assert neighbour.pings(server.address)
    assert not neighbour.reaches(server.address, 22)


def test_a_floating_address_leads_to_ssh(test_bed: TestBed, stack: ExitStack) -> None:
    scene = Scene(test_bed, stack, management="floating")
    scene.cloud.check()
    subnet = scene.service()
    port = scene.service_port(subnet)
    server = scene.machine(port)
    server.listen(22)
    address = scene.cloud.networks.ensure_reachable(port, timeout=SECONDS)
    assert address in ip_network("10.253.0.0/24")
    assert eventually(lambda: host_reaches(address, 22))
    stack.pop_all().close()
    assert not list(test_bed.sdk.network.ips(floating_ip_address=str(address)))


def test_a_host_port_leads_to_ssh(test_bed: TestBed, stack: ExitStack) -> None:
    scene = Scene(test_bed, stack, management="host_port", management_host=HOST)
    scene.cloud.check()
    subnet = scene.service()
    port = scene.service_port(subnet)
    server = scene.machine(port)
    server.listen(22, 2049)
    address = scene.cloud.networks.ensure_reachable(port, timeout=SECONDS)
    assert eventually(lambda: host_reaches(address, 22))
    assert not host_reaches(address, 2049)
    device = next(line for line in links() if line.startswith("swm"))
    ip("link", "delete", device)  # as a restart of the host would
    scene.open(management="host_port", management_host=HOST).networks.repair()
    assert eventually(lambda: host_reaches(address, 22))
    lost = next(iter(test_bed.sdk.network.ports(network_id=subnet.network_id, device_owner="sharewright:host")))
    test_bed.sdk.network.delete_port(lost.id)
    scene.cloud.check()
    assert eventually(lambda: host_reaches(address, 22))
    assert device not in links()
    assert scene.cloud.networks.management_sources(subnet) == (subnet.cidr,)
    stack.pop_all().close()
    assert not [line for line in links() if line.startswith("swm")]


def links() -> list[str]:
    shown = subprocess.run(["ip", "-brief", "link"], check=True, capture_output=True, text=True).stdout
    return [line.split()[0].split("@")[0] for line in shown.splitlines()]


def test_clients_reach_the_share_and_nothing_else(scene: Scene) -> None:
    tenant = scene.tenant()
    server = scene.machine(scene.port(tenant, 2049))
    client = scene.client(tenant)
    server.listen(22, 111, 2049)
    client.listen(8080)
    assert eventually(lambda: client.reaches(server.address, 2049))
    assert client.pings(server.address)
    assert not client.reaches(server.address, 22)
    assert not client.reaches(server.address, 111)
    assert server.reaches(client.address, 8080), "directory services, callbacks"


def test_a_service_nic_opens_no_connections(scene: Scene) -> None:
    subnet = scene.service()
    server = scene.machine(scene.service_port(subnet))
    other = scene.machine(scene.port(subnet, 8080))
    other.listen(8080)
    honest = scene.machine(scene.port(subnet))
    assert eventually(lambda: honest.reaches(other.address, 8080)), "the listener works"
    assert not server.reaches(other.address, 8080)


def test_a_server_cannot_pretend_to_be_another(scene: Scene) -> None:
    tenant = scene.tenant()
    server, client = scene.machine(scene.port(tenant, 2049)), scene.client(tenant)
    client.listen(8080)
    assert eventually(lambda: server.reaches(client.address, 8080))
    length = tenant.cidr.prefixlen
    server.ip("address", "replace", f"{tenant.cidr.network_address + 77}/{length}", "dev", "eth0")
    server.ip("address", "delete", f"{server.address}/{length}", "dev", "eth0")
    assert not server.reaches(client.address, 8080)
    server.ip("address", "flush", "dev", "eth0")
    server.ip("address", "add", f"{server.address}/{length}", "dev", "eth0")
    server.ip("link", "set", "eth0", "address", "52:54:00:66:66:66")
    assert not server.reaches(client.address, 8080)
    server.ip("link", "set", "eth0", "address", server.mac)
    assert eventually(lambda: server.reaches(client.address, 8080)), "honest again"


def test_a_routed_tenant_reaches_its_shares_only(scene: Scene) -> None:
    tenant, other = scene.tenant("one", router=True), scene.tenant("two", router=True)
    subnet = scene.service(routed_to=tenant)
    port = scene.service_port(subnet, Admission(ports=(2049,), sources=(tenant.cidr,)))
    server = scene.machine(port)
    server.route(subnet.gateway)
    server.listen(22, 2049)
    client, stranger = scene.client(tenant, gateway=True), scene.client(other, gateway=True)
    client.listen(8080)
    scene.route_to(subnet)
    assert eventually(lambda: client.reaches(server.address, 2049))
    assert client.pings(server.address)
    assert not client.reaches(server.address, 22)
    assert not server.reaches(client.address, 8080)
    assert not stranger.reaches(server.address, 2049)
    assert eventually(lambda: host_reaches(server.address, 22)), "by the management router, past the tenant's"
    assert not host_reaches(server.address, 2049)


def arrive(source: object) -> bool:
    """Whether packets with this source are seen on the controllers' network within a few seconds."""
    process = subprocess.Popen([sys.executable, "-c", CAPTURE, "br-pub", "6"], stdout=subprocess.PIPE, text=True)
    assert isinstance(source, IPv4Address)
    assert process.stdout is not None
    frames = process.stdout.read().split()
    return any(frame[24:28] == "0800" and frame[52:60] == source.packed.hex() for frame in frames)


def test_a_tenants_static_route_over_the_management_router_brings_nothing_back(scene: Scene) -> None:
    """The tenant's router and ours are both on the service subnet. The tenant can send over ours, blindly."""
    tenant = scene.tenant("one", router=True)
    victim = scene.tenant("two", router=True)
    mine, theirs = scene.service(routed_to=tenant), scene.service(routed_to=victim)
    ours = mine.routes[0].gateway
    sdk = scene.bed.sdk.network
    router = next(iter(sdk.ports(network_id=tenant.network_id, device_owner="network:router_interface"))).device_id
    routes = [{"destination": str(to), "nexthop": str(ours)} for to in ("10.253.0.0/24", theirs.cidr)]
    sdk.update_router(router, routes=routes)
    client = scene.client(tenant, gateway=True)
    # Worst case: the other tenant has the same addresses, so that his filter fits the attacker's.
    server = scene.machine(scene.service_port(theirs, Admission(ports=(2049,), sources=(tenant.cidr,))))
    server.route(theirs.gateway)
    server.listen(22, 2049)
    process = subprocess.Popen([sys.executable, "-c", LISTEN, "28786"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        assert host_reaches("10.253.0.1", 28786), "the listener works"
        with ThreadPoolExecutor(1) as pool:
            seen = pool.submit(arrive, client.address)
            while not seen.done():
                assert not client.reaches("10.253.0.1", 28786)
        assert seen.result(), "the way there exists"
        for target, number in (("10.253.0.1", 28786), (server.address, 2049), (server.address, 22)):
            assert not client.reaches(target, number, seconds=4)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
