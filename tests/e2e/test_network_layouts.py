"""The layouts with an admin network on libvirt, where every packet can be looked at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address, ip_network

import pytest

from deployment import Deployment
from namespaces import Namespace, capture_on
from nfs_levels import levels
from probes import Target
from sharewright.clouds.libvirt.layout import Layout
from sharewright.clouds.libvirt.network_documents import first_subnet_id
from sharewright.configuration_file import load
from sharewright.identifiers import short_hash
from stories_on_clouds.admin_network import AdminNetwork
from stories_on_clouds.machines import addresses, admin_address
from tenants import Shares

ADMIN_MAC, LIAR_MAC = "52:54:00:ab:00:01", "52:54:00:ab:00:02"


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


class FurtherNetworks:
    """Networks of the red tenant's that are made while a test runs, and machines on them."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._macs = (f"52:54:00:ab:00:{number:02x}" for number in range(3, 256))

    def make(self, cidr: str) -> tuple[str, str]:
        name = f"swtest-red-{short_hash(cidr)}"
        made = self._deployment.command("network", "create", name, cidr, "--project", "red", "--id-only").strip()
        return made, first_subnet_id(made)

    @contextmanager
    def machine(self, network_id: str, subnet_id: str, cidr: str) -> Iterator[NamespaceClient]:
        client = NamespaceClient(self._deployment, network_id, cidr, next(self._macs))
        with client.namespace:
            yield client


@pytest.mark.e2e
class TestAdminNetwork(AdminNetwork):
    @pytest.fixture(scope="class")
    def admin_client(self, deployment: Deployment, admin_network: tuple[str, str]) -> Iterator[NamespaceClient]:
        client = NamespaceClient(deployment, *admin_network, ADMIN_MAC)
        with client.namespace:
            yield client

    @pytest.fixture
    def further(self, deployment: Deployment) -> FurtherNetworks:
        return FurtherNetworks(deployment)

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

    def check_rules(self, red: Shares, share: str, server: str, neighbour: NamespaceClient) -> None:  # type: ignore[override]
        """Rules for IPv6 on a real kernel: one address, a network, everybody, what overlaps, and a change in place."""
        one, inside, outside = "fd00:77:4::a:1", "fd00:77:4::b:1", "fd00:77:4::c:1"
        for address in (one, inside, outside):
            neighbour.namespace.ip("address", "add", f"{address}/64", "dev", "eth0", "nodad")
        path = red.export(share).partition(":/")[2]

        def seen() -> tuple[str, str, str]:
            found = levels(neighbour.namespace, server, path, (one, inside, outside))
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
