"""Layout (a): one NIC on the service network, reached by the tenant through a router."""

from __future__ import annotations

import pytest

from deployment import Deployment
from tenants import Shares
from test_isolation import addresses

pytestmark = pytest.mark.e2e


def test_share_behind_a_router(red: Shares, blue: Shares, deployment: Deployment) -> None:
    share = red.create("routed", share_type="one_nic")
    red.wait(share)
    client = red.tenant.client
    red.allow(share, client.address)
    management, exports = addresses(deployment, share)
    assert exports == [management]
    client.mount(red.export(share), "/mnt/routed")
    client.run("echo routed > /mnt/routed/file && sync")
    client.unmount("/mnt/routed")
    client.mount(red.export(share), "/mnt/routed")
    assert client.run("cat /mnt/routed/file") == "routed\n"
    client.unmount("/mnt/routed")
    assert not client.can_connect(management, 22)
    assert not blue.tenant.client.can_connect(management, 2049)
    red.delete(share)
