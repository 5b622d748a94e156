"""Things that break under us on a real OpenStack: VMs, ports, APIs, the controller."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from bed import Bed, Services
from cloud_deployment import CloudDeployment
from deployment import wait_for
from stories_on_clouds.failures import Failures
from stories_on_clouds.machines import service_instance, share_instance
from tenants import Shares

pytestmark = pytest.mark.openstack

OUTAGE_SECONDS = 5.0


class TestFailures(Failures):
    KILL_DELAYS = (0.5, 3.0)  # while the volume is made, while it is attached


class TestOutages:
    """An API that is away while an operation needs it delays that, and does nothing else. (It may take five seconds to
    end; so it is ended first, or a share would be there before its API is away.)"""

    @pytest.fixture(scope="class")
    def share(self, red: Shares) -> Iterator[str]:
        """It keeps the server there."""
        share = red.create("outages")
        red.wait(share)
        yield share
        red.delete(share)

    @pytest.mark.parametrize("service", ["cinder-api", "nova-api"])
    def test_in_a_create_and_in_a_delete(self, service: str, red: Shares, share: str, services: Services) -> None:
        with services.stopped(service):
            made = red.create(f"without-{service}")
            time.sleep(OUTAGE_SECONDS)
            assert red.api.get_share(made).status == "creating"
        red.wait(made)
        red.allow(made, red.tenant.client.address)
        red.tenant.client.mount(red.export(made), "/mnt/outage")
        red.tenant.client.run("echo there > /mnt/outage/file")
        red.tenant.client.unmount("/mnt/outage")
        with services.stopped(service):
            red.api.delete_share(made)
            time.sleep(OUTAGE_SECONDS)
            assert red.api.get_share(made).status == "deleting"
        red.wait_gone(made)

    def test_rules_need_no_cloud(self, red: Shares, share: str, services: Services) -> None:
        with services.stopped("nova-api"), services.stopped("cinder-api"):
            rule = red.allow(share, red.tenant.client.address)
            red.deny(rule, share)


@pytest.mark.parametrize("role", ["tenant", "service"])
def test_a_port_that_was_deleted_behind_our_back_comes_back(
    role: str, red: Shares, bed: Bed, deployment: CloudDeployment
) -> None:
    """With the same address; the VM gets it by being made again, and a hard mount goes on."""
    share = red.create(f"lost-{role}-port")
    red.wait(share)
    client = red.tenant.client
    red.allow(share, client.address)
    client.mount(red.export(share), "/mnt/port")
    client.run("echo before > /mnt/port/file && sync")
    server_id = str(share_instance(deployment, share).share_server_id)
    before = service_instance(deployment, server_id)
    port = next(each for each in before.ports if each["role"] == role)
    bed.sdk.network.delete_port(port["port_id"])
    wait_for("another port", lambda: _port(deployment, server_id, role)["port_id"] != port["port_id"], seconds=180)
    assert client.run("cat /mnt/port/file && echo after >> /mnt/port/file && sync", timeout=300) == "before\n"
    assert client.run("cat /mnt/port/file") == "before\nafter\n"
    after = service_instance(deployment, server_id)
    assert after.export_addresses == before.export_addresses
    assert after.management_address == before.management_address
    client.unmount("/mnt/port")
    red.delete(share)


def _port(deployment: CloudDeployment, server_id: str, role: str) -> dict[str, str]:
    return next(each for each in service_instance(deployment, server_id).ports if each["role"] == role)
