"""The layouts with an admin network: each side reaches what is for it, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Protocol

import pytest

from deployment import Deployment
from probes import Target
from stories_on_clouds.machines import addresses, admin_address, controllers
from tenants import Shares

LAYOUTS = ("two_nics_admin", "one_nic_admin")  # share types, and backends


class AdminClient(Protocol):
    """A machine of the operator's on the admin network, which is no controller."""

    def opens(self, targets: Iterable[tuple[object, int]]) -> set[Target]: ...


class AdminNetwork:
    """Fixtures: ``red``, ``blue``, ``deployment``, ``admin_client``."""

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
        self, share: str, deployment: Deployment, admin_client: AdminClient
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
