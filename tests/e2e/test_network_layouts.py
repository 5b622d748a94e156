"""The layouts with an admin network on libvirt, where every packet can be looked at; and a NIC that comes later."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address, ip_address, ip_network

import pytest

from deployment import Deployment, wait_for
from namespaces import Namespace, capture_on
from nfs_levels import levels
from probes import Target
from sharewright.clouds.libvirt.layout import Layout
from sharewright.clouds.libvirt.network_documents import first_subnet_id
from sharewright.settings import load
from stories_on_clouds.admin_network import AdminNetwork
from stories_on_clouds.machines import Machines, addresses, admin_address, service_instance, share_instance
from tenants import Shares

ADMIN_MAC, LIAR_MAC = "52:54:00:ab:00:01", "52:54:00:ab:00:02"
FURTHER = {"10.77.3.0/24": "52:54:00:ab:00:03", "fd00:77:4::/64": "52:54:00:ab:00:04"}


def bridge_of(deployment: Deployment, network_id: str) -> str:
    return Layout(load(deployment.config).deployment, deployment.state_dir).bridge(network_id)


class NamespaceClient:
    """A machine without a port of ours, on the bridge of a network."""

    def __init__(self, deployment: Deployment, network_id: str, cidr: str, mac: str) -> None:
        self.cidr = ip_network(cidr)
        self.bridge = bridge_of(deployment, network_id)
        self.namespace = Namespace(mac, self.bridge, f"swe{mac[-2:]}", mac, self.cidr[200], self.cidr.prefixlen)

    def opens(self, targets: Iterable[tuple[object, int]]) -> set[Target]:
        return self.namespace.connects_to(targets)


@pytest.mark.e2e
class TestAdminNetwork(AdminNetwork):
    @pytest.fixture(scope="class")
    def admin_client(self, deployment: Deployment, admin_network: tuple[str, str]) -> Iterator[NamespaceClient]:
        client = NamespaceClient(deployment, *admin_network, ADMIN_MAC)
        with client.namespace:
            yield client

    def test_answers_leave_by_the_nic_that_was_asked(
        self, red: Shares, shares: dict[str, str], deployment: Deployment, admin_client: NamespaceClient
    ) -> None:
        """A machine of the tenant's asks with an address of the admin network's: by the main routing table the answer
        would leave by the admin NIC. And the other way round."""
        share = shares["two_nics_admin"]
        with ExitStack() as stack:
            liar = NamespaceClient(deployment, red.tenant.network_id, red.tenant.cidr, LIAR_MAC)
            stack.enter_context(liar.namespace)
            sides = (
                (liar, addresses(deployment, share)[1][0], admin_client),
                (admin_client, admin_address(deployment, share), liar),
            )
            for asking, address, other in sides:
                foreign = other.cidr[201]
                asking.namespace.ip("address", "add", f"{foreign}/32", "dev", "eth0")
                there, here = other.namespace.capture(5.0), capture_on(asking.bridge, 5.0)
                assert asking.namespace.opens(address, 2049), "with its own address it is answered"
                assert not asking.namespace.opens(address, 2049, source=foreign), "the gateway routes to nobody"
                assert foreign.packed.hex() not in there.communicate()[0], "not even asked for by ARP"
                answer = IPv4Address(address).packed + foreign.packed  # as they are in an IPv4 header
                assert answer.hex() in here.communicate()[0], "the answer went to the gateway of the side that asked"

    def test_subnets_that_come_later(
        self,
        red: Shares,
        blue: Shares,
        shares: dict[str, str],
        deployment: Deployment,
        machines: Machines,
        admin_client: NamespaceClient,
    ) -> None:
        """The server gets a NIC on each while a client works, one of IPv4 and one of IPv6; and it has them after a
        power cut, with no controller."""
        share = shares["two_nics_admin"]
        server = str(share_instance(deployment, share).share_server_id)
        before = service_instance(deployment, server)
        client = red.tenant.client
        client.mount(red.export(share), "/mnt/later")
        client.run("echo before > /mnt/later/file && sync")
        with ExitStack() as stack:
            neighbours = {
                cidr: stack.enter_context(self._add_subnet(deployment, red, share, cidr, mac))
                for cidr, mac in FURTHER.items()
            }
            after = service_instance(deployment, server)
            assert (after.instance_id, after.export_addresses[0]) == (before.instance_id, before.export_addresses[0])
            client.run("echo after >> /mnt/later/file && sync && test $(wc -l < /mnt/later/file) = 2")
            self._check_sides(deployment, share, neighbours, blue)
            self._check_levels(red, share, after.export_addresses[-1], neighbours["fd00:77:4::/64"])
            deployment.kill()
            machines.reset(server)
            last, address = list(neighbours.values())[-1], after.export_addresses[-1]
            wait_for("the shares after the power cut", lambda: last.opens(address, 2049), seconds=120)
            self._check_sides(deployment, share, neighbours, blue)
            client.run("test $(wc -l < /mnt/later/file) = 2")
            client.unmount("/mnt/later")
            deployment.start()
            assert admin_client.opens([(admin_address(deployment, share), 2049)])

    def _add_subnet(self, deployment: Deployment, red: Shares, share: str, cidr: str, mac: str) -> Namespace:
        """Returns a machine there, when the share's server is there too."""
        network = red.api.get_share(share).share_network_id
        name = f"swtest-red-{mac[-2:]}"
        further = deployment.command("network", "create", name, cidr, "--project", "red", "--id-only").strip()
        body = {"neutron_net_id": further, "neutron_subnet_id": first_subnet_id(further)}
        with deployment.sdk("red", "2.70") as sdk:
            api = sdk.shared_file_system
            asked = {"share_network_subnet_create_check": body}
            answer = api.post(f"/share-networks/{network}/action", json=asked, raise_exc=True).json()
            assert answer == {"compatible": True}
            api.post(f"/share-networks/{network}/subnets", json={"share-network-subnet": body}, raise_exc=True)

            def status() -> str:
                shown = api.get(f"/share-networks/{network}", raise_exc=True).json()
                return str(shown["share_network"]["status"])

            wait_for("the share network to be active again", lambda: status() == "active", seconds=120)
        return NamespaceClient(deployment, further, cidr, mac).namespace

    def _check_levels(self, red: Shares, share: str, server: str, neighbour: Namespace) -> None:
        """Rules for IPv6 on a real kernel: one address, a network, everybody, what overlaps, and a change in place."""
        one, inside, outside = "fd00:77:4::a:1", "fd00:77:4::b:1", "fd00:77:4::c:1"
        for address in (one, inside, outside):
            neighbour.ip("address", "add", f"{address}/64", "dev", "eth0", "nodad")
        path = red.export(share).partition(":/")[2]

        def seen() -> tuple[str, str, str]:
            found = levels(neighbour, server, path, (one, inside, outside))
            return found[one], found[inside], found[outside]

        assert seen() == ("none", "none", "none"), "0.0.0.0/0 is everybody of IPv4"
        single = red.allow(share, one, "ro")
        assert seen() == ("ro", "none", "none")
        network = red.allow(share, "fd00:77:4::b:0/112")
        assert seen() == ("ro", "rw", "none")
        everybody = red.allow(share, "::/0", "ro")
        assert seen() == ("ro", "rw", "ro"), "the narrower rule wins"
        red.api.delete_access_rule(single, share)
        single = red.allow(share, one)
        assert seen() == ("rw", "rw", "ro"), "denied and added again with another level"
        red.deny(everybody, share)
        assert seen() == ("rw", "rw", "none")
        for rule in (single, network):
            red.deny(rule, share)
        assert seen() == ("none", "none", "none")

    def _check_sides(self, deployment: Deployment, share: str, neighbours: dict[str, Namespace], blue: Shares) -> None:
        """Each neighbour reaches the share on its own subnet, and nothing else of the server."""
        _, exports = addresses(deployment, share)
        assert len(exports) == 1 + len(neighbours)
        own = {cidr: next(each for each in exports if ip_address(each) in ip_network(cidr)) for cidr in neighbours}
        admins = admin_address(deployment, share)
        for cidr, neighbour in neighbours.items():
            tried = {(own[cidr], port) for port in (22, 111, 445)} | {(each, 2049) for each in (*exports, admins)}
            assert neighbour.connects_to(tried) == {(own[cidr], 2049)}, cidr
        assert blue.client.opens((address, 2049) for address in own.values()) == set()
