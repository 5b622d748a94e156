"""The layouts with an admin network: each side reaches what is for it, and nothing else; and subnets that come later,
each with a NIC of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Protocol

import pytest

from deployment import Deployment, wait_for
from probes import Target
from stories_on_clouds.machines import (
    Machines,
    addresses,
    admin_address,
    controllers,
    service_instance,
    share_instance,
)
from tenants import Shares

LAYOUTS = ("two_nics_admin", "one_nic_admin")  # share types, and backends
FURTHER = ("10.77.3.0/24", "fd00:77:4::/64")  # subnets that the red tenant's share network gets later


class Machine(Protocol):
    """One with one NIC, that is no virtual machine and costs nothing."""

    def opens(self, targets: Iterable[tuple[object, int]]) -> set[Target]: ...


class Further(Protocol):
    """Networks of the red tenant's that are made while a test runs, and machines on them."""

    def make(self, cidr: str) -> tuple[str, str]:
        """A network with one subnet; their ids."""
        ...

    def machine(self, network_id: str, subnet_id: str, cidr: str) -> AbstractContextManager[Machine]: ...


class AdminNetwork:
    """Fixtures: ``red``, ``blue``, ``deployment``, ``machines``, ``admin_client`` (a Machine on the admin network,
    which is no controller), ``further``."""

    @pytest.fixture(scope="class")
    def shares(self, red: Shares) -> Iterator[dict[str, str]]:
        """A share of the red tenant in each layout, open to every address there is; the servers boot side by side.
        Each has a share network of its own on the tenant's network, so that tests may change it."""
        networks = {
            layout: red.api.create_share_network(
                name=layout, neutron_net_id=red.tenant.network_id, neutron_subnet_id=red.tenant.subnet_id
            ).id
            for layout in LAYOUTS
        }
        own = {layout: Shares(replace(red.tenant, share_network_id=networks[layout])) for layout in LAYOUTS}
        made = {layout: own[layout].create(layout, share_type=layout) for layout in LAYOUTS}
        for share in made.values():
            red.wait(share)
            red.allow(share, "0.0.0.0/0")
        yield made
        for layout, share in made.items():
            red.delete(share)
            for later in list(red.api.share_network_subnets(networks[layout]))[1:]:
                red.api.delete_share_network_subnet(networks[layout], later.id)
            red.api.delete_share_network(networks[layout])

    @pytest.fixture(scope="class", params=LAYOUTS)
    def share(self, request: pytest.FixtureRequest, shares: dict[str, str]) -> str:
        return shares[request.param]

    def test_only_admins_see_the_admins_export_location(self, red: Shares, share: str, deployment: Deployment) -> None:
        (tenants,) = red.api.export_locations(share)
        _, exports = addresses(deployment, share)
        assert tenants.path.startswith(f"{exports[0]}:/")
        with deployment.sdk("admin") as sdk:
            seen = {each.path: each.is_admin for each in sdk.shared_file_system.export_locations(share)}
        directory = tenants.path.partition(":")[2]
        assert seen == {tenants.path: False, f"{admin_address(deployment, share)}:{directory}": True}

    def test_the_tenants_client_writes_on_its_own_side(self, red: Shares, share: str) -> None:
        client = red.tenant.client
        client.mount(red.export(share), "/mnt/own")
        client.run("echo mine > /mnt/own/file && sync")
        client.unmount("/mnt/own")

    def test_admins_reach_the_share_and_nothing_else(
        self, share: str, deployment: Deployment, admin_client: Machine
    ) -> None:
        address = admin_address(deployment, share)
        assert admin_client.opens((address, port) for port in (2049, 22, 111, 445)) == {(address, 2049)}

    def test_no_tenant_reaches_the_admins_side(
        self, red: Shares, blue: Shares, share: str, deployment: Deployment
    ) -> None:
        management, exports = addresses(deployment, share)
        admins = admin_address(deployment, share)
        doors = {(address, 22) for address in (admins, management, *exports)} | {(admins, 2049)}
        doors |= {(address, port) for address in controllers(deployment, share) for port in (22, deployment.port)}
        assert red.client.opens(doors) == set()
        assert blue.client.opens({*doors, (exports[0], 2049)}) == set()

    def test_subnets_that_come_later(
        self,
        red: Shares,
        blue: Shares,
        shares: dict[str, str],
        deployment: Deployment,
        machines: Machines,
        admin_client: Machine,
        further: Further,
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
            neighbours: dict[str, Machine] = {}
            for cidr in FURTHER:
                place = further.make(cidr)
                self._add_subnet(deployment, red, share, place)
                neighbours[cidr] = stack.enter_context(further.machine(*place, cidr))
            after = service_instance(deployment, server)
            assert (after.instance_id, after.export_addresses[0]) == (before.instance_id, before.export_addresses[0])
            client.run("echo after >> /mnt/later/file && sync && test $(wc -l < /mnt/later/file) = 2")
            self._check_sides(deployment, share, neighbours, blue)
            self.check_rules(red, share, after.export_addresses[-1], neighbours[FURTHER[-1]])
            deployment.kill()
            machines.reset(server)
            last, address = neighbours[FURTHER[-1]], after.export_addresses[-1]
            wait_for("the shares after the power cut", lambda: last.opens([(address, 2049)]), seconds=240)
            self._check_sides(deployment, share, neighbours, blue)
            client.run("test $(wc -l < /mnt/later/file) = 2", timeout=300)
            client.unmount("/mnt/later")
            deployment.start()
            assert admin_client.opens([(admin_address(deployment, share), 2049)])

    def check_rules(self, red: Shares, share: str, server: str, neighbour: Machine) -> None:
        """Of what is open to a neighbour by IPv6; for a cloud whose machines may take further addresses."""

    def _add_subnet(self, deployment: Deployment, red: Shares, share: str, place: tuple[str, str]) -> None:
        """Returns when the share's server is there."""
        network = red.api.get_share(share).share_network_id
        body = {"neutron_net_id": place[0], "neutron_subnet_id": place[1]}
        with deployment.sdk("red", "2.70") as sdk:
            api = sdk.shared_file_system
            asked = {"share_network_subnet_create_check": body}
            answer = api.post(f"/share-networks/{network}/action", json=asked, raise_exc=True).json()
            assert answer == {"compatible": True}
            api.post(f"/share-networks/{network}/subnets", json={"share-network-subnet": body}, raise_exc=True)

            def status() -> str:
                shown = api.get(f"/share-networks/{network}", raise_exc=True).json()
                return str(shown["share_network"]["status"])

            wait_for("the share network to be active again", lambda: status() == "active", seconds=240)

    def _check_sides(self, deployment: Deployment, share: str, neighbours: dict[str, Machine], blue: Shares) -> None:
        """Each neighbour reaches the share on its own subnet, and nothing else of the server."""
        _, exports = addresses(deployment, share)
        assert len(exports) == 1 + len(neighbours)
        own = {cidr: next(each for each in exports if ip_address(each) in ip_network(cidr)) for cidr in neighbours}
        admins = admin_address(deployment, share)
        for cidr, neighbour in neighbours.items():
            tried = {(own[cidr], port) for port in (22, 111, 445)} | {(each, 2049) for each in (*exports, admins)}
            assert neighbour.opens(tried) == {(own[cidr], 2049)}, cidr
        assert blue.client.opens((address, 2049) for address in own.values()) == set()
