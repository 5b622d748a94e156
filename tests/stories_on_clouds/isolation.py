"""Tenants are hostile to each other and to us."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from client_vm import CommandFailed
from deployment import Deployment, wait_for
from stories_on_clouds.machines import addresses, controllers
from tenants import Shares

SOFT = "vers=4.2,soft,timeo=30,retrans=1"


class Isolation:
    """Fixtures: ``red``, ``blue``, ``deployment``."""

    @pytest.fixture(scope="class")
    def share(self, red: Shares) -> Iterator[str]:
        """A share of the red tenant, open to every address there is."""
        share_id = red.create("open-to-everyone")
        red.wait(share_id)
        red.allow(share_id, "0.0.0.0/0")
        yield share_id
        red.delete(share_id)

    @pytest.fixture(scope="class")
    def routed_share(self, red: Shares) -> Iterator[str]:
        """The same, behind the tenant's router."""
        share_id = red.create("open-to-everyone-routed", share_type="one_nic")
        red.wait(share_id)
        red.allow(share_id, "0.0.0.0/0")
        yield share_id
        red.delete(share_id)

    @pytest.fixture(params=["share", "routed_share"])
    def either(self, request: pytest.FixtureRequest) -> str:
        """A share in each layout; admin_network.py has the layouts with an admin network."""
        return str(request.getfixturevalue(request.param))

    def test_own_client_reaches_nfs_and_nothing_else(self, red: Shares, either: str, deployment: Deployment) -> None:
        management, exports = addresses(deployment, either)
        client = red.tenant.client
        tried = {(exports[0], port) for port in (2049, 22, 111, 20048, 445)} | {(management, 22), (management, 2049)}
        # Where there is one NIC the two addresses are one.
        assert client.opens(tried) == {(exports[0], 2049)}

    def test_other_tenant_reaches_nothing(self, red: Shares, blue: Shares, either: str, deployment: Deployment) -> None:
        management, exports = addresses(deployment, either)
        client = blue.tenant.client
        there = (management, *exports, red.tenant.client.address)
        assert client.opens((address, port) for address in there for port in (22, 2049)) == set()
        with pytest.raises(CommandFailed):
            client.mount(red.export(either), "/mnt/stolen", options=SOFT, seconds=15)

    def test_no_tenant_reaches_the_controllers_side(
        self, red: Shares, blue: Shares, either: str, deployment: Deployment
    ) -> None:
        for shares in (red, blue):
            doors = [(address, port) for address in controllers(deployment, either) for port in (22, deployment.port)]
            assert shares.client.opens(doors) == set(), shares.tenant.name

    def test_other_tenant_does_not_see_the_share(self, red: Shares, blue: Shares, share: str) -> None:
        assert share not in {found.id for found in blue.api.shares()}
        assert blue.api.find_share(share, ignore_missing=True) is None

    def test_no_share_server_in_another_tenants_network(self, red: Shares, blue: Shares) -> None:
        """Ids are no secrets: naming the red network does not get the blue tenant into it."""
        theirs = red.tenant
        network = blue.api.create_share_network(
            name="spy", neutron_net_id=theirs.network_id, neutron_subnet_id=theirs.subnet_id
        )
        share = blue.api.create_share(
            name="spy", share_protocol="NFS", size=1, share_type="two_nics", share_network_id=network.id
        )
        wait_for("error", lambda: blue.api.get_share(share.id).status == "error", seconds=60)
        texts = [m.user_message for m in blue.api.user_messages() if m.resource_id == share.id]
        assert any("not for this project" in text for text in texts), texts
        blue.delete(share.id)
        blue.api.delete_share_network(network.id)

    def test_both_tenants_work_side_by_side(
        self, red: Shares, blue: Shares, share: str, deployment: Deployment
    ) -> None:
        other = blue.create("blue")
        blue.wait(other)
        admin = deployment.sdk("admin").shared_file_system
        assert admin.get_share(other).share_server_id != admin.get_share(share).share_server_id
        blue.allow(other, blue.tenant.client.address)
        blue.tenant.client.mount(blue.export(other), "/mnt/blue")
        blue.tenant.client.run("echo blue > /mnt/blue/file")
        blue.tenant.client.unmount("/mnt/blue")
        blue.delete(other)
