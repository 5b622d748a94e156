"""The layouts with an admin network, and subnets that come later, on a real OpenStack."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bed import Bed, TenantNetwork
from bed_machine import BedMachine, FurtherNetworks
from cloud_deployment import CloudDeployment
from stories_on_clouds.admin_network import AdminNetwork

pytestmark = pytest.mark.openstack


class TestAdminNetwork(AdminNetwork):
    @pytest.fixture(scope="class")
    def admin_client(self, bed: Bed, deployment: CloudDeployment, admin_network: TenantNetwork) -> Iterator[BedMachine]:
        with BedMachine(bed.sdk, admin_network.network_id, admin_network.subnet_id) as machine:
            yield machine

    @pytest.fixture
    def further(self, bed: Bed, deployment: CloudDeployment) -> FurtherNetworks:
        return FurtherNetworks(bed, deployment.account("red"))
